"""Names of emotions: one common name for each, whatever a corpus or a model calls it."""

from __future__ import annotations

#: Other name, lower case -> common name. Names that are not here stay as they are.
SYNONYMS = {
    **dict.fromkeys(("ang", "angry"), "anger"),  # "ang": a code of IEMOCAP, as models have it
    "bored": "boredom",
    "contemptuous": "contempt",
    "disgusted": "disgust",
    **dict.fromkeys(("exc", "excited"), "excitement"),
    **dict.fromkeys(("afraid", "anxiety", "anxious", "fearful"), "fear"),
    **dict.fromkeys(("fru", "frustrated"), "frustration"),
    **dict.fromkeys(("hap", "happy", "joy"), "happiness"),
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
