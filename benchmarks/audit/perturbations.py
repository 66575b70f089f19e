"""What can happen to a recording: pure functions of (signal, random generator, strength).

Each takes a signal, float32 (samples,) at 16 kHz in -1..1, and a generator, and returns a new
signal; none changes its input, and the same generator state gives the same samples. Definitions
follow audEERING's ser-tests ("method tests") unless a docstring says otherwise.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.fft
import scipy.signal

RATE = 16000  # Hz

Perturbation = Callable[..., np.ndarray]


def tone(signal: np.ndarray, rng: np.random.Generator, *, snr_db: float) -> np.ndarray:
    """Add a sine of 5 to 7 kHz; signal-to-noise ratio of the peaks in dB."""
    frequency, phase = rng.uniform(5000, 7000), rng.uniform(0, 2 * np.pi)
    time = np.arange(len(signal)) / RATE
    peak = np.abs(signal).max() * 10 ** (-snr_db / 20)
    return _as(signal + peak * np.sin(2 * np.pi * frequency * time + phase))


def append_zeros(signal: np.ndarray, rng: np.random.Generator, *, samples: int) -> np.ndarray:
    """Digital silence after the end."""
    return np.concatenate([signal, np.zeros(samples, np.float32)])


def prepend_zeros(signal: np.ndarray, rng: np.random.Generator, *, samples: int) -> np.ndarray:
    """Digital silence before the beginning."""
    return np.concatenate([np.zeros(samples, np.float32), signal])


def crop_beginning(signal: np.ndarray, rng: np.random.Generator, *, samples: int) -> np.ndarray:
    """The first samples are missing; half of the clip always stays."""
    return signal[min(samples, len(signal) // 2) :].copy()


def crop_end(signal: np.ndarray, rng: np.random.Generator, *, samples: int) -> np.ndarray:
    """The last samples are missing; half of the clip always stays."""
    return signal[: len(signal) - min(samples, len(signal) // 2)].copy()


def clip(signal: np.ndarray, rng: np.random.Generator, *, share: float) -> np.ndarray:
    """Overdrive: this share of the samples is cut at the level below which the others lie."""
    limit = np.quantile(np.abs(signal), 1 - share)
    return np.clip(signal, -limit, limit)


def gain(signal: np.ndarray, rng: np.random.Generator, *, db: float) -> np.ndarray:
    """Another level, nothing cut."""
    return _as(signal * 10 ** (db / 20))


def level(signal: np.ndarray, rng: np.random.Generator, *, peak_db: float) -> np.ndarray:
    """A recording level: the peak in dB of full scale, stored as 16 bit. Not in ser-tests."""
    scaled = signal * (10 ** (peak_db / 20) / np.abs(signal).max())
    return _as(np.clip(np.round(scaled * 32767), -32768, 32767) / 32768)


def highpass(signal: np.ndarray, rng: np.random.Generator, *, hz: float) -> np.ndarray:
    """Butterworth filter of order 1."""
    return _filter(signal, 1, hz, "highpass")


def lowpass(signal: np.ndarray, rng: np.random.Generator, *, hz: float) -> np.ndarray:
    """Butterworth filter of order 1."""
    return _filter(signal, 1, hz, "lowpass")


def white_noise(signal: np.ndarray, rng: np.random.Generator, *, snr_db: float) -> np.ndarray:
    """Gaussian noise; signal-to-noise ratio of the root mean squares in dB."""
    return _mix(signal, rng.standard_normal(len(signal), dtype=np.float32), snr_db)


def pink_noise(signal: np.ndarray, rng: np.random.Generator, *, snr_db: float) -> np.ndarray:
    """Noise whose power falls by 3 dB per octave, as in rooms and cars."""
    return _mix(signal, _pink(len(signal), rng), snr_db)


def babble(
    signal: np.ndarray, rng: np.random.Generator, *, snr_db: float, voices: Sequence[np.ndarray]
) -> np.ndarray:
    """4 to 7 other voices at once, each as loud as the others."""
    count = min(int(rng.integers(4, 8)), len(voices))
    crowd = np.zeros(len(signal), np.float32)
    for voice in rng.choice(len(voices), count, replace=False):
        part = _stretch(voices[voice], len(signal), rng)
        crowd += part / (_rms(part) or 1)
    return _mix(signal, crowd, snr_db)


def background(
    signal: np.ndarray, rng: np.random.Generator, *, snr_db: float, noises: Sequence[np.ndarray]
) -> np.ndarray:
    """One of the recorded noises, from a random place, repeated where it is too short."""
    return _mix(signal, _stretch(noises[int(rng.integers(len(noises)))], len(signal), rng), snr_db)


def event(
    signal: np.ndarray, rng: np.random.Generator, *, snr_db: float, noises: Sequence[np.ndarray]
) -> np.ndarray:
    """One short noise (a cough, a door) at a random place; the ratio is that of the event."""
    noise = noises[int(rng.integers(len(noises)))][: len(signal)]
    start = int(rng.integers(0, len(signal) - len(noise) + 1))
    result = signal.copy()
    result[start : start + len(noise)] += _scaled(noise, _rms(signal), snr_db)
    return result


def room(
    signal: np.ndarray, rng: np.random.Generator, *, responses: Sequence[np.ndarray]
) -> np.ndarray:
    """Heard across a room: convolved with an impulse response, level and start kept."""
    response = responses[int(rng.integers(len(responses)))]
    direct = int(np.abs(response).argmax())
    wet = scipy.signal.fftconvolve(signal, response)[direct : direct + len(signal)]
    return _same_level(wet, signal)


def synthetic_rooms(*, seed: int = 0) -> list[np.ndarray]:
    """Impulse responses where nothing recorded is at hand: noise that decays exponentially.

    Four rooms with a reverberation time (60 dB) of .2, .4, .6 and .8 s, direct sound 6 dB above
    the energy of the reverberation in the first, 3 dB below it in the last.
    """
    rng = np.random.default_rng(seed)
    rooms = []
    for time_s, ratio_db in ((0.2, 6.0), (0.4, 3.0), (0.6, 0.0), (0.8, -3.0)):
        length = round(time_s * RATE)
        decay = 10 ** (-3 * np.arange(length) / length)
        tail = rng.standard_normal(length) * decay
        tail *= 10 ** (-ratio_db / 20) / np.sqrt((tail**2).sum())
        tail[0] = 1.0
        rooms.append(_as(tail))
    return rooms


def phone(signal: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A bad telephone: compressed, through a narrow-band mobile codec, with a hissing line.

    As in ser-tests (compressor at -20 dB, 8 kHz codec, peak normalised, pink noise high-passed
    at 3 kHz at -25 dB), but through GSM 06.10 at 13 kbit/s, which libsndfile carries, instead
    of AMR at 7.4 kbit/s.
    """
    import soundfile
    import soxr

    narrow = soxr.resample(_compress(signal), RATE, RATE // 2)
    narrow = narrow / max(1.0, np.abs(narrow).max())
    wire = io.BytesIO()
    soundfile.write(wire, narrow, RATE // 2, format="WAV", subtype="GSM610")
    wire.seek(0)
    heard, _ = soundfile.read(wire, dtype="float32")
    wide = soxr.resample(heard, RATE // 2, RATE)
    wide = np.resize(wide, len(signal)) if len(wide) < len(signal) else wide[: len(signal)]
    wide = wide / max(float(np.abs(wide).max()), 1e-9)
    hiss = _filter(_pink(len(signal), rng), 2, 3000, "highpass")
    return _same_level(_mix(wide, hiss, 25.0), signal)


def tilt(signal: np.ndarray, rng: np.random.Generator, *, db: float) -> np.ndarray:
    """Spectral tilt: gain in dB rising linearly from 0 Hz to `db` at 8 kHz, level kept.

    ser-tests publishes its filters only as sound files; their plots span about 15 dB.
    """
    frequencies = np.linspace(0, 1, 65)
    taps = scipy.signal.firwin2(257, frequencies, 10 ** (db * frequencies / 20))
    return _same_level(scipy.signal.fftconvolve(signal, taps, mode="same"), signal)


def dropouts(signal: np.ndarray, rng: np.random.Generator, *, share: float) -> np.ndarray:
    """Lost packets: this share of the 20 ms frames is silent. Not in ser-tests."""
    frame = RATE // 50
    lost = rng.random(-(-len(signal) // frame)) < share
    result = signal.copy()
    result[np.repeat(lost, frame)[: len(signal)]] = 0
    return result


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
        return _as(self.function(signal, rng, **settings))


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


def _as(signal: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(signal, dtype=np.float32)


def _rms(signal: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(signal, dtype=np.float64))))


def _scaled(noise: np.ndarray, reference_rms: float, snr_db: float) -> np.ndarray:
    return _as(noise * (reference_rms * 10 ** (-snr_db / 20) / (_rms(noise) or 1)))


def _mix(signal: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    return _as(signal + _scaled(noise, _rms(signal), snr_db))


def _same_level(changed: np.ndarray, signal: np.ndarray) -> np.ndarray:
    """The level of the original, if that is possible without clipping."""
    result = changed * (_rms(signal) / (_rms(changed) or 1))
    return _as(result / max(1.0, np.abs(result).max()))


def _filter(signal: np.ndarray, order: int, hz: float, kind: str) -> np.ndarray:
    sections = scipy.signal.butter(order, hz, kind, fs=RATE, output="sos")
    return _as(scipy.signal.sosfilt(sections, signal))


def _pink(samples: int, rng: np.random.Generator) -> np.ndarray:
    length = scipy.fft.next_fast_len(samples, real=True)
    spectrum = scipy.fft.rfft(rng.standard_normal(length, dtype=np.float32))
    bins = np.maximum(np.arange(len(spectrum), dtype=np.float32), 1)
    return _as(scipy.fft.irfft(spectrum / np.sqrt(bins), length)[:samples])


def _stretch(noise: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    """A random stretch of a noise, repeated if it is too short."""
    if len(noise) > samples:
        start = int(rng.integers(0, len(noise) - samples + 1))
        return noise[start : start + samples]
    return np.resize(np.roll(noise, int(rng.integers(len(noise)))), samples)


def _compress(signal: np.ndarray) -> np.ndarray:
    """Dynamic range compressor: what exceeds -20 dB of full scale keeps 80 % of its decibels.

    Attack and release follow the envelope over 10 ms.
    """
    window = np.full(RATE // 100, 100 / RATE)
    envelope = np.sqrt(scipy.signal.fftconvolve(signal**2, window, mode="same").clip(1e-12))
    excess_db = np.maximum(20 * np.log10(envelope) + 20, 0)
    return _as(signal * 10 ** (-0.2 * excess_db / 20))
