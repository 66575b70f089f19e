"""`wav2small predict`."""

import argparse
import sys

EXAMPLE = """\
wav2small predict bundle/ recording.wav
wav2small predict bundle/ recordings/ -o predictions.csv
ffmpeg -i talk.mp4 -f s16le -ac 1 -ar 16000 - | wav2small predict bundle/ --follow -"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", help="bundle folder or .onnx file")
    parser.add_argument(
        "source",
        nargs="*",
        help="audio file, folder, CSV or parquet table with a column `file`, audformat database; "
        "or several",
    )
    parser.add_argument("-o", "--output", help="CSV file; default: standard output")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object per row instead of CSV"
    )
    parser.add_argument(
        "--window",
        type=float,
        default=12.0,
        metavar="S",
        help="clips longer than S seconds get one row per window of S (default: %(default)s)",
    )
    parser.add_argument(
        "--hop", type=float, metavar="S", help="seconds between windows (default: the window)"
    )
    parser.add_argument(
        "--channel", type=int, metavar="N", help="use channel N, from 0 (default: mean of all)"
    )
    parser.add_argument("--root", help="folder that the files of a table are relative to")
    parser.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    parser.add_argument(
        "--follow",
        metavar="-",
        choices=["-"],
        help="read raw 16-bit mono PCM at 16 kHz on standard input; a line of JSON per estimate. "
        "A bundle exported with --streaming processes each sample once (every 16 ms, about 1 %% of "
        "a core); any other runs on the last --memory seconds again every .5 s, which costs "
        "8 times one pass over the audio",
    )
    parser.add_argument(
        "--memory",
        type=float,
        default=4.0,
        metavar="S",
        help="with --follow: seconds that an estimate remembers (default: %(default)s)",
    )
    parser.add_argument(
        "--no-gate", action="store_true", help="with --follow: silence moves the estimate too"
    )


def run(args: argparse.Namespace) -> int:
    from wav2small.errors import Wav2SmallError

    if args.follow:
        from wav2small.follow import follow

        return follow(
            args.bundle,
            sys.stdin.buffer,
            sys.stdout,
            memory=args.memory,
            gate=not args.no_gate,
            threads=args.threads,
        )
    if not args.source:
        raise Wav2SmallError("name the audio to predict, or --follow - for standard input")
    from wav2small.prediction import predict, report_rejected

    result = predict(
        args.bundle,
        args.source if len(args.source) > 1 else args.source[0],
        args.output or sys.stdout,
        json_lines=args.json,
        window=args.window,
        hop=args.hop,
        channel=args.channel,
        root=args.root,
        threads=args.threads,
    )
    code = report_rejected(result.rejected)
    if not result.rows:
        raise Wav2SmallError(f"{' '.join(args.source)}: none of its audio can be used")
    return code
