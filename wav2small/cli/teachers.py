"""`wav2small teachers`.

wav2small teachers
wav2small teachers --json
"""

import argparse
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="result as JSON on standard output")


def run(args: argparse.Namespace) -> int:
    from wav2small.teachers.registry import list_teachers

    rows = list_teachers()
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    for row in rows:
        count = "-" if row["parameters"] is None else f"{row['parameters'] / 1e6:.1f}M"
        print(f"{row['name']:<10}{count:>8}  {row['licence']:<16}  {row['what']}")
    print("also: FOLDER of `distill` or `finetune`, a hub id, package.module:Class")
    return 0
