"""MELD (Poria et al. 2019): dialogues of a television series, seven emotions, three sentiments."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wav2small import audio
from wav2small.emotions import common
from wav2small.errors import Wav2SmallError

from .layout import audio_files, require, table

NAME = "MELD"
SPLITS = ("train", "dev", "test")
_COLUMNS = ("Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID")


def read(folder: Path) -> Iterator[dict[str, Any]]:
    """Utterances of `*_sent_emo.csv`; audio: any `dia<D>_utt<U>` in a folder named as the split.

    Where a turn was converted from mp4, the converted file is taken.
    """
    tables = require(folder, ["*_sent_emo.csv", "**/*_sent_emo.csv"], NAME)
    clips: dict[tuple[str, str], Path] = {}
    for file in audio_files(folder, NAME, pattern="dia*_utt*"):
        named = (name for part in file.parts[-2::-1] for name in SPLITS if name in part.lower())
        split = next(named, "")
        former = clips.get((split, file.stem))
        if former is None or former.suffix.lower() not in audio.EXTENSIONS:
            clips[split, file.stem] = file
    for path in tables:
        split = path.name.partition("_")[0].lower()
        for number, row in enumerate(table(path, _COLUMNS, NAME), start=2):
            turn, where = row["Utterance_ID"], f"{path}: line {number}"
            if not turn.isdecimal():
                raise Wav2SmallError(f"{where}: {turn!r} is no Utterance_ID; copy it again")
            name = f"dia{row['Dialogue_ID']}_utt{turn}"
            yield {
                "file": clips.get((split, name), Path(split) / f"{name}.wav").as_posix(),
                "emotion": common(row["Emotion"]),
                "speaker": row["Speaker"],
                "language": "en",
                "split": split,
                "sentiment": row["Sentiment"],
                "text": row["Utterance"],
                "dialogue": f"{split}_dia{row['Dialogue_ID']}",
                "turn": int(turn),
            }
