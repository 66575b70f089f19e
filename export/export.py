"""From a run to a bundle: build, quantise, prove, write."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

import wav2small
from wav2small import files
from wav2small import provenance as provenances
from wav2small.errors import Wav2SmallError
from wav2small.session import check_version, file_run
from wav2small.students import costs, registry
from wav2small.students.base import WEIGHTS, Student

from . import bundle, card, licences
from .c.emitter import write_c, write_library
from .clips import collect
from .onnx import layers, models, static
from .onnx import streaming as streaming_file
from .onnx.weights import PRECISIONS
from .verification import VerificationOptions, prove, student_run

CENTRING_CLIPS = 32


@dataclass
class Exported:
    """What `export_bundle` made.

    Attributes:
        bundle: its folder
        bytes: size of model.onnx
        record: content of verification.json, without hashes
        layers: differences layer by layer, if asked for
    """

    bundle: Path
    bytes: int
    record: dict[str, Any]
    layers: list[layers.Layer]


class VerificationError(Wav2SmallError):
    """The file differs from the student. `layers` holds the differences layer by layer."""

    def __init__(self, message: str, differences: list[layers.Layer]):
        super().__init__(message)
        self.layers = differences


def export_bundle(
    run: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    precision: str = "int8",
    overwrite: bool = False,
    verification: VerificationOptions = VerificationOptions(),  # noqa: B008, it is frozen
    check_licence: str | None = None,
    streaming: bool = False,
    c: bool = False,
) -> Exported:
    """Export a trained student as a verified bundle.

    Args:
        run: folder of a run, or any folder of a student (config.json + model.safetensors)
        output: folder of the bundle
        precision: "fp32", "int8" (weights), "int4" (large matrices, else int8), "int8-static"
            (weights and activations)
        overwrite: replace an existing bundle, once the new one is complete
        verification: the audio it is verified with, and how close it must be
        check_licence: "commercial" rejects a lineage that does not allow commercial use
        streaming: also write `streaming.onnx`, for students that stream
        c: also write `c/`: plain C99, for students that the emitter knows

    Returns:
        see `Exported`

    Raises:
        VerificationError: the file differs from the student; nothing is left behind
        Wav2SmallError: the run, the audio or the output cannot be used

    Example:
        >>> export_bundle("run/", "bundle/", precision="int5")
        Traceback (most recent call last):
        wav2small.errors.Wav2SmallError: --precision int5: there is fp32, int8, int4, int8-static
    """
    if precision not in PRECISIONS:
        raise Wav2SmallError(f"--precision {precision}: there is {', '.join(PRECISIONS)}")
    run = Path(run)
    check_version()
    student = registry.load(run)
    lineage = _lineage(run, student, precision)
    if check_licence:
        licences.check(lineage, check_licence, str(run))
    with bundle.replace_folder(output, overwrite=overwrite) as folder:
        audio = collect(
            run,
            calibration=verification.calibration,
            root=verification.root,
            count=verification.clips,
        )
        data = build(
            student, precision, lineage=lineage, calibration=audio.signals
        ).SerializeToString()
        (folder / bundle.MODEL).write_bytes(data)
        record = prove(student, folder / bundle.MODEL, precision, audio, verification.tolerance)
        differences = []
        if verification.explain or not record["passed"]:
            differences = explained(student, precision, audio.signals)
        if not record["passed"]:
            worst = layers.worst(differences)
            raise VerificationError(
                f"{run}: the {precision} file is not the student: {record['failures'][0]}; "
                f"worst layer: {worst.name} (relative difference {worst.difference:.2g}); "
                "nothing was written, see --explain, or choose another --precision",
                differences,
            )
        categories = list(student.config.get("categories", []))
        (folder / bundle.AUDONNX).write_text(bundle.audonnx_yaml(categories))
        bundle.write_json(folder / bundle.PROVENANCE, lineage)
        cost = costs.count(student)
        record = {
            "student": student.name,
            "precision": precision,
            "bytes": len(data),
            "parameters": cost.parameters,
            "macs_per_second": cost.macs_per_second,
            "embedding": student.embedding,
            **record,
        }
        text = card.card(record, lineage, categories=categories, streaming=streaming, c=c)
        (folder / bundle.CARD).write_text(text, encoding="utf-8")
        if streaming:
            stored = "fp32" if precision == "fp32" else "int8"
            streaming_file.write_streaming(student, folder, precision=stored)
        if c:
            line = provenances.licence_line(lineage)
            write_c(student, folder / "c", audio.signals, name=student.name, licence=line)
            write_library(folder)
        bundle.seal(folder, record)
    return Exported(Path(output), len(data), record, differences)


#: The name of the command.
export = export_bundle


def build(
    student: Student,
    precision: str,
    *,
    lineage: dict[str, Any] | None = None,
    calibration: Sequence[np.ndarray] = (),
) -> onnx.ModelProto:
    """The ONNX model of a student at a precision.

    Args:
        student: in evaluation mode
        precision: one of `PRECISIONS`
        lineage: provenance for the file's metadata
        calibration: real clips, for int8-static; without them the outputs keep the mean shift
            that rounding gives them
    """
    metadata = {
        "wav2small.student": student.name,
        "wav2small.precision": precision,
        "wav2small.version": wav2small.__version__,
    }
    if student.config["categories"]:
        metadata["wav2small.categories"] = json.dumps(student.config["categories"])
    if lineage:
        # Hashes and versions stay in provenance.json: a file of 48 KB has no room for them.
        short = {key: lineage.get(key) for key in ("teachers", "audio", "code")}
        metadata["wav2small.provenance"] = json.dumps(short, separators=(",", ":"), sort_keys=True)
        metadata["licence"] = provenances.licence_line(lineage)
    model = _model(student, precision, metadata, calibration)
    if precision == "fp32" or not calibration:
        return model
    shifted = copy.deepcopy(student)
    with torch.no_grad():
        shifted.adv.bias += torch.from_numpy(_shift(student, model, calibration))
    return _model(shifted, precision, metadata, calibration)


def _model(
    student: Student, precision: str, metadata: dict[str, str], calibration: Sequence[np.ndarray]
) -> onnx.ModelProto:
    if precision == "int8-static":
        return static.build(student, metadata, calibration)[0]
    return models.build(student, precision, metadata)[0]


def _shift(student: Student, model: onnx.ModelProto, signals: Sequence[np.ndarray]) -> np.ndarray:
    """What rounding takes from the mean of each output, (3,): three numbers from real clips."""
    chosen = np.linspace(0, len(signals) - 1, min(CENTRING_CLIPS, len(signals))).astype(int)
    before, after = student_run(student), file_run(model.SerializeToString())
    return np.mean([before(signals[i]) - after(signals[i]) for i in np.unique(chosen)], axis=0)


def explained(
    student: Student, precision: str, signals: Sequence[np.ndarray]
) -> list[layers.Layer]:
    """Differences layer by layer on the longest signal."""
    if precision == "int8-static":
        model, graph = static.build(student, {}, signals)
    else:
        model, graph = models.build(student, precision, unrolled=True)
    return layers.compare(student, model, graph.layers, max(signals, key=len))


def _lineage(run: Path, student: Student, precision: str) -> dict[str, Any]:
    """Provenance of the bundle: the run's, and what this export adds."""
    lineage = registry.provenance(run)
    return {
        **lineage,
        "export": {
            "student": student.name,
            "precision": precision,
            "weights_sha256": files.sha256(run / WEIGHTS),
            "versions": provenances.versions("onnx", "onnxruntime", "torch"),
        },
    }
