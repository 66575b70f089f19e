"""`wav2small evaluate`.

wav2small evaluate bundle/ labels.parquet
wav2small evaluate bundle/ ratings.csv --scale 1 7 --by speaker --json
wav2small evaluate wavlm ratings.csv --split test --device cuda
wav2small evaluate labels.parquet ratings.csv --categories emotion
wav2small evaluate bundle/ ravdess:RAVDESS/ --place-truth
"""

import argparse
import json
from typing import Any

from wav2small.cli import options
from wav2small.progress import report_rejected

FUNCTION = "wav2small.evaluation:evaluate"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    by: dict[str, Any] = {"action": "append", "nargs": None, "default": []}
    options.add(parser, FUNCTION, skip=("labelling",), by=by)
    options.add(parser, options.LABEL, "workers", "device", "dtype")
    options.add_teacher(parser)
    parser.add_argument("--json", action="store_true", help="result as JSON on standard output")


def run(args: argparse.Namespace) -> int:
    labelling = options.grouped(options.LABEL, "compute", "teacher_options", **vars(args))
    result = options.call(FUNCTION, **vars(args), labelling=labelling)
    if args.json:
        print(json.dumps(result.to_json(), indent=2))
        return report_rejected(result.rejected)
    return show(result)


def show(result: Any) -> int:
    """Print the figures of an evaluation; the exit code."""
    print(f"{result.clips} clips; in brackets the 95 % interval over {result.drawn}")
    if result.dimensions:
        low, high = result.scale
        factor = "" if high - low == 1 else f"; times {high - low:g} for ratings {low:g}..{high:g}"
        print(f"MAE is in units of 0..1{factor}")
    _figures(vars(result), result.raters)
    for column, groups in result.groups.items():
        for name, group in groups.items():
            print(f"\n{column} {name}: {group['clips']} clips")
            _figures(group)
        if skipped := result.skipped[column]:
            print(f"\n{column}: fewer than 10 clips, passed over: {', '.join(skipped)}")
    return report_rejected(result.rejected)


def _figures(found: dict, raters: dict | None = None) -> None:
    """Print tables; `raters`: CCC of one rater with the others, next to what it compares with."""
    header = ["CCC", "PCC", "MAE", "Spearman"]
    rows = [[name, *map(_cell, of.values())] for name, of in found["dimensions"].items()]
    if raters:
        header.append("CCC of one rater")
        rows = [[*row, _cell(raters[row[0]])] for row in rows]
    if rows:
        _print(["", *header], rows)
        if any("not defined" in row for row in rows):
            print("not defined: too few clips, or ratings or estimates that do not vary")
    if categories := found["categories"]:
        figures = map(_cell, categories["figures"].values())
        _print(["", "UAR", "WA", "weighted F1", "macro F1"], [["categories", *figures]])
        names = categories["names"]
        counts = zip(names, categories["confusion"], strict=True)
        print()
        _print(["truth", *names], [[name, *row] for name, row in counts])
        for name, count in categories["unknown"].items():
            print(f"{name}: {count} clips left out, the subject does not know it")


def _print(header: list[str], rows: list[list]) -> None:
    from tabulate import tabulate

    # The first column holds names, which may look like numbers.
    print(tabulate(rows, header, "plain", disable_numparse=[0]))


def _cell(interval: tuple) -> str:
    value, low, high = interval
    return f"{value:.3f} [{low:.3f} {high:.3f}]" if value == value else "not defined"
