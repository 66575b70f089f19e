"""What a labelling run is to do: its identity, its rows, and the list of rejected clips."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wav2small import audio
from wav2small.errors import AudioError, Wav2SmallError
from wav2small.folders import Folder
from wav2small.index import KEYS, Index, fingerprint
from wav2small.teachers.multimodal.dialogue import Script

from .clips import Rejection, SourceRow

if TYPE_CHECKING:
    import pandas as pd

KEY = b"wav2small.labelling"  # metadata of a finished table: the identity of its run
ERRORS = "errors.csv"
_ERROR_COLUMNS = ("file", "start", "end", "row", "reason", "table")
_PLAN = "plan.json"
_BLOCK = 4096  # rows that are turned from columns into Python objects at a time


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
            metadata = found.schema_arrow.metadata or {}
            return json.loads(metadata.get(KEY, b"{}")), found.metadata.num_rows
    except (pa.ArrowInvalid, ValueError, OSError):
        return {}, 0


def begin(folder: Folder, identity: dict[str, Any], *, overwrite: bool) -> None:
    """Begin a run, or find the one that was broken off, in the folder of the unfinished run.

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


def rows(
    frame: pd.DataFrame, done: np.ndarray, script: Script | None = None
) -> Iterator[SourceRow]:
    """Rows of an index that are not done, in order, a few in memory at a time; with passages of a
    script."""
    todo = np.flatnonzero(~done)
    for begin in range(0, len(todo), _BLOCK):
        block = todo[begin : begin + _BLOCK]
        part = frame.iloc[block]
        starts = part["start"].to_numpy("timedelta64[ns]").astype(np.int64)
        ends = part["end"].to_numpy("timedelta64[ns]").astype(np.int64)
        open_ended = part["end"].isna().to_numpy()
        for n, file in enumerate(part["file"]):
            end, row = None if open_ended[n] else int(ends[n]), int(block[n])
            yield SourceRow(row, file, int(starts[n]), end, script and script.passage(row))


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


def write_errors(
    folder: Folder, table: str, rejections: list[Rejection], numbers: Sequence[int]
) -> str:
    """List rejected clips in `errors.csv` next to the table; it can be labelled like any index.

    The list is shared by the tables of a folder: lines of other tables stay. `numbers` are those of
    the rows in the source, from 1; empty = they have none, as of a folder.
    """
    kept: list[dict[str, str]] = []
    if folder.exists(ERRORS):
        with folder.open(ERRORS) as file:
            before = csv.DictReader(io.TextIOWrapper(file, encoding="utf-8", newline=""))
            kept = [line for line in before if line.get("table") != table]
    lines = []
    for row, clip, start, end, reason in rejections:
        begins = "?" if start is None else f"{start / 1e9:.9g}"
        ends = "" if end is None else f"{end / 1e9:.9g}"
        number = str(numbers[row]) if row < len(numbers) else ""
        values = clip, begins, ends, number, reason, table
        lines.append(dict(zip(_ERROR_COLUMNS, values, strict=True)))
    lines.sort(key=lambda line: int(line["row"] or 1 << 62))

    def fill(path: Path) -> None:
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, _ERROR_COLUMNS, extrasaction="ignore")
            writer.writeheader()
            writer.writerows([*kept, *lines])

    if kept or lines:
        folder.write(ERRORS, fill)
    else:
        folder.remove(ERRORS)
    return folder.shown(ERRORS)
