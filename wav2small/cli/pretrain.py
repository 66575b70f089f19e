"""`wav2small pretrain`.

wav2small pretrain spectra turns.parquet --speech FOLDER --text FOLDER -o pretrained/
wav2small finetune ratings.csv --teacher spectra --pretrained pretrained/ -o teacher/
"""

import argparse

from wav2small.cli import options

from .finetune import RECIPE, finish

FUNCTION = "wav2small.teachers.finetuning.pretrain:pretrain"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("system", help="spectra or calm; see docs/multimodal.md")
    options.add(parser, FUNCTION, "source", "output")
    pretrained = {"help": "go on from here instead of --speech and --text"}
    options.add(parser, RECIPE, "speech", "text", "pretrained", pretrained=pretrained)
    options.add(parser, RECIPE, "changes", changes={"flags": ["--set"], "metavar": "NAME=VALUE"})
    options.add(parser, FUNCTION, skip=("source", "output", "recipe"))


def run(args: argparse.Namespace) -> int:
    recipe = options.call(RECIPE, teacher=args.system, **vars(args))
    result = options.call(FUNCTION, **vars(args), recipe=recipe)
    figures = " ".join(f"{name} {value:.3f}" for name, value in result.figures.items())
    return finish(f"{result.output}: best epoch {result.best_epoch}, {figures}", result)
