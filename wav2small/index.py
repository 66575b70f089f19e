"""Which clips: a folder, a file, a table or an audformat database becomes an index.

An index is audformat's segmented index in columns: `file` (relative to `root`), `start` and `end`
as time deltas, `end` NaT = to the end of the file. Other columns of a table (speaker, emotion ...)
are kept; what was said (`text`, `words`, `dialogue`, `turn`) is described in `transcripts`.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wav2small.errors import Wav2SmallError, missing_package

from . import audio, media, places, progress, table_files
from .corpora import registry

if TYPE_CHECKING:
    import pandas as pd

LONGEST_S = 1e9  # larger numbers are no time in a recording
MIN_HOP_S = 0.01  # of windows; shorter ones differ in nothing that can be estimated
UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}  # in seconds
KEYS = ["file", "start", "end"]
ROOT_KEY = b"wav2small.root"

#: What follows the name of a time, and signs: `start_s`, `startTime`, `Start (sec)`.
_NAME = re.compile(r"[^a-z]|(time)?[^a-z]*(s|ms|us|secs?|seconds?|milliseconds?)?[^a-z]*$")

#: Names that are taken for times of a clip by those who write them.
_NEAR_NAMES = {"start": ("start", "begin", "onset"), "end": ("end", "stop", "offset")}


@dataclass(repr=False)
class Index:
    """Clips and where their files are.

    Attributes:
        frame: columns `file` (str), `start`, `end` (timedelta64[ns]) and what the source offered
        root: folder that `file` is relative to
        rejected: (file, reason) of files that were found but cannot be listed
        metadata: key-value metadata of a parquet table, else empty
        numbers: of the rows of `frame` in their table, from 1; empty = the source is no table
        rejected_rows: (number, file, reason) of rows of a table that name no file or no time
    """

    frame: pd.DataFrame
    root: str
    rejected: list[tuple[str, str]] = field(default_factory=list)
    metadata: Mapping[bytes, bytes] = field(default_factory=dict)
    numbers: Sequence[int] = ()
    rejected_rows: list[tuple[int, str, str]] = field(default_factory=list)

    def __repr__(self) -> str:
        rejected = len(self.rejected) + len(self.rejected_rows)
        return f"<Index: {len(self.frame)} clips, {rejected} rejected; root {self.root}>"

    def _repr_html_(self) -> str:
        return f"<p>{len(self.frame)} clips</p>{self.frame.head(20).to_html(index=False)}"

    def path(self, file: str) -> str:
        """Where an entry of the column `file` is."""
        return places.join(self.root, file)


def load_source(
    source: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    time_unit: str = "s",
    raters: bool = False,
    reject_rows: bool = False,
) -> Index:
    """Make an index.

    Args:
        source: folder (searched with all its subfolders), audio file, table with a column `file`
            (CSV, TSV, JSON lines, Feather, parquet or a folder of it), audformat database (a
            folder with `db.yaml`), or a published corpus in its own layout, `NAME:FOLDER` (see
            `corpora.registry`); `~`, `file://` and URLs will do
        root: folder that the files of a table are relative to; default: the one a label table
            names, else the folder of the table
        time_unit: unit of times that are plain numbers: "s", "ms" or "us"
        raters: of a published corpus that has them, one row per clip and rater
        reject_rows: the audio is read next: list rows of a table without a file or with times that
            cannot be read in `rejected_rows`, unless all are, and refuse a root that is no folder

    Raises:
        MissingPackageError: pandas or pyarrow is not installed
        Wav2SmallError: nothing there, no audio in it, a table without the column `file`, or such
            a row

    Example:
        >>> load_source("speech.wav").frame["file"].tolist()
        ['speech.wav']
    """
    try:
        import pandas  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing_package(error) from error
    if time_unit not in UNITS:
        raise Wav2SmallError(f"--time-unit {time_unit}: there is {', '.join(UNITS)}")
    root = None if root is None else os.fspath(root)
    if reject_rows and root and "://" not in (folder := places.spelled(places.expanded(root))):
        if not os.path.isdir(folder):  # or each row would be rejected for it
            raise Wav2SmallError(f"--root {root}: no such folder{places.nearest(folder)}")
    if corpus := registry.named(os.fspath(source)):
        folder = places.expanded(corpus[1])
        frame, missing = registry.read_corpus(corpus[0], folder, root=root, raters=raters)
        return Index(frame, root=root or folder, rejected=missing)
    name = places.expanded(os.fspath(source))
    if "://" not in name:
        name = places.spelled(name)
    if is_table(name):
        return _from_table(name, root, time_unit, reject_rows)
    if os.path.isdir(name):
        if is_database(name):
            return _from_database(Path(name), root)
        files, rejected = list_audio(name)
        return Index(_frame(files), root=name, rejected=rejected)
    if "://" not in name and not os.path.exists(name):
        raise Wav2SmallError(nowhere(name))
    folder, file = name.rsplit("/", 1) if "://" in name else os.path.split(name)
    return Index(_frame([file]), root=folder or ".")


def nowhere(name: str) -> str:
    """Message about a source that does not exist."""
    if name == "-":
        return "-: standard input is no source; name a file, or give raw samples to --follow -"
    corpus, mark, folder = name.partition(":")
    near = difflib.get_close_matches(corpus.lower(), registry.CORPORA, n=1)
    if mark and near and os.path.isdir(folder):
        return f"{name}: no corpus {corpus}; did you mean {near[0]}:{folder}?"
    return (
        f"{name or repr(name)}: no such file or folder{places.nearest(name)}; name a folder, an "
        "audio file, or a CSV or parquet table with a column `file`"
    )


def is_table(name: str) -> bool:
    """Whether a source is a table, by its name.

    Example:
        >>> [is_table(name) for name in ("clips.csv", "a.wav", "https://host/a.wav?signature=x")]
        [True, False, False]
    """
    ending = table_files.ending_of(name)
    is_audio = os.path.splitext(ending)[1] in audio.EXTENSIONS | media.EXTENSIONS
    if ending.endswith(table_files.OTHERS) and os.path.isdir(name):
        return False
    return ("://" in name and not is_audio) or ending.endswith(table_files.EXTENSIONS)


def is_database(name: str) -> bool:
    """Whether a folder is an audformat database."""
    return os.path.exists(os.path.join(name, "db.yaml"))


def list_audio(folder: str | os.PathLike[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """List the audio files of a folder and its subfolders, without pandas.

    Args:
        folder: searched; hidden files and folders are passed over

    Returns:
        paths relative to `folder`, in alphabetical order per folder, and (file, reason) of files
        that cannot be listed

    Raises:
        Wav2SmallError: no audio in it

    Example:
        >>> list_audio(".")
        (['speech.wav'], [])
    """
    files: list[str] = []
    rejected: list[tuple[str, str]] = []
    endings = audio.EXTENSIONS | media.EXTENSIONS
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = os.path.relpath(parent, folder)
        for name in sorted(names):
            if name.startswith(".") or os.path.splitext(name)[1].lower() not in endings:
                continue
            file = name if inside == os.curdir else os.path.join(inside, name)
            if is_utf8(file):
                files.append(file)
            else:
                problem = not_utf8(file)
                rejected.append((problem.rpartition(":")[0], f"{problem}; rename the file"))
    if not files:
        tables = [name for name in sorted(os.listdir(folder)) if name.endswith(table_files.PARQUET)]
        if tables:
            raise Wav2SmallError(
                f"{folder}: no audio in this folder, but parquet files ({tables[0]}); name one, or "
                "let the name of a folder that is one table end in .parquet"
            )
        known = " ".join([*sorted(audio.EXTENSIONS), *sorted(media.EXTENSIONS)])
        raise Wav2SmallError(f"{folder}: no audio in this folder; looked for {known}")
    return files, rejected


def is_utf8(name: str) -> bool:
    """Whether a name of the file system can be written into a table."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def not_utf8(name: str) -> str:
    """Message about such a name, its bytes escaped."""
    return f"{os.fsencode(name).decode(errors='backslashreplace')}: the name is not UTF-8"


