"""`wav2small label`."""

import argparse
import sys

from wav2small.cli import teacher_options

EXAMPLE = """  wav2small label recordings/ -o labels.parquet
  wav2small label clips.csv -o labels.parquet --teacher wavlm --device cuda
  wav2small label speech/ -o labels.parquet --variants 4 --noise noise/ --rooms rooms/
  wav2small label speech/ -o labels.parquet --teacher teacher/ --asr whisper/"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", help="folder, audio file, CSV or parquet table, audformat database"
    )
    parser.add_argument(
        "-o", "--output", required=True, help="label table (.parquet); an unfinished one goes on"
    )
    parser.add_argument(
        "--teacher",
        default="acoustic",
        metavar="NAME|FOLDER|HUB_ID",
        help="see `wav2small teachers`; a folder of `distill` or `finetune`; a bundle, an audonnx "
        "folder or an .onnx file; a hub id, owner/name[@revision]; package.module:Class "
        "(default: %(default)s)",
    )
    teacher_options.add(parser)
    parser.add_argument("--root", help="folder that the files of a table are relative to")
    parser.add_argument("--limit", type=int, metavar="N", help="label the first N clips only")
    parser.add_argument(
        "--window",
        type=float,
        default=12.0,
        metavar="S",
        help="clips longer than S seconds get one label per window of S (default: %(default)s)",
    )
    parser.add_argument(
        "--hop", type=float, metavar="S", help="seconds between windows (default: the window)"
    )
    parser.add_argument(
        "--variants", type=int, default=0, metavar="K", help="label K augmented copies of each clip"
    )
    parser.add_argument("--noise", metavar="FOLDER", help="background noise for variants")
    parser.add_argument("--rooms", metavar="FOLDER", help="room impulse responses for variants")
    parser.add_argument("--mixture", metavar="FOLDER", help="speech that variants mix in")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes that read audio (default: one per core)"
    )
    parser.add_argument(
        "--device", default="auto", help="of neural teachers: auto, cpu, cuda, cuda:1 ..."
    )
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16, float16")
    parser.add_argument(
        "--engine",
        choices=["local", "ray"],
        default="local",
        help="ray: one teacher per actor on the cluster of RAY_ADDRESS (default: %(default)s)",
    )
    parser.add_argument(
        "--batch-seconds",
        type=float,
        metavar="S",
        help="audio in a batch of a neural teacher (default: 600 on a GPU, 2 on a CPU)",
    )
    parser.add_argument(
        "--members",
        nargs="+",
        metavar="TEACHER",
        help="of --teacher ensemble (default: the paper's)",
    )
    parser.add_argument(
        "--weights", nargs="+", type=float, metavar="W", help="of the members (default: equal)"
    )
    parser.add_argument("--revision", metavar="COMMIT", help="of --teacher wavlm or wav2vec2")
    parser.add_argument(
        "--asr",
        metavar="FOLDER|HUB_ID",
        help="Whisper-type model that first transcribes the clips, for multimodal teachers",
    )
    parser.add_argument(
        "--audio-licence", default="unknown", metavar="NAME", help="of the audio, for provenance"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a table of other settings"
    )
    parser.add_argument(
        "--strict", action="store_true", help="stop at the first clip that cannot be used"
    )


def run(args: argparse.Namespace) -> int:
    from wav2small.teachers.labelling.run import label

    result = label(
        args.source,
        args.output,
        teacher=args.teacher,
        root=args.root,
        limit=args.limit,
        window_s=args.window,
        hop_s=args.hop,
        variants=args.variants,
        noise=args.noise,
        rooms=args.rooms,
        mixture=args.mixture,
        workers=args.workers,
        device=args.device,
        dtype=args.dtype,
        batch_s=args.batch_seconds,
        engine=args.engine,
        audio_licence=args.audio_licence,
        overwrite=args.overwrite,
        strict=args.strict,
        members=args.members,
        weights=args.weights,
        revision=args.revision,
        teacher_options=teacher_options.chosen(args),
        asr=args.asr,
    )
    if result.already_complete:
        print(f"{result.output} is complete already: {result.rows} labels", file=sys.stderr)
    else:
        print(
            f"{result.output}: {result.rows} labels, {result.hours:.2f} h of audio",
            file=sys.stderr,
        )
    print(f"licences: {result.licence}", file=sys.stderr)
    if "-NC" in result.licence:
        print(
            "note: non-commercial (NC): these labels, and students that learn from them, may not "
            "be used in products",
            file=sys.stderr,
        )
    if result.errors:
        print(f"{result.errors} clips rejected; see {result.errors_file}", file=sys.stderr)
    return 1 if result.errors else 0
