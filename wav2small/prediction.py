"""`predict`: all audio of a source through a bundle, row by row, taken up where it stopped."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from wav2small.dimensions import DIMENSIONS
from wav2small.errors import AudioError, SilentError, Wav2SmallError
from wav2small.predictor import WINDOW_S, Predictor

from . import audio, files, places, progress

if TYPE_CHECKING:
    import pandas as pd

_Clip = tuple[str, float, float | None]  # file, start and end in seconds
COLUMNS = ("file", "start", "end", *DIMENSIONS)
LIMITED = "band_limited"


@dataclass(repr=False)
class Predictions:
    """What `predict` found.

    Attributes:
        rows: (file, start, end, arousal, dominance, valence), times in seconds; then the
            probabilities of the categories, if the student has any, whether the audio is
            band-limited, and the columns of the source that were kept
        categories: their names
        rejected: (file, reason) of files that could not be estimated
        kept: names of the columns of the source
    """

    rows: list[tuple[Any, ...]] = field(default_factory=list)
    rejected: list[tuple[str, str]] = field(default_factory=list)
    categories: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)

    def to_frame(self) -> pd.DataFrame:
        """The rows as a table.

        Example:
            >>> Predictions([("a.wav", 0.0, 1.0, 0.5, 0.4, 0.6, False)]).to_frame().valence[0]
            np.float64(0.6)
        """
        import pandas as pd

        return pd.DataFrame(self.rows, columns=columns(self.categories, self.kept))

    @property
    def frame(self) -> pd.DataFrame:
        """`to_frame()`."""
        return self.to_frame()

    def __repr__(self) -> str:
        files = len({row[0] for row in self.rows})
        return (
            f"<Predictions: {len(self.rows)} rows of {files} files, {len(self.rejected)} rejected>"
        )

    def _repr_html_(self) -> str:
        return table(columns(self.categories, self.kept), map(_formatted, self.rows), repr(self))


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


def columns(categories: Sequence[str], kept: Sequence[str] = ()) -> list[str]:
    """Names of the columns for a student with these categories, and columns of the source.

    Example:
        >>> columns(["anger"], ["speaker", "valence"])[-4:]
        ['probability_anger', 'band_limited', 'speaker', 'source_valence']
    """
    own = [*COLUMNS, *(f"probability_{name}" for name in categories), LIMITED]
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
    threads: int = 1,
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
        threads: threads of ONNX Runtime

    Raises:
        Wav2SmallError: the bundle or the source cannot be used at all

    Example:
        >>> predict("bundle", "speech.wav").rows[0][:3]
        ('speech.wav', 0.0, 2.0)
    """
    from wav2small.index import check_window

    check_window(window, hop)
    predictor = Predictor(bundle, threads=threads)
    sources = [source] if isinstance(source, str | os.PathLike) else source
    clips: list[_Clip] = []
    extras: list[dict[str, Any]] = []
    result = Predictions(categories=predictor.categories)
    for one in sources:
        listed, folder, unusable, own = _clips(one, root, time_unit)
        if sources is source:
            listed = [(os.path.join(folder, file), start, end) for file, start, end in listed]
        clips += listed
        extras += own if keep and own else [{}] * len(listed)
        result.rejected += unusable
    folder = "" if sources is source else folder
    result.kept = list(dict.fromkeys(name for extra in extras for name in extra))
    header = columns(predictor.categories, result.kept)
    settings = {
        "bundle": files.sha256(predictor.path),
        "window": window,
        "hop": hop,
        "channel": channel,
        "columns": columns(predictor.categories),
    }
    with (
        _Journal(output, settings, header, json_lines) as journal,
        progress.bar(len(clips), unit="clip", desc="predict") as bar,
    ):
        for (file, start_s, end_s), extra in zip(clips, extras, strict=True):
            key = _key(places.join(folder, file), file, start_s, end_s)
            rows, reason = journal.find(key) or _estimate(
                predictor, folder, file, start_s, end_s, window, hop or window, channel
            )
            values = tuple(extra.get(name) for name in result.kept)
            shown = [(*row, *values) for row in rows]
            journal.add(key, rows, reason, shown)
            result.rows += shown
            if reason:
                result.rejected.append((file, reason))
            bar.update()
        journal.finish(result.rows)
    place = header.index(LIMITED)
    limited = sum(bool(row[place]) for row in result.rows)
    if limited:
        progress.note(
            f"{limited} of {len(result.rows)} rows have nothing above 6 kHz (`{LIMITED}`): a model "
            "that was not trained on telephone audio can be far off there"
        )
    return result


