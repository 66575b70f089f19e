"""An audit as text or Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from wav2small.benchmarks.tables import draw, number, table

from . import trust

_SIGN = {"above": ">", "below": "<", "within": "within ±"}


def listing(tests: Sequence[trust.Test], *, style: str = "text") -> str:
    """The table of tests: group, test, metric, threshold, data needed."""
    rows = [
        [test.group, test.name, test.metric, f"{_SIGN[test.better]} {test.threshold:g}",
         ", ".join(test.needs) or "audio only", test.origin]
        for test in tests
    ]  # fmt: skip
    curves = "robustness|curves|the same over 40 to 0 dB SNR|none|audio only|wav2small"
    rows.append(curves.split("|"))
    return draw(table("group|test|metric|needed|data|origin", rows), style)


def audit(result: dict[str, Any], *, style: str = "text", worst: bool = True) -> str:
    """What `audit.audit` returned, as "text" or "markdown"; with the `worst` clips of failures."""
    mark = "### " if style == "markdown" else ""
    parts = {**outcome(result), **(_worst(result) if worst else {}), **curves(result)}
    drawn = [f"{mark}{heading}\n\n{draw(frame, style)}" for heading, frame in parts.items()]
    return "\n\n".join([f"{headline(result)}; seed {result['settings']['seed']}", *drawn])


def outcome(result: dict[str, Any]) -> dict[str, pd.DataFrame]:
    """Heading -> table of what passed, failed, could not run, was skipped or rejected."""
    failed = [figure for figure in result["figures"] if not figure["passed"]]
    reasons: dict[str, list[str]] = {}
    for entry in result["cannot_run"]:
        reasons.setdefault(entry["reason"], []).append(entry["test"])
    groups = [[one["column"], one["group"], one["clips"]] for one in result["small_groups"]]
    rejected = [[one["file"], one["reason"]] for one in result["rejected"]]
    parts = {
        "Passed, per test (a random model passes many; groups are never added up)": summary(result),
        f"Failed: {len(failed)} figures, with 95 % intervals; ! = the full interval fails": (
            figures(result, failed)
        ),
        "Could not run": table("reason|tests", [[why, ", ".join(t)] for why, t in reasons.items()]),
        f"Skipped: groups of fewer than {trust.MIN_CLIPS} clips": (
            table("column|group|clips", groups)
        ),
        f"Rejected: {len(rejected)} clips": table("file|reason", rejected),
    }
    if result["thresholds"]["checked"]:
        failures = result["thresholds"]["failures"]
        lines = [[line] for line in failures or ["none"]]
        parts[f"Thresholds: {len(failures)} failures"] = table("failure", lines)
    return {heading: frame for heading, frame in parts.items() if len(frame)}


def headline(result: dict[str, Any]) -> str:
    """Which model on which clips, with whose truth."""
    corpus = result["corpus"]
    truth = f"truth: {corpus['truth']}" if corpus["truth"] else "no truth"
    which = f"{result['bundle']['name']} on {result['source']}"
    used = f"{corpus['used']} of {corpus['clips']} clips used"
    return "; ".join([f"{which}: {used}", truth, *corpus["notes"]])


def summary(result: dict[str, Any]) -> pd.DataFrame:
    """Passes per test."""
    others = _others(result)
    return table(
        ["group", "test", "passed", "random model", *others],
        [
            [
                row["group"],
                row["test"],
                f"{row['passed']} of {row['figures']}",
                f"{100 * row['random_passes']:.0f} %",
                *(f"{row['others'][name]} of {row['figures']}" for name in others),
            ]
            for row in result["summary"]
        ],
    )


def figures(result: dict[str, Any], chosen: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Figures with their intervals, and those of the other models."""
    others = _others(result)
    return table(
        ["test", "dimension", "case", "figure", "interval", "needed", "", "random", *others],
        [
            [
                f"{one['group']}:{one['test']}",
                one["dimension"],
                one["case"] or "-",
                number(one["value"]),
                f"[{number(one['low'])} {number(one['high'])}]",
                f"{_SIGN[one['better']]} {one['threshold']:g}",
                "" if one["passed"] else "!" if one["certain"] else "x",
                number(one["random"]["value"]),
                *(number(one["others"][name]["value"]) for name in others),
            ]
            for one in chosen
        ],
    )


def curves(result: dict[str, Any]) -> dict[str, pd.DataFrame]:
    """Heading -> table of degradation over the signal-to-noise ratio."""
    ratios = sorted({point["snr_db"] for point in result["curves"]}, reverse=True)
    header = ["noise", "dimension", "model", *(f"{ratio:g} dB" for ratio in ratios)]
    tables = {}
    for key, heading in (
        ("unchanged", f"Share of estimates changed by less than {trust.UNCHANGED:g}"),
        ("ccc_with_truth", "CCC with the truth"),
    ):
        lines: dict[tuple[str, str, str], dict[float, float | None]] = {}
        for point in result["curves"]:
            if key in point:
                line = (point["noise"], point["dimension"], point["model"])
                lines.setdefault(line, {})[point["snr_db"]] = point[key]
        if lines:
            rows = [[*line, *(number(row.get(r)) for r in ratios)] for line, row in lines.items()]
            tables[f"{heading}, over the signal-to-noise ratio"] = table(header, rows)
    return tables


def _others(result: dict[str, Any]) -> list[str]:
    return [model["name"] for model in result["settings"]["models"][1:]]


def _worst(result: dict[str, Any]) -> dict[str, pd.DataFrame]:
    rows = [
        [
            f"{figure['group']}:{figure['test']}:{figure['dimension']}",
            figure["case"] or "-",
            ", ".join(f"{one['file']}{_span(one)} {one['by']:.2f}" for one in figure["worst"][:3]),
        ]
        for figure in result["figures"]
        if figure.get("worst")
    ]
    frame = table("figure|case|clips, and by how much", rows)
    heading = "Worst clips of each failed figure (three of them; more in the JSON)"
    return {heading: frame} if rows else {}


def _span(clip: dict[str, Any]) -> str:
    if "start" not in clip:
        return ""
    end = clip["end"]
    return f" {clip['start']:.1f}-{'end' if end is None else format(end, '.1f')} s"
