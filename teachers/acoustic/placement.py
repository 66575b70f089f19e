"""Where acted emotions stand in arousal, dominance, valence: the truth the teacher is fitted to.

No corpus that may be shipped has human ratings of all three dimensions, so each emotion gets
the mean of three sources, -1..1, NaN where a source is silent:

* `WORDS`: ratings of the words, Russell & Mehrabian (1977), Evidence for a three-factor theory
  of emotions, Journal of Research in Personality 11, 273-294 (calm: their "relaxed").
* `RANGES`: where speech of that emotion is expected by audEERING's ser-tests: low -.5,
  neutral 0, high .5.
* the mean of the human ratings of clips of that emotion, where a corpus has at least three.
* for dominance, `DOMINANCE_OF_AROUSAL` times the place in arousal: who rates speech rather than
  words perceives the two together (fear is shrill before it is weak).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from wav2small.dimensions import DIMENSIONS
from wav2small.emotions import common

_ = float("nan")

#: Arousal, dominance, valence.
WORDS = {
    "anger": (0.59, 0.25, -0.51),
    "boredom": (-0.62, -0.33, -0.65),
    "calm": (-0.46, 0.06, 0.68),
    "disgust": (0.35, 0.11, -0.60),
    "fear": (0.60, -0.43, -0.64),
    "happiness": (0.51, 0.46, 0.81),
    "neutral": (0.0, 0.0, 0.0),
    "sadness": (-0.27, -0.33, -0.63),
    "surprise": (0.67, -0.13, 0.40),
}
RANGES = {
    "anger": (0.5, 0.5, -0.5),
    "boredom": (-0.5, _, 0.0),
    "disgust": (_, _, -0.5),
    "fear": (0.5, -0.5, -0.5),
    "happiness": (_, 0.0, 0.5),
    "neutral": (0.0, 0.0, 0.0),
    "sadness": (-0.5, -0.5, -0.5),
    "surprise": (0.5, 0.0, _),
}
#: Chosen: most of arousal, so that the words and the ranges still separate anger from fear.
DOMINANCE_OF_AROUSAL = 0.75


def placements(table: Any = None) -> dict[str, np.ndarray]:
    """The place (3,) of every emotion, -1..1, from the sources and the table's own ratings.

    Args:
        table: DataFrame with `emotion`, and `arousal` and `valence`, NaN where nobody rated; None =
            the other sources alone
    """
    result = {}
    for emotion, words in WORDS.items():
        sources: list[tuple[float, float, float]] = [words]
        if emotion in RANGES:
            sources.append(RANGES[emotion])
        if table is not None:
            rated = table[(table.emotion == emotion) & table.arousal.notna()]
            if len(rated) >= 3:
                sources.append((rated.arousal.mean(), _, rated.valence.mean()))
        arousal = float(np.mean([source[0] for source in sources if np.isfinite(source[0])]))
        sources.append((_, DOMINANCE_OF_AROUSAL * arousal, _))
        result[emotion] = np.nanmean(np.array(sources, dtype=float), axis=0)
    return result


def placed(table: Any, places: dict[str, np.ndarray]) -> np.ndarray:
    """Truth of every clip (clips, 3), -1..1: its emotion's place, or its own rating."""
    emotions = table.emotion.map(common)
    truth = np.array([places[emotion] for emotion in emotions])
    for column, name in enumerate(DIMENSIONS):
        if name in table:
            ratings = table[name].to_numpy(dtype=float)
            truth[:, column] = np.where(np.isfinite(ratings), ratings, truth[:, column])
    return truth
