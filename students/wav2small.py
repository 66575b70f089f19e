"""Wav2Small, 72K parameters (arXiv 2408.13920): log-mel, seven convolutions, soft pooling.

The 72K weights were never published; steps 5 and 6 of the body (tokens of 169 numbers, two
linear maps, softmax over time) are the reading that gives the published parameter count:
67,395 trainable, 72,477 with the DFT (4,224) and the mel bands (858), which are constants here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from . import registry
from .base import Student
from .frontend import LogMel, Spectrogram
from .masking import masked_batch_norm, normalise, out_length, time_mask


class ConvBlock(nn.Module):
    """Conv2d 3x3 without bias, BatchNorm, ReLU: (B, C, T, F) -> (B, D, T, F).

    Example:
        >>> ConvBlock(1, 13)(torch.zeros(2, 1, 50, 26)).shape
        torch.Size([2, 13, 50, 26])
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return torch.relu(masked_batch_norm(self.norm, self.conv(x), mask))


class Vgg7(nn.Module):
    """Normalised signal -> tokens: (B, T) -> (B, 13, frames / 2, 13), and its mask.

    The layers `lin` and `sof` are the student's: they differ between the 72K and 16K models.

    Example:
        >>> body = Vgg7(nn.Identity(), nn.Identity(), n_fft=64, hop=32, half_mel=13)
        >>> body(torch.zeros(1, 16000))[0].shape
        torch.Size([1, 13, 250, 13])
    """

    def __init__(self, lin: nn.Module, sof: nn.Module, *, n_fft: int, hop: int, half_mel: int):
        super().__init__()
        self.spectrogram_extractor = Spectrogram(n_fft, hop)
        self.logmel_extractor = LogMel(n_fft, 2 * half_mel)
        for number in range(1, 8):
            self.add_module(f"l{number}", ConvBlock(1 if number == 1 else half_mel, half_mel))
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.lin = lin
        self.sof = sof

    def forward(
        self, signal: Tensor, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        x = self.logmel_extractor(self.spectrogram_extractor(signal))[:, None]  # (B, 1, T, 2M)
        mask = None
        if lengths is not None:
            lengths = self.spectrogram_extractor.frames(lengths)
            mask = time_mask(lengths, x.shape[2])
            x = x * mask[:, None, :, None]
        for number in (1, 2, 3):
            x = getattr(self, f"l{number}")(x, mask)
        x = self.maxpool(x)  # after ReLU zeros beyond the end never win
        if lengths is not None:
            mask = time_mask(out_length(lengths, 3, 2, 1), x.shape[2])
            x = x * mask[:, None, :, None]
        for number in (4, 5, 6, 7):
            x = getattr(self, f"l{number}")(x, mask)
        return x, mask


@registry.register_student(
    "wav2small", description="the paper's 72K model: the reference for fidelity"
)
class Wav2Small(Student):
    """See the module. Embedding: 169 numbers (13 channels x 13 mel pairs).

    Args:
        half_mel: channels, and half the number of mel bands
        n_fft: DFT size in samples
        hop: distance of frames in samples
        **options: of `Student`: `categories`, names for an optional second head

    Example:
        >>> student = Wav2Small()
        >>> sum(weight.numel() for weight in student.parameters())
        67395
        >>> student(torch.zeros(2, 16000)).shape
        torch.Size([2, 3])
    """

    def __init__(self, *, half_mel: int = 13, n_fft: int = 64, hop: int = 32, **options: Any):
        size = half_mel * half_mel
        super().__init__(size, half_mel=half_mel, n_fft=n_fft, hop=hop, **options)
        lin, sof = (nn.Linear(size, size) for _ in range(2))
        self.vgg7 = Vgg7(lin, sof, n_fft=n_fft, hop=hop, half_mel=half_mel)

    def _embed(self, signal: Tensor, lengths: Tensor | None) -> Tensor:
        x, mask = self.vgg7(normalise(signal, lengths), lengths)
        tokens = x.transpose(1, 2).flatten(2)  # (B, T, 169)
        logits = self.vgg7.sof(tokens)
        if mask is not None:
            logits = logits.masked_fill(~mask[:, :, None], float("-inf"))
        return (self.vgg7.lin(tokens) * logits.softmax(dim=1)).sum(dim=1)
