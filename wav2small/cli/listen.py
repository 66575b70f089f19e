"""`wav2small listen`."""

import argparse

from wav2small.cli import options

EXAMPLE = """\
wav2small listen
wav2small listen bundle/
wav2small listen bundle/ --device 2
wav2small listen bundle/ --file speech.wav"""

FUNCTION = "wav2small.microphone:listen"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add(
        parser,
        FUNCTION,
        skip=("output",),
        bundle={"flags": ["bundle"], "nargs": "?", "metavar": "BUNDLE"},
        file={"metavar": "FILE"},
        gate={"help": "silence moves the estimate too"},
    )
    options.add_gate(parser)


def run(args: argparse.Namespace) -> int:
    from wav2small.errors import Wav2SmallError

    if options.call(FUNCTION, **vars(args)) is None:
        raise Wav2SmallError("less than .25 s of speech came; is the microphone muted?")
    return 0
