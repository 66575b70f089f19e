"""`wav2small finetune`.

wav2small finetune ratings.csv --freeze --encoder moonshine -o teacher/
wav2small finetune ratings.csv --scale 1 7 --backbone wavlm-large/ -o teacher/
wav2small finetune ratings.csv --backbone FOLDER --pooling mean --layers 12 -o teacher/
wav2small finetune dialogues.csv --teacher spectra --speech FOLDER --text FOLDER -o teacher/
wav2small finetune ratings.csv --backbone FOLDER --folds session -o folds/
wav2small label recordings/ -o labels.parquet --teacher teacher/
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from wav2small.cli import options

FUNCTION = "wav2small.teachers.finetuning.finetune:finetune"
RECIPE = "wav2small.teachers.finetuning.finetune:choose_recipe"
FOLDS = "wav2small.teachers.finetuning.folds:finetune_folds"
PROBE = "wav2small.teachers.finetuning.probe:fit_probe"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add(parser, FUNCTION, "labels", "output")
    options.add(
        parser,
        RECIPE,
        teacher={"metavar": "NAME"},
        pooling={"choices": ["attentive", "mean"]},
        lora={"metavar": "RANK", "nargs": "?", "const": 0},
        changes={"flags": ["--set"], "metavar": "NAME=VALUE"},
    )
    options.add(parser, FUNCTION, skip=("labels", "output", "recipe"))
    folds = {"flags": ["--folds"], "metavar": "COLUMN|K", "default": ""}
    options.add(parser, FOLDS, "folds", folds=folds)
    group = parser.add_argument_group("a probe: minutes on a CPU, from a few hundred ratings")
    freeze = "leave the encoder as it is and fit a ridge regression on its states"
    group.add_argument("--freeze", action="store_true", help=freeze)
    three = {"nargs": 3, "metavar": ("A", "D", "V")}
    probe = ("encoder", "placement", "copies", "mean", "spread")
    options.add(group, PROBE, *probe, mean=three, spread=three)


def run(args: argparse.Namespace) -> int:
    if args.freeze and args.folds:
        return _cross_validate(args, options.grouped(PROBE, "probe", **vars(args))["probe"])
    if args.freeze:
        return _run_probe(args)
    recipe = options.call(RECIPE, **vars(args))
    if args.folds:
        return _cross_validate(args, recipe)
    result = options.call(FUNCTION, **vars(args), recipe=recipe)
    line = f"{result.output}: best epoch {result.best_epoch}, validation CCC {_figures(result.ccc)}"
    if result.ccc_without_text:
        line += f"; with transcripts taken away {_figures(result.ccc_without_text)}"
    return finish(line, result)


def finish(line: str, result: Any, warnings: Sequence[str] = ()) -> int:
    """Print what was made, whom it binds and what was rejected; the exit code."""
    lines = [line, f"licences: {result.licence}", *(f"note: {text}" for text in warnings)]
    print(*lines, *(f"rejected: {reason}" for reason in result.rejected), sep="\n", file=sys.stderr)
    return 1 if result.rejected else 0


def _cross_validate(args: argparse.Namespace, recipe: object) -> int:
    from wav2small.cli import evaluate

    result = options.call(FOLDS, **vars(args), recipe=recipe)
    sizes = ", ".join(f"{name} ({count} clips)" for name, count in result.folds.items())
    print(f"{args.output}: folds {sizes}", file=sys.stderr)
    code = evaluate.show(result.evaluation)
    for name, (mean, deviation) in result.spread.items():
        print(f"{name}: CCC over folds {mean:.3f}, standard deviation {deviation:.3f}")
    return code


def _run_probe(args: argparse.Namespace) -> int:
    result = options.call(PROBE, **vars(args))
    layers = ", ".join(map(str, result.layers))
    line = (
        f"{result.output}: {result.clips} clips, layers {layers} of {result.encoder_layers}, "
        f"penalty {result.penalty:g}; CCC with left-out {result.groups} {_figures(result.ccc)}"
    )
    return finish(line, result, result.warnings)


def _figures(figures: Mapping[str, float]) -> str:
    return " ".join(f"{name} {value:.3f}" for name, value in figures.items())
