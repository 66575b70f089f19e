"""How fast labelling is, and how much memory it takes: `python -m wav2small.benchmarks.studies.labelling`.

    python -m wav2small.benchmarks.studies.labelling acoustic          # real time factor, worker processes
    python -m wav2small.benchmarks.studies.labelling batches           # length buckets against the obvious
    python -m wav2small.benchmarks.studies.labelling onnx MODEL        # workers against interpreters
    python -m wav2small.benchmarks.studies.labelling million           # one million rows

Audio is made on the spot, weights are random: neither changes how long the arithmetic takes.
Compared ways run interleaved, and ratios are taken within a round: machines drift, rounds are short.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from wav2small.benchmarks import studies
from wav2small.benchmarks.studies.gpu import RATE, random_teacher, speak
from wav2small.dimensions import DIMENSIONS

BASE = {  # of WavLM-large's layout, as wide and deep as a base model
    "model_type": "wavlm",
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "feat_extract_norm": "layer",
}


def rows_of(clips: int) -> list[Any]:
    """The files that `speak` writes, as rows of an index."""
    from wav2small.teachers.labelling.clips import SourceRow

    return [SourceRow(number, f"{number:06d}.flac", 0, None) for number in range(clips)]


def reader_of(folder: Path) -> Any:
    from wav2small import augmentation as variants
    from wav2small.teachers.labelling.clips import Reader

    return Reader(str(folder), RATE, 12.0, None, 0, variants.VariantSettings())


def acoustic(clips: int = 400) -> dict[str, Any]:
    """Times real time of the acoustic teacher, start of the processes included."""
    from wav2small.teachers.labelling.run import label

    durations_s = np.random.default_rng(0).uniform(1, 6, clips)
    with tempfile.TemporaryDirectory() as name:
        speak(Path(name) / "speech", durations_s)
        began = time.perf_counter()
        label(Path(name) / "speech", Path(name) / "labels.parquet", teacher="acoustic")
        took_s = time.perf_counter() - began
    audio_s = durations_s.sum()
    return {"audio_s": audio_s, "took_s": took_s, "x_real_time": audio_s / took_s}


def batches(clips: int = 24, turns: int = 2, batch_s: float | None = None) -> dict[str, Any]:
    """Audio per second of three ways with a WavLM of base size on a CPU."""
    from wav2small.teachers.labelling import batched
    from wav2small.teachers.labelling.batched import label_in_batches

    durations_s = np.random.default_rng(1).uniform(1, 12, clips)
    most = batch_s or batched.CPU_BATCH_S
    with tempfile.TemporaryDirectory() as name:
        teacher = random_teacher(Path(name) / "teacher", BASE, device="cpu", dtype="float32")
        folder, rows = Path(name) / "speech", rows_of(clips)
        speak(folder, durations_s)
        reader = reader_of(folder)
        items = [item for row in rows for item in reader.items(row)]

        def buckets() -> None:
            for _ in label_in_batches(rows, reader, teacher, workers=0, batch_s=most):
                pass

        def padded(size: int) -> Callable[[], None]:
            def run() -> None:
                for begin in range(0, len(items), size):
                    batch = reader.batch(items[begin : begin + size])
                    teacher.predict(batch.signals, batch.lengths)

            return run

        ways = {"buckets": buckets, "batches_of_8": padded(8), "clip_by_clip": padded(1)}
        teacher.predict(np.ones((1, RATE), np.float32), np.array([RATE]))  # warm
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(turns):
            for way in list(ways)[turn % 3 :] + list(ways)[: turn % 3]:
                began = time.perf_counter()
                ways[way]()
                seconds[way].append(time.perf_counter() - began)
    ratios = {
        f"buckets_over_{way}": statistics.median(
            other / own for other, own in zip(seconds[way], seconds["buckets"], strict=True)
        )
        for way in ("batches_of_8", "clip_by_clip")
    }
    speed = {way: durations_s.sum() / statistics.median(took) for way, took in seconds.items()}
    return {"audio_s": durations_s.sum(), "batch_s": most, "x_real_time": speed, **ratios}


_INTERPRETER = """
import os, sys, time
import numpy as np
from wav2small.teachers.labelling.clips import SourceRow
from wav2small.teachers.labelling.local import labeller
from wav2small.benchmarks.studies.labelling import reader_of
label = labeller(sys.argv[1], {"device": "cpu"}, reader_of(sys.argv[2]))
files = sorted(os.listdir(sys.argv[2]))[int(sys.argv[3])::int(sys.argv[4])]
rows = [SourceRow(number, file, 0, None) for number, file in enumerate(files)]
label(rows[:2])
print("ready", flush=True)
sys.stdin.readline()
for begin in range(0, len(rows), 8):
    label(rows[begin:begin + 8])
print("done", flush=True)
"""


def _computed_s() -> float:
    """Seconds that this process and its children have computed (Linux), whoever else is at work."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    spent = [Path(f"/proc/{pid}/schedstat").read_text().split()[0] for pid in ("self", *children)]
    return sum(map(int, spent)) / 1e9


