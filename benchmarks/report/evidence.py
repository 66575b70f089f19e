"""What a report shows: runs, bundles, and results of `audit`, `benchmark` and `evaluate`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from wav2small import models
from wav2small.benchmarks.audit import thresholds
from wav2small.benchmarks.models import short_names
from wav2small.errors import Wav2SmallError
from wav2small.predictor import model_path
from wav2small.tables import read_labels


@dataclass
class RunEvidence:
    """A folder of `wav2small distill`, finished or not."""

    name: str  # of the folder
    metrics: pd.DataFrame  # metrics.csv, one row per epoch, maybe none
    validation: pd.DataFrame | None  # labels and predictions of the held-out clips, None = none yet
    provenance: dict[str, Any]  # as the folder holds it, {} = none
    note: str = ""  # what is missing, "" = nothing


@dataclass
class BundleEvidence:
    """A folder of `wav2small export`, or a bare ONNX file."""

    name: str  # of the folder
    path: Path  # as given
    record: dict[str, Any]  # verification.json, {} = none
    provenance: dict[str, Any]  # provenance.json, {} = none

    @property
    def bytes(self) -> int:
        """Size of the ONNX file."""
        return model_path(self.path).stat().st_size

    @property
    def ccc(self) -> dict[str, float]:
        """CCC with the teacher after quantisation, by dimension, as far as it is recorded."""
        figures = (self.record.get("ccc") or {}).get("after") or {}
        return {name: one["value"] for name, one in figures.items() if one.get("value") is not None}


@dataclass
class Evidence:
    """All that was given and measured."""

    runs: list[RunEvidence] = field(default_factory=list)
    bundles: list[BundleEvidence] = field(default_factory=list)
    audits: list[dict[str, Any]] = field(default_factory=list)
    benchmarks: list[dict[str, Any]] = field(default_factory=list)
    evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)  # by name of the file

    @property
    def models(self) -> list[RunEvidence | BundleEvidence]:
        """Runs and bundles."""
        return [*self.runs, *self.bundles]

    def costs(self, bundle: BundleEvidence) -> dict[str, Any]:
        """The benchmark of a bundle, {} = none."""
        models = (model for result in self.benchmarks for model in result["models"])
        return next((model for model in models if model["name"] == bundle.name), {})


def gather(paths: Sequence[str | os.PathLike[str]]) -> Evidence:
    """Find out what each path is, and read it; a name of a model in the box will do.

    Raises:
        Wav2SmallError: nothing given, or something that is none of these
    """
    if not paths:
        raise Wav2SmallError("nothing to report on: name runs, bundles, or results as JSON")
    evidence = Evidence()
    for path in map(models.locate, paths):
        if not path.exists():
            raise Wav2SmallError(f"{path}: no such run, bundle or result")
        if (path / "model.onnx").exists() or path.suffix == ".onnx":
            records = [_json(path / f"{name}.json") for name in ("verification", "provenance")]
            evidence.bundles.append(BundleEvidence(short_names([path])[0], path, *records))
        elif any((path / name).exists() for name in ("metrics.csv", "distill.toml", "last")):
            evidence.runs.append(_run(path))
        elif path.is_file() and path.suffix == ".json":
            content = _json(path)
            if {"models", "machine", "settings"} <= set(content):
                evidence.benchmarks.append(content)
            elif {"dimensions", "categories", "drawn"} <= set(content):
                evidence.evaluations[path.stem] = content
            else:
                evidence.audits.append(thresholds.read(path))
        else:
            raise Wav2SmallError(
                f"{path}: neither a run (metrics.csv), nor a bundle (model.onnx), nor a result "
                "of `audit -o`, `benchmark --json` or `evaluate --json`"
            )
    return evidence


def _run(path: Path) -> RunEvidence:
    notes = []
    validation, metrics = None, pd.DataFrame()
    if (path / "validation.parquet").exists():
        validation = read_labels(path / "validation.parquet", instead="probability_").frame
    if not (path / "model.safetensors").exists() or validation is None:
        notes.append("still training, or stopped: figures are of what is there")
    if (path / "metrics.csv").exists():
        metrics = pd.read_csv(path / "metrics.csv")
    else:
        notes.append("no epoch is finished yet")
    provenance = _json(path / "provenance.json")
    return RunEvidence(path.resolve().name, metrics, validation, provenance, "; ".join(notes))


def _json(path: Path) -> Any:
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Wav2SmallError(f"{path}: not JSON ({error}); write it again") from error
