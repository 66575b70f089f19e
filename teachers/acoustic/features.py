"""What the acoustic teacher measures: prosodic and spectral statistics of one clip.

One short-time spectrum (40 ms Hann, every 10 ms) gives everything: levels in mel bands, and by
its inverse transform the autocorrelation that F0 and voicing are read from. Frames count by
how loud they are relative to the clip's own loud frames, so silence around the speech, its length
and the recording level have no effect. All weights are smooth: no frame falls in or out at once.
"""

from __future__ import annotations

import functools

import numpy as np
from scipy import fft

from wav2small.spectrum import (
    BIN_HZ,
    FFT,
    FRAME_RATE,
    SAMPLING_RATE,
    TINY,
    pitch,
    power_spectra,
    weighted_quantile,
)

__all__ = ["FEATURES", "SAMPLING_RATE", "statistics"]

LOWEST, HIGHEST = 60.0, 5500.0  # Hz; what lies outside differs between microphones and codecs
BANDS = 24  # mel bands between them
CEPSTRA = 8
F0_REFERENCE = 100.0  # Hz, 0 semitones
GATE_DB, GATE_WIDTH_DB = 25.0, 3.0  # a frame 25 dB below the loud ones counts half
FLOOR_DB = 55.0  # what lies this far below the loud frames is taken for noise
VOICED, VOICED_WIDTH = 0.5, 0.06  # periodicity at which a frame counts half as voiced

FEATURES: tuple[str, ...] = (
    *(f"cepstrum{order}_mean" for order in range(1, CEPSTRA + 1)),
    *(f"cepstrum{order}_sd" for order in range(1, CEPSTRA + 1)),
    *"alpha_ratio_mean alpha_ratio_sd hammarberg_mean hammarberg_sd slope_low_mean slope_low_sd "
    "slope_mid_mean slope_mid_sd tilt_loudness flux f0_mean f0_sd f0_low f0_high f0_speed f0_trend "
    "f0_loudness f0_jitter periodicity_mean periodicity_sd voiced_share loudness_sd loudness_low "
    "loudness_high loudness_speed loudness_rise loudness_jump shimmer voicing_changes "
    "modulation_centre modulation_slow modulation_syllable modulation_fast pause_share".split(),
)


def statistics(signal: np.ndarray) -> np.ndarray:
    """Statistics of one clip, in the order of `FEATURES`.

    Args:
        signal: (samples,) at 16 kHz, any level, at least one sample

    Returns:
        float64 (len(FEATURES),), finite; the same for `gain * signal`
    """
    power = power_spectra(signal)  # (frames, bins)
    loud = _decibel(power[:, _span(LOWEST, HIGHEST)].sum(1))  # (frames,)
    loudest = np.quantile(loud, 0.95)
    level = loudest + np.logaddexp(0, (loud - loudest + FLOOR_DB) / 4) * 4 - FLOOR_DB
    active = _sigmoid((loud - loudest + GATE_DB) / GATE_WIDTH_DB)
    floor = 10 ** ((loudest - FLOOR_DB) / 10)
    values = _spectrum(power, floor, level, active)
    values |= _voice(power, level, active) | _rhythm(level, active)
    return np.array([values[name] for name in FEATURES])


