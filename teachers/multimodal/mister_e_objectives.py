"""What MiSTER-E minimises: ratings and categories of the mixture and of each expert, agreement of
the experts, and a contrast of speech and text. See `mister_e`."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from wav2small.teachers.finetuning.learner import rating_loss

from .contrastive import contrast

EXPERT_WEIGHT = 1.0  # else the gate starves the expert that learns last [choose]
CONTRAST_WEIGHT = 0.1  # [choose]
AGREEMENT_WEIGHT = 0.1  # [choose]
CONTRAST_TEMPERATURE = 0.1  # [choose]
NEAR = 0.15  # by which the ratings of positives differ at most, where no category is known [choose]


def loss(
    truth: Tensor,
    classes: Tensor | None,
    outputs: Tensor,
    logits: Tensor | None,
    expert_outputs: Tensor | None,
    expert_logits: Tensor | None,
    speech: Tensor | None,
    text: Tensor | None,
    both: Tensor | None,
) -> Tensor:
    """Of a whole batch.

    Args:
        truth: (B, D), 0..1
        classes: (B,) categories, -1 = not known; None = there are none
        outputs: (B, D) of the mixture
        logits: (B, C) of the mixture
        expert_outputs: (B, E, D)
        expert_logits: (B, E, C)
        speech: (B, size) what was heard of the turn
        text: (B, size) what was read of it
        both: (B,) 1 = it was both heard and read, else 0
    """
    assert expert_outputs is not None
    assert speech is not None and text is not None and both is not None
    value = rating_loss(truth, classes, outputs, logits) + EXPERT_WEIGHT * alone(
        truth, classes, expert_outputs, expert_logits
    )
    agreement = differences(expert_outputs)
    if expert_logits is not None:
        agreement = agreement + divergence(expert_logits)
    paired = both > 0.5
    alike = positives(truth, classes)[paired][:, paired]
    contrasted = contrast(speech[paired], text[paired], 1 / CONTRAST_TEMPERATURE, alike)
    return value + AGREEMENT_WEIGHT * agreement + CONTRAST_WEIGHT * contrasted


def alone(truth: Tensor, classes: Tensor | None, outputs: Tensor, logits: Tensor | None) -> Tensor:
    """What each expert would be told for its own outputs (B, E, D), logits (B, E, C); mean."""
    count = outputs.shape[1]
    told = [None] * count if logits is None else logits.unbind(dim=1)
    each = zip(outputs.unbind(dim=1), told, strict=True)
    return sum(rating_loss(truth, classes, *found) for found in each) / count  # type: ignore


def differences(outputs: Tensor) -> Tensor:
    """Squared difference of two experts' ratings, mean over pairs, turns and dimensions."""
    pairs = combinations(outputs.unbind(dim=1), 2)
    return torch.stack([(one - other).square().mean() for one, other in pairs]).mean()


def divergence(logits: Tensor) -> Tensor:
    """KL(p, q) + KL(q, p) of two experts' categories, mean over pairs and turns."""
    logs = logits.log_softmax(dim=2).unbind(dim=1)
    pairs = [((p.exp() - q.exp()) * (p - q)).sum(1).mean() for p, q in combinations(logs, 2)]
    return torch.stack(pairs).mean()


def positives(truth: Tensor, classes: Tensor | None) -> Tensor:
    """Which turns are alike: (B, B) bool; each is like itself."""
    own = torch.eye(len(truth), dtype=torch.bool, device=truth.device)
    if classes is None:
        return own | ((truth[:, None] - truth[None]).abs().amax(dim=2) <= NEAR)
    known = classes >= 0
    return own | ((classes[:, None] == classes[None]) & known[:, None] & known[None])
