"""The sections of a report that show an audit."""

from __future__ import annotations

from typing import Any

from wav2small.benchmarks.audit import tables as audit_tables
from wav2small.dimensions import DIMENSIONS

from . import plots
from .sections import Section, Table


def trust(result: dict[str, Any], number: int) -> list[Section]:
    """The sections of one audit."""
    on = f" of {result['bundle']['name']}" if number else ""
    sections: list[Section | None] = [_passes(result, f"audit-{number}", on)]
    sections += [_robustness(result, f"robustness-{number}", on)]
    if result["curves"]:
        sections.append(_curves(result, f"curves-{number}", on))
    sections += _fairness(result, f"fairness-{number}", on)
    return [section for section in sections if section is not None]


def _passes(result: dict[str, Any], ident: str, on: str) -> Section:
    corpus = result["corpus"]
    failed = [figure for figure in result["figures"] if not figure["passed"]]
    header, rows = audit_tables.summary(result)
    section = Section(
        ident,
        f"Tests passed{on}",
        [
            f"{result['bundle']['name']} on {result['source']}: {corpus['heard']} of "
            f"{corpus['clips']} clips heard; "
            + (f"truth: {corpus['truth']}" if corpus["truth"] else "no truth")
            + "".join(f"; {note}" for note in corpus["notes"])
            + ". A random model that gives the bundle's own answers in random order stands beside "
            "each figure: it passes many tests, so groups of tests are never added up.",
        ],
        tables=[Table("Tests passed", header, rows, open=True)],
    )
    if failed:
        section.tables.append(
            Table(
                f"All {len(failed)} failed figures (! = the whole interval fails)",
                *audit_tables.figures(result, failed),
            )
        )
    if result["cannot_run"]:
        section.tables.append(
            Table(
                "Tests that could not run",
                ["test", "why"],
                [[entry["test"], entry["reason"]] for entry in result["cannot_run"]],
            )
        )
    if result["rejected"]:
        section.tables.append(
            Table(
                f"{len(result['rejected'])} clips rejected",
                ["file", "why"],
                [[entry["file"], entry["reason"]] for entry in result["rejected"]],
            )
        )
    return section


def _robustness(result: dict[str, Any], ident: str, on: str) -> Section | None:
    chosen = [
        figure
        for figure in result["figures"]
        if figure["group"] == "robustness" and figure["test"].endswith("-unchanged")
    ]
    if not chosen:
        return None
    rows: dict[str, list[Any]] = {name: [] for name in DIMENSIONS}
    thresholds = {}
    for figure in chosen:
        label = figure["test"].removesuffix("-unchanged")
        rows[figure["dimension"]].append(
            (label, figure["value"], figure["low"], figure["high"], figure["random"]["value"])
        )
        thresholds[label] = [figure["threshold"]]
    passed = sum(figure["passed"] for figure in chosen)
    return Section(
        ident,
        f"Robustness{on}",
        figures=[
            (
                plots.intervals(
                    rows,
                    ident=ident,
                    description=f"{passed} of {len(chosen)} reach their threshold.",
                    x_label="share of clips left unchanged",
                    x_range=(-0.03, 1.03),
                    thresholds=thresholds,
                ),
                "Dots with 95 % intervals; the upright mark is the threshold.",
            )
        ],
        tables=[Table("Robustness, every figure", *audit_tables.figures(result, [
            figure for figure in result["figures"] if figure["group"] == "robustness"]))],
    )  # fmt: skip


def _curves(result: dict[str, Any], ident: str, on: str) -> Section:
    series: dict[str, list[plots.Line]] = {}
    noises = list(dict.fromkeys(point["noise"] for point in result["curves"]))
    listeners = list(dict.fromkeys(point["listener"] for point in result["curves"]))
    for noise in noises:
        for dimension in DIMENSIONS:
            series[f"{noise}: {dimension}"] = [
                (
                    listener,
                    [p["snr_db"] for p in _points(result, noise, dimension, listener)],
                    [p["unchanged"] for p in _points(result, noise, dimension, listener)],
                )
                for listener in listeners
            ]
    section = Section(
        ident,
        f"Degradation in noise{on}",
        figures=[
            (
                plots.lines(
                    series,
                    ident=ident,
                    description=f"For {', '.join(noises)}; listeners: {', '.join(listeners)}.",
                    x_label="signal-to-noise ratio, dB",
                    y_range=(-0.03, 1.03),
                    invert_x=True,
                ),
                "From quiet on the left to loud noise on the right.",
            )
        ],
        tables=[Table("Unchanged estimates", *audit_tables.curves(result, "unchanged"))],
    )
    if any("ccc_with_truth" in point for point in result["curves"]):
        section.tables.append(
            Table("CCC with the truth", *audit_tables.curves(result, "ccc_with_truth"))
        )
    return section


def _points(
    result: dict[str, Any], noise: str, dimension: str, listener: str
) -> list[dict[str, Any]]:
    return [
        point
        for point in result["curves"]
        if (point["noise"], point["dimension"], point["listener"]) == (noise, dimension, listener)
    ]


def _fairness(result: dict[str, Any], ident: str, on: str) -> list[Section]:
    sections = []
    members = [figure for figure in result["figures"] if figure["group"] == "fairness"]
    for number, test in enumerate(dict.fromkeys(figure["test"] for figure in members)):
        chosen = [figure for figure in members if figure["test"] == test]
        rows: dict[str, list[Any]] = {}
        for figure in chosen:
            rows.setdefault(figure["dimension"], []).append(
                (figure["case"], figure["value"], figure["low"], figure["high"],
                 figure["random"]["value"])
            )  # fmt: skip
        threshold = chosen[0]["threshold"]
        off = [figure for figure in chosen if not figure["passed"]]
        title = f"Fairness by {_by(test)}{on}"
        sections.append(
            Section(
                f"{ident}-{number}",
                title,
                figures=[
                    (
                        plots.intervals(
                            rows,
                            ident=f"{ident}-{number}",
                            description=f"{len(chosen) - len(off)} of {len(chosen)} differences "
                            f"lie within {threshold:g}.",
                            x_label=chosen[0]["metric"].replace("of the group", "of group"),
                            thresholds={"": [-threshold, 0, threshold]},
                        ),
                        "Dots with 95 % intervals, corrected for the number of groups; dashed: "
                        "what is allowed.",
                    )
                ],
                tables=[Table(f"Fairness, {test}", *audit_tables.figures(result, chosen))],
            )
        )
    return sections


def _by(test: str) -> str:
    column, metric = test.rsplit("-", 1)
    return f"{column}, {'CCC' if metric == 'ccc' else 'mean'}"
