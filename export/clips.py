"""The real audio an export is verified with, and calibrated on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wav2small import audio, index
from wav2small.dimensions import DIMENSIONS
from wav2small.errors import AudioError, Wav2SmallError

VALIDATION = "validation.parquet"
MIN_CLIPS = 4
MIN_SECONDS = 4.0


@dataclass
class ProofClips:
    """Audio in memory."""

    signals: list[np.ndarray]  # each (n,) float32 at 16 kHz
    names: list[str]  # one per signal, `file@start`
    teacher: np.ndarray | None  # the teacher's labels of them, (clips, 3) on 0..1, or None
    source: str  # what they were taken from, for the record


def collect(
    run: Path,
    *,
    calibration: str | os.PathLike[str] | None = None,
    root: str | None = None,
    count: int = 200,
    longest_s: float = 12.0,
) -> ProofClips:
    """Clips of the run's validation set, or of a folder or table.

    Args:
        run: folder of a run
        calibration: other audio than the run's validation set; a label table brings its labels
        root: folder that the files of the table are relative to now
        count: at most so many clips, evenly spread over the set
        longest_s: longer clips are cut

    Raises:
        Wav2SmallError: there is no such set, its audio is gone, or it is too little

    Example:
        >>> collect(Path("no/such/run"))
        Traceback (most recent call last):
        wav2small.errors.Wav2SmallError: no/such/run/validation.parquet: no such file, ...
    """
    table = Path(run) / VALIDATION
    if calibration is None and not table.exists():
        raise Wav2SmallError(
            f"{table}: no such file, so there is no audio to prove the export with; "
            "add --calibration FOLDER with some speech"
        )
    source = index.load_source(calibration or table, root=root)
    frame = source.frame
    labelled = set(DIMENSIONS) <= set(frame.columns)
    chosen = np.unique(np.linspace(0, len(frame) - 1, min(count, len(frame))).round().astype(int))
    signals: list[np.ndarray] = []
    names, rows, reason = [], [], ""
    for row in chosen:
        clip = frame.iloc[row]
        start_s = clip["start"].total_seconds()
        end_s = clip["end"].total_seconds() if clip["end"] == clip["end"] else None  # not NaT
        if end_s is None or end_s - start_s > longest_s:
            end_s = _end(source.path(clip["file"]), start_s, end_s, longest_s)
        try:
            signals.append(audio.read(source.path(clip["file"]), start_s=start_s, end_s=end_s))
        except AudioError as error:
            reason = reason or str(error)
            continue
        names.append(f"{clip['file']}@{start_s:g}")
        rows.append(row)
    what = f"the validation audio of {run}" if calibration is None else str(calibration)
    remedy = "add --root FOLDER where it is now, or --calibration FOLDER with other speech"
    if not signals:
        raise Wav2SmallError(f"{what} is not there ({reason}); {remedy}")
    seconds = sum(map(len, signals)) / audio.SAMPLING_RATE
    if len(signals) < MIN_CLIPS or seconds < MIN_SECONDS:
        raise Wav2SmallError(
            f"{what}: {len(signals)} readable clips of {seconds:.1f} s together are too few to "
            f"prove an export; at least {MIN_CLIPS} clips and {MIN_SECONDS:g} s are needed"
            + (f" (first problem: {reason})" if reason else "")
            + "; add --calibration FOLDER with more speech"
        )
    teacher = frame.iloc[rows][list(DIMENSIONS)].to_numpy(np.float64) if labelled else None
    kind = "validation set of the run" if calibration is None else "calibration audio"
    return ProofClips(signals, names, teacher, kind)


def _end(path: str, start_s: float, end_s: float | None, longest_s: float) -> float | None:
    if end_s is not None:
        return start_s + longest_s
    try:
        return start_s + longest_s if audio.duration(path) - start_s > longest_s else None
    except AudioError:
        return None  # reading it reports the problem
