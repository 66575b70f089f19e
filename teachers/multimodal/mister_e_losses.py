"""The terms of MiSTER-E's loss; see `mister_e`."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional

NEAR = 0.15  # distance of A/D/V at which two turns are alike by exp(-1/2) (chosen)


def focal(classes: Tensor | None, logits: Tensor | None, focus: float) -> Tensor | float:
    """Cross-entropy of categories times (1 - probability) ** focus (arXiv 1708.02002); mean over
    the known ones of classes (B,), -1 = not known, by logits (B, C); 0 where there are none.

    Example:
        >>> import torch
        >>> round(focal(torch.tensor([0, -1]), torch.zeros(2, 2), 1.0).item(), 4)  # log(2) / 2
        0.3466
    """
    if classes is None or logits is None or not (classes >= 0).any():
        return 0.0
    known = classes >= 0
    entropy = functional.cross_entropy(logits[known].float(), classes[known], reduction="none")
    return ((1 - (-entropy).exp()) ** focus * entropy).mean()


def contrast(speech: Tensor, text: Tensor, alike: Tensor, temperature: float) -> Tensor:
    """Supervised contrast (arXiv 2004.11362) of all states of both modalities with each other.

    -log softmax of the cosines of a state of speech or text (N, size) to all other states, divided
    by the temperature; mean over its positives weighted by how much turns are `alike` (N, N), 0..1,
    1 on the diagonal, then over states; 0 if there are no turns.

    Example:
        >>> import torch
        >>> states = torch.eye(2)
        >>> round(contrast(states, states, torch.eye(2), 1.0).item(), 4)  # -log(e / (e + 2))
        0.5514
    """
    if not len(speech):
        return speech.sum() + text.sum()
    states = functional.normalize(torch.cat([speech, text]).float(), dim=1)
    itself = torch.eye(len(states), dtype=torch.bool, device=states.device)
    cosines = (states @ states.T / temperature).masked_fill(itself, float("-inf"))
    logs = cosines.log_softmax(dim=1).masked_fill(itself, 0.0)
    weights = alike.to(states.dtype).repeat(2, 2).masked_fill(itself, 0.0)
    return -((weights * logs).sum(1) / weights.sum(1)).mean()


def likeness(truth: Tensor, classes: Tensor | None) -> Tensor:
    """How much two turns are alike: (B, B), 0..1, 1 on the diagonal.

    Turns of the same known category are; where there are no categories it is
    exp(-d^2 / (2 `NEAR`^2)) of the distance d of their ratings.

    Example:
        >>> import torch
        >>> truth = torch.tensor([[0.1], [0.25], [0.9]])
        >>> [round(value, 3) for value in likeness(truth, None)[0].tolist()]
        [1.0, 0.607, 0.0]
        >>> likeness(truth, torch.tensor([1, -1, 1])).int().tolist()
        [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    """
    if classes is None:
        square = (truth[:, None] - truth[None]).square().sum(dim=2)
        return (-square / (2 * NEAR**2)).exp()
    known = classes >= 0
    same = (classes[:, None] == classes[None]) & known[:, None] & known[None]
    return (same | torch.eye(len(truth), dtype=torch.bool, device=truth.device)).to(truth.dtype)


def differences(outputs: Tensor) -> Tensor:
    """Squared difference of two experts' ratings, mean over pairs, turns and dimensions.

    Example:
        >>> import torch
        >>> differences(torch.tensor([[[0.5], [1.0]]])).item()  # one turn, two experts
        0.25
    """
    pairs = combinations(outputs.unbind(dim=1), 2)
    return torch.stack([(one - other).square().mean() for one, other in pairs]).mean()


def divergence(logits: Tensor) -> Tensor:
    """KL(p, q) + KL(q, p) of two experts' categories, mean over pairs and turns.

    Example:
        >>> import torch
        >>> divergence(torch.zeros(1, 2, 3)).item()  # one turn, two experts, three categories
        0.0
    """
    logs = logits.log_softmax(dim=2).unbind(dim=1)
    pairs = [((p.exp() - q.exp()) * (p - q)).sum(1).mean() for p, q in combinations(logs, 2)]
    return torch.stack(pairs).mean()
