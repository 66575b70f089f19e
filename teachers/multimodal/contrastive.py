"""Contrastive losses between two views of the same turns: what was heard, and what was read."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def contrast(one: Tensor, other: Tensor, scale: Tensor | float, positives: Tensor) -> Tensor:
    """Supervised contrastive loss in both directions (Khosla et al. 2020, arXiv 2004.11362).

    Each turn of one view is to find its positives among all turns of the other:
    -log softmax of the cosines, mean over the positives of a turn, then over turns and directions.
    With each turn's own counterpart as its only positive it is symmetric InfoNCE.

    Args:
        one: (N, size)
        other: (N, size) of the same turns
        scale: of the cosines, 1 / temperature
        positives: (N, N) bool, symmetric, the diagonal is set

    Returns:
        scalar; 0 if there are no turns
    """
    if not len(one):
        return one.sum() + other.sum()
    cosines = functional.normalize(one, dim=1) @ functional.normalize(other, dim=1).T
    shares = positives / positives.sum(dim=1, keepdim=True)
    both = [
        -(shares * (scale * view).log_softmax(dim=1)).sum(dim=1).mean()
        for view in (cosines, cosines.T)
    ]
    return (both[0] + both[1]) / 2


def info_nce(one: Tensor, other: Tensor, scale: Tensor | float) -> Tensor:
    """`contrast` where only a turn's own counterpart is positive."""
    return contrast(one, other, scale, torch.eye(len(one), device=one.device).bool())


def retrieved(one: Tensor, other: Tensor) -> Tensor:
    """Whether each turn of one view finds its counterpart in the other: (N,) bool.

    The same counterpart twice counts as found: nobody can tell the two apart.
    """
    cosines = functional.normalize(one, dim=1) @ functional.normalize(other, dim=1).T
    own = cosines.diagonal()
    return own >= cosines.amax(dim=1) - 1e-6 if len(one) else own.bool()
