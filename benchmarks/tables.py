"""Results as tables: for a terminal, and as Markdown for documents.

Written here, since no library keeps Markdown narrow and aligns "5 s" and "1.3 MB" as numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from . import machine


def text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Columns padded to line up; numbers to the right."""
    cells = [list(map(str, header)), *(list(map(str, row)) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    right = [all(_numeric(row[i]) for row in cells[1:]) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.rjust(width) if aligned else cell.ljust(width)
            for cell, width, aligned in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in cells
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def markdown(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; numbers to the right.

    Example:
        >>> print(markdown(["model", "ms"], [["nano", 0.5]]))
        | model | ms |
        | --- | --: |
        | nano | 0.5 |
    """
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    right = [bool(cells) and all(_numeric(row[i]) for row in cells) for i in range(len(header))]
    rule = ["--:" if aligned else "---" for aligned in right]
    return "\n".join("| " + " | ".join(row) + " |" for row in [list(header), rule, *cells])


def size(count: float | None) -> str:
    """Bytes in thousands, as file managers and data sheets count.

    Example:
        >>> size(52_345), size(1_300_000), size(None)
        ('52.3 KB', '1.30 MB', '-')
    """
    if count is None:
        return "-"
    return scaled(count, (("GB", 1e9), ("MB", 1e6), ("KB", 1e3), ("B", 1)))


def amount(count: float | None) -> str:
    """A count with its unit.

    Example:
        >>> amount(72_500), amount(1_200_000_000)
        ('72.5 K', '1.20 G')
    """
    if count is None:
        return "-"
    return scaled(count, (("G", 1e9), ("M", 1e6), ("K", 1e3), ("", 1))).strip()


def scaled(value: float, units: Sequence[tuple[str, float]]) -> str:
    """Three significant digits in the largest unit that leaves at least 1."""
    for unit, factor in units:
        if abs(value) >= factor or factor == 1:
            short = value / factor
            if factor == 1:
                return f"{short:.0f} {unit}"
            digits = 2 if abs(short) < 10 else 1 if abs(short) < 100 else 0
            return f"{short:.{digits}f} {unit}"
    return str(value)


def milliseconds(value: float | None) -> str:
    """Three significant digits, never an exponent.

    Example:
        >>> milliseconds(0.512), milliseconds(47.5), milliseconds(160)
        ('0.51', '47.5', '160')
    """
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def benchmark(result: dict[str, Any], *, style: str = "text", layers: bool = False) -> str:
    """What `host.benchmark` returned, for people.

    Args:
        result: the dictionary
        style: "text" or "markdown"
        layers: add the table of each model's layers
    """
    draw = markdown if style == "markdown" else text
    settings = result["settings"]
    entries = ", ".join(f"{key}={value}" for key, value in settings["session_entries"].items())
    parts = [
        machine.line(result["machine"]),
        f"{settings['threads']} thread(s); {settings['runs']} interleaved runs after "
        f"{settings['warm_up']} warm-up runs; {settings['signal']}; session: {entries}",
        *filter(None, [machine.busy(result["machine"])]),
        draw(*overview(result)),
        draw(*latency(result)),
    ]
    if any(model.get("memory") for model in result["models"]):
        parts += [draw(*memory(result))]
    if result["pairs"]:
        parts += [draw(*pairs(result))]
    parts += growth(result)
    if layers:
        for model in result["models"]:
            if "cost" in model:
                parts += [f"{model['name']}, layer by layer:", draw(*_layers(model))]
    for model in result["models"]:
        parts += [
            f"{model['name']}: rejected {one['duration_s']:g} s of audio: {one['reason']}"
            for one in model["rejected"]
        ]
        parts += [f"{model['name']}: {note}" for note in model["notes"]]
    return "\n\n".join(parts)


def overview(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of what each model is."""
    header = "model|file|parameters|MACs/s of audio|weights|activation peak|operators".split("|")
    rows = []
    for model in result["models"]:
        cost = model.get("cost", {})
        operators = cost.get("operators") or {}
        listed = ", ".join(f"{name} {count}" for name, count in list(operators.items())[:5])
        if len(operators) > 5:
            listed += f", {len(operators) - 5} more kinds"
        if cost.get("uncounted"):
            listed += f" (MACs without {', '.join(cost['uncounted'])})"
        peak = cost.get("activation_peak_bytes")
        rows.append(
            [
                model["name"],
                size(model["bytes"]),
                f"{cost['parameters']:,}" if cost else "-",
                amount(cost.get("macs_per_s")),
                size(cost.get("weight_bytes")),
                f"{size(peak)} at {cost['duration_s']:g} s" if cost else "-",
                listed or "-",
            ]
        )
    return header, rows


def latency(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the latencies."""
    header = "model|clip|min ms|p10|p50|p90|p99|real-time factor".split("|")
    rows = [
        [model["name"], f"{point['duration_s']:g} s"]
        + [milliseconds(point[f"{name}_ms"]) for name in ("min", "p10", "p50", "p90", "p99")]
        + [f"{point['real_time_factor']:.4f}"]
        for model in result["models"]
        for point in model["latency"]
    ]
    return header, rows


def memory(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of memory, load and first call."""
    header = (
        "model|clip|runtime|model in memory|activations|above the runtime|load ms|first call ms"
    ).split("|")
    rows = [
        [
            model["name"],
            f"{point['duration_s']:g} s",
            size(point["runtime_bytes"]),
            size(point["model_bytes"]),
            size(point["activations_bytes"]),
            size(point["above_runtime_bytes"]),
            milliseconds(point["load_ms"]),
            milliseconds(point["first_call_ms"]),
        ]
        for model in result["models"]
        for point in model.get("memory") or []
    ]
    return header, rows


def pairs(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the ratios."""
    header = "time of|over time of|clip|ratio of medians|pairwise p10|p50|p90".split("|")
    rows = [
        [pair["second"], pair["first"], f"{pair['duration_s']:g} s"]
        + [f"{pair[key]:.3f}" for key in ("ratio_of_medians", "p10", "p50", "p90")]
        for pair in result["pairs"]
    ]
    return header, rows


def growth(result: dict[str, Any]) -> list[str]:
    """How cost grows, one line per model and cost, as one paragraph."""
    lines = []
    for model in result["models"]:
        for what, fit in model["growth"].items():
            if fit:
                over = f"{fit['over_s'][0]:g} to {fit['over_s'][-1]:g} s"
                warning = "" if fit["verdict"] == "linear" else " <- not linear"
                lines.append(
                    f"{model['name']}: {what} grows with duration^{fit['exponent']:.2f} over "
                    f"{over}: {fit['verdict']}{warning}"
                )
    return ["\n".join(lines)] if lines else []


def _layers(model: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    header = "layer|operator|output|parameters|weights|MACs|share|output bytes".split("|")
    total = max(1, model["cost"]["macs"])
    rows = [
        [
            layer["name"],
            layer["operator"],
            "x".join(map(str, layer["output"])),
            f"{layer['parameters']:,}",
            size(layer["weight_bytes"]),
            amount(layer["macs"]),
            f"{100 * layer['macs'] / total:.1f} %",
            size(layer["output_bytes"]),
        ]
        for layer in model["cost"]["layers"]
    ]
    return header, rows


_UNITS = {"", "%", "s", "B", "KB", "MB", "GB", "K", "M", "G"}


def _numeric(cell: str) -> bool:
    words = cell.replace(",", "").split() or [""]
    try:
        float(words[0])
    except ValueError:
        return cell == "-"
    return all(word in _UNITS for word in words[1:])
