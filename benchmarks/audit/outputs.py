"""Outputs of every model for every clip, clean and in every condition, in several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wav2small import audio, progress
from wav2small.dimensions import DIMENSIONS
from wav2small.errors import AudioError, Wav2SmallError
from wav2small.files import Journal, sha256
from wav2small.predictor import Predictor, model_path
from wav2small.training.threads import available
from wav2small.workers import Died, start

from . import pitch
from .corpus import Corpus, read
from .perturbations import CONDITIONS, Sounds

CLEAN = "clean"


@dataclass(frozen=True)
class ModelSpec:
    """A model that is audited: a bundle or a teacher."""

    name: str  # unique in an audit
    kind: str  # "bundle" or "teacher"
    spec: str  # folder or ONNX file of a bundle; name, folder or hub id of a teacher

    def open(self) -> Callable[[np.ndarray], np.ndarray]:
        """A function that maps a signal (samples,) at 16 kHz to arousal, dominance, valence.

        Raises:
            Wav2SmallError: it cannot be opened, or does not predict all three
        """
        if self.kind == "bundle":
            return Predictor(self.spec).predict
        from wav2small.operations import resample
        from wav2small.teachers.registry import load_teacher

        teacher = load_teacher(self.spec)
        if tuple(teacher.dimensions) != DIMENSIONS:
            raise Wav2SmallError(
                f"--teacher {self.spec}: it labels {', '.join(teacher.dimensions)} only; an audit "
                f"compares {', '.join(DIMENSIONS)}"
            )

        def predict(signal: np.ndarray) -> np.ndarray:
            if teacher.sampling_rate != audio.SAMPLING_RATE:
                signal = resample(signal, audio.SAMPLING_RATE, teacher.sampling_rate)
            return np.asarray(teacher.predict(signal[None], np.array([len(signal)])))[0]

        return predict


@dataclass
class Outputs:
    """What all models predict."""

    rows: np.ndarray  # the clips of the corpus that all models accepted in all conditions
    values: dict[str, np.ndarray]  # model -> float64 (rows, conditions, 3)
    conditions: list[str]  # names; the first is "clean"
    f0_hz: np.ndarray  # mean pitch of each clip, NaN where there is none
    rejected: list[tuple[str, str]]  # (file, reason) of the other clips


def predict(
    corpus: Corpus,
    models: Sequence[ModelSpec],
    conditions: Sequence[str],
    sounds: Sounds,
    *,
    seed: int = 0,
    processes: int | None = None,
    journal: Path | None = None,
) -> Outputs:
    """Predict every clip with every model, clean and in every condition.

    A clip is read once and disturbed in memory; memory does not grow with the corpus.

    Args:
        corpus, models, sounds: what predicts what, and recordings to disturb with
        conditions: names of `perturbations.CONDITIONS`
        seed: of the perturbations; with the number of the clip it decides every sample
        processes: None = one per core that this process may use
        journal: file that keeps what is done; the same call resumes from it

    Raises:
        Wav2SmallError: a model cannot be opened, or no clip can be used
    """
    for model in models:
        model.open()  # so that a wrong path is one line here, not one in every process
    processes = max(1, min(processes or available(), len(corpus)))
    setup = (list(models), [CLEAN, *conditions], sounds, seed)
    entries: dict[int, dict[str, Any]] = {}
    with (
        Journal(journal, _identity(corpus, *setup)) as kept,
        progress.bar(len(corpus), unit="clip", desc="audit") as bar,
    ):
        clips = corpus.frame[["path", "start", "end"]].itertuples()
        entries |= {int(row): entry for row, entry in kept.values()}
        tasks = [tuple(clip) for clip in clips if clip.Index not in entries]
        bar.update(len(corpus) - len(tasks))
        for (row, path, *_), entry in _run(tasks, setup, processes):
            if entry is Died:  # not kept: the same call tries it again
                entry = {"reason": f"{path}: a process died on it; is memory short?"}
            else:
                kept.add(str(row), entry)
            entries[row] = entry
            bar.update()
    rejected = [row for row in sorted(entries) if "reason" in entries[row]]
    rows = np.array(sorted(entries.keys() - set(rejected)), dtype=int)
    if len(rows) == 0:
        reason = entries[rejected[0]]["reason"]
        raise Wav2SmallError(f"none of the {len(corpus)} clips can be used: {reason}")
    values = np.array([entries[row]["values"] for row in rows], dtype=np.float64)
    return Outputs(
        rows=rows,
        values={model.name: values[:, place] for place, model in enumerate(models)},
        conditions=setup[1],
        f0_hz=np.array([entries[row]["f0_hz"] or np.nan for row in rows], dtype=np.float64),
        rejected=[(corpus.frame["file"][row], entries[row]["reason"]) for row in rejected],
    )


def _run(tasks: list[Any], setup: tuple[Any, ...], processes: int) -> Iterator[tuple[Any, Any]]:
    """Every task with its entry, in the order in which they are done."""
    # Processes of their own never import the caller's script again; for little work, none.
    count = processes if processes > 1 and len(tasks) >= 4 else 0
    waiting = iter(tasks)
    with start(count, f"{__name__}:_ClipPredictor", *setup) as pool:
        while True:
            while pool.free and (task := next(waiting, None)) is not None:
                pool.submit(task)
            if not pool.busy:
                return
            yield from pool.receive()


class _ClipPredictor:
    """All models and conditions for one clip at a time; one per process."""

    def __init__(self, models: list[ModelSpec], conditions: list[str], sounds: Sounds, seed: int):
        self.models = {model.name: model.open() for model in models}
        self.conditions, self.sounds, self.seed = conditions, sounds, seed

    def __call__(self, task: tuple[int, str, float, float]) -> dict[str, Any]:
        row, path, *times = task
        try:
            signal = read(path, *times)
        except AudioError as error:
            return {"reason": str(error)}
        values = np.empty((len(self.models), len(self.conditions), len(DIMENSIONS)))
        for place, name in enumerate(self.conditions):
            changed = signal
            if name != CLEAN:
                changed = CONDITIONS[name].apply(signal, (self.seed, row), self.sounds)
            for number, (model, predict) in enumerate(self.models.items()):
                try:
                    values[number, place] = predict(changed)
                except Exception as error:  # whatever a foreign model raises costs this clip only
                    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                    return {"reason": f"{path}: {model} fails ({name}): {reason}"}
                if not np.isfinite(values[number, place]).all():
                    return {"reason": f"{path}: {model} gives NaN ({name})"}
        f0_hz = pitch.mean_f0(signal)
        return {
            "values": np.round(values, 6).tolist(),
            "f0_hz": None if np.isnan(f0_hz) else round(f0_hz, 1),
        }


def _identity(
    corpus: Corpus, models: list[ModelSpec], conditions: list[str], sounds: Sounds, seed: int
) -> dict[str, Any]:
    """What a journal must agree on to be resumed."""
    signals = *sounds.voices, *sounds.backgrounds, *sounds.events, *sounds.rooms
    return {
        "clips and sounds": corpus.digest(*signals),
        "models": [
            [one.name, sha256(model_path(one.spec)) if one.kind == "bundle" else one.spec]
            for one in models
        ],
        "conditions": conditions,
        "seed": seed,
    }
