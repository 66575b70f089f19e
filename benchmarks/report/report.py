"""The report: one page, self-contained, about runs, bundles, audits and benchmarks."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import wav2small
from wav2small import files
from wav2small.dimensions import DIMENSIONS
from wav2small.errors import Wav2SmallError

from . import audio_clips as players
from . import audit_sections as trust_sections
from . import evidence as reading
from . import live as live_demo
from . import sections

DURATIONS_S = (0.5, 1.0, 5.0, 10.0, 30.0)


def report(
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    source: str | os.PathLike[str] | None = None,
    truth: str | os.PathLike[str] | None = None,
    scale: tuple[float, float] | None = None,
    teacher: str | None = None,
    noise: str | None = None,
    rooms: str | None = None,
    limit: int | None = None,
    runs: int = 30,
    clips: int = 24,
    live: bool = False,
    onnxruntime_web: str | os.PathLike[str] | None = None,
    title: str = "",
) -> Path:
    """Write one HTML page.

    What is not given is measured: bundles without a `benchmark --json` among the inputs are
    benchmarked (quickly), and, if a source is named, the first bundle is audited with the others
    beside it.

    Args:
        inputs: run folders (also of runs that still train), bundle folders, ONNX files, results of
            `audit -o` and `benchmark --json`
        output: the page (.html)
        source: clips to audit the first bundle on; see `audit`
        truth: ratings for that audit
        scale: of the truth
        teacher: to stand beside the bundle in that audit
        noise: folder of recorded noise for that audit
        rooms: folder of impulse responses for that audit
        limit: clips of that audit, None = all
        runs: rounds of the quick benchmark; 0 = none
        clips: number of worst clips with players
        live: add a live demo of the first bundle, in ONNX Runtime Web
        onnxruntime_web: folder of the npm package onnxruntime-web; None = fetched with npm
        title: of the page

    Returns:
        path of the page; a live demo lies in a folder `NAME_live` beside it

    Raises:
        Wav2SmallError: an input is nothing of these, or a measurement fails
    """
    output = Path(output)
    if output.suffix.lower() not in (".html", ".htm"):
        raise Wav2SmallError(f"{output}: the page is HTML; name it -o report.html")
    found = reading.gather(inputs)
    if (live or source is not None) and not found.bundles:
        raise Wav2SmallError("a live demo and an audit need a bundle: name one (wav2small export)")
    # Before minutes of measuring: a live demo that cannot be built should fail now.
    package = live_demo.package(onnxruntime_web) if live else None
    _benchmark(found, runs)
    if source is not None:
        _audit(found, source, truth=truth, scale=scale, teacher=teacher, noise=noise, rooms=rooms,
               limit=limit)  # fmt: skip
    made = (
        f"wav2small report {shlex.join(str(path) for path in inputs)} -o {shlex.quote(str(output))}"
    )
    made += f" --source {shlex.quote(os.fspath(source))}" if source is not None else ""
    context: dict[str, Any] = {
        "title": title or _title(found),
        "version": wav2small.__version__,
        "dimensions": DIMENSIONS,
        "sections": _sections(found, clips, made + (" --live" if live else "")),
        "live": None,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    if package is not None:
        context["live"] = live_demo.write(output, found.bundles[0].path, package)
    with files.atomic(output) as temporary:
        temporary.write_text(_render(context), encoding="utf-8")
    return output


def _render(context: dict[str, Any]) -> str:
    try:
        import jinja2
    except ImportError as error:
        raise Wav2SmallError("a report needs jinja2 and matplotlib: pip install both") from error
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    room = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    return room.get_template("report.html.jinja").render(context)


def _title(found: reading.Evidence) -> str:
    names = [bundle.name for bundle in found.bundles] + [run.name for run in found.runs]
    return f"wav2small: {', '.join(names)}" if names else "wav2small"


def _benchmark(found: reading.Evidence, runs: int) -> None:
    from wav2small.benchmarks.host import benchmark

    measured = {model["name"] for result in found.benchmarks for model in result["models"]}
    missing = [bundle.path for bundle in found.bundles if bundle.name not in measured]
    if missing and runs:
        found.benchmarks.append(benchmark(missing, durations=DURATIONS_S, runs=runs, warm_up=3))


def _audit(found: reading.Evidence, source: str | os.PathLike[str], **options: Any) -> None:
    from wav2small.benchmarks.audit.audit import audit

    first, *others = (bundle.path for bundle in found.bundles)
    found.audits.append(audit(first, source, beside=others, **options))


def _sections(found: reading.Evidence, clips: int, made: str) -> list[sections.Section]:
    listed: list[sections.Section | None] = [sections.overview(found)]
    for number, run in enumerate(found.runs):
        listed.append(sections.training(run, number))
        if run.validation is not None:
            truth = run.validation[list(DIMENSIONS)].to_numpy(float)
            estimate = run.validation[[f"{name}_student" for name in DIMENSIONS]].to_numpy(float)
            listed.append(
                sections.agreement(
                    f"validation-{number}",
                    f"Student and teacher: {run.name}",
                    truth,
                    estimate,
                    whose="teacher",
                )
            )
    listed.append(sections.pareto(found))
    listed += [sections.costs(result, number) for number, result in enumerate(found.benchmarks)]
    for number, result in enumerate(found.audits):
        listed.append(_truth(result, number))
        listed += trust_sections.trust(result, number)
        worst = players.choose(result, count=clips)
        if worst:
            listed.append(
                sections.Section(
                    f"worst-{number}",
                    "Worst clips" + (f" of {result['bundle']['name']}" if number else ""),
                    ["Clips that stand among the worst of the failed figures: listen to them."],
                    clips=worst,
                )
            )
    listed += [sections.lineage(found), sections.commands(found, made)]
    return [section for section in listed if section is not None]


def _truth(result: dict[str, Any], number: int) -> sections.Section | None:
    name = result["bundle"]["name"]
    pairs = [
        (clip["truth"], clip["estimates"][name])
        for clip in result["clips"]
        if "truth" in clip and None not in clip["truth"]
    ]
    if len(pairs) < 10:
        return None
    truth, estimate = (np.array(values, dtype=float) for values in zip(*pairs, strict=True))
    title = "Student and truth" + (f" of {name}" if number else "")
    return sections.agreement(f"truth-{number}", title, truth, estimate, whose="truth")
