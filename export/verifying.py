"""Is this bundle what was exported, and does it still do here what it did there?"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnxruntime

from wav2small import provenance as provenances
from wav2small import session as runtime
from wav2small.errors import Wav2SmallError
from wav2small.session import file_run

from . import bundle, licences, verification


@dataclass
class Verified:
    """What `verify` checked.

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
    runtime: str = onnxruntime.__version__


def verify(
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
    model on this machine. With `run` the real clips go through torch and the file again, too.

    Args:
        path: bundle folder
        run: folder of the run it was exported from
        calibration: other speech than the run's validation set
        root: folder that the files of the validation set are relative to now
        clips: at most so many clips
        check_licence: "commercial" refuses a lineage that does not allow commercial use

    Raises:
        Wav2SmallError: a file is missing, altered or points elsewhere, the model gives other
            outputs than recorded, or the run is another one
    """
    folder = Path(path)
    record = bundle.read_record(folder)
    bundle.check_files(folder, record)
    runtime.check_self_contained(folder / bundle.MODEL)
    lineage = json.loads((folder / bundle.PROVENANCE).read_text(encoding="utf-8"))
    if check_licence:
        licences.check(lineage, check_licence, str(folder))
    _check_metadata(folder, lineage)
    if failures := verification.repeat(record, file_run(folder / bundle.MODEL)):
        raise Wav2SmallError(
            f"{folder}: with ONNX Runtime {onnxruntime.__version__} on this machine "
            f"{failures[0]}; try another version of onnxruntime, and report it"
        )
    listed = {*record["files"], bundle.RECORD}
    there = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    result = Verified(
        files=sorted(listed),
        signals=len(record["signals"]),
        extra=sorted(name for name in there if name not in listed),
    )
    if run is not None or calibration is not None:
        from .exporting import compare

        if run is None:
            raise Wav2SmallError("--calibration needs --run: the student to compare with")
        result.clips = compare(
            folder, run, lineage=lineage, calibration=calibration, root=root, clips=clips
        )
    return result


def _check_metadata(folder: Path, lineage: dict[str, Any]) -> None:
    metadata = runtime.open_session(folder / bundle.MODEL).get_modelmeta().custom_metadata_map
    if metadata.get("licence") != provenances.licence_line(lineage):
        raise Wav2SmallError(
            f"{folder}: {bundle.MODEL} and {bundle.PROVENANCE} name different licences; "
            "export the bundle again"
        )