def spans(duration_s: float, *, window_s: float, hop_s: float) -> list[tuple[float, float]]:
    """Cut `duration_s` seconds into windows of `window_s`, one every `hop_s`.

    The last window is moved back to end where the audio ends, so that all have the same length
    and nothing is left out. Audio up to one window long is one span.

    Returns:
        (start, end) in seconds

    Example:
        >>> spans(30, window_s=12, hop_s=12)
        [(0, 12), (12, 24), (18, 30)]
    """
    if duration_s <= window_s:
        return [(0.0, duration_s)]
    last = duration_s - window_s
    count = int(last / hop_s + 1e-9) + 1
    starts = [step * hop_s for step in range(count)]
    if last - starts[-1] > 1e-3:
        starts.append(last)
    return [(start, min(start + window_s, duration_s)) for start in starts]


def fingerprint(frame: pd.DataFrame, *arrays: np.ndarray) -> str:
    """Content hash of a table and further arrays: SHA-256 in hexadecimal, names of columns apart.

    Example:
        >>> import pandas as pd
        >>> fingerprint(pd.DataFrame({"file": ["a.wav"]}))[:8]
        '8e12638f'
    """
    import hashlib

    import pandas as pd

    digest = hashlib.sha256(pd.util.hash_pandas_object(frame, index=False).to_numpy().tobytes())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def seconds(time: Any) -> float | None:
    """Seconds of a time delta; None for NaT."""
    return None if time != time else time.total_seconds()  # NaT differs from itself


