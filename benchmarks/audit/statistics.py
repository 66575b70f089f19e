"""Figures over clips, for many weightings at once.

Every function takes values `x` (..., clips) and weights `w` (..., clips) of which at most one has
leading axes: a bootstrap weighs the same clips in a thousand ways (a clip drawn twice weighs 2), a
random model gives a hundred predictions for the same clips. The result has the leading axes.
"""

from __future__ import annotations

import numpy as np
import scipy.stats

from wav2small import metrics

BINS = 10  # of the histograms that the Jensen-Shannon distance compares (ser-tests)
FINEST_STEP = 1 / 50  # of a rating scale; what is finer counts as continuous (chosen)


def weights(clips: int, draws: int, *, seed: int = 0) -> np.ndarray:
    """Weights of a bootstrap over clips, float64 (draws, clips); each row sums to `clips`."""
    rows = metrics.resamples(clips, draws, seed=seed)
    return np.array([np.bincount(draw, minlength=clips) for draw in rows], dtype=np.float64)


def mean(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Weighted mean; NaN where nothing weighs."""
    total = w @ x if x.ndim == 1 else x @ w if w.ndim == 1 else (x * w).sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return total / w.sum(-1)


def ccc(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Concordance correlation coefficient, population moments; y is (clips,)."""
    mx, my, covariance, vx, vy = _moments(x, y, w)
    with np.errstate(invalid="ignore", divide="ignore"):
        return 2 * covariance / (vx + vy + (mx - my) ** 2)


def pcc(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Pearson's correlation coefficient; y is (clips,)."""
    _, _, covariance, vx, vy = _moments(x, y, w)
    with np.errstate(invalid="ignore", divide="ignore"):
        return covariance / np.sqrt(vx * vy)


def mae(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Mean absolute error."""
    return mean(np.abs(x - y), w)


def jensen_shannon(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Jensen-Shannon distance (base 2, 0..1) of two histograms over 0..1, y being the truth.

    Ten equal bins, as in ser-tests; where the truth has few levels (integer ratings), their edges
    move to the nearest middle between two levels. Else some bins could hold no rating at all, and
    a model that is right about every clip would be far from the truth.
    """
    edges = np.arange(1, BINS) / BINS
    step = rating_step(y)
    if step:
        edges = np.unique((np.round(edges / step - 0.5) + 0.5) * step)
    p, q = _histogram(x, w, edges), _histogram(y, w, edges)
    m = (p + q) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        divergence = sum(np.where(h > 0, h * np.log2(h / m), 0).sum(-1) for h in (p, q)) / 2
    return np.sqrt(np.clip(divergence, 0, 1))


def rating_step(truth: np.ndarray) -> float:
    """Distance of neighbouring levels of a rating scale that was mapped to 0..1.

    It is the largest 1 / n of which all ratings (clips,) are multiples; NaN = not rated. 0 =
    continuous ratings.

    Example:
        >>> round(1 / rating_step(np.array([0, 1, 2, 5, 6]) / 6))
        6
        >>> rating_step(np.array([0.123, 0.456]))
        0.0
    """
    levels = np.unique(truth[np.isfinite(truth)])
    for steps in range(1, round(1 / FINEST_STEP) + 1):
        if (np.abs(levels - np.round(levels * steps) / steps) < 1e-3).all():
            return 1 / steps
    return 0.0


def group_means(x: np.ndarray, groups: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Mean of each group: (..., groups), for groups numbered (clips,) from 0."""
    member = np.eye(groups.max() + 1)[groups]  # (clips, groups)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (x * w) @ member / (w @ member)


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation along the last axis; NaN (an empty group) is left out."""
    x, y = np.broadcast_arrays(x, y)
    result = []
    for a, b in zip(x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1]), strict=True):
        known = np.isfinite(a) & np.isfinite(b)
        ranks = scipy.stats.rankdata(a[known]), scipy.stats.rankdata(b[known])
        spread = all(known.sum() > 1 and np.ptp(rank) > 0 for rank in ranks)
        result.append(np.corrcoef(*ranks)[0, 1] if spread else np.nan)
    return np.array(result).reshape(x.shape[:-1])


def _moments(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, ...]:
    # Centred first: the difference of large squares would lose the digits of small variances.
    x, y = x - 0.5, y - 0.5
    mx, my = mean(x, w), mean(y, w)
    covariance = mean(x * y, w) - mx * my
    vx = np.maximum(mean(x * x, w) - mx**2, 0)
    vy = np.maximum(mean(y * y, w) - my**2, 0)
    return mx, my, covariance, vx, vy


def _histogram(x: np.ndarray, w: np.ndarray, edges: np.ndarray) -> np.ndarray:
    bins = np.searchsorted(edges, x, side="right")
    sums = [((bins == b) * w).sum(-1) for b in range(len(edges) + 1)]
    counts = np.stack(sums, axis=-1).astype(float)
    return counts / counts.sum(-1, keepdims=True)
