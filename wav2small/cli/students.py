"""`wav2small students`: what can be trained, and what it costs.

wav2small students --json
"""

import argparse
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="result as JSON on standard output")


def run(args: argparse.Namespace) -> int:
    from wav2small.students.registry import list_students

    rows = list_students()
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    print(f"{'name':<24}{'parameters':>12}{'MMAC/s':>9}  description")
    for row in rows:
        size = f"{row['parameters']:>12,}{row['macs_per_second'] / 1e6:>9.1f}"
        print(f"{row['name']:<24}{size}  {row['description']}")
    return 0
