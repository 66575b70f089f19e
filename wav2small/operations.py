"""What can happen to a recording: each operation once, as a pure function.

Signals are (samples,) at 16 kHz, -1..1. None of the functions changes its input, and the same
state of the random generator gives the same samples. What the trust suite does to clips follows
audEERING's ser-tests ("method tests") unless a docstring states otherwise.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from wav2small import audio

RATE = audio.SAMPLING_RATE
MU = 255.0  # of 8-bit mu-law, ITU-T G.711


def add(signal: np.ndarray, other: np.ndarray, ratio_db: float) -> np.ndarray:
    """Add another sound, its power `ratio_db` below that of the signal.

    Args:
        signal: (samples,)
        other: (samples,)
        ratio_db: of the mean squares, in dB

    Returns:
        the sum; the signal itself where one of the two is silent

    Example:
        >>> add(np.array([1.0, -1.0]), np.array([2.0, 2.0]), 20.0)
        array([ 1.1, -0.9])
    """
    return signal + scaled(other, power(signal), ratio_db)


def scaled(other: np.ndarray, reference: float, ratio_db: float) -> np.ndarray:
    """A sound whose power is `ratio_db` below a reference power; zeros where either is 0."""
    own = power(other)
    if own == 0 or reference == 0:
        return np.zeros_like(other)
    return other * np.sqrt(reference / own * 10 ** (-ratio_db / 10))


def power(signal: np.ndarray) -> float:
    """Mean square, float64."""
    return np.mean(np.square(signal, dtype=np.float64))


def excerpt(sound: np.ndarray, samples: int, where: float) -> np.ndarray:
    """`samples` of a sound from a relative place (0..1) on; a shorter sound is repeated."""
    room = len(sound) if len(sound) <= samples else len(sound) - samples + 1
    begin = int(where * room)
    return np.take(sound, np.arange(begin, begin + samples), mode="wrap")


def reverberate(signal: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Put a signal into a room, at the same power and without the way to the microphone.

    Args:
        signal: (samples,)
        response: impulse response of the room; what is before its peak is cut off

    Example:
        >>> reverberate(np.array([1.0, 0.0]), np.array([1.0])).round(3)
        array([1., 0.])
    """
    direct = response[int(np.abs(response).argmax()) :]
    size = 1 << (len(signal) + len(direct) - 1).bit_length()
    product = np.fft.rfft(signal, size) * np.fft.rfft(direct, size)
    wet = np.fft.irfft(product, size)[: len(signal)]
    return wet * np.sqrt(power(signal) / power(wet)) if power(wet) > 0 else signal


def decaying_noise(white: np.ndarray, ratio_db: float) -> np.ndarray:
    """Reverberation: noise that decays by 60 dB, its energy `ratio_db` below that of a click."""
    tail = white * 10 ** (-3 * np.arange(len(white)) / len(white))
    return tail * (10 ** (-ratio_db / 20) / np.sqrt((tail**2).sum()))


def coloured_noise(white: np.ndarray, colour: float) -> np.ndarray:
    """Noise whose power falls with frequency ** -colour above 50 Hz, made of white noise."""
    size = 1 << (len(white) - 1).bit_length()
    shape = np.maximum(np.fft.rfftfreq(size, 1 / RATE), 50.0) ** (-colour / 2)
    return np.fft.irfft(np.fft.rfft(white, size) * shape, size)[: len(white)]


def band(signal: np.ndarray, low_hz: float, high_hz: float) -> np.ndarray:
    """Keep a band; its edges fall over a tenth of their frequency, without ringing for long.

    Example:
        >>> tone_3_khz = np.sin(np.arange(1600) * 2 * np.pi * 3000 / RATE)
        >>> bool(power(band(tone_3_khz, 0.0, 2000.0)[200:-200]) < 1e-6)
        True
    """
    size = 1 << (len(signal) - 1).bit_length()
    frequency = np.fft.rfftfreq(size, 1 / RATE)
    keep = np.clip((1.1 * high_hz - frequency) / (0.1 * high_hz), 0, 1)
    if low_hz:
        keep = keep * np.clip((frequency - 0.9 * low_hz) / (0.1 * low_hz), 0, 1)
    keep = np.sin(keep * np.pi / 2) ** 2
    return np.fft.irfft(np.fft.rfft(signal, size) * keep, size)[: len(signal)]


