"""What of a labelling run is done: shards of the label table, and the table made of them.

A shard is a file with the labels of some rows of the source, in any order. Shards are put in the
order of the source when the run ends, a chunk at a time, so that memory does not grow with the
table.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wav2small import tables
from wav2small.audio import LIMITED
from wav2small.dimensions import DIMENSIONS
from wav2small.folders import Folder
from wav2small.index import KEYS, Index

from . import plan
from .clips import Outcome

_CHUNK = 1 << 16  # rows of the final table that are put in order at a time
_ORDER = ["row", "start", "variant"]


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

    def limited(self) -> tuple[int, int]:
        """Labels of clips (not of variants) without anything above 6 kHz, and of all."""
        clips = [self._read(name, ["variant", LIMITED]) for name in self.names()]
        clips = [one.filter(pc.equal(one["variant"], 0)) for one in clips if len(one.columns) == 2]
        return sum(pc.sum(one[LIMITED]).as_py() or 0 for one in clips), sum(map(len, clips))

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
            table, name = _table(self._waiting), f"shard-{self._next:06d}.parquet"
            self.folder.write(name, lambda path: pq.write_table(table, path))
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
        same = np.all([np.diff(key[order]) == 0 for key in (row, start, variant)], axis=0)
        # A row that was partly rejected is tried again by the next run; its labels come twice.
        order = order[np.concatenate([[True], ~same])] if len(order) else order
        cache: dict[int, pa.Table] = {}
        for begin in range(0, len(order), _CHUNK):
            chosen = order[begin : begin + _CHUNK]
            needed = np.unique(shard[chosen])
            cache = {n: cache[n] if n in cache else self._read(names[n]) for n in needed}
            sizes = [0, *(len(cache[n]) for n in needed)]
            offsets = dict(zip(needed, np.cumsum(sizes), strict=False))
            # Shards of a run that an older version began lack a column.
            joined = pa.concat_tables([cache[n] for n in needed], promote_options="default")
            at = np.array([offsets[n] for n in shard[chosen]]) + place[chosen]
            yield joined.take(pa.array(at))

    def write(
        self,
        folder: Folder,
        name: str,
        index: Index,
        provenance: dict[str, Any],
        identity: dict[str, Any],
    ) -> int:
        """Write the label table, with the other columns of the index, the source of the run.

        Returns:
            number of rows; 0 = nothing is labelled, and there is no table
        """
        if not self.names():
            return 0
        extras = [column for column in index.frame if column not in (*KEYS, *DIMENSIONS, "variant")]
        source = pa.Table.from_pandas(index.frame[["file", *extras]], preserve_index=False)
        root = index.root if "://" in index.root else os.path.abspath(index.root)
        labels = tables.Labels(index.frame, root, provenance)
        extra = {plan.KEY: json.dumps(identity).encode()}
        rows = 0

        def fill(path: Path) -> None:
            nonlocal rows
            chunks = (
                _joined(source.take(chunk["row"]), chunk, identity["variants"] > 0)
                for chunk in self.ordered()
            )
            rows = tables.write_chunks(path, chunks, labels, extra)

        folder.write(name, fill)
        return rows

    def _read(self, name: str, columns: list[str] | None = None) -> pa.Table:
        with self.folder.open(name) as file:
            return pq.ParquetFile(file).read(columns=columns)


def _table(outcomes: list[Outcome]) -> pa.Table:
    items = [item for outcome in outcomes for item in outcome.items]
    partial = {rejection.row for outcome in outcomes for rejection in outcome.rejections}
    columns: dict[str, Any] = {
        name: pa.array([getattr(item, name) for item in items], pa.int64())
        for name in ("row", "start", "end", "variant")
    }
    columns["seconds"] = pa.array([item.seconds for item in items], pa.float32())
    columns["partial"] = pa.array([item.row in partial for item in items], pa.bool_())
    columns[LIMITED] = pa.array([item.band_limited for item in items], pa.bool_())
    for name in outcomes[0].columns:
        values = np.concatenate([outcome.columns[name] for outcome in outcomes])
        flat = pa.array(values.ravel(), pa.float32())
        if values.ndim > 1:  # an embedding
            flat = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
        columns[name] = flat
    return pa.table(columns)


def _joined(source: pa.Table, chunk: pa.Table, with_variants: bool) -> pa.Table:
    times = {name: chunk[name].cast(pa.duration("ns")) for name in ("start", "end")}
    dimensions = [name for name in DIMENSIONS if name in chunk.column_names]
    own = ["row", "start", "end", "variant", "seconds", "partial", *dimensions]
    columns = {"file": source["file"], **times}
    columns |= {name: chunk[name] for name in dimensions}
    if with_variants:
        columns["variant"] = chunk["variant"]
    columns |= {name: source[name] for name in source.column_names if name != "file"}
    columns |= {name: chunk[name] for name in chunk.column_names if name not in own}
    return pa.table(columns)
