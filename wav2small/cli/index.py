"""`wav2small index`.

wav2small index iemocap IEMOCAP_full_release/ -o iemocap.csv
wav2small label iemocap:IEMOCAP_full_release/ -o labels.parquet
wav2small evaluate bundle/ iemocap.csv --by session
wav2small index
"""

import argparse
import sys

from wav2small.cli import options
from wav2small.errors import Wav2SmallError
from wav2small.progress import report_rejected

FUNCTION = "wav2small.corpora.registry:index_corpus"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="name of the corpus; without it all are listed")
    parser.add_argument("folder", nargs="?", help="folder of the corpus, as it is published")
    parser.add_argument("-o", "--output", metavar="FILE", help="index, .csv or .parquet")
    options.add(parser, FUNCTION, "root", "raters")


def run(args: argparse.Namespace) -> int:
    from wav2small.corpora.registry import CORPORA, index_corpus

    if args.name is None:
        for name, entry in CORPORA.items():
            print(f"{name:<12} {entry.what}")
        return 0
    if not args.folder or not args.output:
        raise Wav2SmallError("name the corpus, its folder and the index: NAME FOLDER -o index.csv")
    rows, missing = options.call(index_corpus, **vars(args))
    what = "rows, one per clip and rater" if args.raters else "clips"
    print(f"{args.output}: {rows} {what}", file=sys.stderr)
    return report_rejected(missing)
