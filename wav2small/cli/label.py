"""`wav2small label`."""

import argparse
import sys

from wav2small.cli import options

EXAMPLE = """  wav2small label recordings/ -o labels.parquet
  wav2small label clips.csv -o labels.parquet --teacher wavlm --device cuda
  wav2small label speech/ -o labels.parquet --variants 4 --noise noise/ --rooms rooms/
  wav2small label speech/ -o labels.parquet --teacher teacher/ --asr whisper/"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add(
        parser,
        options.LABEL,
        skip=(
            "teacher_output", "teacher_dimensions", "teacher_scale", "teacher_embedding",
            "teacher_licence", "teacher_placement", "flush_s",
        ),
        teacher_members={"flags": ["--members"], "metavar": "TEACHER"},
        teacher_weights={"flags": ["--weights"], "metavar": "W"},
        teacher_revision={"flags": ["--revision"], "metavar": "COMMIT"},
        variants={"metavar": "K"},
        targets={"choices": ["heard", "clean"]},
        engine={"choices": ["local", "ray"]},
        batch_s={"flags": ["--batch-seconds"]},
    )  # fmt: skip
    options.add_teacher(parser)


def run(args: argparse.Namespace) -> int:
    result = options.call(options.LABEL, **vars(args))
    if result.already_complete:
        print(f"{result.output} is complete already: {result.rows} labels", file=sys.stderr)
    else:
        each = 1 + (args.variants or 0)
        clips = f" ({result.rows // each} clips, {_span(result.hours / each)}, without variants)"
        print(
            f"{result.output}: {result.rows} labels, {_span(result.hours)} of audio"
            f"{clips if each > 1 else ''}",
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


def _span(hours: float) -> str:
    return f"{hours:.2f} h" if hours >= 0.1 else f"{hours * 3600:.0f} s"
