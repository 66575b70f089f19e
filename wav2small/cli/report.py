"""`wav2small report`: one page about runs and bundles.

wav2small report bundle/ -o report.html --open
wav2small report run/ bundle/ fp32/ -o report.html --source clips.csv --limit 200
wav2small report bundle/ audit.json benchmark.json -o report.html --live
"""

import argparse
import sys
import webbrowser

from wav2small.cli import options

FUNCTION = "wav2small.benchmarks.report.report:report"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    page = ("inputs", "output", "source", "title", "runs", "clips", "live", "onnxruntime_web")
    options.add(parser, FUNCTION, *page, inputs={"nargs": "+", "metavar": "RUN_OR_BUNDLE"})
    group = parser.add_argument_group("with --source, for that audit")
    options.add(group, FUNCTION, "truth", "scale", "limit", "teacher", "noise", "rooms")
    parser.add_argument("--open", action="store_true", help="show it in the browser")


def run(args: argparse.Namespace) -> int:
    page = options.call(FUNCTION, **vars(args))
    print(f"{page}: {page.stat().st_size / 1000:.0f} KB", file=sys.stderr)
    if args.open:
        webbrowser.open(page.resolve().as_uri())
    return 0
