"""The evidence that a file still is the student, written by the export and checked by `verify`.

The same audio goes through torch and through the file. Two kinds of audio are used: clips of the
run's validation set, which also give the agreement with the teacher before and after, and the
signals of `signals.py`, whose outputs are recorded so that `wav2small verify` can repeat them
anywhere, without torch and without the clips.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wav2small import files, metrics, models, progress
from wav2small import provenance as provenances
from wav2small.audio import SAMPLING_RATE
from wav2small.dimensions import DIMENSIONS
from wav2small.errors import Wav2SmallError
from wav2small.predictor import STREAMING
from wav2small.session import (
    SESSION_ENTRIES,
    SignalFunction,
    check_self_contained,
    file_run,
    open_session,
)

from . import bundle, forms, licences
from .clips import ProofClips, collect
from .forms import relative, rounded
from .signals import signals

if TYPE_CHECKING:
    from wav2small.students.base import Student

#: Largest difference between two machines or versions of ONNX Runtime: there only the order of
#: additions differs.
PARITY = 1e-3


@dataclass(frozen=True)
class Tolerance:
    """How far a file may be from torch.

    Attributes:
        difference: largest absolute difference of an output; above 1 relative to the output
        drop: largest loss of CCC with the teacher per dimension
    """

    difference: float
    drop: float


TOLERANCES = {
    "fp32": Tolerance(1e-4, 0.001),
    "int8": Tolerance(0.05, 0.01),
    "int4": Tolerance(0.15, 0.01),
    "int8-static": Tolerance(0.1, 0.01),
}


@dataclass(frozen=True)
class VerificationOptions:
    """The audio an export is compared on, and how close it must be.

    Attributes:
        calibration: folder or table of speech to verify with and, for int8-static, to calibrate
            on; default: the run's validation set
        root: where the validation audio is now, the folder that its files are relative to
        clips: verify with at most N clips
        tolerance: largest difference between torch and the file; default: by precision. See
            `TOLERANCES`
        explain: print differences layer by layer
    """

    calibration: str | os.PathLike[str] | None = None
    root: str | None = None
    clips: int = 200
    tolerance: float | None = None
    explain: bool = False


@dataclass
class Verified:
    """What `verify_bundle` checked.

    Attributes:
        files: names of the files whose hashes are right
        signals: number of recorded signals that came out as recorded
        clips: comparison with the run on real audio, if a run was given
        extra: files in the folder that the export did not write
        runtime: version of ONNX Runtime
    """

    files: list[str]
    signals: int
    clips: dict[str, Any] | None = None
    extra: list[str] = field(default_factory=list)
    runtime: str = ""


def verify_bundle(
    path: str | os.PathLike[str],
    *,
    run: str | os.PathLike[str] | None = None,
    calibration: str | os.PathLike[str] | None = None,
    root: str | None = None,
    clips: int = 200,
    check_licence: str | None = None,
) -> Verified:
    """Check the hashes of a bundle and repeat its verification.

    Needs neither torch nor audio: the recorded signals are computed again and put through the
    model on this machine. With `run` the real clips also go through torch and the file again.

    Args:
        path: folder that `export` wrote
        run: compare with this run in torch on real clips again
        calibration: other speech than the run's validation set
        root: where the validation audio is now, the folder that its files are relative to
        clips: compare at most N clips
        check_licence: reject when a teacher, audio or code forbids this use or has an unknown
            licence. "commercial" is the only use

    Raises:
        Wav2SmallError: a file is missing, changed or points elsewhere, the model gives other
            outputs than recorded, or the run is another one

    Example:
        >>> verify_bundle("no/such/bundle")
        Traceback (most recent call last):
        wav2small.errors.Wav2SmallError: no/such/bundle: no such bundle; name the folder ...
    """
    import onnxruntime

    folder = models.locate(path)
    record = bundle.read_record(folder)
    bundle.check_files(folder, record)
    check_self_contained(folder / bundle.MODEL)
    lineage = json.loads((folder / bundle.PROVENANCE).read_text(encoding="utf-8"))
    if check_licence:
        licences.check(lineage, check_licence, str(folder))
    metadata = open_session(folder / bundle.MODEL).get_modelmeta().custom_metadata_map
    if metadata.get("licence") != provenances.licence_line(lineage):
        raise Wav2SmallError(
            f"{folder}: {bundle.MODEL} and {bundle.PROVENANCE} name different licences; "
            "export the bundle again"
        )
    if failures := repeat(record, file_run(folder / bundle.MODEL)):
        raise Wav2SmallError(
            f"{folder}: with ONNX Runtime {onnxruntime.__version__} on this machine "
            f"{failures[0]}; try another version of onnxruntime, and report it"
        )
    if (folder / STREAMING).exists():
        forms.prove_streaming(folder)
    result = Verified(
        files=sorted({*record["files"], bundle.RECORD}),
        signals=len(record["signals"]),
        extra=bundle.extra_files(folder, record),
        runtime=onnxruntime.__version__,
    )
    if run is not None or calibration is not None:
        if run is None:
            raise Wav2SmallError("--calibration needs --run: the student to compare with")
        given = {"calibration": calibration, "root": root, "count": clips}
        result.clips = _compare_with_run(folder, Path(run), lineage, **given)
    return result


def _compare_with_run(
    folder: Path, run: Path, lineage: Mapping[str, Any], **clips: Any
) -> dict[str, Any]:
    """Put real clips through a run and its bundle again; the part `clips` of a record."""
    from wav2small.students import base, registry

    student = registry.load(run)
    exported = lineage.get("export", {})
    if files.sha256(run / base.WEIGHTS) != exported.get("weights_sha256"):
        raise Wav2SmallError(f"{folder}: not exported from {run / base.WEIGHTS}; name its own run")
    audio = collect(run, **clips)
    record = prove(student, folder / bundle.MODEL, exported["precision"], audio)
    if not record["passed"]:
        raise Wav2SmallError(f"{folder}: {record['failures'][0]}; export it again from {run}")
    return record["clips"]


def prove(
    student: Student,
    model: Path,
    precision: str,
    audio: ProofClips,
    tolerance: float | None = None,
) -> dict[str, Any]:
    """Compare a student with its file on real clips, with a progress bar; see `compare`.

    The precision decides how close they must be, but for the `tolerance` of an output, if given.
    """
    allowed = TOLERANCES[precision]
    if tolerance is not None:
        allowed = Tolerance(tolerance, allowed.drop)
    with progress.bar(len(audio.signals), unit="clip", desc="verify") as bar:
        record = compare(
            student_run(student),
            file_run(model),
            clips=audio.signals,
            teacher=audio.teacher,
            tolerance=allowed,
            names=[*student.dimensions, *student.config["categories"]],
            progress=bar.update,
        )
    record["clips"]["source"] = audio.source
    return record


def student_run(student: Student) -> SignalFunction:
    """A student in torch as a function of one signal; see `session.SignalFunction`."""
    import torch

    def run(signal: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            embedding = student.embed(torch.from_numpy(signal)[None])
            parts = [student.head(embedding)] if student.dimensions else []
            if student.category is not None:
                parts.append(student.category(embedding).softmax(dim=1))
            return torch.cat(parts, dim=1)[0].numpy()

    return run


def compare(
    torch_run: SignalFunction,
    file_run: SignalFunction,
    *,
    clips: Sequence[np.ndarray],
    teacher: np.ndarray | None,
    tolerance: Tolerance,
    names: Sequence[str] = DIMENSIONS,
    progress: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Compare a student in torch with its file.

    Args:
        torch_run: the student
        file_run: the file
        clips: real audio, each (samples,) float32 at 16 kHz
        teacher: the teacher's labels of the clips, (clips, 3) on 0..1; None = not known
        tolerance: see `Tolerance`
        names: of the outputs
        progress: called after each clip

    Returns:
        JSON values: `passed`, `failures` (sentences), `clips`, `ccc`, `signals`, `tolerance`

    Example:
        >>> student = lambda signal: np.full(3, 0.5)
        >>> file = lambda signal: np.full(3, 0.6)
        >>> record = compare(student, file, clips=[], teacher=None, tolerance=Tolerance(0.05, 0.01))
        >>> record["failures"][0]
        "signal 'silence' differs by 0.1 (allowed 0.05)"
    """
    failures = []
    before, after = [], []
    for clip in clips:
        before.append(torch_run(clip))
        after.append(file_run(clip))
        progress()
    result: dict[str, Any] = {
        "tolerance": {"difference": tolerance.difference, "ccc_drop": tolerance.drop},
        "session": SESSION_ENTRIES,
    }
    if clips:
        difference = np.abs(np.array(before, np.float64) - np.array(after, np.float64))
        by_clip = relative(before, after).max(axis=1)
        worst = int(by_clip.argmax())
        result["clips"] = {
            "count": len(clips),
            "seconds": round(sum(map(len, clips)) / SAMPLING_RATE, 1),
            "max_difference": rounded(difference.max()),
            "mean_difference": rounded(difference.mean()),
            "max_difference_by_dimension": dict(
                zip(names, map(rounded, difference.max(axis=0)), strict=True)
            ),
        }
        if by_clip.max() > tolerance.difference:
            failures.append(
                f"clip {worst + 1} differs by {difference[worst].max():.2g} "
                f"(allowed {tolerance.difference:g})"
            )
    if teacher is not None and len(clips) > 1:
        result["ccc"] = agreement(teacher, np.array(before), np.array(after))
        for dimension, drop in result["ccc"]["drop"].items():
            if drop is not None and drop > tolerance.drop:
                failures.append(
                    f"CCC with the teacher drops by {drop:.4f} in {dimension} "
                    f"(allowed {tolerance.drop:g})"
                )
    result["signals"] = []
    for name, signal in signals().items():
        expected, actual = torch_run(signal), file_run(signal)
        largest = float(relative([expected], [actual]).max())
        result["signals"].append(
            {
                "name": name,
                "torch": list(map(rounded, expected)),
                "file": list(map(rounded, actual)),
                "difference": rounded(np.abs(expected - actual).max()),
            }
        )
        if not largest <= tolerance.difference:  # NaN fails too
            failures.append(
                f"signal {name!r} differs by {largest:.2g} (allowed {tolerance.difference:g})"
            )
    return {"passed": not failures, "failures": failures, **result}


