"""What makes the same words sound otherwise spoken: rate, intonation, effort, dynamics, speaker.

Each operation is a pure function of the signal and its argument, in numpy, cheap enough to be made
anew in every epoch. After most of them the speaker sounds more or less excited, so a teacher has to
label the result; another speaker's size changes nothing (`targets` in `wav2small.augmentation`).
"""

from __future__ import annotations

import numpy as np

from wav2small import audio

RATE = audio.SAMPLING_RATE
FRAME = 480  # samples, 30 ms: two periods of a deep voice
SEARCH = 120  # samples, 7.5 ms to either side: a period of most voices
PIVOT_HZ, EDGE_HZ = 1000.0, 6000.0  # effort tilts the spectrum around 1 kHz, up to 6 kHz
ENVELOPE = 800  # samples, 50 ms: shorter than a syllable, longer than a period
ORDER = 20  # of linear prediction: eight formants below 8 kHz, and the spectrum's tilt
RANGE_ST = 4.0  # semitones by which intonation may bend the voice locally


def stretch(signal: np.ndarray, factor: float) -> np.ndarray:
    """Speak slower or faster at the same pitch.

    WSOLA (Verhelst and Roelands 1993): frames are laid next to each other where they fit best.

    Args:
        signal: (samples,) at 16 kHz
        factor: of the duration, .5 to 2

    Returns:
        float64 (about factor x samples,)

    Example:
        >>> len(stretch(np.ones(16000), 1.25))
        20000
    """
    samples = round(len(signal) * factor)
    half = FRAME // 2
    padded = np.pad(signal.astype(np.float64), (half + SEARCH, FRAME + SEARCH + half))
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / FRAME)  # sums to 1 at half steps
    result = np.zeros(samples + FRAME + half)
    place = SEARCH  # of the frame that was taken last, in `padded`
    for begin in range(0, samples + half, half):
        wanted = min(round(begin / factor), len(signal) + half) + SEARCH
        if begin:
            follows = padded[place + half : place + half + FRAME]
            region = padded[wanted - SEARCH : wanted + SEARCH + FRAME]
            if len(follows) == FRAME and len(region) == FRAME + 2 * SEARCH:
                likeness = np.correlate(region[::2], follows[::2], "valid")
                wanted += 2 * int(likeness.argmax()) - SEARCH
        place = min(wanted, len(padded) - FRAME)
        result[begin : begin + FRAME] += window * padded[place : place + FRAME]
    return result[half : half + samples]


def shift(signal: np.ndarray, semitones: float) -> np.ndarray:
    """Another speaker: pitch and formants are moved together, the duration stays.

    Example:
        >>> shift(np.ones(16000), 3.0).shape
        (16000,)
    """
    from wav2small.operations import resample

    factor = 2 ** (semitones / 12)
    moved = stretch(resample(signal.astype(np.float64), RATE * factor, RATE), factor)
    return np.pad(moved, (0, max(0, len(signal) - len(moved))))[: len(signal)]


def mcadams(signal: np.ndarray, coefficient: float, *, order: int = ORDER) -> np.ndarray:
    """Another speaker by McAdams' coefficient: formants move, pitch and timing stay.

    Of every frame the poles of linear prediction get the power `coefficient` of their angle
    (radians), and the residual is filtered anew: below 1, formants below 2.5 kHz rise and those
    above fall (Patino et al. 2021, Speaker anonymisation using the McAdams coefficient).

    Args:
        signal: (samples,) at 16 kHz
        coefficient: .5 to 1; 1 = unchanged
        order: of the linear prediction

    Returns:
        float64 (samples,), at the same power

    Example:
        >>> noise = np.random.default_rng(0).normal(size=4800)
        >>> bool(np.allclose(mcadams(noise, 1.0)[480:-480], noise[480:-480]))
        True
    """
    from scipy.linalg import solve_toeplitz
    from scipy.signal import lfilter

    hop = FRAME // 2
    window = np.sqrt(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / FRAME))
    padded = np.pad(signal.astype(np.float64), (hop, FRAME))
    result = np.zeros_like(padded)
    for begin in range(0, len(padded) - FRAME + 1, hop):
        frame = window * padded[begin : begin + FRAME]
        spectrum = np.abs(np.fft.rfft(frame, 2 * FRAME)) ** 2
        likeness = np.fft.irfft(spectrum)[: order + 1]
        if likeness[0] < 1e-9:
            continue
        likeness[0] *= 1 + 1e-9  # of a pure tone the equations have no solution
        inverse = np.r_[1.0, -solve_toeplitz(likeness[:-1], likeness[1:])]
        poles = np.roots(inverse)
        angles = np.angle(poles)
        moved = np.sign(angles) * np.abs(angles) ** coefficient
        moved = np.where(np.abs(poles.imag) > 1e-9, moved, angles)  # real poles are no formants
        filtered = lfilter([1.0], np.poly(np.abs(poles) * np.exp(1j * moved)).real,
                           lfilter(inverse, [1.0], frame))  # fmt: skip
        result[begin : begin + FRAME] += window * filtered
    result = result[hop : hop + len(signal)]
    own, other = np.mean(np.square(signal)), np.mean(np.square(result))
    return result * np.sqrt(own / other) if other > 0 else result


