"""The label table: clips with arousal, dominance and valence, each 0..1, and their provenance.

On disk it is a parquet file with columns `file, start, end, arousal, dominance, valence`,
optionally `variant` and whatever else the source or the teacher offered. Its metadata holds the
provenance (`wav2small.provenance`, JSON) and the folder that `file` is relative to
(`wav2small.root`).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from wav2small.dimensions import DIMENSIONS
from wav2small.errors import Wav2SmallError
from wav2small.index import KEYS, ROOT_KEY, load_source

from . import folders, places, progress

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

PROVENANCE_KEY = b"wav2small.provenance"

#: Names that are taken for a dimension by those who write them, lower case.
_NEAR_NAMES = {
    "arousal": ("act", "activation", "activity", "aro"),
    "dominance": ("dom", "control", "potency", "power"),
    "valence": ("val", "evaluation", "pleasantness", "pleasure", "positivity"),
}


@dataclass(repr=False)
class Labels:
    """A label table in memory.

    Attributes:
        frame: `file`, `start`, `end`, the dimensions (0..1), other columns
        root: folder that `file` is relative to
        provenance: of the labels; empty for a table that wav2small did not write
        rejected: (file, reason) of what the source lists and cannot be used
    """

    frame: pd.DataFrame
    root: str
    provenance: dict[str, Any] = field(default_factory=dict)
    rejected: list[tuple[str, str]] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"<Labels: {len(self.frame)} clips, {', '.join(self.dimensions)}; root {self.root}>"

    def _repr_html_(self) -> str:
        return f"<p>{len(self.frame)} clips</p>{self.frame.head(20).to_html(index=False)}"

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Those of arousal, dominance, valence that the table holds, in this order."""
        return tuple(name for name in DIMENSIONS if name in self.frame)

    @property
    def values(self) -> np.ndarray:
        """(clips, dimensions), float64, 0..1."""
        return self.frame[list(self.dimensions)].to_numpy(dtype=np.float64)

    def path(self, file: str) -> str:
        """Where an entry of the column `file` is."""
        return places.join(self.root, file)


def read_labels(
    path: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    scale: tuple[float, float] | None = None,
    partial: bool = False,
    split: str | Sequence[str] | None = None,
    instead: str | None = None,
    time_unit: str = "s",
    gaps: bool = False,
    raters: bool = False,
) -> Labels:
    """Read a label table or human ratings: parquet, CSV or an audformat database.

    Args:
        path: the table
        root: folder that its files are relative to; default: see `load_source`
        scale: (lowest, highest) rating of the table, mapped to 0..1; None = it is 0..1 already
        partial: accept a table that rates only one or two of the dimensions
        split: keep only rows whose column `split` is this (or one of these), in any case
        instead: accept a table without any dimension if a column's name begins so
        time_unit: unit of times that are plain numbers: "s", "ms" or "us"
        gaps: keep clips without a rating, as NaN; list rows without a file or with times that
            cannot be read as rejected; and let the index of the frame be the row, from 0
        raters: of a published corpus that has them, one row per clip and rater

    Raises:
        Wav2SmallError: columns are missing, no row is of the split, a rating is not a number or
            outside its scale, or times that cannot be read

    Example:
        >>> read_labels("ratings.csv").values
        array([[0.2, 0.4, 0.8]])
    """
    index = load_source(path, root=root, time_unit=time_unit, raters=raters, reject_rows=gaps)
    frame = index.frame
    rejected = [(file, f"row {number}: {why}") for number, file, why in index.rejected_rows]
    if index.rejected and not gaps:
        listed = f"{len(index.rejected)} files that it lists"
        progress.note(f"{path}: {listed} cannot be used, such as {index.rejected[0][1]}")
    if index.numbers:
        frame.index = [number - 1 for number in index.numbers]
    present = [name for name in DIMENSIONS if name in frame]
    if split:
        frame = take_split(frame, split, path)
    other = instead is not None and any(str(column).startswith(instead) for column in frame)
    if not (present or other) or (present and len(present) < len(DIMENSIONS) and not partial):
        missing = ", ".join(name for name in DIMENSIONS if name not in frame)
        columns = f"no column {missing} (its columns: {', '.join(map(str, frame.columns[:10]))})"
        near = "; ".join(near_dimensions(frame))
        remedy = near or "make one with `wav2small label`, or name the columns so"
        raise Wav2SmallError(f"{path}: no label table: {columns}; {remedy}")
    for hint in near_dimensions(frame):
        progress.note(f"{path}: {hint}")
    low, high = scale or (0.0, 1.0)
    if not (high > low and abs(low) < float("inf") and abs(high) < float("inf")):
        raise Wav2SmallError(f"--scale {low:g} {high:g}: give the lowest rating, then the highest")
    for name in present:
        frame[name] = _rating(frame[name], low, high, f"{path}: column {name}", gaps)
    provenance = json.loads(index.metadata.get(PROVENANCE_KEY, b"{}"))
    frame = frame if gaps else frame.reset_index(drop=True)
    return Labels(frame, index.root, provenance, index.rejected + rejected)


