"""`wav2small evaluate`."""

import argparse
import json

EXAMPLE = """\
wav2small evaluate bundle/ labels.parquet
wav2small evaluate bundle/ ratings.csv --scale 1 7 --by speaker --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", help="bundle folder or .onnx file")
    parser.add_argument(
        "truth",
        help="label table, CSV or audformat database with columns arousal, dominance, valence "
        "(one or two of them will do)",
    )
    parser.add_argument(
        "--scale",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="lowest and highest rating of the truth (default: 0 1)",
    )
    parser.add_argument(
        "--by",
        action="append",
        default=[],
        metavar="COLUMN",
        help="figures per group of this column too; may be given again",
    )
    parser.add_argument("--root", help="folder that the truth's files are relative to")
    parser.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    parser.add_argument(
        "--resamples", type=int, default=1000, help="of the bootstrap (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    parser.add_argument("--json", action="store_true", help="machine-readable")


def run(args: argparse.Namespace) -> int:
    from wav2small.evaluation import evaluate
    from wav2small.prediction import report_rejected

    result = evaluate(
        args.bundle,
        args.truth,
        by=args.by,
        scale=args.scale,
        root=args.root,
        threads=args.threads,
        resamples=args.resamples,
        seed=args.seed,
    )
    if args.json:
        print(json.dumps(result.to_json(), indent=2))
    else:
        print(f"{result.clips} clips; in brackets the 95 % interval")
        _table(result.dimensions)
        for column, groups in result.groups.items():
            for name, group in groups.items():
                print(f"\n{column} {name}: {group['clips']} clips")
                _table(group["dimensions"])
            if skipped := result.skipped[column]:
                print(f"\n{column}: fewer than 10 clips, passed over: {', '.join(skipped)}")
    return report_rejected(result.rejected)


def _table(dimensions: dict) -> None:
    print(f"{'':<10}  {'CCC':<18}  {'PCC':<18}  {'MAE':<18}")
    for dimension, figures in dimensions.items():
        cells = (f"{value:.3f} [{low:.3f} {high:.3f}]" for value, low, high in figures.values())
        print(f"{dimension:<10}  " + "  ".join(f"{cell:<18}" for cell in cells))