def _clips(
    source: str | os.PathLike[str], root: str | None, time_unit: str
) -> tuple[list[_Clip], str, list[tuple[str, str]], list[dict[str, Any]]]:
    """Clips of a source, their folder, what it rejects, and the other columns of a table."""
    from . import index

    name = places.expanded(os.fspath(source))
    if "://" not in name:
        name = places.spelled(name)
    if os.path.isfile(name) and not index.is_table(name):
        # Files and folders need no pandas.
        folder, file = os.path.split(name)
        if not index.is_utf8(file):
            raise Wav2SmallError(f"{index.not_utf8(file)}; rename the file")
        return [(file, 0.0, None)], folder, [], []
    if os.path.isdir(name) and not index.is_database(name) and not index.is_table(name):
        listed, rejected = index.list_audio(name)
        return [(file, 0.0, None) for file in listed], name, rejected, []
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
    return clips, found.root, found.rejected, others.to_dict("records")  # type: ignore[return-value]


def _estimate(
    predictor: Predictor,
    folder: str,
    file: str,
    start_s: float,
    end_s: float | None,
    window_s: float,
    hop_s: float,
    channel: int | None,
) -> tuple[list[tuple[Any, ...]], str]:
    """Rows of one clip, and why it gave none. Windows without sound are passed over."""
    from wav2small.index import spans

    path = places.join(folder, file)
    rows: list[tuple[Any, ...]] = []
    reason = silent = ""
    try:
        total_s = audio.duration(path)
        stop_s = total_s if end_s is None else end_s
        if stop_s > total_s + window_s:
            audio.read(path, start_s=start_s, end_s=stop_s, channel=channel)  # raises
        cut = spans(stop_s - start_s, window_s=window_s, hop_s=hop_s)
    except AudioError as error:
        return [], str(error)
    for low, high in cut:
        first, last = start_s + low, start_s + high
        single = len(cut) == 1
        try:
            signal = audio.read(
                path, start_s=first, end_s=end_s if single else last, channel=channel
            )
        except SilentError as error:
            silent = silent or str(error)
            continue
        except AudioError as error:
            reason = reason or str(error)
            continue
        estimate = np.concatenate(predictor.predict_categories(signal))
        values = (*(float(value) for value in estimate), audio.is_band_limited(signal))
        rows.append((file, round(first, 3), round(last, 3), *values))
    return rows, reason or ("" if rows else silent)


def _key(path: str, file: str, start_s: float, end_s: float | None) -> str:
    """What must be the same for an estimate of an earlier run to hold: the clip and its file."""
    try:
        found = os.stat(path)
        state = [found.st_size, found.st_mtime_ns]
    except (OSError, ValueError):
        state = []
    return json.dumps([file, start_s, end_s, *state])


class _Journal:
    """What a run has done so far, in `OUTPUT.part`, one JSON line per clip.

    An output that is no regular file (an open text file, a pipe, a device) gets each row at once
    and cannot be taken up.
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
        self._kept = files.Journal(f"{output}.part" if self._regular else None, settings)

    def __enter__(self) -> _Journal:
        self._stack.enter_context(self._kept)
        if self._output is None or self._regular:
            return self
        if isinstance(self._output, str | os.PathLike):
            opened = open(self._output, "w", newline="", encoding="utf-8")
            self._stream = self._stack.enter_context(opened)
        else:
            self._stream = self._output
        self._write_header(self._stream)
        return self

    def find(self, key: str) -> tuple[list[tuple[Any, ...]], str] | None:
        """Rows and reason of a clip that is done, None = it is not."""
        if not self._regular or key not in self._kept.done:
            return None
        rows, reason = self._kept.done[key]
        return [tuple(row) for row in rows], reason

    def add(
        self, key: str, rows: list[tuple[Any, ...]], reason: str, shown: list[tuple[Any, ...]]
    ) -> None:
        """Keep the rows of a clip, or write them at once as they are shown."""
        if self._stream is not None:
            self._write(self._stream, shown)
            self._stream.flush()
        elif self._regular:
            self._kept.add(key, [rows, reason])

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

    def finish(self, rows: list[tuple[Any, ...]]) -> None:
        if not self._regular:
            return
        with (
            files.atomic(self._output) as temporary,  # type: ignore[arg-type]
            open(temporary, "w", newline="", encoding="utf-8") as file,
        ):
            self._write_header(file)
            self._write(file, rows)
        self._kept.remove()

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
