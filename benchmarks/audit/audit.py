"""The audit: a bundle against the trust suite, beside a random model and other listeners."""

from __future__ import annotations

import fnmatch
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats

from wav2small import files, predictor
from wav2small.dimensions import DIMENSIONS
from wav2small.errors import Wav2SmallError

from . import corpus as corpora
from . import outputs as hearing
from . import perturbations, pitch, statistics, trust
from . import thresholds as gates

CURVES_ID = "robustness:curves"
WORST = 10  # clips named for each failed figure
LEVEL = 0.95  # of the intervals


def audit(
    bundle: str | os.PathLike[str],
    source: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    truth: str | os.PathLike[str] | None = None,
    scale: tuple[float, float] | None = None,
    root: str | None = None,
    by: Sequence[str] = (),
    teacher: str | None = None,
    beside: Sequence[str | os.PathLike[str]] = (),
    noise: str | None = None,
    rooms: str | None = None,
    only: Sequence[str] = (),
    require: Sequence[str] = (),
    baseline: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    seed: int = 0,
    resamples: int = 1000,
    processes: int | None = None,
) -> dict[str, Any]:
    """Run the trust suite.

    Args:
        bundle: bundle folder or `.onnx` file
        source: folder, file, table or audformat database; columns arousal, dominance, valence
            are the truth; emotion, speaker, sex, language and accent are used where they are
        output: JSON file of the result; a run that was stopped leaves `FILE.part`, and the same
            call goes on from there
        truth: another table with ratings of the source's files
        scale: (lowest, highest) rating of the truth, mapped to 0..1
        root: folder that the files of the source are relative to
        by: further columns whose groups are compared
        teacher: a teacher (see `wav2small teachers`) to stand beside the bundle
        beside: other bundles to stand beside it
        noise: folder of recorded noise
        rooms: folder of impulse responses
        only: patterns of tests to run, such as "robustness:gain*"; all by default
        require: patterns of tests that must pass, such as "robustness:gain*"
        baseline: result of a former audit of the same clips; nothing may be worse than it
            beyond its interval
        limit: number of clips drawn from the source
        seed: of every perturbation, drawing and resampling
        resamples: of the bootstrap behind the 95 % intervals
        processes: None = one per core

    Returns:
        a dictionary of JSON values: `bundle`, `source`, `corpus`, `settings`, `figures` (one per
        test, case and dimension), `curves`, `summary` (passes per test and group), `cannot_run`
        (tests without their data, and why), `small_groups`, `rejected`, `gate` (what `require`
        and `baseline` found), `clips` (clean estimates of every clip)

    Raises:
        Wav2SmallError: bundle, source, truth, baseline or patterns cannot be used
    """
    former = gates.read(baseline) if baseline is not None else None
    clips, unheard = corpora.gather(
        source, truth=truth, scale=scale, root=root, by=by, limit=limit, seed=seed
    )
    tests = _chosen(trust.table(tuple(by)), only)
    gates.check(require, tests)
    sounds = corpora.resources(clips, noise=noise, rooms=rooms, seed=seed)
    listeners = _listeners(bundle, teacher, beside)
    possible, cannot = _possible(tests, clips, sounds)
    wanted = trust.conditions(possible)
    curves = _matches(CURVES_ID, only)
    if curves:
        wanted += [one.name for one in perturbations.CURVES if _sounds_for(one, sounds)]
    if former is not None:
        gates.comparable(former, clips.digest(), seed, sounds.notes, baseline)
    journal = Path(f"{os.fspath(output)}.part") if output is not None else None
    heard = hearing.listen(
        clips, listeners, wanted, sounds, seed=seed, processes=processes, journal=journal
    )
    session = _Session(clips, heard, resamples, seed)
    figures = []
    for test in possible:
        found = list(session.figures(test))
        if found:
            figures += found
        else:
            cannot.append({"test": test.id, "reason": session.why_nothing(test)})
    result = {
        "bundle": {
            "name": listeners[0].name,
            "path": os.fspath(bundle),
            "sha256": files.sha256(predictor.model_path(bundle)),
        },
        "source": os.fspath(source),
        "corpus": {
            "digest": clips.digest(),
            "clips": len(clips),
            "heard": len(heard.rows),
            "truth": clips.truth_name or None,
            "groups": {
                column: {name: int(member.sum()) for name, member in groups.items()}
                for column, groups in session.groups.items()
            },
            "notes": clips.notes + sounds.notes,
        },
        "settings": {
            "seed": seed,
            "limit": limit,
            "resamples": session.draws,
            "random_models": session.models,
            "level": LEVEL,
            "listeners": [vars(listener) for listener in listeners],
            "sounds": sounds.notes,
            "options": {
                name: os.fspath(value)
                for name, value in (("truth", truth), ("noise", noise), ("rooms", rooms))
                if value is not None
            },
        },
        "figures": figures,
        "curves": list(session.curves()) if curves else [],
        "summary": _summary(figures, [listener.name for listener in listeners[1:]]),
        "cannot_run": cannot,
        "small_groups": session.small_groups,
        "rejected": [{"file": file, "reason": why} for file, why in [*unheard, *heard.rejected]],
        "clips": session.clips(),
    }
    result["gate"] = gates.judge(result, require=require, former=former)
    result = _plain(result)
    if output is not None:
        with files.atomic(output) as temporary:
            temporary.write_text(json.dumps(result, indent=1), encoding="utf-8")
        assert journal is not None
        journal.unlink(missing_ok=True)
    return result


