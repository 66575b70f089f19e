"""The sections of a report: each turns evidence into figures, tables and players."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wav2small import metrics, provenance
from wav2small.benchmarks import tables
from wav2small.benchmarks.audit import tables as audit_tables
from wav2small.dimensions import DIMENSIONS

from . import plots
from .evidence import Bundle, Evidence, Run


@dataclass
class Table:
    """Header and rows; `open` = shown without being asked for."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    open: bool = False


@dataclass
class Section:
    """One heading of the page with what stands under it, in this order.

    Attributes:
        ident: anchor
        title: heading
        text: paragraphs
        figures: (SVGs, one per panel, caption)
        tables: of the numbers behind the figures
        clips: players, see `players.choose`
        code: commands
    """

    ident: str
    title: str
    text: list[str] = field(default_factory=list)
    figures: list[tuple[list[str], str]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    clips: list[dict[str, Any]] = field(default_factory=list)
    code: str = ""


def overview(evidence: Evidence) -> Section:
    """What each bundle is, in one table."""
    section = Section("overview", "At a glance")
    rows = []
    for bundle in evidence.bundles:
        cost = _costs(evidence, bundle.name) or {}
        latency = {point["duration_s"]: point["p50_ms"] for point in cost.get("latency", ())}
        memory = {
            point["duration_s"]: point["above_runtime_bytes"] for point in cost.get("memory") or ()
        }
        ccc = _ccc(bundle, "after")
        rows.append(
            [
                bundle.name,
                bundle.record.get("precision", "-"),
                tables.size(_bytes(bundle)),
                f"{bundle.record['parameters']:,}" if "parameters" in bundle.record else "-",
                tables.amount(cost.get("cost", {}).get("macs_per_s")),
                tables.milliseconds(latency.get(5.0)),
                tables.size(memory.get(5.0)),
                *(audit_tables.number(ccc.get(name)) for name in DIMENSIONS),
            ]
        )
    if rows:
        header = (
            "bundle|precision|file|parameters|MACs/s of audio|5 s of audio, ms|memory above the "
            "runtime, 5 s"
        ).split("|") + [f"CCC with the teacher, {name}" for name in DIMENSIONS]
        section.tables.append(Table("Bundles", header, rows, open=True))
        section.text.append(
            "CCC: concordance correlation coefficient, 1 = the same, 0 = what a random model "
            "scores. With the teacher: on held-out clips of the run, from the bundle's own "
            "verification. Latency: median on one thread."
        )
    for run in evidence.runs:
        if run.note:
            section.text.append(f"Run {run.name}: {run.note}.")
    return section


def training(run: Run, number: int) -> Section | None:
    """Loss and CCC over the epochs of a run."""
    if not run.rows:
        return None
    epochs = [row["epoch"] for row in run.rows]
    ident = f"training-{number}"
    section = Section(ident, f"Training of {run.name}", [run.note] if run.note else [])
    series: dict[str, list[plots.Line]] = {
        "loss": [("loss", epochs, [row["loss"] for row in run.rows])],
        "CCC with the teacher": [
            (name, epochs, [row[f"ccc_{name}"] for row in run.rows]) for name in DIMENSIONS
        ],
    }
    last = run.rows[-1]
    section.figures.append(
        (
            plots.lines(
                {"CCC with the teacher": series["CCC with the teacher"], "loss": series["loss"]},
                ident=ident,
                description=f"Over {len(epochs)} epochs the mean CCC on held-out clips went from "
                f"{run.rows[0]['ccc_mean']:.2f} to {last['ccc_mean']:.2f}.",
                x_label="epoch",
            ),
            "Agreement with the teacher on held-out clips, and loss, after each epoch.",
        )
    )
    header = ["epoch", "phase", "loss", *(f"CCC {name}" for name in (*DIMENSIONS, "mean"))]
    section.tables.append(
        Table(
            "Every epoch",
            header,
            [
                [f"{row['epoch']:g}", str(row.get("phase", "")), f"{row['loss']:.4f}"]
                + [audit_tables.number(row[f"ccc_{name}"]) for name in (*DIMENSIONS, "mean")]
                for row in run.rows
            ],
        )
    )
    return section


def agreement(
    ident: str, title: str, truth: np.ndarray, estimate: np.ndarray, *, whose: str
) -> Section:
    """Estimates over truth, for clips rated in all dimensions."""
    section = Section(ident, title)
    summary = metrics.summary(truth, estimate, n=500)
    said = ", ".join(f"{name} {summary[name]['ccc'].value:.2f}" for name in DIMENSIONS)
    section.figures.append(
        (
            plots.scatter(
                truth,
                estimate,
                ident=ident,
                description=f"{len(truth)} clips; CCC {said}.",
                x_label=whose,
            ),
            "One dot per clip (at most 400); on the line, both say the same.",
        )
    )
    rows = [
        [name, *(f"{one.value:.3f} [{one.low:.3f} {one.high:.3f}]" for one in figures.values())]
        for name, figures in summary.items()
    ]
    section.tables.append(
        Table(f"Agreement over {len(truth)} clips", ["", "CCC", "PCC", "MAE"], rows, open=True)
    )
    bins = np.clip((truth * 10).astype(int), 0, 9)
    rows = []
    for step in range(10):
        cells = []
        for column in range(3):
            members = estimate[bins[:, column] == step, column]
            cells.append(f"{members.mean():.2f} ({len(members)})" if len(members) else "-")
        rows.append([f"{step / 10:.1f} to {(step + 1) / 10:.1f}", *cells])
    section.tables.append(
        Table(f"Mean of the student (clips) where {whose} says", [whose, *DIMENSIONS], rows)
    )
    return section


def pareto(evidence: Evidence) -> Section | None:
    """What agreement costs, over all bundles."""
    points: list[dict[str, Any]] = []
    for bundle in evidence.bundles:
        ccc = _ccc(bundle, "after")
        if not ccc:
            continue
        cost = _costs(evidence, bundle.name) or {}
        latency = {point["duration_s"]: point["p50_ms"] for point in cost.get("latency", ())}
        points.append(
            {
                "name": bundle.name,
                "ccc": float(np.mean(list(ccc.values()))),
                "kilobytes": _bytes(bundle) / 1000,
                "milliseconds": latency.get(5.0),
            }
        )
    if not points:
        return None
    axes = [("kilobytes", "file, KB")]
    if any(point["milliseconds"] for point in points):
        axes.append(("milliseconds", "5 s of audio on one thread, ms"))
    return Section(
        "pareto",
        "Size, latency and agreement",
        figures=[
            (
                plots.pareto(
                    points,
                    axes,
                    ident="pareto",
                    description="; ".join(
                        f"{point['name']}: {point['kilobytes']:.0f} KB, mean CCC {point['ccc']:.3f}"
                        for point in points
                    ),
                ),
                "Better is up and to the left.",
            )
        ],
        tables=[
            Table(
                "Size, latency and agreement",
                ["bundle", "file, KB", "5 s, ms", "mean CCC"],
                [
                    [
                        point["name"],
                        f"{point['kilobytes']:.1f}",
                        tables.milliseconds(point["milliseconds"]),
                        audit_tables.number(point["ccc"]),
                    ]
                    for point in points
                ],
            )
        ],
    )


def costs(result: dict[str, Any], number: int) -> Section:
    """Latency and memory against length."""
    from wav2small.benchmarks import machine

    ident = f"costs-{number}"
    section = Section(ident, "Latency and memory against length", [machine.line(result["machine"])])
    section.text += filter(None, [machine.busy(result["machine"])])
    names = [model["name"] for model in result["models"]]
    latency: list[plots.Line] = [
        (
            model["name"],
            [point["duration_s"] for point in model["latency"]],
            [point["p50_ms"] for point in model["latency"]],
        )
        for model in result["models"]
    ]
    memory: list[plots.Line] = [
        (
            model["name"],
            [point["duration_s"] for point in model["memory"]],
            [point["above_runtime_bytes"] / 1e6 for point in model["memory"]],
        )
        for model in result["models"]
        if model.get("memory")
    ]
    series: dict[str, list[plots.Line]] = {"latency (median), ms": latency}
    if memory:
        series["memory above the runtime, MB"] = memory
    growth = "\n".join(tables.growth(result)).splitlines()
    section.text += growth
    section.figures.append(
        (
            plots.lines(
                series,
                ident=ident,
                description=f"Of {', '.join(names)}. " + " ".join(growth),
                x_label="clip, s",
                logarithmic=True,
            ),
            "Both axes logarithmic: a straight line of slope one is linear growth.",
        )
    )
    section.tables.append(Table("Latency", *tables.latency(result)))
    if memory:
        section.tables.append(Table("Memory, load and first call", *tables.memory(result)))
    if result["pairs"]:
        section.tables.append(Table("Pair by pair", *tables.pairs(result)))
    section.tables.append(Table("Cost model", *tables.overview(result)))
    return section


def lineage(evidence: Evidence) -> Section:
    """Provenance and licences of everything on the page."""
    section = Section("provenance", "Provenance and licences")
    rows = []
    for one in _holders(evidence):
        entries = one.provenance
        if not entries:
            section.text.append(
                f"{one.name}: no provenance.json; nothing is known of its licences."
            )
            continue
        section.text.append(f"{one.name}: {provenance.licence_line(entries)}")
        for teacher in entries.get("teachers", ()):
            which = f"{teacher.get('name')} ({teacher.get('id')})"
            revision = str(teacher.get("revision", "-"))
            licence = teacher.get("licence") or provenance.UNKNOWN
            rows.append([one.name, "teacher", which, revision, licence])
        for audio in entries.get("audio", ()):
            licence = audio.get("licence") or provenance.UNKNOWN
            rows.append([one.name, "audio", str(audio.get("source")), "-", licence])
        code = entries.get("code", {})
        version = entries.get("versions", {}).get("wav2small", "-")
        rows.append([one.name, "code", code.get("name", "?"), version, code.get("licence", "?")])
    if rows:
        header = ["of", "what", "which", "revision", "licence"]
        section.tables.append(Table("Lineage", header, rows, open=True))
    return section


def commands(evidence: Evidence, made_by: str) -> Section:
    """The commands that lead to this page."""
    lines = []
    for one in _holders(evidence):
        teachers = [teacher.get("name", "?") for teacher in one.provenance.get("teachers", ())]
        for audio in one.provenance.get("audio", ()):
            for teacher in teachers:
                lines.append(f"wav2small label {audio.get('source')} -o labels.parquet "
                             f"--teacher {teacher}")  # fmt: skip
        settings = one.provenance.get("distillation", {}).get("settings", {})
        if settings:
            shown = " ".join(
                f"--{name.replace('_', '-')} {settings[name]}"
                for name in ("student", "epochs", "crop_s", "batch_size", "seed")
                if name in settings
            )
            lines.append(f"wav2small distill labels.parquet -o run/ {shown}")
        if isinstance(one, Bundle) and "precision" in one.record:
            lines.append(
                f"wav2small export run/ -o {one.path} --precision {one.record['precision']}"
            )
    for result in evidence.benchmarks:
        names = " ".join(model["path"] for model in result["models"])
        lengths = " ".join(f"{length:g}" for length in result["settings"]["durations_s"])
        lines.append(f"wav2small benchmark {names} --durations {lengths} "
                     f"--runs {result['settings']['runs']} --json")  # fmt: skip
    for result in evidence.audits:
        settings = result["settings"]
        extra = "".join(
            f" --teacher {one['spec']}" if one["kind"] == "teacher" else f" --beside {one['spec']}"
            for one in settings["listeners"][1:]
        )
        extra += "".join(
            f" --{name} {value}" for name, value in settings.get("options", {}).items()
        )
        limit = f" --limit {settings['limit']}" if settings["limit"] else ""
        lines.append(f"wav2small audit {result['bundle']['path']} {result['source']}{extra}{limit} "
                     f"--seed {settings['seed']} -o audit.json")  # fmt: skip
    lines.append(made_by)
    return Section("commands", "Commands", code="\n".join(dict.fromkeys(lines)))


def _holders(evidence: Evidence) -> Iterable[Run | Bundle]:
    return [*evidence.runs, *evidence.bundles]


def _costs(evidence: Evidence, name: str) -> dict[str, Any] | None:
    for result in evidence.benchmarks:
        for model in result["models"]:
            if model["name"] == name:
                return model
    return None


def _ccc(bundle: Bundle, when: str) -> dict[str, float]:
    found = (bundle.record.get("ccc") or {}).get(when) or {}
    return {name: entry["value"] for name, entry in found.items() if entry.get("value") is not None}


def _bytes(bundle: Bundle) -> int:
    path = bundle.path / "model.onnx" if bundle.path.is_dir() else bundle.path
    return path.stat().st_size
