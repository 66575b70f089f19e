"""The report: one page, self-contained, about runs, bundles, audits and benchmarks."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import wav2small
from wav2small import files
from wav2small.benchmarks.audit.audit import CompareOptions, SuiteOptions, audit
from wav2small.benchmarks.audit.corpus import ClipOptions
from wav2small.benchmarks.host import DURATIONS_S, benchmark
from wav2small.dimensions import DIMENSIONS
from wav2small.errors import Wav2SmallError

from . import audit_sections, sections
from . import live as live_demo
from .evidence import Evidence, gather


@dataclass(frozen=True)
class PageOptions:
    """What the page shows.

    Attributes:
        title: title of the page; None = names of what it is about
        runs: rounds of the quick benchmark; 0 = none
        clips: worst clips with their audio
        live: a live demo of the first bundle, in the browser
        onnxruntime_web: the npm package onnxruntime-web, for --live; None = fetched with npm
    """

    title: str = ""
    runs: int = 30
    clips: int = 24
    live: bool = False
    onnxruntime_web: str | os.PathLike[str] | None = None


def report(
    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str] = "report.html",
    *,
    source: str | os.PathLike[str] | None = None,
    clips: ClipOptions | None = None,
    teacher: str | None = None,
    suite: SuiteOptions | None = None,
    page: PageOptions | None = None,
) -> Path:
    """Write one HTML page.

    What is not given is measured: bundles without a `benchmark --json` among the inputs are
    benchmarked (quickly), and, if a source is named, the first bundle is audited and compared
    with the others.

    Args:
        inputs: one or several: run folders, bundles, .onnx files, results of `audit -o`,
            `benchmark --json` and `evaluate --json`. Runs may still be training
        output: the page
        source: audit the first bundle on this (see audit)
        clips: which clips and which truth that audit uses
        teacher: teacher to compare with the bundle in that audit
        suite: tests and noise of that audit
        page: what the page shows

    Returns:
        path of the page; a live demo is in a folder `NAME_live` next to it

    Raises:
        Wav2SmallError: an input is none of these, or a measurement fails

    Example:
        >>> report(["bundle"], "report.html", page=PageOptions(runs=0)).name
        'report.html'
    """
    output, page = Path(output), page or PageOptions()
    if output.suffix.lower() not in (".html", ".htm"):
        raise Wav2SmallError(f"{output}: the page is HTML; name it -o report.html")
    inputs = [inputs] if isinstance(inputs, (str, os.PathLike)) else inputs
    evidence = gather(inputs)
    bundles = [bundle.path for bundle in evidence.bundles]
    if (page.live or source is not None) and not bundles:
        raise Wav2SmallError("a live demo and an audit need a bundle: name one (wav2small export)")
    # Before minutes of measuring: a live demo that cannot be built should fail now.
    package = live_demo.package(page.onnxruntime_web) if page.live else None
    missing = [bundle.path for bundle in evidence.bundles if not evidence.costs(bundle)]
    if missing and page.runs:
        evidence.benchmarks.append(
            benchmark(missing, durations=DURATIONS_S, runs=page.runs, warm_up=3)
        )
    words = ["wav2small", "report", *map(str, inputs), "-o", os.fspath(output)]
    if source is not None:
        words += ["--source", os.fspath(source)]
        compare = CompareOptions(bundles[1:], teacher)
        evidence.audits.append(audit(bundles[0], source, clips=clips, compare=compare, suite=suite))
    command = shlex.join([*words, "--live"] if page.live else words)
    output.parent.mkdir(parents=True, exist_ok=True)
    live = live_demo.write(output, bundles[0], package) if package else None
    names = [one.name for one in evidence.models]
    text = _render(
        title=page.title or f"wav2small: {', '.join(names)}".removesuffix(": "),
        version=wav2small.__version__,
        dimensions=DIMENSIONS,
        sections=list(_sections(evidence, page.clips, command)),
        live=live,
    )
    with files.atomic(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return output


def _render(**context: object) -> str:
    try:
        import jinja2
    except ImportError as error:
        raise Wav2SmallError("a report needs jinja2 and matplotlib: pip install both") from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("report.html.jinja").render(context)


def _sections(evidence: Evidence, clips: int, command: str) -> Iterator[sections.Section]:
    yield sections.overview(evidence)
    for number, run in enumerate(evidence.runs):
        if len(run.metrics):
            yield sections.training(run, number)
        if run.validation is None:
            continue
        if f"{DIMENSIONS[0]}_student" in run.validation:
            yield sections.agreement(
                f"validation-{number}",
                f"Student and teacher: {run.name}",
                run.validation[list(DIMENSIONS)].to_numpy(float),
                run.validation[[f"{name}_student" for name in DIMENSIONS]].to_numpy(float),
                whose="teacher",
            )
        if section := sections.validated_categories(run, number):
            yield section
    for number, (name, result) in enumerate(evidence.evaluations.items()):
        yield from sections.evaluation(name, result, number)
    for number, result in enumerate(evidence.benchmarks):
        yield sections.costs(result, number)
    for number, result in enumerate(evidence.audits):
        yield from audit_sections.sections(result, number, clips=clips)
    yield sections.lineage(evidence)
    yield sections.commands(evidence, command)
