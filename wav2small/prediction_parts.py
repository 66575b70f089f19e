"""Parts of clips on their way through a bundle, here or in worker processes, and back in order.

A part is up to `PART` windows of a clip: what a worker process does at a time, what the journal
`FILE.part` keeps and what the progress shows.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from wav2small.errors import AudioError, SilentError
from wav2small.predictor import Predictor

from . import audio, files, places
from .workers import Died, start

PART = 50  # windows of a clip: seconds of work
_CLIPS_PER_TASK = 8  # of a worker process, so that messages cost little
_CRASHED = "the process that read it crashed; it is damaged, or does not fit in memory"
Clip = tuple[str, float, float | None]  # file, start and end in seconds


class Task(NamedTuple):
    """A part of a clip: what a worker estimates at a time."""

    number: int  # of the clip
    part: int
    clip: Clip


class Answer(NamedTuple):
    """What became of a part: JSON values."""

    rows: list[Any]
    reason: str  # why something of it was rejected
    silent: str  # why a window of it was passed over
    parts: int  # of its clip


@dataclass(frozen=True)
class Reader:
    """Reads the windows of clips; travels to worker processes."""

    folder: str
    window_s: float
    hop_s: float
    channel: int | None
    speech_only: bool = False

    def path(self, file: str) -> str:
        return places.join(self.folder, file)

    def key(self, task: Task) -> str:
        """What must be the same for an answer of an earlier run to hold: the clip and its file."""
        try:
            found = os.stat(self.path(task.clip[0]))
            state = [found.st_size, found.st_mtime_ns]
        except (OSError, ValueError):
            state = []
        return json.dumps([*task.clip, *state, task.part])

    def estimate(self, predictor: Predictor, task: Task) -> Answer:
        """Rows of a part of a clip. Windows without sound are passed over."""
        from wav2small.index import spans

        (file, start_s, end_s), part = task.clip, task.part
        rows: list[tuple[Any, ...]] = []
        reason = silent = ""
        try:
            with audio.Recording(self.path(file)) as recording:
                total_s = recording.duration
                stop_s = total_s if end_s is None else end_s
                if stop_s > total_s + self.window_s:  # raises
                    recording.read(start_s=start_s, end_s=stop_s, channel=self.channel)
                cut = spans(stop_s - start_s, window_s=self.window_s, hop_s=self.hop_s)
                for low, high in cut[part * PART : (part + 1) * PART]:
                    first, last = start_s + low, start_s + high
                    until = end_s if len(cut) == 1 else last
                    try:
                        signal = recording.read(start_s=first, end_s=until, channel=self.channel)
                    except SilentError as error:
                        silent = silent or str(error)
                        continue
                    except AudioError as error:
                        reason = reason or str(error)
                        continue
                    details = predictor.predict_details(signal, speech_only=self.speech_only)
                    estimate, shares, speech = details
                    if self.speech_only and np.isnan(estimate[0]):
                        silent = silent or f"{file}: no speech in it; leave out --speech-only"
                        continue
                    numbers = [*estimate, *shares, *([] if speech is None else [speech])]
                    values = (*map(float, numbers), audio.is_band_limited(signal))
                    rows.append((file, round(first, 3), round(last, 3), *values))
        except AudioError as error:
            return Answer([], str(error), "", 1)
        return Answer(rows, reason, silent, -(-len(cut) // PART))


def estimator(
    bundle: str | Predictor, threads: int, reader: Reader
) -> Callable[[list[Task]], list[Answer]]:
    """Make the function of a worker process, with a path or an open model: parts in, answers out.

    Example:
        >>> run = estimator("bundle", 1, Reader("", 12.0, 12.0, None))
        >>> run([Task(0, 0, ("speech.wav", 0.0, None))])[0].parts
        1
    """
    predictor = bundle if isinstance(bundle, Predictor) else Predictor(bundle, threads=threads)
    return lambda tasks: [reader.estimate(predictor, task) for task in tasks]


def answers(
    clips: Sequence[Clip],
    reader: Reader,
    predictor: Predictor,
    journal: files.Journal,
    processes: int,
) -> Iterator[tuple[Task, Answer, int]]:
    """Every part of every clip as soon as it is done, and where the journal keeps it."""
    todo = (Task(number, 0, clip) for number, clip in enumerate(clips))
    rest: deque[Task] = deque()  # of clips of several parts
    alone: deque[Task] = deque()  # a process died on one of them
    keys: dict[Task, str] = {}  # of tasks that are at work
    threads = predictor.model.threads
    bundle = predictor.path if processes else predictor

    def done(task: Task, answer: Answer, place: int) -> tuple[Task, Answer, int]:
        if task.part == 0:
            rest.extend(task._replace(part=part) for part in range(1, answer.parts))
        return task, answer, place

    def fresh() -> Iterator[Task | tuple[Task, Answer, int]]:
        """The next tasks; in place of those that an earlier run did, what it found."""
        while (task := rest.popleft() if rest else next(todo, None)) is not None:
            keys[task] = reader.key(task) if journal.path else ""
            if found := journal.find(keys[task]):
                del keys[task]
                yield done(task, Answer(*found[1]), found[0])
            else:
                yield task

    with start(processes, f"{__name__}:estimator", bundle, threads, reader) as pool:
        while True:
            while pool.free:
                tasks = [alone.popleft()] if alone else []
                most = 1 if tasks or not processes else _CLIPS_PER_TASK
                for entry in fresh() if not tasks else ():
                    if not isinstance(entry, Task):
                        yield entry
                        continue
                    tasks.append(entry)
                    if len(tasks) == most or entry.part or rest:
                        break
                if not tasks:
                    break
                pool.submit(tasks)
            if not pool.busy:
                return
            for tasks, result in pool.receive():
                if result is Died and len(tasks) > 1:
                    alone.extend(tasks)
                    continue
                died = result is Died
                if died:
                    problem = f"{reader.path(tasks[0].clip[0])}: {_CRASHED}"
                    result = [Answer([], problem, "", tasks[0].part + 1)]
                for task, answer in zip(tasks, result, strict=True):
                    key = keys.pop(task)
                    # What a process died on is not kept: the same call tries it again.
                    yield done(task, answer, -1 if died else journal.add(key, answer))


def ordered(
    finished: Iterable[tuple[Task, Answer, int]], bar: Any
) -> Iterator[tuple[int, Answer, int, str | None]]:
    """The parts in the order of the clips.

    Yields:
        number of the clip, the answer, its place in the journal; and with the last part of a clip
        why something of it was rejected, "" = nothing was
    """
    waiting: dict[tuple[int, int], tuple[Answer, int]] = {}
    number = part = rows = parts = 0
    reason = silent = ""
    for task, answer, place in finished:
        waiting[task.number, task.part] = answer, place
        bar.update(1 / answer.parts)
        while (number, part) in waiting:
            answer, place = waiting.pop((number, part))
            parts = answer.parts if part == 0 else parts
            rows += len(answer.rows)
            reason, silent = reason or answer.reason, silent or answer.silent
            part += 1
            if part < parts:
                yield number, answer, place, None
                continue
            yield number, answer, place, reason or ("" if rows else silent)
            number, part, rows, reason, silent = number + 1, 0, 0, "", ""