def effort(signal: np.ndarray, db_per_octave: float) -> np.ndarray:
    """Tilt the spectrum, as a voice that shouts (above 0) or murmurs (below 0), at the same power.

    Example:
        >>> spectrum = np.abs(np.fft.rfft(effort(np.eye(1, 2048)[0], 6.0)))
        >>> round(float(20 * np.log10(spectrum[512] / spectrum[256])), 1)  # 4 kHz over 2 kHz
        6.0
    """
    size = 1 << (len(signal) - 1).bit_length()
    hertz = np.fft.rfftfreq(size, 1 / RATE)
    octaves = np.log2(np.clip(hertz, PIVOT_HZ / 8, EDGE_HZ) / PIVOT_HZ)
    gain = 10 ** (db_per_octave * octaves / 20)
    tilted = np.fft.irfft(np.fft.rfft(signal, size) * gain, size)[: len(signal)]
    own, other = np.mean(np.square(signal)), np.mean(np.square(tilted))
    return tilted * np.sqrt(own / other) if other > 0 else tilted


def dynamics(signal: np.ndarray, exponent: float) -> np.ndarray:
    """Widen (exponent above 1) or flatten the loudness contour, loud parts kept.

    Example:
        >>> bool(np.allclose(dynamics(np.ones(1600), 1.5), 1.0))
        True
    """
    kernel = np.hanning(ENVELOPE + 2)[1:-1]
    padded = np.pad(np.square(signal, dtype=np.float64), ENVELOPE // 2, mode="edge")
    power = _convolve(padded, kernel / kernel.sum())[: len(signal)]
    loudest = power.max()
    if loudest <= 0:
        return signal
    # What lies 40 dB below the loudest part is silence and is not lifted any further.
    relative = np.maximum(power / loudest, 1e-4)
    return signal * relative ** ((exponent - 1) / 2)


def intonation(signal: np.ndarray, factor: float) -> np.ndarray:
    """Widen (factor above 1) or flatten the range of F0 around its mean.

    The signal is resampled locally: by a few percent, so the vocal tract moves along a little, as
    it does where people raise their voices.

    Args:
        signal: (samples,) at 16 kHz
        factor: of the deviations of F0 in semitones, 0 (monotone) to 2

    Returns:
        float64 (about as many samples,)

    Example:
        >>> len(intonation(np.ones(16000), 1.5))  # nothing is voiced: unchanged
        16000
    """
    from wav2small.spectrum import FRAME_RATE, pitch, power_spectra

    f0, periodicity = pitch(power_spectra(signal))
    voiced = periodicity > 0.5
    if voiced.sum() < 3:
        return signal
    frames = np.arange(len(f0))
    semitones = 12 * np.log2(f0)
    contour = np.interp(frames, frames[voiced], semitones[voiced])
    kernel = np.hanning(11)[1:-1]  # 100 ms: the melody, not the tracker's jitter
    padded = np.pad(contour, len(kernel) // 2, mode="edge")
    smooth = np.convolve(padded, kernel / kernel.sum(), "valid")
    bend = (factor - 1) * (smooth - semitones[voiced].mean())
    speed = 2 ** (RANGE_ST * np.tanh(bend / RANGE_ST) / 12)  # of reading, per frame
    position = np.interp(np.arange(len(signal)), frames * RATE / FRAME_RATE, speed)
    read = np.cumsum(position) - position[0]
    read *= (len(signal) - 1) / read[-1]  # the clip keeps its length: only the melody changes
    return np.interp(read, np.arange(len(signal)), signal)


def _convolve(padded: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    size = 1 << (len(padded) + len(kernel) - 1).bit_length()
    product = np.fft.rfft(padded, size) * np.fft.rfft(kernel, size)
    return np.fft.irfft(product, size)[len(kernel) - 1 :]
