"""Two batches at once on a CPU, each with half of the cores.

A transformer on short clips leaves cores waiting at the end of each of its many small operations;
two batches side by side fill those gaps (`python -m wav2small.benchmarks.labelling batches`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np

from . import teacher as teachers
from .teacher import Teacher

LANES = 2

#: Begins a batch (clips, samples) of lengths (clips,); the result waits for its columns.
Launch = Callable[[np.ndarray, np.ndarray], Callable[[], dict[str, np.ndarray]]]


@contextmanager
def launching(teacher: Teacher) -> Iterator[Launch]:
    """How to begin batches of a teacher; on a CPU they run in lanes, on a GPU in its own queue."""
    if getattr(getattr(teacher, "device", None), "type", None) != "cpu":
        yield lambda batch, lengths: teachers.launch(teacher, batch, lengths)
        return
    import torch

    threads = torch.get_num_threads()

    def enter() -> None:
        torch.set_num_threads(max(1, threads // LANES))

    try:
        with ThreadPoolExecutor(LANES, "lane", enter) as pool:
            yield (
                lambda batch, lengths: pool.submit(teachers.columns, teacher, batch, lengths).result
            )
    finally:
        torch.set_num_threads(threads)
