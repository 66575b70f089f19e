"""The host benchmark: what a bundle costs on this machine, alone or compared with others."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wav2small import files, progress, session
from wav2small.errors import Wav2SmallError

from . import latency, machine, models
from . import memory as memory_probe
from .cost import cost as count

DURATIONS_S = (0.5, 1.0, 5.0, 10.0, 30.0)


def benchmark(
    bundles: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    against: Sequence[str | os.PathLike[str]] = (),
    durations: Sequence[float] = DURATIONS_S,
    runs: int = 100,
    warm_up: int = 10,
    threads: int = 1,
    cost: bool = True,
    memory: bool = True,
) -> dict[str, Any]:
    """Latency, memory and cost of bundles, measured together.

    Each round measures every model once, so that a disturbance of the machine affects all of
    them, and ratios are taken pair by pair. Memory is measured in a fresh process for each
    model and length (Linux only).

    Args:
        bundles: bundle folder or .onnx file. One or several; naming one twice is allowed and shows
            how far two measurements of the same thing differ
        against: any other ONNX models with one waveform input, as yardsticks
        durations: clip lengths in seconds
        runs: counted rounds per length. At least 1
        warm_up: rounds before them that do not count
        threads: threads of each session
        cost: count parameters, MACs and bytes (needs the package onnx)
        memory: measure memory, load time and first-call time

    Returns:
        a dictionary of JSON values: `machine`; `settings`; `models`: a list of {`name`, `path`,
        `bytes`, `sha256`, `yardstick`, `cost` (see `cost.cost`), `latency` (see
        `latency.describe`, one per length), `memory` (see `memory.measure`), `growth`
        {`latency`, `activations`: see `latency.growth`}, `rejected` (lengths it cannot take:
        `duration_s`, `reason`), `notes`}; `pairs`: a list of {`first`, `second`, `duration_s`,
        `ratio_of_medians`, `p10`, `p50`, `p90`}: time of the second / time of the first

    Raises:
        Wav2SmallError: no model, unusable model, or settings that cannot be
    """
    paths = [bundles] if isinstance(bundles, (str, os.PathLike)) else list(bundles)
    _check(paths, durations, runs=runs, warm_up=warm_up, threads=threads)
    opened = [models.WaveformModel(path, threads=threads) for path in [*paths, *against]]
    names = models.short_names([*paths, *against])
    lengths = sorted({float(duration) for duration in durations})
    results: list[dict[str, Any]] = [
        {
            "name": name,
            "path": str(model.path),
            "bytes": _size(model.path),
            "sha256": files.sha256(model.path),
            "yardstick": place >= len(paths),
            "rejected": [],
            "notes": [],
            "latency": [],
        }
        for place, (name, model) in enumerate(zip(names, opened, strict=True))
    ]
    steps = len(lengths) * (1 + len(opened) * memory) + len(opened) * cost
    rounds = {"runs": runs, "warm_up": warm_up}
    with progress.bar(steps, unit="step", desc="benchmark") as bar:
        pairs = _latencies(opened, results, lengths, rounds, bar)
        for model, result in zip(opened, results, strict=True):
            if memory and not memory_probe.supported():
                result["notes"].append("memory is measured on Linux only")
                result["memory"] = []
            elif memory:
                result["memory"] = [
                    memory_probe.measure(model.path, point["duration_s"], threads=threads)
                    for point in result["latency"]
                    if not bar.update()
                ]
        for model, result in zip(opened, results, strict=True):
            if cost and (tried := [point["duration_s"] for point in result["latency"]]):
                try:
                    result["cost"] = count(model.path, min(tried, key=lambda s: abs(s - 1)))
                except Wav2SmallError as error:
                    result["notes"].append(str(error))
            bar.update(cost)
    for result in results:
        result["growth"] = _growth(result)
    return {
        "machine": machine.describe(),
        "settings": {
            "durations_s": lengths,
            **rounds,
            "threads": threads,
            "session_entries": dict(session.SESSION_ENTRIES),
            "signal": "white noise, .05 RMS, seed 0, 16000 Hz",
        },
        "models": results,
        "pairs": pairs,
    }


def _check(
    paths: Sequence[Any], durations: Sequence[float], *, runs: int, warm_up: int, threads: int
) -> None:
    if not paths:
        raise Wav2SmallError("nothing to benchmark: name a bundle folder or an .onnx file")
    if not durations or min(durations) <= 0:
        raise Wav2SmallError("--durations: give lengths of more than 0 seconds")
    if runs < 1 or warm_up < 0 or threads < 1:
        raise Wav2SmallError("--runs and --threads must be at least 1, --warm-up at least 0")


def _latencies(
    opened: list[models.WaveformModel],
    results: list[dict[str, Any]],
    lengths: list[float],
    rounds: dict[str, int],
    bar: Any,
) -> list[dict[str, Any]]:
    """Measure all models at all lengths; the comparisons of the first with the others."""
    pairs = []
    for duration in lengths:
        able = [i for i, model in enumerate(opened) if _try(model, duration, results[i])]
        times = latency.measure([opened[i] for i in able], duration, **rounds)  # (runs, able)
        for column, i in enumerate(able):
            results[i]["latency"].append(latency.describe(times[:, column], duration))
            if column:
                names = {"first": results[able[0]]["name"], "second": results[i]["name"]}
                ratios = latency.ratio(times[:, 0], times[:, column])
                pairs.append({**names, "duration_s": duration, **ratios})
        bar.update()
    if not any(result["latency"] for result in results):
        rejected = results[0]["rejected"][0]
        raise Wav2SmallError(
            f"{results[0]['path']}: {rejected['duration_s']:g} s of audio: {rejected['reason']}"
        )
    return pairs


def _try(model: models.WaveformModel, duration: float, result: dict[str, Any]) -> bool:
    """Whether a model accepts this length; if not, that is noted, and the others go on."""
    try:
        outputs = model.run(model.feed(models.noise(round(duration * 16000))))
    except Exception as error:  # ORT raises eight unrelated classes
        result["rejected"].append(
            {"duration_s": duration, "reason": f"the model fails: {session.first_line(error)}"}
        )
        return False
    if not np.isfinite(outputs[0]).all():
        result["notes"].append(f"{duration:g} s: the output is not finite")
    return True


def _growth(result: dict[str, Any]) -> dict[str, Any]:
    # The least of all runs: what else the machine does adds time, but never takes any away.
    kinds = (("latency", "latency", "min_ms"), ("activations", "memory", "activations_bytes"))
    fits = {}
    for name, kind, cost in kinds:
        points = result.get(kind) or []
        lengths = [point["duration_s"] for point in points]
        fits[name] = latency.growth(lengths, [point[cost] for point in points])
    return fits


def _size(path: Path) -> int:
    """Bytes of the ONNX file and of weights stored in files of their own."""
    external = [path.with_name(path.name + ending) for ending in (".data", "_data")]
    return sum(file.stat().st_size for file in [path, *external] if file.exists())
