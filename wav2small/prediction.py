"""`predict`: all audio of a source through a bundle, row by row, taken up where it stopped.

A clip is estimated in parts of up to `PART` windows. A part is what a worker process does at a
time, what `FILE.part` keeps and what the progress shows; rows come in the order of the clips.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import sys
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

import numpy as np

from wav2small.dimensions import DIMENSIONS
from wav2small.errors import AudioError, SilentError, Wav2SmallError
from wav2small.predictor import WINDOW_S, Predictor

from . import audio, files, places, progress
from .workers import Died, start

if TYPE_CHECKING:
    import pandas as pd

PART = 50  # windows of a clip: seconds of work
_CLIPS_PER_TASK = 8  # of a worker process, so that messages cost little
_Clip = tuple[str, float, float | None]  # file, start and end in seconds
COLUMNS = ("file", "start", "end", *DIMENSIONS)
LIMITED = "band_limited"
SPEECH = "speech"


@dataclass(repr=False)
class Predictions:
    """What `predict` found.

    Attributes:
        rows: (file, start, end, arousal, dominance, valence), times in seconds; then the
            probabilities of the categories, if the student has any, the share that is speech, if
            detected, whether the audio is band-limited, and the source's columns that were kept
        categories: their names
        rejected: (file, reason) of files that could not be estimated
        kept: names of the columns of the source
        count: number of rows, also where they were not collected
        speech: whether the student detects speech
    """

    rows: list[tuple[Any, ...]] = field(default_factory=list)
    rejected: list[tuple[str, str]] = field(default_factory=list)
    categories: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    count: int = 0
    speech: bool = False

    def to_frame(self) -> pd.DataFrame:
        """The rows as a table.

        Example:
            >>> Predictions([("a.wav", 0.0, 1.0, 0.5, 0.4, 0.6, False)]).to_frame().valence[0]
            np.float64(0.6)
        """
        import pandas as pd

        return pd.DataFrame(self.rows, columns=columns(self.categories, self.kept, self.speech))

    @property
    def frame(self) -> pd.DataFrame:
        """`to_frame()`."""
        return self.to_frame()

    def __repr__(self) -> str:
        files = len({row[0] for row in self.rows})
        count = f"{len(self.rows)} rows of {files} files" if self.rows else f"{self.count} rows"
        return f"<Predictions: {count}, {len(self.rejected)} rejected>"

    def _repr_html_(self) -> str:
        header = columns(self.categories, self.kept, self.speech)
        return table(header, map(_formatted, self.rows), repr(self))


def table(header: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> str:
    """An HTML table of at most 20 rows, as notebooks show it.

    Example:
        >>> table(["file"], [["a.wav"]], "1 file").count("<td>")
        1
    """
    from html import escape
    from itertools import islice

    def line(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(line("td", row) for row in islice(rows, 20))
    head = line("th", header)
    return f"<table><caption>{escape(caption)}</caption>{head}{body}</table>"


def columns(categories: Sequence[str], kept: Sequence[str] = (), speech: bool = False) -> list[str]:
    """Names of the columns for a student with these categories, and columns of the source.

    Example:
        >>> columns(["anger"], ["speaker", "valence"])[-4:]
        ['probability_anger', 'band_limited', 'speaker', 'source_valence']
    """
    own = [*COLUMNS, *(f"probability_{name}" for name in categories)]
    own += [SPEECH] * speech + [LIMITED]
    return [*own, *(f"source_{name}" if name in own else name for name in kept)]


def predict(
    bundle: str | os.PathLike[str],
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str] | TextIO | None = None,
    *,
    json_lines: bool = False,
    window: float = WINDOW_S,
    hop: float | None = None,
    channel: int | None = None,
    root: str | None = None,
    time_unit: str = "s",
    keep: bool = False,
    speech_only: bool = False,
    workers: int = 0,
    threads: int = 1,
    collect: bool = True,
) -> Predictions:
    """Estimate all audio of a source.

    Args:
        bundle: the model in the box (nano), a bundle folder, a bundle of the hub (owner/name) or an
            `.onnx` file
        source: audio file, folder, CSV or parquet table with a column `file`, audformat database;
            or several. Files of several sources are named with their folders
        output: CSV file; None = standard output on the command line. Or an open text file that gets
            each row at once; a run that was stopped leaves `FILE.part`, and the same call goes on
            from there
        json_lines: one JSON object per row instead of CSV
        window: clips longer than S seconds get one row per window of S
        hop: seconds between windows; None = the window
        channel: use channel N, from 0; None = mean of all
        root: folder that the files of a table are relative to
        time_unit: of times of a table that are plain numbers: s, ms or us
        keep: keep the other columns of a table
        speech_only: estimate only what is speech; a model that detects it is needed, such as nano
        workers: processes that estimate; 0 = none, all happens in this one
        threads: threads of ONNX Runtime, in each process
        collect: give the rows back, too; without, memory does not grow with them

    Raises:
        Wav2SmallError: the bundle or the source cannot be used at all

    Example:
        >>> predict("bundle", "speech.wav").rows[0][:3]
        ('speech.wav', 0.0, 2.0)
    """
    from wav2small.index import check_window

    check_window(window, hop)
    if workers < 0:
        raise Wav2SmallError(f"--workers {workers}: 0 or more")
    predictor = Predictor(bundle, threads=threads)
    if speech_only and not predictor.speech:
        raise Wav2SmallError(f"{bundle}: does not detect speech; take nano")
    sources = [source] if isinstance(source, str | os.PathLike) else source
    clips: list[_Clip] = []
    extras: dict[int, dict[Any, Any]] = {}  # clip -> other columns of its table
    tables: list[tuple[int, int]] = []  # clips of a table, from and to
    result = Predictions(categories=predictor.categories, speech=predictor.speech)
    for one in sources:
        listed, folder, unusable, own, is_table = _clips(one, root, time_unit)
        if sources is source:
            listed = [(os.path.join(folder, file), start, end) for file, start, end in listed]
        if is_table:
            tables.append((len(clips), len(clips) + len(listed)))
        if keep and own is not None:
            extras |= dict(enumerate(own.to_dict("records"), start=len(clips)))
        clips += listed
        result.rejected += unusable
    folder = "" if sources is source else folder
    result.kept = list(dict.fromkeys(name for extra in extras.values() for name in extra))
    header = columns(predictor.categories, result.kept, predictor.speech)
    settings = {
        "bundle": files.sha256(predictor.path),
        "window": window,
        "hop": hop,
        "channel": channel,
        "columns": columns(predictor.categories, (), predictor.speech),
        **({"speech_only": True} if speech_only else {}),
    }
    reader = _Reader(folder, window, hop or window, channel, speech_only)
    limited, place = 0, header.index(LIMITED)

    def shown(number: int, rows: list[Any]) -> list[tuple[Any, ...]]:
        values = tuple(extras.get(number, {}).get(name) for name in result.kept)
        return [(*row, *values) for row in rows]

    with (
        _Output(output, settings, header, json_lines) as out,
        progress.bar(len(clips), unit="clip", desc="predict") as bar,
    ):
        answers = _answers(clips, reader, predictor, out.journal, workers)
        for number, answer, kept_at, last in _ordered(answers, bar):
            new = shown(number, answer.rows)
            out.add(number, new, kept_at)
            result.count += len(new)
            limited += sum(bool(row[place]) for row in new)
            if collect:
                result.rows += new
            if last:
                row = next((number - low + 1 for low, high in tables if low <= number < high), 0)
                reason = f"row {row}: {last}" if row else last
                result.rejected.append((clips[number][0], reason))
        out.finish(shown)
    if limited:
        progress.note(
            f"{limited} of {result.count} rows have nothing above 6 kHz (`{LIMITED}`): a model "
            "that was not trained on telephone audio can be far off there"
        )
    return result


def _clips(
    source: str | os.PathLike[str], root: str | None, time_unit: str
) -> tuple[list[_Clip], str, list[tuple[str, str]], pd.DataFrame | None, bool]:
    """Clips of a source, their folder, what it rejects, other columns, whether it is a table."""
    from . import index

    name = places.expanded(os.fspath(source))
    if "://" not in name:
        name = places.spelled(name)
    if os.path.isfile(name) and not index.is_table(name):
        # Files and folders need no pandas.
        folder, file = os.path.split(name)
        if not index.is_utf8(file):
            raise Wav2SmallError(f"{index.not_utf8(file)}; rename the file")
        return [(file, 0.0, None)], folder, [], None, False
    if os.path.isdir(name) and not index.is_database(name) and not index.is_table(name):
        listed, rejected = index.list_audio(name)
        return [(file, 0.0, None) for file in listed], name, rejected, None, False
    if "://" not in name and not index.is_table(name) and not os.path.exists(name):
        raise Wav2SmallError(index.nowhere(name))
    found = index.load_source(name, root=root, time_unit=time_unit)
    columns = (found.frame["file"], found.frame["start"], found.frame["end"])
    clips = [
        (file, start.total_seconds(), index.seconds(end))
        for file, start, end in zip(*columns, strict=True)
    ]
    others = found.frame.drop(columns=index.KEYS)
    others.columns = others.columns.astype(str)
    return clips, found.root, found.rejected, others, index.is_table(name)


class _Task(NamedTuple):
    """A part of a clip: what a worker estimates at a time."""

    number: int  # of the clip
    part: int
    clip: _Clip


class _Answer(NamedTuple):
    """What became of a part: JSON values."""

    rows: list[Any]
    reason: str  # why something of it was rejected
    silent: str  # why a window of it was passed over
    parts: int  # of its clip


@dataclass(frozen=True)
class _Reader:
    """Reads the windows of clips; travels to worker processes."""

    folder: str
    window_s: float
    hop_s: float
    channel: int | None
    speech_only: bool = False

    def path(self, file: str) -> str:
        return places.join(self.folder, file)

    def key(self, task: _Task) -> str:
        """What must be the same for an answer of an earlier run to hold: the clip and its file."""
        try:
            found = os.stat(self.path(task.clip[0]))
            state = [found.st_size, found.st_mtime_ns]
        except (OSError, ValueError):
            state = []
        return json.dumps([*task.clip, *state, task.part])

    def estimate(self, predictor: Predictor, task: _Task) -> _Answer:
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
            return _Answer([], str(error), "", 1)
        return _Answer(rows, reason, silent, -(-len(cut) // PART))


def estimator(
    bundle: str | Predictor, threads: int, reader: _Reader
) -> Callable[[list[_Task]], list[_Answer]]:
    """Make the function of a worker process: parts in, their answers out.

    Args:
        bundle: path of the model, or one that is open
        threads: of ONNX Runtime
        reader: of the clips

    Example:
        >>> run = estimator("bundle", 1, _Reader("", 12.0, 12.0, None))
        >>> run([_Task(0, 0, ("speech.wav", 0.0, None))])[0].parts
        1
    """
    predictor = bundle if isinstance(bundle, Predictor) else Predictor(bundle, threads=threads)
    return lambda tasks: [reader.estimate(predictor, task) for task in tasks]


def _answers(
    clips: Sequence[_Clip],
    reader: _Reader,
    predictor: Predictor,
    journal: files.Journal,
    processes: int,
) -> Iterator[tuple[_Task, _Answer, int]]:
    """Every part of every clip as soon as it is done, and where the journal keeps it."""
    todo = (_Task(number, 0, clip) for number, clip in enumerate(clips))
    rest: deque[_Task] = deque()  # of clips of several parts
    alone: deque[_Task] = deque()  # a process died on one of them
    keys: dict[_Task, str] = {}  # of tasks that are at work
    threads = predictor.model.threads
    bundle = predictor.path if processes else predictor

    def done(task: _Task, answer: _Answer, place: int) -> tuple[_Task, _Answer, int]:
        if task.part == 0:
            rest.extend(task._replace(part=part) for part in range(1, answer.parts))
        return task, answer, place

    def fresh() -> Iterator[_Task | tuple[_Task, _Answer, int]]:
        """The next tasks; in place of those that an earlier run did, what it found."""
        while (task := rest.popleft() if rest else next(todo, None)) is not None:
            keys[task] = reader.key(task) if journal.path else ""
            if found := journal.find(keys[task]):
                del keys[task]
                yield done(task, _Answer(*found[1]), found[0])
            else:
                yield task

    with start(processes, f"{__name__}:estimator", bundle, threads, reader) as pool:
        while True:
            while pool.free:
                tasks = [alone.popleft()] if alone else []
                most = 1 if tasks or not processes else _CLIPS_PER_TASK
                for entry in fresh() if not tasks else ():
                    if not isinstance(entry, _Task):
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
            for tasks, answers in pool.receive():
                if answers is Died and len(tasks) > 1:
                    alone.extend(tasks)
                    continue
                died = answers is Died
                for task, answer in zip(tasks, [_crashed(reader, tasks[0])] if died else answers,
                                        strict=True):  # fmt: skip
                    key = keys.pop(task)
                    # What a process died on is not kept: the same call tries it again.
                    yield done(task, answer, -1 if died else journal.add(key, answer))


def _crashed(reader: _Reader, task: _Task) -> _Answer:
    why = "the process that read it crashed; it is damaged, or does not fit in memory"
    return _Answer([], f"{reader.path(task.clip[0])}: {why}", "", task.part + 1)


def _ordered(
    answers: Iterable[tuple[_Task, _Answer, int]], bar: Any
) -> Iterator[tuple[int, _Answer, int, str | None]]:
    """The parts in the order of the clips.

    Yields:
        number of the clip, the answer, its place in the journal; and with the last part of a clip
        why something of it was rejected, "" = nothing was
    """
    waiting: dict[tuple[int, int], tuple[_Answer, int]] = {}
    number = part = rows = parts = 0
    reason = silent = ""
    for task, answer, place in answers:
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


class _Output:
    """Where the rows go, and the journal of a run in `OUTPUT.part`.

    A file is written at the end, from the journal. An output that is no regular file (an open text
    file, a pipe, a device) gets each row at once and cannot be taken up.
    """

    def __init__(
        self,
        output: str | os.PathLike[str] | TextIO | None,
        settings: dict[str, Any],
        header: list[str],
        json_lines: bool,
    ):
        self._header = header
        self._json_lines = json_lines
        self._stack = contextlib.ExitStack()
        self._output = output
        self._stream: TextIO | None = None
        self._regular = isinstance(output, str | os.PathLike) and not files.special(output)
        self.journal = files.Journal(f"{output}.part" if self._regular else None, settings)
        self._order = array("q")  # places of the parts in the journal

    def __enter__(self) -> _Output:
        self._stack.enter_context(self.journal)
        if self._output is None or self._regular:
            return self
        if isinstance(self._output, str | os.PathLike):
            opened = open(self._output, "w", newline="", encoding="utf-8")
            self._stream = self._stack.enter_context(opened)
        else:
            self._stream = self._output
        self._write_header(self._stream)
        return self

    def add(self, number: int, rows: list[tuple[Any, ...]], place: int) -> None:
        """Write the rows of a part at once, or remember where the journal keeps them."""
        if self._stream is not None:
            self._write(self._stream, rows)
            self._stream.flush()
        elif self._regular and rows:
            self._order.extend((number, place))

    def _write_header(self, file: TextIO) -> None:
        if not self._json_lines:
            csv.writer(file, lineterminator="\n").writerow(self._header)

    def _write(self, file: TextIO, rows: Iterable[tuple[Any, ...]]) -> None:
        if self._json_lines:
            for row in rows:
                file.write(json.dumps(dict(zip(self._header, _rounded(row), strict=True))) + "\n")
        else:
            plain = csv.writer(file, lineterminator="\n")
            quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
            for cells in map(_formatted, rows):
                # A name with a carriage return could not be read back unquoted.
                (quoted if "\r" in cells[0] else plain).writerow(cells)

    def finish(self, shown: Callable[[int, list[Any]], list[tuple[Any, ...]]]) -> None:
        """Write the file: `shown(number of the clip, its rows)`, part by part."""
        if not self._regular:
            return
        with (
            files.atomic(self._output) as temporary,  # type: ignore[arg-type]
            open(temporary, "w", newline="", encoding="utf-8") as file,
        ):
            self._write_header(file)
            for number, place in zip(self._order[::2], self._order[1::2], strict=True):
                self._write(file, shown(number, self.journal.read(place)[0]))
        self.journal.remove()

    def __exit__(self, *exception: object) -> None:
        self._stack.close()


def _formatted(row: tuple[Any, ...]) -> list[str]:
    file, start, end, *values = row
    return [file, f"{start:.3f}", f"{end:.3f}", *map(_text, values)]


def _text(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    if value is None or value != value:  # NaN and NaT
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _rounded(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """A row as JSON values, with the digits that a CSV has."""
    return row[0], *(round(number, 3) for number in row[1:3]), *map(_json, row[3:])


def _json(value: Any) -> Any:
    if value is None or value != value:
        return None
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float):
        return round(value, 4)
    return value if isinstance(value, bool | int | str) else str(value)


def report_rejected(rejected: Sequence[tuple[str, str]], *, stream: TextIO | None = None) -> int:
    """List on stderr what was rejected; the exit code that follows from it, 0 or 1."""
    stream = stream or sys.stderr
    for _, reason in rejected:
        print(f"rejected: {reason!s}", file=stream)
    if rejected:
        print(f"{len(rejected)} rejected, listed above; all else is done", file=stream)
    return 1 if rejected else 0
