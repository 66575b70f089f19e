"""The voice's pitch of a clip, to ask whether a model serves low and high voices alike."""

from __future__ import annotations

import numpy as np
import scipy.fft

RATE = 16000  # Hz
LOWEST_HZ, HIGHEST_HZ = 50.0, 350.0  # ser-tests leaves out clips beyond these
GROUPS = (("low", 145.0), ("medium", 190.0), ("high", np.inf))  # upper bounds in Hz, ser-tests

_SEARCH_HZ = 500  # shouting goes beyond the groups; it must not be taken for its octave
_FRAME, _HOP = 640, 320  # 40 ms every 20 ms: two periods of the lowest voice
_VOICED = 0.5  # least normalised autocorrelation of a voiced frame
_OCTAVE_COST = 0.03  # of correlation: what a period twice as long must gain


def mean_f0(signal: np.ndarray) -> float:
    """Mean fundamental frequency of the voiced frames.

    Autocorrelation, divided by that of the window (Boersma 1993); a frame is voiced if its
    best period correlates by at least .5 and it is less than 25 dB below the loudest.

    Args:
        signal: float32 (samples,) at 16 kHz

    Returns:
        Hz; NaN where fewer than three frames are voiced
    """
    if len(signal) < _FRAME:
        return float("nan")
    frames = np.lib.stride_tricks.sliding_window_view(signal, _FRAME)[::_HOP]  # (frames, 640)
    frames = frames - frames.mean(1, keepdims=True)
    energy = np.square(frames).mean(1)
    frames = frames[energy > energy.max() * 10**-2.5]
    window = np.hanning(_FRAME).astype(np.float32)
    size = 2 * _FRAME
    shortest, longest = RATE // _SEARCH_HZ, int(RATE / LOWEST_HZ)
    taper = _autocorrelation(window[None], size)[:, : longest + 2]
    correlation = _autocorrelation(frames * window, size)[:, : longest + 2] / taper
    lags = correlation[:, shortest - 1 : longest + 2]
    inner = lags[:, 1:-1]
    # A multiple of the period correlates as well; a short lag wins over a slightly better long one.
    handicap = _OCTAVE_COST * np.log2(np.arange(inner.shape[1]) + shortest)
    best = (inner - handicap).argmax(1)
    rows = np.arange(len(best))
    before, peak, after = (lags[rows, best + shift] for shift in (0, 1, 2))
    bend = before - 2 * peak + after
    shift = np.where(bend < 0, 0.5 * (before - after) / np.where(bend < 0, bend, -1), 0)
    voiced = (peak > _VOICED) & (before < peak) & (after < peak)
    if voiced.sum() < 3:
        return float("nan")
    f0 = (RATE / (best + shortest + shift))[voiced]
    # Frames more than half an octave from the clip's median are mostly octave errors.
    return float(f0[np.abs(np.log2(f0 / np.median(f0))) < 0.5].mean())


def group(f0_hz: float) -> str | None:
    """Name of the group of a mean pitch; None outside 50..350 Hz or where none was found."""
    if not LOWEST_HZ <= f0_hz <= HIGHEST_HZ:
        return None
    return next(name for name, upper in GROUPS if f0_hz <= upper)


def _autocorrelation(frames: np.ndarray, size: int) -> np.ndarray:
    power = np.square(np.abs(scipy.fft.rfft(frames, size)))
    correlation = scipy.fft.irfft(power, size)[:, : frames.shape[1]]
    return correlation / correlation[:, :1]
