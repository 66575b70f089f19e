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

from .neural import whole

Outputs = tuple[Tensor, Tensor | None]


def backward(
    forward: Callable[[Any], Outputs],
    parts: Sequence[Any],
    loss: Callable[[Tensor, Tensor | None], Tensor],
    *,
    seed: int = 0,
) -> float:
    """Add the gradients of one step to the parameters.

    Args:
        forward: part -> outputs (B, n), logits (B, k) or None
        parts: of the batch
        loss: of the outputs and logits of the whole batch, in the order of the parts
        seed: of dropout and masking, so that both passes draw the same

    Returns:
        the loss
    """
    if len(parts) == 1:
        _seed(seed)
        outputs, logits = forward(parts[0])
        value = loss(whole(outputs), None if logits is None else whole(logits))
        value.backward()
        return float(value.detach())
    heard: list[Outputs] = []
    with torch.no_grad():
        for number, part in enumerate(parts):
            _seed(seed + number)
            heard.append(forward(part))
    joined = torch.cat([whole(outputs) for outputs, _ in heard]).requires_grad_()
    logits = None
    if heard[0][1] is not None:
        found = [logits for _, logits in heard if logits is not None]
        logits = whole(torch.cat(found)).requires_grad_()
    value = loss(joined, logits)
    value.backward()
    begin = 0
    for number, part in enumerate(parts):
        _seed(seed + number)
        outputs, own = forward(part)
        rows = slice(begin, begin + len(outputs))
        assert joined.grad is not None
        pulled, pulls = [outputs], [joined.grad[rows].to(outputs.dtype)]
        if own is not None and logits is not None and logits.grad is not None:
            pulled.append(own)
            pulls.append(logits.grad[rows].to(own.dtype))
        torch.autograd.backward(pulled, pulls)
        begin = rows.stop
    return float(value.detach())


def _seed(seed: int) -> None:
    torch.manual_seed(seed)  # dropout
    np.random.seed(seed % 2**32)  # transformers draws the masks of SpecAugment from it
