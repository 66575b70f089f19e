"""MSP-Podcast (Lotfian & Busso 2019): ratings on 1..7, official splits, ratings of every worker."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wav2small.errors import Wav2SmallError

from .layout import decoded, per_rater, require, sex, table, unit

NAME = "MSP-Podcast"
#: "O" is another emotion, "X" no agreement of the raters.
_NAMES = "anger sadness happiness surprise fear disgust contempt neutral other unknown"
EMOTIONS = dict(zip("ASHUFDCNOX", _NAMES.split(), strict=True))
_RATINGS = {"arousal": "EmoAct", "dominance": "EmoDom", "valence": "EmoVal"}
#: As releases spell it; the first is named in errors.
_CONSENSUS = ["Labels/labels_consensus.csv"]
_CONSENSUS += [f"[Ll]abel*/labels_con[cs]ensus.{kind}" for kind in ("csv", "json")]
_DETAILED = [f"labels_detailed.{kind}" for kind in ("csv", "json")]
#: One cell of releases 1.7 to 1.11: "WORKER00000325; Neutral; Neutral,Tired; A:2.0; V:4.0; D:3.0;"
_DETAIL = re.compile(
    r"(?P<rater>[^;]+);.*\bA:\s*(?P<EmoAct>[\d.]*);\s*V:\s*(?P<EmoVal>[\d.]*);"
    r"\s*D:\s*(?P<EmoDom>[\d.]*)"
)


def read(folder: Path, raters: bool = False) -> Iterator[dict[str, Any]]:
    """Clips of `Labels/labels_consensus.csv`; text from `Transcripts/` where it is there.

    `raters`: one row per clip and worker of `Labels/labels_detailed.csv` (or .json).
    """
    path = require(folder, _CONSENSUS, NAME)[0]
    audio = "Audios" if (folder / "Audios").is_dir() else "Audio"
    columns = ("FileName", "EmoClass", "SpkrID", "Gender", "Split_Set", *_RATINGS.values())
    detailed = (path.with_name(name) for name in _DETAILED)
    found = next((file for file in detailed if raters and file.is_file()), None)
    rated = _raters(found) if found else {}
    for number, row in enumerate(_table(path, columns), start=2):
        clip = {"file": f"{audio}/{row['FileName']}", **_ratings(row, f"{path}: line {number}")}
        speaker = row["SpkrID"] if row["SpkrID"].lower() != "unknown" else ""
        clip |= {
            "emotion": EMOTIONS.get(row["EmoClass"], row["EmoClass"].lower()),
            "speaker": speaker,
            "sex": sex(row["Gender"]),
            "language": "en",
            "split": row["Split_Set"].lower(),
        }
        text = folder / "Transcripts" / (Path(row["FileName"]).stem + ".txt")
        if text.is_file():
            clip["text"] = decoded(text).strip()
        yield from per_rater(clip, rated.get(row["FileName"], ())) if raters else [clip]


def _ratings(row: dict[str, str], where: str) -> dict[str, float | None]:
    return {name: unit(row[column], 1, 7, where) for name, column in _RATINGS.items()}


def _raters(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Ratings of every worker, by file."""
    rated = defaultdict(list)
    for number, row in enumerate(_table(path, ("FileName",)), start=2):
        where = f"{path}: line {number}"
        if "EmoDetail" in row:
            found = _DETAIL.match(row["EmoDetail"])
            if not found:
                raise Wav2SmallError(f"{where}: {row['EmoDetail']!r} is no rating of a worker")
            row |= found.groupdict()
        if missing := [column for column in _RATINGS.values() if column not in row]:
            raise Wav2SmallError(
                f"{path}: no column {missing[0]} (its columns: {', '.join(row)}), so this is not "
                f"the table of {NAME}; remove it to do without raters"
            )
        names = (row[column] for column in row if re.match("rater|worker|annotator", column, re.I))
        rated[row["FileName"]].append({"rater": next(names, ""), **_ratings(row, where)})
    return rated


def _table(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    if path.suffix == ".csv":
        return table(path, columns, NAME)
    try:
        rows = list(_entries(json.loads(decoded(path))))
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise Wav2SmallError(f"{path}: not the JSON of {NAME} ({error}); copy it again") from error
    for row in rows:
        if missing := [column for column in columns if column not in row]:
            raise Wav2SmallError(f"{path}: no {missing[0]} of {row['FileName']}; copy it again")
    return rows


def _entries(content: dict[str, dict[str, Any]]) -> Iterator[dict[str, str]]:
    """Rows of {file: {column: value}} or {file: {worker: {column: value}}}."""
    for file, about in content.items():
        each = about if all(isinstance(own, dict) for own in about.values()) else {"": about}
        for worker, own in each.items():
            values = {key: str(value).strip() for key, value in own.items()}
            yield {"FileName": file, "Workers": worker, **values}
