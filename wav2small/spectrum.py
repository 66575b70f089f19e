"""The short-time spectrum of the acoustic teacher, and the pitch read from it."""

from __future__ import annotations

import functools

import numpy as np
from scipy import fft

SAMPLING_RATE = 16000  # Hz
HOP = 160  # samples, 10 ms
WINDOW = 640  # samples, 40 ms: two periods of 50 Hz
FFT = 1024  # samples
FRAME_RATE = SAMPLING_RATE / HOP  # frames per second
BIN_HZ = SAMPLING_RATE / FFT
F0_LOWEST, F0_HIGHEST = 65.0, 500.0  # Hz
TINY = 1e-12  # keeps divisions and logarithms finite; far below any signal of mean square 1


def power_spectra(signal: np.ndarray) -> np.ndarray:
    """Power spectra (frames, FFT // 2 + 1) of a signal brought to mean square 1."""
    signal = np.asarray(signal, dtype=np.float64)
    signal = signal - signal.mean()
    signal = signal / (np.sqrt(np.mean(signal**2)) + 1e-30)
    signal = np.pad(signal, (0, max(0, WINDOW + 2 * HOP - len(signal))))  # at least 3 frames
    framed = np.lib.stride_tricks.sliding_window_view(signal.astype(np.float32), WINDOW)[::HOP]
    spectrum = fft.rfft(framed * _window(), FFT, axis=1)
    return spectrum.real**2 + spectrum.imag**2


def pitch(power: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """F0 and periodicity of every frame.

    The autocorrelation of Boersma (1993), divided by that of the window. Each frame's peak is
    looked for twice: freely, then again near the clip's typical F0, which corrects octave errors.

    Args:
        power: (frames, bins) power spectra

    Returns:
        F0 in Hz (frames,) and periodicity 0..1 (frames,)
    """
    window_correlation, lags, octaves = _lag_tables()
    # Half of the bins: the autocorrelation below 4 kHz, at 8 kHz.
    correlation = fft.irfft(power[:, : FFT // 4 + 1], axis=1)[:, : len(window_correlation)]
    correlation = correlation / (correlation[:, :1] + TINY) / window_correlation
    candidates = correlation[:, lags[0] - 1 : lags[-1] + 2]
    peak = (candidates[:, 1:-1] >= candidates[:, :-2]) & (candidates[:, 1:-1] >= candidates[:, 2:])
    score = np.where(peak, candidates[:, 1:-1], -1.0)
    energy = power.sum(1)
    free = score - 0.03 * octaves
    best = free.argmax(1)
    strength = np.clip(np.take_along_axis(score, best[:, None], 1)[:, 0], 0, 1)
    typical = weighted_quantile(octaves[best], np.sqrt(energy) * strength**4 + TINY, 0.5)
    near = score - 0.03 * octaves - 0.15 * np.maximum(np.abs(octaves - typical) - 0.4, 0)
    best = near.argmax(1)
    rows = np.arange(len(best))
    left, middle, right = (candidates[rows, best + shift] for shift in (0, 1, 2))
    curve = left - 2 * middle + right
    shift = np.where(curve < -1e-9, 0.5 * (left - right) / np.minimum(curve, -1e-9), 0.0)
    shift = np.clip(shift, -0.5, 0.5)
    found = np.clip(middle - 0.25 * (left - right) * shift, 0, 1)
    return SAMPLING_RATE / 2 / (lags[best] + shift), found


def weighted_quantile(values: np.ndarray, weights: np.ndarray, q: float) -> float:
    """Quantile of values (n,) by weights (n,), continuous in both."""
    order = np.argsort(values, kind="stable")
    weights = weights[order]
    position = (np.cumsum(weights) - 0.5 * weights) / weights.sum()
    return float(np.interp(q, position, values[order]))


@functools.cache
def _window() -> np.ndarray:
    return np.hanning(WINDOW + 1)[:-1].astype(np.float32)


@functools.cache
def _lag_tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Autocorrelation of the window at 8 kHz, the lags looked at, and their size in octaves."""
    rate = SAMPLING_RATE / 2
    spectrum = np.abs(np.fft.rfft(_window().astype(np.float64), FFT)) ** 2
    correlation = np.fft.irfft(spectrum[: FFT // 4 + 1])
    lags = np.arange(int(rate / F0_HIGHEST), int(rate / F0_LOWEST) + 1)
    window = (correlation / correlation[0])[: lags[-1] + 3].astype(np.float32)
    return window, lags, np.log2(lags / lags[0])
