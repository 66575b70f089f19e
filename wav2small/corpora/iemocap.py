"""IEMOCAP (Busso et al. 2008): ratings on 1..5, in the order valence, arousal, dominance."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wav2small.dimensions import DIMENSIONS
from wav2small.errors import Wav2SmallError

from .layout import decoded, per_rater, require, unit

NAME = "IEMOCAP"
_CODES = "ang hap exc sad fru fea sur dis neu oth xxx"
_NAMES = (
    "anger happiness excitement sadness frustration fear surprise disgust neutral other unknown"
)
EMOTIONS = dict(zip(_CODES.split(), _NAMES.split(), strict=True))
_LINE = re.compile(
    r"\[(?P<start>[\d.]+) - (?P<end>[\d.]+)\]\s+(?P<id>Ses\d\d[FM]\w+)\s+(?P<emotion>\w+)\s+"
    r"\[(?P<valence>[\d.]+),\s*(?P<arousal>[\d.]+),\s*(?P<dominance>[\d.]+)\]"
)
#: What an evaluator (E1 ...) wrote below the line of a turn; F and M are the actors themselves.
_RATER = re.compile(
    r"^A-(?P<rater>E\d+):\s*val\s*(?P<valence>[\d.]*);\s*act\s*(?P<arousal>[\d.]*);"
    r"\s*dom\s*(?P<dominance>[\d.]*);",
    re.MULTILINE,
)
_TEXT = re.compile(r"(Ses\d\d[FM]\w+) \[[\d.]+-[\d.]+\]: ?(.*)")


def read(folder: Path, raters: bool = False) -> Iterator[dict[str, Any]]:
    """Utterances of all sessions. There is no split; folds are over `session` or `speaker`.

    `raters`: one row per utterance and evaluator instead of their mean.
    """
    for path in require(folder, ["Session*/dialog/EmoEvaluation/*.txt"], NAME):
        session = path.relative_to(folder).parts[0]
        content = decoded(path)
        transcript = folder / session / "dialog" / "transcriptions" / path.name
        texts: dict[str, str] = {}
        if transcript.is_file():
            lines = decoded(transcript).splitlines()
            texts = {found[1]: found[2] for line in lines if (found := _TEXT.match(line))}
        turns = list(_LINE.finditer(content))
        if not turns:
            raise Wav2SmallError(
                f"{path}: no line [START - END] TURN_NAME EMOTION [V, A, D]; copy it again"
            )
        ends = [turn.start() for turn in turns[1:]] + [len(content)]
        below = {turn: content[turn.end() : end] for turn, end in zip(turns, ends, strict=True)}
        for number, turn in enumerate(sorted(turns, key=lambda turn: float(turn["start"]))):
            name, dialogue = turn["id"], path.stem
            voice = name.rpartition("_")[2][0]  # F000, M013: who speaks in this turn
            clip = {
                "file": f"{session}/sentences/wav/{dialogue}/{name}.wav",
                **_ratings(turn, f"{path}: {name}"),
                "emotion": EMOTIONS.get(turn["emotion"], turn["emotion"]),
                "speaker": f"{name[:5]}{voice}",
                "sex": {"F": "female", "M": "male"}[voice],
                "language": "en",
                "text": texts.get(name, ""),
                "dialogue": dialogue,
                "turn": number,
                "session": int(name[3:5]),
            }
            if raters:
                each = [
                    {"rater": found["rater"], **_ratings(found, f"{path}: {name}, {found[0]}")}
                    for found in _RATER.finditer(below[turn])
                ]
            yield from per_rater(clip, each) if raters else [clip]


def _ratings(found: re.Match[str], where: str) -> dict[str, float | None]:
    return {name: unit(found[name], 1, 5, where, slack=0.5) for name in DIMENSIONS}
