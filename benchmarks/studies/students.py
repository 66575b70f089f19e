r"""The studies behind docs/results/recipe.md: fidelity of every student, ablation, speed, growth.

    python -m wav2small.benchmarks.studies.students index CORPORA -o index.csv
    wav2small label index.csv --root CORPORA -o labels.parquet
    python -m wav2small.benchmarks.studies.students fidelity labels.parquet -o studies/ --root CORPORA
    python -m wav2small.benchmarks.studies.students ablation labels.parquet -o studies/ --root CORPORA \
        --online acoustic --set noise=CORPORA/noise
    python -m wav2small.benchmarks.studies.students speed labels.parquet

Voices `ravdess-19` to `ravdess-24` are never trained on and choose nothing; `ravdess-17` and
`ravdess-18` choose the best epoch. A study that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from wav2small import files, metrics
from wav2small.benchmarks import studies
from wav2small.dimensions import DIMENSIONS
from wav2small.students import registry
from wav2small.students.config import Config, resolve
from wav2small.students.data import Batcher, TrainingBatch, full_clips
from wav2small.students.distillation import distill
from wav2small.tables import Labels, read_labels
from wav2small.teachers.registry import load_teacher
from wav2small.training.cache import Cache
from wav2small.training.clips import Clips

TEST = tuple(f"ravdess-{actor}" for actor in range(19, 25))
CHOOSE = "speaker=ravdess-17,ravdess-18"
STUDENTS = ("wav2small", "wav2small2", "mobilenetv4_conv_small", "nano")

#: The recipe, changed in one part at a time. `online`: ask the teacher while training.
ABLATIONS: dict[str, dict[str, Any]] = {
    "the recipe": {},
    "whole clips": {"crop_s": 0.0},
    "crops of 2.0 s": {"crop_s": 2.0},
    "crops of 1.0 s": {"crop_s": 1.0},
    "teacher asked for every crop": {"online": True, "augment_probability": 0.0},
    "teacher asked, 60 % fresh variants": {"online": True, "augment_probability": 0.6},
    "squared error alone": {"ccc_weight": 0.0},
    "1 - CCC alone": {"regression": "none"},
    "squared error instead of smooth L1": {"regression": "mse"},
    "without average of weights": {"ema": 0.0},
    "without gradient clipping": {"clip_norm": 0.0},
    "without random gain": {"gain_db": 0.0},
    "cosine instead of one-cycle": {"schedule": "cosine"},
    "constant rate": {"schedule": "constant"},
    "without weight decay": {"weight_decay": 0.0},
    "a tenth left out as noise": {"trim": 0.1},
    "int8 finish": {"quantise": "int8"},
    "int4 finish": {"quantise": "int4"},
}


INTERVAL = "{value:.3f} [{low:.3f} {high:.3f}]"
_FRESH = ("noise", "rooms", "augment_probability")  # settings that need the teacher while training


def index(corpora: str | Path) -> pd.DataFrame:
    """Emo-DB and RAVDESS as one index: `file` relative to `corpora`, `speaker`, `sex`."""
    parts = []
    for corpus in ("emodb", "ravdess"):
        part = pd.read_csv(Path(corpora) / corpus / "labels.csv", dtype={"speaker": str})
        part["file"] = corpus + "/" + part["file"]
        part["speaker"] = corpus + "-" + part["speaker"]
        parts.append(part[["file", "speaker", "sex"]])
    return pd.concat(parts, ignore_index=True)


def measure(
    labels: Labels,
    output: Path,
    *,
    teacher: Any = None,
    online: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Train one student without the test voices, then test it on their full clips.

    Args:
        labels: table of clips, windows and variants
        output: run folder
        teacher: to ask while training, if `online`
        online: False takes the labels of the table, and no fresh variants
        settings: of `distill`, with `student` and `seed`

    Returns:
        CCC with the teacher per dimension, with bootstrap intervals over clips, and what it took
    """
    if not online:
        settings = {key: settings[key] for key in settings if key not in _FRESH}
    frame = labels.frame
    tested = frame["speaker"].isin(TEST).to_numpy()
    own = Labels(frame[~tested].reset_index(drop=True), labels.root, labels.provenance)
    asked = teacher if online else None
    result = distill(own, output, validation=CHOOSE, online=asked, **settings)
    clean = frame["variant"].to_numpy() == 0 if "variant" in frame else True
    test = np.flatnonzero(tested & clean)
    truth, prediction = predict(output, labels, test)
    figures = {
        name: metrics.bootstrap(truth[:, i], prediction[:, i])._asdict()
        for i, name in enumerate(DIMENSIONS)
    }
    mean = float(np.mean([figure["value"] for figure in figures.values()]))
    row = {"student": settings["student"], "seed": settings["seed"], "ccc": figures, "mean": mean}
    names = ("parameters", "clips", "epochs", "seconds")
    return row | {name: getattr(result, name) for name in names}


