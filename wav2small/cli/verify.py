"""`wav2small verify`: is a bundle what was exported, and does it work here as it did there?"""

from __future__ import annotations

import argparse

EXAMPLE = """\
wav2small verify bundle/
wav2small verify bundle/ --run run/ --root /where/the/recordings/are
wav2small verify bundle/ --check-licence commercial"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="BUNDLE", help="folder that `export` wrote")
    parser.add_argument(
        "--run", metavar="RUN", help="compare with this run in torch on real clips again"
    )
    parser.add_argument(
        "--calibration", metavar="SOURCE", help="other speech than the run's validation set"
    )
    parser.add_argument("--root", metavar="FOLDER", help="where the validation audio is now")
    parser.add_argument(
        "--clips", type=int, default=200, metavar="N", help="compare at most N (default: 200)"
    )
    parser.add_argument(
        "--check-licence",
        choices=["commercial"],
        help="reject when a teacher, audio or code forbids this use or has an unknown licence",
    )


def run(args: argparse.Namespace) -> int:
    from wav2small.export.verification import verify_bundle

    result = verify_bundle(
        args.path,
        run=args.run,
        calibration=args.calibration,
        root=args.root,
        clips=args.clips,
        check_licence=args.check_licence,
    )
    print(f"{args.path}: {len(result.files)} files as exported")
    print(f"{result.signals} recorded signals come out the same with ONNX Runtime {result.runtime}")
    if result.clips:
        print(
            f"{result.clips['count']} real clips: largest difference from torch "
            f"{result.clips['max_difference']:.2g}"
        )
    for name in result.extra:
        print(f"note: {name} was added after the export")
    return 0
