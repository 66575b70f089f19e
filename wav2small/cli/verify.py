"""`wav2small verify`: is a bundle what was exported, and does it work here as it did there?

wav2small verify bundle/
wav2small verify bundle/ --run run/ --root /where/the/recordings/are
wav2small verify bundle/ --check-licence commercial
"""

import argparse

from wav2small.cli import options

FUNCTION = "wav2small.export.verification:verify_bundle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    bundle, run, licence = {"metavar": "BUNDLE"}, {"metavar": "RUN"}, {"choices": ["commercial"]}
    options.add(parser, FUNCTION, path=bundle, run=run, check_licence=licence)


def run(args: argparse.Namespace) -> int:
    result = options.call(FUNCTION, **vars(args))
    print(f"{args.path}: {len(result.files)} files as exported")
    print(f"{result.signals} recorded signals come out the same with ONNX Runtime {result.runtime}")
    if result.clips:
        largest = f"largest difference from torch {result.clips['max_difference']:.2g}"
        print(f"{result.clips['count']} real clips: {largest}")
    for name in result.extra:
        print(f"note: {name} was added after the export")
    return 0
