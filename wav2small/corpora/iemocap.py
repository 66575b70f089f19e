"""IEMOCAP (Busso et al. 2008): ratings on 1..5, in the order valence, arousal, dominance."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .layout import require, unit

NAME = "IEMOCAP"
EMOTIONS = {
    "ang": "anger",
    "hap": "happiness",
    "exc": "excitement",
    "sad": "sadness",
    "fru": "frustration",
    "fea": "fear",
    "sur": "surprise",
    "dis": "disgust",
    "neu": "neutral",
    "oth": "other",
    "xxx": "unknown",
}
_LINE = re.compile(
    r"\[(?P<start>[\d.]+) - (?P<end>[\d.]+)\]\t(?P<id>Ses\d\d[FM]\w+)\t(?P<emotion>\w+)\t"
    r"\[(?P<valence>[\d.]+), (?P<arousal>[\d.]+), (?P<dominance>[\d.]+)\]"
)
_TEXT = re.compile(r"(Ses\d\d[FM]\w+) \[[\d.]+-[\d.]+\]: ?(.*)")


def read(folder: Path) -> list[dict[str, Any]]:
    """Utterances of all sessions. There is no split; folds are over `session` or `speaker`."""
    rows = []
    for path in require(folder, ["Session*/dialog/EmoEvaluation/*.txt"], NAME):
        session = path.relative_to(folder).parts[0]
        content = path.read_text(encoding="utf-8", errors="replace")
        transcript = folder / session / "dialog" / "transcriptions" / path.name
        texts: dict[str, str] = {}
        if transcript.is_file():
            lines = transcript.read_text(encoding="utf-8", errors="replace").splitlines()
            texts = {found[1]: found[2] for line in lines if (found := _TEXT.match(line))}
        utterances = sorted(_LINE.finditer(content), key=lambda turn: float(turn["start"]))
        for number, turn in enumerate(utterances):
            name, dialogue = turn["id"], path.stem
            voice = name.rpartition("_")[2][0]  # F000, M013: who speaks in this turn
            rows.append(
                {
                    "file": f"{session}/sentences/wav/{dialogue}/{name}.wav",
                    **{
                        dimension: unit(turn[dimension], 1, 5, f"{path}: {name}", slack=0.5)
                        for dimension in ("arousal", "dominance", "valence")
                    },
                    "emotion": EMOTIONS.get(turn["emotion"], turn["emotion"]),
                    "speaker": f"{name[:5]}{voice}",
                    "sex": {"F": "female", "M": "male"}[voice],
                    "language": "en",
                    "text": texts.get(name, ""),
                    "dialogue": dialogue,
                    "turn": number,
                    "session": int(name[3:5]),
                }
            )
    return rows
