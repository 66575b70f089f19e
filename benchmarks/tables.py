"""Results as tables: data frames of text, drawn for a terminal, for documents and for pages."""

from __future__ import annotations

import html as markup
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
from tabulate import tabulate

from . import machine

_WRAP = textwrap.TextWrapper(width=72, break_long_words=False, break_on_hyphens=False)


def table(header: str | Sequence[str], rows: Iterable[Sequence[Any]]) -> pd.DataFrame:
    """A data frame of text; a header in one string is split at |."""
    names = header.split("|") if isinstance(header, str) else list(header)
    return pd.DataFrame([list(map(str, row)) for row in rows], columns=names, dtype=object)


def draw(frame: pd.DataFrame, style: str = "text") -> str:
    """Columns that line up, numbers to the right; `style` is "text" or "markdown".

    Text wraps its long cells.

    Example:
        >>> print(draw(table("model|ms", [["nano", 0.5]])))
        model      ms
        -------  ----
        nano      0.5
    """
    numeric = frame.map(_numeric).all()
    markdown = style == "markdown"
    cells = frame.map(lambda cell: cell.replace("|", "\\|") if markdown else _WRAP.fill(cell))
    return tabulate(
        cells.to_numpy().tolist(),
        headers=list(cells.columns),
        tablefmt="pipe" if markdown else "simple",
        colalign=["right" if every else "left" for every in numeric],
        disable_numparse=True,
    )


def html(frame: pd.DataFrame, caption: str) -> str:
    """A table element; short cells stay on one line.

    Example:
        >>> print(html(table("model|ms", [["nano", 0.5]]), "Latency")[:44])
        <table><caption>Latency</caption>
          <thead>
    """
    short = frame.map(lambda cell: cell.replace(" ", "\u00a0") if len(cell) <= 40 else cell)
    with pd.option_context("display.max_colwidth", None):
        text = short.to_html(index=False).replace("<th>", '<th scope="col">')
    head = f"<table><caption>{markup.escape(caption)}</caption>"
    return re.sub("<table[^>]*>", lambda _: head, text)


def size(count: float | None) -> str:
    """Bytes in thousands, as file managers and data sheets count.

    Example:
        >>> size(52_345), size(1_300_000), size(None)
        ('52.3 KB', '1.30 MB', '-')
    """
    return "-" if count is None else scaled(count, {"GB": 1e9, "MB": 1e6, "KB": 1e3, "B": 1})


def amount(count: float | None) -> str:
    """A count with its unit.

    Example:
        >>> amount(72_500), amount(1_200_000_000)
        ('72.5 K', '1.20 G')
    """
    return "-" if count is None else scaled(count, {"G": 1e9, "M": 1e6, "K": 1e3, "": 1}).strip()


def scaled(value: float, units: dict[str, float]) -> str:
    """Three significant digits in the largest unit that leaves at least 1."""
    unit, factor = next(pair for pair in units.items() if abs(value) >= pair[1] or pair[1] == 1)
    short = value / factor
    digits = 0 if factor == 1 or abs(short) >= 100 else 2 if abs(short) < 10 else 1
    return f"{short:.{digits}f} {unit}"


def milliseconds(value: float | None) -> str:
    """Three significant digits, never an exponent.

    Example:
        >>> milliseconds(0.512), milliseconds(47.5), milliseconds(160)
        ('0.51', '47.5', '160')
    """
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def number(value: float | None) -> str:
    """Three decimals; - where there is none.

    Example:
        >>> number(0.5), number(None)
        ('0.500', '-')
    """
    return "-" if value is None else f"{value:.3f}"


def benchmark(result: dict[str, Any], *, style: str = "text", layers: bool = False) -> str:
    """What `host.benchmark` returned, as "text" or "markdown"; with each model's `layers`."""
    settings = result["settings"]
    entries = ", ".join(f"{key}={value}" for key, value in settings["session_entries"].items())
    parts = [
        machine.line(result["machine"]),
        f"{settings['threads']} thread(s); {settings['runs']} interleaved runs after "
        f"{settings['warm_up']} warm-up runs; {settings['signal']}; session: {entries}",
        machine.busy(result["machine"]),
        draw(overview(result), style),
        draw(latency(result), style),
    ]
    if any(model.get("memory") for model in result["models"]):
        parts.append(draw(memory(result), style))
    if result["pairs"]:
        parts.append(draw(pairs(result), style))
    parts.append("\n".join(growth(result)))
    for model in result["models"]:
        if layers and "cost" in model:
            parts += [f"{model['name']}, layer by layer:", draw(_layers(model), style)]
    for model in result["models"]:
        parts += [
            f"{model['name']}: rejected {one['duration_s']:g} s of audio: {one['reason']}"
            for one in model["rejected"]
        ]
        parts += [f"{model['name']}: {note}" for note in model["notes"]]
    return "\n\n".join(filter(None, parts))


def overview(result: dict[str, Any]) -> pd.DataFrame:
    """What each model is."""
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
    header = "model|file|parameters|MACs/s of audio|weights|activation peak|operators"
    return table(header, rows)


def latency(result: dict[str, Any]) -> pd.DataFrame:
    """Percentiles of the latencies."""
    return table(
        "model|clip|min ms|p10|p50|p90|p99|real-time factor",
        [
            [model["name"], f"{point['duration_s']:g} s"]
            + [milliseconds(point[f"{name}_ms"]) for name in ("min", "p10", "p50", "p90", "p99")]
            + [f"{point['real_time_factor']:.4f}"]
            for model in result["models"]
            for point in model["latency"]
        ],
    )


def memory(result: dict[str, Any]) -> pd.DataFrame:
    """Memory, load and first call."""
    kinds = ("runtime_bytes", "model_bytes", "activations_bytes", "above_runtime_bytes")
    return table(
        "model|clip|runtime|model in memory|activations|above the runtime|load ms|first call ms",
        [
            [model["name"], f"{point['duration_s']:g} s", *(size(point[kind]) for kind in kinds)]
            + [milliseconds(point[name]) for name in ("load_ms", "first_call_ms")]
            for model in result["models"]
            for point in model.get("memory") or []
        ],
    )


def pairs(result: dict[str, Any]) -> pd.DataFrame:
    """Ratios of times."""
    return table(
        "time of|over time of|clip|ratio of medians|pairwise p10|p50|p90",
        [
            [pair["second"], pair["first"], f"{pair['duration_s']:g} s"]
            + [number(pair[key]) for key in ("ratio_of_medians", "p10", "p50", "p90")]
            for pair in result["pairs"]
        ],
    )


def growth(result: dict[str, Any]) -> list[str]:
    """How cost grows, one line per model and cost."""
    return [
        f"{model['name']}: {what} grows with duration^{fit['exponent']:.2f} over "
        f"{fit['over_s'][0]:g} to {fit['over_s'][-1]:g} s: {fit['verdict']}"
        for model in result["models"]
        for what, fit in model["growth"].items()
        if fit
    ]


def _layers(model: dict[str, Any]) -> pd.DataFrame:
    total = max(1, model["cost"]["macs"])
    return table(
        "layer|operator|output|parameters|weights|MACs|share|output bytes",
        [
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
        ],
    )


def _numeric(cell: str) -> bool:
    """Such as "5", "1.3 MB", "72,477" and "-"."""
    return bool(re.fullmatch(r"-|[-+]?[\d.,]+( ([KMG]?B|[KMG]|%|s))?", cell))
