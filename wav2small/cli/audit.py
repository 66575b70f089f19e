"""`wav2small audit`: the trust suite."""

from __future__ import annotations

import argparse

EXAMPLE = """\
wav2small audit bundle/ recordings/
wav2small audit bundle/ ravdess/labels.csv -o audit.json --teacher acoustic
wav2small audit bundle/ clips.csv --truth ratings.csv --scale 1 7 --by device
wav2small audit bundle/ clips.csv --require 'robustness:gain-unchanged' --baseline audit.json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", nargs="?", help="bundle folder or .onnx file")
    parser.add_argument(
        "source",
        nargs="?",
        help="folder, audio file, CSV or parquet table, audformat database; columns arousal, "
        "dominance, valence are the truth; emotion, speaker, sex, language, accent are used too",
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="write the full result as JSON")
    parser.add_argument("--truth", metavar="TABLE", help="another table with the ratings")
    parser.add_argument(
        "--scale",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="lowest and highest rating of the truth (default: 0 1)",
    )
    parser.add_argument("--root", help="folder that the files of the source are relative to")
    parser.add_argument(
        "--by",
        action="append",
        default=[],
        metavar="COLUMN",
        help="compare the groups of this column too; may be given again",
    )
    parser.add_argument("--teacher", metavar="NAME|FOLDER|HUB_ID", help="compared with the bundle")
    parser.add_argument(
        "--compare-with",
        "--beside",
        nargs="+",
        default=[],
        metavar="BUNDLE",
        help="other bundles to compare with",
    )
    parser.add_argument("--noise", metavar="FOLDER", help="recorded noise to disturb with")
    parser.add_argument("--rooms", metavar="FOLDER", help="room impulse responses")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="GROUP:TEST",
        help="run these tests only; * is allowed, such as 'robustness:*'",
    )
    parser.add_argument(
        "--require",
        nargs="+",
        default=[],
        metavar="GROUP:TEST",
        help="exit 1 unless these tests pass; GROUP:TEST:DIMENSION and * are allowed",
    )
    parser.add_argument(
        "--baseline", metavar="FILE", help="exit 1 if worse than this former audit -o"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="draw N clips of the source")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (default: 0)")
    parser.add_argument(
        "--processes", type=int, metavar="N", help="default: one per core that may be used"
    )
    parser.add_argument("--no-worst", action="store_true", help="do not name the worst clips")
    parser.add_argument("--list", action="store_true", help="show the table of tests and stop")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="everything, as JSON")
    form.add_argument("--markdown", action="store_true", help="the tables as Markdown")


def run(args: argparse.Namespace) -> int:
    import json
    import sys

    from wav2small.benchmarks.audit import tables as audit_tables
    from wav2small.benchmarks.audit import trust
    from wav2small.benchmarks.audit.audit import CompareOptions, SuiteOptions, audit
    from wav2small.benchmarks.audit.corpus import ClipOptions
    from wav2small.errors import Wav2SmallError

    style = "markdown" if args.markdown else "text"
    if args.list:
        print(audit_tables.listing(trust.table(tuple(args.by)), style=style))
        return 0
    if not args.bundle or not args.source:
        raise Wav2SmallError("name a bundle and a source: wav2small audit BUNDLE SOURCE")
    result = audit(
        args.bundle,
        args.source,
        args.output,
        clips=ClipOptions(args.truth, args.scale, args.root, args.by, args.limit),
        compare=CompareOptions(args.compare_with, args.teacher),
        suite=SuiteOptions(args.only, args.noise, args.rooms, args.require, args.baseline),
        seed=args.seed,
        processes=args.processes,
    )
    if args.json:
        print(json.dumps(result, indent=1))
    else:
        print(audit_tables.audit(result, style=style, worst=not args.no_worst))
    for failure in result["thresholds"]["failures"]:
        print(f"failed: {failure}", file=sys.stderr)
    if result["rejected"]:
        print(f"{len(result['rejected'])} clips rejected, listed in the result", file=sys.stderr)
    return 1 if result["rejected"] or result["thresholds"]["failures"] else 0
