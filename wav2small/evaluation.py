"""A bundle, a teacher or a label table against ratings: figures with intervals, per group too."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

import numpy as np

from wav2small.dimensions import DIMENSIONS
from wav2small.emotions import common
from wav2small.errors import Wav2SmallError
from wav2small.index import KEYS, Index, is_table
from wav2small.prediction_output import table
from wav2small.subjects import PROBABILITY, Estimates, check, estimate
from wav2small.tables import Labels, read_labels, texts

from . import audio, metrics, progress

if TYPE_CHECKING:
    import pandas as pd

MIN_CLIPS = 10  # of a group; figures over fewer are of little use
MIN_SPEAKERS = 5  # with fewer, intervals that draw speakers would mean nothing
SPEAKER, RATER, EMOTION = "speaker", "rater", "emotion"
_UNKNOWN = ("", "nan", "none", "unknown", "na", "n/a", "null", "<na>")
_PLACES = "wav2small.teachers.acoustic.placement:placements"


@dataclass(repr=False)
class Evaluation:
    """Figures of a subject.

    Attributes:
        clips: number of clips that were compared
        dimensions: {"arousal": {"ccc": Interval, "pcc": ..., "mae": ..., "spearman": ...}, ...}
        categories: {"names": [...], "clips": n, "figures": {"uar": Interval, "wa", "weighted_f1",
            "macro_f1"}, "confusion": counts, rows = truth, "unknown": {class that the subject does
            not know: clips left out}}; empty = not compared
        groups: {"speaker": {"03": {"clips": 49, "dimensions": {...}, "categories": {...}}}}
        skipped: {"speaker": ["07", ...]} groups of fewer than 10 clips
        raters: {"arousal": Interval, ...}: CCC of one rater with the mean of the others, where the
            truth has several: the best that is possible
        drawn: what the bootstrap draws, such as "24 speakers"
        scale: lowest and highest rating of the truth; MAE is of ratings that were mapped to 0..1
        rejected: (file, reason) of clips that have no estimate
    """

    clips: int
    dimensions: dict[str, dict[str, metrics.Interval]]
    categories: dict[str, Any] = field(default_factory=dict)
    groups: dict[str, dict[str, Any]] = field(default_factory=dict)
    skipped: dict[str, list[str]] = field(default_factory=dict)
    raters: dict[str, metrics.Interval] = field(default_factory=dict)
    drawn: str = "clips"
    scale: tuple[float, float] = (0.0, 1.0)
    rejected: list[tuple[str, str]] = field(default_factory=list)

    def __repr__(self) -> str:
        figures = [f"{name} CCC {of['ccc'].value:.3f}" for name, of in self.dimensions.items()]
        if self.categories:
            figures.append(f"UAR {self.categories['figures']['uar'].value:.3f}")
        return f"<Evaluation: {self.clips} clips, {', '.join(figures)}>"

    def _repr_html_(self) -> str:
        def cells(figures: Mapping[str, metrics.Interval]) -> list[str]:
            return [f"{of.value:.3f} [{of.low:.3f}, {of.high:.3f}]" for of in figures.values()]

        caption = f"{self.clips} clips, 95 % intervals over {self.drawn}"
        rows = [[dimension, *cells(of)] for dimension, of in self.dimensions.items()]
        shown = table(["dimension", *metrics.METRICS], rows, caption) if rows else ""
        if self.categories:
            figures = self.categories["figures"]
            shown += table(list(figures), [cells(figures)], f"{self.categories['clips']} clips")
        return shown

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values; intervals as {"value", "low", "high"}.

        A figure that is not defined is null, and "reason" states why.
        """
        return {
            **_plain(vars(self)),
            "rejected": [{"file": file, "reason": reason} for file, reason in self.rejected],
        }


