"""Latency of several models in one interleaved run, so that ratios are fair, and its growth."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import models

#: Exponents between these count as linear growth; the margin is for the constant cost of a call,
#: which flattens short clips, and for the noise of timing.
LINEAR = (0.85, 1.15)


def measure(
    candidates: Sequence[models.WaveformModel],
    duration_s: float,
    *,
    runs: int = 100,
    warm_up: int = 10,
    sampling_rate: int = 16000,
) -> np.ndarray:
    """Times of every model for one clip length in milliseconds, float64 (runs, models).

    Every round runs each model once; the order shifts by one each round, so that no model
    always follows the same neighbour (its caches, its heat). `warm_up` rounds do not count.
    """
    signal = models.noise(round(duration_s * sampling_rate))
    feeds = [model.feed(signal) for model in candidates]
    times = np.empty((warm_up + runs, len(candidates)))
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for iteration in range(warm_up + runs):
            for step in range(len(candidates)):
                which = (iteration + step) % len(candidates)
                start = time.perf_counter_ns()
                candidates[which].run(feeds[which])
                times[iteration, which] = (time.perf_counter_ns() - start) / 1e6
    finally:
        if collecting:
            gc.enable()
    return times[warm_up:]


def describe(times: np.ndarray, duration_s: float) -> dict[str, Any]:
    """Percentiles of one model's times (runs,) in milliseconds.

    `real_time_factor` is computing time / duration of the audio at the median.

    Example:
        >>> describe(np.array([2.0, 3.0, 4.0]), 1.0)["p50_ms"]
        3.0
    """
    return {
        "duration_s": duration_s,
        "runs": len(times),
        "min_ms": float(times.min()),
        **{f"p{rank}_ms": float(np.percentile(times, rank)) for rank in (10, 50, 90, 99)},
        "real_time_factor": float(np.percentile(times, 50) / 1000 / duration_s),
    }


def ratio(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """How much longer the second model takes than the first: times (runs,) of the same rounds.

    Returns:
        `ratio_of_medians`, and `p10`, `p50`, `p90` of the ratios pair by pair

    Example:
        >>> ratio(np.array([1.0, 2.0]), np.array([2.0, 4.0]))["ratio_of_medians"]
        2.0
    """
    ratios = second / first
    return {
        "ratio_of_medians": float(np.median(second) / np.median(first)),
        **{f"p{rank}": float(np.percentile(ratios, rank)) for rank in (10, 50, 90)},
    }


def growth(durations_s: Sequence[float], costs: Sequence[float]) -> dict[str, Any] | None:
    """How a cost, of clips of each length, grows with it: cost = a * duration ** exponent.

    The constant part of a call (milliseconds or bytes that do not depend on the clip) hides
    growth in short clips, so the exponent is fitted by least squares on logarithms over the longer
    half, at least two points.

    Returns:
        `exponent`, `over_s` (the lengths it was fitted on), `verdict` ("linear", "less than
        linear" or "more than linear"); None with fewer than two lengths or a cost of zero

    Example:
        >>> growth([1, 5, 10, 30], [2.0, 10.0, 20.0, 60.0])["verdict"]
        'linear'
    """
    order = np.argsort(durations_s)
    durations = np.asarray(durations_s, dtype=np.float64)[order]
    values = np.asarray(costs, dtype=np.float64)[order]
    keep = max(2, (len(durations) + 1) // 2)
    durations, values = durations[-keep:], values[-keep:]
    if len(np.unique(durations)) < 2 or (values <= 0).any():
        return None
    exponent = float(np.polyfit(np.log(durations), np.log(values), 1)[0])
    low, high = LINEAR
    verdict = "linear" if low <= exponent <= high else "more than linear"
    if exponent < low:
        verdict = "less than linear"
    return {"exponent": exponent, "over_s": durations.tolist(), "verdict": verdict}
