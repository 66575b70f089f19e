"""What a labelling run is to do, and what of it is done: its identity, shards and rejected clips.

A shard is a file with the labels of some rows of the source, in any order. Shards are put in the
order of the source when the run ends, a chunk at a time, so that memory does not grow with the
table.
"""

from __future__ import annotations

import csv
import io
import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wav2small import audio
from wav2small.errors import AudioError, Wav2SmallError
from wav2small.folders import Folder
from wav2small.index import KEYS, Index, fingerprint

from .clips import Outcome, Rejection, SourceRow

if TYPE_CHECKING:
    import pandas as pd

KEY = b"wav2small.labelling"  # metadata of a finished table: the identity of its run
ERRORS = "errors.csv"
_PLAN = "plan.json"
_BLOCK = 4096  # rows that are turned from columns into Python objects at a time
_CHUNK = 1 << 16  # rows of the final table that are put in order at a time
_ORDER = ["row", "start", "variant"]


def identity(index: Index, **options: Any) -> dict[str, Any]:
    """What makes two runs the same run: clips, teacher and every option that changes a label.

    How it is done (workers, device, batches, engine) is not part of it.
    """
    return {"source": fingerprint(index.frame[KEYS]), "rows": len(index.frame), **options}


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    """Names of what differs, for an error message."""
    return ", ".join(sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key)))


def finished(folder: Folder, name: str) -> tuple[dict[str, Any], int] | None:
    """The identity of the run that wrote a table, and its number of rows; None = no table.

    A table that no labelling run wrote has the identity {}.
    """
    if not folder.exists(name):
        return None
    try:
        with folder.open(name) as file:
            found = pq.ParquetFile(file)
            return json.loads((found.schema_arrow.metadata or {}).get(KEY, b"{}")), (
                found.metadata.num_rows
            )
    except (pa.ArrowInvalid, ValueError, OSError):
        return {}, 0


def begin(folder: Folder, identity: dict[str, Any], *, overwrite: bool) -> None:
    """Begin a run, or find the one that was broken off.

    Args:
        folder: of the unfinished run
        identity: see `identity`
        overwrite: forget another run

    Raises:
        Wav2SmallError: what was broken off was another run, and `overwrite` is not set
    """
    if folder.exists(_PLAN):
        with folder.open(_PLAN) as file:
            theirs = json.load(file)
        if theirs == identity:
            return
        done = folder.names("shard-") + folder.names("transcripts-")
        if done and not overwrite:
            raise Wav2SmallError(
                f"{folder.path}: an unfinished run with other settings "
                f"({differences(identity, theirs)}); finish it with them, or start afresh "
                "with --overwrite"
            )
        for shard in done:
            folder.remove(shard)
    text = json.dumps(identity, indent=1, sort_keys=True)
    folder.write(_PLAN, lambda path: path.write_text(text))


def parts(output: str | os.PathLike[str]) -> Folder:
    """Folder of the unfinished run, next to its table."""
    return Folder(os.fspath(output) + ".parts")


def rows(frame: pd.DataFrame, done: np.ndarray) -> Iterator[SourceRow]:
    """Rows of an index that are not done, in order, a few in memory at a time."""
    todo = np.flatnonzero(~done)
    for begin in range(0, len(todo), _BLOCK):
        block = todo[begin : begin + _BLOCK]
        part = frame.iloc[block]
        starts = part["start"].to_numpy("timedelta64[ns]").astype(np.int64)
        ends = part["end"].to_numpy("timedelta64[ns]").astype(np.int64)
        open_ended = part["end"].isna().to_numpy()
        for n, file in enumerate(part["file"]):
            end = None if open_ended[n] else int(ends[n])
            yield SourceRow(int(block[n]), file, int(starts[n]), end)


