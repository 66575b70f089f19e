"""`python -m wav2small`: the command line."""

from wav2small.cli.main import program

if __name__ == "__main__":
    program()
