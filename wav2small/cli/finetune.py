"""`wav2small finetune`."""

import argparse
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wav2small.teachers.finetuning.options import ComputeOptions, TrainingOptions

EXAMPLE = """  wav2small finetune ratings.csv --scale 1 7 --backbone wavlm-large/ -o teacher/
  wav2small finetune ratings.csv --backbone FOLDER --pooling mean --layers 12 -o teacher/
  wav2small finetune dialogues.csv --teacher spectra --speech FOLDER --text FOLDER -o teacher/
  wav2small label recordings/ -o labels.parquet --teacher teacher/"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("labels", help="human ratings or a label table: CSV, parquet, audformat")
    parser.add_argument("-o", "--output", required=True, help="folder for the teacher")
    parser.add_argument(
        "--backbone",
        metavar="FOLDER|HUB_ID",
        help="WavLM, wav2vec2 or HuBERT, for a teacher of speech alone",
    )
    parser.add_argument(
        "--teacher",
        metavar="NAME",
        help="a multimodal teacher: spectra, calm, bridge, mister_e; see docs/multimodal.md",
    )
    parser.add_argument(
        "--speech", metavar="FOLDER|HUB_ID", help="its speech encoder, as --backbone"
    )
    parser.add_argument(
        "--text", metavar="FOLDER|HUB_ID", help="its text encoder: RoBERTa, BERT, a LLM ..."
    )
    parser.add_argument(
        "--pretrained", metavar="FOLDER", help="of `pretrain`, instead of --speech and --text"
    )
    parser.add_argument(
        "--pooling",
        choices=["attentive", "mean"],
        default="attentive",
        help="of a backbone (default: %(default)s)",
    )
    parser.add_argument(
        "--layers", type=int, metavar="N", help="keep the first N transformer layers (default: all)"
    )
    parser.add_argument(
        "--lora",
        type=int,
        metavar="RANK",
        help="of --teacher: its encoders learn through adapters of this rank (needs peft)",
    )
    parser.add_argument("--epochs", type=int, default=5, help="default: %(default)s")
    parser.add_argument(
        "--batch-size", type=int, default=32, help="clips one CCC is over (default: %(default)s)"
    )
    parser.add_argument(
        "--micro-batch",
        type=int,
        metavar="N",
        help="clips in memory at a time (default: 4, GPU 16)",
    )
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="default: %(default)s")
    parser.add_argument(
        "--crop",
        type=float,
        default=8.0,
        metavar="S",
        help="seconds of a clip used (default: %(default)s)",
    )
    parser.add_argument(
        "--categories", metavar="COLUMN", help="also learn the categories in this column"
    )
    parser.add_argument(
        "--validation", default="0.15", help="held-out share, or COLUMN=VALUE,VALUE"
    )
    parser.add_argument(
        "--split",
        nargs="+",
        metavar="NAME",
        help="only clips whose column `split` says so, such as train",
    )
    parser.add_argument("--root", help="folder that the files of the table are relative to")
    parser.add_argument(
        "--scale",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="of the ratings (default: 0 1)",
    )
    parser.add_argument(
        "--audio-licence", default="unknown", metavar="NAME", help="of the audio, for provenance"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 ...")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--overwrite", action="store_true", help="replace another run")


def run(args: argparse.Namespace) -> int:
    from wav2small.teachers.finetuning.finetune import choose_recipe, finetune
    from wav2small.teachers.finetuning.options import RatingOptions

    result = finetune(
        args.labels,
        args.output,
        choose_recipe(
            backbone=args.backbone,
            pooling=args.pooling,
            layers=args.layers,
            teacher=args.teacher,
            speech=args.speech,
            text=args.text,
            pretrained=args.pretrained,
            lora=args.lora,
        ),
        ratings=RatingOptions(
            root=args.root,
            split=args.split,
            scale=tuple(args.scale) if args.scale else None,
            categories=args.categories,
            audio_licence=args.audio_licence,
        ),
        training=training_options(args),
        compute=compute_options(args),
        overwrite=args.overwrite,
    )
    line = f"{result.output}: best epoch {result.best_epoch}, validation CCC {_figures(result.ccc)}"
    if result.ccc_without_text:
        line += f"; with transcripts taken away {_figures(result.ccc_without_text)}"
    print(line, file=sys.stderr)
    print(f"licences: {result.licence}", file=sys.stderr)
    for reason in result.rejected:
        print(f"rejected: {reason}", file=sys.stderr)
    return 1 if result.rejected else 0


def training_options(args: argparse.Namespace) -> "TrainingOptions":
    from wav2small.teachers.finetuning.options import TrainingOptions

    return TrainingOptions(
        epochs=args.epochs,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        crop_s=args.crop,
        validation=args.validation,
        seed=args.seed,
    )


def compute_options(args: argparse.Namespace) -> "ComputeOptions":
    from wav2small.teachers.finetuning.options import ComputeOptions

    return ComputeOptions(device=args.device, dtype=args.dtype, micro_batch=args.micro_batch)


def _figures(figures: Mapping[str, float]) -> str:
    return " ".join(f"{name} {value:.3f}" for name, value in figures.items())
