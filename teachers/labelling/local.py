"""Labelling on this machine: worker processes read, and label themselves where that is cheap."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np

from wav2small.errors import AudioError
from wav2small.teachers import registry
from wav2small.teachers.base import Teacher, columns
from wav2small.workers import Died, start

from .clips import Outcome, Reader, SourceRow, failed, rejection

#: Work of a task: little to lose, few messages, and no worker waits long for the last one.
_TASK_S = 0.2
_MOST_ROWS = 8
_CRASHED = "the process that labelled it crashed; the file is damaged or does not fit in memory"


def label_in_workers(
    rows: Iterable[SourceRow],
    reader: Reader,
    teacher: str | Teacher,
    options: dict[str, Any],
    *,
    workers: int,
) -> Iterator[Outcome]:
    """Every worker has a copy of the teacher and labels rows, from file to labels.

    `teacher` and `options` are those of `load_teacher`; without workers all happens here.
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
                    yield Outcome(rows=[task[0].row], rejections=[rejection(task[0], _CRASHED)])


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
                wrong = [name for name, found in values.items() if not np.isfinite(found).all()]
                if wrong:
                    raise AudioError(f"the teacher's {wrong[0]} is no number")
            except Exception as error:  # whatever one clip does, the others are labelled
                outcome.rejections.append(failed(item, error))
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