def mu_law(signal: np.ndarray, rate: int) -> np.ndarray:
    """Through a narrow channel: resampled, mu-law in 8 bits (ITU-T G.711's curve), and back."""
    narrow = resample(signal, RATE, rate)
    peak = np.abs(narrow).max()
    if peak == 0:
        return signal
    curve = np.sign(narrow) * np.log1p(MU * np.abs(narrow) / peak) / np.log1p(MU)
    coded = np.round(curve * 127) / 127
    decoded = np.sign(coded) * np.expm1(np.abs(coded) * np.log1p(MU)) / MU * peak
    wide = resample(decoded, rate, RATE)[: len(signal)]
    return np.pad(wide, (0, len(signal) - len(wide)))


def resample(signal: np.ndarray, source: float, target: float) -> Any:
    """From one sampling rate in Hz to another, with soxr.

    Example:
        >>> resample(np.zeros(1600), 16000, 8000).shape
        (800,)
    """
    import soxr

    return soxr.resample(signal, source, target)


def narrow(signal: np.ndarray, rate: int) -> np.ndarray:
    """Recorded at a low sampling rate in Hz: nothing is left above its half.

    Example:
        >>> narrow(np.ones(1600), 2000).shape
        (1600,)
    """
    wide = resample(resample(signal, RATE, rate), rate, RATE)[: len(signal)]
    return np.pad(wide, (0, len(signal) - len(wide)))


