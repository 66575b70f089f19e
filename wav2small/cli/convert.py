"""`wav2small convert`.

wav2small convert wavlm-large/
wav2small convert microsoft/wavlm-large -o wavlm-large/
wav2small finetune ratings.csv --backbone wavlm-large/ -o teacher/
"""

import argparse
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = "folder with pytorch_model.bin or its shards; owner/name or owner/name@revision"
    output = "folder to write (default: next to the pickle)"
    parser.add_argument("source", metavar="FOLDER|HUB_ID", help=source)
    parser.add_argument("-o", "--output", metavar="FOLDER", help=output)
    parser.add_argument("--overwrite", action="store_true", help="replace safetensors")


def run(args: argparse.Namespace) -> int:
    from wav2small.teachers.speech.convert import convert

    result = convert(args.source, args.output, overwrite=args.overwrite)
    made = f"{result.output}: {result.tensors} tensors in {', '.join(result.files)}"
    print(f"{made}; hashes in conversion.json", file=sys.stderr)
    if result.left_out:
        print(f"left out, no tensors: {', '.join(result.left_out[:8])}", file=sys.stderr)
    return 0
