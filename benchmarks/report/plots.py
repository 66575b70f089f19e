"""Plots as SVG for a page: its colours are the page's, dark or light, its text is text.

matplotlib draws with stand-in colours; they are replaced by CSS variables (`--c1` ...) and
`currentColor`, so that one drawing serves both colour schemes, and all ids get a prefix, so that
many drawings share a page.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

INK, GRID = "#010203", "#040506"
COLOURS = [f"#0a0b{number:02x}" for number in range(1, 7)]
MARKERS = ["o", "s", "^", "D", "v", "P"]  # with the colours: nobody has to see them
LINES = ["-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1))]
POINTS = 400  # most dots of a scatter plot, drawn with a fixed seed (chosen)

_STYLE: Any = {
    "axes.edgecolor": INK, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK,
    "ytick.color": INK, "grid.color": GRID, "axes.grid": True, "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "font.size": 11,
    "svg.fonttype": "none", "svg.hashsalt": "wav2small", "legend.frameon": False,
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none",
}  # fmt: skip

Draw = Callable[[Any], None]  # draws on one matplotlib axis


def panels(
    drawings: Mapping[str, Draw], *, ident: str, description: str, height: float = 3.0
) -> list[str]:
    """SVG elements, one per panel, so that a phone can stack them.

    Args:
        drawings: title -> function that draws on an axis
        ident: prefix of all ids
        description: for those who cannot see the page
        height: inches, at a width of 4
    """
    import matplotlib
    from matplotlib.figure import Figure

    elements = []
    # matplotlib reads some of the style only while drawing.
    with matplotlib.rc_context(_STYLE):
        for number, (title, draw) in enumerate(drawings.items()):
            figure = Figure(figsize=(4.0, height), layout="constrained")
            axis = figure.subplots()
            axis.set_title(title)
            draw(axis)
            if axis.get_legend_handles_labels()[1]:
                figure.legend(loc="outside lower center", ncols=2, fontsize=9)
            text = io.StringIO()
            figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
            elements.append(_element(text.getvalue(), f"{ident}-{number}", title, description))
    return elements


def _element(drawing: str, ident: str, title: str, description: str) -> str:
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.S)
    drawing = drawing.replace(INK, "currentColor").replace(GRID, "var(--grid)")
    for number, colour in enumerate(COLOURS, start=1):
        drawing = drawing.replace(colour, f"var(--c{number})")
    drawing = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{ident}-", drawing)
    drawing = re.sub(r"font: ([^;\"]*?)px [^;\"]*", r"font-size: \1px", drawing)
    head, rest = drawing.split(">", 1)
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    head += f' class="plot" role="img" aria-labelledby="{ident}-title {ident}-text"'
    names = (
        f'<title id="{ident}-title">{html.escape(title)}</title>'
        f'<desc id="{ident}-text">{html.escape(description)}</desc>'
    )
    return f"{head}>{names}{rest}"


def lines(
    series: Sequence[tuple[Any, ...]],
    *,
    x_label: str,
    logarithmic: bool = False,
    **settings: Any,
) -> Draw:
    """Lines: (name, x, y) each; `settings` of the axis."""

    def draw(axis: Any) -> None:
        for number, (name, x, y) in enumerate(series):
            axis.plot(
                x, y, label=name if len(series) > 1 else None, color=COLOURS[number % 6],
                marker=MARKERS[number % 6], linestyle=LINES[number % 6], markersize=4,
            )  # fmt: skip
        if logarithmic:
            _logarithmic(axis, "x", "y")
        elif x_label == "epoch":
            axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set(xlabel=x_label, **settings)

    return draw


def scatter(truth: np.ndarray, estimate: np.ndarray, *, x_label: str) -> Draw:
    """Estimates over truth, (clips,) each."""
    chosen = np.arange(len(truth))
    if len(chosen) > POINTS:
        chosen = np.random.default_rng(0).choice(len(truth), POINTS, replace=False)

    def draw(axis: Any) -> None:
        axis.plot([0, 1], [0, 1], color=INK, linewidth=0.8)
        axis.plot(
            truth[chosen], estimate[chosen], "o", color=COLOURS[0], markersize=3.5, alpha=0.5,
            markeredgewidth=0,
        )  # fmt: skip
        axis.set(xlabel=x_label, ylabel="student", xlim=(0, 1), ylim=(-0.05, 1.05))

    return draw


def pareto(points: Sequence[tuple[Any, ...]], *, x_label: str) -> Draw:
    """Mean CCC over a cost: (name, cost, CCC) each."""

    def draw(axis: Any) -> None:
        for number, (name, cost, ccc) in enumerate(points):
            style = {"color": COLOURS[number % 6], "markersize": 8, "label": name}
            axis.plot(cost, ccc, MARKERS[number % 6], **style)
        _, costs, agreements = zip(*points, strict=True)
        margin = max(0.03, 0.15 * (max(agreements) - min(agreements)))
        _logarithmic(axis, "x")
        axis.set(
            xlabel=x_label, ylabel="mean CCC with the teacher",
            xlim=(min(costs) / 1.5, max(costs) * 1.5),
            ylim=(min(agreements) - margin, max(agreements) + margin),
        )  # fmt: skip

    return draw


def intervals(
    figures: Sequence[dict[str, Any]], labels: Sequence[str], *, x_label: str, **settings: Any
) -> Draw:
    """Figures of an audit with their intervals, thresholds and the random model's values."""

    def draw(axis: Any) -> None:
        from matplotlib.ticker import MaxNLocator

        places = np.arange(len(figures))[::-1]
        for place, figure in zip(places, figures, strict=True):
            value, low, high, random = (
                np.nan if one is None else one
                for one in (figure["value"], figure["low"], figure["high"],
                            figure["random"]["value"])
            )  # fmt: skip
            axis.plot([low, high], [place, place], color=COLOURS[0], linewidth=2)
            axis.plot(value, place, "o", color=COLOURS[0], markersize=5)
            last = place == places[-1]
            axis.plot(random, place, "x", color=COLOURS[1], markersize=6,
                      label="random model" if last else None)  # fmt: skip
            marks = [figure["threshold"]]
            if figure["better"] == "within":
                marks += [0, -figure["threshold"]]
            axis.vlines(marks, place - 0.35, place + 0.35, color=INK, linewidth=1.5)
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.set_yticks(places, labels)
        axis.set(xlabel=x_label, ylim=(-0.7, len(figures) - 0.3), **settings)

    return draw


def matrix(counts: np.ndarray, names: Sequence[str]) -> Draw:
    """A confusion matrix (classes, classes): rows are the truth; the darker, the larger a share."""

    def draw(axis: Any) -> None:
        from matplotlib.patches import Rectangle

        places = np.arange(len(names))
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        for row, column in np.ndindex(counts.shape):
            style = {"facecolor": COLOURS[0], "alpha": 0.65 * shares[row, column], "linewidth": 0}
            axis.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, **style))
            axis.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=9)
        limits = (-0.5, len(names) - 0.5)
        axis.set(xlim=limits, ylim=limits[::-1], xlabel="prediction", ylabel="truth")
        axis.set_xticks(places, names, rotation=40, ha="right")
        axis.set_yticks(places, names)
        axis.set_aspect("equal")
        axis.grid(visible=False)

    return draw


def _logarithmic(axis: Any, *names: str) -> None:
    """Logarithmic axes with plain numbers, few enough to read."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for name in names:
        axis.set(**{f"{name}scale": "log"})
        ruler = getattr(axis, f"{name}axis")
        ruler.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
        ruler.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ruler.set_minor_formatter(NullFormatter())
