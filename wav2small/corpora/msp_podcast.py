"""MSP-Podcast (Lotfian & Busso 2019): ratings on 1..7, official splits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .layout import require, table, unit

NAME = "MSP-Podcast"
#: "O" is another emotion, "X" no agreement of the raters.
EMOTIONS = {
    "A": "anger",
    "S": "sadness",
    "H": "happiness",
    "U": "surprise",
    "F": "fear",
    "D": "disgust",
    "C": "contempt",
    "N": "neutral",
    "O": "other",
    "X": "unknown",
}
_RATINGS = {"arousal": "EmoAct", "dominance": "EmoDom", "valence": "EmoVal"}


def read(folder: Path) -> list[dict[str, Any]]:
    """Clips of `Labels/labels_consensus.csv`; text from `Transcripts/` where it is there."""
    names = ("Labels/labels_consensus.csv", "Labels/labels_concensus.csv")  # as releases spell it
    path = require(folder, names, NAME)[0]
    audio = "Audios" if (folder / "Audios").is_dir() else "Audio"
    columns = ("FileName", "EmoClass", "SpkrID", "Gender", "Split_Set", *_RATINGS.values())
    rows = []
    for number, row in enumerate(table(path, columns, NAME), start=2):
        where = f"{path}: line {number}"
        clip = {"file": f"{audio}/{row['FileName']}"}
        clip |= {
            name: unit(row[column], 1, 7, where)  # type: ignore[misc]
            for name, column in _RATINGS.items()
        }
        speaker = row["SpkrID"] if row["SpkrID"].lower() != "unknown" else ""
        clip |= {
            "emotion": EMOTIONS.get(row["EmoClass"], row["EmoClass"].lower()),
            "speaker": speaker,
            "sex": row["Gender"].lower() if row["Gender"] in ("Female", "Male") else "",
            "language": "en",
            "split": row["Split_Set"].lower(),
        }
        text = folder / "Transcripts" / (Path(row["FileName"]).stem + ".txt")
        if text.is_file():
            clip["text"] = text.read_text(encoding="utf-8", errors="replace").strip()
        rows.append(clip)
    return rows
