"""Log-mel front end: power spectrogram by two fixed convolutions, Slaney mel bands, decibels.

Module and buffer names follow the published Wav2Small checkpoint
(`spectrogram_extractor.conv_real.weight`, `logmel_extractor.melW`), so that its stored
constants load and are used.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .masking import N, out_length

SAMPLING_RATE = 16000
FLOOR = 1e-10  # power below which the logarithm is cut: -100 dB


def hann(size: int) -> np.ndarray:
    """Periodic Hann window (size,), float64."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)


def dft(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Windowed DFT rows 0..size/2, real and imaginary part, each (size // 2 + 1, size) float64."""
    angle = 2 * np.pi * np.outer(np.arange(size // 2 + 1), np.arange(size)) / size
    return np.cos(angle) * hann(size), -np.sin(angle) * hann(size)


def hz_to_mel(hz: np.ndarray | float) -> np.ndarray:
    """Slaney's mel scale: linear to 1 kHz, logarithmic above."""
    hz = np.asarray(hz, dtype=np.float64)
    logarithmic = 15 + 27 * np.log(np.maximum(hz, 1000) / 1000) / np.log(6.4)
    return np.where(hz < 1000, hz * 3 / 200, logarithmic)


def mel_to_hz(mel: np.ndarray | float) -> np.ndarray:
    """Inverse of `hz_to_mel`."""
    mel = np.asarray(mel, dtype=np.float64)
    logarithmic = 1000 * np.exp((np.maximum(mel, 15) - 15) * np.log(6.4) / 27)
    return np.where(mel < 15, mel * 200 / 3, logarithmic)


def mel_centres(n_mels: int, fmin: float = 0.0, fmax: float = 8000.0) -> np.ndarray:
    """Centres of the bands of `mel_bands` in Hz, (n_mels,) float64."""
    return mel_to_hz(np.linspace(hz_to_mel(fmin), hz_to_mel(fmax), n_mels + 2))[1:-1]


def mel_bands(n_fft: int, n_mels: int, fmin: float = 0.0, fmax: float = 8000.0) -> np.ndarray:
    """Slaney mel triangles of unit area, (n_fft // 2 + 1, n_mels) float64.

    Equal to `librosa.filters.mel(sr=16000, n_fft=n_fft, n_mels=n_mels).T`.
    """
    bins = np.arange(n_fft // 2 + 1) * SAMPLING_RATE / n_fft
    edges = mel_to_hz(np.linspace(hz_to_mel(fmin), hz_to_mel(fmax), n_mels + 2))
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rising = (bins[:, None] - low) / (centre - low)
    falling = (high - bins[:, None]) / (high - centre)
    return np.maximum(0, np.minimum(rising, falling)) * 2 / (high - low)


def constants(module: nn.Module, *, stored: bool = False, **values: np.ndarray) -> None:
    """Give a module float32 tensors that are never trained, `stored` with its weights or not."""
    for name, value in values.items():
        tensor = torch.tensor(value, dtype=torch.float32)
        module.register_buffer(name, tensor, persistent=stored)


class Constant(nn.Module):
    """A tensor that is stored with the weights and never trained."""

    weight: Tensor

    def __init__(self, value: np.ndarray):
        super().__init__()
        constants(self, stored=True, weight=value)


class Spectrogram(nn.Module):
    """Power spectrogram without padding: (B, T) -> (B, frames, n_fft // 2 + 1).

    Args:
        n_fft: window and DFT size in samples (periodic Hann)
        hop: distance of frames in samples

    Example:
        >>> Spectrogram(64, 32)(torch.zeros(2, 16000)).shape
        torch.Size([2, 499, 33])
    """

    frontend = True  # counted as such by `costs`

    def __init__(self, n_fft: int, hop: int):
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        real, imag = dft(n_fft)
        self.conv_real = Constant(real[:, None, :])  # (bins, 1, n_fft)
        self.conv_imag = Constant(imag[:, None, :])

    def frames(self, samples: N) -> N:
        """Frames that lie wholly inside a clip of that many samples."""
        return out_length(samples, self.n_fft, self.hop)

    def forward(self, signal: Tensor) -> Tensor:
        kernel = torch.cat((self.conv_real.weight, self.conv_imag.weight))
        spectrum = nn.functional.conv1d(signal[:, None, :], kernel, stride=self.hop)
        real, imag = spectrum.chunk(2, dim=1)
        return (real * real + imag * imag).transpose(1, 2)


class LogMel(nn.Module):
    """Power -> mel bands in decibels: (B, frames, bins) -> (B, frames, n_mels).

    Example:
        >>> LogMel(64, 26)(torch.zeros(1, 499, 33))[0, 0, 0]  # the floor, in decibels
        tensor(-100.)
    """

    melW: Tensor
    frontend = True

    def __init__(self, n_fft: int, n_mels: int):
        super().__init__()
        constants(self, stored=True, melW=mel_bands(n_fft, n_mels))

    def forward(self, power: Tensor) -> Tensor:
        return 10 * torch.log10(torch.clamp(power @ self.melW, min=FLOOR))


def full_precision(model: nn.Module) -> None:
    """Keep autocast out of spectrogram and log-mel: 8 bits of mantissa are 50 dB too few there."""
    for module in model.modules():
        if getattr(module, "frontend", False):
            module.__class__ = _exact(type(module))  # type: ignore[arg-type]


@functools.cache
def _exact(kind: type[Any]) -> type[Any]:
    """The same module in full precision. A class of its own, which torch.compile can follow."""

    def forward(self: Any, *inputs: Tensor) -> Any:
        with torch.autocast(inputs[0].device.type, enabled=False):
            return kind.forward(self, *inputs)

    return type(kind.__name__, (kind,), {"forward": forward})