def evaluate(
    subject: str | os.PathLike[str],
    truth: str | os.PathLike[str] | Labels,
    *,
    by: Sequence[str] = (),
    scale: tuple[float, float] | None = None,
    root: str | os.PathLike[str] | None = None,
    time_unit: str = "s",
    split: str | Sequence[str] | None = None,
    categories: str = EMOTION,
    place_truth: bool = False,
    threads: int = 1,
    resamples: int = 1000,
    seed: int = 0,
    labelling: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Compare a bundle, a teacher or a label table with ratings or with a teacher's labels.

    Args:
        subject: bundle folder or .onnx file; label table; or any teacher: name, folder, hub id,
            package.module:Class. A teacher labels the clips first
        truth: label table, CSV or audformat database with columns arousal, dominance, valence (one
            or two of them will do) or categories; `rater`: one row per clip and rater; `speaker`:
            intervals resample speakers. The mean of the raters is the truth; speakers are drawn
            where there are at least five. Or `Labels`, on 0..1
        by: figures per group of this column too; may be given again. A sequence of columns
        scale: lowest and highest rating of the truth, mapped to 0..1; None = 0 1
        root: folder that the truth's files are relative to
        time_unit: unit of the truth's times that are plain numbers: s, ms or us
        split: only clips whose column `split` has one of these values, such as test
        categories: column of the truth that is compared with the subject's probabilities
        place_truth: the truth of arousal, dominance and valence is the documented place of each
            clip's category; clips of a category without a place are left out
        threads: threads of ONNX Runtime, for a bundle
        resamples: number of bootstrap samples behind the 95 % intervals
        seed: seed of the bootstrap
        labelling: options of `label` for a teacher: `compute`, `teacher_options` ...

    Raises:
        Wav2SmallError: the subject or the truth cannot be used, or no clip can be compared

    Example:
        >>> round(evaluate("bundle", "ratings.csv").dimensions["arousal"]["mae"].value, 2)
        0.05
    """
    if resamples < 1:
        raise Wav2SmallError(f"--resamples {resamples}: at least 1 is needed")
    check(subject)
    if isinstance(truth, Labels):
        labels = replace(truth)
    else:
        how: dict[str, Any] = {"root": root, "scale": scale, "split": split, "time_unit": time_unit}
        labels = read_labels(truth, partial=True, instead=categories, gaps=True, raters=True, **how)
    frame = labels.frame
    for column in by:
        if column not in frame:
            there = f"it has {', '.join(map(str, frame))}"
            raise Wav2SmallError(f"{truth}: no column {column} to group by; {there}")
    if "variant" in frame:  # figures are of the recordings as they are
        labels.frame = frame = frame[frame["variant"] == 0]
        if frame.empty:
            raise Wav2SmallError(f"{truth}: it has only augmented variants")
    if place_truth:
        labels.frame = frame = _placed(frame, categories, truth)
    options: dict[str, Any] = {"n": resamples, "seed": seed}
    raters: dict[str, metrics.Interval] = {}
    if RATER in frame:
        labels, raters = _merged(labels, categories, options)
        frame = labels.frame
    elif twice := int(frame.duplicated(KEYS).sum()):
        progress.note(
            f"{truth}: {twice} rows are of clips that stand there before, and count again; if they "
            f"are of other raters, name these in a column `{RATER}`"
        )
    taken = [name for name in frame if str(name).startswith(PROBABILITY)]
    table_read = not isinstance(truth, Labels) and is_table(os.fspath(truth))
    numbers = [int(row) + 1 for row in frame.index] if table_read else []
    index = Index(frame.drop(columns=[*labels.dimensions, *taken]), labels.root, numbers=numbers)
    rated = [*labels.dimensions, *([categories] if categories in frame else [])]
    if rated and not frame[rated].notna().any(axis=None):
        raise Wav2SmallError(f"{truth}: none of its clips has a rating ({', '.join(rated)})")

    def fit(outputs: Sequence[str]) -> None:
        if not (set(outputs) & set(rated) or categories in rated and set(outputs) - {*DIMENSIONS}):
            raise Wav2SmallError(_nothing_in_common(truth, rated, outputs, categories))

    estimates = estimate(subject, index, threads=threads, labelling=labelling, check_outputs=fit)
    names = frame["file"].tolist()
    rejected = [
        (names[place], f"row {numbers[place]}: {why}" if numbers else why)
        for place, why in estimates.rejected.items()
    ]
    if len(rejected) == len(frame):
        raise Wav2SmallError(f"{truth}: none of its clips can be read: {rejected[0][1]}")
    compared = _Comparison(labels, estimates, categories, truth)
    if not compared.used.any():
        problem = "no clip has both a rating and an estimate"
        if compared.unknown:
            known = f"a category of the subject ({', '.join(estimates.categories[:5])})"
            own = ", ".join([*compared.unknown][:5])
            problem = f"none of its `{categories}` ({own}) is {known}"
        raise Wav2SmallError(f"{truth}: {problem}")
    count = int(compared.used.sum())
    audio.note_limited(int(compared.used[estimates.limited].sum()), count, "clips", "")
    if compared.unrated:
        progress.note(f"{truth}: {compared.unrated} clips without a rating are left out")
    groups, drawn = _speakers(frame, compared.used)
    result = Evaluation(
        clips=count,
        raters=raters,
        drawn=drawn,
        scale=scale or (0.0, 1.0),
        rejected=labels.rejected + rejected,
        **compared.figures(compared.used, groups, options),
    )
    for column in by:
        values = texts(frame[column]).to_numpy()
        result.groups[column], result.skipped[column] = {}, []
        for name in sorted(set(values[compared.used])):
            member = compared.used & (values == name)
            if member.sum() < MIN_CLIPS:
                result.skipped[column].append(name)
                continue
            inner = None if column == SPEAKER else _speakers(frame, member)[0]
            figures = compared.figures(member, inner, options)
            result.groups[column][name] = {"clips": int(member.sum()), **figures}
    return result


class _Comparison:
    """Truth and estimates side by side.

    Attributes:
        used: (clips,) which have anything to compare
    """

    def __init__(self, labels: Labels, estimates: Estimates, column: str, where: Any):
        values = estimates.values[:, [DIMENSIONS.index(name) for name in labels.dimensions]]
        there = np.isfinite(values).any(axis=0)
        self.dimensions = tuple(np.array(labels.dimensions, dtype=object)[there])
        self.rated, self.values = labels.values[:, there], values[:, there]
        rated = np.isfinite(self.rated).any(axis=1)
        self.used = np.isfinite(self.values).all(axis=1) & rated
        self.unrated = int((~rated).sum()) if self.dimensions else 0
        self.codes = None
        self.unknown: dict[str, int] = {}
        if column in labels.frame and estimates.categories:
            said = self.names = [common(name) for name in estimates.categories]
            has = np.isfinite(estimates.probabilities).all(axis=1)
            true = np.array([common(name) for name in labels.frame[column]], dtype=object)
            self.known = has & np.isin(true, said)
            unknown = sorted({*true[has & ~self.known]}.difference(_UNKNOWN))
            self.unknown = {name: int((true[has] == name).sum()) for name in unknown}
            self.codes = np.array([said.index(n) if n in said else 0 for n in true])
            self.guesses = np.nan_to_num(estimates.probabilities, nan=-1).argmax(axis=1)
            self.used = self.used | self.known
            self.unrated = 0
        if not self.dimensions and self.codes is None:
            rated = [*labels.dimensions, *([column] if column in labels.frame else [])]
            there = np.isfinite(estimates.values).any(axis=0)
            has = [name for name, found in zip(DIMENSIONS, there, strict=True) if found]
            outputs = [*has, *estimates.categories]
            raise Wav2SmallError(_nothing_in_common(where, rated, outputs, column))

    def figures(
        self, member: np.ndarray, groups: np.ndarray | None, options: dict[str, Any]
    ) -> dict[str, Any]:
        """Figures of some clips: {"dimensions": ..., "categories": ...}."""
        rows = member & np.isfinite(self.values).all(axis=1)
        result: dict[str, Any] = {"dimensions": {}, "categories": {}}
        if self.dimensions and rows.any():
            own = None if groups is None else groups[rows]
            how: dict[str, Any] = {"dimensions": self.dimensions, "groups": own, **options}
            result["dimensions"] = metrics.summary(self.rated[rows], self.values[rows], **how)
        if self.codes is None or not (rows := member & self.known).any():
            return result
        true, guessed = self.codes[rows], self.guesses[rows]
        own = None if groups is None else groups[rows]
        seen = sorted({*true, *guessed}, key=lambda code: self.names[code])
        matrix = metrics.confusion(true, guessed, len(self.names))
        result["categories"] = {
            "names": [self.names[code] for code in seen],
            "clips": int(rows.sum()),
            "unknown": self.unknown,
            "figures": {
                name: metrics.bootstrap(true, guessed, metric, groups=own, **options)
                for name, metric in metrics.CATEGORY_METRICS.items()
            },
            "confusion": matrix[np.ix_(seen, seen)].tolist(),
        }
        return result


def _nothing_in_common(
    where: Any, rated: Sequence[str], outputs: Sequence[str], column: str
) -> str:
    dimensions = [name for name in outputs if name in DIMENSIONS]
    columns = dimensions + [PROBABILITY + name for name in outputs if name not in DIMENSIONS][:3]
    remedy = f"{PROBABILITY}NAME is compared with `{column}` (--categories)"
    if dimensions and column in rated:
        remedy = f"add --place-truth to place each `{column}` in arousal, dominance and valence"
    return (
        f"{where}: nothing to compare: it has {', '.join(rated)}, the subject "
        f"{', '.join(columns)}; {remedy}"
    )


def _placed(frame: pd.DataFrame, column: str, where: Any) -> pd.DataFrame:
    """Clips whose category has a place, with that place as their arousal, dominance and valence."""
    if column not in frame:
        raise Wav2SmallError(f"{where}: no column {column} for --place-truth; name --categories")
    places = resolve_name(_PLACES)()
    names = frame[column].map(common)
    known = names.isin(list(places))
    if not known.any():
        raise Wav2SmallError(f"{where}: no clip's {column} has a place; known: {', '.join(places)}")
    frame = frame[known]
    values = (np.array([places[name] for name in names[known]]) + 1) / 2
    return frame.assign(**dict(zip(DIMENSIONS, values.T, strict=True)))


def _speakers(frame: pd.DataFrame, used: np.ndarray) -> tuple[np.ndarray | None, str]:
    """The speaker of every clip where there are enough, and what the bootstrap draws."""
    if SPEAKER in frame:
        names = texts(frame[SPEAKER]).to_numpy()
        blank = np.isin(np.char.lower(names.astype(str)), _UNKNOWN)
        count = len(set(names[used & ~blank]))
        if count >= MIN_SPEAKERS:
            rows = np.arange(len(names)).astype(str)
            return np.where(blank, np.char.add("clip ", rows), names), f"{count} speakers"
    return None, "clips"


def _merged(
    labels: Labels, categories: str, options: dict[str, Any]
) -> tuple[Labels, dict[str, metrics.Interval]]:
    """One row per clip, the mean of its raters; and how well one rater agrees with the others."""
    frame = labels.frame
    clip = frame.groupby(KEYS, dropna=False, sort=False).ngroup().to_numpy()
    first = frame.drop_duplicates(KEYS).drop(columns=RATER)
    agreement = {}
    groups = texts(first[SPEAKER]).to_numpy() if SPEAKER in first else np.arange(len(first))
    if len(set(groups)) < MIN_SPEAKERS:
        groups = np.arange(len(first))
    for dimension in labels.dimensions:
        ratings = frame[dimension].to_numpy(dtype=np.float64)
        rated = np.isfinite(ratings)
        counts = np.bincount(clip, rated)
        sums = np.bincount(clip, np.where(rated, ratings, 0))
        first[dimension] = np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
        several = rated & (counts[clip] > 1)
        if several.any():
            others = (sums[clip] - ratings)[several] / (counts[clip][several] - 1)
            agreement[dimension] = metrics.bootstrap(
                ratings[several], others, metrics.ccc, groups=groups[clip[several]], **options
            )
    if categories in frame:
        votes = texts(frame[categories]).groupby(clip)
        first[categories] = votes.agg(lambda names: names.mode()[0]).to_numpy()
    return Labels(first, labels.root, labels.provenance, labels.rejected), agreement


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if not isinstance(value, metrics.Interval):
        return value
    plain = {key: of if np.isfinite(of) else None for key, of in value._asdict().items()}
    if None in plain.values():
        plain["reason"] = "too few clips, or ratings or estimates that do not vary"
    return plain
