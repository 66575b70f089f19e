"""`predict`: all audio of a source through a bundle, row by row, taken up where it stopped.

Rows come in the order of the clips. `prediction_parts` has the estimating, `prediction_output` the
writing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

from wav2small.errors import Wav2SmallError
from wav2small.prediction_output import LIMITED, Output, columns, formatted, table
from wav2small.prediction_parts import Clip, Reader, answers, ordered
from wav2small.predictor import WINDOW_S, Predictor

from . import audio, files, places, progress

if TYPE_CHECKING:
    import pandas as pd


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
        kept = len(self.kept)
        return table(header, (formatted(row, kept) for row in self.rows), repr(self))


def predict(
    bundle: str | os.PathLike[str],
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str] | TextIO | None = None,
    *,
    json_lines: bool = False,
    window: float = WINDOW_S,
    hop: float | None = None,
    channel: int | None = None,
    root: str | os.PathLike[str] | None = None,
    time_unit: str = "s",
    keep: bool = False,
    speech_only: bool = False,
    workers: int = 0,
    threads: int = 1,
    collect: bool = True,
) -> Predictions:
    """Estimate all audio of a source.

    Args:
        bundle: a model in the box (nano, wav2small), a bundle folder, a bundle of the hub
            (owner/name) or an `.onnx` file
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
        time_unit: unit of the times in a table that are plain numbers: s, ms or us
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
    clips: list[Clip] = []
    extras: dict[int, dict[Any, Any]] = {}  # clip -> other columns of its table
    tables: list[tuple[int, Sequence[int]]] = []  # first clip of a table, numbers of its rows
    result = Predictions(categories=predictor.categories, speech=predictor.speech)
    for one in sources:
        listed, folder, unusable, own, rows = _clips(one, root, time_unit)
        if sources is source:
            listed = [(places.join(folder, file), start, end) for file, start, end in listed]
        tables.append((len(clips), rows))
        if keep and own is not None:
            extras |= dict(enumerate(own.to_dict("records"), start=len(clips)))
        clips += listed
        result.rejected += unusable
    folder = "" if sources is source else folder
    result.kept = list(dict.fromkeys(name for extra in extras.values() for name in extra))
    header = columns(predictor.categories, result.kept, predictor.speech)
    settings: dict[str, Any] = {"window": window, "hop": hop, "channel": channel}
    settings["bundle"] = files.sha256(predictor.path)
    settings["columns"] = columns(predictor.categories, (), predictor.speech)
    settings |= {"speech_only": True} if speech_only else {}
    reader = Reader(folder, window, hop or window, channel, speech_only)
    limited, place = 0, header.index(LIMITED)

    def shown(number: int, rows: list[Any]) -> list[tuple[Any, ...]]:
        values = tuple(extras.get(number, {}).get(name) for name in result.kept)
        return [(*row, *values) for row in rows]

    with (
        Output(output, settings, header, json_lines, len(result.kept)) as out,
        progress.bar(len(clips), unit="clip", desc="predict") as bar,
    ):
        found = answers(clips, reader, predictor, out.journal, workers)
        for number, answer, kept_at, last in ordered(found, bar):
            new = shown(number, answer.rows)
            out.add(number, new, kept_at)
            result.count += len(new)
            limited += sum(bool(row[place]) for row in new)
            if collect:
                result.rows += new
            if last:
                row = [rows[number - low] for low, rows in tables if 0 <= number - low < len(rows)]
                reason = f"row {row[0]}: {last}" if row else last
                result.rejected.append((clips[number][0], reason))
        out.finish(shown)
    audio.note_limited(limited, result.count, "rows")
    return result


def _clips(
    source: str | os.PathLike[str], root: str | os.PathLike[str] | None, time_unit: str
) -> tuple[list[Clip], str, list[tuple[str, str]], pd.DataFrame | None, Sequence[int]]:
    """Clips of a source, their folder, what it rejects, other columns, their rows in a table."""
    from . import index

    name = places.expanded(os.fspath(source))
    if "://" not in name:
        name = places.spelled(name)
    if not index.is_table(name):  # files and folders need no pandas
        if os.path.isfile(name):
            folder, file = os.path.split(name)
            if not index.is_utf8(file):
                raise Wav2SmallError(f"{index.not_utf8(file)}; rename the file")
            return [(file, 0.0, None)], folder, [], None, []
        if os.path.isdir(name) and not index.is_database(name):
            listed, rejected = index.list_audio(name)
            return [(file, 0.0, None) for file in listed], name, rejected, None, []
        if "://" not in name and not os.path.exists(name):
            raise Wav2SmallError(index.nowhere(name))
    found = index.load_source(name, root=root, time_unit=time_unit, reject_rows=True)
    rows = zip(*(found.frame[key] for key in index.KEYS), strict=True)
    clips = [(file, start.total_seconds(), index.seconds(end)) for file, start, end in rows]
    others = found.frame.drop(columns=index.KEYS)
    others.columns = others.columns.astype(str)
    for column in others.select_dtypes("float32"):
        others[column] = others[column].astype(str).astype(float)  # .1, not .10000000149
    others = others.astype(object).where(others.notna(), None)  # of many kinds of missing values
    rejected = [(file, f"row {number}: {why}") for number, file, why in found.rejected_rows]
    return clips, found.root, found.rejected + rejected, others, found.numbers
