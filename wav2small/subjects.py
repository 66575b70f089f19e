"""What an evaluation compares with the truth: the estimates of a bundle, a teacher or a table."""

from __future__ import annotations

import csv
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

import numpy as np

from wav2small.dimensions import DIMENSIONS
from wav2small.errors import AudioError, Wav2SmallError
from wav2small.index import KEYS, Index, is_table, load_source, seconds
from wav2small.predictor import NO_BUNDLE, STUDENT, Predictor, windows
from wav2small.tables import read_labels

from . import audio, models, progress

if TYPE_CHECKING:
    import pandas as pd

PROBABILITY = "probability_"
_TOLERANCE_NS = 10_000_000  # of times: a hop of audio features
_LABEL = "wav2small.teachers.labelling.run:label"


@dataclass
class Estimates:
    """The estimates of a subject for the clips of a truth.

    Attributes:
        values: float64 (clips, 3), NaN where a dimension or a clip has no estimate
        categories: names of the columns of `probabilities`
        probabilities: float64 (clips, categories), NaN where a clip has none
        rejected: why a clip has no estimate, by its place
        limited: places of clips without anything above 6 kHz
    """

    values: np.ndarray
    categories: list[str]
    probabilities: np.ndarray
    rejected: dict[int, str] = field(default_factory=dict)
    limited: list[int] = field(default_factory=list)


def estimate(
    subject: str | os.PathLike[str],
    clips: Index,
    *,
    threads: int = 1,
    labelling: Mapping[str, Any] | None = None,
    check_outputs: Callable[[Sequence[str]], None] = lambda names: None,
) -> Estimates:
    """Estimates of a subject for every clip.

    Args:
        subject: label table, bundle, or teacher (see `teachers.load_teacher`)
        clips: what is rated, each clip once
        threads: of ONNX Runtime, for a bundle
        labelling: options of `label`, for a teacher: `compute`, `teacher_options` ...
        check_outputs: gets the dimensions and categories of a bundle before it computes anything

    Raises:
        Wav2SmallError: no such subject, or one that estimates neither dimensions nor categories

    Example:
        >>> estimate("bundle", load_source("ratings.csv")).values.round(2)
        array([[0.25, 0.5 , 0.75]])
    """
    name = os.fspath(subject)
    options = dict(labelling or {})
    asked = "teacher_options" in options and options["teacher_options"].given(name)
    if is_table(name):
        if asked:
            raise Wav2SmallError(f"--teacher-{[*asked][0]}: {name} is a label table, no teacher")
        return _of_table(name, clips)
    path = models.locate(name)
    described = (path / "config.json").exists() or (path / "model.yaml").exists()
    bundle = path.suffix == ".onnx" or (path / "model.onnx").exists() or path.is_dir()
    if not asked and bundle and ((path / "model.onnx").exists() or not described):
        try:
            predictor = Predictor(path, threads=threads)
        except Wav2SmallError as error:
            if NO_BUNDLE not in str(error):
                raise
        else:
            metadata = predictor.session.get_modelmeta().custom_metadata_map
            if not described and STUDENT not in metadata:
                remedy = "taken for arousal, dominance, valence (others: --teacher-dimensions)"
                progress.note(f"{path}: nothing names its outputs; {remedy}")
            check_outputs([*predictor.dimensions, *predictor.categories])
            return _of_bundle(predictor, clips)
    return _of_teacher(name, clips, options)


def check(subject: str | os.PathLike[str]) -> None:
    """Reject a subject that is neither there nor a teacher's name, before anything is read.

    Raises:
        Wav2SmallError: no such bundle, label table or teacher

    Example:
        >>> check("acoustic")
    """
    name = os.fspath(subject)
    if name in models.NAMES or is_table(name) or os.path.exists(name) or ":" in name or "/" in name:
        return
    teachers = resolve_name("wav2small.teachers.registry:list_teachers")()
    if name not in {row["name"] for row in teachers}:
        remedy = "name a folder, a file, or one of `wav2small teachers`"
        raise Wav2SmallError(f"{name}: no such bundle, label table or teacher; {remedy}")


