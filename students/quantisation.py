"""The integer grids of the export, and weights that are trained on them.

Grids are symmetric with one scale per output channel: `scale = max |w| / 127` for int8 and `/ 7`
for int4, rounding half to even. Folding BatchNorm into a convolution multiplies each output
channel by a number, which moves the scale and leaves the grid: training on the weight before
folding trains what the export stores after folding.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

#: Largest integer of each grid.
LEVELS = {"int8": 127, "int4": 7}
#: At int4, only matrices of at least this many numbers leave int8: there lies the file size.
INT4_MIN_NUMBERS = 16384


def scales(weight: Tensor, levels: int) -> Tensor:
    """Scale of every output channel, (C, 1, ...), never 0."""
    largest = weight.detach().flatten(1).abs().amax(1)
    largest = torch.where(largest > 0, largest, torch.ones_like(largest))
    return (largest / levels).view([-1] + [1] * (weight.dim() - 1))


def quantise(weight: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Integers (as int8) and scales of a weight whose first axis is the output channel."""
    scale = scales(weight, levels)
    return torch.round(weight.detach() / scale).clamp(-levels, levels).to(torch.int8), scale


def fake_quantise(weight: Tensor, levels: int) -> Tensor:
    """The weight as the export will give it back; the gradient passes straight through."""
    integers, scale = quantise(weight, levels)
    return weight + (integers.to(weight.dtype) * scale - weight).detach()


def plan(model: nn.Module, precision: str) -> dict[str, int]:
    """Levels of every weight that the export stores as integers.

    Args:
        model: student; it may choose its own in a method `quantisation(precision)` that returns
            {name of parameter: "int8" or "int4"}
        precision: "int8" or "int4"

    Returns:
        {name of parameter: levels}

    Example:
        >>> plan(nn.Conv1d(4, 4, 3), "int4")
        {'weight': 127}
    """
    own = getattr(model, "quantisation", None)
    if callable(own):
        return {name: LEVELS[grid] for name, grid in own(precision).items()}
    result = {}
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            continue
        small = parameter.dim() > 2 and parameter[0, 0].numel() > 1
        fine = precision == "int8" or small or parameter.numel() < INT4_MIN_NUMBERS
        result[name] = LEVELS["int8" if fine else "int4"]
    return result


def parameters(model: nn.Module, levels: Mapping[str, int]) -> dict[str, Tensor]:
    """Fake-quantised parameters for `torch.func.functional_call`."""
    named = dict(model.named_parameters())
    return {name: fake_quantise(named[name], level) for name, level in levels.items()}


def apply(model: nn.Module, levels: Mapping[str, int]) -> None:
    """Put the weights of `model` onto their grids, in place."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in levels:
                parameter.copy_(fake_quantise(parameter, levels[name]))
