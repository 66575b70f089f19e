"""From a run to a bundle: build, quantise, prove, write."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

import wav2small
from wav2small import files, progress
from wav2small import provenance as provenances
from wav2small.errors import Wav2SmallError
from wav2small.session import check_version, file_run
from wav2small.students import costs, quantisation, registry
from wav2small.students.base import WEIGHTS, Student

from . import bundle, card, licences
from .c import integer
from .c.emitter import COptions, PlainC, c_name, write_c, write_library
from .c.firmware import write_firmware
from .clips import collect
from .forms import level_changes, prove_plain_c, prove_streaming
from .onnx import layers, models, static
from .onnx import streaming as streaming_file
from .onnx.graph import Graph
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
        c: the plain C, if asked for
    """

    bundle: Path
    bytes: int
    record: dict[str, Any] = field(repr=False)
    layers: list[layers.LayerDifference]
    c: PlainC | None = None


class VerificationError(Wav2SmallError):
    """The file differs from the student. `layers` holds the differences layer by layer."""

    def __init__(self, message: str, differences: list[layers.LayerDifference]):
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
    c: bool | COptions = False,
) -> Exported:
    """Export a trained student as a verified bundle.

    Args:
        run: folder that `distill` wrote, or any student's (config.json + model.safetensors)
        output: folder to write
        precision: int8: 8-bit weights, float arithmetic; int4: large matrices 4-bit; int8-static:
            8-bit weights and activations, for integer hardware; or fp32
        overwrite: replace an existing bundle. It stays until the new one is complete
        verification: the audio it is verified with, and how close it must be
        check_licence: reject when a teacher, audio or code forbids this use or has an unknown
            licence. "commercial" is the only use
        streaming: also streaming.onnx with explicit state (nano)
        c: also c/: plain C99 for microcontrollers (nano). See `COptions`

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
    if streaming and precision == "int8-static":
        raise Wav2SmallError(
            "--streaming with --precision int8-static: streaming.onnx computes with float "
            "activations and would not be the same model; choose int8"
        )
    run = Path(run)
    check_version()
    student = registry.load(run)
    if precision == "int4" and 7 not in quantisation.plan(student, precision).values():
        progress.note(
            f"{student.name} has no matrix large enough for 4 bits: this int4 file is the int8 one"
        )
    if not student.dimensions and (streaming or c):
        raise Wav2SmallError(
            f"{run}: estimates categories alone; {'--streaming' if streaming else '--c'} is for "
            "arousal, dominance and valence"
        )
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
        ready = centred(student, precision, audio.signals)
        metadata = _metadata(student, precision, lineage)
        model, _ = _model(ready, precision, metadata, audio.signals)
        data = model.SerializeToString()
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
        heads: dict[str, Any] = {
            "categories": list(student.config.get("categories", [])),
            "dimensions": bool(student.dimensions),
        }
        (folder / bundle.AUDONNX).write_text(bundle.audonnx_yaml(**heads))
        bundle.write_json(folder / bundle.PROVENANCE, lineage)
        cost = costs.count(student)
        record = {
            "student": student.name,
            "precision": precision,
            "bytes": len(data),
            "parameters": cost.parameters,
            "macs_per_second": cost.macs_per_second,
            "embedding": student.embedding,
            **({"voice": True} if getattr(student, "voice", None) is not None else {}),
            **record,
        }
        if audio.signals:
            record["level"] = level_changes(folder, audio.signals)
        if streaming:
            streaming_file.write_streaming(ready, folder, precision=precision)
            record["streaming"] = prove_streaming(folder, audio.signals)
        made = None
        if c:
            options = c if isinstance(c, COptions) else COptions()
            name = options.name or c_name(Path(output).resolve().name)
            line = provenances.licence_line(lineage)
            made = write_c(student, folder / "c", audio.signals, name=name, licence=line)
            plain_c = partial(integer.predict, made.integers, student)
            spoken = partial(integer.predict_speech, made.integers, student)
            detects = spoken if made.integers.voice else None
            record["plain_c"] = prove_plain_c(plain_c, folder, audio.signals, detects)
            write_library(folder)
            if options.arduino:
                write_firmware(made, folder / "firmware", licence=line)
            made = replace(made, source=Path(output) / "c" / made.source.name)
        stem = made.source.stem if made else None
        text = card.card(record, lineage, **heads, streaming=streaming, c=stem)
        (folder / bundle.CARD).write_text(text, encoding="utf-8")
        bundle.seal(folder, record)
    return Exported(Path(output), len(data), record, differences, made)


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
    metadata = _metadata(student, precision, lineage)
    return _model(centred(student, precision, calibration), precision, metadata, calibration)[0]


def centred(student: Student, precision: str, calibration: Sequence[np.ndarray]) -> Student:
    """The student with what rounding takes from the mean of each output added to its last bias.

    Args:
        student: in evaluation mode; it is not changed
        precision: one of `PRECISIONS`
        calibration: real clips; without them it is the student itself
    """
    if precision == "fp32" or not calibration or not student.dimensions:
        return student
    model, _ = _model(student, precision, {}, calibration)
    chosen = np.linspace(0, len(calibration) - 1, min(CENTRING_CLIPS, len(calibration)))
    clips = [calibration[i] for i in np.unique(chosen.astype(int))]
    before, after = student_run(student), file_run(model.SerializeToString())
    shift = np.mean([before(clip) - after(clip) for clip in clips], axis=0)
    shifted = copy.deepcopy(student)
    with torch.no_grad():
        shifted.adv.bias += torch.from_numpy(shift[: len(student.dimensions)])
    return shifted


def _metadata(student: Student, precision: str, lineage: dict[str, Any] | None) -> dict[str, str]:
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
    return metadata


def _model(
    student: Student,
    precision: str,
    metadata: dict[str, str],
    calibration: Sequence[np.ndarray],
    **options: Any,
) -> tuple[onnx.ModelProto, Graph]:
    if precision == "int8-static":
        return static.build(student, metadata, calibration)
    return models.build(student, precision, metadata, **options)


def explained(
    student: Student, precision: str, signals: Sequence[np.ndarray]
) -> list[layers.LayerDifference]:
    """Differences layer by layer on the longest signal."""
    model, graph = _model(student, precision, {}, signals, unrolled=True)
    return layers.compare(student, model, graph.layers, max(signals, key=len))


def _lineage(run: Path, student: Student, precision: str) -> dict[str, Any]:
    """Provenance of the bundle: the run's without private paths, and what this export adds."""
    return {
        **provenances.without_paths(registry.provenance(run)),
        "export": {
            "student": student.name,
            "precision": precision,
            "weights_sha256": files.sha256(run / WEIGHTS),
            "versions": provenances.versions("onnx", "onnxruntime", "torch"),
        },
    }
