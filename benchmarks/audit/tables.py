"""An audit as text or Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wav2small.benchmarks import tables

from . import trust

_SIGN = {"above": ">", "below": "<", "within": "within ±"}


def listing(tests: Sequence[trust.Test], *, style: str = "text") -> str:
    """The table of tests: group, test, metric, threshold, data needed."""
    rows = [
        [
            test.group,
            test.name,
            test.metric,
            f"{_SIGN[test.better]} {test.threshold:g}",
            ", ".join(test.needs) or "audio only",
            test.origin,
        ]
        for test in tests
    ]
    rows.append(["robustness", "curves", "the same over 40 to 0 dB SNR", "none", "audio only",
                 "wav2small"])  # fmt: skip
    return _draw(style)("group|test|metric|needed|data|origin".split("|"), rows)


def audit(result: dict[str, Any], *, style: str = "text", worst: bool = True) -> str:
    """What `audit.audit` returned, for people.

    Args:
        result: the dictionary
        style: "text" or "markdown"
        worst: name the worst clips of each failed figure
    """
    draw = _draw(style)
    corpus = result["corpus"]
    title = "### " if style == "markdown" else ""
    truth = f"truth: {corpus['truth']}" if corpus["truth"] else "no truth"
    parts = [
        f"{result['bundle']['name']} on {result['source']}: {corpus['heard']} of "
        f"{corpus['clips']} clips heard; {truth}; seed {result['settings']['seed']}"
        + "".join(f"; {note}" for note in corpus["notes"]),
        f"{title}Passed, per test (a random model passes many tests; groups are never added up)",
        draw(*summary(result)),
    ]
    failed = [figure for figure in result["figures"] if not figure["passed"]]
    if failed:
        parts += [
            f"{title}Failed: {len(failed)} figures, with 95 % intervals; ! = the whole interval "
            "fails",
            draw(*figures(result, failed)),
        ]
    if failed and worst:
        lines = [_worst(figure) for figure in failed if figure.get("worst")]
        parts += [f"{title}Worst clips of each failed figure", _list(lines, style)]
    if result["curves"]:
        parts += [
            f"{title}Share of estimates changed by less than {trust.UNCHANGED:g}, over the "
            "signal-to-noise ratio",
            draw(*curves(result, "unchanged")),
        ]
        if any("ccc_with_truth" in point for point in result["curves"]):
            parts += [
                f"{title}CCC with the truth, over the signal-to-noise ratio",
                draw(*curves(result, "ccc_with_truth")),
            ]
    if result["cannot_run"]:
        reasons: dict[str, list[str]] = {}
        for entry in result["cannot_run"]:
            reasons.setdefault(entry["reason"], []).append(entry["test"])
        lines = [f"{why}: {', '.join(tests)}" for why, tests in reasons.items()]
        parts += [f"{title}Could not run", _list(lines, style)]
    if result["small_groups"]:
        lines = [
            f"{entry['column']} {entry['group']}: {entry['clips']}"
            for entry in result["small_groups"]
        ]
        parts.append(f"Groups of fewer than {trust.MIN_CLIPS} clips, skipped: {'; '.join(lines)}")
    if result["rejected"]:
        lines = [entry["reason"] for entry in result["rejected"]]
        parts += [f"{title}Rejected: {len(lines)} clips", _list(lines, style)]
    if result["gate"]["asked"]:
        failures = result["gate"]["failures"]
        verdict = f"Gate: {len(failures)} failures" if failures else "Gate: passed"
        parts += [f"{title}{verdict}", *([_list(failures, style)] if failures else [])]
    return "\n\n".join(parts)


def summary(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the passes per test."""
    others = [listener["name"] for listener in result["settings"]["listeners"][1:]]
    header = ["group", "test", "passed", "random model", *others]
    rows = [
        [
            row["group"],
            row["test"],
            f"{row['passed']} of {row['figures']}",
            f"{100 * row['random_passes']:.0f} %",
            *(f"{row['beside'][name]} of {row['figures']}" for name in others),
        ]
        for row in result["summary"]
    ]
    return header, rows


def figures(
    result: dict[str, Any], chosen: Sequence[dict[str, Any]]
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of figures."""
    others = [listener["name"] for listener in result["settings"]["listeners"][1:]]
    header = ["test", "dimension", "case", "figure", "interval", "needed", "", "random", *others]
    rows = [
        [
            f"{one['group']}:{one['test']}",
            one["dimension"],
            one["case"] or "-",
            number(one["value"]),
            f"[{number(one['low'])} {number(one['high'])}]",
            f"{_SIGN[one['better']]} {one['threshold']:g}",
            "" if one["passed"] else "!" if one["certain"] else "x",
            number(one["random"]["value"]),
            *(number(one["beside"][name]["value"]) for name in others),
        ]
        for one in chosen
    ]
    return header, rows


def curves(result: dict[str, Any], key: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the degradation curves; `key` of their points."""
    ratios = sorted({point["snr_db"] for point in result["curves"]}, reverse=True)
    lines: dict[tuple[str, str, str], dict[float, Any]] = {}
    for point in result["curves"]:
        line = (point["noise"], point["dimension"], point["listener"])
        lines.setdefault(line, {})[point["snr_db"]] = point.get(key)
    header = ["noise", "dimension", "listener", *(f"{ratio:g} dB" for ratio in ratios)]
    rows = [[*line, *(number(values.get(r)) for r in ratios)] for line, values in lines.items()]
    return header, rows


def number(value: float | None) -> str:
    """Three decimals; - where there is none."""
    return "-" if value is None else f"{value:.3f}"


def _worst(figure: dict[str, Any]) -> str:
    case = f" ({figure['case']})" if figure["case"] else ""
    clips = ", ".join(f"{clip['file']}{_span(clip)} {clip['by']:.2f}" for clip in figure["worst"])
    return f"{figure['group']}:{figure['test']}:{figure['dimension']}{case}: {clips}"


def _span(clip: dict[str, Any]) -> str:
    if "start" not in clip:
        return ""
    end = clip["end"]
    return f" {clip['start']:.1f}-{'end' if end is None else format(end, '.1f')} s"


def _list(lines: Sequence[str], style: str) -> str:
    mark = "- " if style == "markdown" else "  "
    return "\n".join(mark + line for line in lines)


def _draw(style: str) -> Any:
    return tables.markdown if style == "markdown" else tables.text
