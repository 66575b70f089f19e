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
    rows += [["robustness", "curves", "the same over 40 to 0 dB SNR", "none", "audio only"]]
    rows[-1].append("wav2small")
    return draw(table("group|test|metric|needed|data|origin", rows), style)


def audit(result: dict[str, Any], *, style: str = "text", worst: bool = True) -> str:
    """What `audit.audit` returned, as text.

    Args:
        result: the dictionary
        style: "text" or "markdown"
        worst: name the worst clips of each failed figure
    """
    title, mark = ("### ", "- ") if style == "markdown" else ("", "  ")
    parts = [f"{headline(result)}; seed {result['settings']['seed']}"]

    def add(heading: str, content: pd.DataFrame | Sequence[str]) -> None:
        if isinstance(content, pd.DataFrame):
            text = draw(content, style)
        else:
            text = "\n".join(mark + line for line in content)
        parts.append(title + heading)
        if text:
            parts.append(text)

    add("Passed, per test (a random model passes many tests; groups are never added up)",
        summary(result))  # fmt: skip
    failed = [figure for figure in result["figures"] if not figure["passed"]]
    if failed:
        add(f"Failed: {len(failed)} figures, with 95 % intervals; ! = the full interval fails",
            figures(result, failed))  # fmt: skip
    if failed and worst:
        lines = [_worst(figure) for figure in failed if figure.get("worst")]
        add("Worst clips of each failed figure", lines)
    for key, heading in curve_tables(result).items():
        add(f"{heading}, over the signal-to-noise ratio", curves(result, key))
    if result["cannot_run"]:
        reasons: dict[str, list[str]] = {}
        for entry in result["cannot_run"]:
            reasons.setdefault(entry["reason"], []).append(entry["test"])
        add("Could not run", [f"{why}: {', '.join(tests)}" for why, tests in reasons.items()])
    if result["small_groups"]:
        groups = "; ".join(
            f"{entry['column']} {entry['group']}: {entry['clips']}"
            for entry in result["small_groups"]
        )
        parts.append(f"Groups of fewer than {trust.MIN_CLIPS} clips, skipped: {groups}")
    if result["rejected"]:
        lines = [entry["reason"] for entry in result["rejected"]]
        add(f"Rejected: {len(lines)} clips", lines)
    if result["thresholds"]["checked"]:
        failures = result["thresholds"]["failures"]
        add(f"Thresholds: {len(failures)} failures" if failures else "Thresholds: passed", failures)
    return "\n\n".join(parts)


def headline(result: dict[str, Any]) -> str:
    """Which model on which clips, with whose truth."""
    corpus = result["corpus"]
    truth = f"truth: {corpus['truth']}" if corpus["truth"] else "no truth"
    return "; ".join(
        [
            f"{result['bundle']['name']} on {result['source']}: {corpus['used']} of "
            f"{corpus['clips']} clips used",
            truth,
            *corpus["notes"],
        ]
    )


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


def curve_tables(result: dict[str, Any]) -> dict[str, str]:
    """Keys of the degradation curves' points that are there, and what they are."""
    known = {
        "unchanged": f"Share of estimates changed by less than {trust.UNCHANGED:g}",
        "ccc_with_truth": "CCC with the truth",
    }
    return {
        key: heading
        for key, heading in known.items()
        if any(key in point for point in result["curves"])
    }


def curves(result: dict[str, Any], key: str) -> pd.DataFrame:
    """Degradation curves; `key` of their points."""
    ratios = sorted({point["snr_db"] for point in result["curves"]}, reverse=True)
    lines: dict[tuple[str, str, str], dict[float, Any]] = {}
    for point in result["curves"]:
        line = (point["noise"], point["dimension"], point["model"])
        lines.setdefault(line, {})[point["snr_db"]] = point.get(key)
    return table(
        ["noise", "dimension", "model", *(f"{ratio:g} dB" for ratio in ratios)],
        [[*line, *(number(values.get(r)) for r in ratios)] for line, values in lines.items()],
    )


def _others(result: dict[str, Any]) -> list[str]:
    return [model["name"] for model in result["settings"]["models"][1:]]


def _worst(figure: dict[str, Any]) -> str:
    case = f" ({figure['case']})" if figure["case"] else ""
    clips = ", ".join(f"{clip['file']}{_span(clip)} {clip['by']:.2f}" for clip in figure["worst"])
    return f"{figure['group']}:{figure['test']}:{figure['dimension']}{case}: {clips}"


def _span(clip: dict[str, Any]) -> str:
    if "start" not in clip:
        return ""
    end = clip["end"]
    return f" {clip['start']:.1f}-{'end' if end is None else format(end, '.1f')} s"
