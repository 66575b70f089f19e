"""`wav2small benchmark`: what a bundle costs on this machine."""

from __future__ import annotations

import argparse

EXAMPLE = """\
wav2small benchmark bundle/
wav2small benchmark fp32/ int8/ int4/ --durations 1 5 10 --markdown > costs.md
wav2small benchmark bundle/ --against other_model.onnx --json > costs.json
wav2small benchmark bundle/ --target cortex-m4 cortex-m33 cortex-m55"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundles", nargs="+", metavar="BUNDLE", help="bundle folder or .onnx file")
    parser.add_argument(
        "--against",
        nargs="+",
        default=[],
        metavar="ONNX",
        help="any other ONNX models with one waveform input, as yardsticks",
    )
    parser.add_argument(
        "--durations",
        nargs="+",
        type=float,
        default=[0.5, 1, 5, 10, 30],
        metavar="S",
        help="clip lengths in seconds (default: .5 1 5 10 30)",
    )
    parser.add_argument(
        "--runs", type=int, default=100, help="counted rounds per length (default: 100)"
    )
    parser.add_argument("--warm-up", type=int, default=10, help="rounds before them (default: 10)")
    parser.add_argument(
        "--threads", type=int, default=1, help="threads of each session (default: 1)"
    )
    parser.add_argument("--no-cost", action="store_true", help="do not count operations")
    parser.add_argument("--no-memory", action="store_true", help="do not measure memory")
    parser.add_argument("--layers", action="store_true", help="also list each model's layers")
    parser.add_argument(
        "--target",
        nargs="+",
        choices=["cortex-m4", "cortex-m33", "cortex-m55"],
        help="instead: the plain C of one bundle (export --c) on emulated microcontrollers; "
        "needs arm-none-eabi-gcc and qemu-system-arm",
    )
    parser.add_argument(
        "--clip", metavar="FILE", help="with --target: speech to run (default: spoken here)"
    )
    parser.add_argument(
        "--clock", type=float, metavar="MHZ", help="with --target: for the duty cycle"
    )
    parser.add_argument(
        "--cycles-per-instruction",
        type=float,
        metavar="N",
        help="with --target: for the duty cycle (default: estimated from published timings for "
        "cortex-m4 and m33, 1.3 for m55)",
    )
    parser.add_argument(
        "--estimate-every",
        type=int,
        default=0,
        metavar="HOPS",
        help="with --target: hops of 16 ms between estimates (default: every hop)",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="everything, as JSON")
    form.add_argument("--markdown", action="store_true", help="the tables as Markdown")


def run(args: argparse.Namespace) -> int:
    import json

    if args.target:
        return _microcontroller(args)
    from wav2small.benchmarks import host, tables

    result = host.benchmark(
        args.bundles,
        against=args.against,
        durations=args.durations,
        runs=args.runs,
        warm_up=args.warm_up,
        threads=args.threads,
        cost=not args.no_cost,
        memory=not args.no_memory,
    )
    if args.json:
        print(json.dumps(result, indent=2))
    else:
        style = "markdown" if args.markdown else "text"
        print(tables.benchmark(result, style=style, layers=args.layers))
    return 1 if any(model["rejected"] for model in result["models"]) else 0


def _microcontroller(args: argparse.Namespace) -> int:
    import json

    from wav2small.benchmarks import microcontroller
    from wav2small.errors import Wav2SmallError

    if len(args.bundles) != 1:
        raise Wav2SmallError("--target runs one bundle")
    runs = [
        microcontroller.microcontroller(
            args.bundles[0],
            target=target,
            clip=args.clip,
            clock_mhz=args.clock,
            cycles_per_instruction=args.cycles_per_instruction,
            estimate_every=args.estimate_every,
        )
        for target in args.target
    ]
    if args.json:
        print(json.dumps([run.as_dict() for run in runs], indent=2))
    else:
        print(microcontroller.table(runs))
    return 0
