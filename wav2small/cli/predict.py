"""`wav2small predict`.

wav2small predict recording.wav
wav2small predict nano recordings/ --json
wav2small predict owner/name recordings/
wav2small predict bundle/ recordings/ -o predictions.csv
ffmpeg -i talk.mp4 -f s16le -ac 1 -ar 16000 - | wav2small predict bundle/ --follow -
"""

import argparse
import os
import sys

from wav2small.cli import options
from wav2small.errors import Wav2SmallError
from wav2small.progress import report_rejected

FUNCTION = "wav2small.prediction:predict"
FOLLOW = "wav2small.follow:follow"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words",
        nargs="*",
        metavar="[BUNDLE] SOURCE",
        help="a bundle folder, an .onnx file, a bundle of the hub (owner/name) or the model in "
        "the box, nano (the default); then audio files, folders, CSV or parquet tables with a "
        "column `file`, or an audformat database",
    )
    hidden = ("bundle", "source", "collect")
    options.add(parser, FUNCTION, skip=hidden, json_lines={"flags": ["--json"]})
    parser.add_argument(
        "--follow",
        metavar="-",
        choices=["-"],
        help="read raw 16-bit mono PCM at 16 kHz on standard input; a line of JSON per estimate. "
        "A bundle exported with --streaming processes each sample once (every 16 ms, about 1 %% of "
        "a core); any other runs on the last --memory seconds again every .5 s, which costs "
        "8 times one pass over the audio",
    )
    gate = {"help": "with --follow: silence moves the estimate too"}
    options.add(parser, FOLLOW, "memory", "gate", gate=gate)
    options.add_gate(parser)


def run(args: argparse.Namespace) -> int:
    from wav2small import hub, models

    named = bool(args.words) and models.is_bundle(args.words[0])
    if len(args.words) > 1 or args.words and args.follow:  # alone it is audio that is not there
        named = named or hub.is_id(args.words[0])
    args.bundle = args.words[0] if named else models.DEFAULT
    args.source = args.words[named:]
    if args.follow:
        from wav2small.follow import follow

        streams = (args.bundle, sys.stdin.buffer, sys.stdout)
        return follow(*streams, memory=args.memory, gate=args.gate, threads=args.threads)
    _check_bundle(args.words, named)
    if not args.source:
        raise Wav2SmallError("name the audio to predict, or --follow - for standard input")
    source = args.source if len(args.source) > 1 else args.source[0]
    given = {**vars(args), "source": source, "output": args.output or sys.stdout, "collect": False}
    result = options.call(FUNCTION, **given)
    code = report_rejected(result.rejected)
    if not result.count:
        raise Wav2SmallError(f"{' '.join(args.source)}: none of its audio can be used")
    return code


def _check_bundle(words: list[str], named: bool) -> None:
    """Reject a first word that is nothing, has no suffix, and others follow: it meant a bundle."""
    from wav2small import models

    if named or len(words) < 2 or os.path.exists(words[0]) or os.path.splitext(words[0])[1]:
        return
    if "://" not in words[0] and not words[0].startswith("~"):
        remedy = f"name {' or '.join(models.NAMES)}, or the folder that `wav2small export` wrote"
        raise Wav2SmallError(f"{words[0]}: no such bundle; {remedy}")
