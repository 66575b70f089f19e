"""Every clip heard once, disturbed in every way, by every listener, in several processes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wav2small import progress
from wav2small.dimensions import DIMENSIONS
from wav2small.errors import AudioError, Wav2SmallError
from wav2small.teachers.labelling.workers import Died, Pool

from . import pitch
from .corpus import Corpus, hear
from .perturbations import CONDITIONS, Resources

CLEAN = "clean"


@dataclass(frozen=True)
class Listener:
    """Who estimates: a bundle (folder or ONNX file) or a teacher (name, folder, hub id)."""

    name: str
    kind: str  # "bundle" or "teacher"
    spec: str


@dataclass
class Heard:
    """Estimates of all listeners.

    Attributes:
        rows: which clips of the corpus were heard by all, in all conditions
        estimates: listener -> float64 (rows, conditions, 3); the first condition is "clean"
        conditions: their names
        f0_hz: mean pitch of each clip, NaN where there is none
        rejected: (file, reason) of the other clips
    """

    rows: np.ndarray
    estimates: dict[str, np.ndarray]
    conditions: list[str]
    f0_hz: np.ndarray
    rejected: list[tuple[str, str]]


def listen(
    corpus: Corpus,
    listeners: Sequence[Listener],
    conditions: Sequence[str],
    resources: Resources,
    *,
    seed: int = 0,
    processes: int | None = None,
    journal: Path | None = None,
) -> Heard:
    """Let every listener estimate every clip, clean and in every condition.

    A clip is read once and disturbed in memory; memory does not grow with the corpus.

    Args:
        corpus: the clips
        listeners: who estimates
        conditions: names of `perturbations.CONDITIONS`
        resources: sounds they need
        seed: of the perturbations; with the number of the clip it decides every sample
        processes: None = one per core that this process may use
        journal: file that keeps what was heard; the same call goes on from it

    Raises:
        Wav2SmallError: a listener cannot be opened, or no clip can be heard
    """
    for listener in listeners:
        _open(listener)  # so that a wrong path is one line here, not one in every process
    processes = max(1, min(processes or _cores(), len(corpus)))
    setup = (list(listeners), [CLEAN, *conditions], resources, seed)
    with _Journal(journal, _identity(corpus, setup)) as done:
        tasks = [
            (row, corpus.paths[row], float(corpus.starts[row]), float(corpus.ends[row]))
            for row in range(len(corpus))
            if row not in done.entries
        ]
        with progress.bar(len(corpus), unit="clip", desc="audit") as bar:
            bar.update(len(corpus) - len(tasks))
            if processes == 1 or len(tasks) < 4:
                _prepare(*setup)
                results: Any = map(_hear, tasks)
                for result in results:
                    done.add(result)
                    bar.update()
            else:
                # Processes of their own, which never import the caller's script again.
                with Pool(processes, f"{__name__}:_worker", *setup) as pool:
                    waiting = iter(tasks)
                    while True:
                        while pool.free and (task := next(waiting, None)) is not None:
                            pool.submit(task)
                        if not pool.busy:
                            break
                        for task, result in pool.receive():
                            if result is Died:  # not kept: the same call tries it again
                                reason = f"{task[1]}: a process died on it; is memory short?"
                                done.entries[task[0]] = {"row": task[0], "reason": reason}
                            else:
                                done.add(result)
                            bar.update()
        entries = done.entries
    rejected = [(corpus.files[row], entries[row]["reason"]) for row in sorted(entries)
               if "reason" in entries[row]]  # fmt: skip
    rows = np.array([row for row in sorted(entries) if "reason" not in entries[row]], dtype=int)
    if len(rows) == 0:
        raise Wav2SmallError(f"none of the {len(corpus)} clips can be used: {rejected[0][1]}")
    stacked = np.array([entries[row]["estimates"] for row in rows], dtype=np.float64)
    return Heard(
        rows=rows,
        estimates={one.name: stacked[:, place] for place, one in enumerate(listeners)},
        conditions=[CLEAN, *conditions],
        f0_hz=np.array([entries[row]["f0_hz"] or np.nan for row in rows], dtype=np.float64),
        rejected=rejected,
    )


_STATE: dict[str, Any] = {}  # of one worker process


def _prepare(
    listeners: list[Listener], conditions: list[str], resources: Resources, seed: int
) -> None:
    _STATE.update(
        estimate=[_open(listener) for listener in listeners],
        names=[listener.name for listener in listeners],
        conditions=conditions,
        resources=resources,
        seed=seed,
    )


def _worker(*setup: Any) -> Any:
    """The function of a worker process."""
    _prepare(*setup)
    return _hear


def _hear(task: tuple[int, str, float, float]) -> dict[str, Any]:
    row, path, start_s, end_s = task
    try:
        signal = hear(path, start_s, end_s)
    except AudioError as error:
        return {"row": row, "reason": str(error)}
    values = np.empty((len(_STATE["estimate"]), len(_STATE["conditions"]), len(DIMENSIONS)))
    for place, name in enumerate(_STATE["conditions"]):
        changed = signal
        if name != CLEAN:
            changed = CONDITIONS[name].apply(signal, (_STATE["seed"], row), _STATE["resources"])
        for number, estimate in enumerate(_STATE["estimate"]):
            try:
                values[number, place] = estimate(changed)
            except Exception as error:  # whatever a foreign model raises costs this clip only
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                return {
                    "row": row,
                    "reason": f"{path}: {_STATE['names'][number]} fails ({name}): {reason}",
                }
            if not np.isfinite(values[number, place]).all():
                return {
                    "row": row,
                    "reason": f"{path}: {_STATE['names'][number]} gives NaN ({name})",
                }
    f0_hz = pitch.mean_f0(signal)
    return {
        "row": row,
        "estimates": np.round(values, 6).tolist(),
        "f0_hz": None if np.isnan(f0_hz) else round(f0_hz, 1),
    }


def _open(listener: Listener) -> Any:
    if listener.kind == "bundle":
        from wav2small.predictor import Predictor

        return Predictor(listener.spec).predict
    from wav2small.teachers.registry import load_teacher

    teacher = load_teacher(listener.spec)
    if tuple(teacher.dimensions) != DIMENSIONS:
        raise Wav2SmallError(
            f"--teacher {listener.spec}: it labels {', '.join(teacher.dimensions)} only; an audit "
            f"compares {', '.join(DIMENSIONS)}"
        )

    def estimate(signal: np.ndarray) -> np.ndarray:
        if teacher.sampling_rate != 16000:
            import soxr

            signal = soxr.resample(signal, 16000, teacher.sampling_rate)
        return np.asarray(teacher.predict(signal[None], np.array([len(signal)])))[0]

    return estimate


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _identity(corpus: Corpus, setup: tuple[Any, ...]) -> dict[str, Any]:
    """What a journal must agree on to be gone on with."""
    from wav2small.files import sha256
    from wav2small.predictor import model_path

    listeners, conditions, resources, seed = setup
    sounds = hashlib.sha256()
    for name in ("voices", "backgrounds", "events", "rooms"):
        for signal in resources[name]:
            sounds.update(signal.tobytes())
    return {
        "corpus": corpus.digest(),
        "listeners": [
            [one.name, sha256(model_path(one.spec)) if one.kind == "bundle" else one.spec]
            for one in listeners
        ],
        "conditions": conditions,
        "sounds": sounds.hexdigest(),
        "seed": seed,
    }


class _Journal:
    """What was heard so far, one JSON line per clip; kept only if the run is stopped."""

    def __init__(self, path: Path | None, identity: Mapping[str, Any]):
        self.path = path
        self.identity = dict(identity)
        self.entries: dict[int, dict[str, Any]] = {}
        self._file: Any = None

    def __enter__(self) -> _Journal:
        if self.path is None:
            return self
        if self.path.exists():
            lines = self.path.read_text(encoding="utf-8").splitlines()
            if lines and lines[0] == json.dumps(self.identity):
                for line in lines[1:]:
                    try:
                        self.add(json.loads(line))
                    except json.JSONDecodeError:
                        break  # the line that was being written when the run stopped
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "w", encoding="utf-8")
        except OSError as error:
            raise Wav2SmallError(
                f"cannot write {self.path}: {error.strerror}; choose another -o"
            ) from error
        self._file.write(json.dumps(self.identity) + "\n")
        for entry in self.entries.values():
            self._file.write(json.dumps(entry) + "\n")
        self._file.flush()
        return self

    def add(self, entry: dict[str, Any]) -> None:
        self.entries[entry["row"]] = entry
        if self._file is not None:
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()

    def __exit__(self, kind: Any, *rest: object) -> None:
        if self._file is not None:
            self._file.close()
