"""Masks for batches of clips of different lengths: padding never changes an output.

A clip alone sees zeros beyond its end wherever a convolution pads. In a batch the place beyond
its end holds something else, so every layer that looks along time first sets what lies beyond
the valid frames to zero, and every statistic over time counts valid frames only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from wav2small.training import distributed as parallel

PART = 1 << 18  # numbers that are normalised at a time: 1 MB (timed)
#: A length, or a tensor of the lengths of a batch.
N = TypeVar("N", int, Tensor)


def time_mask(lengths: Tensor, size: int) -> Tensor:
    """True where a position belongs to the clip: (B,) lengths -> (B, size) bool."""
    return torch.arange(size, device=lengths.device)[None, :] < lengths[:, None]


def out_length(length: N, kernel: int, stride: int = 1, padding: int = 0) -> N:
    """Output positions of a convolution or pooling of `length` input positions."""
    return (length + 2 * padding - kernel) // stride + 1


def normalise(signal: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Zero mean and unit variance per clip, zeros beyond its end.

    Args:
        signal: (B, T)
        lengths: valid samples (B,), None = all

    Returns:
        (signal - mean) / sqrt(variance + 1e-7), population variance (arXiv 2408.13920)
    """
    if lengths is None:
        # Twice: what rounding leaves of a constant signal would be scaled up to full size.
        for _ in range(2):
            signal = signal - signal.mean(dim=1, keepdim=True)
        variance = (signal * signal).mean(dim=1, keepdim=True)
        return signal / torch.sqrt(variance + 1e-7)
    mask = time_mask(lengths, signal.shape[1])
    count = lengths[:, None].to(signal.dtype)
    signal = signal.masked_fill(~mask, 0.0)
    for _ in range(2):
        signal = (signal - signal.sum(dim=1, keepdim=True) / count).masked_fill(~mask, 0.0)
    variance = (signal * signal).sum(dim=1, keepdim=True) / count
    return signal / torch.sqrt(variance + 1e-7)


def masked_batch_norm(norm: _BatchNorm, x: Tensor, mask: Tensor | None) -> Tensor:
    """Batch normalisation whose training statistics leave padding out; zeros beyond the end.

    Args:
        norm: the layer; its running statistics are updated in training
        x: (B, C, T, F)
        mask: (B, T) bool, None = everything is valid
    """
    valid = None if mask is None else mask[:, None, :, None].to(x.dtype)
    by_rows = mask is not None and x.is_contiguous(memory_format=torch.channels_last)
    momentum = 0.1 if norm.momentum is None else norm.momentum
    weight, bias, running = norm.weight, norm.bias, (norm.running_mean, norm.running_var)
    if norm.training and parallel.world()[1] > 1 and not by_rows:
        y = parallel.global_batch_norm(norm, x, valid)
        return y if valid is None else y * valid
    if valid is None or not norm.training:
        y = nn.functional.batch_norm(x, *running, weight, bias, norm.training, momentum, norm.eps)
        return y if valid is None else y * valid
    if by_rows:
        rows, mean, variance, count = _MaskedNorm.apply(x, mask, weight, bias, norm.eps)
        batch, channels, time, size = x.shape
        result = rows.view(batch, time, size, channels).permute(0, 3, 1, 2)
    else:
        count = valid.sum() * x.shape[3]
        mean = (x * valid).sum(dim=(0, 2, 3)) / count
        centred = (x - mean[None, :, None, None]) * valid
        variance = (centred * centred).sum(dim=(0, 2, 3)) / count
        scale = weight / torch.sqrt(variance + norm.eps)
        result = centred * scale[None, :, None, None] + bias[None, :, None, None] * valid
    with torch.no_grad():
        unbiased = variance * count / (count - 1)
        for former, new in zip(running, (mean, unbiased), strict=True):
            assert former is not None
            former.lerp_(new.to(former.dtype), momentum)
    return result


def _parts(rows: Tensor) -> Iterator[slice]:
    """Slices of rows that fit into a processor's cache; on a GPU all rows."""
    step = max(1, PART // rows.shape[1]) if rows.device.type == "cpu" else len(rows)
    return (slice(first, first + step) for first in range(0, len(rows), step))


class _MaskedNorm(torch.autograd.Function):
    """Normalisation with the mean and variance of valid positions.

    Written out, and a part of the rows after another, because memory bounds it: as single
    differentiable operations it took four times as long. It works on rows (B x T, F x C), which is
    how channels-last tensors lie in memory; sums over rows are products with a vector. Processes
    share the statistics of the global batch.
    """

    @staticmethod
    def forward(
        context: Any, x: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(B, C, T, F) -> rows, mean (C,), variance (C,), number of valid values per channel.

        What stands at other positions is finite and no more.
        """
        size = x.shape[3]
        rows = x.permute(0, 2, 3, 1).flatten(2).flatten(0, 1)
        rows = rows.to(torch.promote_types(x.dtype, torch.float32))
        valid = mask.reshape(-1, 1).to(rows.dtype)
        count = parallel.sum_everywhere(valid.sum() * size)

        def mean_of(sums: Tensor) -> Tensor:
            return parallel.sum_everywhere(sums.view(size, -1).sum(0)) / count

        mean = mean_of(valid.T @ rows)
        centred, squares = torch.empty_like(rows), torch.zeros_like(rows[:1])
        for part in _parts(rows):
            own = torch.sub(rows[part], mean.repeat(size), out=centred[part]).mul_(valid[part])
            squares += valid[part].T @ own.square()
        variance = mean_of(squares)
        inverse = torch.rsqrt(variance + eps)
        shift, scale = bias.repeat(size), (weight * inverse).repeat(size)
        result = torch.empty_like(rows)
        for part in _parts(rows):
            torch.addcmul(shift, centred[part], scale, out=result[part]).mul_(valid[part])
        context.save_for_backward(centred, valid, weight, inverse, count)
        context.mark_non_differentiable(mean, variance, count)
        context.shape = x.shape
        return result, mean, variance, count

    @staticmethod
    def backward(context: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        centred, valid, weight, inverse, count = context.saved_tensors
        batch, channels, time, size = context.shape

        bias_sums, weight_sums = torch.zeros_like(gradient[:1]), torch.zeros_like(gradient[:1])
        for part in _parts(gradient):
            bias_sums += valid[part].T @ gradient[part]
            weight_sums += valid[part].T @ (gradient[part] * centred[part])
        bias_gradient = bias_sums.view(size, -1).sum(0)
        weight_gradient = weight_sums.view(size, -1).sum(0) * inverse
        # A process returns its own share; what goes through mean and variance comes from all.
        every = torch.stack([bias_gradient, weight_gradient])
        every_bias, every_weight = parallel.sum_everywhere(every)
        slope = (-inverse * every_weight / count).repeat(size)
        offset, scale = (every_bias / count).repeat(size), (weight * inverse).repeat(size)
        result = torch.empty_like(gradient)
        for part in _parts(gradient):
            own = torch.addcmul(gradient[part], centred[part], slope, out=result[part])
            own.sub_(offset).mul_(scale).mul_(valid[part])
        signal_gradient = result.reshape(batch, time, size, channels).permute(0, 3, 1, 2)
        return signal_gradient, None, weight_gradient, bias_gradient, None
