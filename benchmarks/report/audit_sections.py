"""The sections of a report that show an audit."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import numpy as np

from wav2small import audio
from wav2small.benchmarks.audit import tables as audit_tables
from wav2small.benchmarks.audit.corpus import read
from wav2small.benchmarks.audit.figures import RANDOM
from wav2small.dimensions import DIMENSIONS
from wav2small.errors import AudioError

from . import plots
from .sections import Section, agreement

MAX_S = 10.0  # seconds of a clip that the page holds (chosen)
DOTS = "Dots with 95 % intervals; "


def sections(result: dict[str, Any], number: int, *, clips: int) -> Iterator[Section]:
    """The sections of one audit, the `number`-th on the page; so many worst clips can be played."""
    name = result["bundle"]["name"]
    on = f" of {name}" if number else ""
    rated = [clip for clip in result["clips"] if None not in clip.get("truth", [None])]
    if len(rated) >= 10:
        truth = np.array([clip["truth"] for clip in rated])
        estimate = np.array([clip["estimates"][name] for clip in rated])
        title = f"Student and truth{on}"
        yield agreement(f"truth-{number}", title, truth, estimate, whose="truth")
    section = Section(f"audit-{number}", f"Tests passed{on}", [f"{audit_tables.headline(result)}."])
    section.text.append(
        "A random model that gives the bundle's own answers in random order is compared with every "
        "figure: it passes many tests, so groups of tests are never added up."
    )
    for place, (heading, frame) in enumerate(audit_tables.outcome(result).items()):
        section.add(heading, frame, shown=place == 0)
    yield section
    robust = [one for one in result["figures"] if one["group"] in ("robustness", "adverse")]
    unchanged = [figure for figure in robust if figure["test"].endswith("-unchanged")]
    if unchanged:
        section = Section(f"robustness-{number}", f"Robustness{on}")
        _draw_intervals(section, unchanged, f"{DOTS}the upright mark is the threshold.",
                        x_label="share of clips left unchanged", xlim=(-0.03, 1.03))  # fmt: skip
        section.add("Robustness, every figure", audit_tables.figures(result, robust))
        yield section
    if result["curves"]:
        yield _curves(result, f"curves-{number}", f"Degradation in noise{on}")
    fair = [figure for figure in result["figures"] if figure["group"] == "fairness"]
    for place, test in enumerate(dict.fromkeys(figure["test"] for figure in fair)):
        chosen = [figure for figure in fair if figure["test"] == test]
        column, metric = test.rsplit("-", 1)
        metric = "CCC" if metric == "ccc" else metric
        section = Section(f"fairness-{number}-{place}", f"Fairness by {column}, {metric}{on}")
        caption = f"{DOTS}corrected for the number of groups; the outer marks are what is allowed."
        _draw_intervals(section, chosen, caption, x_label=chosen[0]["metric"])
        section.add(f"Fairness, {test}", audit_tables.figures(result, chosen))
        yield section
    worst = worst_clips(result, count=clips)
    if worst:
        text = ["Clips that stand among the worst of the failed figures: listen to them."]
        yield Section(f"worst-{number}", f"Worst clips{on}", text, clips=worst)


def worst_clips(result: dict[str, Any], *, count: int) -> list[dict[str, Any]]:
    """Clips that stand among the worst of the most failed figures, small enough for a page.

    Returns:
        for each clip `file`, `source` (a data URL, "" = the audio is not there), `failed`: the
        figures it failed worst, `estimates`: by model, `known`: truth and columns
    """
    failures: dict[tuple[Any, ...], list[tuple[int, str]]] = {}
    for figure in result["figures"]:
        for place, clip in enumerate(figure.get("worst", ())):
            case = f" ({figure['case']})" if figure["case"] else ""
            name = f"{figure['test']} {figure['dimension']}{case}"
            failures.setdefault(_key(clip), []).append((place, name))
    # A clip that is worst of one figure matters as much as one that is tenth of ten.
    weight = {key: sum(1 / (1 + place) for place, _ in places) for key, places in failures.items()}
    clips = {_key(clip): clip for clip in result["clips"]}
    chosen = []
    for key in sorted(failures, key=lambda key: -weight[key])[:count]:
        clip = dict(clips[key])
        entry = {"file": clip.pop("file"), "source": _data(clip)}
        entry["failed"] = [name for _, name in sorted(failures[key])]
        entry["estimates"] = [_values(name, each) for name, each in clip.pop("estimates").items()]
        truth = [_values("truth", clip.pop("truth"))] if "truth" in clip else []
        known = (name for name in clip if name not in ("start", "end", "path"))
        entry["known"] = truth + [f"{name}: {clip[name]}" for name in known]
        chosen.append(entry)
    return chosen


def _draw_intervals(
    section: Section, figures: list[dict[str, Any]], caption: str, **settings: Any
) -> None:
    drawings = {}
    height = 0.0
    for dimension in DIMENSIONS:
        chosen = [figure for figure in figures if figure["dimension"] == dimension]
        if chosen:
            labels = [one["case"] or one["test"].removesuffix("-unchanged") for one in chosen]
            drawings[dimension] = plots.intervals(chosen, labels, **settings)
            height = max(height, 1.5 + 0.24 * len(chosen))
    passed = sum(figure["passed"] for figure in figures)
    description = f"{passed} of {len(figures)} reach their threshold."
    section.draw(drawings, caption, description, height)


def _curves(result: dict[str, Any], ident: str, title: str) -> Section:
    section = Section(ident, title)
    lines: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for point in result["curves"]:
        panel = lines.setdefault(f"{point['noise']}: {point['dimension']}", {})
        panel.setdefault(point["model"], []).append((point["snr_db"], point["unchanged"]))
    drawings = {
        panel: plots.lines(
            [(name, *zip(*points, strict=True)) for name, points in models.items()],
            x_label="signal-to-noise ratio, dB",
            ylim=(-0.03, 1.03),
            xlim=(42, -2),
        )
        for panel, models in lines.items()
    }
    names = ", ".join(model["name"] for model in result["settings"]["models"])
    section.draw(
        drawings,
        "Share of unchanged estimates, from quiet on the left to loud noise on the right.",
        f"For {', '.join(lines)}; models: {names}, {RANDOM}.",
    )
    for heading, frame in audit_tables.curves(result).items():
        section.add(heading, frame)
    return section


def _key(clip: dict[str, Any]) -> tuple[Any, ...]:
    return clip["file"], clip.get("start"), clip.get("end")


def _values(name: str, values: list[float | None]) -> str:
    numbers = ("-" if value is None else f"{value:.2f}" for value in values)
    return f"{name}: " + ", ".join(map(" ".join, zip(DIMENSIONS, numbers, strict=True)))


def _data(clip: dict[str, Any]) -> str:
    """MP3, which every browser plays, as a data URL; WAV where libsndfile cannot write it."""
    import soundfile

    end = clip.get("end")
    try:
        signal = read(clip["path"], clip.get("start") or 0.0, np.nan if end is None else end)
    except AudioError:
        return ""
    signal = signal[: int(MAX_S * audio.SAMPLING_RATE)]
    signal = signal / max(1.0, float(np.abs(signal).max()))
    for kind, subtype in (("MP3", None), ("WAV", "PCM_16")):
        buffer = io.BytesIO()
        try:
            soundfile.write(buffer, signal, audio.SAMPLING_RATE, format=kind, subtype=subtype)
        except (ValueError, soundfile.LibsndfileError):  # libsndfile before 1.1 writes no MP3
            continue
        mime = {"MP3": "mpeg", "WAV": "wav"}[kind]
        return f"data:audio/{mime};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return ""
