"""Figures of an audit: every test, case and dimension with its interval and its comparisons."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats

from wav2small import metrics
from wav2small.dimensions import DIMENSIONS

from . import perturbations, pitch, statistics, trust
from .corpus import Corpus
from .outputs import Outputs

RANDOM, PERFECT = "random model", "perfect model"
PERFECT_DRAWS = 20  # of the perfect model, within the step of the ratings (chosen)
WORST = 10  # clips named for each failed figure (chosen)
LEVEL = 0.95  # of the intervals


class Figures:
    """Computes figures from the outputs of the models, of which the first is the audited bundle.

    Two models exist only here. The random model gives the bundle's own answers, shuffled over
    the clips. The perfect model knows what a rating on a scale with few levels was rounded from;
    a test that it fails is no test of a model. The seed is of the bootstrap, of `resamples`, and of
    the shuffles.
    """

    def __init__(self, corpus: Corpus, outputs: Outputs, *, resamples: int, seed: int):
        self.corpus = corpus.take(outputs.rows)
        self.outputs = outputs
        self.names = list(outputs.values)
        count = len(self.corpus)
        # Weights are (draws, clips): a large corpus needs fewer draws, and memory stays flat.
        self.draws = min(resamples, max(200, 20_000_000 // count))
        self.random_models = min(100, max(10, 5_000_000 // count))
        self.once = np.ones(count)
        self.weights = statistics.weights(count, self.draws, seed=seed)
        rng = np.random.default_rng(seed)
        self._shuffles = [
            np.argsort(rng.random((self.random_models, count), dtype=np.float32), axis=1)
            for _ in ("clean", "changed")
        ]
        self._rounding = rng.uniform(-0.5, 0.5, (PERFECT_DRAWS, count))
        self.small_groups: list[dict[str, Any]] = []
        self.groups = self._groups()

    def of(self, test: trust.Test) -> tuple[list[dict[str, Any]], str]:
        """A figure per dimension and case; why some or all are missing, "" = none is."""
        groups = len(self.groups.get(test.column or "speaker", ()))
        if test.column and groups < 2:
            few = f"fewer than two groups of {trust.MIN_CLIPS} clips"
            return [], f"{few} by {test.column} ({groups})"
        if "speaker" in test.needs and groups < 3:
            return [], f"fewer than three speakers with {trust.MIN_CLIPS} clips"
        figures: list[dict[str, Any]] = []
        impossible: list[str] = []
        rated = "truth" in test.needs
        for number, dimension in enumerate(DIMENSIONS):
            if rated and not self._is_rated(number):
                continue
            names = [*self.names, RANDOM, *([PERFECT] if rated else ())]
            views = {n: self._view(n, number, test.condition, test.column) for n in names}
            values = {name: dict(test.figures(view)) for name, view in views.items()}
            own = views[self.names[0]]
            drawn = dict(test.figures(replace(own, weights=self.weights)))
            for case in drawn:
                each = {name: values[name][case] for name in names}
                if rated and np.mean(test.passes(each[PERFECT])) < 0.5:
                    name = f"{dimension}, {case}" if case else dimension
                    impossible.append(f"{_mean(each[PERFECT]):.3f} ({name})")
                    continue
                figure = self._figure(test, each, drawn[case], groups=len(drawn))
                figure |= {"dimension": dimension, "case": case}
                if not figure["passed"]:
                    figure["worst"] = self._worst(test, own, case)
                figures.append(figure)
        if impossible:
            listed = ", ".join(impossible)
            return figures, f"impossible with these ratings, where a perfect model has {listed}"
        if figures:
            return figures, ""
        if "emotion" in test.needs:
            return [], f"no emotion that is placed in A/D/V space has {trust.MIN_CLIPS} clips"
        return [], f"fewer than {trust.MIN_CLIPS} rated clips"

    def _is_rated(self, dimension: int) -> bool:
        truth = self.corpus.truth
        return truth is not None and np.isfinite(truth[:, dimension]).sum() >= trust.MIN_CLIPS

    def _figure(
        self, test: trust.Test, values: dict[str, Any], drawn: np.ndarray, *, groups: int
    ) -> dict[str, Any]:
        """One figure: `values` by model, `drawn` of each bootstrap sample."""
        passed = {name: test.passes(value) for name, value in values.items()}
        own, value = self.names[0], float(values[self.names[0]])
        low, high = _interval(test, drawn, value=value, groups=groups, count=len(self.corpus))
        return {
            "group": test.group,
            "test": test.name,
            "metric": test.metric,
            "origin": test.origin,
            **{"value": value, "low": low, "high": high},
            "better": test.better,
            "threshold": test.threshold,
            "passed": bool(passed[own]),
            "certain": _certain(test, low, high),
            "random": {"value": _mean(values[RANDOM]), "passes": float(np.mean(passed[RANDOM]))},
            "others": {
                name: {"value": float(values[name]), "passed": bool(passed[name])}
                for name in self.names[1:]
            },
        }

    def curves(self) -> list[dict[str, Any]]:
        """Degradation over the signal-to-noise ratio, for every model."""
        points = []
        for condition in perturbations.CURVES:
            if condition.name not in self.outputs.conditions:
                continue
            noise, ratio = condition.name.split("@")
            for number, dimension in enumerate(DIMENSIONS):
                for name in [*self.names, RANDOM]:
                    point = {"noise": noise, "snr_db": float(ratio.removesuffix("dB"))}
                    point |= {"dimension": dimension, "model": name}
                    points.append(point | self._point(name, number, condition.name))
        return points

    def clips(self) -> list[dict[str, Any]]:
        """Every clip with its clean estimates by model, its truth and its columns."""
        rows = []
        for row in range(len(self.corpus)):
            known = self.corpus.frame.iloc[row]
            entry = self._clip(row) | {"path": known["path"], "estimates": {}}
            for name in self.names:
                entry["estimates"][name] = self.outputs.values[name][row, 0].round(4).tolist()
            if self.corpus.truth is not None:
                entry["truth"] = self.corpus.truth[row].round(4).tolist()
            rows.append(entry | {name: known[name] for name in self.corpus.columns})
        return rows

    def _groups(self) -> dict[str, dict[str, np.ndarray]]:
        """Column -> group -> (clips,) of bool, of the groups that are large enough."""
        columns = {name: self.corpus.frame[name].to_numpy() for name in self.corpus.columns}
        columns.pop("emotion", None)
        speakers = self.corpus.frame.get("speaker")
        columns["pitch"] = pitch.groups(pd.Series(self.outputs.f0_hz), speakers)
        groups: dict[str, dict[str, np.ndarray]] = {}
        for column, values in columns.items():
            groups[column] = {}
            for name in sorted(set(values) - {""}):
                member = values == name
                if (clips := int(member.sum())) >= trust.MIN_CLIPS:
                    groups[column][name] = member
                else:
                    small = {"column": column, "group": name, "clips": clips}
                    self.small_groups.append(small)
        return groups

    def _view(
        self, model: str, dimension: int, condition: str | None = None, column: str | None = None
    ) -> trust.View:
        truth = None if self.corpus.truth is None else self.corpus.truth[:, dimension]
        changed = None
        if model == PERFECT:
            assert truth is not None
            # What the ratings were rounded from; the lowest and the highest have half the room.
            estimate = np.abs(truth + statistics.rating_step(truth) * self._rounding)
            estimate = 1 - np.abs(1 - estimate)
            changed = estimate if condition else None
        else:
            values = self.outputs.values[self.names[0] if model == RANDOM else model]
            estimate = values[:, 0, dimension]
            if condition:
                changed = values[:, self.outputs.conditions.index(condition), dimension]
            if model == RANDOM:
                changed = estimate[self._shuffles[1]] if condition else None
                estimate = estimate[self._shuffles[0]]
        emotion = "emotion" in self.corpus.columns
        return trust.View(
            estimate=estimate,
            changed=changed,
            truth=truth,
            weights=self.once,
            groups=self.groups,
            emotion=self.corpus.frame["emotion"].to_numpy() if emotion else None,
            dimension=DIMENSIONS[dimension],
            column=column,
        )

    def _worst(self, test: trust.Test, view: trust.View, case: str) -> list[dict[str, Any]]:
        bad = trust.badness(test, view, case)
        worst = []
        for row in np.argsort(-bad, kind="stable")[:WORST]:
            if bad[row] == -np.inf:
                break
            entry = self._clip(row) | {"by": float(bad[row]), "clean": float(view.estimate[row])}
            if view.changed is not None:
                entry["changed"] = float(view.changed[row])
            if view.truth is not None and np.isfinite(view.truth[row]):
                entry["truth"] = float(view.truth[row])
            worst.append(entry)
        return worst

    def _point(self, model: str, dimension: int, condition: str) -> dict[str, Any]:
        view = self._view(model, dimension, condition)
        assert view.changed is not None
        same = (np.abs(view.changed - view.estimate) < trust.UNCHANGED).astype(float)
        point = {"unchanged": float(statistics.mean(same, self.once).mean())}
        if model != RANDOM:
            drawn = statistics.mean(same, self.weights)
            interval = metrics.interval(0.0, drawn, count=len(same), level=LEVEL)
            point |= {"low": interval.low, "high": interval.high}
            ccc = statistics.ccc(view.changed, view.estimate, self.once)
            point["ccc_with_clean"] = float(ccc)
        if self._is_rated(dimension):
            changed, truth, once = replace(view, estimate=view.changed).rated()
            point["ccc_with_truth"] = _mean(statistics.ccc(changed, truth, once))
        return point

    def _clip(self, row: int) -> dict[str, Any]:
        clip: Any = self.corpus.frame.iloc[row]
        if clip.start > 0 or np.isfinite(clip.end):
            return {"file": clip.file, "start": float(clip.start), "end": float(clip.end)}
        return {"file": clip.file}


def _interval(
    test: trust.Test, drawn: np.ndarray, *, value: float, groups: int, count: int
) -> tuple[float, float]:
    """95 % bootstrap interval; for groups Bonferroni's, so that all hold at once.

    Corrected tails are too thin for quantiles of a thousand draws, so those intervals are
    normal, with the bootstrap's deviation.
    """
    if test.group != "fairness":
        return metrics.interval(value, drawn, count=count, level=LEVEL)[1:]
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) < 2:
        return float("nan"), float("nan")
    width = scipy.stats.norm.ppf(1 - (1 - LEVEL) / (2 * groups)) * drawn.std(ddof=1)
    return float(value - width), float(value + width)


def _certain(test: trust.Test, low: float, high: float) -> bool:
    """Whether the full interval is on one side of the threshold."""
    if test.better == "within":
        inside = -test.threshold < low and high < test.threshold
        return inside or low >= test.threshold or high <= -test.threshold
    return low > test.threshold or high < test.threshold


def _mean(values: np.ndarray) -> float:
    """Mean of the finite values; NaN where there are none (a constant has no correlation)."""
    finite = np.atleast_1d(values)[np.isfinite(np.atleast_1d(values))]
    return float(finite.mean()) if len(finite) else float("nan")