def near_dimensions(frame: pd.DataFrame) -> list[str]:
    """One hint for each dimension that a table lacks, where a column may be meant as it.

    Example:
        >>> import pandas as pd
        >>> near_dimensions(pd.DataFrame({"Activation": [0.5], "valence": [0.5]}))
        ['column `Activation` is not read; if it rates arousal, name it `arousal`']
    """
    hints = []
    for dimension, names in _NEAR_NAMES.items():
        known = (dimension, *names)
        near = [own for own in frame if re.sub(r"\W|_", "", str(own)).lower() in known]
        if near and dimension not in frame:
            remedy = f"if it rates {dimension}, name it `{dimension}`"
            hints.append(f"column `{near[0]}` is not read; {remedy}")
    return hints


def texts(values: pd.Series) -> pd.Series:
    """A column as texts; missing values are "nan", whatever kind of column it is.

    Example:
        >>> import pandas as pd
        >>> texts(pd.Series(["a", None])).tolist()
        ['a', 'nan']
    """
    return values.astype(object).where(values.notna(), "nan").map(str).astype(object)


def take_split(
    frame: pd.DataFrame, split: str | Sequence[str], where: str | os.PathLike[str]
) -> pd.DataFrame:
    """The rows of a split, with their index.

    Args:
        frame: has a column `split`
        split: its value, or several, in any case
        where: named in errors

    Raises:
        Wav2SmallError: no such column, or no row is of that split

    Example:
        >>> import pandas as pd
        >>> take_split(pd.DataFrame({"split": ["train", "test"]}), "Test", "a.csv").index.tolist()
        [1]
    """
    wanted = {name.lower() for name in ([split] if isinstance(split, str) else split)}
    if "split" not in frame:
        raise Wav2SmallError(f"{where}: no column `split` to take --split from")
    names = texts(frame["split"])
    chosen = frame[names.str.lower().isin(wanted)]
    if chosen.empty:
        there = ", ".join(sorted(set(names)))
        raise Wav2SmallError(
            f"{where}: no row of split {', '.join(sorted(wanted))}; there are {there}"
        )
    return chosen.copy()


def write_labels(path: str | os.PathLike[str], labels: Labels) -> None:
    """Write a label table, completely or not at all; also to any fsspec URL.

    The dimensions stand in the usual order; a table of categories alone has none.

    Example:
        >>> write_labels("labels.parquet", read_labels("ratings.csv"))
        >>> read_labels("labels.parquet").dimensions
        ('arousal', 'dominance', 'valence')
    """
    import pyarrow as pa

    frame = labels.frame
    order = [*KEYS, *labels.dimensions]
    frame = frame[order + [column for column in frame if column not in order]]
    table = pa.Table.from_pandas(frame, preserve_index=False)
    folder, name = folders.split(path)
    folder.write(name, lambda temporary: write_chunks(temporary, [table], labels))


def write_chunks(
    path: str | os.PathLike[str],
    chunks: Iterable[pa.Table],
    labels: Labels,
    extra: Mapping[bytes, bytes] | None = None,
) -> int:
    """Write a label table that need not be in memory at once.

    Args:
        path: local file
        chunks: rows of the table, in their order
        labels: whose root and provenance the metadata holds
        extra: further metadata

    Returns:
        number of rows
    """
    import pyarrow.parquet as pq

    rows = 0
    own = {
        PROVENANCE_KEY: json.dumps(labels.provenance, sort_keys=True).encode(),
        ROOT_KEY: labels.root.encode(),
    }
    with contextlib.ExitStack() as stack:
        writer = None
        for chunk in chunks:
            if writer is None:
                metadata = {**(chunk.schema.metadata or {}), **own, **(extra or {})}
                schema = chunk.schema.with_metadata(metadata)
                writer = stack.enter_context(pq.ParquetWriter(path, schema))
            writer.write_table(chunk.cast(schema))
            rows += len(chunk)
    return rows


def _rating(values: pd.Series, low: float, high: float, where: str, gaps: bool) -> pd.Series:
    import pandas as pd

    numbers = pd.to_numeric(values, errors="coerce").astype("float64")
    bad = ~np.isfinite(numbers.to_numpy()) & ~(gaps & values.isna().to_numpy())
    if bad.any():
        row = int(bad.argmax())
        problem = f"row {values.index[row] + 1}: {str(values.iloc[row])!r} is not a rating"
        raise Wav2SmallError(f"{where}, {problem}; give a number or remove the row")
    # Room for the rounding of float32 tables only.
    outside = ((numbers < low - 1e-6) | (numbers > high + 1e-6)).to_numpy()
    if outside.any():
        row = int(outside.argmax())
        problem = f"{numbers.iloc[row]:g} is outside {low:g}..{high:g}"
        remedy = "give the scale of the ratings, such as --scale 1 7"
        raise Wav2SmallError(f"{where}, row {values.index[row] + 1}: {problem}; {remedy}")
    return ((numbers - low) / (high - low)).clip(0, 1)
