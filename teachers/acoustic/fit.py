"""Fit the embedded teacher: `python -m wav2small.teachers.acoustic.fit --corpus EMODB`.

Writes `acoustic.json`; with `--evaluate`, writes nothing and prints how well the committed
coefficients, and the same fit on held-out speakers, agree with the acted emotions.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from wav2small import audio, files, metrics, provenance
from wav2small.dimensions import DIMENSIONS
from wav2small.errors import Wav2SmallError

from .features import FEATURES, statistics
from .placement import placed, placements
from .rooms import disturbed
from .teacher import COEFFICIENTS, AcousticRegression, bounded, squashed

COPIES = 5  # disturbed copies of every clip, next to the clip itself
ORIGINAL = 2.0  # weight of the clip itself next to that of each copy
RIDGE = 0.1  # penalty on weights per standard deviation, next to the mean squared error
SPEAKERS = 3.0  # penalty on what distinguishes speakers
UNHEARD = 5.0  # penalty on what a student cannot extract
AUDIBLE = Path(__file__).with_name("audible.json")  # written by benchmarks/studies/audible.py
#: Mean and deviation of the outputs on Emo-DB. Listeners use .15 to .2 of the scale; stage acting
#: is at the wide end of speech, so other recordings come out narrower than this.
MEAN = (0.54, 0.50, 0.36)
SPREAD = (0.24, 0.19, 0.22)
UNRATED = 0.6  # weight of a clip without ratings
SEED = 1


def main(argv: list[str] | None = None) -> int:
    """Fit and write, or evaluate and print."""
    parser = argparse.ArgumentParser(
        prog="python -m wav2small.teachers.acoustic.fit", description=__doc__
    )
    parser.add_argument("--corpus", required=True, help="Emo-DB: FLACs, labels.csv, ratings.csv")
    parser.add_argument("--evaluate", nargs="*", metavar="FOLDER", help="print figures instead")
    parser.add_argument("-o", "--output", default=str(COEFFICIENTS), help="file to write")
    args = parser.parse_args(argv)
    try:
        if args.evaluate is not None:
            report(args.corpus, args.evaluate)
        else:
            fit(args.corpus, args.output)
            print(args.output)
    except Wav2SmallError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def fit(corpus: str | os.PathLike[str], output: str | os.PathLike[str]) -> dict[str, Any]:
    """Fit on Emo-DB and write the coefficients.

    Args:
        corpus: folder with the clips, `labels.csv` and `ratings.csv`
        output: JSON file to write

    Returns:
        the document that was written

    Raises:
        Wav2SmallError: no corpus there
    """
    table = read_table(corpus)
    truth = placed(table, places := placements(table))
    measured = measure(corpus, table.file, copies=COPIES)
    document = {
        "what": "Coefficients of wav2small's embedded teacher of arousal, dominance, valence",
        "command": "python -m wav2small.teachers.acoustic.fit --corpus EMODB",
        "corpus": {
            "name": "Emo-DB (Burkhardt et al. 2005), first 2.0 s of each clip",
            "licence": "CC0-1.0",
            "clips": len(table),
            "sha256_labels": files.sha256(Path(corpus) / "labels.csv"),
            "sha256_ratings": files.sha256(Path(corpus) / "ratings.csv"),
        },
        "licence": "MIT",
        "versions": provenance.versions("numpy", "scipy", "soxr"),
        "settings": {
            "copies": COPIES,
            "original": ORIGINAL,
            "ridge": RIDGE,
            "speakers": SPEAKERS,
            "unheard": UNHEARD,
            "mean": MEAN,
            "spread": SPREAD,
            "unrated": UNRATED,
            "seed": SEED,
        },
        "placements": {
            emotion: dict(zip(DIMENSIONS, (round(float(v), 3) for v in place), strict=True))
            for emotion, place in places.items()
        },
        **regress(measured, truth, table),
    }
    with files.atomic(output) as temporary:
        temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return document


def regress(measured: np.ndarray, truth: np.ndarray, table: Any) -> dict[str, Any]:
    """Ridge regression that keeps away from speakers, then the spread of human ratings.

    * Besides the usual penalty, weights are penalised for distinguishing speakers: what differs
      between the means of two speakers who acted the same emotions is voice, sex or microphone.
    * A student can only learn what it can extract: statistics that a 72K-parameter network
      cannot estimate (F0's range and speed, jitter) are penalised by the share it misses, as in
      regression on noisy measurements.
    * Emo-DB's choice of emotions ties valence to arousal; another corpus's choice ties them
      otherwise. Valence is left with what arousal does not explain.
    * A regression shrinks towards the mean by what it cannot explain. CCC counts that as an
      error, and listeners do not shrink: outputs are brought to `MEAN` and `SPREAD`.

    Args:
        measured: (clips, 1 + copies, len(FEATURES)); the first of each clip is the clip itself
        truth: (clips, 3), -1..1
        table: the clips' rows

    Returns:
        `intercept` and `statistics` of the document, rounded
    """
    clips, versions, count = measured.shape
    weight = np.outer(weigh(table), [ORIGINAL] + [1.0] * (versions - 1))  # (clips, versions)
    weight = (weight / weight.sum()).reshape(-1)
    values = measured.reshape(-1, count)
    mean = weight @ values
    sd = np.sqrt(weight @ (values - mean) ** 2)
    inputs = bounded(values, mean, sd)
    inputs -= (centre := weight @ inputs)
    goal = np.repeat(truth / 2, versions, axis=0)
    goal -= weight @ goal
    voices = _between_speakers(inputs.reshape(clips, versions, count).mean(1), table)
    weighted = (inputs * weight[:, None]).T
    penalty = RIDGE * np.eye(count) + SPEAKERS * voices + UNHEARD * np.diag(_unheard())
    slopes = np.linalg.solve(weighted @ inputs + penalty, weighted @ goal)  # (count, 3)
    moments = slopes.T @ (weighted @ inputs) @ slopes
    slopes[:, 2] -= moments[0, 2] / moments[0, 0] * slopes[:, 0]
    slopes, offset = _calibrate(inputs, slopes, weight)
    intercept = offset - centre @ slopes
    return {
        "intercept": dict(zip(DIMENSIONS, map(_round, intercept), strict=True)),
        "statistics": {
            name: {
                "mean": _round(mean[column]),
                "sd": _round(sd[column]),
                **dict(zip(DIMENSIONS, map(_round, slopes[column]), strict=True)),
            }
            for column, name in enumerate(FEATURES)
        },
    }


def _unheard() -> np.ndarray:
    """Share of each statistic's variance that a student cannot estimate from the waveform."""
    explained = json.loads(AUDIBLE.read_text(encoding="utf-8"))["explained"]
    return np.array([1 - explained[name] for name in FEATURES])


def _between_speakers(inputs: np.ndarray, table: Any) -> np.ndarray:
    """Covariance (count, count) of speakers' means, each emotion's mean taken out first."""
    inputs = inputs.copy()
    for emotion in sorted(set(table.emotion)):
        rows = (table.emotion == emotion).to_numpy()
        inputs[rows] -= inputs[rows].mean(0)
    speakers = sorted(set(table.speaker))
    means = [inputs[(table.speaker == name).to_numpy()].mean(0) for name in speakers]
    return np.cov(np.array(means).T, bias=True)


def _calibrate(
    inputs: np.ndarray, slopes: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Scale and shift scores until the squashed outputs have `MEAN` and `SPREAD`."""
    offset = np.zeros(slopes.shape[1])
    for _ in range(30):
        outputs = squashed(inputs @ slopes + offset)
        mean = weight @ outputs
        slopes = slopes * np.array(SPREAD) / np.sqrt(weight @ (outputs - mean) ** 2)
        offset = offset + np.array(MEAN) - mean
    return slopes, offset


def measure(corpus: str | os.PathLike[str], names: Any, *, copies: int = 0) -> np.ndarray:
    """Statistics of clips and of their disturbed copies, (clips, 1 + copies, len(FEATURES))."""
    result = []
    for number, name in enumerate(names):
        signal = audio.read(Path(corpus) / name)
        draws = (np.random.default_rng([SEED, number, copy]) for copy in range(copies))
        versions = [signal, *(disturbed(signal, draw) for draw in draws)]
        result.append([statistics(version) for version in versions])
    return np.array(result)


def weigh(table: Any) -> np.ndarray:
    """Weight of every clip: the share of raters who recognised the emotion."""
    return (table.recognised_pct / 100).fillna(UNRATED).to_numpy()


def read_table(corpus: str | os.PathLike[str]) -> Any:
    """`labels.csv` joined with `ratings.csv` where there is one.

    Raises:
        Wav2SmallError: no labels there
    """
    import pandas as pd

    path = Path(corpus) / "labels.csv"
    if not path.is_file():
        raise Wav2SmallError(f"{path}: no such file; --corpus wants a folder with labels.csv")
    table = pd.read_csv(path, dtype={"speaker": str})
    ratings = Path(corpus) / "ratings.csv"
    if ratings.is_file():
        return table.merge(pd.read_csv(ratings), on="file", how="left")
    return table.assign(arousal=float("nan"), valence=float("nan"))


def report(corpus: str | os.PathLike[str], folders: list[str]) -> None:
    """Print CCC and PCC: leave-one-speaker-out on the corpus, and the package's on folders."""
    table = read_table(corpus)
    truth = placed(table, places := placements(table))
    measured = measure(corpus, table.file, copies=COPIES)
    held_out = np.zeros_like(truth)
    for speaker in sorted(set(table.speaker)):
        out = (table.speaker == speaker).to_numpy()
        document = regress(measured[~out], truth[~out], table[~out])
        held_out[out] = AcousticRegression(document)(measured[out, 0])
    _print(f"{corpus}, each speaker held out", truth, held_out)
    package = AcousticRegression(json.loads(COEFFICIENTS.read_text(encoding="utf-8")))
    for folder in folders:
        other = read_table(folder)
        _print(folder, placed(other, places), package(measure(folder, other.file)[:, 0]))


def _print(what: str, truth: np.ndarray, prediction: np.ndarray) -> None:
    truth = (truth + 1) / 2
    print(f"{what}: {len(truth)} clips")
    print(f"  {'':10} {'CCC':>6} {'PCC':>6} {'mean':>6} {'sd':>6}   of the truth")
    for column, name in enumerate(DIMENSIONS):
        pair = truth[:, column], prediction[:, column]
        print(
            f"  {name:10} {metrics.ccc(*pair):6.3f} {metrics.pcc(*pair):6.3f} "
            f"{pair[1].mean():6.3f} {pair[1].std():6.3f}   {pair[0].mean():.3f} {pair[0].std():.3f}"
        )


def _round(value: float) -> float:
    """Five significant digits: readable, and the same on every machine."""
    return float(f"{value:.5g}")


if __name__ == "__main__":
    sys.exit(main())
