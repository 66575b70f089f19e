"""`wav2small demo`.

wav2small demo -o demo/
"""

import argparse
import json

from wav2small.cli import options

FUNCTION = "wav2small.demo.demo:demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add(parser, FUNCTION)
    parser.add_argument("--json", action="store_true", help="result as JSON on standard output")


def run(args: argparse.Namespace) -> int:
    result = options.call(FUNCTION, **vars(args))
    if args.json:
        print(json.dumps(vars(result), indent=2))
        return 0
    ccc = result.student_teacher_ccc
    print(f"""
A student of {result.parameters:,} parameters learned from its teacher in {result.seconds:.0f} s.

  agreement with the teacher on voices it was not trained on (CCC: 1 = the same, 0 = chance)
    arousal {ccc["arousal"]:.3f}   dominance {ccc["dominance"]:.3f}   valence {ccc["valence"]:.3f}   mean {ccc["mean"]:.3f}

              size        time for 5 s of audio, one thread
    fp32      {result.bytes["fp32"] / 1000:5.0f} KB    {result.latency_ms["fp32"]:.1f} ms
    int8      {result.bytes["int8"] / 1000:5.0f} KB    {result.latency_ms["int8"]:.1f} ms

  {result.example["file"]}
    arousal {result.example["arousal"]:.2f}   dominance {result.example["dominance"]:.2f}   valence {result.example["valence"]:.2f}   (each 0..1)

The same on your own recordings:

  wav2small label recordings/ -o labels.parquet
  wav2small distill labels.parquet -o run/
  wav2small export run/ -o bundle/
""")  # noqa: E501
    return 0
