"""RAVDESS (Livingstone & Russo 2018, CC-BY-NC-SA-4.0): everything stands in the file names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .layout import audio_files, once

EMOTIONS = ("neutral", "calm", "happiness", "sadness", "anger", "fear", "disgust", "surprise")
TEXTS = ("Kids are talking by the door", "Dogs are sitting by the door")
#: Modality, vocal channel, emotion, intensity, statement, repetition, actor; numbers from 1.
_FILE = re.compile(r"0[13]-(0[12])-(0[1-8])-(0[12])-(0[12])-(0[12])-(\d\d)")


def read(folder: Path) -> Iterator[dict[str, Any]]:
    """Speech of all actors; songs are passed over."""
    for file in once(audio_files(folder, "RAVDESS", pattern="0?-0?-0?-0?-0?-0?-??.*")):
        found = _FILE.fullmatch(file.stem)
        if not found or found[1] == "02":
            continue
        emotion, intensity, text, repetition, actor = (int(part) for part in found.groups()[1:])
        yield {
            "file": file.as_posix(),
            "emotion": EMOTIONS[emotion - 1],
            "speaker": f"{actor:02}",
            "sex": "male" if actor % 2 else "female",
            "language": "en",
            "text": TEXTS[text - 1],
            "intensity": ("normal", "strong")[intensity - 1],
            "repetition": repetition,
        }