def check_window(window_s: float, hop_s: float | None) -> None:
    """Reject windows and hops that cannot be.

    Raises:
        Wav2SmallError: shorter than a clip may be, or a hop of no length
    """
    shortest = audio.MIN_DURATION_S
    if not shortest <= window_s < float("inf"):
        raise Wav2SmallError(f"--window {window_s:g}: at least {shortest} seconds are needed")
    if hop_s is not None and not MIN_HOP_S <= hop_s < float("inf"):
        raise Wav2SmallError(f"--hop {hop_s:g}: at least {MIN_HOP_S} seconds are needed")


def _from_table(name: str, root: str | None, time_unit: str, reject_rows: bool) -> Index:
    frame, metadata = table_files.read(name)
    _check_columns(frame, name)
    if root is None:
        folder = name.rsplit("/", 1)[0] if "://" in name else os.path.dirname(name) or "."
        root = metadata[ROOT_KEY].decode() if ROOT_KEY in metadata else folder
    frame, rejected = _normalise(frame, name, time_unit)
    if rejected and (not reject_rows or len(rejected) == len(frame)):
        number, _, reason = rejected[0]
        raise Wav2SmallError(f"{name}: row {number}: {reason}")
    numbers: Sequence[int] = range(1, len(frame) + 1)
    if bad := {number for number, _, _ in rejected}:
        numbers = [number for number in numbers if number not in bad]
        frame = frame.drop(index=[number - 1 for number in bad]).reset_index(drop=True)
    return Index(frame, root, [], metadata, numbers, rejected)


def _from_database(folder: Path, root: str | None) -> Index:
    """Tables of an audformat database. Its pickled caches are never opened."""
    tables: dict[str, Path] = {}
    for ending in (".csv", ".parquet"):
        tables |= {path.stem: path for path in sorted(folder.glob(f"db.*{ending}"))}
    merged: pd.DataFrame | None = None
    for path in tables.values():
        frame, _ = table_files.read(str(path))
        if "file" not in frame:
            continue  # audformat's misc tables describe speakers and the like
        frame, rejected = _normalise(frame, str(path))
        for number, _, reason in rejected:
            raise Wav2SmallError(f"{path}: row {number}: {reason}")
        if merged is not None:
            new = KEYS + [column for column in frame if column not in merged]
            frame = merged.merge(frame[new], on=KEYS, how="outer", sort=False)
        merged = frame
    if merged is None:
        raise Wav2SmallError(
            f"{folder}: an audformat database without a table of files (db.*.csv or db.*.parquet); "
            "save it with audformat's Database.save(..., storage_format='csv')"
        )
    return Index(merged.reset_index(drop=True), root=root or str(folder))


def _times(values: pd.Series, column: str, unit: str) -> tuple[pd.Series, dict[int, str]]:
    """A column of times as time deltas, and why a value is none, by its row from 0.

    Numbers and texts without a unit are in `unit`.
    """
    import pandas as pd

    if pd.api.types.is_timedelta64_dtype(values):
        return values, {}
    if pd.api.types.is_float_dtype(values) or pd.api.types.is_integer_dtype(values):
        numbers = values.astype(float) * UNITS[unit]
        if not (numbers.abs() >= LONGEST_S).any():
            return pd.to_timedelta(numbers, unit="s"), {}
    times, rejected = [], {}
    for row, value in enumerate(values):
        try:
            times.append(_time(value, unit))
        except (ValueError, TypeError, OverflowError):
            times.append(pd.NaT)
            rejected[row] = (
                f"column `{column}` holds {str(value)!r}; write seconds (1.5) or hours, minutes "
                "and seconds (0:00:01.5)"
            )
    return pd.Series(times, index=values.index, dtype="timedelta64[ns]"), rejected


