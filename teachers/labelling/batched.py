"""Labelling with one model in this process: worker processes read ahead, batches are of a length.

While the model works on a batch, the next ones are decoded and the one before is written down.
What is in memory is bounded by a stretch of the index, however long the index is.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from wav2small.teachers import base as teachers
from wav2small.teachers.base import Teacher
from wav2small.teachers.multimodal.dialogue import Passage
from wav2small.training.threads import Pace, asked, available
from wav2small.workers import Died, Inline, Pool, start

from .clips import Item, LabelBatch, Outcome, Reader, Rejection, SourceRow, rejection

GPU_BATCH_S = 600.0
CPU_BATCH_S = 2.0  # measured: on a CPU larger batches outgrow the caches and gain nothing
_ROWS_PER_TASK = 64  # headers that a worker reads at a time
_AHEAD = 3  # batches that may wait for the model, and one more per worker
#: Batches that are cut from one sorted stretch of the index: the more, the less padding; the
#: fewer, the sooner rows are finished and written.
STRETCH_BATCHES = 16
CPU_BATCHES = 2  # at once on a CPU

#: Begins a batch (clips, samples) of lengths (clips,), with passages or None; the result waits for
#: its columns.
Launch = Callable[
    [np.ndarray, np.ndarray, "list[Passage] | None"], Callable[[], dict[str, np.ndarray]]
]


def batch_seconds(model: Teacher) -> float:
    """Seconds of audio that make a good batch where a teacher runs."""
    return GPU_BATCH_S if on_gpu(model) else CPU_BATCH_S


def on_gpu(model: Teacher) -> bool:
    """Whether a teacher computes on a GPU."""
    return getattr(getattr(model, "device", None), "type", "cpu") == "cuda"


@dataclass
class _Open:
    """A row that still misses outcomes of its items."""

    missing: int
    items: list[Item] = field(default_factory=list)
    values: list[dict[str, Any]] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)


def reading(reader: Reader) -> Callable[[Any], Any]:
    """Make the function of a worker: rows become items, items become a batch."""

    def read(task: list[Any]) -> tuple[list[Item], list[Rejection]] | LabelBatch:
        return reader.batch(task) if isinstance(task[0], Item) else reader.list_items(task)

    return read


def cut(items: Sequence[Item], batch_s: float) -> list[list[Item]]:
    """Cut items into batches of nearly the same length, of at most `batch_s` seconds, each clip
    counted as long as the longest; a clip that is longer is a batch of its own.

    The longest clips come first: if memory does not suffice, that shows at once.
    """
    batches: list[list[Item]] = []
    longest = 0.0
    for item in sorted(items, key=lambda item: item.input_s, reverse=True):
        if not batches or (len(batches[-1]) + 1) * longest > batch_s:
            batches.append([])
            longest = item.input_s
        batches[-1].append(item)
    return batches


@contextmanager
def launching(teacher: Teacher, threads: int = 0) -> Iterator[Launch]:
    """How to begin batches of a teacher: on a GPU in its own queue, on a CPU two at once.

    A transformer on short clips leaves cores waiting at the end of each of its many small
    operations; two batches with half of the cores each fill those gaps
    (`benchmarks/studies/labelling.py`). `threads` compute on a CPU, all batches together; 0 =
    chosen by timing the first batch.
    """
    if getattr(getattr(teacher, "device", None), "type", None) != "cpu":
        yield lambda *inputs: teachers.launch(teacher, *inputs)
        return
    import torch

    before = torch.get_num_threads()
    total = threads or asked()
    batches = min(CPU_BATCHES, total or available())
    own = [1]  # threads of a batch

    def compute(*inputs: Any) -> dict[str, np.ndarray]:
        torch.set_num_threads(own[0])  # of the thread that calls it
        began = time.perf_counter()
        columns = teachers.columns(teacher, *inputs)
        pace.took(time.perf_counter() - began)
        return columns

    pace = Pace(
        max(1, total // batches) if total else 0,
        cores=max(1, available() // batches),
        apply=lambda number: own.__setitem__(0, number),
    )

    def begin(*inputs: Any) -> Callable[[], dict[str, np.ndarray]]:
        pace.ready(lambda: list(pool.map(lambda _: compute(*inputs), range(batches))))
        return pool.submit(compute, *inputs).result

    try:
        with ThreadPoolExecutor(batches, "batch") as pool:
            yield begin
    finally:
        torch.set_num_threads(before)


class BatchedRun:
    """One pass over rows; see `label_in_batches`."""

    def __init__(
        self, rows: Iterable[SourceRow], pool: Pool | Inline, launch: Launch, batch_s: float
    ):
        self.rows = iter(rows)
        self.pool = pool
        self.launch = launch
        self.batch_s = batch_s
        self.more = True  # rows to look at
        self.retry: list[Any] = []
        self.looking = 0  # tasks on their way that bring items
        self.reading = 0  # tasks on their way that bring batches
        self.waiting: list[Item] = []
        self.waiting_s = 0.0
        self.batches: deque[list[Item]] = deque()
        self.decoded: deque[LabelBatch] = deque()
        self.open: dict[int, _Open] = {}
        self.done: list[_Open] = []
        self.ahead = _AHEAD + pool.count

    def __iter__(self) -> Iterator[Outcome]:
        running: Callable[[], None] | None = None
        while True:
            self._cut()
            self._submit()
            if self.pool.busy and (not self.decoded or self.pool.ready()):
                if running and not self.decoded and not self.pool.ready():
                    running()  # nothing to do meanwhile: take what the model has
                    running = None
                for task, result in self.pool.receive(one=True):
                    self._received(task, result)
            before, running = running, None
            if self.decoded:
                running = self._label(self.decoded.popleft())
            if before:
                before()
            if self.done:
                yield outcome(self.done)
                self.done = []
            if not (running or self.pool.busy or self.decoded or self.batches or self.waiting):
                if not self.more and not self.retry:
                    return

    def _cut(self) -> None:
        enough = self.waiting_s >= STRETCH_BATCHES * self.batch_s
        if not self.batches and (enough or (not self.more and not self.looking)):
            self.batches.extend(cut(self.waiting, self.batch_s))
            self.waiting, self.waiting_s = [], 0.0

    def _submit(self) -> None:
        while self.pool.free:
            if self.retry:
                self._send(self.retry.pop())
            elif self.batches and self.reading + len(self.decoded) < self.ahead:
                self._send(self.batches.popleft())
            elif self.more and self.waiting_s < STRETCH_BATCHES * self.batch_s:
                rows = list(islice(self.rows, _ROWS_PER_TASK))
                self.more = len(rows) == _ROWS_PER_TASK
                if rows:
                    self._send(rows)
                self._cut()
            else:
                return

    def _send(self, task: list[Any]) -> None:
        self._on_their_way(task, 1)
        self.pool.submit(task)

    def _on_their_way(self, task: list[Any], change: int) -> None:
        if isinstance(task[0], Item):
            self.reading += change
        else:
            self.looking += change

    def _received(self, task: list[Any], result: Any) -> None:
        reads = isinstance(task[0], Item)
        self._on_their_way(task, -1)
        if result is Died:
            if len(task) > 1:
                self.retry += [[one] for one in task]
                return
            why = "the process that read it crashed; the file is damaged"
            lost = [rejection(task[0], why)]
            result = LabelBatch([], np.zeros((0, 0)), np.zeros(0), lost) if reads else ([], lost)
        if reads:
            self._reject(result.rejections)
            if result.items:
                self.decoded.append(result)
            return
        found, rejections = result
        for one in rejections:
            self.done.append(_Open(0, rejections=[one]))
        for item in found:
            self.open.setdefault(item.row, _Open(0)).missing += 1
            self.waiting_s += item.input_s
        self.waiting += found

    def _label(self, batch: LabelBatch) -> Callable[[], None]:
        wait = self.launch(batch.signals, batch.lengths, batch.passages)

        def finish() -> None:
            columns = wait()
            finite = np.all(
                [np.isfinite(v).reshape(len(v), -1).all(axis=1) for v in columns.values()], axis=0
            )
            for at, item in enumerate(batch.items):
                if not finite[at]:
                    self._reject([rejection(item, "the teacher's answer is no number")])
                    continue
                row = self.open[item.row]
                row.items.append(item)
                row.values.append({name: values[at] for name, values in columns.items()})
                self._count(item.row)

        return finish

    def _reject(self, rejections: list[Rejection]) -> None:
        for one in rejections:
            self.open[one.row].rejections.append(one)
            self._count(one.row)

    def _count(self, row: int) -> None:
        self.open[row].missing -= 1
        if not self.open[row].missing:
            self.done.append(self.open.pop(row))


def outcome(rows: list[_Open]) -> Outcome:
    """The outcome of finished rows."""
    values = [one for row in rows for one in row.values]
    found = [item for row in rows for item in row.items]
    rejections = [one for row in rows for one in row.rejections]
    names = values[0] if values else ()
    columns = {name: np.array([one[name] for one in values], dtype=np.float32) for name in names}
    finished = {item.row for item in found} | {one.row for one in rejections}
    return Outcome(sorted(finished), found, columns, rejections)


def label_in_batches(
    rows: Iterable[SourceRow],
    reader: Reader,
    teacher: Teacher,
    *,
    workers: int,
    batch_s: float,
    threads: int = 0,
) -> Iterator[Outcome]:
    """Label rows with a teacher that lives in this process; `workers` processes read the clips.

    `batch_s` is the most seconds of audio in a batch, padding counted; `threads`: see `launching`.
    """
    reading_pool = start(workers, f"{__name__}:reading", reader)
    with reading_pool as pool, launching(teacher, threads) as launch:
        yield from BatchedRun(rows, pool, launch, batch_s)
