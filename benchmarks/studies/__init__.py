"""Searches and one-off tables behind the documentation; not installed."""

import argparse


def parser(name: str, description: str | None = None) -> argparse.ArgumentParser:
    """The command line of the study of this name."""
    return argparse.ArgumentParser(
        prog=f"python -m {__name__}.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
