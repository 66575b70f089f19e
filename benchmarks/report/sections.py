"""The sections of a report about runs, bundles and benchmarks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from wav2small import metrics, provenance
from wav2small.benchmarks import machine, tables
from wav2small.dimensions import DIMENSIONS

from . import plots
from .evidence import BundleEvidence, Evidence, RunEvidence

OWN = "student_probability_"  # begins the columns of a run's student in its validation.parquet


@dataclass
class Section:
    """One heading of the page with what stands under it, in this order."""

    ident: str  # anchor
    title: str  # heading
    text: list[str] = field(default_factory=list)  # paragraphs
    figures: list[tuple[list[str], str]] = field(default_factory=list)  # (SVG elements, caption)
    #: (caption, table element, shown at once)
    tables: list[tuple[str, str, bool]] = field(default_factory=list)
    #: audio clips, see `audit_sections.worst_clips`
    clips: list[dict[str, Any]] = field(default_factory=list)
    code: str = ""  # commands

    def draw(
        self, drawings: dict[str, plots.Draw], caption: str, description: str, height: float = 3.0
    ) -> None:
        """Add a figure."""
        panels = plots.panels(drawings, ident=self.ident, description=description, height=height)
        self.figures.append((panels, caption))

    def add(self, caption: str, frame: pd.DataFrame, *, shown: bool = False) -> None:
        """Add a table."""
        self.tables.append((caption, tables.html(frame, caption), shown))


def overview(evidence: Evidence) -> Section:
    """What each bundle is, in one table, and what its agreement costs, in one figure."""
    section = Section("overview", "At a glance")
    rows, points = [], []
    for bundle in evidence.bundles:
        cost = evidence.costs(bundle)
        latency, memory = (
            {point["duration_s"]: point[key] for point in cost.get(kind) or ()}.get(5.0)
            for kind, key in (("latency", "p50_ms"), ("memory", "above_runtime_bytes"))
        )
        rows.append(
            [
                bundle.name,
                bundle.record.get("precision", "-"),
                tables.size(bundle.bytes),
                f"{bundle.record['parameters']:,}" if "parameters" in bundle.record else "-",
                tables.amount(cost.get("cost", {}).get("macs_per_s")),
                tables.milliseconds(latency),
                tables.size(memory),
                *(tables.number(bundle.ccc.get(name)) for name in DIMENSIONS),
            ]
        )
        if bundle.ccc:
            mean = np.mean([*bundle.ccc.values()])
            points.append((bundle.name, bundle.bytes / 1000, latency, mean))
    drawings = {}
    for place, label in ((1, "file, KB"), (2, "5 s of audio on one thread, ms")):
        known = [(point[0], point[place], point[3]) for point in points if point[place]]
        if len(known) > 1:  # one point is no comparison
            drawings[f"CCC against {label.split(',')[0]}"] = plots.pareto(known, x_label=label)
    if drawings:
        described = (f"{name}: {size:.0f} KB, mean CCC {ccc:.3f}" for name, size, _, ccc in points)
        caption = "Size, latency and agreement with the teacher: better is up and to the left."
        section.draw(drawings, caption, "; ".join(described), height=3.6)
    if rows:
        header = "bundle|precision|file|parameters|MACs/s of audio|5 s of audio, ms|memory, 5 s"
        names = [*header.split("|"), *(f"CCC, {name}" for name in DIMENSIONS)]
        section.add("Bundles", tables.table(names, rows), shown=True)
        section.text.append(
            "CCC: concordance correlation coefficient with the teacher, 1 = the same, 0 = a random "
            "model; on held-out clips of the run, from the bundle's own verification. Latency: "
            "median on one thread. Memory: above the runtime."
        )
    section.text += [f"Run {run.name}: {run.note}." for run in evidence.runs if run.note]
    return section


def training(run: RunEvidence, number: int) -> Section:
    """Loss and CCC over the epochs of a run."""
    text, rows = list(filter(None, [run.note])), run.metrics
    section = Section(f"training-{number}", f"Training of {run.name}", text)
    if "ccc_mean" not in rows:  # a student of categories alone
        series = [("", rows["epoch"], rows["category_agreement"])]
        section.draw(
            {"agreement": plots.lines(series, x_label="epoch")},
            "Share of held-out clips with the teacher's category, after each epoch.",
            f"{rows['category_agreement'].iloc[-1]:.0%} after {len(rows)} epochs.",
        )
        return section
    ccc = [(name, rows["epoch"], rows[f"ccc_{name}"]) for name in DIMENSIONS]
    section.draw(
        {
            "CCC with the teacher": plots.lines(ccc, x_label="epoch"),
            "loss": plots.lines([("loss", rows["epoch"], rows["loss"])], x_label="epoch"),
        },
        "Agreement with the teacher on held-out clips, and loss, after each epoch.",
        f"Over {len(rows)} epochs the mean CCC on held-out clips went from "
        f"{rows['ccc_mean'].iloc[0]:.2f} to {rows['ccc_mean'].iloc[-1]:.2f}.",
    )
    columns = ["epoch", "phase", "loss", *(f"ccc_{name}" for name in (*DIMENSIONS, "mean"))]
    table = rows.reindex(columns=columns).rename(columns=lambda name: name.replace("ccc_", "CCC "))
    section.add("Every epoch", table.map(lambda x: f"{x:.4g}" if isinstance(x, float) else str(x)))
    return section


def agreement(
    ident: str, title: str, truth: np.ndarray, estimate: np.ndarray, *, whose: str
) -> Section:
    """Estimates over truth, (clips, 3) each, for clips rated in all dimensions."""
    section = Section(ident, title)
    summary = metrics.summary(truth, estimate, n=500)
    agreements = ", ".join(f"{name} {summary[name]['ccc'].value:.2f}" for name in DIMENSIONS)
    section.draw(
        {
            name: plots.scatter(truth[:, i], estimate[:, i], x_label=whose)
            for i, name in enumerate(DIMENSIONS)
        },
        f"One dot per clip (at most {plots.POINTS}); on the line, both are equal.",
        f"{len(truth)} clips; CCC {agreements}.",
        height=3.8,
    )
    rows = [
        [name, *(f"{one.value:.3f} [{one.low:.3f} {one.high:.3f}]" for one in figures.values())]
        for name, figures in summary.items()
    ]
    names = (name.upper() if len(name) == 3 else name.capitalize() for name in metrics.METRICS)
    table = tables.table(["", *names], rows)
    section.add(f"Agreement over {len(truth)} clips", table, shown=True)
    bins = np.clip((truth * 10).astype(int), 0, 9)
    rows = []
    for step in range(10):
        members = [estimate[bins[:, i] == step, i] for i in range(len(DIMENSIONS))]
        cells = [f"{each.mean():.2f} ({len(each)})" if len(each) else "-" for each in members]
        rows.append([f"{step / 10:.1f} to {(step + 1) / 10:.1f}", *cells])
    table = tables.table([whose, *DIMENSIONS], rows)
    section.add(f"Mean of the student (clips) by {whose}", table)
    return section


def categories(ident: str, title: str, counts: np.ndarray, names: list[str], text: str) -> Section:
    """A confusion matrix as a picture, (classes, classes) with the truth in rows."""
    section = Section(ident, title)
    section.draw(
        {"confusion": plots.matrix(counts, names)},
        "Number of clips; the darker, the larger the share of the row (recall on the diagonal).",
        text,
        height=4.0,
    )
    recalls = counts.diagonal() / np.maximum(counts.sum(axis=1), 1)
    rows = [
        [name, *map(str, row), f"{recall:.2f}"]
        for name, row, recall in zip(names, counts, recalls, strict=True)
    ]
    section.text.append(text)
    section.add("Confusion", tables.table(["truth", *names, "recall"], rows))
    return section


def validated_categories(run: RunEvidence, number: int) -> Section | None:
    """Most probable categories of a run's student and of its teacher; None = no categories."""
    frame = run.validation
    assert frame is not None
    names = [str(c).removeprefix(OWN) for c in frame if str(c).startswith(OWN)]
    if not names:
        return None
    pair = [frame[[f"{of}{name}" for name in names]].to_numpy(float) for of in (OWN[8:], OWN)]
    known = np.isfinite(pair[0]).all(axis=1)
    truth, estimate = (shares[known].argmax(axis=1) for shares in pair)
    counts = metrics.confusion(truth, estimate, len(names))
    same = f"in {metrics.wa(truth, estimate):.0%} of {len(truth)} clips"
    title = f"Categories of student and teacher: {run.name}"
    text = f"The student's most probable category is the teacher's {same}."
    return categories(f"categories-{number}", title, counts, names, text)


