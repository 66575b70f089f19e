"""The audit: a bundle against the trust suite, with a random model and others for comparison."""

from __future__ import annotations

import fnmatch
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wav2small import files, predictor
from wav2small.benchmarks.models import short_names
from wav2small.errors import Wav2SmallError

from . import outputs, perturbations, thresholds, trust
from .corpus import ClipOptions, Corpus, gather, gather_sounds
from .figures import LEVEL, Figures
from .outputs import ModelSpec

CURVES_ID = "robustness:curves"


@dataclass(frozen=True)
class CompareOptions:
    """What the bundle is compared with.

    Attributes:
        bundles: other bundles to compare with
        teacher: teacher to compare with the bundle. See `wav2small teachers`
    """

    bundles: Sequence[str | os.PathLike[str]] = ()
    teacher: str | None = None


@dataclass(frozen=True)
class SuiteOptions:
    """Which tests run, with what, and what must come out of them.

    Attributes:
        only: run these tests only; * is allowed, such as 'robustness:*'
        noise: folder of recorded noise to disturb with
        rooms: folder of room impulse responses
        require: exit 1 unless these tests pass; GROUP:TEST:DIMENSION and * are allowed
        baseline: exit 1 if worse than this former audit -o. It must be of the same clips, and
            worse is what is beyond its interval
        resamples: of the bootstrap behind the 95 % intervals
    """

    only: Sequence[str] = ()
    noise: str | None = None
    rooms: str | None = None
    require: Sequence[str] = ()
    baseline: str | os.PathLike[str] | None = None
    resamples: int = 1000


def audit(
    bundle: str | os.PathLike[str],
    source: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    clips: ClipOptions | None = None,
    compare: CompareOptions | None = None,
    suite: SuiteOptions | None = None,
    seed: int = 0,
    processes: int | None = None,
) -> dict[str, Any]:
    """Run the trust suite.

    Args:
        bundle: bundle folder or .onnx file
        source: folder, audio file, CSV or parquet table, audformat database; columns arousal,
            dominance, valence are the truth; emotion, speaker, sex, language, accent are used too
        output: write the full result as JSON. A run that was stopped leaves `FILE.part`, and the
            same call resumes from it
        clips: which clips of the source, and which truth
        compare: what the bundle is compared with
        suite: which tests, with which noise, and what they must reach
        seed: seed of all that is drawn
        processes: number of processes; None = one per core that may be used

    Returns:
        a dictionary of JSON values: `bundle`, `source`, `corpus`, `settings`, `figures` (one per
        test, case and dimension), `curves`, `summary` (passes per test and group), `cannot_run`
        (tests, or parts of them, without their data or beyond a perfect model, and why),
        `small_groups`, `rejected`, `thresholds` (what `require` and `baseline` lead to), `clips`
        (clean estimates of every clip)

    Raises:
        Wav2SmallError: bundle, source, truth, baseline or patterns cannot be used

    Example:
        >>> suite = SuiteOptions(only=["robustness:gain-unchanged"], resamples=20)
        >>> result = audit("bundle", "speech.wav", suite=suite)
        >>> [figure["dimension"] for figure in result["figures"]]
        ['arousal', 'dominance', 'valence']
    """
    clips, compare = clips or ClipOptions(), compare or CompareOptions()
    suite = suite or SuiteOptions()
    journal = None
    if output is not None and not files.special(output):  # beside a device stands nothing
        journal = Path(f"{os.fspath(output)}.part")
    former = thresholds.read(suite.baseline) if suite.baseline is not None else None
    corpus, unread = gather(source, clips, seed=seed)
    tests = _chosen(trust.table(tuple(clips.by)), suite.only)
    thresholds.check(suite.require, tests)
    sounds = gather_sounds(corpus, noise=suite.noise, rooms=suite.rooms, seed=seed)
    models = _models(bundle, compare)
    possible, cannot_run = _possible(tests, corpus, sounds)
    conditions = trust.conditions(possible)
    if _matches(CURVES_ID, suite.only):
        conditions += [one.name for one in perturbations.CURVES if one.possible(sounds)]
    rooms = any(perturbations.CONDITIONS[name].sounds == "rooms" for name in conditions)
    notes = [note for note in sounds.notes if rooms or not note.startswith("rooms")]
    if former is not None:
        thresholds.comparable(former, corpus.digest(), seed, sounds.notes, suite.baseline)
    predicted = outputs.predict(
        corpus, models, conditions, sounds, seed=seed, processes=processes, journal=journal
    )
    figures = Figures(corpus, predicted, resamples=suite.resamples, seed=seed)
    rows = []
    for test in possible:
        computed, missing = figures.of(test)
        rows += computed
        if missing:
            cannot_run.append({"test": test.id, "reason": missing})
    result = {
        "bundle": {
            "name": models[0].name,
            "path": os.fspath(bundle),
            "sha256": files.sha256(predictor.model_path(bundle)),
        },
        "source": os.fspath(source),
        "corpus": {
            "digest": corpus.digest(),
            "clips": len(corpus),
            "used": len(predicted.rows),
            "truth": corpus.truth_name or None,
            "groups": {
                column: {name: int(member.sum()) for name, member in groups.items()}
                for column, groups in figures.groups.items()
            },
            "notes": corpus.notes + notes,
        },
        "settings": {
            "seed": seed,
            "resamples": figures.draws,
            "random_models": figures.random_models,
            "level": LEVEL,
            "models": [vars(model) for model in models],
            "sounds": sounds.notes,
            "options": {**asdict(clips), "noise": suite.noise, "rooms": suite.rooms},
        },
        "figures": rows,
        "curves": figures.curves(),
        "summary": _summary(rows),
        "cannot_run": cannot_run,
        "small_groups": figures.small_groups,
        "rejected": [{"file": file, "reason": why} for file, why in [*unread, *predicted.rejected]],
        "clips": figures.clips(),
    }
    result["thresholds"] = thresholds.judge(result, require=suite.require, former=former)
    result = _plain(result)
    if output is not None:
        with files.atomic(output) as temporary:
            temporary.write_text(json.dumps(result, indent=1), encoding="utf-8")
    if journal is not None:
        journal.unlink(missing_ok=True)
    return result


