"""`wav2small report`: one page about runs and bundles."""

from __future__ import annotations

import argparse

EXAMPLE = """\
wav2small report bundle/ -o report.html --open
wav2small report run/ bundle/ fp32/ -o report.html --source clips.csv --limit 200
wav2small report bundle/ audit.json benchmark.json -o report.html --live"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="RUN_OR_BUNDLE",
        help="run folders, bundle folders, .onnx files, results of `audit -o`, `benchmark --json`",
    )
    parser.add_argument("-o", "--output", default="report.html", help="default: %(default)s")
    parser.add_argument("--source", help="audit the first bundle on this (see audit)")
    parser.add_argument("--truth", metavar="TABLE", help="ratings for that audit")
    parser.add_argument(
        "--scale", type=float, nargs=2, metavar=("LOW", "HIGH"), help="of the truth"
    )
    parser.add_argument("--teacher", metavar="NAME", help="compared with the bundle in that audit")
    parser.add_argument("--noise", metavar="FOLDER", help="recorded noise for that audit")
    parser.add_argument("--rooms", metavar="FOLDER", help="impulse responses for that audit")
    parser.add_argument("--limit", type=int, metavar="N", help="clips of that audit")
    parser.add_argument(
        "--runs", type=int, default=30, help="rounds of the quick benchmark; 0 = none (default: 30)"
    )
    parser.add_argument(
        "--clips", type=int, default=24, help="worst clips with their audio (default: %(default)s)"
    )
    parser.add_argument(
        "--live", action="store_true", help="a live demo of the first bundle, in the browser"
    )
    parser.add_argument(
        "--onnxruntime-web",
        metavar="FOLDER",
        help="the npm package onnxruntime-web, for --live (default: fetched with npm)",
    )
    parser.add_argument("--title", default="", help="of the page")
    parser.add_argument("--open", action="store_true", help="show it in the browser")


def run(args: argparse.Namespace) -> int:
    import sys

    from wav2small.benchmarks.audit.audit import SuiteOptions
    from wav2small.benchmarks.audit.corpus import ClipOptions
    from wav2small.benchmarks.report.report import PageOptions, report

    page = report(
        args.inputs,
        args.output,
        source=args.source,
        clips=ClipOptions(truth=args.truth, scale=args.scale, limit=args.limit),
        teacher=args.teacher,
        suite=SuiteOptions(noise=args.noise, rooms=args.rooms),
        page=PageOptions(args.title, args.runs, args.clips, args.live, args.onnxruntime_web),
    )
    print(f"{page}: {page.stat().st_size / 1000:.0f} KB", file=sys.stderr)
    if args.open:
        import webbrowser

        webbrowser.open(page.resolve().as_uri())
    return 0
