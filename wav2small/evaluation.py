"""A bundle against ratings: CCC, PCC and MAE with intervals, over all clips and per group."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wav2small.errors import AudioError, Wav2SmallError
from wav2small.prediction import table
from wav2small.predictor import Predictor

from . import metrics, progress

MIN_CLIPS = 10  # of a group; figures over fewer say little


@dataclass(repr=False)
class Evaluation:
    """Figures of a bundle.

    Attributes:
        clips: number of clips that were compared
        dimensions: {"arousal": {"ccc": Interval, "pcc": Interval, "mae": Interval}, ...}
        groups: {"speaker": {"03": {"clips": 49, "dimensions": {...}}, ...}, ...}
        skipped: {"speaker": ["07", ...]} groups of fewer than 10 clips
        rejected: (file, reason) of clips that could not be read
    """

    clips: int
    dimensions: dict[str, dict[str, metrics.Interval]]
    groups: dict[str, dict[str, Any]] = field(default_factory=dict)
    skipped: dict[str, list[str]] = field(default_factory=dict)
    rejected: list[tuple[str, str]] = field(default_factory=list)

    def __repr__(self) -> str:
        figures = ", ".join(f"{name} {of['ccc'].value:.3f}" for name, of in self.dimensions.items())
        return f"<Evaluation: {self.clips} clips, CCC {figures}>"

    def _repr_html_(self) -> str:
        names = list(metrics.METRICS)
        rows = [
            [dimension] + [f"{of[n].value:.3f} [{of[n].low:.3f}, {of[n].high:.3f}]" for n in names]
            for dimension, of in self.dimensions.items()
        ]
        return table(["dimension", *names], rows, f"{self.clips} clips, 95 % intervals")

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values; intervals as {"value", "low", "high"}.

        A figure that is not defined is null, and "reason" says why.
        """
        return {
            "clips": self.clips,
            "dimensions": _plain(self.dimensions),
            "groups": {
                column: {
                    name: {"clips": group["clips"], "dimensions": _plain(group["dimensions"])}
                    for name, group in groups.items()
                }
                for column, groups in self.groups.items()
            },
            "skipped": self.skipped,
            "rejected": [{"file": file, "reason": reason} for file, reason in self.rejected],
        }


def evaluate(
    bundle: str | os.PathLike[str],
    truth: str | os.PathLike[str],
    *,
    by: Sequence[str] = (),
    scale: tuple[float, float] | None = None,
    root: str | None = None,
    threads: int = 1,
    resamples: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """Compare a bundle with ratings or with a teacher's labels.

    Args:
        bundle: bundle folder or `.onnx` file
        truth: label table, CSV or audformat database that holds at least one of the columns
            arousal, dominance, valence
        by: columns of the truth whose groups get figures of their own, such as "speaker"
        scale: (lowest, highest) rating of the truth, mapped to 0..1; None = 0..1 already
        root: folder that the truth's files are relative to
        threads: threads of ONNX Runtime
        resamples: of the bootstrap behind the 95 % intervals
        seed: of the bootstrap

    Raises:
        Wav2SmallError: the bundle or the truth cannot be used, or no clip of it can be read

    Example:
        >>> round(evaluate("bundle", "ratings.csv").dimensions["arousal"]["mae"].value, 2)
        0.05
    """
    from wav2small.dimensions import DIMENSIONS
    from wav2small.index import seconds
    from wav2small.tables import read_labels

    if resamples < 1:
        raise Wav2SmallError(f"--resamples {resamples}: at least 1 is needed")
    predictor = Predictor(bundle, threads=threads)
    labels = read_labels(truth, root=root, scale=scale, partial=True)
    frame = labels.frame
    for column in by:
        if column not in frame:
            raise Wav2SmallError(
                f"{truth}: no column {column} to group by; it has {', '.join(map(str, frame))}"
            )
    used, estimates, rejected = [], [], []
    with progress.bar(len(frame), unit="clip", desc="evaluate") as bar:
        for row in range(len(frame)):
            file, start, end = frame["file"][row], frame["start"][row], frame["end"][row]
            variant = int(frame["variant"][row]) if "variant" in frame else 0
            bar.update()
            if variant:
                continue  # figures are of the recordings as they are
            try:
                estimates.append(
                    predictor.predict_file(
                        labels.path(file),
                        start_s=start.total_seconds(),
                        end_s=seconds(end),
                    )
                )
                used.append(row)
            except AudioError as error:
                rejected.append((file, str(error)))
    if not used:
        reason = rejected[0][1] if rejected else "it has only augmented variants"
        raise Wav2SmallError(f"{truth}: none of its clips can be read: {reason}")
    present = labels.dimensions
    rated = labels.values[used]
    predicted = np.array(estimates, dtype=np.float64)[:, [DIMENSIONS.index(d) for d in present]]
    options: dict[str, Any] = {"dimensions": present, "n": resamples, "seed": seed}
    result = Evaluation(
        clips=len(used),
        dimensions=metrics.summary(rated, predicted, **options),
        rejected=rejected,
    )
    for column in by:
        values = frame[column].iloc[used].astype(str).to_numpy()
        result.groups[column], result.skipped[column] = {}, []
        for name in sorted(set(values)):
            member = values == name
            if member.sum() < MIN_CLIPS:
                result.skipped[column].append(name)
                continue
            result.groups[column][name] = {
                "clips": int(member.sum()),
                "dimensions": metrics.summary(rated[member], predicted[member], **options),
            }
    return result


def _plain(dimensions: dict[str, dict[str, metrics.Interval]]) -> dict[str, Any]:
    return {
        dimension: {name: _json(interval) for name, interval in figures.items()}
        for dimension, figures in dimensions.items()
    }


def _json(interval: metrics.Interval) -> dict[str, Any]:
    values: dict[str, Any] = {
        name: value if np.isfinite(value) else None for name, value in interval._asdict().items()
    }
    if None in values.values():
        values["reason"] = "too few clips, or ratings or estimates that do not vary"
    return values
