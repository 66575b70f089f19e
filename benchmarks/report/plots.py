"""Plots as SVG for a page: its colours are the page's, dark or light, its text is text.

matplotlib draws with stand-in colours; `svg` replaces them by CSS variables (`--c1` ...) and
`currentColor`, so that one drawing serves both colour schemes, and prefixes all ids, so that many
drawings share a page.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wav2small.dimensions import DIMENSIONS

INK, GRID = "#010203", "#040506"
COLOURS = [f"#0a0b{number:02x}" for number in range(1, 7)]
MARKERS = ["o", "s", "^", "D", "v", "P"]  # with the colours: nobody has to see them
LINES = ["-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1))]

_STYLE: Any = {
    "axes.edgecolor": INK, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK,
    "ytick.color": INK, "grid.color": GRID, "axes.grid": True, "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "font.size": 11,
    "svg.fonttype": "none", "svg.hashsalt": "wav2small", "legend.frameon": False,
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none",
}  # fmt: skip

Line = tuple[str, Sequence[float], Sequence[float]]  # name, x, y


def svg(figure: Any, *, ident: str, title: str, description: str) -> str:
    """An SVG element with a title and a description for those who hear the page."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    FigureCanvasSVG(figure)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    drawing = text.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.S)
    drawing = drawing.replace(INK, "currentColor").replace(GRID, "var(--grid)")
    for number, colour in enumerate(COLOURS, start=1):
        drawing = drawing.replace(colour, f"var(--c{number})")
    drawing = re.sub(r'\bid="', f'id="{ident}-', drawing)
    drawing = re.sub(r'href="#', f'href="#{ident}-', drawing)
    drawing = drawing.replace("url(#", f"url(#{ident}-")
    drawing = re.sub(r"font: ([^;\"]*?)px [^;\"]*", r"font-size: \1px", drawing)
    head, rest = drawing.split(">", 1)
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    head += f' class="plot" role="img" aria-labelledby="{ident}-title {ident}-text"'
    names = (
        f'<title id="{ident}-title">{html.escape(title)}</title>'
        f'<desc id="{ident}-text">{html.escape(description)}</desc>'
    )
    return f"{head}>{names}{rest}"


def panel(*, height: float = 3.0) -> tuple[Any, Any]:
    """A figure with one axis. Panels are drawings of their own, so that a phone can stack them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.0, height), layout="constrained")
    return figure, figure.subplots()


def styled(function: Any) -> Any:
    """Draw with the page's style: matplotlib reads some of it only while drawing."""
    import functools

    @functools.wraps(function)
    def drawn(*args: Any, **options: Any) -> Any:
        import matplotlib

        with matplotlib.rc_context(_STYLE):
            return function(*args, **options)

    return drawn


@styled
def lines(
    series: Mapping[str, Sequence[Line]],
    *,
    ident: str,
    description: str,
    x_label: str,
    logarithmic: bool = False,
    y_range: tuple[float, float] | None = None,
    invert_x: bool = False,
) -> list[str]:
    """Lines: panel title -> lines."""
    drawings = []
    for place, (title, members) in enumerate(series.items()):
        figure, axis = panel()
        for number, (label, x, y) in enumerate(members):
            axis.plot(
                x, y, label=label, color=COLOURS[number % 6], marker=MARKERS[number % 6],
                linestyle=LINES[number % 6], markersize=4,
            )  # fmt: skip
        axis.set(title=title, xlabel=x_label)
        if logarithmic:
            _logarithmic(axis.xaxis)
            _logarithmic(axis.yaxis)
        if y_range:
            axis.set_ylim(*y_range)
        if invert_x:
            axis.invert_xaxis()
        if len(members) > 1:
            figure.legend(loc="outside lower center", ncols=2, fontsize=9)
        drawings.append(svg(figure, ident=f"{ident}-{place}", title=title, description=description))
    return drawings


