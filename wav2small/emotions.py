"""Names of emotions: one common name for each, whatever a corpus or a model calls it."""

from __future__ import annotations

#: Other name, lower case -> common name. Names that are not here stay as they are.
SYNONYMS = {
    "afraid": "fear",
    "angry": "anger",
    "anxiety": "fear",
    "anxious": "fear",
    "bored": "boredom",
    "contemptuous": "contempt",
    "disgusted": "disgust",
    "excited": "excitement",
    "fearful": "fear",
    "frustrated": "frustration",
    "happy": "happiness",
    "joy": "happiness",
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