def _models(bundle: str | os.PathLike[str], compare: CompareOptions) -> list[ModelSpec]:
    paths = [bundle, *compare.bundles]
    models = [
        ModelSpec(name, "bundle", os.fspath(path))
        for name, path in zip(short_names(paths), paths, strict=True)
    ]
    if compare.teacher:
        models.append(ModelSpec(f"teacher {compare.teacher}", "teacher", compare.teacher))
    return models


def _chosen(tests: list[trust.Test], only: Sequence[str]) -> list[trust.Test]:
    known = [*(test.id for test in tests), CURVES_ID]
    for pattern in only:
        if not fnmatch.filter(known, pattern):
            raise Wav2SmallError(f"--only {pattern}: no such test; see wav2small audit --list")
    return [test for test in tests if _matches(test.id, only)]


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def _possible(
    tests: list[trust.Test], corpus: Corpus, sounds: perturbations.Sounds
) -> tuple[list[trust.Test], list[dict[str, str]]]:
    """Tests whose data are there, and why the others cannot run."""
    missing = {
        "truth": "" if corpus.truth is not None else "no ratings; name a table with --truth",
        "f0": "",
        "backgrounds": "" if sounds.backgrounds else "no recorded noise; give --noise FOLDER",
        "events": "" if sounds.events else "no recorded short noise (< 2 s); give --noise FOLDER",
    }
    missing |= dict.fromkeys(corpus.columns, "")
    possible, cannot_run = [], []
    for test in tests:
        reasons = [missing.get(need, f"the source has no column {need}") for need in test.needs]
        if any(reasons):
            cannot_run.append({"test": test.id, "reason": "; ".join(filter(None, reasons))})
        else:
            possible.append(test)
    return possible, cannot_run


def _summary(figures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Passes per test and, as test "all", per group. Groups are never added up."""
    if not figures:
        return []
    counted = ["group", "test", "figures", "passed", "certain", "random_passes"]
    rows = [
        {"group": one["group"], "test": one["test"], "figures": 1, "passed": one["passed"],
         "certain": one["certain"], "random_passes": one["random"]["passes"],
         **{name: other["passed"] for name, other in one["others"].items()}}
        for one in figures
    ]  # fmt: skip
    frame = pd.DataFrame(rows)
    frame = pd.concat([frame.assign(test="all"), frame])
    frame = frame.groupby(["group", "test"], sort=False, as_index=False).sum()
    frame["random_passes"] /= frame["figures"]
    return [
        {name: row[name] for name in counted}
        | {"others": {name: row[name] for name in figures[0]["others"]}}
        for row in frame.sort_values("group", kind="stable").to_dict("records")
    ]


def _plain(value: Any) -> Any:
    """JSON has no NaN (unknown is null) and no paths."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return None if isinstance(value, float) and not np.isfinite(value) else value
