"""How fast training and labelling are on this CPU: every ratio of docs/results/speed.md.

    python -m wav2small.benchmarks.studies.speed                       # under eight minutes
    python -m wav2small.benchmarks.studies.speed --only nano,int8      # these sections
    python -m wav2small.benchmarks.studies.speed --only compile,nodes,spinning

Each figure is a ratio of two ways that take turns; the median of each is taken. Every training is a
process of its own. Audio is synthetic and labels are random: neither changes the time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wav2small import metrics
from wav2small.benchmarks import machine, studies
from wav2small.benchmarks.memory import peak_bytes
from wav2small.benchmarks.studies.gpu import Scale, Study, clocked, random_teacher
from wav2small.tables import write_labels

#: torch's own default before threads were chosen: all cores, and those that wait spin.
OLD = {"OMP_WAIT_POLICY": "active", "GOMP_SPINCOUNT": "infinite", "KMP_BLOCKTIME": "200"}
WAVLM_BASE = {
    "model_type": "wavlm",
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
#: Student -> clips and epochs of a run: some seconds of steps.
RUNS = {"nano": (384, 5), "wav2small": (112, 3)}
HOURS = 9.0
RESULT = "speed: "


def distilled(
    study: Study, student: str, *, processes: int = 1, **options: Any
) -> dict[str, float]:
    """Run one distillation in processes of its own, which divide each batch; what `one` prints.

    The options are `clips`, `epochs`, `environment`, and settings of `distill`.
    """
    clips, epochs = RUNS[student]
    clips, environment = options.pop("clips", clips), options.pop("environment", {})
    folder = study.folder / f"clips{clips}"
    if not folder.exists():
        study.links(folder.name, clips)
        write_labels(folder / "labels.parquet", study.labels(folder.name, clips))
    with tempfile.TemporaryDirectory(dir=study.folder) as run:
        settings = {"student": student, "epochs": epochs, "cache": f"{run}/cache", **options}
        arguments = [str(folder / "labels.parquet"), f"{run}/run", json.dumps(settings)]
        command = ["-m", "wav2small.benchmarks.studies.speed", "--one", *arguments]
        if processes > 1:
            launch = f"-m torch.distributed.run --standalone --nproc_per_node {processes}"
            command = [*launch.split(), *command]
        kept = {k: v for k, v in os.environ.items() if k not in (*OLD, "OMP_NUM_THREADS")}
        output = _output([sys.executable, *command], env={**kept, **environment}, timeout=400)
    line = next(line for line in output.splitlines() if line.startswith(RESULT))
    return json.loads(line.removeprefix(RESULT))


def _output(command: list[str], **options: Any) -> str:
    """What a program prints; RuntimeError with the end of what it complains, if it fails."""
    process = subprocess.run(command, capture_output=True, text=True, **options)
    if process.returncode:
        raise RuntimeError(process.stderr[-1500:])
    return process.stdout


def one(labels: str, output: str, settings: Mapping[str, Any]) -> None:
    """A distillation whose epochs are timed, without validation and the choice of threads."""
    from wav2small.training import threads

    threads.wait_quietly()
    from wav2small.students import data
    from wav2small.students.distillation import distill
    from wav2small.training.distributed import world

    plain, epochs, spent = data.Batcher.epoch, [], {"choosing": 0.0, "steps": 0}

    def timed(batcher: Any, *arguments: Any, **options: Any) -> Iterator[Any]:
        began, spent["choosing"], spent["steps"] = time.perf_counter(), 0.0, batcher.steps
        yield from plain(batcher, *arguments, **options)
        epochs.append(time.perf_counter() - began - spent["choosing"])

    data.Batcher.epoch = timed  # type: ignore[method-assign,assignment]
    choose = clocked(threads.Pace._choose, spent, "choosing")
    threads.Pace._choose = choose  # type: ignore[method-assign]
    distill(labels, output, **settings)
    if world()[0] == 0:
        epoch_s = statistics.median(epochs[1:] or epochs)
        figures = {"step_s": epoch_s / spent["steps"], "epoch_s": epoch_s, "first_s": epochs[0]}
        figures["peak_mb"] = peak_bytes() / 2**20
        print(RESULT + json.dumps(figures), flush=True)


@contextlib.contextmanager
def neighbour(wanted: bool = True) -> Iterator[None]:
    """Another program that keeps a core busy."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"])] if wanted else []
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def _medians(found: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(one[name] for one in found) for name in found[0]}


def _training(study: Study, student: str, *, repeats: int, busy: bool) -> dict[str, float]:
    """A student by default, as it was before (two spinning threads), and beside a busy program."""
    cores = len(os.sched_getaffinity(0))
    before: dict[str, Any] = {"threads": cores, "environment": OLD}
    found: dict[str, list[dict[str, float]]] = {"now": [], "before": [], "busy": [], "two": []}
    for _ in range(repeats):
        found["now"].append(distilled(study, student))
        found["before"].append(distilled(study, student, **before))
        if busy:
            with neighbour():
                found["busy"].append(distilled(study, student))
        found["two"].append(distilled(study, student, processes=2))
    medians = {way: _medians(runs) for way, runs in found.items() if runs}
    now = medians["now"]
    figures = {
        "ms per step": 1000 * now["step_s"],
        "against the old default": now["step_s"] / medians["before"]["step_s"],
        "first epoch against later ones": now["first_s"] / now["epoch_s"],
        "two processes against one": medians["two"]["step_s"] / now["step_s"],
    }
    if busy:
        figures["beside a busy program against idle"] = medians["busy"]["step_s"] / now["step_s"]
    return figures


