"""Latency of several models in one interleaved run, so that their ratios are fair."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import models


def measure(
    candidates: Sequence[models.WaveformModel],
    duration_s: float,
    *,
    runs: int = 100,
    warm_up: int = 10,
    sampling_rate: int = 16000,
) -> np.ndarray:
    """Times of every model for one clip length.

    Every round runs each model once; the order turns by one each round, so that no model
    always follows the same neighbour (its caches, its heat).

    Args:
        candidates: opened models
        duration_s: length of the clip in seconds
        runs: counted rounds
        warm_up: rounds before them
        sampling_rate: Hz

    Returns:
        times in milliseconds, float64 (runs, models)
    """
    signal = models.noise(round(duration_s * sampling_rate))
    feeds = [model.feed(signal) for model in candidates]
    times = np.empty((warm_up + runs, len(candidates)))
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for turn in range(warm_up + runs):
            for step in range(len(candidates)):
                which = (turn + step) % len(candidates)
                start = time.perf_counter_ns()
                candidates[which].run(feeds[which])
                times[turn, which] = (time.perf_counter_ns() - start) / 1e6
    finally:
        if collecting:
            gc.enable()
    return times[warm_up:]


def describe(times: np.ndarray, duration_s: float) -> dict[str, Any]:
    """Percentiles of one model's times (runs,) in milliseconds.

    `real_time_factor` is computing time / duration of the audio at the median.
    """
    p10, p50, p90, p99 = np.percentile(times, [10, 50, 90, 99])
    return {
        "duration_s": duration_s,
        "runs": len(times),
        "min_ms": float(times.min()),
        "p10_ms": float(p10),
        "p50_ms": float(p50),
        "p90_ms": float(p90),
        "p99_ms": float(p99),
        "real_time_factor": float(p50 / 1000 / duration_s),
    }


def ratio(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """How much longer the second model takes than the first, in one interleaved run.

    Args:
        first: times (runs,)
        second: times (runs,) of the same rounds

    Returns:
        `ratio_of_medians`, and `p10`, `p50`, `p90` of the ratios pair by pair
    """
    p10, p50, p90 = np.percentile(second / first, [10, 50, 90])
    return {
        "ratio_of_medians": float(np.median(second) / np.median(first)),
        "p10": float(p10),
        "p50": float(p50),
        "p90": float(p90),
    }
