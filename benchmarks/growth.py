"""How cost grows with the length of the clip: cost = a * duration ** exponent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

#: Exponents between these count as linear growth; the room is the constant cost of a call,
#: which flattens short clips, and the noise of timing.
LINEAR = (0.85, 1.15)


def fit(durations_s: Sequence[float], costs: Sequence[float]) -> dict[str, Any] | None:
    """Exponent of growth by least squares on logarithms.

    The constant part of a call (milliseconds or bytes that do not depend on the clip) hides
    growth in short clips, so the exponent is fitted on the longer half, at least two points.

    Args:
        durations_s: clip lengths in seconds
        costs: latency, bytes ... of each

    Returns:
        `exponent`, `over_s` (the lengths it was fitted on), `verdict` ("linear", "less than
        linear" or "more than linear"); None with fewer than two lengths or a cost of zero
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
    verdict = (
        "linear" if low <= exponent <= high
        else "more than linear" if exponent > high
        else "less than linear"
    )  # fmt: skip
    return {"exponent": exponent, "over_s": durations.tolist(), "verdict": verdict}
