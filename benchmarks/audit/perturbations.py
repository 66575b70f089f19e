"""What the trust suite does to clips: operations of `wav2small.operations`, and how strong.

A perturbation takes a signal, float32 (samples,) at 16 kHz in -1..1, and a random generator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wav2small.operations import (
    append_zeros,
    babble,
    background,
    clip,
    crop_beginning,
    crop_end,
    dropouts,
    event,
    gain,
    highpass,
    level,
    lowpass,
    phone,
    pink_noise,
    prepend_zeros,
    room,
    tilt,
    tone,
    white_noise,
)

Perturbation = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Condition:
    """One way in which a clip is changed.

    Attributes:
        name: unique
        function: perturbation
        choices: settings, one of which is drawn for each clip
        resource: name of a keyword that is filled from the audit's resources, such as "noises"
        source: name of that resource, such as "backgrounds"
    """

    name: str
    function: Perturbation
    choices: tuple[Mapping[str, Any], ...] = ({},)
    resource: str | None = None
    source: str | None = None

    def apply(self, signal: np.ndarray, seed: Sequence[int], resources: Resources) -> np.ndarray:
        """The changed clip; the same seed changes it in the same way.

        What stands after an @ in the name is a strength: the points of a curve share their noise.
        """
        rng = np.random.default_rng([*seed, *self.name.split("@")[0].encode()])
        settings = dict(self.choices[rng.integers(len(self.choices))])
        if self.resource and self.source:
            settings[self.resource] = resources[self.source]
        return np.ascontiguousarray(self.function(signal, rng, **settings), dtype=np.float32)


def _each(**values: Sequence[Any]) -> tuple[dict[str, Any], ...]:
    ((name, choices),) = values.items()
    return tuple({name: choice} for choice in choices)


SAMPLES = _each(samples=(100, 500, 1000))

#: Small changes: nobody would hear another emotion.
SMALL = (
    Condition("tone", tone, _each(snr_db=(40, 45, 50))),
    Condition("append-zeros", append_zeros, SAMPLES),
    Condition("prepend-zeros", prepend_zeros, SAMPLES),
    Condition("crop-beginning", crop_beginning, SAMPLES),
    Condition("crop-end", crop_end, SAMPLES),
    Condition("clip", clip, _each(share=(0.001, 0.002, 0.003))),
    Condition("gain", gain, _each(db=(-2, -1, 1, 2))),
    Condition("highpass", highpass, _each(hz=(50, 100, 150))),
    Condition("lowpass", lowpass, _each(hz=(7500, 7000, 6500))),
    Condition("white-noise", white_noise, _each(snr_db=(35, 40, 45))),
)

#: Noise at 20 dB; single events at 10 dB.
BACKGROUND = (
    Condition("white-noise-20dB", white_noise, _each(snr_db=(20,))),
    Condition("pink-noise-20dB", pink_noise, _each(snr_db=(20,))),
    Condition("babble-20dB", babble, _each(snr_db=(20,)), "voices", "voices"),
    Condition("background-20dB", background, _each(snr_db=(20,)), "noises", "backgrounds"),
    Condition("event-10dB", event, _each(snr_db=(10,)), "noises", "events"),
)

#: Other recordings of the same voice.
RECORDING = (
    Condition("phone", phone),
    Condition("room", room, ({},), "responses", "rooms"),
    Condition("tilt-down", tilt, _each(db=(-15,))),
    Condition("tilt-up", tilt, _each(db=(15,))),
    Condition("level", level, _each(peak_db=(-40, -30, -20, -10))),
    Condition("dropouts", dropouts, _each(share=(0.05,))),
)

#: Degradation curves: the same noise at every one of these ratios in dB.
CURVE_SNR_DB = (40, 30, 20, 10, 5, 0)
CURVES = tuple(
    Condition(f"{name}@{snr_db}dB", function, _each(snr_db=(snr_db,)), resource, resource)
    for name, function, resource in (
        ("white-noise", white_noise, None),
        ("babble", babble, "voices"),
    )
    for snr_db in CURVE_SNR_DB
)

CONDITIONS = {condition.name: condition for condition in (*SMALL, *BACKGROUND, *RECORDING, *CURVES)}


@dataclass
class Resources:
    """Recorded sounds that some perturbations need.

    Attributes:
        voices: clips for babble
        backgrounds: noises longer than a moment
        events: short noises
        rooms: impulse responses
        notes: what was made up because nothing recorded was given
    """

    voices: list[np.ndarray] = field(default_factory=list)
    backgrounds: list[np.ndarray] = field(default_factory=list)
    events: list[np.ndarray] = field(default_factory=list)
    rooms: list[np.ndarray] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __getitem__(self, name: str) -> list[np.ndarray]:
        return getattr(self, name)
