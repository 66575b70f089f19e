"""Agreement between two series of ratings: CCC, PCC, MAE, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable
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


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {"ccc": ccc, "pcc": pcc, "mae": mae}


def bootstrap(
    truth: np.ndarray,
    prediction: np.ndarray,
    metric: Callable[[np.ndarray, np.ndarray], float] = ccc,
    *,
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """A metric with its percentile bootstrap interval over clips.

    Args:
        truth: (clips,)
        prediction: (clips,)
        metric: function of two series
        n: number of resamples
        seed: of the resampling; the same seed gives the same interval
        level: coverage of the interval

    Example:
        >>> bootstrap(np.arange(10), np.arange(10) + 1, mae, n=20)
        Interval(value=1.0, low=1.0, high=1.0)
    """
    truth, prediction = _float64(truth), _float64(prediction)
    value = metric(truth, prediction)
    draws = np.random.default_rng(seed).integers(0, len(truth), (n, len(truth)))
    resampled = np.array([metric(truth[draw], prediction[draw]) for draw in draws])
    resampled = resampled[np.isfinite(resampled)]
    if len(resampled) == 0:
        return Interval(value, float("nan"), float("nan"))
    tail = (1 - level) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def summary(
    truth: np.ndarray,
    prediction: np.ndarray,
    *,
    dimensions: tuple[str, ...] = DIMENSIONS,
    n: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, Interval]]:
    """Every metric with its interval for every dimension.

    Args:
        truth: (clips, dimensions); NaN where a clip has no rating
        prediction: (clips, dimensions)
        dimensions: names of the columns
        n: bootstrap resamples
        seed: of the bootstrap

    Returns:
        {"arousal": {"ccc": Interval, "pcc": Interval, "mae": Interval}, ...}

    Example:
        >>> truth = np.random.default_rng(0).random((10, 3))
        >>> round(summary(truth, truth, n=10)["valence"]["ccc"].value, 3)
        1.0
    """
    result = {}
    for column, dimension in enumerate(dimensions):
        rated = np.isfinite(truth[:, column])
        result[dimension] = {
            name: bootstrap(truth[rated, column], prediction[rated, column], metric, n=n, seed=seed)
            for name, metric in METRICS.items()
        }
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
