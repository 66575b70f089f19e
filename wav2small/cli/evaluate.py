"""`wav2small evaluate`."""

import argparse
import json

from wav2small.cli import teacher_options

EXAMPLE = """\
wav2small evaluate bundle/ labels.parquet
wav2small evaluate bundle/ ratings.csv --scale 1 7 --by speaker --json
wav2small evaluate wavlm ratings.csv --split test --device cuda
wav2small evaluate labels.parquet ratings.csv --categories emotion"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "subject",
        help="bundle folder or .onnx file; label table; or any teacher: name, folder, hub id, "
        "package.module:Class",
    )
    parser.add_argument(
        "truth",
        help="label table, CSV or audformat database with columns arousal, dominance, valence "
        "(one or two of them will do) or categories; `rater`: one row per clip and rater; "
        "`speaker`: intervals resample speakers",
    )
    parser.add_argument(
        "--split",
        nargs="+",
        metavar="NAME",
        help="only clips whose column `split` says so, such as test",
    )
    parser.add_argument(
        "--categories",
        default="emotion",
        metavar="COLUMN",
        help="column of the truth that is compared with the subject's probabilities "
        "(default: %(default)s)",
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
    parser.add_argument("--threads", type=int, default=1, help="of a bundle (default: %(default)s)")
    parser.add_argument(
        "--device", default="auto", help="of a teacher: auto, cpu, cuda, cuda:1 ..."
    )
    parser.add_argument("--dtype", default="auto", help="of a teacher, as in label")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="of a teacher (default: one per core)"
    )
    teacher_options.add(parser)
    parser.add_argument(
        "--resamples", type=int, default=1000, help="of the bootstrap (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    parser.add_argument("--json", action="store_true", help="machine-readable")


def run(args: argparse.Namespace) -> int:
    from wav2small.evaluation import evaluate
    from wav2small.prediction import report_rejected

    result = evaluate(
        args.subject,
        args.truth,
        by=args.by,
        scale=args.scale,
        root=args.root,
        split=args.split,
        categories=args.categories,
        threads=args.threads,
        resamples=args.resamples,
        seed=args.seed,
        labelling={
            "device": args.device,
            "dtype": args.dtype,
            "workers": args.workers,
            "teacher_options": teacher_options.chosen(args),
        },
    )
    if args.json:
        print(json.dumps(result.to_json(), indent=2))
    else:
        print(f"{result.clips} clips; in brackets the 95 % interval over {result.drawn}")
        _figures(vars(result))
        if result.raters:
            ceiling = ", ".join(f"{name} {_cell(of)}" for name, of in result.raters.items())
            print(f"\none rater with the others, CCC: {ceiling}")
        for column, groups in result.groups.items():
            for name, group in groups.items():
                print(f"\n{column} {name}: {group['clips']} clips")
                _figures(group)
            if skipped := result.skipped[column]:
                print(f"\n{column}: fewer than 10 clips, passed over: {', '.join(skipped)}")
    return report_rejected(result.rejected)


def _figures(found: dict) -> None:
    rows = {name: list(of.values()) for name, of in found["dimensions"].items()}
    if rows:
        _table(["CCC", "PCC", "MAE", "Spearman"], rows)
    if categories := found["categories"]:
        figures = list(categories["figures"].values())
        _table(["UAR", "WA", "weighted F1", "macro F1"], {"categories": figures})
        names = categories["names"]
        width = max(8, *map(len, names))
        print(f"\n{'truth':<{width}}  " + "  ".join(f"{name:>{width}}" for name in names))
        for name, counts in zip(names, categories["confusion"], strict=True):
            print(f"{name:<{width}}  " + "  ".join(f"{count:>{width}}" for count in counts))
        for name, count in categories["unknown"].items():
            print(f"{name}: {count} clips left out, the subject does not know it")


def _table(header: list[str], rows: dict) -> None:
    print(f"{'':<10}  " + "  ".join(f"{name:<20}" for name in header))
    for name, figures in rows.items():
        print(f"{name:<10}  " + "  ".join(f"{_cell(of):<20}" for of in figures))


def _cell(interval: tuple) -> str:
    value, low, high = interval
    return f"{value:.3f} [{low:.3f} {high:.3f}]"
