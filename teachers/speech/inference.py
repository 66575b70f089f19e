"""The forward pass of WavLM, wav2vec2 and HuBERT as labelling needs it: no gradient, any precision.

It computes what transformers computes, with fewer passes over memory, which is what bounds a GPU:
the convolutions are matrix products on time-major tensors without a transposition, the position
bias of WavLM is gated and masked in one operation, and nothing waits for the device.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wav2small.training.losses import at_least_float32

from .int8 import Int8Linear

_ALIGNED = 8  # frames: fused attention wants rows of its bias at multiples of 16 bytes


def fits(model: Any) -> bool:
    """Whether this module can compute a backbone now: no training, plain layers, GELU."""
    config, layers = model.config, model.encoder.layers
    return (
        not model.training
        and not torch.is_grad_enabled()
        and config.hidden_act == config.feat_extract_activation == "gelu"
        and getattr(config, "feat_proj_layer_norm", True)
        and not getattr(config, "conv_pos_batch_norm", False)
        and all(getattr(layer, "adapter_layer", None) is None for layer in layers)
        and all(
            type(module) in (nn.Linear, Int8Linear)  # not wrapped by an adapter
            for layer in layers
            for part in (layer.attention, layer.feed_forward)
            for name, module in part.named_children()
            if name.endswith(("_proj", "_dense"))
        )
    )


def on_gpu(states: Tensor) -> bool:
    """Whether the ways that suit a GPU are taken; convolutions of a CPU have better ones."""
    return states.is_cuda


def precision(signal: Tensor) -> torch.dtype:
    """The precision of matrix products: autocast's where it is on, else the signal's."""
    kind = signal.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else signal.dtype


def convolve(model: Any, signal: Tensor) -> Tensor:
    """The CNN of a backbone whose feature extractor normalises over channels ("layer").

    The clips of a batch (B, T) are joined to one long signal. Windows that reach from one clip into
    the next give frames after the last valid frame of a clip, which no one reads.

    Returns:
        (B, frames, conv_dim), at least as many frames as the longest clip has
    """
    dtype = precision(signal)
    layers = model.feature_extractor.conv_layers
    hop = math.prod(layer.conv.stride[0] for layer in layers)
    clips, samples = signal.shape
    frames = -(-samples // hop)
    # Each layer loses one row at the end, all of them less than two hops.
    joined = F.pad(signal.to(dtype), (0, frames * hop - samples)).flatten()
    states = F.pad(joined, (0, 2 * hop))[:, None]
    with torch.autocast(signal.device.type, enabled=False):
        for layer in layers:
            norm = layer.layer_norm
            scale, shift = norm.weight.to(dtype), norm.bias.to(dtype)
            states = _strided(layer.conv, states)
            states = F.layer_norm(states, norm.normalized_shape, scale, shift, norm.eps)
            states = F.gelu(states)
    return states[: clips * frames].view(clips, frames, -1)


def _strided(conv: nn.Conv1d, states: Tensor) -> Tensor:
    """A convolution (T, channels) -> (T / stride - 1, outputs), as products with views."""
    stride, kernel, channels = conv.stride[0], conv.kernel_size[0], conv.in_channels
    weight = conv.weight.to(states.dtype).permute(2, 1, 0).reshape(-1, conv.out_channels)
    if channels == 1:  # narrow rows are copied, to a width that tensor cores take
        rows = states[:, 0].unfold(0, kernel, stride)
        room = -kernel % 16
        result = F.pad(rows, (0, room)) @ F.pad(weight, (0, 0, 0, room))
    else:
        length = len(states) // stride
        rows = states[: length * stride].view(length, stride * channels)
        first, rest = weight[: stride * channels], weight[stride * channels :]
        result = rows[:-1] @ first
        if len(rest):  # kernel - stride more rows, which the next group begins with
            result.addmm_(rows[1:, : len(rest)], rest)
    return result if conv.bias is None else result.add_(conv.bias.to(result.dtype))


def encode(model: Any, features: Tensor, mask: Tensor) -> Tensor:
    """The part of a backbone after its CNN: features (B, frames, conv_dim) and the mask of frames
    that count (B, frames) -> last hidden state (B, frames, hidden), float32 at least."""
    dtype = precision(features)
    frames = features.shape[1]
    if on_gpu(features):
        room = -frames % _ALIGNED
        features, mask = F.pad(features, (0, 0, 0, room)), F.pad(mask, (0, room))
    encoder = model.encoder
    before = model.config.do_stable_layer_norm  # LayerNorm before a sublayer, else after it
    with torch.autocast(features.device.type, enabled=False):
        project = model.feature_projection
        hidden = _linear(project.projection, _norm(project.layer_norm, features).to(dtype))
        hidden = hidden.masked_fill(~mask[..., None], 0.0)
        hidden = at_least_float32(hidden) + _positions(encoder.pos_conv_embed.conv, hidden)
        if not before:
            hidden = _norm(encoder.layer_norm, hidden)
        bias = Bias(encoder.layers[0].attention, mask, dtype)
        for layer in encoder.layers:
            states = (_norm(layer.layer_norm, hidden) if before else hidden).to(dtype)
            hidden = hidden + _attend(layer.attention, states, bias)
            if not before:
                hidden = _norm(layer.layer_norm, hidden)
            states = (_norm(layer.final_layer_norm, hidden) if before else hidden).to(dtype)
            states = F.gelu(_linear(layer.feed_forward.intermediate_dense, states))
            hidden = hidden + _linear(layer.feed_forward.output_dense, states)
            if not before:
                hidden = _norm(layer.final_layer_norm, hidden)
        if before:
            hidden = _norm(encoder.layer_norm, hidden)
    return hidden[:, :frames]


def _norm(module: nn.LayerNorm, states: Tensor) -> Tensor:
    return module(at_least_float32(states))


def _linear(module: nn.Linear | Int8Linear, states: Tensor) -> Tensor:
    if isinstance(module, Int8Linear):
        return module(states)
    bias = None if module.bias is None else module.bias.to(states.dtype)
    return F.linear(states, module.weight.to(states.dtype), bias)


def _positions(conv: nn.Conv1d, hidden: Tensor) -> Tensor:
    """The positional embedding: (B, frames, size) -> the same."""
    bias = None if conv.bias is None else conv.bias.to(hidden.dtype)
    weight, room = conv.weight.to(hidden.dtype), int(conv.padding[0])
    found = F.conv1d(hidden.transpose(1, 2), weight, bias, padding=room, groups=conv.groups)
    return F.gelu(found[..., : hidden.shape[1]].transpose(1, 2))


class Bias:
    """What is added to the scores of attention: minus infinity where the mask (B, frames) is False,
    and WavLM's positions, whose embedding of distances the `first` layer's attention holds."""

    def __init__(self, first: Any, mask: Tensor, dtype: torch.dtype):
        clips, frames = mask.shape
        closed = torch.zeros(clips, 1, 1, frames, device=mask.device, dtype=dtype)
        self.closed = closed.masked_fill(~mask[:, None, None], float("-inf"))
        self.result = self.closed
        self.positions: Tensor | None = None
        if hasattr(first, "rel_attn_embed"):
            self.positions = _positions_bias(first, frames).to(dtype)
            heads = self.positions.shape[0]
            self.result = self.result.new_empty(clips, heads, frames, frames)

    def __call__(self, attention: Any, states: Tensor) -> Tensor:
        """The bias of a layer (B, heads or 1, frames or 1, frames); the next call overwrites it."""
        if self.positions is None:
            return self.result
        heads = attention.num_heads
        # transformers sums two groups of four outputs: one output each, their weights summed.
        linear = attention.gru_rel_pos_linear
        weight, shift = linear.weight.view(2, 4, -1).sum(1), linear.bias.view(2, 4).sum(1)
        split = states.unflatten(2, (heads, -1))
        gates = F.linear(split, weight.to(split.dtype), shift.to(split.dtype))
        gates = at_least_float32(gates).sigmoid()
        first, second = gates.permute(3, 0, 2, 1)  # (B, heads, frames) each
        gate = first * (second * attention.gru_rel_pos_const[..., 0] - 1.0) + 2.0
        gate = gate[..., None].to(self.closed.dtype)  # mixed precisions take twice as long
        return torch.addcmul(self.closed, gate, self.positions, out=self.result)


def _positions_bias(attention: Any, frames: int) -> Tensor:
    """WavLM's embedding of distances: (heads, frames, frames)."""
    device = attention.rel_attn_embed.weight.device
    distances = torch.arange(1 - frames, frames, device=device)
    table = attention.rel_attn_embed(attention._relative_positions_bucket(distances))
    # Row i holds distances -i .. frames - 1 - i: windows of the table, the last one first.
    return table.T.unfold(1, frames, 1).flip(1).contiguous()


def _attend(attention: Any, states: Tensor, bias: Bias) -> Tensor:
    clips, frames, size = states.shape
    heads = attention.num_heads
    parts = (attention.q_proj, attention.k_proj, attention.v_proj)
    query, key, value = (
        _linear(part, states).view(clips, frames, heads, -1).transpose(1, 2) for part in parts
    )
    mixed = F.scaled_dot_product_attention(query, key, value, bias(attention, states))
    return _linear(attention.out_proj, mixed.transpose(1, 2).reshape(clips, frames, size))
