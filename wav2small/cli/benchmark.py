"""`wav2small benchmark`: what a bundle costs on this machine.

wav2small benchmark bundle/
wav2small benchmark fp32/ int8/ int4/ --durations 1 5 10 --markdown > costs.md
wav2small benchmark bundle/ --against other_model.onnx --json > costs.json
wav2small benchmark bundle/ --target cortex-m4 cortex-m33 cortex-m55
"""

import argparse
import json

from wav2small.cli import options
from wav2small.errors import Wav2SmallError

FUNCTION = "wav2small.benchmarks.host:benchmark"
BOARD = "wav2small.benchmarks.microcontroller:microcontroller"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    bundles = {"nargs": "+", "metavar": "BUNDLE"}
    cost, memory = {"help": "do not count operations"}, {"help": "do not measure memory"}
    options.add(parser, FUNCTION, bundles=bundles, cost=cost, memory=memory)
    parser.add_argument("--layers", action="store_true", help="also list each model's layers")
    parser.add_argument(
        "--target",
        nargs="+",
        choices=["cortex-m4", "cortex-m33", "cortex-m55"],
        help="instead: the plain C of one bundle (export --c) on emulated microcontrollers; "
        "needs arm-none-eabi-gcc and qemu-system-arm",
    )
    group = parser.add_argument_group("with --target")
    options.add(group, BOARD, "clip")
    options.add(group, BOARD, "clock_mhz", clock_mhz={"flags": ["--clock"], "metavar": "MHZ"})
    options.add(group, BOARD, "cycles_per_instruction", cycles_per_instruction={"metavar": "N"})
    options.add(group, BOARD, "estimate_every", estimate_every={"metavar": "HOPS"})
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="everything, as JSON")
    form.add_argument("--markdown", action="store_true", help="the tables as Markdown")


def run(args: argparse.Namespace) -> int:
    if args.target:
        return _microcontroller(args)
    from wav2small.benchmarks import tables

    result = options.call(FUNCTION, **vars(args))
    if args.json:
        print(json.dumps(result, indent=2))
    else:
        style = "markdown" if args.markdown else "text"
        print(tables.benchmark(result, style=style, layers=args.layers))
    return 1 if any(model["rejected"] for model in result["models"]) else 0


def _microcontroller(args: argparse.Namespace) -> int:
    from wav2small.benchmarks import microcontroller

    if len(args.bundles) != 1:
        raise Wav2SmallError("--target runs one bundle")
    given = {**vars(args), "bundle": args.bundles[0]}
    runs = [options.call(BOARD, **{**given, "target": target}) for target in args.target]
    if args.json:
        print(json.dumps([run.as_dict() for run in runs], indent=2))
    else:
        print(microcontroller.table(runs))
    return 0
