"""The trust suite as one table, and the figures behind each of its rows.

Tests and thresholds are those of audEERING's ser-tests ("method tests"); where a row is this
project's own, its origin is "wav2small".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import perturbations, statistics

MIN_CLIPS = 10  # of a group; figures over fewer are too uncertain
UNCHANGED = 0.05  # largest difference of an estimate that counts as none


@dataclass(frozen=True)
class Test:
    """One row of the table."""

    group: str  # correctness, fairness, robustness or adverse
    name: str  # unique within the group
    metric: str  # what is measured
    better: str  # "above" or "below" the threshold; "within" = its absolute value below
    threshold: float  # what the figure is compared with
    #: truth, emotion, speaker, f0, the name of a column, or of sounds to disturb with
    needs: tuple[str, ...]
    #: function (View) -> (case, value) pairs
    figures: Callable[[View], Iterator[tuple[str, np.ndarray]]]
    condition: str | None = None  # the disturbance, for robustness and adverse
    column: str | None = None  # whose groups are compared, for fairness
    origin: str = "ser-tests"  # "ser-tests" or "wav2small"

    @property
    def id(self) -> str:
        """Such as `robustness:gain-unchanged`."""
        return f"{self.group}:{self.name}"

    def passes(self, value: Any) -> Any:
        """Whether figures reach the threshold; NaN never does."""
        if self.better == "above":
            return value > self.threshold
        return (np.abs(value) if self.better == "within" else value) < self.threshold


@dataclass
class View:
    """What a test looks at: one dimension, one model, one weighting."""

    estimate: np.ndarray  # of the clean clips, (clips,) or (models, clips)
    changed: np.ndarray | None  # of the disturbed clips, the same shape; None without a disturbance
    truth: np.ndarray | None  # (clips,), NaN = not rated; None = no truth
    weights: np.ndarray  # (clips,) or (draws, clips)
    #: column -> {name: boolean (clips,)} of groups that are large enough
    groups: dict[str, dict[str, np.ndarray]]
    emotion: np.ndarray | None  # (clips,) of str, or None
    dimension: str  # name
    column: str | None = None  # of a fairness test

    def rated(self, rows: np.ndarray | None = None) -> tuple[Any, ...]:
        """estimate, truth and weights of the rated clips (among `rows`)."""
        assert self.truth is not None
        chosen = np.isfinite(self.truth)
        if rows is not None:
            chosen = chosen & rows
        return self.estimate[..., chosen], self.truth[chosen], self.weights[..., chosen]


#: Where ser-tests expects the clips of an emotion, after Fontaine 2007, Hoffmann 2012,
#: Gillioz 2016 and Verma 2017.
EXPECTED = {
    ("arousal", "low"): "boredom sadness",
    ("arousal", "neutral"): "neutral",
    ("arousal", "high"): "anger fear surprise",
    ("dominance", "low"): "fear sadness",
    ("dominance", "neutral"): "happiness neutral surprise",
    ("dominance", "high"): "anger",
    ("valence", "low"): "anger disgust fear frustration sadness",
    ("valence", "neutral"): "boredom neutral",
    ("valence", "high"): "happiness",
}
RANGES = {"low": (-np.inf, 0.45), "neutral": (0.3, 0.7), "high": (0.55, np.inf)}


def _agreement(function: Callable[..., np.ndarray]) -> Callable[[View], Any]:
    return lambda view: [("", function(*view.rated()))]


def _consistency(view: View) -> Iterator[tuple[str, np.ndarray]]:
    assert view.emotion is not None
    for place, (low, high) in RANGES.items():
        for category in EXPECTED[view.dimension, place].split():
            member = view.emotion == category
            if member.sum() < MIN_CLIPS:
                continue
            estimate = view.estimate[..., member]
            inside = ((estimate >= low) & (estimate <= high)).astype(float)
            yield f"{category} {place}", statistics.mean(inside, view.weights[..., member])


def _speaker_means(view: View) -> tuple[np.ndarray, np.ndarray]:
    assert view.truth is not None
    numbers = np.full(len(view.truth), -1)
    for number, member in enumerate(view.groups["speaker"].values()):
        numbers[member & np.isfinite(view.truth)] = number
    chosen = numbers >= 0
    weights = view.weights[..., chosen]
    groups = np.unique(numbers[chosen], return_inverse=True)[1]
    estimate = statistics.group_means(view.estimate[..., chosen], groups, weights)
    return estimate, statistics.group_means(view.truth[chosen], groups, weights)


def _speaker_average(view: View) -> Iterator[tuple[str, np.ndarray]]:
    estimate, truth = _speaker_means(view)
    error = np.abs(estimate - truth)
    known = np.isfinite(error)  # a draw may hold no clip of a speaker
    yield "", statistics.mean(np.where(known, error, 0), known.astype(float))


def _speaker_ranking(view: View) -> Iterator[tuple[str, np.ndarray]]:
    estimate, truth = _speaker_means(view)
    yield "", statistics.spearman(estimate, truth)


def _group_ccc(view: View) -> Iterator[tuple[str, np.ndarray]]:
    assert view.column is not None and view.truth is not None
    overall = statistics.ccc(*view.rated())
    for name, member in view.groups[view.column].items():
        if (member & np.isfinite(view.truth)).sum() >= MIN_CLIPS:
            yield name, statistics.ccc(*view.rated(member)) - overall


def _group_mean(view: View) -> Iterator[tuple[str, np.ndarray]]:
    """Of the errors where truth is known: what groups truly differ in is no unfairness."""
    assert view.column is not None
    estimate, weights = view.estimate, view.weights
    known = np.ones(estimate.shape[-1], dtype=bool)
    if view.truth is not None:
        known = np.isfinite(view.truth)
        estimate = estimate - np.where(known, view.truth, 0)
    overall = statistics.mean(estimate[..., known], weights[..., known])
    for name, member in view.groups[view.column].items():
        chosen = member & known
        if chosen.sum() >= MIN_CLIPS:
            yield name, statistics.mean(estimate[..., chosen], weights[..., chosen]) - overall


def _unchanged(view: View) -> Iterator[tuple[str, np.ndarray]]:
    assert view.changed is not None
    same = (np.abs(view.changed - view.estimate) < UNCHANGED).astype(float)
    yield "", statistics.mean(same, view.weights)


def _ccc_change(view: View) -> Iterator[tuple[str, np.ndarray]]:
    assert view.changed is not None and view.truth is not None
    clean, truth, weights = view.rated()
    changed = view.changed[..., np.isfinite(view.truth)]
    yield "", statistics.ccc(changed, truth, weights) - statistics.ccc(clean, truth, weights)


def _correctness() -> list[Test]:
    rows = [
        ("ccc", "CCC", "above", 0.50, statistics.ccc),
        ("pcc", "Pearson correlation", "above", 0.50, statistics.pcc),
        ("mae", "mean absolute error", "below", 0.10, statistics.mae),
        ("distribution", "Jensen-Shannon distance", "below", 0.20, statistics.jensen_shannon),
    ]
    tests = [
        Test("correctness", name, metric, better, threshold, ("truth",), _agreement(function))
        for name, metric, better, threshold, function in rows
    ]
    return [
        *tests,
        Test("correctness", "consistency", "share of an emotion's clips in its range", "above",
             0.75, ("emotion",), _consistency),
        Test("correctness", "speaker-average", "mean absolute error of speakers' means", "below",
             0.10, ("truth", "speaker"), _speaker_average),
        Test("correctness", "speaker-ranking", "Spearman correlation of speakers' means", "above",
             0.70, ("truth", "speaker"), _speaker_ranking),
    ]  # fmt: skip


#: column -> threshold of the difference of CCC, of means, origin
_FAIRNESS = {
    "sex": (0.075, 0.075, "ser-tests"),
    "pitch": (0.10, 0.075, "ser-tests"),
    "language": (0.075, 0.03, "ser-tests"),
    "accent": (0.075, 0.075, "ser-tests"),
    "speaker": (0.075, 0.075, "wav2small"),
}


def _fairness(column: str) -> list[Test]:
    ccc, mean, origin = _FAIRNESS.get(column, (0.075, 0.075, "wav2small"))
    needs = ("f0",) if column == "pitch" else (column,)
    return [
        Test("fairness", f"{column}-ccc", "CCC of the group - CCC of all", "within", ccc,
             ("truth", *needs), _group_ccc, column=column, origin=origin),
        Test("fairness", f"{column}-mean", "mean of the group - mean of all", "within", mean,
             needs, _group_mean, column=column, origin=origin),
    ]  # fmt: skip


def _robustness() -> list[Test]:
    small = [condition.name for condition in perturbations.SMALL]
    others = {condition.name: 0.90 for condition in perturbations.BACKGROUND}
    others |= {"phone": 0.50, "room": 0.80, "tilt-down": 0.80, "tilt-up": 0.80}
    others |= {"dropouts": 0.80, "level": 0.90}
    own = {"pink-noise-20dB", "level", "dropouts"}
    tests: list[Test] = []
    for name, threshold in {**dict.fromkeys(small, 0.95), **others}.items():
        origin = "wav2small" if name in own else "ser-tests"
        drop = None if name in small else -0.05
        tests += _disturbed("robustness", name, threshold, drop, origin)
    # Chosen: half of the estimates survive, and the agreement with people hardly suffers.
    for one in perturbations.ADVERSE:
        tests += _disturbed("adverse", one.name, 0.5, -0.1, "wav2small")
    return tests


def _disturbed(
    group: str, name: str, unchanged: float, drop: float | None, origin: str
) -> Iterator[Test]:
    """Tests of a disturbance: how many estimates stay, and how much of the CCC (None = no test)."""
    sounds = perturbations.CONDITIONS[name].sounds
    needs = () if sounds in ("", "voices", "rooms") else (sounds,)
    yield Test(group, f"{name}-unchanged", "share of estimates changed by < .05", "above",
               unchanged, needs, _unchanged, condition=name, origin=origin)  # fmt: skip
    if drop is not None:
        yield Test(group, f"{name}-ccc", "change of CCC", "above", drop,
                   ("truth", *needs), _ccc_change, condition=name, origin=origin)  # fmt: skip


def table(columns: tuple[str, ...] = ()) -> list[Test]:
    """All tests; those of fairness for the known columns and for `columns`."""
    names = dict.fromkeys([*_FAIRNESS, *columns])
    return [*_correctness(), *(t for name in names for t in _fairness(name)), *_robustness()]


def badness(test: Test, view: View, case: str) -> np.ndarray:
    """How much each clip contributes to a failure, (clips,); -inf = not at all.

    Args:
        test: that failed
        view: of the audited bundle, with estimates (clips,)
        case: of the figure
    """
    estimate, nothing = view.estimate, np.full(len(view.estimate), -np.inf)
    if test.figures is _unchanged:
        assert view.changed is not None
        return np.abs(view.changed - estimate)
    if test.figures is _ccc_change:
        assert view.changed is not None and view.truth is not None
        error = np.abs(view.changed - view.truth) - np.abs(estimate - view.truth)
        return np.where(np.isfinite(error), error, -np.inf)
    if test.figures is _consistency:
        category, place = case.rsplit(" ", 1)
        low, high = RANGES[place]
        outside = np.maximum(low - estimate, estimate - high)
        return np.where((view.emotion == category) & (outside > 0), outside, -np.inf)
    error = nothing if view.truth is None else np.abs(estimate - view.truth)
    error = np.where(np.isfinite(error), error, -np.inf)
    if test.column is None:
        return error
    member = view.groups[test.column][case]
    if test.figures is _group_mean:
        # The clips that pull the group away, in the direction in which it is off.
        pull = estimate if view.truth is None else estimate - np.nan_to_num(view.truth, nan=0)
        known = member if view.truth is None else member & np.isfinite(view.truth)
        pull = pull - pull[known | ~member].mean()
        sign = np.sign(pull[known].mean())
        return np.where(known, sign * pull, -np.inf)
    return np.where(member, error, -np.inf)


def conditions(tests: list[Test]) -> list[str]:
    """Disturbances that the tests need, each once, with those of the curves."""
    needed = dict.fromkeys(test.condition for test in tests if test.condition)
    return [name for name in needed if name]
