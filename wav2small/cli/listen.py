"""`wav2small listen`.

wav2small listen
wav2small listen bundle/
wav2small listen bundle/ --device 2
wav2small listen bundle/ --file speech.wav
"""

import argparse

from wav2small.cli import options
from wav2small.errors import Wav2SmallError

FUNCTION = "wav2small.microphone:listen"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    bundle = {"flags": ["bundle"], "nargs": "?", "metavar": "BUNDLE"}
    gate = {"help": "silence moves the estimate too"}
    changes: dict = {"bundle": bundle, "file": {"metavar": "FILE"}, "gate": gate}
    options.add(parser, FUNCTION, skip=("output",), **changes)
    options.add_gate(parser)


def run(args: argparse.Namespace) -> int:
    if options.call(FUNCTION, **vars(args)) is None:
        raise Wav2SmallError("less than .25 s of speech came; is the microphone muted?")
    return 0
