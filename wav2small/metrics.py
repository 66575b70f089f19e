"""Agreement between two series: ratings (CCC, PCC, MAE, Spearman) or categories (UAR, WA, F1).

Every figure comes with a bootstrap interval. Clips of one speaker are not independent: where
speakers are known, speakers are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from wav2small.dimensions import DIMENSIONS


class Interval(NamedTuple):
    """A figure and the bounds of its confidence interval."""

    value: float
    low: float
    high: float


def ccc(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Concordance correlation coefficient, population moments, -1..1.

    NaN when both series are constant and equal, or fewer than two values are given.

    Example:
        >>> round(ccc(np.array([0, 1, 2]), np.array([1, 2, 3])), 3)
        0.571
    """
    import audmetric

    if len(truth) < 2:
        return float("nan")
    return float(audmetric.concordance_cc(_float64(truth), _float64(prediction)))


def pcc(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Pearson's correlation coefficient, -1..1; NaN when one series is constant.

    Example:
        >>> round(pcc(np.array([0, 1, 2]), np.array([1, 2, 3])), 3)
        1.0
    """
    import audmetric

    if len(truth) < 2 or np.ptp(truth) == 0 or np.ptp(prediction) == 0:
        return float("nan")
    return float(audmetric.pearson_cc(_float64(truth), _float64(prediction)))


def mae(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Mean absolute error, in the unit of the ratings.

    Example:
        >>> mae(np.array([0, 1, 2]), np.array([1, 2, 3]))
        1.0
    """
    return float(np.abs(_float64(truth) - _float64(prediction)).mean())


def spearman(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Spearman's rank correlation coefficient, -1..1; NaN when one series is constant.

    Example:
        >>> round(spearman(np.array([0, 1, 2]), np.array([1, 2, 9])), 3)
        1.0
    """
    import scipy.stats

    return pcc(scipy.stats.rankdata(truth), scipy.stats.rankdata(prediction))


def roc_auc(truth: np.ndarray, score: np.ndarray) -> float:
    """Area under the ROC curve: how often a positive has the higher score (ties count half).

    Args:
        truth: bool (n,)
        score: (n,)

    Returns:
        0..1; NaN unless both classes are there

    Example:
        >>> roc_auc(np.array([False, True, True]), np.array([0.1, 0.1, 0.9]))
        0.75
    """
    _, places, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    positive, negative = int(truth.sum()), int((~truth).sum())
    if not positive or not negative:
        return float("nan")
    above = ranks[truth].sum() - positive * (positive + 1) / 2
    return float(above / (positive * negative))


def confusion(truth: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    """Confusion matrix (classes, classes): rows are the truth, columns the prediction.

    Args:
        truth: (clips,) number of the class, 0..classes - 1
        prediction: (clips,)
        classes: number of classes

    Example:
        >>> confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
        [[1, 1], [0, 1]]
    """
    cells = np.asarray(truth, dtype=np.int64) * classes + np.asarray(prediction, dtype=np.int64)
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def uar(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Unweighted average recall: the mean of the recalls of the classes in the truth, 0..1.

    Example:
        >>> uar(np.array([0, 0, 1]), np.array([0, 1, 1]))
        0.75
    """
    matrix = _matrix(truth, prediction)
    there = matrix.sum(axis=1) > 0
    return float((matrix.diagonal()[there] / matrix.sum(axis=1)[there]).mean())


def wa(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Weighted accuracy: the share of clips whose class is right, 0..1.

    Example:
        >>> wa(np.array([0, 1]), np.array([0, 0]))
        0.5
    """
    return float((np.asarray(truth) == np.asarray(prediction)).mean())


def macro_f1(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Mean of the F1 scores of all classes in the truth or the prediction, 0..1.

    Example:
        >>> round(macro_f1(np.array([0, 0, 1]), np.array([0, 1, 1])), 3)
        0.667
    """
    return float(_f1(_matrix(truth, prediction))[0].mean())


def weighted_f1(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Mean of the F1 scores, weighted by how often a class is in the truth, 0..1.

    Example:
        >>> round(weighted_f1(np.array([0, 0, 1]), np.array([0, 1, 1])), 3)
        0.667
    """
    scores, counts = _f1(_matrix(truth, prediction))
    return float((scores * counts).sum() / counts.sum())


def _matrix(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    return confusion(truth, prediction, int(max(np.max(truth), np.max(prediction))) + 1)


def _f1(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """F1 of every class that is there, and how often it is in the truth."""
    counts, guesses = matrix.sum(axis=1), matrix.sum(axis=0)
    there = counts + guesses > 0
    return (2 * matrix.diagonal() / np.maximum(counts + guesses, 1))[there], counts[there]


Metric = Callable[[np.ndarray, np.ndarray], float]
METRICS: dict[str, Metric] = {"ccc": ccc, "pcc": pcc, "mae": mae, "spearman": spearman}
CATEGORY_METRICS: dict[str, Metric] = {
    "uar": uar,
    "wa": wa,
    "weighted_f1": weighted_f1,
    "macro_f1": macro_f1,
}
CORRELATION, SHARE, ERROR = (-1.0, 1.0), (0.0, 1.0), (0.0, float("inf"))
#: Metric -> the lowest and the highest value that it can have.
BOUNDS: dict[Metric, tuple[float, float]] = {
    **dict.fromkeys((ccc, pcc, spearman), CORRELATION),
    **dict.fromkeys(CATEGORY_METRICS.values(), SHARE),
    mae: ERROR,
}


def bootstrap(
    truth: np.ndarray,
    prediction: np.ndarray,
    metric: Metric = ccc,
    *,
    groups: np.ndarray | None = None,
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    bounds: tuple[float, float] | None = None,
) -> Interval:
    """A metric with its bootstrap interval; see `interval`.

    What is drawn with replacement is the clip, or the group.

    Args:
        truth: (clips,)
        prediction: (clips,)
        metric: function of two series
        groups: (clips,) names of what belongs together, such as the speakers; None = every clip
            stands for itself
        n: number of resamples
        seed: of the resampling; the same seed gives the same interval
        level: coverage of the interval
        bounds: lowest and highest value of the metric; None = as `BOUNDS` has it

    Example:
        >>> bootstrap(np.arange(10), np.arange(10) + 1, mae, n=20)
        Interval(value=1.0, low=1.0, high=1.0)
    """
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    value = metric(truth, prediction)
    count = len(truth)
    if groups is not None:
        names, codes = np.unique(groups, return_inverse=True)
        members = np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])
        count = len(names)
    draws = resamples(count, n, seed=seed)
    if groups is not None:
        draws = (np.concatenate([members[group] for group in draw]) for draw in draws)
    resampled = np.array([metric(truth[draw], prediction[draw]) for draw in draws], float)
    bounds = bounds or BOUNDS.get(metric)
    return interval(value, resampled, count=count, level=level, bounds=bounds)


def resamples(count: int, n: int, *, seed: int = 0) -> Iterator[np.ndarray]:
    """The rows of each of `n` bootstrap samples of `count` clips (or groups), with replacement.

    Example:
        >>> [len(rows) for rows in resamples(3, 2)]
        [3, 3]
    """
    generator = np.random.default_rng(seed)
    return (generator.integers(0, count, count) for _ in range(n))


def interval(
    value: float,
    resampled: np.ndarray,
    *,
    count: int,
    level: float = 0.95,
    bounds: tuple[float, float] | None = None,
) -> Interval:
    """The bootstrap interval of a figure, right for few clips or speakers, too.

    A figure with bounds gets Student's interval from the deviation of its resamples, on a scale
    that has no bounds: Fisher's z of correlations, logits of shares. Errors have no highest value
    and a long tail: theirs is on the scale of 1 / sqrt(error), which makes the variance of an
    inverse Gaussian constant (Whitmore & Yalovsky 1978, Technometrics 20). Any other gets
    percentiles, widened from the normal to Student's distribution. Both make up for the
    resamples' deviation, which is too small by sqrt(1 - 1 / count) (Hesterberg 2015, What teachers
    should know about the bootstrap, The American Statistician 69, section 5.3).

    Args:
        value: the figure of all clips
        resampled: that of each bootstrap sample; NaN is left out
        count: clips (or groups) that were drawn from
        level: coverage of the interval
        bounds: lowest and highest value that the figure can have, such as `CORRELATION`; None = it
            has none

    Example:
        >>> interval(0.5, np.array([0.4, 0.6, np.nan]), count=100, level=1.0)
        Interval(value=0.5, low=0.4, high=0.6)
        >>> of = interval(0.9, np.array([0.85, 0.95]), count=6, bounds=CORRELATION)
        >>> round(of.low, 2), round(of.high, 2)
        (0.4, 0.99)
    """
    from scipy import special

    resampled = resampled[np.isfinite(resampled)]
    if len(resampled) == 0 or count < 3:  # two say nothing of how others would spread
        return Interval(value, float("nan"), float("nan"))
    width = np.sqrt(count / (count - 1)) * special.stdtrit(count - 1, (1 + level) / 2)
    if bounds is None or not bounds[0] < value < bounds[1] or len(resampled) < 2:
        tail = special.ndtr(-width)
        low, high = np.quantile(resampled, [tail, 1 - tail])
        return Interval(value, float(low), float(high))
    lowest, highest = bounds
    spread = width * resampled.std(ddof=1)
    ends = np.array([-spread, spread])
    if np.isinf(highest):
        above = value - lowest
        steps = np.maximum(1 - ends / (2 * above), 0)
        with np.errstate(divide="ignore"):  # no upper end where the resamples differ by too much
            ends = lowest + above / steps**2
    else:  # odds = distance from the lower bound over distance from the upper one
        slope = 1 / (value - lowest) + 1 / (highest - value)  # of their logarithm
        odds = (value - lowest) / (highest - value) * np.exp(slope * ends)
        ends = lowest + (highest - lowest) / (1 + 1 / odds)
    return Interval(value, float(ends[0]), float(ends[1]))


def summary(
    truth: np.ndarray,
    prediction: np.ndarray,
    *,
    dimensions: tuple[str, ...] = DIMENSIONS,
    groups: np.ndarray | None = None,
    n: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, Interval]]:
    """Every metric with its interval for every dimension; CCC with constant ratings is NaN.

    Args:
        truth: (clips, dimensions); NaN where a clip has no rating
        prediction: (clips, dimensions)
        dimensions: names of the columns
        groups: this, `n` and `seed` are those of `bootstrap`

    Returns:
        {"arousal": {"ccc": Interval, "pcc": Interval, "mae": Interval, "spearman": Interval}, ...}

    Example:
        >>> truth = np.random.default_rng(0).random((10, 3))
        >>> round(summary(truth, truth, n=10)["valence"]["ccc"].value, 3)
        1.0
    """
    result = {}
    for column, dimension in enumerate(dimensions):
        rated = np.isfinite(truth[:, column])
        ratings, estimates = truth[rated, column], prediction[rated, column]
        own = None if groups is None else groups[rated]
        result[dimension] = {
            name: bootstrap(ratings, estimates, metric, groups=own, n=n, seed=seed)
            for name, metric in METRICS.items()
        }
        if len(ratings) and np.ptp(ratings) == 0:  # nobody can agree with what does not vary
            result[dimension]["ccc"] = Interval(np.nan, np.nan, np.nan)
    return result


def _float64(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, dtype=np.float64)


def agreement(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Share of clips whose most probable category is the true one.

    Args:
        truth: (clips, K) probabilities; a row with NaN is not known and left out
        prediction: (clips, K) probabilities or logits

    Returns:
        0..1; NaN if none is known

    Example:
        >>> agreement(np.eye(3), np.eye(3))
        1.0
    """
    known = np.isfinite(truth).all(axis=1)
    same = truth[known].argmax(axis=1) == prediction[known].argmax(axis=1)
    return float(same.mean()) if len(same) else float("nan")
