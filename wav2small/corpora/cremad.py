"""CREMA-D (Cao et al. 2014, ODbL): 91 actors, twelve sentences, six emotions, votes of many."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .layout import audio_files, require, sex, table

NAME = "CREMA-D"
_NAMES = ("anger", "disgust", "fear", "happiness", "neutral", "sadness")
EMOTIONS = dict(zip("ADFHNS", _NAMES, strict=True))
LEVELS = {"LO": "low", "MD": "medium", "HI": "high", "XX": ""}
SENTENCES = {
    "IEO": "It's eleven o'clock",
    "TIE": "That is exactly what happened",
    "IOM": "I'm on my way to the meeting",
    "IWW": "I wonder what this is about",
    "TAI": "The airplane is almost full",
    "MTI": "Maybe tomorrow it will be cold",
    "IWL": "I would like a new alarm clock",
    "ITH": "I think I have a doctor's appointment",
    "DFA": "Don't forget a jacket",
    "ITS": "I think I've seen this before",
    "TSI": "The surface is slick",
    "WSI": "We'll stop in a couple of minutes",
}
_FILE = re.compile(r"(\d{4})_([A-Z]{3})_([ADFHNS])[A-Z]{2}_(LO|MD|HI|XX?)")


def read(folder: Path) -> Iterator[dict[str, Any]]:
    """Files of `AudioWAV/`.

    `emotion` and `intensity` are what the actor intended; `perceived` is what most raters chose
    in the voice ("unknown" if they were divided), `perceived_level` how strongly, 0..1.
    """
    summary = require(folder, ["processedResults/summaryTable.csv"], NAME)[0]
    rows = table(summary, ("FileName", "VoiceVote", "VoiceLevel"), NAME)
    votes = {row["FileName"]: row for row in rows}
    people = {}
    if (folder / "VideoDemographics.csv").is_file():
        rows = table(folder / "VideoDemographics.csv", ("ActorID", "Sex"), NAME)
        people = {row["ActorID"]: sex(row["Sex"]) for row in rows}
    for file in audio_files(folder, NAME, pattern="AudioWAV/*"):
        found = _FILE.fullmatch(file.stem)
        if not found:
            continue
        actor, sentence, emotion, level = found.groups()
        vote = votes.get(file.stem, {})
        levels = [float(part) for part in re.findall(r"[\d.]+", vote.get("VoiceLevel", ""))]
        yield {
            "file": file.as_posix(),
            "emotion": EMOTIONS[emotion],
            "speaker": actor,
            "sex": people.get(actor, ""),
            "language": "en",
            "text": SENTENCES.get(sentence, ""),
            "intensity": LEVELS.get(level, ""),
            "perceived": EMOTIONS.get(vote.get("VoiceVote", ""), "unknown"),
            "perceived_level": sum(levels) / len(levels) / 100 if levels else None,
        }