def packet_loss(
    signal: np.ndarray, rng: np.random.Generator, *, share: float, burst: float = 4.0
) -> np.ndarray:
    """Lost packets of 20 ms that come in bursts (Gilbert 1960): silence instead. Not in ser-tests.

    Args:
        signal: (samples,)
        rng: what is lost
        share: of the packets
        burst: mean number of packets that are lost in a row
    """
    frame = RATE // 50
    lost = np.zeros(-(-len(signal) // frame), dtype=bool)
    state = rng.random() < share
    for number, draw in enumerate(rng.random(len(lost))):
        lost[number] = state
        ends, begins = 1 / burst, share / ((1 - share) * burst)
        state = draw >= ends if state else draw < begins
    lost[rng.integers(len(lost))] = True  # a short clip loses at least one
    return np.where(np.repeat(lost, frame)[: len(signal)], np.float32(0), signal)


def enhanced(signal: np.ndarray, rng: np.random.Generator, *, snr_db: float) -> np.ndarray:
    """What a crude denoiser leaves of a noisy recording: gated bands and musical noise.

    White noise, then spectral subtraction (Boll 1979) without oversubtraction or floor: isolated
    peaks of the noise remain and chirp. Not in ser-tests.

    Args:
        signal: (samples,)
        rng: of the noise
        snr_db: of the noise that is removed again
    """
    import scipy.signal

    noisy = white_noise(signal, rng, snr_db=snr_db)
    _, _, spectrum = scipy.signal.stft(noisy, nperseg=400, noverlap=300)
    _, _, noise = scipy.signal.stft(noisy - signal, nperseg=400, noverlap=300)
    strength = np.abs(spectrum)
    level = np.mean(np.abs(noise), axis=1, keepdims=True)
    kept = spectrum * np.maximum(0, 1 - level / np.maximum(strength, 1e-12))
    return _as(scipy.signal.istft(kept, nperseg=400, noverlap=300)[1][: len(signal)])


def telephone_codec(signal: np.ndarray, kind: str) -> np.ndarray:
    """Through a speech codec of libsndfile and back, the same length.

    Args:
        signal: (samples,)
        kind: "gsm" (GSM 06.10, 8 kHz, 13 kbit/s), "opus8" or "opus16" (Opus at its lowest rate,
            about 7 kbit/s, of speech at 8 or 16 kHz)

    Example:
        >>> telephone_codec(np.sin(np.arange(3200) / 5), "gsm").shape
        (3200,)
    """
    import soundfile

    rate = RATE if kind == "opus16" else RATE // 2
    sent = resample(signal, RATE, rate) if rate != RATE else signal
    peak = max(float(np.abs(sent).max()), 1e-9)
    wire = io.BytesIO()
    if kind == "gsm":
        soundfile.write(wire, sent / peak * 0.9, rate, format="WAV", subtype="GSM610")
    else:
        soundfile.write(
            wire, sent / peak * 0.9, rate, format="OGG", subtype="OPUS", compression_level=1.0
        )
    wire.seek(0)
    received, rate = soundfile.read(wire, dtype="float64")
    wide = resample(received, rate, RATE)[: len(signal)]
    return np.pad(wide, (0, len(signal) - len(wide))) * (peak / 0.9)


def wind(signal: np.ndarray, white: np.ndarray, ratio_db: float) -> np.ndarray:
    """Wind at a small microphone: brown noise below 200 Hz that comes in gusts of about 1 s.

    Args:
        signal: (samples,)
        white: noise to shape, (samples,)
        ratio_db: by which the signal is louder
    """
    rumble = band(coloured_noise(white, 2.0), 0.0, 200.0)
    knots = np.arange(0, len(white) + RATE, RATE // 2)  # two strengths a second
    strength = np.abs(np.resize(white[:: RATE // 2], len(knots)))
    return add(signal, rumble * np.interp(np.arange(len(white)), knots, strength), ratio_db)


def microphone(signal: np.ndarray, tilt_db: float, low_hz: float) -> np.ndarray:
    """A small microphone: `tilt_db` per octave around 1 kHz, first-order high-pass at `low_hz`.

    Directional hearing-aid microphones lose 6 dB per octave below some hundred Hz (Dillon 2012,
    Hearing Aids, chapter 2).
    """
    size = 1 << (len(signal) - 1).bit_length()
    hertz = np.fft.rfftfreq(size, 1 / RATE)
    octaves = np.log2(np.clip(hertz, 125.0, 8000.0) / 1000.0)
    gain = 10 ** (tilt_db * octaves / 20) / np.sqrt(1 + (low_hz / np.maximum(hertz, 1.0)) ** 2)
    changed = np.fft.irfft(np.fft.rfft(signal, size) * gain, size)[: len(signal)]
    return changed * np.sqrt(power(signal) / power(changed)) if power(changed) > 0 else signal


def tone(signal: np.ndarray, rng: np.random.Generator, *, snr_db: float) -> np.ndarray:
    """Add a sine of 5 to 7 kHz; signal-to-noise ratio of the peaks in dB."""
    frequency, phase = rng.uniform(5000, 7000), rng.uniform(0, 2 * np.pi)
    time = np.arange(len(signal)) / RATE
    peak = np.abs(signal).max() * 10 ** (-snr_db / 20)
    return _as(signal + peak * np.sin(2 * np.pi * frequency * time + phase))


def append_zeros(signal: np.ndarray, rng: np.random.Generator, *, samples: int) -> np.ndarray:
    """Digital silence after the end.

    Example:
        >>> append_zeros(np.ones(2, np.float32), np.random.default_rng(0), samples=1)
        array([1., 1., 0.], dtype=float32)
    """
    return np.concatenate([signal, np.zeros(samples, np.float32)])


def prepend_zeros(signal: np.ndarray, rng: np.random.Generator, *, samples: int) -> np.ndarray:
    """Digital silence before the beginning."""
    return np.concatenate([np.zeros(samples, np.float32), signal])


def crop_beginning(signal: np.ndarray, rng: np.random.Generator, *, samples: int) -> np.ndarray:
    """The first samples are missing; half of the clip always stays."""
    return signal[min(samples, len(signal) // 2) :].copy()


def crop_end(signal: np.ndarray, rng: np.random.Generator, *, samples: int) -> np.ndarray:
    """The last samples are missing; half of the clip always stays.

    Example:
        >>> crop_end(np.arange(4), np.random.default_rng(0), samples=1)
        array([0, 1, 2])
    """
    return signal[: len(signal) - min(samples, len(signal) // 2)].copy()


def clip(signal: np.ndarray, rng: np.random.Generator, *, share: float) -> np.ndarray:
    """Overdrive: this share of the samples is cut at the level below which the others lie."""
    limit = np.quantile(np.abs(signal), 1 - share)
    return np.clip(signal, -limit, limit)


def gain(signal: np.ndarray, rng: np.random.Generator, *, db: float) -> np.ndarray:
    """Another level, nothing cut.

    Example:
        >>> gain(np.array([0.1, -0.1]), np.random.default_rng(0), db=20)
        array([ 1., -1.], dtype=float32)
    """
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
    return _as(add(signal, rng.standard_normal(len(signal), dtype=np.float32), snr_db))


def pink_noise(signal: np.ndarray, rng: np.random.Generator, *, snr_db: float) -> np.ndarray:
    """Noise whose power falls by 3 dB per octave, as in rooms and cars."""
    return _as(add(signal, _pink(len(signal), rng), snr_db))


def babble(
    signal: np.ndarray, rng: np.random.Generator, *, snr_db: float, voices: Sequence[np.ndarray]
) -> np.ndarray:
    """4 to 7 other voices at once, each as loud as the others."""
    count = min(int(rng.integers(4, 8)), len(voices))
    crowd = np.zeros(len(signal), np.float32)
    for voice in rng.choice(len(voices), count, replace=False):
        part = _stretch(voices[voice], len(signal), rng)
        crowd += part / (_rms(part) or 1)
    return _as(add(signal, crowd, snr_db))


def background(
    signal: np.ndarray, rng: np.random.Generator, *, snr_db: float, noises: Sequence[np.ndarray]
) -> np.ndarray:
    """One of the recorded noises, from a random place, repeated where it is too short."""
    return _as(
        add(signal, _stretch(noises[int(rng.integers(len(noises)))], len(signal), rng), snr_db)
    )


def event(
    signal: np.ndarray, rng: np.random.Generator, *, snr_db: float, noises: Sequence[np.ndarray]
) -> np.ndarray:
    """One short noise (a cough, a door) at a random place; the ratio is that of the event."""
    noise = noises[int(rng.integers(len(noises)))][: len(signal)]
    start = int(rng.integers(0, len(signal) - len(noise) + 1))
    result = signal.copy()
    result[start : start + len(noise)] += _as(scaled(noise, power(signal), snr_db))
    return result


def room(
    signal: np.ndarray, rng: np.random.Generator, *, responses: Sequence[np.ndarray]
) -> np.ndarray:
    """Recorded across a room: convolved with an impulse response, level and start kept."""
    response = responses[int(rng.integers(len(responses)))]
    return _same_level(reverberate(signal, response), signal)


def synthetic_rooms(*, seed: int = 0) -> list[np.ndarray]:
    """Impulse responses where nothing recorded is at hand: noise that decays exponentially.

    Four rooms with a reverberation time (60 dB) of .2, .4, .6 and .8 s, direct sound 6 dB above
    the energy of the reverberation in the first, 3 dB below it in the last.
    """
    rng = np.random.default_rng(seed)
    rooms = []
    for time_s, ratio_db in ((0.2, 6.0), (0.4, 3.0), (0.6, 0.0), (0.8, -3.0)):
        tail = decaying_noise(rng.standard_normal(round(time_s * RATE)), ratio_db)
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

    narrow = resample(_compress(signal), RATE, RATE // 2)
    narrow = narrow / max(1.0, np.abs(narrow).max())
    wire = io.BytesIO()
    soundfile.write(wire, narrow, RATE // 2, format="WAV", subtype="GSM610")
    wire.seek(0)
    received, _ = soundfile.read(wire, dtype="float32")
    wide = resample(received, RATE // 2, RATE)
    wide = np.resize(wide, len(signal)) if len(wide) < len(signal) else wide[: len(signal)]
    wide = wide / max(float(np.abs(wide).max()), 1e-9)
    hiss = _filter(_pink(len(signal), rng), 2, 3000, "highpass")
    return _same_level(add(wide, hiss, 25.0), signal)


def tilt(signal: np.ndarray, rng: np.random.Generator, *, db: float) -> np.ndarray:
    """Spectral tilt: gain in dB rising linearly from 0 Hz to `db` at 8 kHz, level kept.

    ser-tests publishes its filters only as sound files; their plots span about 15 dB.
    """
    import scipy.signal

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


def _as(signal: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(signal, dtype=np.float32)


def _rms(signal: np.ndarray) -> float:
    return float(np.sqrt(power(signal)))


def _same_level(changed: np.ndarray, signal: np.ndarray) -> np.ndarray:
    """The level of the original, if that is possible without clipping."""
    result = changed * (_rms(signal) / (_rms(changed) or 1))
    return _as(result / max(1.0, np.abs(result).max()))


def _filter(signal: np.ndarray, order: int, hz: float, kind: str) -> np.ndarray:
    import scipy.signal

    sections = scipy.signal.butter(order, hz, kind, fs=RATE, output="sos")
    return _as(scipy.signal.sosfilt(sections, signal))


def _pink(samples: int, rng: np.random.Generator) -> np.ndarray:
    import scipy.fft

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
    import scipy.signal

    window = np.full(RATE // 100, 100 / RATE)
    envelope = np.sqrt(scipy.signal.fftconvolve(signal**2, window, mode="same").clip(1e-12))
    excess_db = np.maximum(20 * np.log10(envelope) + 20, 0)
    return _as(signal * 10 ** (-0.2 * excess_db / 20))