def onnx(model: str, clips: int = 400, turns: int = 3) -> dict[str, Any]:
    """Clips per second of `label` with an ONNX teacher, against one interpreter per core.

    The interpreters run the same function without a parent: what they do together is all that the
    cores can do. Start and loading are not counted on either side. All are sessions of their own:
    Linux shares a busy machine among sessions. `share` is of the speed, `computed_share` of the
    time that the processors compute for a clip: other programs change only the former.
    """
    from wav2small.teachers.labelling.local import label_in_workers
    from wav2small.training.threads import available

    cores = available()
    seconds: dict[str, list[np.ndarray]] = {"workers": [], "interpreters": []}

    def now() -> np.ndarray:
        return np.array([time.perf_counter(), _computed_s()])

    with tempfile.TemporaryDirectory() as name:
        speak(Path(name), np.random.default_rng(0).uniform(1, 6, clips))
        rows, reader = rows_of(clips), reader_of(Path(name))

        def workers() -> np.ndarray:
            outcomes = label_in_workers(rows, reader, model, {"device": "cpu"}, workers=cores)
            for _ in range(2 * cores):  # until every worker has loaded its model
                next(outcomes)
            began, counted, took = now(), 0, np.zeros(2)
            for outcome in outcomes:
                counted += len(outcome.rows)
                took = now() - began  # the last one before the workers end
            return took / counted * clips

        def interpreters() -> np.ndarray:
            words = [sys.executable, "-c", _INTERPRETER, model, name]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            started: list[Any] = [
                subprocess.Popen([*words, str(number), str(cores)], env=environment, text=True,
                                 start_new_session=True,
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                for number in range(cores)
            ]  # fmt: skip
            assert {process.stdout.readline() for process in started} == {"ready\n"}
            began = now()
            for process in started:
                process.stdin.write("go\n")
                process.stdin.flush()
            assert {process.stdout.readline() for process in started} == {"done\n"}
            took = now() - began
            for process in started:
                process.communicate()
            return took

        for turn in range(turns):
            for way in (workers, interpreters)[:: 1 if turn % 2 else -1]:
                seconds[way.__name__].append(way())
    pairs = zip(seconds["interpreters"], seconds["workers"], strict=True)
    shares = np.array([alone / together for alone, together in pairs])
    median, computed = np.median(shares, axis=0)
    rates = {way: clips / np.median(took, axis=0)[0] for way, took in seconds.items()}
    shown = {"share": median, "computed_share": computed, "shares": shares.tolist()}
    return {"clips_per_s": rates, **shown}


_MILLION = """
import json, sys, time
began = time.perf_counter()
from wav2small.teachers.labelling import run as labelling
from wav2small.teachers.labelling.options import ComputeOptions
first = []
def shown(outcomes, *_):
    for outcome in outcomes:
        first.append(time.perf_counter() - began)
        yield outcome
        if sys.argv[4] == "begin" and len(first) > 20:
            raise KeyboardInterrupt
labelling._shown = shown
rows = None
try:
    rows = labelling.label(sys.argv[1], sys.argv[2], teacher=sys.argv[3], compute=ComputeOptions(workers=2)).rows
except KeyboardInterrupt:
    pass
from wav2small.benchmarks.memory import peak_bytes
print(json.dumps({"first_label_s": first[0] if first else None, "rows": rows,
    "took_s": time.perf_counter() - began, "resident_mb": peak_bytes() / 2**20}))
"""


def million(rows: int = 1_000_000) -> dict[str, Any]:
    """Peak memory of the main process and seconds to the first label, with a million rows.

    The run is begun with the acoustic teacher and broken off after its first labels; the shards
    of nearly all other rows are then written as a run would have, and the run goes on to its end.
    """
    import pandas as pd

    from wav2small.folders import Folder
    from wav2small.teachers.labelling.clips import Item, Outcome
    from wav2small.teachers.labelling.shards import Shards

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        speak(folder, np.full(10, 60.0))
        number = np.arange(rows)
        frame = pd.DataFrame(
            {
                "file": [f"{which:06d}.flac" for which in number % 10],
                "start": (number // 10 % 290) * 0.2,
                "end": (number // 10 % 290) * 0.2 + 1.0,
                "speaker": [f"speaker {which}" for which in number % 977],
            }
        )
        frame.to_parquet(folder / "index.parquet")
        del frame
        output = str(folder / "labels.parquet")

        def run(what: str) -> dict[str, Any]:
            words = [str(folder / "index.parquet"), output, "acoustic", what]
            command = [sys.executable, "-c", _MILLION, *words]
            return json.loads(subprocess.check_output(command, text=True))

        begun = run("begin")
        shards = Shards(Folder(output + ".parts"), every_s=1e9)
        left = np.flatnonzero(~shards.done(rows))[:-64]
        for begin in range(0, len(left), 20000):
            chosen = left[begin : begin + 20000]
            items = [Item(int(row), "", int(row) * 1000, None, 0, 1.0) for row in chosen]
            columns = dict.fromkeys(DIMENSIONS, np.full(len(chosen), 0.5, np.float32))
            shards.add(Outcome(chosen.tolist(), items, columns))
            shards.flush()
        ended = run("end")
    return {"begin": begun, "end": ended}


def main(arguments: list[str] | None = None) -> int:
    """Run one measurement and print it as JSON."""
    parser = studies.parser("labelling")
    verbs = parser.add_subparsers(dest="what", required=True)
    options: dict[Callable[..., dict[str, Any]], dict[str, Any]] = {
        acoustic: {"clips": 400},
        batches: {"clips": 24, "turns": 2, "batch-s": None},
        onnx: {"clips": 400, "turns": 3},
        million: {"rows": 1_000_000},
    }
    for function, defaults in options.items():
        verb = verbs.add_parser(function.__name__)
        verb.set_defaults(what=function)
        if function is onnx:
            verb.add_argument("model")
        for name, default in defaults.items():
            verb.add_argument(f"--{name}", type=float if default is None else int, default=default)
    given = vars(parser.parse_args(arguments))
    result = given.pop("what")(**given)
    print(json.dumps({**result, "cores": os.cpu_count()}, indent=2, default=float))
    return 0


if __name__ == "__main__":
    sys.exit(main())
