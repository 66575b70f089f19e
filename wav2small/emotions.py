"""Names of emotions: one common name for each, whatever a corpus or a model calls it."""

from __future__ import annotations

#: Other name, lower case -> common name. Names that are not here stay as they are.
SYNONYMS = {
    "afraid": "fear",
    "ang": "anger",  # IEMOCAP's codes, as published models have them
    "angry": "anger",
    "anxiety": "fear",
    "anxious": "fear",
    "bored": "boredom",
    "contemptuous": "contempt",
    "disgusted": "disgust",
    "exc": "excitement",
    "excited": "excitement",
    "fearful": "fear",
    "fru": "frustration",
    "frustrated": "frustration",
    "hap": "happiness",
    "happy": "happiness",
    "joy": "happiness",
    "neu": "neutral",
    "sad": "sadness",
    "surprised": "surprise",
}


def common(name: str) -> str:
    """The common name of an emotion, lower case.

    Example:
        >>> common("Angry"), common("wistful")
        ('anger', 'wistful')
    """
    lower = str(name).strip().lower()
    return SYNONYMS.get(lower, lower)