@styled
def scatter(
    truth: np.ndarray, estimate: np.ndarray, *, ident: str, description: str, x_label: str
) -> list[str]:
    """Estimates over truth, (clips, 3) each, a panel per dimension, at most 400 points."""
    drawings = []
    chosen = np.arange(len(truth))
    if len(chosen) > 400:
        chosen = np.random.default_rng(0).choice(len(truth), 400, replace=False)
    for column, dimension in enumerate(DIMENSIONS):
        figure, axis = panel(height=3.8)
        axis.plot([0, 1], [0, 1], color=INK, linewidth=0.8)
        axis.plot(
            truth[chosen, column], estimate[chosen, column], "o", color=COLOURS[0], markersize=3.5,
            alpha=0.5, markeredgewidth=0,
        )  # fmt: skip
        axis.set(title=dimension, xlabel=x_label, ylabel="student", xlim=(0, 1), ylim=(-0.05, 1.05))
        drawings.append(
            svg(figure, ident=f"{ident}-{column}", title=dimension, description=description)
        )
    return drawings


@styled
def pareto(
    points: Sequence[Mapping[str, Any]],
    axes: Sequence[tuple[str, str]],
    *,
    ident: str,
    description: str,
) -> list[str]:
    """Mean CCC over costs: `points` with `name`, `ccc` and the keys of `axes` (key, label)."""
    drawings = []
    agreements = [point["ccc"] for point in points]
    room = max(0.03, 0.15 * (max(agreements) - min(agreements)))
    for key, label in axes:
        figure, axis = panel(height=3.6)
        given = [point for point in points if point.get(key) is not None]
        for number, point in enumerate(given):
            axis.plot(
                point[key], point["ccc"], MARKERS[number % 6], color=COLOURS[number % 6],
                markersize=8, label=point["name"],
            )  # fmt: skip
        values = [point[key] for point in given]
        _logarithmic(axis.xaxis)
        axis.set(
            xlabel=label, ylabel="mean CCC with the teacher",
            xlim=(min(values) / 1.5, max(values) * 1.5),
            ylim=(min(agreements) - room, max(agreements) + room),
        )  # fmt: skip
        figure.legend(loc="outside lower center", ncols=2, fontsize=9)
        drawings.append(
            svg(figure, ident=f"{ident}-{key}", title=f"CCC over {label}", description=description)
        )
    return drawings


@styled
def intervals(
    rows: Mapping[str, Sequence[tuple[str, float, float, float, float | None]]],
    *,
    ident: str,
    description: str,
    x_label: str,
    x_range: tuple[float, float] | None = None,
    thresholds: Mapping[str, Sequence[float]] | None = None,
) -> list[str]:
    """Values with their intervals: panel -> (label, value, low, high, random model's value).

    `thresholds`: label -> positions of the marks of each row; the label "" = lines over all rows.
    """
    from matplotlib.ticker import MaxNLocator

    drawings = []
    for number, (title, members) in enumerate(rows.items()):
        figure, axis = panel(height=1.5 + 0.24 * len(members))
        places = np.arange(len(members))[::-1]
        for place, (label, value, low, high, random) in zip(places, members, strict=True):
            axis.plot([low, high], [place, place], color=COLOURS[0], linewidth=2)
            axis.plot(value, place, "o", color=COLOURS[0], markersize=5)
            if random is not None:
                axis.plot(random, place, "x", color=COLOURS[1], markersize=6)
            for mark in (thresholds or {}).get(label, ()):
                axis.plot([mark, mark], [place - 0.35, place + 0.35], color=INK, linewidth=1.5)
        for mark in (thresholds or {}).get("", ()):
            axis.axvline(mark, color=INK, linewidth=1, linestyle="--")
        axis.set(title=title, xlabel=x_label, ylim=(-0.7, len(members) - 0.3))
        if x_range:
            axis.set_xlim(*x_range)
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.set_yticks(places, [label for label, *_ in members])
        axis.plot([], [], "x", color=COLOURS[1], label="random model")
        figure.legend(loc="outside lower center", fontsize=9)
        drawings.append(
            svg(figure, ident=f"{ident}-{number}", title=title, description=description)
        )
    return drawings


def _logarithmic(axis: Any) -> None:
    """A logarithmic axis with plain numbers, few enough to read."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    {"x": axis.axes.set_xscale, "y": axis.axes.set_yscale}[axis.axis_name]("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
