"""What one GPU does with the toolkit: labelling with a large teacher, distillation of two students.

    python -m wav2small.benchmarks.studies.gpu                         # under eight minutes
    python -m wav2small.benchmarks.studies.gpu --device cpu --tiny     # the same path, small shapes

Audio is synthetic and weights are random: neither changes how long the arithmetic takes. Sections
run one after the other; one that fails is reported and loses no other's figures. Everything is
printed as JSON and as a Markdown table, and written to the folder `--output` after every section.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from wav2small.benchmarks import studies

RATE = 16000
TINY_WAVLM = {
    "model_type": "wavlm",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "conv_dim": [32] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
}


@dataclass
class Scale:
    """How much of everything."""

    files: int = 1000  # recordings that are synthesised
    clips: int = 24000  # recordings that are labelled, links to those
    warm: int = 1500  # of them, labelled once before the clock runs
    epochs: int = 4  # of a distillation with batches of 16; more with larger ones
    repeats: int = 5  # of a forward pass that is timed by itself
    #: (student, batch size, precision) that are distilled
    runs: tuple[tuple[str, int, str], ...] = (
        ("wav2small", 16, "fp32"),
        ("wav2small", 128, "fp32"),
        ("mobilenetv4_conv_small", 16, "fp32"),
        ("mobilenetv4_conv_small", 128, "fp32"),
    )


TINY = Scale(12, 24, 6, 2, 1, (("wav2small", 4, "fp32"), ("mobilenetv4_conv_small", 4, "fp32")))


def speak(folder: Path, seconds: np.ndarray) -> None:
    """Write FLAC files of speech-like noise, 000000.flac and so on, of these durations."""
    import soundfile

    folder.mkdir(parents=True, exist_ok=True)

    def write(number: int) -> None:
        random = np.random.default_rng(number)
        time_s = np.arange(int(seconds[number] * RATE)) / RATE
        pitch_hz = random.uniform(80, 250) * (1 + 0.1 * np.sin(2 * np.pi * time_s))
        voice = np.cumsum(pitch_hz / RATE) % 1 - 0.5
        envelope = np.clip(np.sin(2 * np.pi * 4 * time_s) + 0.5, 0, None)
        signal = envelope * (0.1 * voice + 0.02 * random.normal(size=len(time_s)))
        signal += 1e-3 * random.normal(size=len(time_s))
        soundfile.write(folder / f"{number:06d}.flac", signal, RATE)

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, range(len(seconds))))


def random_teacher(folder: Path, backbone: dict[str, Any] | None, **options: Any) -> Any:
    """A random checkpoint in the layout of the published WavLM teacher, loaded as a user's.

    Args:
        folder: of the checkpoint, in bfloat16
        backbone: configuration of transformers; None = WavLM-large
        options: of `load_teacher`
    """
    import torch
    from safetensors.torch import save_file

    from wav2small.teachers import load_teacher
    from wav2small.teachers.speech import checkpoint, wavlm

    config = {"model_type": "ser", "mean": 0.0, "std": 0.1, "num_classes": 3}
    config |= {"classifier_hidden_layers": 1, "ssl_type": "microsoft/wavlm-large"}
    config["hidden_size"] = backbone["hidden_size"] if backbone else 1024
    if backbone:
        config["ssl_config"] = backbone
    torch.manual_seed(0)
    with torch.device(options["device"]):
        state = wavlm.WavlmNetwork(config).state_dict().items()
    folder.mkdir(exist_ok=True)
    weights = {checkpoint.published(k): v.to("cpu", torch.bfloat16).contiguous() for k, v in state}
    save_file(weights, folder / checkpoint.WEIGHTS)
    (folder / checkpoint.CONFIG).write_text(json.dumps(config))
    return load_teacher(str(folder), **options)


@dataclass
class Study:
    """What the sections share."""

    folder: Path  # of everything that is made
    output: Path  # where figures go
    device: str  # "cuda" or "cpu"
    scale: Scale  # how much
    tiny: bool  # a teacher of two narrow layers instead of one as large as WavLM-large

    @functools.cached_property
    def teacher(self) -> Any:
        """As large as the published one, in bfloat16."""
        backbone = TINY_WAVLM if self.tiny else None
        return random_teacher(
            self.folder / "teacher", backbone, device=self.device, dtype="bfloat16"
        )

    @functools.cached_property
    def seconds(self) -> np.ndarray:
        """Durations of the recordings, which are made now: 2 to 12 s."""
        seconds = np.random.default_rng(0).uniform(2, 12, self.scale.files)
        speak(self.folder / "speech", seconds)
        return seconds

    def links(self, name: str, count: int) -> Path:
        """A folder with `count` recordings, hard links to those there are."""
        files = len(self.seconds)
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        for number in range(count):
            own = self.folder / "speech" / f"{number % files:06d}.flac"
            os.link(own, folder / f"{number:06d}.flac")
        return folder

    def labels(self, name: str, count: int) -> Any:
        """A label table of the first `count` recordings of a folder, with random labels."""
        import pandas as pd

        from wav2small.tables import Labels

        seconds = self.seconds[np.arange(count) % len(self.seconds)]
        values = np.random.default_rng(0).uniform(0.2, 0.8, (count, 3))
        frame = pd.DataFrame(
            {
                "file": [f"{row:06d}.flac" for row in range(count)],
                "start": pd.to_timedelta(np.zeros(count), unit="s").astype("timedelta64[ns]"),
                "end": pd.to_timedelta(seconds.round(3), unit="s").astype("timedelta64[ns]"),
                **dict(zip(("arousal", "dominance", "valence"), values.T, strict=True)),
            }
        )
        return Labels(frame, str(self.folder / name))

    def batch(self, seconds: float, clip_s: float = 7.0) -> tuple[np.ndarray, np.ndarray]:
        """A batch of noise, clips of nearly the same length, as buckets give them."""
        count = max(2, int(seconds / clip_s))
        lengths = np.linspace(0.97 * clip_s * RATE, clip_s * RATE, count).astype(np.int64)
        batch = np.random.default_rng(0).normal(scale=0.1, size=(count, lengths.max()))
        batch[np.arange(batch.shape[1]) >= lengths[:, None]] = 0
        return batch.astype(np.float32), lengths


def label(study: Study) -> dict[str, Any]:
    """`wav2small label` from files to the table, with the teacher loaded before."""
    from wav2small import workers
    from wav2small.teachers.labelling import run

    teacher, count = study.teacher, study.scale.clips
    run.label(study.links("warm", study.scale.warm), study.folder / "w.parquet", teacher=teacher)
    folder = study.links("clips", count)
    audio_s = float(study.seconds[np.arange(count) % len(study.seconds)].sum())
    begun: list[tuple[float, float, float]] = []  # when, seconds of audio, with padding
    spent = {"launch": 0.0, "wait_for_device": 0.0, "wait_for_audio": 0.0}
    launch = teacher.launch

    def launched(batch: np.ndarray, lengths: np.ndarray, *rest: Any) -> Callable[[], Any]:
        begun.append((time.perf_counter(), lengths.sum() / RATE, batch.size / RATE))
        return clocked(launch(batch, lengths, *rest), spent, "wait_for_device")

    receive = clocked(workers.Pool.receive, spent, "wait_for_audio")
    with (
        patch.object(teacher, "launch", clocked(launched, spent, "launch")),
        patch.object(workers.Pool, "receive", receive),
        busy(study.device) as share,
    ):
        began = time.perf_counter()
        result = run.label(folder, study.folder / "labels.parquet", teacher=teacher)
        took_s = time.perf_counter() - began
    figures = {
        "clips": result.rows,
        "rejected": result.errors,
        "audio_hours": audio_s / 3600,
        "took_s": took_s,
        "x_real_time": audio_s / took_s,
        "busy_percent_of_the_call": share(began, began + took_s),
        "batches": len(begun),
        "padding_percent": 100 * (1 - sum(own for _, own, _ in begun) / sum(b[2] for b in begun)),
        "seconds_of_the_main_process": spent,
    }
    if len(begun) > 4:  # without the start of the workers and the table at the end
        first, last = begun[1][0], begun[-1][0]
        figures["steady_x_real_time"] = sum(own for _, own, _ in begun[1:-1]) / (last - first)
        figures["steady_busy_percent"] = share(first, last)
    return figures


def forward(study: Study) -> dict[str, Any]:
    """The teacher by itself: transformers' forward pass against ours, sizes of a batch, kernels."""
    import torch

    from wav2small.teachers.speech import inference

    teacher = study.teacher
    rates: dict[str, float] = {}
    sizes = (4.0,) if study.tiny else (150.0, 300.0, 600.0, 1200.0)
    for way, fits in (("ours", inference.fits), ("transformers", _never)):
        try:
            with patch.object(inference, "fits", fits):
                for batch_s in sizes if way == "ours" else (sizes[-1] / 2,):
                    batch, lengths = study.batch(batch_s)
                    took = []
                    for _ in range(study.scale.repeats + 2):
                        began = time.perf_counter()
                        teacher.launch(batch, lengths)()
                        took.append(time.perf_counter() - began)
                    rate = lengths.sum() / RATE / statistics.median(took[2:] or took)
                    rates[f"{way}, {batch_s:g} s"] = rate
                if study.device == "cuda":
                    profile(study, way)
        except Exception as error:  # the other way's figures stay
            rates[f"{way}: {type(error).__name__}: {str(error)[:200]}"] = 0.0
    result: dict[str, Any] = {"x_real_time": rates}
    if study.device == "cuda":
        result["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return result


def _never(model: Any) -> bool:
    """In place of `inference.fits`: no model takes our forward pass."""
    return False


def profile(study: Study, way: str) -> None:
    """Write which kernels the time goes to."""
    import torch

    batch, lengths = study.batch(600.0)
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiler:
        study.teacher.launch(batch, lengths)()
    table = profiler.key_averages().table(
        sort_by="self_cuda_time_total", row_limit=40, max_name_column_width=90
    )
    (study.output / f"kernels_{way}.txt").write_text(table)


def closeness(study: Study) -> dict[str, Any]:
    """How far bfloat16 is from float32, ours and transformers'."""
    from wav2small.teachers import load_teacher
    from wav2small.teachers.speech import inference

    rough = study.teacher
    exact = load_teacher(str(study.folder / "teacher"), device=study.device, dtype="float32")
    batch, lengths = study.batch(14.0 if study.tiny else 112.0)
    with patch.object(inference, "fits", _never):
        truth = exact.predict(batch, lengths)
        theirs = rough.predict(batch, lengths)
    ways = {
        "ours, float32": exact.predict(batch, lengths),
        "ours, bfloat16": rough.predict(batch, lengths),
        "transformers, bfloat16": theirs,
    }
    return {
        "spread_of_the_labels": float(truth.std(axis=0).mean()),
        "largest_difference": {way: float(np.abs(x - truth).max()) for way, x in ways.items()},
    }


def distil(study: Study) -> list[dict[str, Any]]:
    """Steps per second and the share of time spent waiting for audio, for each run."""
    return [_distilled(study, number) for number in range(len(study.scale.runs))]


def _distilled(study: Study, number: int) -> dict[str, Any]:
    from wav2small.students import data
    from wav2small.students.distillation import distill

    student, batch_size, precision = study.scale.runs[number]
    run: dict[str, Any] = {"student": student, "batch_size": batch_size, "precision": precision}
    epochs: list[dict[str, float]] = []
    plain = data.Batcher.epoch

    def timed(batcher: Any, *arguments: Any, **options: Any) -> Iterator[Any]:
        batches = iter(plain(batcher, *arguments, **options))
        epoch = {"steps": 0.0, "waiting_s": 0.0, "took_s": 0.0}
        epochs.append(epoch)
        took = clocked(batches.__next__, epoch, "waiting_s")
        began = time.perf_counter()
        while True:
            try:
                batch = took()
            except StopIteration:
                return
            finally:
                epoch["took_s"] = time.perf_counter() - began
            epoch["steps"] += 1
            yield batch

    try:
        with patch.object(data.Batcher, "epoch", timed), busy(study.device) as share:
            began = time.perf_counter()
            distill(
                study.labels("speech", len(study.seconds)),
                study.folder / f"run{number}",
                epochs=study.scale.epochs * max(1, batch_size // 32),
                device=study.device,
                **run,
            )
            run["took_s"] = time.perf_counter() - began
            run["busy_percent_of_the_call"] = share(began, time.perf_counter())
    except Exception:
        run["error"] = traceback.format_exc()[-1500:]
    later = epochs[1:] or epochs
    if later and later[-1]["steps"]:
        took_s = sum(epoch["took_s"] for epoch in later)
        run["steps_per_second"] = sum(epoch["steps"] for epoch in later) / took_s
        run["waiting_percent"] = 100 * sum(epoch["waiting_s"] for epoch in later) / took_s
        run["first_epoch_over_later"] = epochs[0]["took_s"] / (took_s / len(later))
    return run


def clocked(function: Callable[..., Any], spent: dict[str, float], name: str) -> Any:
    """The same function, which adds the time of each call to a figure."""

    def call(*arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            spent[name] += time.perf_counter() - began

    return call


@contextmanager
def busy(device: str) -> Iterator[Callable[[float, float], float | None]]:
    """Watch a GPU; gives a function: the mean share of time with a kernel at work, in percent."""
    samples: list[tuple[float, float]] = []
    stop = threading.Event()

    def watch(read: Callable[[], float]) -> None:
        while not stop.wait(0.1):
            samples.append((time.perf_counter(), read()))

    def share(begin: float, end: float) -> float | None:
        inside = [value for when, value in samples if begin <= when <= end]
        return statistics.mean(inside) if inside else None

    with ThreadPoolExecutor() as pool:
        try:
            if device == "cuda":
                pool.submit(watch, _utilisation())
            yield share
        finally:
            stop.set()


def _utilisation() -> Callable[[], float]:
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        return lambda: float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    except Exception:  # no such package, or a driver that does not answer it
        query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        return lambda: float(subprocess.check_output(query, text=True).split()[0])


def describe(device: str) -> dict[str, Any]:
    """The machine, and the versions that matter."""
    import torch
    import transformers

    from wav2small.benchmarks import machine

    found = {"cpu": machine.describe()["processor"], "cores": os.cpu_count()}
    found |= {"python": platform.python_version(), "torch": torch.__version__}
    found["transformers"] = transformers.__version__
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
        found["gpu_gib"] = round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1)
        found["cuda"] = torch.version.cuda
    return found


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown."""
    machine = result.get("machine", {})
    where = f"{machine.get('gpu', machine.get('cpu'))}, {machine.get('cores')} cores"
    lines = [f"| {where}, torch {machine.get('torch')} | |", "|---|---|"]

    def flat(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, entry in value.items():
                flat(f"{name}: {key}", entry)
        elif isinstance(value, list):
            for entry in value:
                kind = [str(entry.pop(key)) for key in ("student", "batch_size", "precision")]
                flat(f"{name} {' '.join(kind)}", entry)
        else:
            shown = f"{value:.4g}" if isinstance(value, float) else str(value)
            lines.append(f"| {name} | {shown.strip().splitlines()[-1] if shown else ''} |")

    for name, value in json.loads(json.dumps(result)).items():
        if name != "machine":
            flat(name, value)
    return "\n".join(lines)


SECTIONS = (label, forward, closeness, distil)


def main(arguments: list[str] | None = None) -> int:
    """Run the sections; 1 where one failed."""
    parser = studies.parser("gpu")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="small shapes, to try the path")
    parser.add_argument("--only", help="sections, with commas: label,distil,forward ...")
    parser.add_argument("--output", default=os.environ.get("OUT", "gpu"), help="folder of results")
    parser.add_argument("--limit-s", type=float, default=400, help="begin no section after this")
    options = parser.parse_args(arguments)
    began = time.perf_counter()
    output = Path(options.output).resolve()
    output.mkdir(parents=True, exist_ok=True)
    names = options.only.split(",") if options.only else [one.__name__ for one in SECTIONS]
    result: dict[str, Any] = {}
    failed = False
    with tempfile.TemporaryDirectory() as name:
        scale = TINY if options.tiny else Scale()
        study = Study(Path(name), output, options.device, scale, options.tiny)
        sections = [(section, globals()[section]) for section in names]
        for section, measure in [("machine", lambda _: describe(options.device)), *sections]:
            start = time.perf_counter()
            if start - began > options.limit_s:
                result[section] = "left out: no time"
                continue
            try:
                result[section] = measure(study)
            except Exception:
                failed = True
                result[section] = {"error": traceback.format_exc()[-2500:]}
            took_s = time.perf_counter() - start
            result.setdefault("section_s", {})[section] = round(took_s, 1)
            text = json.dumps(result, indent=1, default=float)
            (output / "gpu.json").write_text(text)
            print(f"{section}: {took_s:.1f} s", file=sys.stderr, flush=True)
    (output / "gpu.md").write_text(table(result) + "\n")
    print(text)
    print(table(result))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
