"""`wav2small distill`: a student learns from a label table.

wav2small distill labels.parquet -o run/
wav2small distill labels.parquet -o run/ --student nano --validation speaker=19,20
wav2small distill --config run/distill.toml -o again/ --seed 1
accelerate launch --num_processes 4 -m wav2small distill labels.parquet -o run/

Stopped or killed? The same command goes on from the last checkpoint.
"""

import argparse
import dataclasses
import json
import sys

from wav2small.cli import options
from wav2small.errors import Wav2SmallError

FUNCTION = "wav2small.students.distillation:distill"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from wav2small.students.config import FORMER, Config

    options.add(parser, FUNCTION, labels={"nargs": "?"})
    parser.add_argument("--json", action="store_true", help="result as JSON on standard output")
    for item in dataclasses.fields(Config):
        if not item.metadata.get("cli", True):
            continue
        default = getattr(Config(), item.name)
        settings: dict = {"default": None, "help": item.metadata["help"]}
        if isinstance(default, bool):
            settings["action"] = "store_true"
        else:
            several = isinstance(default, list)
            shown = " ".join(map(str, default)) if several else default
            settings["help"] += f" (default: {shown})" if shown != "" else ""
            settings["type"] = float if several else type(default)
            settings |= {key: item.metadata.get(key) for key in ("choices", "nargs")}
            if not settings["choices"]:
                settings["metavar"] = {int: "N", float: "X", str: "NAME"}[settings["type"]]
        parser.add_argument("--" + item.name.replace("_", "-"), **settings)
    for former, name in FORMER.items():
        parser.add_argument(f"--{former}", dest=name, type=float, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    from wav2small.dimensions import DIMENSIONS
    from wav2small.students import config
    from wav2small.students.distillation import distill

    labels = args.labels or (config.read(args.config).get("labels") if args.config else None)
    if labels is None:
        raise Wav2SmallError("name the label table, or a --config FILE that names it")
    names = {item.name for item in dataclasses.fields(config.Config)}
    given = {k: v for k, v in vars(args).items() if k in names and v is not None}
    online = None
    if args.online:
        from wav2small.teachers.registry import load_teacher

        online = load_teacher(args.online)
        if tuple(online.dimensions) != DIMENSIONS:
            raise Wav2SmallError(
                f"--online {args.online}: estimates {', '.join(online.dimensions) or 'categories'} "
                f"only; a student learns {', '.join(DIMENSIONS)}"
            )
    given |= {name: vars(args)[name] for name in ("root", "split", "config", "overwrite", "voice")}
    result = distill(labels, args.output, online=online, **given)
    for warning in result.warnings:
        print(f"wav2small distill: {warning}", file=sys.stderr)
    if args.json:
        print(json.dumps(dataclasses.asdict(result), indent=2))
    else:
        trained = f"{result.clips} clips, {result.epochs} epochs, {result.seconds:.0f} s"
        others = f"{result.validation_clips} clips of voices or files it was not trained on"
        print(f"{result.student}: {result.parameters:,} parameters, {trained}")
        print(f"with the teacher, on {others}:")
        if result.ccc:
            print("CCC " + "  ".join(f"{name} {ccc:.3f}" for name, ccc in result.ccc.items()))
        if result.category_agreement is not None:
            print(f"the same category {result.category_agreement:.0%}")
        for ratio, value in result.voice.items():
            print(f"voice activity, speech {ratio:g} dB above noise: AUC {value:.3f}")
        print(result.output)
    if result.rejected:
        print(f"{len(result.rejected)} files could not be used:", file=sys.stderr)
        for reason in result.rejected.values():
            print(f"  {reason}", file=sys.stderr)
        return 1
    return 0