@torch.no_grad()
def predict(run: Path, labels: Labels, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels and outputs (clips, 3) of a run's best student for rows of a table."""
    student = registry.load(run)
    made_with = labels.provenance.get("variants")
    clips = Clips(labels.frame, labels.root, cache=Cache(), made_with=made_with)
    prediction = np.zeros((len(labels.frame), len(DIMENSIONS)))
    for batch in full_clips(clips, labels.values, rows):
        prediction[batch.rows] = student(batch.signal, batch.lengths).numpy()
    return labels.values[rows], prediction[rows]


def study(
    name: str,
    jobs: dict[str, dict[str, Any]],
    labels: Labels,
    output: Path,
    seeds: list[int],
    teacher: Any,
) -> list[dict[str, Any]]:
    """Run every job with every seed; what is done already is read from `name`.jsonl."""
    path = output / f"{name}.jsonl"
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for job, settings in jobs.items():
        for seed in seeds:
            if any(row["job"] == job and row["seed"] == seed for row in done):
                continue
            folder = output / name / f"{job.replace(' ', '_')}-{seed}"
            row = {"job": job} | measure(labels, folder, seed=seed, teacher=teacher, **settings)
            done.append(row)
            with files.atomic(path) as temporary:
                temporary.write_text("\n".join(map(json.dumps, done)) + "\n")
            print(line(row), file=sys.stderr, flush=True)
    return [row for row in done if row["job"] in jobs and row["seed"] in seeds]


def line(row: dict[str, Any]) -> str:
    """One run as text."""
    cells = "  ".join(INTERVAL.format(**row["ccc"][name]) for name in DIMENSIONS)
    what = f"{row['job']}, seed {row['seed']}"
    return f"{what}: {cells}  mean {row['mean']:.3f}, {row['seconds']:.0f} s"


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: one line per job, means over seeds, the range of the means over seeds."""
    lines = ["| | arousal | dominance | valence | mean | seeds: lowest, highest mean | s |"]
    lines.append("|---|---|---|---|---|---|---|")
    for job in dict.fromkeys(row["job"] for row in rows):
        own = [row for row in rows if row["job"] == job]
        cells = []
        for name in DIMENSIONS:
            mean = pd.DataFrame([row["ccc"][name] for row in own]).mean()
            cells.append(INTERVAL.format_map(mean))
        means = [row["mean"] for row in own]
        seconds = np.mean([row["seconds"] for row in own])
        cells += [f"{np.mean(means):.3f}", f"{min(means):.3f}, {max(means):.3f}", f"{seconds:.0f}"]
        lines.append(f"| {job} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def speed(labels: Labels, *, student: str, steps: int, **settings: Any) -> dict[str, float]:
    """Steps per second of the batcher against the same loop on tensors already in memory.

    The first epoch, which decodes, is timed apart from the later ones, which find audio in the cache.
    """
    config = resolve(Config(student=student, **settings), len(labels.frame))
    folder = tempfile.TemporaryDirectory()
    made_with = labels.provenance.get("variants")
    clips = Clips(labels.frame, labels.root, cache=Cache(folder.name), made_with=made_with)
    rows = np.arange(min(len(clips), steps * config.batch_size))
    batcher = Batcher(clips, labels.values, rows, config)
    model = registry.create(student)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def train(batches: Any) -> float:
        began, count = time.perf_counter(), 0
        for batch in batches:
            optimizer.zero_grad()
            (model(batch.signal, batch.lengths) - batch.labels).square().mean().backward()
            optimizer.step()
            count += 1
        return count / (time.perf_counter() - began)

    held: list[TrainingBatch] = [batcher.load(rows, 0) for rows in batcher.plan(0)[:3]]
    train(held)  # warm up
    cold = train(batcher.epoch(0))
    held = list(batcher.epoch(1))
    # Interleaved, so that a busy machine slows both.
    pairs = [(train(batcher.epoch(epoch)), train(held)) for epoch in (1, 2, 3)]
    cached, memory = np.median(pairs, axis=0)
    return {
        "first_epoch_steps_per_s": cold,
        "cached_steps_per_s": float(cached),
        "in_memory_steps_per_s": float(memory),
        "first_epoch_share": cold / float(memory),
        "cached_share": float(np.median([ours / other for ours, other in pairs])),
    }


def growth(labels: Labels, *, student: str, rounds: int = 3, **settings: Any) -> dict[str, float]:
    """Seconds of one epoch on a tenth of the table and on ten times as much, decoding included.

    Every long epoch stands between two short ones, so that a machine that slows down slows both.
    """
    config = resolve(Config(student=student, **settings), len(labels.frame))
    size = len(labels.frame) // 10 // config.batch_size * config.batch_size
    model = registry.create(student)
    # Drawn, for a table may begin with its shortest clips.
    rows = np.random.default_rng(config.seed).permutation(len(labels.frame))

    def epoch(factor: int) -> float:
        own = rows[: factor * size]
        frame = labels.frame.iloc[own].reset_index(drop=True)
        clips, every = Clips(frame, labels.root), np.arange(len(own))
        batcher = Batcher(clips, labels.values[own], every, config)
        began = time.perf_counter()
        for batch in batcher.epoch(0):
            model(batch.signal, batch.lengths).sum().backward()
        return time.perf_counter() - began

    epoch(1)  # warm up
    times = [(epoch(1), epoch(10), epoch(1)) for _ in range(rounds)]
    return {
        "x1_s": float(np.median([(one[0] + one[2]) / 2 for one in times])),
        "x10_s": float(np.median([one[1] for one in times])),
        "ratio": float(np.median([2 * one[1] / (one[0] + one[2]) for one in times])),
    }


def main(arguments: list[str] | None = None) -> int:
    """See the module."""
    parser = studies.parser("students")
    parser.add_argument("what", choices=["index", "fidelity", "ablation", "speed", "growth"])
    parser.add_argument("source", help="folder of corpora (index) or label table")
    parser.add_argument("-o", "--output", default="studies")
    parser.add_argument("--root", help="folder that the table's files are relative to")
    parser.add_argument("--students", nargs="+", default=None)
    parser.add_argument("--jobs", nargs="+", help="ablations to run, by name; default: all")
    parser.add_argument("--online", metavar="TEACHER", help="ask it while training")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="of distill")
    args = parser.parse_args(arguments)
    if args.what == "index":
        index(args.source).to_csv(args.output, index=False)
        return 0
    settings = dict(item.split("=", 1) for item in args.set)
    labels = read_labels(args.source, root=args.root)
    students = args.students or (["nano"] if args.what != "fidelity" else list(STUDENTS))
    output = Path(args.output)
    if args.what == "speed":
        print(json.dumps(speed(labels, student=students[0], steps=40, **settings), indent=2))
    elif args.what == "growth":
        print(json.dumps(growth(labels, student=students[0], **settings), indent=2))
    else:
        teacher = load_teacher(args.online) if args.online else None
        if args.what == "fidelity":
            asked = {"online": teacher is not None, **settings}
            jobs: dict[str, dict[str, Any]] = {n: {"student": n, **asked} for n in students}
        else:
            chosen = {name: ABLATIONS[name] for name in args.jobs or ABLATIONS}
            jobs = {n: {"student": students[0], **settings, **more} for n, more in chosen.items()}
        print(table(study(args.what, jobs, labels, output, args.seeds, teacher)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
