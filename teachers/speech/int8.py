"""Backbones in int8 on a CPU: weights scaled per output, activations per frame as they come.

Only matrix products of the transformer are in int8: with its CNN, too, labels are further from
those of float32 than the time is worth (docs/results/speed.md). How far they are, is measured by
`labelling.agreement`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from wav2small.errors import Wav2SmallError

_LEAST = 1e-12  # of a step


class Int8Linear(nn.Module):
    """A linear layer in int8, y = x W^T + b: of a weight (outputs, inputs), a bias (outputs,)."""

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        weight = weight.detach().float()
        self.step = weight.abs().amax(1).div(127).clamp_min(_LEAST)
        self.levels = (weight / self.step[:, None]).round().to(torch.int8).T.contiguous()
        self.sums = self.levels.sum(0).float()
        self.bias = torch.zeros(len(weight)) if bias is None else bias.detach().float()

    def forward(self, states: Tensor) -> Tensor:
        """(..., inputs) float32 -> (..., outputs)."""
        rows = states.flatten(0, -2)
        low, high = rows.aminmax(dim=1, keepdim=True)  # not symmetric: what GELU gives is not
        step = (high - low).div(255).clamp_min(_LEAST)
        zero = (low / step).round() + 128
        levels = (rows / step - zero).round_().clamp_(-128, 127).to(torch.int8)
        products = torch._int_mm(levels, self.levels).float()
        products.addr_(zero[:, 0], self.sums).mul_(step)
        return torch.addcmul(self.bias, products, self.step).unflatten(0, states.shape[:-1])


def quantise(network: nn.Module, where: Any) -> None:
    """Put the backbones of a network, on a CPU and in evaluation mode, into int8, in place.

    Raises:
        Wav2SmallError: it has no backbone of transformers
    """
    parts = ("feature_extractor", "encoder")
    found: list[Any] = [m for m in network.modules() if all(hasattr(m, part) for part in parts)]
    if not found:
        raise Wav2SmallError(f"--dtype int8: {where} has no WavLM, wav2vec2 or HuBERT encoder")
    for backbone in found:
        layers = backbone.encoder.layers
        blocks = [block for layer in layers for block in (layer.attention, layer.feed_forward)]
        for part in (backbone.feature_projection, *blocks):
            for name, linear in list(part.named_children()):
                if type(linear) is nn.Linear and name.endswith(("_proj", "_dense", "projection")):
                    setattr(part, name, Int8Linear(linear.weight, linear.bias))
