"""MobileNetV3 and V4 students: timm's networks on a one-channel log-mel image.

Front end: n_fft 144, hop 72 (222 frames per second), Hann, as in the paper; 26 mel bands
[chosen: with the 72K model's bands `mobilenetv4_conv_small` takes the published 7 ms].

Clips of different lengths share a batch. timm's layers know nothing of lengths, so the ones that
look along time get them: a `Lengths` shared by all holds the valid frames at every resolution,
each convolution larger than 1x1 first sets what lies beyond to zero (what its own padding would
be for the clip alone), squeeze-and-excitation and the last pooling average valid frames, and
batch normalisation gathers its statistics there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from . import registry
from .base import Student
from .frontend import LogMel, Spectrogram
from .masking import masked_batch_norm, normalise, out_length, time_mask

N_FFT, HOP = 144, 72  # published


class Lengths:
    """Valid frames of each clip at every time resolution of one forward pass.

    A resolution is known by its (padded) number of frames; a layer that changes it adds the next.

    Example:
        >>> lengths = Lengths()
        >>> lengths.start(torch.tensor([2, 3]), size=3)
        >>> lengths.mask(3)
        tensor([[ True,  True, False],
                [ True,  True,  True]])
    """

    def __init__(self) -> None:
        self.by_size: dict[int, torch.Tensor] = {}

    def start(self, lengths: torch.Tensor | None, size: int) -> None:
        self.by_size = {} if lengths is None else {size: lengths}

    def mask(self, size: int) -> torch.Tensor | None:
        """(B, size) bool, None when nothing is padded."""
        return time_mask(self.by_size[size], size) if self.by_size else None


class MaskedConv2d(nn.Conv2d):
    """Conv2d over (B, C, T, F) that gets zeros beyond the end of each clip.

    Example:
        >>> layer = MaskedConv2d(1, 1, 3)
        >>> layer.lengths = Lengths()
        >>> layer.lengths.start(torch.tensor([4, 5]), size=5)
        >>> layer(torch.zeros(2, 1, 5, 5)).shape, layer.lengths.by_size[3]
        (torch.Size([2, 1, 3, 3]), tensor([2, 3]))
    """

    lengths: Lengths

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = x.shape[2]
        mask = self.lengths.mask(size)
        y = super().forward(x if mask is None else x * mask[:, None, :, None])
        if mask is not None and y.shape[2] != size:
            kernel, stride, padding = self.kernel_size[0], self.stride[0], int(self.padding[0])
            valid = self.lengths.by_size[size]
            self.lengths.by_size[y.shape[2]] = out_length(valid, kernel, stride, padding)
        return y


class MaskedNorm(nn.BatchNorm2d):
    """timm's BatchNorm with activation; training statistics over valid frames."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        mask = self.lengths.mask(x.shape[2]) if self.training else None
        return self.act(self.drop(masked_batch_norm(self, x, mask)))


class MaskedSqueeze(nn.Module):
    """timm's squeeze-and-excitation; the squeeze averages valid frames."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        squeezed = masked_mean(x, self.lengths.mask(x.shape[2]))
        return x * self.gate(self.conv_expand(self.act1(self.conv_reduce(squeezed))))


def masked_mean(x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Mean over valid frames and all bands: (B, C, T, F) -> (B, C, 1, 1)."""
    if mask is None:
        return x.mean(dim=(2, 3), keepdim=True)
    weight = mask[:, None, :, None].to(x.dtype)
    count = weight.sum(dim=2, keepdim=True) * x.shape[3]
    return (x * weight).sum(dim=(2, 3), keepdim=True) / count


def apply_lengths(network: nn.Module, lengths: Lengths) -> None:
    """Exchange the class of every layer of a timm network that looks along time.

    The layers keep their weights, names and settings; only `forward` changes.
    """
    from timm.layers import BatchNormAct2d
    from timm.models._efficientnet_blocks import SqueezeExcite

    masked = {BatchNormAct2d: MaskedNorm, SqueezeExcite: MaskedSqueeze, nn.Conv2d: MaskedConv2d}
    module: Any
    for module in network.modules():
        kind = type(module)
        if kind in masked and not (kind is nn.Conv2d and module.kernel_size[0] == 1):
            module.__class__ = masked[kind]
            module.lengths = lengths


class MobileNet(Student):
    """See the module. Embedding: what timm feeds its classifier (1024 or 1280 numbers).

    Args:
        mels: bands
        **options: of `Student`: `categories`, names for an optional second head

    Example:
        >>> from wav2small.students.registry import create
        >>> create("mobilenetv3_small").eval()(torch.zeros(1, 8000)).shape
        torch.Size([1, 3])
    """

    timm_name = ""
    licence = "MIT; architecture from timm (Apache-2.0)"

    def __init__(self, *, mels: int = 26, **options: Any):
        import timm

        network: Any = timm.create_model(self.timm_name, in_chans=1, num_classes=0)
        super().__init__(network.head_hidden_size, mels=mels, **options)
        self.spectrogram_extractor = Spectrogram(N_FFT, HOP)
        self.logmel_extractor = LogMel(N_FFT, mels)
        self.network = network
        self.lengths = Lengths()
        apply_lengths(network, self.lengths)
        # The head's normalisation works on one number per clip: there is no time left to mask.
        network.norm_head.lengths = Lengths()

    def _embed(self, signal: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        x = self.logmel_extractor(self.spectrogram_extractor(normalise(signal, lengths)))[:, None]
        if lengths is not None:
            lengths = self.spectrogram_extractor.frames(lengths)
        self.lengths.start(lengths, x.shape[2])
        net: Any = self.network
        x = net.forward_features(x)
        x = masked_mean(x, self.lengths.mask(x.shape[2]))
        self.lengths.start(None, 0)
        return net.flatten(net.act2(net.norm_head(net.conv_head(x))))


for _name, _timm_name, _description in (
    ("mobilenetv3_small", "mobilenetv3_small_100", "squeeze-and-excitation; quickest of the four"),
    ("mobilenetv3_large", "mobilenetv3_large_100", "squeeze-and-excitation; for servers"),
    ("mobilenetv4_conv_small", "mobilenetv4_conv_small",
     "the paper's best: for phones, no SE layers"),
    ("mobilenetv4_conv_medium", "mobilenetv4_conv_medium", "largest: for a GPU or a server"),
):  # fmt: skip
    _members = {"timm_name": _timm_name, "__module__": __name__, "__doc__": MobileNet.__doc__}
    registry.register_student(_name, description=_description)(type(_name, (MobileNet,), _members))
