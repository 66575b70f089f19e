"""Every step on synthetic speech: label, distil, export, evaluate, benchmark.

It uses all packages and imports each one inside its step.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wav2small import files
from wav2small.dimensions import DIMENSIONS

from . import speaker

CLIPS, HELD_OUT_CLIPS = 1000, 160
# Of the first sixty voices every eighth is kept to judge by.
HELD_OUT_VOICES = [voice for voice in range(60) if voice % 8 == 5]
VOICES = [voice for voice in range(len(speaker.VOICES)) if voice not in HELD_OUT_VOICES]
EPOCHS = 5
# Labels of short, overlapping stretches: the student learns from exactly what the teacher labelled.
WINDOW_S, HOP_S = 1.0, 0.4
PRECISIONS = ("fp32", "int8")


@dataclass
class Demo:
    """What the demo measured.

    Attributes:
        output: its folder
        student_teacher_ccc: agreement of the int8 student with the teacher on voices it was
            not trained on: arousal, dominance, valence and their mean
        bytes: size of the model by precision
        latency_ms: median time for 5 s of audio on one thread, by precision
        seconds: of all of it; `stages` splits it
    """

    output: str
    student_teacher_ccc: dict[str, float]
    bytes: dict[str, int]
    latency_ms: dict[str, float]
    parameters: int
    seconds: float
    stages: dict[str, float] = field(default_factory=dict)
    example: dict[str, Any] = field(default_factory=dict)


def demo(
    output: str | os.PathLike[str] = "demo",
    *,
    clips: int = CLIPS,
    epochs: int = EPOCHS,
    seed: int = 0,
) -> Demo:
    """Run everything once. A run that was stopped goes on; a finished one starts anew.

    Args:
        output: folder for `speech/`, `labels.parquet`, `run/`, `bundle/`, `summary.json`
        clips: sentences to learn from
        epochs: passes over them
        seed: seed of the sentences and of the training

    Raises:
        Wav2SmallError: a package of the extra `demo` is missing, or the folder cannot be written
    """
    from wav2small.benchmarks.host import benchmark
    from wav2small.evaluation import evaluate
    from wav2small.export.export import export_bundle
    from wav2small.predictor import Predictor
    from wav2small.students.distillation import distill
    from wav2small.teachers.labelling.options import SourceOptions
    from wav2small.teachers.labelling.run import label

    output = Path(output)
    if (output / "summary.json").exists():
        _clear(output)
    begun, stages = time.perf_counter(), dict[str, float]()
    watch = functools.partial(_timed, stages)
    speech = output / "speech"

    with watch("speak", f"{clips} sentences to learn from, {HELD_OUT_CLIPS} in other voices"):
        parts = (("train", clips, VOICES), ("held_out", HELD_OUT_CLIPS, HELD_OUT_VOICES))
        for number, (name, count, voices) in enumerate(parts):
            if not (speech / name / "labels.csv").exists():
                speaker.speak_corpus(speech / name, clips=count, voices=voices, seed=seed + number)

    with watch("label", "by the embedded teacher `acoustic`"):
        source = SourceOptions(window_s=WINDOW_S, hop_s=HOP_S, audio_licence=speaker.LICENCE)
        for name, table in (("train", "labels.parquet"), ("held_out", "held_out.parquet")):
            label(speech / name / "labels.csv", output / table, clips=source)

    with watch("distill", "the 72K-parameter student learns from the labels"):
        settings = {"epochs": epochs, "crop_s": 0, "batch_size": 16, "seed": seed}
        student: dict[str, Any] = {"student": "wav2small", "validation": "0.08", **settings}
        run = distill(output / "labels.parquet", output / "run", **student)

    bundles = {"fp32": output / "bundle-fp32", "int8": output / "bundle"}
    with watch("export", "ONNX files, each verified against the student"):
        for precision, bundle in bundles.items():
            export_bundle(output / "run", bundle, precision=precision, overwrite=True)

    with watch("evaluate", "the int8 file against the teacher, on voices it was not trained on"):
        figures = evaluate(bundles["int8"], output / "held_out.parquet").dimensions
        ccc = {name: round(figures[name]["ccc"].value, 4) for name in DIMENSIONS}
        ccc["mean"] = round(sum(ccc.values()) / len(ccc), 4)

    with watch("benchmark", "what a second of audio costs"):
        costs = benchmark(list(bundles.values()), durations=(1.0, 5.0), runs=30, memory=False)
        latency = {
            precision: round(model["latency"][-1]["p50_ms"], 2)  # of the longest, 5 s
            for precision, model in zip(bundles, costs["models"], strict=True)
        }

    with watch("predict", "one clip, as your own program would"):
        file = sorted((speech / "held_out").glob("*.flac"))[0]
        values = Predictor(bundles["int8"]).predict_file(file)
        example = {"file": str(file), **dict(zip(DIMENSIONS, map(float, values), strict=True))}

    result = Demo(
        output=str(output),
        student_teacher_ccc=ccc,
        bytes={name: (bundle / "model.onnx").stat().st_size for name, bundle in bundles.items()},
        latency_ms=latency,
        parameters=run.parameters,
        seconds=round(time.perf_counter() - begun, 1),
        stages=stages,
        example=example,
    )
    with files.atomic(output / "summary.json") as path:
        path.write_text(json.dumps(vars(result), indent=2) + "\n")
    return result


@contextlib.contextmanager
def _timed(stages: dict[str, float], stage: str, what: str) -> Iterator[None]:
    """Says on stderr what is going on, and remembers how long it took."""
    print(f"{stage:<10} {what} ...", file=sys.stderr, flush=True)
    begun = time.perf_counter()
    yield
    stages[stage] = round(time.perf_counter() - begun, 1)


def _clear(output: Path) -> None:
    """Remove what an earlier demo made here, and nothing else."""
    for name in ("speech", "run", "bundle", "bundle-fp32"):
        shutil.rmtree(output / name, ignore_errors=True)
    for name in ("labels.parquet", "held_out.parquet", "summary.json"):
        (output / name).unlink(missing_ok=True)
