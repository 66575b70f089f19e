"""The embedded teacher: a regression on prosodic and spectral statistics, no download.

`acoustic.json` next to this file holds the coefficients. `fit_acoustic` writes it from Emo-DB;
docs/acoustic.md describes how, and what to expect.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wav2small.dimensions import DIMENSIONS
from wav2small.errors import Wav2SmallError

from .features import FEATURES, SAMPLING_RATE, statistics

COEFFICIENTS = Path(__file__).with_name("coefficients.json")
BOUND = 3.0  # standard deviations; no single statistic can count for more


def bounded(values: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Statistics in standard deviations, smoothly bounded: (clips, n) -> (clips, n)."""
    return BOUND * np.tanh((values - mean) / (BOUND * sd))


def squashed(scores: np.ndarray) -> np.ndarray:
    """Scores around 0 to 0..1 without an edge: slope 1 at 0, 0 -> .5."""
    return 0.5 * (1 + np.tanh(2 * scores))


class AcousticRegression:
    """The arithmetic of `acoustic.json`.

    Args:
        document: the parsed file: `statistics` {name: {"mean", "sd", one weight per dimension}}
            and `intercept` {dimension: value}

    Example:
        >>> row = {"mean": 0.0, "sd": 1.0, "arousal": 1.0, "dominance": 0.0, "valence": 0.0}
        >>> document = {"statistics": {"flux": row}, "intercept": dict.fromkeys(DIMENSIONS, 0.0)}
        >>> AcousticRegression(document)(np.zeros((1, len(FEATURES))))
        array([[0.5, 0.5, 0.5]])
    """

    def __init__(self, document: Mapping[str, Any]):
        table = document["statistics"]
        unknown = set(table) - set(FEATURES)
        if unknown:
            raise KeyError(f"statistic {sorted(unknown)[0]!r} is not computed by this version")
        self._columns = [FEATURES.index(name) for name in table]
        self._mean = np.array([row["mean"] for row in table.values()])
        self._sd = np.array([row["sd"] for row in table.values()])
        self._weights = np.array([[row[name] for name in DIMENSIONS] for row in table.values()])
        self._intercept = np.array([document["intercept"][name] for name in DIMENSIONS])

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Statistics (clips, len(FEATURES)) -> arousal, dominance, valence (clips, 3), 0..1."""
        inputs = bounded(values[:, self._columns], self._mean, self._sd)
        return squashed(inputs @ self._weights + self._intercept)


class Acoustic:
    """Prosodic and spectral statistics and a regression; needs no download.

    Args:
        coefficients: a file that `fit_acoustic` wrote, by default the package's own

    Raises:
        Wav2SmallError: no such file, or not coefficients of this teacher

    Example:
        >>> Acoustic().predict(signal[None]).shape
        (1, 3)
    """

    name = "acoustic"
    id = "wav2small.teachers.acoustic"
    licence = "MIT"
    sampling_rate = SAMPLING_RATE
    dimensions = DIMENSIONS
    invariances = frozenset({"gain"})
    in_workers = True

    def __init__(self, *, coefficients: str | os.PathLike[str] = COEFFICIENTS):
        path = Path(coefficients)
        try:
            content = path.read_bytes()
            document = json.loads(content)
            self._regression = AcousticRegression(document)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Wav2SmallError(
                f"{path}: no coefficients of the acoustic teacher ({error}); "
                "write them with python -m wav2small.teachers.acoustic.fit"
            ) from error
        self.revision = hashlib.sha256(content).hexdigest()[:16]
        corpus = document["corpus"]
        self.note = f"coefficients fitted on {corpus['name']}, {corpus['licence']}"

    def predict(self, batch: np.ndarray, lengths: np.ndarray | None = None) -> np.ndarray:
        """Label a batch; each clip is independent of the others and of its padding.

        Args:
            batch: float32 (clips, samples) at 16 kHz
            lengths: int (clips,), valid samples of each; None = all

        Returns:
            float32 (clips, 3): arousal, dominance, valence, 0..1
        """
        batch = np.atleast_2d(batch)
        ends = [batch.shape[1]] * len(batch) if lengths is None else [int(n) for n in lengths]
        values = [statistics(row[:end]) for row, end in zip(batch, ends, strict=True)]
        if not values:
            return np.zeros((0, len(DIMENSIONS)), dtype=np.float32)
        return self._regression(np.stack(values)).astype(np.float32)