def agreement(teacher: np.ndarray, before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """CCC with the teacher of the student and of its file, with 95 % intervals over clips."""
    result: dict[str, Any] = {"before": {}, "after": {}, "drop": {}}
    for column, dimension in enumerate(DIMENSIONS):
        pair = [metrics.bootstrap(teacher[:, column], x[:, column]) for x in (before, after)]
        for key, interval in zip(("before", "after"), pair, strict=True):
            figures = interval._asdict().items()
            result[key][dimension] = {name: rounded(value) for name, value in figures}
        result["drop"][dimension] = rounded(pair[0].value - pair[1].value)
    return result


def repeat(recorded: Mapping[str, Any], file_run: SignalFunction) -> list[str]:
    """Run the signals of a record of `compare` again, through the file on this machine.

    Returns:
        a sentence for each signal whose outputs differ by more than `PARITY`
    """
    failures, made = [], signals()
    for row in recorded["signals"]:
        if row["name"] not in made:
            failures.append(f"signal {row['name']!r} is not known to this version")
            continue
        outputs = file_run(made[row["name"]])[: len(row["file"])]  # older records: dimensions only
        difference = float(relative([np.array(row["file"])], [outputs]).max())
        if not difference <= PARITY:
            failures.append(
                f"signal {row['name']!r} differs by {difference:.2g} from the record "
                f"(allowed {PARITY:g})"
            )
    return failures
