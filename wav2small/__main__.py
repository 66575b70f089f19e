"""`python -m wav2small`: the command line."""

from wav2small.cli.main import program

program()
