"""Any audformat database: scales, splits and speakers as its header gives them.

A plain folder with `db.yaml` is a source, too, with its columns as they are; `audformat:FOLDER`
brings them to the names and scales of an index.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wav2small import table_files
from wav2small.dimensions import DIMENSIONS
from wav2small.emotions import common
from wav2small.errors import Wav2SmallError
from wav2small.index import load_source, seconds

from .layout import require, sex, unit

#: Names of columns in databases -> names in an index.
_NAMES = {
    "activation": "arousal",
    "control": "dominance",
    "power": "dominance",
    "category": "emotion",
    "gender": "sex",
    "transcription": "text",
}
_KNOWN = (*DIMENSIONS, "emotion", "speaker", "sex", "language", "text", "dialogue", "turn")


def read(folder: Path) -> Iterator[dict[str, Any]]:
    """Segments of all tables, joined; what is known of a file holds for its segments."""
    import yaml

    path = require(folder, ["db.yaml"], "an audformat database")[0]
    try:
        header = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise Wav2SmallError(f"{path}: not YAML; copy it again") from error
    if not isinstance(header, dict) or not header.get("tables"):
        raise Wav2SmallError(f"{path}: the header of a database without tables; copy it again")
    schemes = {
        name: {**(scheme or {}), "labels": _labels(folder, header, scheme)}
        for name, scheme in (header.get("schemes") or {}).items()
    }
    of_files: dict[str, dict[str, Any]] = {}
    segments: dict[tuple[str, float, float | None], dict[str, Any]] = {}
    tables = header["tables"]
    for name in sorted(tables, key=lambda name: "gold" not in name):  # the agreed labels come first
        there = _file(folder, name)
        about = tables[name] or {}
        if about.get("type") not in ("filewise", "segmented"):
            raise Wav2SmallError(f"{path}: table {name} has no type; copy it again")
        split = _split(header, about.get("split_id"))
        columns = about.get("columns") or {}
        for row in load_source(there).frame.to_dict("records"):
            clip = {"split": split} if split else {}
            for column, of in columns.items():
                scheme = schemes.get((of or {}).get("scheme_id")) or {}
                clip |= _values(column, row.get(column), scheme, f"{there}: {column}")
            if about["type"] == "segmented":
                place = row["file"], row["start"].total_seconds(), seconds(row["end"])
                segments[place] = clip | segments.get(place, {})
            else:
                of_files[row["file"]] = clip | of_files.get(row["file"], {})
    for (file, start, end), clip in segments.items():
        yield {"file": file, "start": start, "end": end, **of_files.get(file, {}), **clip}
    if not segments:
        yield from ({"file": file, **clip} for file, clip in of_files.items())


def _file(folder: Path, name: str) -> Path:
    for ending in ("csv", "parquet"):
        if (file := folder / f"db.{name}.{ending}").exists():
            return file
    remedy = "save the database with audformat's Database.save(..., storage_format='csv')"
    raise Wav2SmallError(f"{folder}: no db.{name}.csv or db.{name}.parquet; {remedy}")


def _labels(folder: Path, header: Mapping[str, Any], scheme: Any) -> Mapping[str, Any]:
    """What a scheme says of each of its values; it may stand in a table that it names."""
    labels = (scheme or {}).get("labels") or {}
    if isinstance(labels, str):
        rows = table_files.read(str(_file(folder, labels)))[0].to_dict("records")
        own = header.get("misc_tables") or {}
        key = next(iter((own.get(labels) or {}).get("levels") or {}), labels)
        return {str(row.get(key)): row for row in rows}
    labels = labels if isinstance(labels, dict) else {}
    return {str(value): about for value, about in labels.items()}


def _split(header: Mapping[str, Any], name: str | None) -> str:
    known = (header.get("splits") or {}).get(name or "") or {}
    return str(known.get("type") or name or "").lower()


def _values(column: str, value: Any, scheme: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The value of one cell, in the names of an index."""
    if value is None or value != value:
        return {}
    name = _NAMES.get(column, column)
    about = scheme.get("labels", {}).get(str(value))
    if name in DIMENSIONS:
        low, high = scheme.get("minimum"), scheme.get("maximum")
        where += " (without minimum and maximum in the header)" if low is None else ""
        return {name: unit(value, 0 if low is None else low, 1 if high is None else high, where)}
    if name == "emotion":
        return {name: common(value)}
    if name == "sex":
        return {name: sex(value)}
    if name == "text":  # which may be the name of a sentence
        texts = list(about.values()) if isinstance(about, Mapping) else [about]
        return {name: next((text for text in texts if isinstance(text, str)), value)}
    found = {name: str(value)} if name in ("speaker", "language") else {name: value}
    if name == "speaker" and isinstance(about, Mapping):
        for key, known in about.items():
            target = _NAMES.get(str(key), str(key))
            if target in _KNOWN and target != "speaker":
                found[target] = sex(known) if target == "sex" else known
    return found
