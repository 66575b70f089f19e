"""What fidelity costs: the table and the plot of `docs/results/students.md`, made from run folders.

    python -m wav2small.benchmarks.studies.pareto RUN [RUN ...] -o docs/results/students.md
    python -m wav2small.benchmarks.studies.pareto RUN --bundle BUNDLE -o docs/results/students.md
    python -m wav2small.benchmarks.studies.pareto RUN [RUN ...] --labels test.parquet -o docs/results/students.md

Fidelity is the agreement (CCC) of student and teacher on the clips of a label table, which should
be of voices that neither trained the student nor chose its epoch; without one, on the run's
held-out clips (`validation.parquet`). Costs are counted on the model in the folder; bytes are those
of the bundles' `model.onnx`. The document keeps its text: only what stands between the two marks is
written anew, and the plot is next to it as `students.png`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from wav2small import files, metrics
from wav2small.benchmarks import studies
from wav2small.dimensions import DIMENSIONS
from wav2small.errors import Wav2SmallError
from wav2small.students import costs, registry
from wav2small.tables import Labels, read_labels

from . import students as study

BEGIN = "<!-- students: begin, written by `python -m wav2small.benchmarks.studies.pareto` -->"
END = "<!-- students: end -->"


@dataclass
class Row:
    """A student, what it costs, and how well it repeats its teacher where that was measured."""

    name: str  # name in the registry
    parameters: int  # trainable numbers
    macs_per_second: int  # multiply-accumulates per second of audio, front end included
    macs_frontend: int  # those of the front end
    description: str = ""  # what it is for
    #: {dimension: Interval, "mean": Interval}; empty = not measured
    ccc: dict[str, metrics.Interval] = field(default_factory=dict)
    clips: int = 0  # held-out clips that were measured
    bytes: dict[str, int] = field(default_factory=dict)  # {precision: size of model.onnx}


def rows(
    runs: Sequence[str | Path],
    bundles: Sequence[str | Path] = (),
    labels: Labels | None = None,
) -> list[Row]:
    """All students of the registry, with the figures of the runs and bundles that are given.

    Of two runs of one student the later in the list counts. Fidelity is measured on the clips of
    `labels`; None = the run's own held-out clips.

    Raises:
        Wav2SmallError: a folder without what it must hold
    """
    found = {row["name"]: row for row in registry.list_students()}
    keep = ("name", "parameters", "macs_per_second", "macs_frontend", "description")
    table = {name: Row(**{key: row[key] for key in keep}) for name, row in found.items()}
    for run in runs:
        student = registry.load(run)
        row = table.setdefault(student.name, Row(student.name, 0, 0, 0))
        cost = costs.count(student)
        row.parameters, row.macs_per_second = cost.parameters, cost.macs_per_second
        row.macs_frontend = cost.macs_frontend
        if labels is None:
            teacher, answers = validation(Path(run) / "validation.parquet")
        else:
            every = np.arange(len(labels.frame))
            teacher, answers = study.predict(Path(run), labels, every)
        row.ccc, row.clips = fidelity(teacher, answers), len(teacher)
    for bundle in bundles:
        name, precision = _identity(Path(bundle))
        if name not in table:
            raise Wav2SmallError(f"{bundle}: a bundle of {name!r}, which is no student here")
        table[name].bytes[precision] = (Path(bundle) / "model.onnx").stat().st_size
    return list(table.values())


def validation(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Teacher's and student's A/D/V, each (clips, 3), of the validation.parquet of a run.

    Raises:
        Wav2SmallError: no such table, or columns missing
    """
    frame = read_labels(path).frame
    columns = [f"{dimension}_student" for dimension in DIMENSIONS]
    if missing := [column for column in columns if column not in frame]:
        raise Wav2SmallError(f"{path}: no column {missing[0]}; give the table `distill` wrote")
    teacher, student = frame[list(DIMENSIONS)], frame[columns]
    return teacher.to_numpy(dtype=np.float64), student.to_numpy(dtype=np.float64)


def fidelity(teacher: np.ndarray, student: np.ndarray) -> dict[str, metrics.Interval]:
    """CCC per dimension and their mean, with 95 % bootstrap intervals over clips."""
    result = {
        dimension: metrics.bootstrap(teacher[:, column], student[:, column])
        for column, dimension in enumerate(DIMENSIONS)
    }
    return result | {"mean": metrics.bootstrap(teacher, student, _mean_ccc)}


def _mean_ccc(truth: np.ndarray, prediction: np.ndarray) -> float:
    return float(np.mean([metrics.ccc(truth[:, i], prediction[:, i]) for i in range(3)]))


