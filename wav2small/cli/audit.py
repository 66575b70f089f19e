"""`wav2small audit`: the trust suite.

wav2small audit bundle/ recordings/
wav2small audit bundle/ ravdess/labels.csv -o audit.json --teacher acoustic
wav2small audit bundle/ clips.csv --truth ratings.csv --scale 1 7 --by device
wav2small audit bundle/ clips.csv --require 'robustness:gain-unchanged' --baseline audit.json
"""

import argparse
import json
import sys

from wav2small.cli import options
from wav2small.errors import Wav2SmallError

FUNCTION = "wav2small.benchmarks.audit.audit:audit"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    changes: dict = {
        "bundle": {"nargs": "?"},
        "source": {"nargs": "?"},
        "output": {"metavar": "FILE"},
        "by": {"action": "append", "nargs": None, "default": []},
        "bundles": {"flags": ["--compare-with", "--beside"], "metavar": "BUNDLE"},
    }
    options.add(parser, FUNCTION, skip=("resamples",), **changes)
    parser.add_argument("--no-worst", action="store_true", help="do not name the worst clips")
    parser.add_argument("--list", action="store_true", help="show the table of tests and stop")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="everything, as JSON")
    form.add_argument("--markdown", action="store_true", help="the tables as Markdown")


def run(args: argparse.Namespace) -> int:
    from wav2small.benchmarks.audit import tables as audit_tables
    from wav2small.benchmarks.audit import trust

    style = "markdown" if args.markdown else "text"
    if args.list:
        print(audit_tables.listing(trust.table(tuple(args.by)), style=style))
        return 0
    if not args.bundle or not args.source:
        raise Wav2SmallError("name a bundle and a source: wav2small audit BUNDLE SOURCE")
    result = options.call(FUNCTION, **vars(args))
    if args.json:
        print(json.dumps(result, indent=1))
    else:
        print(audit_tables.audit(result, style=style, worst=not args.no_worst))
    for failure in result["thresholds"]["failures"]:
        print(f"failed: {failure}", file=sys.stderr)
    if result["rejected"]:
        print(f"{len(result['rejected'])} clips rejected, listed in the result", file=sys.stderr)
    return 1 if result["rejected"] or result["thresholds"]["failures"] else 0
