"""How far labels of an int8 teacher are from those of float32, on clips from all over an index."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from wav2small import metrics, progress
from wav2small.teachers.base import Teacher, columns

from .clips import Reader, SourceRow

CLIPS = 32  # that are compared


def chosen(count: int) -> np.ndarray:
    """Rows that are compared, spread evenly: bool (count,).

    Example:
        >>> chosen(3)
        array([ True,  True,  True])
    """
    mask = np.zeros(count, dtype=bool)
    mask[np.linspace(0, count - 1, min(CLIPS, count)).astype(int)] = True
    return mask


def with_float32(
    rows: Iterable[SourceRow], reader: Reader, model: Teacher, exact: Teacher
) -> dict[str, float]:
    """Label one window of each row with a model in int8 and the same in float32.

    Returns:
        {column: CCC}, also printed; nothing where fewer than two clips can be read
    """
    items = [listed[0] for row in rows if (listed := reader.list_items([row])[0])]
    pairs = []
    for item in items:
        batch = reader.batch([item])
        if batch.items:
            inputs = batch.signals, batch.lengths, batch.passages
            pairs.append([columns(teacher, *inputs) for teacher in (model, exact)])
    if len(pairs) < 2:
        return {}
    names = [name for name, values in pairs[0][0].items() if values.ndim == 1]
    both = {name: np.array([[one[name][0] for one in pair] for pair in pairs]) for name in names}
    found = {name: float(metrics.ccc(both[name][:, 1], both[name][:, 0])) for name in names}
    shown = ", ".join(f"{name} {value:.4f}" for name, value in found.items())
    progress.note(f"int8: CCC with float32 on {len(pairs)} clips: {shown}")
    return found
