"""`wav2small push`.

wav2small push bundle/ owner/name --dry-run
wav2small push run/ owner/name --check-licence commercial --public
wav2small label recordings/ -o labels.parquet --teacher owner/name
"""

import argparse

from wav2small.cli import options

FUNCTION = "wav2small.export.push:push"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    licence = {"choices": ["commercial"]}
    options.add(parser, FUNCTION, repository={"metavar": "OWNER/NAME"}, check_licence=licence)


def run(args: argparse.Namespace) -> int:
    result = options.call(FUNCTION, **vars(args))
    if not result.url:
        print(result.card)
        print(f"would go to {result.repository}: {', '.join(result.files)}")
    else:
        print(result.url)
    return 0