def nano(study: Study) -> dict[str, float]:
    """`nano`; the busy program takes one core."""
    return _training(study, "nano", repeats=3, busy=True)


def wav2small(study: Study) -> dict[str, float]:
    """`wav2small`."""
    return _training(study, "wav2small", repeats=2, busy=False)


def int8(study: Study) -> dict[str, float]:
    """A teacher as large as WavLM-base in int8 against float32: time, and CCC of their labels."""
    folder = study.folder / "wavlm-base"
    pair = [random_teacher(folder, WAVLM_BASE, device="cpu", dtype=t) for t in ("int8", "float32")]
    clips = [study.batch(2.0 + number % 3, 2.0 + number % 3) for number in range(12)]
    random = np.random.default_rng(0)
    took: tuple[list[float], list[float]] = [], []
    labels: tuple[list[Any], list[Any]] = [], []
    for batch, lengths in clips:
        level = 10 ** random.uniform(-2, 0)
        for teacher, times, found in zip(pair, took, labels, strict=True):
            began = time.perf_counter()
            found.append(teacher.predict(level * batch[:1], lengths[:1])[0])
            times.append(time.perf_counter() - began)
    ratios = [fast / slow for fast, slow in zip(*took, strict=True)][1:]
    ours, exact = map(np.array, labels)
    ccc = [metrics.ccc(exact[:, i], ours[:, i]) for i in range(3)]
    return {"int8 against float32": statistics.median(ratios), "least CCC": min(ccc)}


def memory(study: Study) -> dict[str, float]:
    """Peak memory of `distill` on nine hours."""
    clips = round(HOURS * 3600 / study.seconds.mean())
    figures = distilled(study, "nano", clips=clips, epochs=1)
    code = "import torch; from wav2small.benchmarks.memory import peak_bytes; print(peak_bytes())"
    alone = int(_output([sys.executable, "-c", code]))
    return {"peak GB": figures["peak_mb"] / 1024, "of it torch GB": alone / 2**30}


def spinning(study: Study) -> dict[str, float]:
    """Two threads of `nano`, by how often one looks before it sleeps; idle, and beside a program."""
    figures = {}
    for busy in (False, True):
        with neighbour(busy):
            for looks in (0, 1000, 3000, 10_000, 100_000):
                waits = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": str(looks)}
                found = distilled(study, "nano", threads=2, epochs=3, environment=waits)
                where = "beside a busy program" if busy else "idle"
                figures[f"{looks} looks, {where}, ms per step"] = 1000 * found["step_s"]
            found = distilled(study, "nano", threads=1, epochs=3)
            figures[f"one thread, {where}, ms per step"] = 1000 * found["step_s"]
    return figures


def compile(study: Study) -> dict[str, float]:
    """torch.compile against eager steps, one thread, and what its start takes."""
    figures = {}
    for student in RUNS:
        eager, compiled = (
            distilled(study, student, compile=wanted, threads=1, epochs=3)
            for wanted in (False, True)
        )
        figures[f"{student}, compiled against eager"] = compiled["step_s"] / eager["step_s"]
        figures[f"{student}, seconds at the start"] = compiled["first_s"] - eager["first_s"]
    return figures


def nodes(study: Study) -> dict[str, float]:
    """Seconds to label 1,600 clips by `acoustic` on 1, 2 and 4 simulated nodes of one core each."""
    import ray
    from ray.cluster_utils import Cluster

    from wav2small.teachers.labelling import ray_cluster
    from wav2small.teachers.labelling.options import ComputeOptions, SourceOptions
    from wav2small.teachers.labelling.run import label

    ray_cluster._ROWS_PER_TASK = 100  # 16 blocks: as many for every node
    folder = study.links("nodes", 1600)
    figures = {}
    for count in (1, 2, 4):
        cluster = Cluster()
        for _ in range(count):
            cluster.add_node(num_cpus=1)
        try:
            ray.init(cluster.address, log_to_driver=False)
            compute = ComputeOptions(engine="ray")
            for clips in (100, 1600):  # the first is a block: what starting takes
                output = study.folder / f"nodes{count}-{clips}.parquet"
                began = time.perf_counter()
                label(folder, output, clips=SourceOptions(limit=clips), compute=compute)
                figures[f"{count} nodes, s for {clips} clips"] = time.perf_counter() - began
        finally:
            ray.shutdown()
            cluster.shutdown()
    return figures


SECTIONS = {"nano": nano, "wav2small": wav2small, "int8": int8, "memory": memory}
MORE = {"compile": compile, "nodes": nodes, "spinning": spinning}


def main(arguments: list[str] | None = None) -> int:
    """Run the sections; 1 where one failed."""
    parser = studies.parser("speed")
    parser.add_argument("--only", help=f"sections, with commas: {','.join(SECTIONS | MORE)}")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        one(options.one[0], options.one[1], json.loads(options.one[2]))
        return 0
    print(machine.line(machine.describe()))
    print(f"load before: {os.getloadavg()[0]:.1f}\n\n| | |\n|---|---|", flush=True)
    failed = False
    with tempfile.TemporaryDirectory() as name:
        study = Study(Path(name), Path(name), "cpu", Scale(files=100), True)
        for section in options.only.split(",") if options.only else SECTIONS:
            began = time.perf_counter()
            try:
                for what, value in (SECTIONS | MORE)[section](study).items():
                    print(f"| {section}: {what} | {value:.3g} |", flush=True)
            except Exception:
                failed = True
                traceback.print_exc()
            took_s = time.perf_counter() - began
            print(f"{section}: {took_s:.0f} s", file=sys.stderr, flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
