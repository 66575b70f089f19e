"""`wav2small export`: from a run to a verified bundle."""

from __future__ import annotations

import argparse
import sys

from wav2small.cli import options

EXAMPLE = """\
wav2small export run/ -o bundle/
wav2small export run/ -o bundle/ --precision int4 --check-licence commercial
wav2small export run/ -o bundle/ --streaming --c --name speech
wav2small export run/ -o bundle/ --root /new/place/of/the/recordings --overwrite"""

FUNCTION = "wav2small.export.export:export_bundle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add(
        parser,
        FUNCTION,
        run={"metavar": "RUN"},
        output={"metavar": "BUNDLE"},
        precision={"choices": ["fp32", "int8", "int4", "int8-static"]},
        check_licence={"choices": ["commercial"]},
    )
    parser.add_argument(
        "--name",
        metavar="NAME",
        help="with --c: name of its files and symbols, nano_NAME (default: after BUNDLE)",
    )
    parser.add_argument(
        "--arduino",
        action="store_true",
        help="with --c: also firmware/, a library for Arduino, PlatformIO, Zephyr and ESP-IDF",
    )


def run(args: argparse.Namespace) -> int:
    from wav2small.errors import Wav2SmallError
    from wav2small.export.c.emitter import COptions
    from wav2small.export.export import VerificationError
    from wav2small.export.onnx import layers

    if (args.name or args.arduino) and not args.c:
        raise Wav2SmallError("--name and --arduino are about the C; give --c too")
    c = COptions(name=args.name, arduino=args.arduino) if args.c else False
    try:
        made = options.call(FUNCTION, **{**vars(args), "c": c})
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
