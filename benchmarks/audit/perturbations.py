"""What the trust suite does to clips: operations of `wav2small.operations`, and how strong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wav2small import operations, voice


@dataclass
class Sounds:
    """Recorded sounds that some perturbations need, float32 (samples,) at 16 kHz."""

    voices: list[np.ndarray] = field(default_factory=list)  # clips for babble
    backgrounds: list[np.ndarray] = field(default_factory=list)  # noises of at least two seconds
    events: list[np.ndarray] = field(default_factory=list)  # short noises
    rooms: list[np.ndarray] = field(default_factory=list)  # impulse responses
    #: what was synthesised because nothing recorded was given
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Condition:
    """One way in which a clip is changed."""

    name: str  # unique; what stands after an @ is a strength
    function: Callable[..., np.ndarray]  # operation (signal, rng, **settings) -> signal
    choices: tuple[Mapping[str, Any], ...] = ({},)  # settings, one of which is drawn for each clip
    keyword: str = ""  # argument of the function that takes recorded sounds, such as "noises"
    sounds: str = ""  # field of `Sounds` that it takes, such as "backgrounds"

    def apply(self, signal: np.ndarray, seed: Sequence[int], sounds: Sounds) -> np.ndarray:
        """The changed clip; the same seed changes it in the same way.

        Args:
            signal: float32 (samples,) at 16 kHz, -1..1
            seed: of the audit, number of the clip
            sounds: what was recorded
        """
        # Without the strength: the points of a curve share their noise.
        rng = np.random.default_rng([*seed, *self.name.split("@")[0].encode()])
        settings = dict(self.choices[rng.integers(len(self.choices))])
        if self.keyword:
            settings[self.keyword] = getattr(sounds, self.sounds)
        return np.ascontiguousarray(self.function(signal, rng, **settings), dtype=np.float32)

    def possible(self, sounds: Sounds) -> bool:
        """Whether the sounds that it takes are there."""
        return not self.sounds or bool(getattr(sounds, self.sounds))


def _of(
    name: str, operation: str, keyword: str = "", sounds: str = "", **values: Sequence[Any]
) -> Condition:
    """A condition; `values` are the choices of one setting."""
    choices = tuple({key: value} for key, each in values.items() for value in each) or ({},)
    return Condition(name, getattr(operations, operation), choices, keyword, sounds)


def _fixed(name: str, function: Callable[..., np.ndarray], *values: Any) -> Condition:
    """A condition without chance but for the choice of its one argument."""
    choices = tuple({"value": value} for value in values)
    return Condition(name, lambda signal, rng, value: function(signal, value), choices)


SAMPLES = (100, 500, 1000)

#: Small changes, after which the emotion is still the same.
SMALL = (
    _of("tone", "tone", snr_db=(40, 45, 50)),
    _of("append-zeros", "append_zeros", samples=SAMPLES),
    _of("prepend-zeros", "prepend_zeros", samples=SAMPLES),
    _of("crop-beginning", "crop_beginning", samples=SAMPLES),
    _of("crop-end", "crop_end", samples=SAMPLES),
    _of("clip", "clip", share=(0.001, 0.002, 0.003)),
    _of("gain", "gain", db=(-2, -1, 1, 2)),
    _of("highpass", "highpass", hz=(50, 100, 150)),
    _of("lowpass", "lowpass", hz=(7500, 7000, 6500)),
    _of("white-noise", "white_noise", snr_db=(35, 40, 45)),
)

#: Noise at 20 dB; single events at 10 dB.
BACKGROUND = (
    _of("white-noise-20dB", "white_noise", snr_db=(20,)),
    _of("pink-noise-20dB", "pink_noise", snr_db=(20,)),
    _of("babble-20dB", "babble", "voices", "voices", snr_db=(20,)),
    _of("background-20dB", "background", "noises", "backgrounds", snr_db=(20,)),
    _of("event-10dB", "event", "noises", "events", snr_db=(10,)),
)

#: Other recordings of the same voice.
RECORDING = (
    _of("phone", "phone"),
    _of("room", "room", "responses", "rooms"),
    _of("tilt-down", "tilt", db=(-15,)),
    _of("tilt-up", "tilt", db=(15,)),
    _of("level", "level", peak_db=(-40, -30, -20, -10)),
    _of("dropouts", "dropouts", share=(0.05,)),
)

#: What leaves little of a recording, and other speakers in place of the one who spoke. All chosen.
ADVERSE = (
    _of("overdrive", "clip", share=(0.1, 0.2, 0.4)),
    _fixed("low-rate", operations.narrow, 2000, 4000),
    _fixed("codec", operations.telephone_codec, "gsm", "opus8", "opus16"),
    _of("packet-loss", "packet_loss", share=(0.1, 0.2)),
    _of("denoised", "enhanced", snr_db=(5, 10)),
    _fixed("anonymous-shift", voice.shift, -3, 3),
    _fixed("anonymous-mcadams", voice.mcadams, 0.8),
)

#: Degradation curves: the same noise at every one of these ratios in dB.
CURVE_SNR_DB = (40, 30, 20, 10, 5, 0)
_CURVES = (("white-noise", "white_noise", ""), ("babble", "babble", "voices"))
CURVES = tuple(
    _of(f"{name}@{snr_db}dB", operation, sounds, sounds, snr_db=(snr_db,))
    for name, operation, sounds in _CURVES
    for snr_db in CURVE_SNR_DB
)

CONDITIONS = {
    condition.name: condition for condition in (*SMALL, *BACKGROUND, *RECORDING, *ADVERSE, *CURVES)
}
