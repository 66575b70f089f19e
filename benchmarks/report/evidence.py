"""What a report can show: runs, bundles, and results of `audit -o` and `benchmark --json`."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wav2small.benchmarks.audit import thresholds as gates
from wav2small.errors import Wav2SmallError


@dataclass
class Run:
    """A folder of `wav2small distill`, finished or not.

    Attributes:
        name: of the folder
        path: of the folder
        rows: of metrics.csv, numbers where they are numbers
        validation: labels and predictions of the held-out clips (DataFrame), None = none yet
        provenance: as the folder holds it
        note: what is missing, "" = nothing
    """

    name: str
    path: Path
    rows: list[dict[str, Any]]
    validation: Any
    provenance: dict[str, Any]
    note: str = ""


@dataclass
class Bundle:
    """A folder of `wav2small export`, or a bare ONNX file.

    Attributes:
        name: of the folder
        path: as given
        record: verification.json, {} = none
        provenance: provenance.json, {} = none
    """

    name: str
    path: Path
    record: dict[str, Any]
    provenance: dict[str, Any]


@dataclass
class Evidence:
    """Everything that was given."""

    runs: list[Run] = field(default_factory=list)
    bundles: list[Bundle] = field(default_factory=list)
    audits: list[dict[str, Any]] = field(default_factory=list)
    benchmarks: list[dict[str, Any]] = field(default_factory=list)


def gather(paths: Sequence[str | os.PathLike[str]]) -> Evidence:
    """Find out what each path is.

    Raises:
        Wav2SmallError: nothing given, or something that is none of these
    """
    if not paths:
        raise Wav2SmallError("nothing to report on: name runs, bundles, or results as JSON")
    found = Evidence()
    for name in paths:
        path = Path(name)
        if not path.exists():
            raise Wav2SmallError(f"{path}: no such run, bundle or result")
        if path.is_dir() and (path / "model.onnx").exists() or path.suffix == ".onnx":
            found.bundles.append(_bundle(path))
        elif path.is_dir() and _is_run(path):
            found.runs.append(_run(path))
        elif path.is_file() and path.suffix == ".json":
            _result(path, found)
        else:
            raise Wav2SmallError(
                f"{path}: neither a run (metrics.csv), nor a bundle (model.onnx), nor a result "
                "of `audit -o` or `benchmark --json`"
            )
    return found


def _is_run(path: Path) -> bool:
    return any((path / name).exists() for name in ("metrics.csv", "distill.toml", "last"))


def _bundle(path: Path) -> Bundle:
    folder = path if path.is_dir() else path.parent
    place = path.resolve()
    return Bundle(
        name=place.stem if place.suffix == ".onnx" else place.name,
        path=path,
        record=_json(folder / "verification.json") if path.is_dir() else {},
        provenance=_json(folder / "provenance.json") if path.is_dir() else {},
    )


def _run(path: Path) -> Run:
    notes = []
    rows = []
    if (path / "metrics.csv").exists():
        with open(path / "metrics.csv", newline="", encoding="utf-8") as file:
            rows = [
                {key: _number(cell) for key, cell in row.items()} for row in csv.DictReader(file)
            ]
    else:
        notes.append("no epoch is finished yet")
    validation = None
    if (path / "validation.parquet").exists():
        from wav2small.tables import read_labels

        validation = read_labels(path / "validation.parquet").frame
    if not (path / "model.safetensors").exists() or validation is None:
        notes.insert(0, "still training, or stopped: figures are of what is there")
    return Run(
        name=path.resolve().name,
        path=path,
        rows=rows,
        validation=validation,
        provenance=_json(path / "provenance.json"),
        note="; ".join(notes),
    )


def _result(path: Path, found: Evidence) -> None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Wav2SmallError(f"{path}: not JSON ({error}); write it again") from error
    if isinstance(content, dict) and {"models", "machine", "settings"} <= set(content):
        found.benchmarks.append(content)
    else:
        found.audits.append(gates.read(path))


def _json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Wav2SmallError(f"{path}: not JSON ({error}); write it again") from error


def _number(cell: str) -> Any:
    try:
        return float(cell)
    except ValueError:
        return cell