def _spectrum(
    power: np.ndarray, floor: float, level: np.ndarray, active: np.ndarray
) -> dict[str, float]:
    weights = active / active.sum()
    floor_bin = floor * BIN_HZ / (HIGHEST - LOWEST)
    bands = _decibel(power @ _mel() + floor_bin)  # (frames, BANDS), mean power in each
    cepstra = fft.dct(bands, axis=1, norm="ortho")[:, 1 : CEPSTRA + 1] / np.sqrt(BANDS)
    mean, deviation = _moments(cepstra, weights)
    values = {}
    for order in range(CEPSTRA):
        values[f"cepstrum{order + 1}_mean"] = mean[order]
        values[f"cepstrum{order + 1}_sd"] = deviation[order]
    low, high = _sum(power, 60, 1000) + floor / 5, _sum(power, 1000, 5000) + floor / 5
    alpha = _decibel(low) - _decibel(high)
    low, high = _norm(power, 60, 2000) + floor / 9, _norm(power, 2000, 5000) + floor / 9
    slopes = bands @ _slopes()
    tracks = {"alpha_ratio": alpha, "hammarberg": _decibel(low) - _decibel(high)}
    tracks |= {"slope_low": slopes[:, 0], "slope_mid": slopes[:, 1]}
    for name, track in tracks.items():
        track_mean, track_sd = _moments(track[:, None], weights)
        values[f"{name}_mean"], values[f"{name}_sd"] = track_mean[0], track_sd[0]
    values["tilt_loudness"] = _regression(level, alpha, weights, 0.9)
    change = np.sqrt(np.mean((bands[2:] - bands[:-2]) ** 2, axis=1))
    values["flux"] = float(np.average(change, weights=active[2:] * active[:-2] + TINY))
    return values


def _voice(power: np.ndarray, level: np.ndarray, active: np.ndarray) -> dict[str, float]:
    f0, periodicity = pitch(power)
    semitones = 12 * np.log2(f0 / F0_REFERENCE)
    voiced = active * _sigmoid((periodicity - VOICED) / VOICED_WIDTH)
    # 30 ms of an average voice stand in where nothing is voiced.
    prior, prior_weight = 8.0, 3.0
    total = voiced.sum() + prior_weight
    mean = (voiced @ semitones + prior_weight * prior) / total
    centred = semitones - mean
    sd = np.sqrt((voiced @ centred**2 + prior_weight * 4) / total)
    both = np.concatenate([semitones, [mean]])
    both_weights = np.concatenate([voiced, [prior_weight]])
    low, high = (weighted_quantile(both, both_weights, q) for q in (0.1, 0.9))
    weights = voiced / total
    pair = voiced[1:] * voiced[:-1]
    # A jump of more than a few semitones in 10 ms is an error of the tracker, not of the voice.
    step = 3 * np.tanh(np.diff(semitones) / 3)
    triple = pair[1:] * pair[:-1]
    bend = np.diff(step)
    time = np.arange(len(f0)) / FRAME_RATE
    shares = active / active.sum()
    periodicity_mean, periodicity_sd = _moments(periodicity[:, None], shares)
    shimmer = np.diff(level, 2)
    return {
        "f0_mean": mean,
        "f0_sd": sd,
        "f0_low": low - mean,
        "f0_high": high - mean,
        "f0_speed": (pair @ np.abs(step)) / (pair.sum() + prior_weight) * FRAME_RATE,
        "f0_trend": _regression(time, semitones, weights, 0.01),
        "f0_loudness": _regression(level, semitones, weights, 0.9),
        "f0_jitter": (triple @ np.abs(bend)) / (triple.sum() + prior_weight),
        "periodicity_mean": periodicity_mean[0],
        "periodicity_sd": periodicity_sd[0],
        "voiced_share": voiced.sum() / active.sum(),
        "voicing_changes": np.abs(np.diff(voiced)).sum() / active.sum() * FRAME_RATE,
        "shimmer": (triple @ np.abs(shimmer)) / (triple.sum() + prior_weight),
    }


