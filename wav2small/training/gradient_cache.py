"""Gradients of a loss over a batch that does not fit into memory: exact, in two passes.

CCC of a batch is not the mean of the CCCs of its parts. So the parts go forward once without a
graph, the loss is taken over all outputs together, and the parts go forward again, each with its
share of the gradient (gradient caching, Gao et al. 2021, arXiv 2101.06983).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .losses import at_least_float32

Outputs = tuple[Tensor | None, ...]


def backward(
    forward: Callable[[Any], Outputs],
    parts: Sequence[Any],
    loss: Callable[..., Tensor],
    *,
    seed: int = 0,
) -> float:
    """Add the gradients of one step to the parameters.

    Args:
        forward: part -> tensors whose first axis is the part's, or None, always the same ones
        parts: of the batch; one part takes one pass
        loss: of these tensors (at least float32) for the full batch, in the order of the parts
        seed: of dropout and masking, so that both passes draw the same

    Returns:
        the loss

    Example:
        >>> weight = torch.ones(2, requires_grad=True)
        >>> parts = [torch.eye(2), torch.ones(1, 2)]
        >>> backward(lambda part: (part @ weight,), parts, lambda outputs: outputs.square().sum())
        6.0
        >>> weight.grad
        tensor([6., 6.])
    """
    if len(parts) == 1:
        _seed(seed)
        value = loss(
            *(found if found is None else at_least_float32(found) for found in forward(parts[0]))
        )
        value.backward()
        return float(value.detach())
    first_pass: list[Outputs] = []
    with torch.no_grad():
        for number, part in enumerate(parts):
            _seed(seed + number)
            first_pass.append(forward(part))
    joined = [_joined(column) for column in zip(*first_pass, strict=True)]
    value = loss(*joined)
    value.backward()
    begin = [0] * len(joined)
    for number, part in enumerate(parts):
        _seed(seed + number)
        pulled, gradients = [], []
        for place, (found, all_parts) in enumerate(zip(forward(part), joined, strict=True)):
            if found is None or all_parts is None:
                continue
            rows = slice(begin[place], begin[place] + len(found))
            begin[place] = rows.stop
            if all_parts.grad is not None and found.requires_grad:
                pulled.append(found)
                gradients.append(all_parts.grad[rows].to(found.dtype))
        torch.autograd.backward(pulled, gradients)
    return float(value.detach())


def _joined(column: tuple[Tensor | None, ...]) -> Tensor | None:
    found = [part for part in column if part is not None]
    return at_least_float32(torch.cat(found)).requires_grad_() if found else None


def _seed(seed: int) -> None:
    torch.manual_seed(seed)  # dropout
    np.random.seed(seed % 2**32)  # transformers draws the masks of SpecAugment from it
