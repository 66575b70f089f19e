"""Two batches at once on a CPU, each with half of the cores.

A transformer on short clips leaves cores waiting at the end of each of its many small operations;
two batches side by side fill those gaps (`benchmarks/studies/labelling.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np

from wav2small.teachers import base as teachers
from wav2small.teachers.base import Teacher
from wav2small.teachers.multimodal.turns import Passage

LANES = 2

#: Begins a batch (clips, samples) of lengths (clips,), with passages or None; the result waits for
#: its columns.
Launch = Callable[
    [np.ndarray, np.ndarray, "list[Passage] | None"], Callable[[], dict[str, np.ndarray]]
]


@contextmanager
def launching(teacher: Teacher) -> Iterator[Launch]:
    """How to begin batches of a teacher; on a CPU they run in lanes, on a GPU in its own queue."""
    if getattr(getattr(teacher, "device", None), "type", None) != "cpu":
        yield lambda *heard: teachers.launch(teacher, *heard)
        return
    import torch

    threads = torch.get_num_threads()

    def enter() -> None:
        torch.set_num_threads(max(1, threads // LANES))

    try:
        with ThreadPoolExecutor(LANES, "lane", enter) as pool:
            yield lambda *heard: pool.submit(teachers.columns, teacher, *heard).result
    finally:
        torch.set_num_threads(threads)
