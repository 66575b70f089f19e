"""Any audformat database: scales, splits and speakers as its header gives them.

A plain folder with `db.yaml` is a source, too, with its columns as they are; `audformat:FOLDER`
brings them to the names and scales of an index.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wav2small.emotions import common
from wav2small.errors import Wav2SmallError
from wav2small.index import load_source, seconds

from .layout import require, unit

#: Names of columns in databases -> names in an index.
_NAMES = {
    "activation": "arousal",
    "control": "dominance",
    "power": "dominance",
    "category": "emotion",
    "gender": "sex",
    "transcription": "text",
}
_RATED = ("arousal", "dominance", "valence")
_KNOWN = (*_RATED, "emotion", "speaker", "sex", "language", "text", "dialogue", "turn")


def read(folder: Path) -> list[dict[str, Any]]:
    """Segments of all tables, joined; what is known of a file holds for its segments."""
    import yaml

    path = require(folder, ["db.yaml"], "an audformat database")[0]
    try:
        header = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise Wav2SmallError(f"{path}: not YAML; copy it again") from error
    schemes = header.get("schemes") or {}
    of_files: dict[str, dict[str, Any]] = {}
    segments: dict[tuple[str, float, float | None], dict[str, Any]] = {}
    tables = header.get("tables") or {}
    for name in sorted(tables, key=lambda name: "gold" not in name):  # the agreed labels come first
        files = [folder / f"db.{name}.{ending}" for ending in ("csv", "parquet")]
        there = next((file for file in files if file.exists()), None)
        if there is None:
            raise Wav2SmallError(
                f"{folder}: no db.{name}.csv or db.{name}.parquet; save the database with "
                "audformat's Database.save(..., storage_format='csv')"
            )
        split = _split(header, tables[name].get("split_id"))
        columns = tables[name].get("columns") or {}
        for row in load_source(there).frame.to_dict("records"):
            clip = {"split": split} if split else {}
            for column, about in columns.items():
                scheme = schemes.get((about or {}).get("scheme_id")) or {}
                clip |= _values(column, row.get(column), scheme, f"{there}: {column}")
            if tables[name].get("type") == "segmented":
                place = row["file"], row["start"].total_seconds(), seconds(row["end"])
                segments[place] = clip | segments.get(place, {})
            else:
                of_files[row["file"]] = clip | of_files.get(row["file"], {})
    if not segments:
        return [{"file": file, **clip} for file, clip in of_files.items()]
    return [
        {"file": file, "start": start, "end": end, **of_files.get(file, {}), **clip}
        for (file, start, end), clip in segments.items()
    ]


def _split(header: Mapping[str, Any], name: str | None) -> str:
    known = (header.get("splits") or {}).get(name or "") or {}
    return str(known.get("type") or name or "").lower()


def _values(column: str, value: Any, scheme: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The value of one cell, in the names of an index."""
    if value is None or value != value:
        return {}
    name = _NAMES.get(column, column)
    if name in _RATED:
        low, high = scheme.get("minimum"), scheme.get("maximum")
        return {name: unit(value, 0 if low is None else low, 1 if high is None else high, where)}
    if name == "emotion":
        return {name: common(value)}
    found = {name: str(value)} if name in ("speaker", "language") else {name: value}
    labels = scheme.get("labels")
    if name == "speaker" and isinstance(labels, Mapping):
        about = labels.get(value) or labels.get(str(value)) or {}
        about = about if isinstance(about, Mapping) else {}
        for key, known in about.items():
            target = _NAMES.get(str(key), str(key))
            if target in _KNOWN:
                found[target] = known
    return found