def _time(value: Any, unit: str) -> Any:
    """One time, NaT if it is missing; ValueError, TypeError or OverflowError if it is none."""
    import datetime

    import pandas as pd

    if isinstance(value, bool):
        raise TypeError("a truth value")
    if isinstance(value, datetime.time):
        value = value.isoformat()
    if value is None or value is pd.NaT or value != value:
        return pd.NaT
    if isinstance(value, str):
        text = value.strip()
        if text.lower() in ("", "nat", "nan"):
            return pd.NaT
        try:
            value = float(text)
        except ValueError:
            if "," in text:
                raise
            return pd.Timedelta(text)
    if isinstance(value, datetime.timedelta):
        return pd.Timedelta(value)
    number = float(value) * UNITS[unit]
    if not abs(number) < LONGEST_S:
        raise ValueError("not finite, or of decades")
    return pd.Timedelta(number, "s")


def _check_columns(frame: pd.DataFrame, name: str) -> None:
    if "file" not in frame:
        found = ", ".join(map(str, frame.columns[:8])) or "none"
        raise Wav2SmallError(
            f"{name}: no column `file` (its columns: {found}); name the column of paths `file`"
        )
    if len(frame) == 0:
        raise Wav2SmallError(f"{name}: the table has no rows")
    for column, others in _NEAR_NAMES.items():
        near = [str(own) for own in frame if _NAME.sub("", str(own).lower()) in others]
        if near and column not in frame:
            raise Wav2SmallError(
                f"{name}: no column `{column}`, but `{near[0]}`; times are read from `start` and "
                "`end` in seconds, so rename it, or leave it out"
            )
    durations = [str(own) for own in frame if _NAME.sub("", str(own).lower()) == "duration"]
    if durations and "start" in frame and "end" not in frame:
        raise Wav2SmallError(
            f"{name}: no column `end`, but `{durations[0]}`; write `end` (`start` plus the "
            f"duration, in seconds), or leave `{durations[0]}` out"
        )


def _normalise(
    frame: pd.DataFrame, name: str, time_unit: str = "s"
) -> tuple[pd.DataFrame, list[tuple[int, str, str]]]:
    """A table with all its rows, times as time deltas; and the rows that name no file or no time.

    The latter as (number from 1, file, reason).
    """
    import pandas as pd

    frame = frame.copy()
    named = frame["file"].notna()
    reasons: dict[int, str] = dict.fromkeys(np.flatnonzero(~named).tolist(), "names no file")
    frame["file"] = frame["file"].astype(object).where(named, "").astype(str).astype(object)
    for column in ("start", "end"):
        if column not in frame:
            default = pd.Timedelta(0) if column == "start" else pd.NaT
            frame[column] = pd.Series(default, index=frame.index, dtype="timedelta64[ns]")
            continue
        times, wrong = _times(frame[column], column, time_unit)
        reasons = {row: f"{frame['file'][row]}: {why}" for row, why in wrong.items()} | reasons
        frame[column] = times.astype("timedelta64[ns]")
    unknown = frame["start"].isna()
    given = unknown & frame["end"].notna()
    given[[*reasons]] = False
    if given.any() and not unknown.all():
        progress.note(
            f"{name}: {given.sum()} rows without `start` (such as row {given.argmax() + 1}) are "
            "read from the beginning of the file to their `end`"
        )
    frame["start"] = frame["start"].fillna(pd.Timedelta(0))
    frame = frame[KEYS + [column for column in frame if column not in KEYS]]
    return frame, [(row + 1, frame["file"][row], reasons[row]) for row in sorted(reasons)]


def _frame(files: list[str]) -> pd.DataFrame:
    import pandas as pd

    return _normalise(pd.DataFrame({"file": pd.Series(files, dtype=object)}), "")[0]
