"""CMU-MOSI and CMU-MOSEI (Zadeh et al. 2016, 2018) as multimodal toolkits lay them out.

Sentiment of -3..3 stands for valence, 0..1; `sentiment` keeps the figure as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .layout import audio_files, require, table, unit

NAME = "CMU-MOSI or CMU-MOSEI"
_COLUMNS = ("video_id", "clip_id", "text", "label", "mode")


def read(folder: Path) -> Iterator[dict[str, Any]]:
    """Clips of `label.csv`; audio is `<video_id>/<clip_id>` in any folder below."""
    path = require(folder, ["label.csv"], NAME)[0]
    files = {
        (file.parts[-2], file.stem.lstrip("0")): file  # 1 and 0001 are the same clip
        for file in reversed(audio_files(folder, NAME, pattern="*"))
        if len(file.parts) > 1
    }
    for number, row in enumerate(table(path, _COLUMNS, NAME), start=2):
        video, clip = row["video_id"], row["clip_id"]
        file = files.get((video, clip.lstrip("0")))
        yield {
            "file": (file or Path(video) / f"{clip}.wav").as_posix(),
            "valence": unit(row["label"], -3, 3, f"{path}: line {number}"),
            "speaker": video,  # a video is one person at a camera
            "language": "en",
            "split": row["mode"].lower(),
            "sentiment": float(row["label"]) if row["label"] else None,
            "text": row["text"],
            "dialogue": video,
            "turn": int(clip) if clip.isdigit() else number,
        }
