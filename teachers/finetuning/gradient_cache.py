"""Gradients of a loss over a batch that does not fit into memory: exact, in two passes.

CCC of a batch is not the mean of the CCCs of its parts. So the parts go forward once without a
graph, the loss is taken over all outputs together, and the parts go forward again, each to be
pulled by its share of the gradient (gradient caching, Gao et al. 2021, arXiv 2101.06983).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wav2small.teachers.speech.neural import whole

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
        parts: of the batch
        loss: of these tensors for the whole batch, in the order of the parts
        seed: of dropout and masking, so that both passes draw the same

    Returns:
        the loss
    """
    if len(parts) == 1:
        _seed(seed)
        value = loss(*(found if found is None else whole(found) for found in forward(parts[0])))
        value.backward()
        return float(value.detach())
    heard: list[Outputs] = []
    with torch.no_grad():
        for number, part in enumerate(parts):
            _seed(seed + number)
            heard.append(forward(part))
    joined = [_joined(column) for column in zip(*heard, strict=True)]
    value = loss(*joined)
    value.backward()
    begin = [0] * len(joined)
    for number, part in enumerate(parts):
        _seed(seed + number)
        pulled, pulls = [], []
        for place, (found, all_parts) in enumerate(zip(forward(part), joined, strict=True)):
            if found is None or all_parts is None:
                continue
            rows = slice(begin[place], begin[place] + len(found))
            begin[place] = rows.stop
            if all_parts.grad is not None and found.requires_grad:
                pulled.append(found)
                pulls.append(all_parts.grad[rows].to(found.dtype))
        torch.autograd.backward(pulled, pulls)
    return float(value.detach())


def _joined(column: tuple[Tensor | None, ...]) -> Tensor | None:
    found = [part for part in column if part is not None]
    return whole(torch.cat(found)).requires_grad_() if found else None


def _seed(seed: int) -> None:
    torch.manual_seed(seed)  # dropout
    np.random.seed(seed % 2**32)  # transformers draws the masks of SpecAugment from it