def _of_bundle(predictor: Predictor, clips: Index) -> Estimates:
    values = np.full((len(clips.frame), len(DIMENSIONS)), np.nan)
    shares = np.full((len(clips.frame), len(predictor.categories)), np.nan)
    rejected, limited = {}, []
    times = zip(*(clips.frame[key] for key in KEYS), strict=True)
    with progress.bar(len(clips.frame), unit="clip", desc="evaluate") as bar:
        for row, (file, start, end) in enumerate(times):
            bar.update()
            try:
                found, narrow = [], []
                times_s = {"start_s": start.total_seconds(), "end_s": seconds(end)}
                for signal in windows(clips.path(file), **times_s):
                    found.append(predictor.predict_categories(signal))
                    narrow.append(audio.is_band_limited(signal))
                values[row], shares[row] = predictor.mean(found)
                limited += [row] * all(narrow)
            except AudioError as error:
                rejected[row] = str(error)
                continue
            if np.isnan(values[row][: len(predictor.dimensions)]).any():
                rejected[row] = f"{file}: the model's estimate is no number"
    return Estimates(values, list(predictor.categories), shares, rejected, limited)


def _of_teacher(name: str, clips: Index, options: dict[str, Any]) -> Estimates:
    """Label the clips as `label` does: in worker processes or batches, long ones in windows."""
    label = resolve_name(_LABEL)
    with tempfile.TemporaryDirectory() as folder:
        output = os.path.join(folder, "labels.parquet")
        try:
            result = label(clips, output, teacher=name, **options)
        except Wav2SmallError as error:
            if "none of the clips could be labelled" in str(error):
                why = load_source(os.path.join(folder, "errors.csv")).frame["reason"][0]
                raise Wav2SmallError(f"{name}: labels none of the clips: {why}") from error
            raise
        estimates = _of_table(output, clips)
        estimates.limited = []  # `label` has counted them
        if result.errors:
            with open(result.errors_file, encoding="utf-8", newline="") as file:
                why = {(one["file"], one["row"]): one["reason"] for one in csv.DictReader(file)}
            for row, at in estimates.rejected.items():
                number = str(clips.numbers[row]) if clips.numbers else ""
                key = (clips.frame["file"].iloc[row], number)
                estimates.rejected[row] = why.get(key, at)
        return estimates


def _of_table(name: str, clips: Index) -> Estimates:
    """Rows of a table that are a clip's, or lie within it, averaged; variants are passed over."""
    table = read_labels(name, partial=True, instead=PROBABILITY)
    frame = table.frame
    if "variant" in frame:
        frame = frame[frame["variant"] == 0].reset_index(drop=True)
    columns = [str(column) for column in frame if str(column).startswith(PROBABILITY)]
    both = [*(name for name in DIMENSIONS if name in frame), *columns]
    found = frame[both].to_numpy(dtype=np.float64)
    files: dict[str, list[int]] = {}
    for row, file in enumerate(frame["file"]):
        for key in {file, os.path.abspath(table.path(file))}:
            files.setdefault(key, []).append(row)
    starts, ends = _nanoseconds(frame)
    wanted_starts, wanted_ends = _nanoseconds(clips.frame)
    joined = np.full((len(clips.frame), len(both)), np.nan)
    narrow = np.zeros(len(frame), bool)
    if audio.LIMITED in frame:
        narrow = frame[audio.LIMITED].astype(str).str.lower().eq("true").to_numpy()
    rejected, limited = {}, []
    for row, file in enumerate(clips.frame["file"]):
        rows = np.array(files.get(os.path.abspath(clips.path(file))) or files.get(file) or [], int)
        late, early = starts[rows] - wanted_starts[row], wanted_ends[row] - ends[rows]
        same = rows[(np.abs(late) <= _TOLERANCE_NS) & (np.abs(early) <= _TOLERANCE_NS)]
        within = rows[(late >= -_TOLERANCE_NS) & (early >= -_TOLERANCE_NS)]
        if len(within) == 0:
            rejected[row] = f"{file}: not in {name}"
            continue
        joined[row] = found[same if len(same) else within].mean(axis=0)
        limited += [row] * bool(narrow[same if len(same) else within].all())
    values = np.full((len(clips.frame), len(DIMENSIONS)), np.nan)
    count = len(both) - len(columns)
    values[:, [DIMENSIONS.index(name) for name in both[:count]]] = joined[:, :count]
    categories, shares = [name.removeprefix(PROBABILITY) for name in columns], joined[:, count:]
    return Estimates(values, categories, shares, rejected, limited)


def _nanoseconds(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends; an open end is later than every other."""
    starts = frame["start"].to_numpy("timedelta64[ns]").astype(np.int64)
    ends = frame["end"].to_numpy("timedelta64[ns]").astype(np.int64)
    return starts, np.where(frame["end"].isna(), np.int64(1) << 61, ends)