def expected_hours(index: Index, looked_at: int = 50) -> float:
    """Hours of audio in an index; where the end of clips is not known, judged by some files."""
    frame = index.frame
    known = frame["end"].notna()
    seconds = float((frame["end"] - frame["start"])[known].dt.total_seconds().sum())
    unknown = frame["file"][~known]
    lengths = []
    for file in unknown.iloc[:: max(1, len(unknown) // looked_at)]:
        with suppress(AudioError):
            lengths.append(audio.duration(index.path(file)))
    return (seconds + len(unknown) * (sum(lengths) / len(lengths) if lengths else 0.0)) / 3600


class Shards:
    """A folder of shards.

    Args:
        folder: where they are
        every_s: least time between two shards. A shard is also written no more often than after
            another hundredth of the time the run has taken, up to ten minutes: a crash loses one
            percent of the work and a run of weeks leaves thousands of files, not millions
    """

    def __init__(self, folder: Folder, *, every_s: float = 10.0):
        self.folder = folder
        self._every_s = every_s
        self._began = self._flushed = time.monotonic()
        self._waiting: list[Outcome] = []
        self._next = len(self.names())

    def names(self) -> list[str]:
        """Files of the finished shards, in the order they were written."""
        return self.folder.names("shard-")

    def done(self, rows: int) -> np.ndarray:
        """Which rows of the source are labelled, bool (rows,); partly rejected ones are not."""
        done = np.zeros(rows, dtype=bool)
        for name in self.names():
            table = self._read(name, ["row", "partial"])
            done[table["row"].to_numpy()[~table["partial"].to_numpy()]] = True
        return done

    def hours(self) -> float:
        """Hours of audio that are labelled, variants counted."""
        columns = [self._read(name, ["seconds"])["seconds"] for name in self.names()]
        return sum(pc.sum(column).as_py() or 0.0 for column in columns) / 3600

    def add(self, outcome: Outcome) -> None:
        """Keep an outcome; written when it is time. It finishes all its rows."""
        if outcome.items:
            self._waiting.append(outcome)
        now = time.monotonic()
        patience = min(600.0, max(self._every_s, 0.01 * (now - self._began)))
        if now - self._flushed >= patience:
            self.flush()

    def flush(self) -> None:
        """Write what waits.

        Raises:
            Wav2SmallError: the disk is full or the folder cannot be written
        """
        if self._waiting:
            table = _table(self._waiting)
            self.folder.write(
                f"shard-{self._next:06d}.parquet", lambda path: pq.write_table(table, path)
            )
            self._next += 1
            self._waiting = []
        self._flushed = time.monotonic()

    def ordered(self) -> Iterator[pa.Table]:
        """All labels in the order of the source, then of the windows, then of the variants."""
        names = self.names()
        keys = [self._read(name, _ORDER) for name in names]
        shard = np.repeat(np.arange(len(keys)), [len(table) for table in keys])
        place = np.concatenate([np.arange(len(table)) for table in keys] or [np.zeros(0, int)])
        row, start, variant = (
            np.concatenate([table[key].to_numpy() for table in keys] or [np.zeros(0, int)])
            for key in _ORDER
        )
        order = np.lexsort((variant, start, row))
        same = (
            (np.diff(row[order]) == 0)
            & (np.diff(start[order]) == 0)
            & (np.diff(variant[order]) == 0)
        )
        # A row that was partly rejected is tried again by the next run; its labels come twice.
        order = order[np.concatenate([[True], ~same])] if len(order) else order
        cache: dict[int, pa.Table] = {}
        for begin in range(0, len(order), _CHUNK):
            chosen = order[begin : begin + _CHUNK]
            needed = np.unique(shard[chosen])
            cache = {n: cache[n] if n in cache else self._read(names[n]) for n in needed}
            sizes = [0, *(len(cache[n]) for n in needed)]
            offsets = dict(zip(needed, np.cumsum(sizes), strict=False))
            joined = pa.concat_tables([cache[n] for n in needed])
            at = np.array([offsets[n] for n in shard[chosen]]) + place[chosen]
            yield joined.take(pa.array(at))

    def _read(self, name: str, columns: list[str] | None = None) -> pa.Table:
        with self.folder.open(name) as file:
            return pq.ParquetFile(file).read(columns=columns)


def _table(outcomes: list[Outcome]) -> pa.Table:
    items = [item for outcome in outcomes for item in outcome.items]
    partial = {rejection.row for outcome in outcomes for rejection in outcome.rejections}
    columns: dict[str, Any] = {
        "row": pa.array([item.row for item in items], pa.int64()),
        "start": pa.array([item.start for item in items], pa.int64()),
        "end": pa.array([item.end for item in items], pa.int64()),
        "variant": pa.array([item.variant for item in items], pa.int64()),
        "seconds": pa.array([item.seconds for item in items], pa.float32()),
        "partial": pa.array([item.row in partial for item in items], pa.bool_()),
    }
    for name in outcomes[0].columns:
        values = np.concatenate([outcome.columns[name] for outcome in outcomes])
        columns[name] = pa.array(values, pa.float32())
    return pa.table(columns)


def write_errors(folder: Folder, table: str, rejections: list[Rejection]) -> str:
    """List rejected clips in `errors.csv` next to the table; it can be labelled like any index.

    The list is shared by the tables of a folder: lines of other tables stay.
    """
    header = ["file", "start", "end", "reason", "table"]
    kept: list[list[str]] = []
    if folder.exists(ERRORS):
        with folder.open(ERRORS) as file:
            before = list(csv.reader(io.TextIOWrapper(file, newline="")))
        kept = [line for line in before if line != header and line[-1:] != [table]]
    lines = [
        [
            rejection.file,
            f"{rejection.start / 1e9:.9g}",
            "" if rejection.end is None else f"{rejection.end / 1e9:.9g}",
            rejection.reason,
            table,
        ]
        for rejection in rejections
    ]

    def fill(path: Path) -> None:
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows([header, *kept, *lines])

    if kept or lines:
        folder.write(ERRORS, fill)
    else:
        folder.remove(ERRORS)
    return folder.shown(ERRORS)