class _Session:
    """Figures of what was heard."""

    def __init__(self, clips: corpora.Corpus, heard: hearing.Heard, resamples: int, seed: int):
        self.corpus = clips.take(heard.rows)
        self.heard = heard
        self.names = list(heard.estimates)
        count = len(heard.rows)
        # Weights are (draws, clips): a large corpus needs fewer draws, and memory stays flat.
        self.draws = min(resamples, max(200, 20_000_000 // count))
        self.models = min(100, max(10, 5_000_000 // count))
        self.weights = statistics.resamples(count, self.draws, seed=seed)
        rng = np.random.default_rng(seed)
        self.shuffles = [
            np.argsort(rng.random((self.models, count), dtype=np.float32), axis=1)
            for _ in ("clean", "changed")
        ]
        self.small_groups: list[dict[str, Any]] = []
        self.groups = self._groups()

    def _groups(self) -> dict[str, dict[str, np.ndarray]]:
        columns = {name: values for name, values in self.corpus.columns.items()}
        columns.pop("emotion", None)
        columns["pitch"] = self._pitch_groups()
        result: dict[str, dict[str, np.ndarray]] = {}
        for column, values in columns.items():
            result[column] = {}
            for name in sorted(set(values) - {""}):
                member = values == name
                if member.sum() >= trust.MIN_CLIPS:
                    result[column][name] = member
                else:
                    self.small_groups.append(
                        {"column": column, "group": str(name), "clips": int(member.sum())}
                    )
        return result

    def _pitch_groups(self) -> np.ndarray:
        """Of each clip, by the mean pitch of its speaker where speakers are known."""
        f0_hz = self.heard.f0_hz.copy()
        f0_hz[(f0_hz < pitch.LOWEST_HZ) | (f0_hz > pitch.HIGHEST_HZ)] = np.nan
        speakers = self.corpus.columns.get("speaker")
        if speakers is not None:
            for speaker in set(speakers) - {""}:
                member = speakers == speaker
                if np.isfinite(f0_hz[member]).any():
                    f0_hz[member] = np.nanmean(f0_hz[member])
        return np.array([pitch.group(value) or "" for value in f0_hz])

    def _view(
        self, test: trust.Test | None, dimension: int, *, listener: str | None, weights: np.ndarray,
        condition: str | None = None,
    ) -> trust.View:  # fmt: skip
        """`listener` None = the random models, which shuffle what the bundle says."""
        estimates = self.heard.estimates[listener or self.names[0]][:, :, dimension]
        clean = estimates[:, 0]
        condition = condition or (test.condition if test else None)
        changed = None
        if condition is not None:
            changed = estimates[:, self.heard.conditions.index(condition)]
        if listener is None:
            changed = None if changed is None else clean[self.shuffles[1]]
            clean = clean[self.shuffles[0]]
        return trust.View(
            estimate=clean,
            changed=changed,
            truth=None if self.corpus.truth is None else self.corpus.truth[:, dimension],
            weights=weights,
            groups=self.groups,
            emotion=self.corpus.columns.get("emotion"),
            dimension=DIMENSIONS[dimension],
            column=test.column if test else None,
        )

    def figures(self, test: trust.Test) -> Any:
        """The figures of one test: one per dimension and case."""
        once = np.ones(len(self.corpus))
        if test.column is not None and len(self.groups.get(test.column, ())) < 2:
            return
        if "speaker" in test.needs and len(self.groups.get("speaker", ())) < 3:
            return
        for number, dimension in enumerate(DIMENSIONS):
            truth = self.corpus.truth
            if "truth" in test.needs and (
                truth is None or np.isfinite(truth[:, number]).sum() < trust.MIN_CLIPS
            ):
                continue
            own = self._view(test, number, listener=self.names[0], weights=once)
            values = dict(test.figures(own))
            drawn = dict(
                test.figures(self._view(test, number, listener=self.names[0], weights=self.weights))
            )
            random = dict(test.figures(self._view(test, number, listener=None, weights=once)))
            others = {
                name: dict(test.figures(self._view(test, number, listener=name, weights=once)))
                for name in self.names[1:]
            }
            for case, value in values.items():
                low, high = _interval(test, float(value), drawn[case], groups=len(values))
                passed = bool(test.passes(value))
                figure = {
                    "group": test.group,
                    "test": test.name,
                    "metric": test.metric,
                    "origin": test.origin,
                    "dimension": dimension,
                    "case": case,
                    "value": float(value),
                    "low": low,
                    "high": high,
                    "better": test.better,
                    "threshold": test.threshold,
                    "passed": passed,
                    "certain": _certain(test, low, high),
                    "random": {
                        "value": _mean(random[case]),
                        "passes": float(np.mean(test.passes(random[case]))),
                    },
                    "beside": {
                        name: {"value": float(one[case]), "passed": bool(test.passes(one[case]))}
                        for name, one in others.items()
                    },
                }
                if not passed:
                    figure["worst"] = self._worst(test, own, case)
                yield figure

    def _worst(self, test: trust.Test, view: trust.View, case: str) -> list[dict[str, Any]]:
        bad = trust.badness(test, view, case)
        rows = [int(row) for row in np.argsort(-bad, kind="stable")[:WORST] if bad[row] > -np.inf]
        worst = []
        for row in rows:
            entry = {**self._clip(row), "by": float(bad[row]), "clean": float(view.estimate[row])}
            if view.changed is not None:
                entry["changed"] = float(view.changed[row])
            if view.truth is not None and np.isfinite(view.truth[row]):
                entry["truth"] = float(view.truth[row])
            worst.append(entry)
        return worst

    def why_nothing(self, test: trust.Test) -> str:
        """Why a test that has its columns gave no figure."""
        if test.column is not None:
            found = len(self.groups.get(test.column, ()))
            return f"fewer than two groups of {trust.MIN_CLIPS} clips by {test.column} ({found})"
        if "speaker" in test.needs:
            return f"fewer than three speakers with {trust.MIN_CLIPS} clips"
        if "emotion" in test.needs:
            return f"no emotion that is placed in A/D/V space has {trust.MIN_CLIPS} clips"
        return f"fewer than {trust.MIN_CLIPS} rated clips"

    def curves(self) -> Any:
        """Degradation over the signal-to-noise ratio, for every listener."""
        for condition in perturbations.CURVES:
            if condition.name not in self.heard.conditions:
                continue
            noise, snr = condition.name.split("@")
            for number, dimension in enumerate(DIMENSIONS):
                for name in [*self.names, None]:
                    yield {
                        "noise": noise,
                        "snr_db": float(snr.removesuffix("dB")),
                        "dimension": dimension,
                        "listener": name or "random model",
                        **self._curve_point(condition.name, number, name),
                    }

    def _curve_point(self, condition: str, number: int, listener: str | None) -> dict[str, Any]:
        once = np.ones(len(self.corpus))
        view = self._view(None, number, listener=listener, weights=once, condition=condition)
        assert view.changed is not None
        same = (np.abs(view.changed - view.estimate) < trust.UNCHANGED).astype(float)
        point = {"unchanged": float(statistics.mean(same, once).mean())}
        if listener is not None:
            drawn = statistics.mean(same, self.weights)
            tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
            point["low"], point["high"] = map(float, np.quantile(drawn, tails))
            point["ccc_with_clean"] = float(statistics.ccc(view.changed, view.estimate, once))
        truth = view.truth
        if truth is not None and np.isfinite(truth).sum() >= trust.MIN_CLIPS:
            rated = np.isfinite(truth)
            ccc = statistics.ccc(view.changed[..., rated], truth[rated], once[rated])
            point["ccc_with_truth"] = _mean(np.atleast_1d(ccc))
        return point

    def _clip(self, row: int) -> dict[str, Any]:
        start, end = self.corpus.starts[row], self.corpus.ends[row]
        entry: dict[str, Any] = {"file": self.corpus.files[row]}
        if start > 0 or np.isfinite(end):
            entry |= {"start": float(start), "end": float(end)}
        return entry

    def clips(self) -> list[dict[str, Any]]:
        """Every clip with its clean estimates by listener, its truth and its columns."""
        rows = []
        for row in range(len(self.corpus)):
            entry = self._clip(row)
            entry["path"] = self.corpus.paths[row]
            entry["estimates"] = {
                name: [round(float(value), 4) for value in self.heard.estimates[name][row, 0]]
                for name in self.names
            }
            if self.corpus.truth is not None:
                entry["truth"] = [round(float(value), 4) for value in self.corpus.truth[row]]
            entry |= {name: str(values[row]) for name, values in self.corpus.columns.items()}
            rows.append(entry)
        return rows


def _interval(
    test: trust.Test, value: float, drawn: np.ndarray, *, groups: int
) -> tuple[float, float]:
    """95 % bootstrap interval; for groups Bonferroni's, so that all hold at once.

    Corrected tails are too thin for quantiles of a thousand draws, so those intervals are
    normal, with the bootstrap's deviation.
    """
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) < 2:
        return float("nan"), float("nan")
    if test.group == "fairness":
        width = scipy.stats.norm.ppf(1 - (1 - LEVEL) / (2 * groups)) * drawn.std(ddof=1)
        return float(value - width), float(value + width)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _mean(values: np.ndarray) -> float:
    """Mean of the finite values; NaN where there are none (a constant has no correlation)."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")


def _certain(test: trust.Test, low: float, high: float) -> bool:
    """Whether the whole interval lies on one side of the threshold."""
    if test.better == "within":
        inside = -test.threshold < low and high < test.threshold
        return inside or low >= test.threshold or high <= -test.threshold
    return low > test.threshold or high < test.threshold


def _listeners(
    bundle: str | os.PathLike[str],
    teacher: str | None,
    beside: Sequence[str | os.PathLike[str]],
) -> list[hearing.Listener]:
    listeners: list[hearing.Listener] = []
    for path in [bundle, *beside]:
        place = Path(path).resolve()
        name = place.stem if place.suffix == ".onnx" else place.name
        twins = sum(one.name.split(" #")[0] == name for one in listeners)
        name = f"{name} #{twins + 1}" if twins else name
        listeners.append(hearing.Listener(name, "bundle", os.fspath(path)))
    if teacher:
        listeners.append(hearing.Listener(f"teacher {teacher}", "teacher", teacher))
    return listeners


def _chosen(tests: list[trust.Test], only: Sequence[str]) -> list[trust.Test]:
    known = [*(test.id for test in tests), CURVES_ID]
    for pattern in only:
        if not any(fnmatch.fnmatch(name, pattern) for name in known):
            raise Wav2SmallError(f"--only {pattern}: no such test; see wav2small audit --list")
    return [test for test in tests if _matches(test.id, only)]


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def _possible(
    tests: list[trust.Test], clips: corpora.Corpus, sounds: perturbations.Resources
) -> tuple[list[trust.Test], list[dict[str, str]]]:
    """Tests whose data are there, and why the others cannot run."""
    missing = {
        "truth": None if clips.truth is not None else "no ratings; name a table with --truth",
        "f0": None,
        "backgrounds": None if sounds.backgrounds else "no recorded noise; give --noise FOLDER",
        "events": None if sounds.events else "no recorded short noise (< 2 s); give --noise FOLDER",
    }
    possible, cannot = [], []
    for test in tests:
        reasons = [
            missing[need]
            if need in missing
            else None
            if need in clips.columns
            else f"the source has no column {need}"
            for need in test.needs
        ]
        reason = "; ".join(reason for reason in reasons if reason)
        if reason:
            cannot.append({"test": test.id, "reason": reason})
        else:
            possible.append(test)
    return possible, cannot


def _sounds_for(condition: perturbations.Condition, sounds: perturbations.Resources) -> bool:
    return condition.source is None or bool(sounds[condition.source])


def _summary(figures: list[dict[str, Any]], others: list[str]) -> list[dict[str, Any]]:
    """Passes per test and, as test "all", per group. Groups are never added up."""
    rows = []
    for group in dict.fromkeys(figure["group"] for figure in figures):
        members = [figure for figure in figures if figure["group"] == group]
        for test in ["all", *dict.fromkeys(figure["test"] for figure in members)]:
            chosen = [figure for figure in members if test in ("all", figure["test"])]
            rows.append(
                {
                    "group": group,
                    "test": test,
                    "figures": len(chosen),
                    "passed": sum(figure["passed"] for figure in chosen),
                    "certain": sum(figure["certain"] for figure in chosen),
                    "random_passes": float(
                        np.mean([figure["random"]["passes"] for figure in chosen])
                    ),
                    "beside": {
                        name: sum(figure["beside"][name]["passed"] for figure in chosen)
                        for name in others
                    },
                }
            )
    return rows


def _plain(value: Any) -> Any:
    """JSON has no NaN: unknown is null."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