def _identity(bundle: Path) -> tuple[str, str]:
    """Student and precision of a bundle, from its provenance.json."""
    if not (bundle / "model.onnx").is_file():
        raise Wav2SmallError(f"{bundle}: no model.onnx in it; give a folder that `export` wrote")
    try:
        facts = json.loads((bundle / "provenance.json").read_text(encoding="utf-8"))["export"]
        return str(facts["student"]), str(facts["precision"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Wav2SmallError(
            f"{bundle}/provenance.json does not name student and precision this is; export it again"
        ) from error


def table(found: Sequence[Row]) -> str:
    """The rows as a Markdown table, cheapest first."""
    head = "| student | parameters | MMAC/s (front end) | KB | A | D | V | mean CCC [95 %] | for |"
    lines = [head, "|---|---|---|---|---|---|---|---|---|"]
    for row in sorted(found, key=lambda row: row.macs_per_second):
        size = ", ".join(f"{n / 1000:.0f} {p}" for p, n in sorted(row.bytes.items())) or "-"
        if row.ccc:
            mean = row.ccc["mean"]
            figures = [f"{row.ccc[dimension].value:.3f}" for dimension in DIMENSIONS]
            figures.append(f"**{mean.value:.3f}** [{mean.low:.3f}, {mean.high:.3f}]")
        else:
            figures = ["-"] * 4
        cost = f"{row.macs_per_second / 1e6:.1f} ({row.macs_frontend / 1e6:.1f})"
        cells = [f"`{row.name}`", f"{row.parameters:,}", cost, size, *figures, row.description]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def front(found: Sequence[Row]) -> list[Row]:
    """The measured rows that no other beats: each step costs more and is more faithful."""
    best, result = -np.inf, []
    measured = [row for row in found if row.ccc]
    for row in sorted(measured, key=lambda row: (row.macs_per_second, -row.ccc["mean"].value)):
        if row.ccc["mean"].value > best:
            best = row.ccc["mean"].value
            result.append(row)
    return result


def plot(found: Sequence[Row], path: str | Path) -> None:
    """Fidelity against multiply-accumulates, a line through the Pareto front."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    best = front(found)
    x = [row.macs_per_second / 1e6 for row in best]
    y = [row.ccc["mean"].value for row in best]
    axes.plot(x, y, "-", color="0.7", zorder=0)
    for row in (row for row in found if row.ccc):
        mean, macs = row.ccc["mean"], row.macs_per_second / 1e6
        error = [[mean.value - mean.low], [mean.high - mean.value]]
        axes.errorbar(macs, mean.value, yerr=error, fmt="o", color="C0" if row in best else "0.5")
        text, beside = f"{row.name}\n{row.parameters / 1000:,.0f}K", "offset points"
        axes.annotate(text, (macs, mean.value), xytext=(6, 4), textcoords=beside, fontsize=8)
    axes.set_xscale("log")
    axes.set_xticks(ticks := [2, 5, 10, 20, 50, 100, 200], [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.margins(x=0.2)  # room for the names
    axes.set_xlabel("million multiply-accumulates per second of audio")
    axes.set_ylabel("mean CCC with the teacher, held-out speakers")
    axes.grid(alpha=0.3)
    with files.atomic(path) as temporary:
        figure.savefig(temporary, dpi=150, metadata={"Software": None})


def update(document: str | Path, found: Sequence[Row]) -> None:
    """Write table and plot into a document, between the marks.

    Raises:
        Wav2SmallError: the document is not there or has no marks
    """
    document = Path(document)
    text = document.read_text(encoding="utf-8") if document.is_file() else ""
    if not 0 <= text.find(BEGIN) < text.find(END):
        raise Wav2SmallError(f"{document}: no lines {BEGIN} and {END} to write between")
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    parts = [table(found)]
    if any(row.ccc for row in found):
        image = document.with_suffix(".png")
        plot(found, image)
        clips = sorted({row.clips for row in found if row.ccc})
        parts.append(f"CCC with the teacher on {', '.join(map(str, clips))} held-out clips.")
        parts.append(f"![Fidelity against multiply-accumulates]({image.name})")
    with files.atomic(document) as temporary:
        middle = "\n\n".join([BEGIN, *parts, END])
        temporary.write_text(before + middle + after, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = studies.parser("pareto", (__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", nargs="*", metavar="RUN", help="run folders of `distill`")
    parser.add_argument("--bundle", action="append", default=[], metavar="FOLDER", help="for bytes")
    parser.add_argument("--labels", metavar="TABLE", help="label table to measure fidelity on")
    parser.add_argument("--root", help="folder that the table's files are relative to")
    parser.add_argument("-o", "--output", help="document to update; without it: print the table")
    args = parser.parse_args(arguments)
    try:
        labels = read_labels(args.labels, root=args.root) if args.labels else None
        found = rows(args.runs, args.bundle, labels)
        if args.output:
            update(args.output, found)
    except Wav2SmallError as error:
        print(f"pareto: {error}", file=sys.stderr)
        return 2
    if not args.output:
        print(table(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
