"""Metrics against slow, independent computations."""

import math

import numpy as np
import pytest

from wav2small import metrics


def slow_ccc(x, y):
    n = len(x)
    mean_x, mean_y = sum(x) / n, sum(y) / n
    var_x = sum((a - mean_x) ** 2 for a in x) / n
    var_y = sum((b - mean_y) ** 2 for b in y) / n
    cov = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / n
    return 2 * cov / (var_x + var_y + (mean_x - mean_y) ** 2)


@pytest.mark.parametrize("seed", range(5))
def test_figures_equal_the_slow_ones(seed):
    random = np.random.default_rng(seed)
    x = random.uniform(0, 1, 40)
    y = 0.5 * x + random.normal(0, 0.1, 40)
    assert metrics.ccc(x, y) == pytest.approx(slow_ccc(x, y), abs=1e-12)
    assert metrics.pcc(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-12)
    assert metrics.mae(x, y) == pytest.approx(sum(abs(x - y)) / 40, abs=1e-12)


@pytest.mark.parametrize(
    ("truth", "prediction", "ccc", "pcc", "mae"),
    [
        ([0, 1, 2], [0, 1, 2], 1, 1, 0),
        ([0, 1, 2], [2, 1, 0], -1, -1, 4 / 3),
        ([0, 1, 2], [1, 1, 1], 0, math.nan, 2 / 3),
        ([0, 1, 2], [1, 2, 3], 4 / 7, 1, 1),
        ([1, 1], [1, 1], math.nan, math.nan, 0),
        ([1], [2], math.nan, math.nan, 1),
    ],
)
def test_known_answers(truth, prediction, ccc, pcc, mae):
    truth, prediction = np.array(truth, float), np.array(prediction, float)
    for metric, expected in ((metrics.ccc, ccc), (metrics.pcc, pcc), (metrics.mae, mae)):
        assert metric(truth, prediction) == pytest.approx(expected, nan_ok=True)


def test_intervals_hold_the_truth_as_often_as_claimed():
    random = np.random.default_rng(1)
    inside = 0
    for trial in range(60):
        x = random.normal(size=150)
        y = 0.8 * x + 0.6 * random.normal(size=150)  # true CCC = PCC = .8
        _, low, high = metrics.bootstrap(x, y, n=200, seed=trial)
        inside += low <= 0.8 <= high
    assert 50 <= inside <= 60


def test_intervals_repeat_and_shrink_with_more_clips():
    random = np.random.default_rng(2)
    x = random.normal(size=2000)
    y = x + random.normal(size=2000)
    few = metrics.bootstrap(x[:50], y[:50], n=300)
    assert few == metrics.bootstrap(x[:50], y[:50], n=300)
    many = metrics.bootstrap(x, y, n=300)
    assert many.high - many.low < (few.high - few.low) / 3


def test_summary_leaves_out_clips_without_a_rating():
    truth = np.array([[0.1, 0.2], [0.5, np.nan], [0.9, 0.8], [0.3, 0.4]])
    prediction = truth.copy()
    prediction[1, 1] = 0.7
    figures = metrics.summary(truth, prediction, dimensions=("arousal", "valence"), n=50)
    assert figures["valence"]["ccc"].value == pytest.approx(1)
    assert figures["arousal"]["mae"].value == 0