def evaluation(name: str, result: dict[str, Any], number: int) -> Iterator[Section]:
    """A result of `evaluate --json`: figures next to the agreement of raters, and the confusion."""
    ident, raters = f"evaluation-{number}", result.get("raters") or {}
    section = Section(ident, f"Evaluation: {name}")
    section.text.append(f"{result['clips']} clips; 95 % intervals over {result['drawn']}.")
    if raters:
        section.text.append(
            "One rater: the CCC of one rater with the mean of the others, as far as people agree."
        )
    header = ["", "CCC", "PCC", "MAE", "Spearman"] + (["CCC, one rater"] if raters else [])
    rows = [
        [dimension, *map(_interval, figures.values())]
        + ([_interval(raters.get(dimension))] if raters else [])
        for dimension, figures in result["dimensions"].items()
    ]
    if rows:
        section.add("Dimensions", tables.table(header, rows), shown=True)
    found = result["categories"]
    if found:
        header = ["UAR", "WA", "weighted F1", "macro F1"]
        cells = [list(map(_interval, found["figures"].values()))]
        section.add(f"Categories, {found['clips']} clips", tables.table(header, cells), shown=True)
    yield section
    if found:
        uar = found["figures"]["uar"]["value"]
        text = f"{found['clips']} clips; unweighted average recall {uar:.2f}."
        counts = np.array(found["confusion"])
        yield categories(f"{ident}-categories", f"Confusion: {name}", counts, found["names"], text)


