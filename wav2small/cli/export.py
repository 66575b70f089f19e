"""`wav2small export`: from a run to a verified bundle.

wav2small export run/ -o bundle/
wav2small export run/ -o bundle/ --precision int4 --check-licence commercial
wav2small export run/ -o bundle/ --streaming --c --name speech
wav2small export run/ -o bundle/ --root /new/place/of/the/recordings --overwrite
"""

import argparse
import sys

from wav2small.cli import options
from wav2small.errors import Wav2SmallError

FUNCTION = "wav2small.export.export:export_bundle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    changes: dict = {
        "run": {"metavar": "RUN"},
        "output": {"metavar": "BUNDLE"},
        "precision": {"choices": ["fp32", "int8", "int4", "int8-static"]},
        "check_licence": {"choices": ["commercial"]},
    }
    options.add(parser, FUNCTION, **changes)
    name = "with --c: name of its files and symbols, nano_NAME (default: after BUNDLE)"
    parser.add_argument("--name", metavar="NAME", help=name)
    arduino = "with --c: also firmware/, a library for Arduino, PlatformIO, Zephyr and ESP-IDF"
    parser.add_argument("--arduino", action="store_true", help=arduino)


def run(args: argparse.Namespace) -> int:
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
    largest, mean = clips["max_difference"], clips["mean_difference"]
    print(f"{made.bundle}: {made.record['student']}, {args.precision}, {made.bytes:,} bytes")
    print(f"verified on {clips['count']} clips: largest difference {largest:.2g}, mean {mean:.2g}")
    for dimension, drop in made.record.get("ccc", {}).get("drop", {}).items():
        after = made.record["ccc"]["after"][dimension]["value"]
        if drop is not None:
            change = f"{abs(drop):.4f} {'lower' if drop > 0 else 'higher'} than in torch"
            print(f"CCC with the teacher, {dimension}: {after:.3f} ({change})")
    if made.c:
        flash, ram = f"{made.c.flash / 1000:.1f} KB", f"{made.c.ram / 1000:.1f} KB"
        print(f"{made.c.source}: flash about {flash}, RAM {ram} and 1.2 KB of stack")
    return 0
