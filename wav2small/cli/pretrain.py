"""`wav2small pretrain`."""

import argparse
import sys

EXAMPLE = """  wav2small pretrain spectra turns.parquet --speech FOLDER --text FOLDER -o pretrained/
  wav2small finetune ratings.csv --teacher spectra --pretrained pretrained/ -o teacher/"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("system", help="spectra or calm; see docs/multimodal.md")
    parser.add_argument("source", help="CSV, parquet or audformat with a column `text`")
    parser.add_argument("-o", "--output", required=True, help="folder; an unfinished one goes on")
    parser.add_argument(
        "--speech", metavar="FOLDER|HUB_ID", help="speech encoder: WavLM, wav2vec2 or HuBERT"
    )
    parser.add_argument(
        "--text", metavar="FOLDER|HUB_ID", help="text encoder, such as RoBERTa, and its tokenizer"
    )
    parser.add_argument(
        "--pretrained", metavar="FOLDER", help="go on from here instead of --speech and --text"
    )
    parser.add_argument("--epochs", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=32, help="default: %(default)s")
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
    parser.add_argument("--validation", default="0.1", help="held-out share, or COLUMN=VALUE,VALUE")
    parser.add_argument("--root", help="folder that the files of the table are relative to")
    parser.add_argument(
        "--audio-licence", default="unknown", metavar="NAME", help="of the audio, for provenance"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 ...")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--overwrite", action="store_true", help="replace another run")


def run(args: argparse.Namespace) -> int:
    from wav2small.teachers.finetuning.multimodal_recipe import MultimodalRecipe
    from wav2small.teachers.finetuning.pretrain import pretrain

    from .finetune import compute_options, training_options

    result = pretrain(
        args.source,
        args.output,
        MultimodalRecipe(args.system, args.speech, args.text, pretrained=args.pretrained),
        root=args.root,
        audio_licence=args.audio_licence,
        training=training_options(args),
        compute=compute_options(args),
        overwrite=args.overwrite,
    )
    figures = " ".join(f"{name} {value:.3f}" for name, value in result.figures.items())
    print(f"{result.output}: best epoch {result.best_epoch}, {figures}", file=sys.stderr)
    print(f"licences: {result.licence}", file=sys.stderr)
    for reason in result.rejected:
        print(f"rejected: {reason}", file=sys.stderr)
    return 1 if result.rejected else 0
