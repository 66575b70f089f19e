"""What is minimised: 1 - CCC over a batch, a regression term, cross-entropy of categories."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

#: Residual (on the scale 0..1) at which smooth L1 turns from squared to absolute error.
#: One step of a nine-point rating scale: below it the difference is noise in the ratings.
SMOOTH_L1_BETA = 0.1

MIN_GROUP = 4  # clips that a CCC is taken over, where there are two groups; chosen
CATEGORY_WEIGHT = 0.3  # of the cross-entropy next to the sum of three 1 - CCC; chosen


def at_least_float32(values: Tensor) -> Tensor:
    """Statistics need the digits that bfloat16 lacks; float64 stays as it is.

    Example:
        >>> at_least_float32(torch.zeros(2, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    return values.to(torch.promote_types(values.dtype, torch.float32))


def ccc(truth: Tensor, prediction: Tensor, weights: Tensor | None = None) -> Tensor:
    """Concordance correlation coefficient per dimension, population moments, differentiable.

    Args:
        truth: (B, D), scale 0..1
        prediction: (B, D)
        weights: (B,) non-negative weights of the clips; None = all the same

    Returns:
        (D,), each -1..1. 0 where truth and prediction are constant and equal, so that the
        gradient stays finite (`wav2small.metrics.ccc` gives NaN there).

    Example:
        >>> truth = torch.tensor([[0.0], [0.5], [1.0]])
        >>> ccc(truth, truth / 2 + 0.25)
        tensor([0.8000])
    """
    if weights is None:
        weights = truth.new_ones(len(truth))
    share = (weights / weights.sum()).unsqueeze(1)  # (B, 1)
    mean_truth, mean_prediction = (share * truth).sum(0), (share * prediction).sum(0)
    truth, prediction = truth - mean_truth, prediction - mean_prediction
    covariance = (share * truth * prediction).sum(0)
    spread = (share * (truth.square() + prediction.square())).sum(0)
    return 2 * covariance / (spread + (mean_truth - mean_prediction).square() + 1e-8)


def regression(
    truth: Tensor, prediction: Tensor, *, kind: str = "smooth_l1", weights: Tensor | None = None
) -> Tensor:
    """Mean regression error per dimension.

    Args:
        truth: (B, D)
        prediction: (B, D)
        kind: "mse", or "smooth_l1" scaled so that it equals the squared error for residuals
            below `SMOOTH_L1_BETA` and grows linearly beyond: an outlying label cannot dominate
        weights: (B,) of the clips; None = all the same

    Returns:
        (D,)

    Example:
        >>> regression(torch.zeros(2, 1), torch.tensor([[0.1], [0.5]]), kind="mse")
        tensor([0.1300])
    """
    if kind == "none":
        return torch.zeros_like(prediction).sum(0)
    if kind == "mse":
        error = (truth - prediction).square()
    else:
        beta = SMOOTH_L1_BETA
        error = 2 * beta * functional.smooth_l1_loss(prediction, truth, reduction="none", beta=beta)
    if weights is None:
        return error.mean(0)
    return (weights.unsqueeze(1) * error).sum(0) / weights.sum()


def distillation_loss(
    truth: Tensor,
    prediction: Tensor,
    *,
    ccc_weights: Tensor,
    regression_weights: Tensor,
    kind: str = "smooth_l1",
    trim: float = 0.0,
) -> Tensor:
    """The loss of one global batch.

    Args:
        truth: (B, D) labels of the teacher
        prediction: (B, D)
        ccc_weights: (D,) weight of 1 - CCC; 0 for a dimension whose labels are constant
        regression_weights: (D,) weight of the regression term
        kind: of the regression term, see `regression`
        trim: share of the batch, the clips with the largest residuals, that is left out as
            label noise

    Returns:
        scalar: sum over dimensions

    Example:
        >>> truth, one = torch.tensor([[0.0], [0.5], [1.0]]), torch.ones(1)
        >>> distillation_loss(truth, truth, ccc_weights=one, regression_weights=one)
        tensor(0.)
    """
    weights = keep(truth, prediction, trim) if trim else None
    agreement = ccc_weights * (1 - ccc(truth, prediction, weights))
    distance = regression_weights * regression(truth, prediction, kind=kind, weights=weights)
    return (agreement + distance).sum()


def category_loss(truth: Tensor, logits: Tensor) -> Tensor:
    """Mean cross-entropy with the teacher's probabilities.

    Args:
        truth: (B, K) probabilities; a row with NaN is not known and left out
        logits: (B, K)

    Returns:
        scalar; 0 where nothing is known

    Example:
        >>> category_loss(torch.tensor([[0.5, 0.5]]), torch.zeros(1, 2))
        tensor(0.6931)
    """
    known = truth.isfinite().all(dim=1)
    entropy = -(truth[known] * functional.log_softmax(logits[known], dim=1)).sum(dim=1)
    return entropy.sum() / known.sum().clamp(min=1)


def keep(truth: Tensor, prediction: Tensor, trim: float) -> Tensor:
    """Weights (B,): 0 for the share `trim` of clips that are furthest from their labels, else 1.

    Example:
        >>> keep(torch.zeros(4, 1), torch.tensor([[0.1], [0.9], [0.2], [0.3]]), trim=0.25)
        tensor([1., 0., 1., 1.])
    """
    residual = (truth - prediction).detach().square().sum(1)
    weights = torch.ones_like(residual)
    weights[residual.topk(int(trim * len(residual))).indices] = 0
    return weights


def disagreement(truth: Tensor, outputs: Tensor, has_text: Tensor | None = None) -> Tensor:
    """Sum of 1 - CCC over the dimensions.

    Clips with a transcript and clips without are two groups, each with its own CCC, weighted by its
    share: in one group the clips with text carry the agreement, and nothing is learned about words
    from the audio.

    Args:
        truth: (B, D), 0..1
        outputs: (B, D)
        has_text: (B,) 1 = with a transcript, 0 = without; None, or too few of a kind = one group
    """
    if has_text is not None:
        groups = has_text > 0.5, has_text <= 0.5
        if min(int(group.sum()) for group in groups) >= MIN_GROUP:
            parts = [g.float().mean() * disagreement(truth[g], outputs[g]) for g in groups]
            return torch.stack(parts).sum()
    return (1 - ccc(truth, outputs)).sum()


def rating_loss(
    truth: Tensor,
    classes: Tensor | None,
    outputs: Tensor,
    logits: Tensor | None = None,
    has_text: Tensor | None = None,
) -> Tensor:
    """Sum of 1 - CCC over the dimensions, and the cross-entropy of known categories.

    Args:
        truth: (B, D), 0..1
        classes: (B,) numbers of categories, -1 = not known; None = there are none
        outputs: (B, D)
        logits: (B, C)
        has_text: (B,) see `disagreement`

    Example:
        >>> truth = torch.tensor([[0.0], [0.5], [1.0]])
        >>> float(rating_loss(truth, None, truth)) < 1e-6
        True
    """
    value = disagreement(truth, outputs, has_text)
    if logits is not None and classes is not None and (classes >= 0).any():
        entropy = functional.cross_entropy(logits, classes, ignore_index=-1)
        value = value + CATEGORY_WEIGHT * entropy
    return value