def _interval(figure: dict[str, Any] | None) -> str:
    if not figure or figure["value"] is None:
        return "-"
    ends = ("-" if figure[end] is None else f"{figure[end]:.3f}" for end in ("low", "high"))
    return f"{figure['value']:.3f} [{' '.join(ends)}]"


def costs(result: dict[str, Any], number: int) -> Section:
    """Latency and memory against length."""
    section = Section(f"costs-{number}", "Latency and memory against length")
    growth = tables.growth(result)
    notes = [machine.line(result["machine"]), machine.busy(result["machine"])]
    section.text += [*filter(None, notes), *growth]
    drawings = {}
    for title, key, column, unit in (
        ("latency (median), ms", "latency", "p50_ms", 1),
        ("memory above the runtime, MB", "memory", "above_runtime_bytes", 1e6),
    ):
        found = [(model["name"], model[key]) for model in result["models"] if model.get(key)]
        series = [
            (name, [p["duration_s"] for p in points], [p[column] / unit for p in points])
            for name, points in found
        ]
        if series:
            drawings[title] = plots.lines(series, x_label="clip, s", logarithmic=True)
    names = ", ".join(model["name"] for model in result["models"])
    section.draw(
        drawings,
        "Both axes logarithmic: a straight line of slope one is linear growth.",
        f"Of {names}. " + " ".join(growth),
    )
    for caption, frame in (
        ("Latency", tables.latency(result)),
        ("Memory, load and first call", tables.memory(result)),
        ("Pair by pair", tables.pairs(result)),
        ("Cost model", tables.overview(result)),
    ):
        if len(frame):
            section.add(caption, frame)
    return section


def lineage(evidence: Evidence) -> Section:
    """Provenance and licences of everything on the page."""
    section = Section("provenance", "Provenance and licences")
    rows = []
    for one in evidence.models:
        entries = one.provenance
        if not entries:
            section.text.append(f"{one.name}: no provenance.json; its licences are unknown.")
            continue
        section.text.append(f"{one.name}: {provenance.licence_line(entries)}")
        for teacher in entries.get("teachers", ()):
            which = f"{teacher.get('name')} ({teacher.get('id')})"
            licence = teacher.get("licence") or provenance.UNKNOWN
            rows.append([one.name, "teacher", which, teacher.get("revision", "-"), licence])
        for audio in entries.get("audio", ()):
            licence = audio.get("licence") or provenance.UNKNOWN
            rows.append([one.name, "audio", audio.get("source"), "-", licence])
        code = entries.get("code", {})
        version = entries.get("versions", {}).get("wav2small", "-")
        rows.append([one.name, "code", code.get("name", "?"), version, code.get("licence", "?")])
    if rows:
        section.add("Lineage", tables.table("of|what|which|revision|licence", rows), shown=True)
    return section


def commands(evidence: Evidence, made_by: str) -> Section:
    """The commands that lead to this page."""
    lines = [*_commands(evidence), made_by]
    return Section("commands", "Commands", code="\n".join(dict.fromkeys(lines)))


def _commands(evidence: Evidence) -> Iterator[str]:
    for one in evidence.models:
        for audio in one.provenance.get("audio", ()):
            for teacher in one.provenance.get("teachers", ()):
                yield (
                    f"wav2small label {audio.get('source')} -o labels.parquet "
                    f"--teacher {teacher.get('name', '?')}"
                )
        settings = one.provenance.get("distillation", {}).get("settings", {})
        if settings:
            yield "wav2small distill labels.parquet -o run/" + "".join(
                f" --{name.replace('_', '-')} {settings[name]}"
                for name in ("student", "epochs", "crop_s", "batch_size", "seed")
                if name in settings
            )
        if isinstance(one, BundleEvidence) and "precision" in one.record:
            yield f"wav2small export run/ -o {one.path} --precision {one.record['precision']}"
    for result in evidence.benchmarks:
        names = " ".join(model["path"] for model in result["models"])
        lengths = " ".join(f"{length:g}" for length in result["settings"]["durations_s"])
        runs = result["settings"]["runs"]
        yield f"wav2small benchmark {names} --durations {lengths} --runs {runs} --json"
    for result in evidence.audits:
        settings = result["settings"]
        kinds = {"teacher": "teacher", "bundle": "compare-with"}
        options = [(kinds[model["kind"]], model["spec"]) for model in settings["models"][1:]]
        given = ("truth", "root", "limit", "noise", "rooms")
        options += [(name, settings["options"].get(name)) for name in given]
        if settings["options"].get("scale"):
            options.append(("scale", "{:g} {:g}".format(*settings["options"]["scale"])))
        words = "".join(f" --{name} {value}" for name, value in options if value is not None)
        bundle, seed = result["bundle"]["path"], settings["seed"]
        yield f"wav2small audit {bundle} {result['source']}{words} --seed {seed} -o audit.json"
