"""Disturbed copies of a clip, so that the embedded teacher is not fitted to one studio."""

from __future__ import annotations

import numpy as np
from scipy import fft

from wav2small import operations

from .features import SAMPLING_RATE


def disturbed(signal: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Another speaker size, part, silence, room, microphone and noise around the same words.

    Args:
        signal: (samples,) at 16 kHz
        draw: source of chance; the same state gives the same samples

    Returns:
        float64 (samples,), another length
    """
    signal = signal.astype(np.float64)
    # Faster and higher, or slower and lower: vocal tract and F0 together, as between sexes.
    factor = np.exp(draw.uniform(np.log(0.86), np.log(1.16)))
    signal = operations.resample(signal, SAMPLING_RATE * factor, SAMPLING_RATE)
    length = int(len(signal) * draw.uniform(0.65, 1))
    start = draw.integers(0, len(signal) - length + 1)
    silences = draw.uniform(0, 0.8, 2) * (draw.random(2) < 0.7) * SAMPLING_RATE
    signal = np.pad(signal[start : start + length], silences.astype(int))
    if draw.random() < 0.5:
        signal = _room(signal, draw)
    return _noise(_channel(signal, draw), draw)


def _room(signal: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Decaying noise of 60 dB in .1 to .6 s, 0 to 15 dB below the direct sound."""
    samples = int(draw.uniform(0.1, 0.6) * SAMPLING_RATE)
    tail = operations.decaying_noise(draw.standard_normal(samples), draw.uniform(0, 15))
    tail[0] += 1
    size = fft.next_fast_len(len(signal) + samples, real=True)
    return fft.irfft(fft.rfft(signal, size) * fft.rfft(tail, size), size)[: len(signal)]


def _channel(signal: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """A smooth random response: bumps, tilt, and often a high-pass or a low-pass."""
    size = fft.next_fast_len(len(signal) + 400, real=True)
    hertz = np.arange(size // 2 + 1) * SAMPLING_RATE / size
    octave = np.log2(np.maximum(hertz, 40) / 1000)
    gain = np.interp(octave, np.linspace(-4.7, 3, 8), draw.normal(0, 2.5, 8))
    gain += draw.normal(0, 1.2) * octave
    if draw.random() < 0.5:
        corner = np.log2(draw.uniform(60, 250) / 1000)
        gain -= 4 * np.logaddexp(0, (corner - octave) * 6)
    if draw.random() < 0.4:
        corner = np.log2(draw.uniform(3400, 7500) / 1000)
        gain -= 7.5 * np.logaddexp(0, (octave - corner) * 8)
    return fft.irfft(fft.rfft(signal, size) * 10 ** (gain / 20), size)[: len(signal)]


def _noise(signal: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """White to pink noise, 12 to 50 dB below the signal."""
    size = fft.next_fast_len(len(signal), real=True)
    hertz = np.arange(size // 2 + 1) * SAMPLING_RATE / size
    noise = fft.irfft(
        fft.rfft(draw.standard_normal(size)) * np.maximum(hertz, 40) ** -draw.uniform(0, 1), size
    )[: len(signal)]
    ratio = 10 ** (-draw.uniform(12, 50) / 20)
    return signal + noise * ratio * np.sqrt(np.mean(signal**2) / np.mean(noise**2))