def _rhythm(level: np.ndarray, active: np.ndarray) -> dict[str, float]:
    weights = active / active.sum()
    mean, sd = _moments(level[:, None], weights)
    low, middle, high = (weighted_quantile(level, active, q) for q in (0.1, 0.5, 0.9))
    pair = active[1:] * active[:-1]
    # Modulation of the level, in octaves around 1 Hz. What wobbles by 1 dB is steady.
    size = 4 * max(128, 1 << (len(level) - 1).bit_length())
    modulation = np.abs(fft.rfft(active * (level - mean[0]), size)) ** 2
    rate = np.arange(len(modulation)) * FRAME_RATE / size
    steady = 0.5 * size * active.sum()
    slow, syllable, fast = (
        modulation[(rate >= start) & (rate < stop)].sum()
        for start, stop in ((0.7, 3), (3, 7), (7, 16))
    )
    full = slow + syllable + fast + steady
    spoken = (rate >= 1) & (rate < 14)
    centre = (modulation[spoken] @ np.log2(rate[spoken]) + 2 * steady) / (
        modulation[spoken].sum() + steady
    )
    smoother = _smoother()
    rise = np.diff(np.convolve(np.pad(level, len(smoother) // 2, mode="edge"), smoother, "valid"))
    inside = np.minimum(np.maximum.accumulate(active), np.maximum.accumulate(active[::-1])[::-1])
    return {
        "loudness_sd": sd[0],
        "loudness_low": middle - low,
        "loudness_high": high - middle,
        "loudness_speed": (pair @ np.abs(np.diff(level))) / (pair.sum() + 1),
        "loudness_rise": (pair @ np.maximum(rise, 0)) / (pair.sum() + 1),
        "loudness_jump": weighted_quantile(np.abs(rise), pair + TINY, 0.9),
        "modulation_centre": centre,
        "modulation_slow": np.sqrt(slow / full),
        "modulation_syllable": np.sqrt(syllable / full),
        "modulation_fast": np.sqrt(fast / full),
        "pause_share": 1 - active.sum() / inside.sum(),
    }


def _moments(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean and standard deviation over frames: (frames, n) -> (n,), (n,)."""
    mean = weights @ values
    return mean, np.sqrt(weights @ (values - mean) ** 2 + 1e-6)


def _regression(x: np.ndarray, y: np.ndarray, weights: np.ndarray, prior: float) -> float:
    """Weighted slope of y on x, shrunk by a variance `prior` of x at slope 0."""
    total = weights.sum() + TINY
    x = x - weights @ x / total
    y = y - weights @ y / total
    return float(weights @ (x * y) / (weights @ x**2 + prior))


def _sum(power: np.ndarray, start: float, stop: float) -> np.ndarray:
    return power[:, _span(start, stop)].sum(1)


def _norm(power: np.ndarray, start: float, stop: float) -> np.ndarray:
    """The strongest part of a span, as a smooth maximum over bins."""
    part = power[:, _span(start, stop)]
    return (part * part).sum(1) / (part.sum(1) + TINY)


def _span(start: float, stop: float) -> slice:
    return slice(round(start / BIN_HZ), round(stop / BIN_HZ))


def _decibel(power: np.ndarray) -> np.ndarray:
    return 10 * np.log10(power + TINY)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))


@functools.cache
def _smoother() -> np.ndarray:
    """Hann of 70 ms, unit sum: shorter than a syllable."""
    kernel = np.hanning(9)[1:-1]
    return kernel / kernel.sum()


@functools.cache
def _mel() -> np.ndarray:
    """Triangles (bins, BANDS), equal steps in O'Shaughnessy's mel, unit sum."""
    lowest, highest = 2595 * np.log10(1 + np.array([LOWEST, HIGHEST]) / 700)
    mel = np.linspace(lowest, highest, BANDS + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    hertz = np.arange(FFT // 2 + 1)[:, None] * BIN_HZ
    rise = (hertz - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - hertz) / (edges[2:] - edges[1:-1])
    triangles = np.maximum(0, np.minimum(rise, fall))
    return (triangles / triangles.sum(0)).astype(np.float32)


@functools.cache
def _slopes() -> np.ndarray:
    """Regression of band levels on octaves, (BANDS, 2): below 900 Hz and 900 Hz to 5500 Hz."""
    hertz = np.arange(FFT // 2 + 1) * BIN_HZ
    octaves = np.log2(hertz @ _mel())
    result = np.zeros((BANDS, 2))
    for column, part in enumerate((octaves < np.log2(900), octaves >= np.log2(900))):
        centred = np.where(part, octaves - octaves[part].mean(), 0)
        result[:, column] = centred / (centred**2).sum()
    return result
