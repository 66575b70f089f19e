"""Emo-DB (Burkhardt et al. 2005): ten actors, ten German sentences; coded in file names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .layout import audio_files, once

#: By the first letter of the German word: Wut, Langeweile, Ekel, Angst, Freude, Trauer, neutral.
_NAMES = ("anger", "boredom", "disgust", "fear", "happiness", "sadness", "neutral")
EMOTIONS = dict(zip("WLEAFTN", _NAMES, strict=True))
PATTERN = "[01][0-9][ab][0-9][0-9][WLEAFTN]?.*"
FEMALE = ("08", "09", "13", "14", "16")
TEXTS = {
    "a01": "Der Lappen liegt auf dem Eisschrank.",
    "a02": "Das will sie am Mittwoch abgeben.",
    "a04": "Heute abend könnte ich es ihm sagen.",
    "a05": "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück.",
    "a07": "In sieben Stunden wird es soweit sein.",
    "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
    "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
    "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
    "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
    "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
}
_FILE = re.compile(r"(\d\d)([ab]\d\d)([WLEAFTN])([a-z])")


def read(folder: Path) -> Iterator[dict[str, Any]]:
    """Files named speaker, sentence, emotion, version: 03a01Fa."""
    for file in once(audio_files(folder, "Emo-DB", pattern=PATTERN)):
        if found := _FILE.fullmatch(file.stem):
            speaker, text, emotion, _ = found.groups()
            yield {
                "file": file.as_posix(),
                "emotion": EMOTIONS[emotion],
                "speaker": speaker,
                "sex": "female" if speaker in FEMALE else "male",
                "language": "de",
                "text": TEXTS.get(text, ""),
            }
