"""`wav2small export`: from a run to a verified bundle."""

from __future__ import annotations

import argparse
import sys

EXAMPLE = """\
wav2small export run/ -o bundle/
wav2small export run/ -o bundle/ --precision int4 --check-licence commercial
wav2small export run/ -o bundle/ --streaming --c --name speech
wav2small export run/ -o bundle/ --root /new/place/of/the/recordings --overwrite"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="folder that `distill` wrote, or any student's")
    parser.add_argument("-o", "--output", required=True, metavar="BUNDLE", help="folder to write")
    parser.add_argument(
        "--precision",
        choices=["fp32", "int8", "int4", "int8-static"],
        default="int8",
        help="int8: 8-bit weights, float arithmetic; int4: large matrices 4-bit; int8-static: "
        "8-bit weights and activations, for integer hardware (default: int8)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing bundle")
    parser.add_argument(
        "--calibration",
        metavar="SOURCE",
        help="folder or table of speech to verify with (default: the run's validation set)",
    )
    parser.add_argument("--root", metavar="FOLDER", help="where the validation audio is now")
    parser.add_argument(
        "--clips", type=int, default=200, metavar="N", help="verify with at most N (default: 200)"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="D",
        help="largest difference between torch and the file (default: by precision)",
    )
    parser.add_argument(
        "--check-licence",
        choices=["commercial"],
        help="reject when a teacher, audio or code forbids this use or has an unknown licence",
    )
    parser.add_argument(
        "--streaming", action="store_true", help="also streaming.onnx with explicit state (nano)"
    )
    parser.add_argument(
        "--c", action="store_true", help="also c/: plain C99 for microcontrollers (nano)"
    )
    parser.add_argument(
        "--name",
        metavar="NAME",
        help="with --c: of its files and symbols, nano_NAME (default: after BUNDLE)",
    )
    parser.add_argument("--explain", action="store_true", help="print differences layer by layer")


def run(args: argparse.Namespace) -> int:
    from wav2small.errors import Wav2SmallError
    from wav2small.export.c.emitter import COptions
    from wav2small.export.export import VerificationError, export_bundle
    from wav2small.export.onnx import layers
    from wav2small.export.verification import VerificationOptions

    if args.name and not args.c:
        raise Wav2SmallError("--name is the name of the C; give --c too")
    try:
        made = export_bundle(
            args.run,
            args.output,
            precision=args.precision,
            overwrite=args.overwrite,
            verification=VerificationOptions(
                calibration=args.calibration,
                root=args.root,
                clips=args.clips,
                tolerance=args.tolerance,
                explain=args.explain,
            ),
            check_licence=args.check_licence,
            streaming=args.streaming,
            c=COptions(name=args.name) if args.c else False,
        )
    except VerificationError as error:
        if args.explain:
            print(layers.table(error.layers), file=sys.stderr)
        raise
    if args.explain:
        print(layers.table(made.layers), file=sys.stderr)
    clips = made.record["clips"]
    print(f"{made.bundle}: {made.record['student']}, {args.precision}, {made.bytes:,} bytes")
    print(
        f"verified on {clips['count']} clips: largest difference {clips['max_difference']:.2g}, "
        f"mean {clips['mean_difference']:.2g}"
    )
    for dimension, drop in made.record.get("ccc", {}).get("drop", {}).items():
        after = made.record["ccc"]["after"][dimension]["value"]
        if drop is not None:
            change = "lower" if drop > 0 else "higher"
            print(
                f"CCC with the teacher, {dimension}: {after:.3f} "
                f"({abs(drop):.4f} {change} than in torch)"
            )
    if made.c:
        print(
            f"{made.c.source}: flash about {made.c.flash / 1000:.1f} KB, "
            f"RAM {made.c.ram / 1000:.1f} KB and 1.2 KB of stack"
        )
    return 0
