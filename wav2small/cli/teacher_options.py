"""Options of commands that take any teacher: what an ONNX model does not say about itself."""

import argparse
from typing import Any


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options `--teacher-...`."""
    group = parser.add_argument_group("teachers that do not describe themselves")
    group.add_argument(
        "--teacher-output",
        metavar="NAME",
        help="output of an ONNX model (default: logits, or the only one)",
    )
    group.add_argument(
        "--teacher-dimensions",
        nargs="+",
        metavar="NAME",
        help="what the columns of an ONNX model's output are, in their order, such as "
        "valence arousal dominance (default: as its model.yaml says)",
    )
    group.add_argument(
        "--teacher-scale",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="lowest and highest output of an ONNX model, mapped to 0..1 (default: 0 1)",
    )
    group.add_argument(
        "--teacher-licence", metavar="NAME", help="licence of a teacher that names none"
    )


def chosen(args: argparse.Namespace) -> dict[str, Any]:
    """Those that were given, as options of `load_teacher`."""
    given = {
        "output": args.teacher_output,
        "dimensions": args.teacher_dimensions,
        "scale": args.teacher_scale and tuple(args.teacher_scale),
        "licence": args.teacher_licence,
    }
    return {name: value for name, value in given.items() if value is not None}
