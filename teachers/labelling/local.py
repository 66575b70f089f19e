"""Labelling on this machine: worker processes read, and label themselves where that is cheap."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np

from wav2small.errors import AudioError, Wav2SmallError
from wav2small.teachers import registry
from wav2small.teachers.base import Teacher, columns
from wav2small.workers import Died, start

from .clips import Outcome, Reader, SourceRow, reason, rejection

#: Work of a task: little to lose, few messages, and no worker waits long for the last one.
_TASK_S = 0.2
_MOST_ROWS = 8


def label_in_workers(
    rows: Iterable[SourceRow],
    reader: Reader,
    teacher: str | Teacher,
    options: dict[str, Any],
    *,
    workers: int,
) -> Iterator[Outcome]:
    """Every worker has a copy of the teacher and labels rows, from file to labels.

    Args:
        rows: what to label
        reader: of the clips
        teacher: as for `load_teacher`
        options: of the teacher
        workers: number of processes; 0 = none, everything happens in this one
    """
    todo = iter(rows)
    waiting: list[list[SourceRow]] = []
    rows_per_task, labelled, began = 1, 0, 0.0
    with start(workers, f"{__name__}:labeller", teacher, options, reader) as pool:
        while True:
            while pool.free:
                task = waiting.pop() if waiting else list(islice(todo, rows_per_task))
                if not task:
                    break
                pool.submit(task)
            if not pool.busy:
                return
            for task, outcome in pool.receive():
                if began:
                    labelled += len(task)
                    pace = labelled / max(time.perf_counter() - began, _TASK_S) / max(workers, 1)
                    rows_per_task = min(max(round(pace * _TASK_S), 1), _MOST_ROWS)
                began = began or time.perf_counter()  # from now on the workers have their models
                if outcome is not Died:
                    yield outcome
                elif len(task) > 1:
                    waiting += [[row] for row in task]
                else:
                    yield _crashed(task[0])


def labeller(
    teacher: str | Teacher, options: dict[str, Any], reader: Reader
) -> Callable[[list[SourceRow]], Outcome]:
    """Make the function of a worker: rows in, their outcome out."""
    model = registry.load_teacher(teacher, **options)

    def label(rows: list[SourceRow]) -> Outcome:
        items, rejections = reader.list_items(rows)
        outcome = Outcome(rows=[row.row for row in rows], rejections=rejections)
        labels: list[dict[str, np.ndarray]] = []
        for item in items:
            batch = reader.batch([item])
            outcome.rejections += batch.rejections
            if not batch.items:
                continue
            try:
                values = columns(model, batch.signals, batch.lengths, batch.passages)
                _check(values)
            except Exception as error:  # whatever one clip does, the others are labelled
                if isinstance(error, Wav2SmallError) and not isinstance(error, AudioError):
                    raise
                outcome.rejections.append(rejection(item, reason(error)))
                continue
            outcome.items += batch.items
            labels.append(values)
        outcome.columns = stack(labels)
        return outcome

    return label


def stack(batches: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Join columns of batches."""
    names = batches[0] if batches else ()
    return {name: np.concatenate([one[name] for one in batches]) for name in names}


def _check(values: dict[str, np.ndarray]) -> None:
    for name, value in values.items():
        if not np.isfinite(value).all():
            raise AudioError(f"the teacher's {name} is no number")


def _crashed(row: SourceRow) -> Outcome:
    why = "the process that labelled it crashed; the file is damaged or does not fit in memory"
    return Outcome(rows=[row.row], rejections=[rejection(row, why)])
