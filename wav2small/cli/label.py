"""`wav2small label`.

wav2small label recordings/ -o labels.parquet
wav2small label clips.csv -o labels.parquet --teacher wavlm --device cuda
wav2small label speech/ -o labels.parquet --variants 4 --noise noise/ --rooms rooms/
wav2small label speech/ -o labels.parquet --teacher teacher/ --asr whisper/
"""

import argparse

from wav2small.cli import options
from wav2small.progress import note


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add(
        parser,
        options.LABEL,
        skip=(*options.UNDESCRIBED, "flush_s"),
        teacher_members={"flags": ["--members"], "metavar": "TEACHER"},
        teacher_weights={"flags": ["--weights"], "metavar": "W"},
        teacher_revision={"flags": ["--revision"], "metavar": "COMMIT"},
        variants={"metavar": "K"},
        targets={"choices": ["heard", "clean"]},
        engine={"choices": ["local", "ray"]},
        batch_s={"flags": ["--batch-seconds"]},
    )
    options.add_teacher(parser)


def run(args: argparse.Namespace) -> int:
    result = options.call(options.LABEL, **vars(args))
    if result.already_complete:
        note(f"{result.output} is complete already: {result.rows} labels")
    else:
        each = 1 + (args.variants or 0)
        clips = f" ({result.rows // each} clips, {_span(result.hours / each)}, without variants)"
        labels = f"{result.rows} labels, {_span(result.hours)} of audio"
        note(f"{result.output}: {labels}{clips if each > 1 else ''}")
    note(f"licences: {result.licence}")
    if "-NC" in result.licence:
        bound = "these labels, and students that learn from them, may not be used in products"
        note(f"note: non-commercial (NC): {bound}")
    if result.errors:
        note(f"{result.errors} clips rejected; see {result.errors_file}")
    return 1 if result.errors else 0


def _span(hours: float) -> str:
    return f"{hours:.2f} h" if hours >= 0.1 else f"{hours * 3600:.0f} s"
