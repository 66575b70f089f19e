"""What an export costs: bytes, latency, memory and agreement, next to what was asked for.

    python -m wav2small.benchmarks.studies.export_sizes
    python -m wav2small.benchmarks.studies.export_sizes --run RUN [--run RUN ...] --json

Every student is exported here and now in every precision that the table names, and all files run
in one interleaved series: one thread, clips of 5 s. Without `--run` the weights are random (bytes,
latency and memory do not depend on them); with a trained run of that student its weights are
taken, and for `wav2small` the loss of CCC is measured on the run's validation set.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from wav2small import provenance
from wav2small.benchmarks import latency, memory, models, studies
from wav2small.errors import Wav2SmallError
from wav2small.export import export, verification
from wav2small.export.clips import collect
from wav2small.session import file_run
from wav2small.students import registry

DURATION_S = 5.0
SMALL = "mobilenetv4_conv_small"
FILES = (
    *("wav2small fp32", "wav2small int8", "wav2small int4", "wav2small2 int8"),
    *("nano fp32", "nano int8", f"{SMALL} fp32", f"{SMALL} int8"),
)
PLAIN = "wav2small plain"  # torch.onnx.export as it comes


class Row(NamedTuple):
    """A figure next to its bounds; smaller is better."""

    what: str
    measured: float | None
    required: float | None
    desired: float | None = None

    @property
    def verdict(self) -> str:
        """What the figure reaches."""
        if self.measured is None:
            return "not measured"
        if self.desired is not None and self.measured <= self.desired:
            return "desired"
        if self.required is None:
            return ""
        return "required" if self.measured <= self.required else "MISSED"


def measure(runs: Mapping[str, Path], *, rounds: int = 60) -> list[Row]:
    """Export, run and compare; `runs` are trained ones by student, in so many `rounds`."""
    with tempfile.TemporaryDirectory() as folder:
        paths: dict[str, Path] = {}
        signal = verification.signals()["voice"]
        difference = 0.0
        for key in FILES:
            name, precision = key.split()
            student = _student(name, runs)
            path = paths[key] = Path(folder, f"{name}-{precision}.onnx")
            lineage = _lineage(runs.get(name))
            path.write_bytes(export.build(student, precision, lineage=lineage).SerializeToString())
            if key == "wav2small fp32":
                paths[PLAIN] = Path(folder, "plain.onnx")
                _plain(student, paths[PLAIN])
                ours, plain = (file_run(file)(signal) for file in (path, paths[PLAIN]))
                difference = float(np.abs(ours - plain).max())
        opened = [models.WaveformModel(path) for path in paths.values()]
        times = latency.measure(opened, DURATION_S, runs=rounds)
        median = dict(zip(paths, np.median(times, axis=0), strict=True))
        kept = {key: path.stat().st_size for key, path in paths.items()}
        held = memory.measure(paths["wav2small fp32"], DURATION_S)
    drops = _drops(runs["wav2small"]) if "wav2small" in runs else {}

    def ratio(first: str, second: str) -> float:
        return float(median[first] / median[second])

    return [
        Row("wav2small int4, bytes", kept["wav2small int4"], 60_000, 48_000),
        *(Row(f"wav2small int4, CCC drop, {d}", drop, 0.01, 0.005) for d, drop in drops.items()),
        Row("wav2small2 int8, bytes", kept["wav2small2 int8"], 26_000, 20_000),
        Row("nano int8, bytes", kept["nano int8"], 34_000, 26_000),
        Row(f"{SMALL} int8, bytes", kept[f"{SMALL} int8"], 2_800_000),
        Row("fp32 / plain export, latency", ratio("wav2small fp32", PLAIN), 0.85, 0.70),
        Row("fp32 - plain export, outputs", difference, 1e-4),
        Row("int4 / fp32, latency", ratio("wav2small int4", "wav2small fp32"), 1.15, 1.0),
        Row(
            "nano int8 / wav2small fp32, latency", ratio("nano int8", "wav2small fp32"), 0.12, 0.06
        ),
        Row(f"nano int8 / {SMALL} fp32, latency", ratio("nano int8", f"{SMALL} fp32"), 0.30, 0.15),
        Row("wav2small fp32, one 5 s call, MB", held["activations_bytes"] / 1e6, 9, 5),
        Row("  with the loaded model, MB", held["above_runtime_bytes"] / 1e6, 9, 5),
        *(Row(f"{key}, ms", float(median[key]), None) for key in paths),
        *(Row(f"{key}, bytes", kept[key], None) for key in paths),
    ]


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = ["| | measured | required | desired | reaches |", "|---|---|---|---|---|"]
    for row in rows:
        numbers = " | ".join(_figure(value) for value in (row.measured, row.required, row.desired))
        lines.append(f"| {row.what} | {numbers} | {row.verdict} |")
    return "\n".join(lines)


def _student(name: str, runs: Mapping[str, Path]) -> Any:
    if name in runs:
        return registry.load(runs[name])
    torch.manual_seed(0)
    return registry.create(name).eval()


def _lineage(run: Path | None) -> dict[str, Any]:
    if run is not None:
        return registry.provenance(run)
    teacher = {"name": "acoustic", "id": "acoustic", "revision": "1", "licence": "MIT"}
    return provenance.new(teachers=[teacher], audio=[{"source": "speech", "licence": "CC0-1.0"}])


def _plain(student: Any, path: Path) -> None:
    """The same weights through torch.onnx.export."""

    class Outputs(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.student = student

        def forward(self, signal: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            embedding = self.student.embed(signal)
            return self.student.head(embedding), embedding

    torch.onnx.export(
        Outputs(),
        (torch.randn(1, 32000),),
        path,
        input_names=["signal"],
        output_names=["logits", "hidden_states"],
        dynamic_axes={"signal": {1: "time"}},
        opset_version=17,
        dynamo=False,
    )


def _drops(run: Path) -> dict[str, float]:
    """CCC with the teacher: torch minus the int4 file, on the run's validation set."""
    student = _student("wav2small", {"wav2small": run})
    audio = collect(run)
    if audio.teacher is None:
        return {}
    model = export.build(student, "int4", calibration=audio.signals).SerializeToString()
    sides = [
        np.array([side(signal) for signal in audio.signals])
        for side in (verification.student_run(student), file_run(model))
    ]
    return verification.agreement(audio.teacher, *sides)["drop"]


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.2e}" if 0 < abs(value) < 1e-3 else f"{value:.3f}"


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = studies.parser("export_sizes")
    parser.add_argument("--run", action="append", default=[], metavar="RUN", type=Path)
    parser.add_argument("--rounds", type=int, default=60, help="interleaved (default: 60)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(arguments)
    try:
        runs = {registry.read_config(run)["student"]: run for run in args.run}
        rows = measure(runs, rounds=args.rounds)
    except Wav2SmallError as error:
        print(f"export_sizes: {error}", file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps([{**row._asdict(), "reaches": row.verdict} for row in rows], indent=2))
    else:
        print(table(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
