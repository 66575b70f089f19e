"""A Hugging Face dataset on disk: of `save_to_disk`, the parquet files of a repository, a cache."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wav2small.emotions import common
from wav2small.errors import Wav2SmallError

from .layout import OtherLayoutError, decoded, sex

#: Names of columns in data sets -> names in an index. Ratings keep their scale: give --scale.
_NAMES = {
    "activation": "arousal",
    "emoact": "arousal",
    "emodom": "dominance",
    "emoval": "valence",
    "gender": "sex",
    "label": "emotion",
    "major_emotion": "emotion",
    "sentence": "text",
    "speaker_id": "speaker",
    "transcription": "text",
}


def read(folder: Path, into: Path | None = None) -> Iterator[dict[str, Any]]:
    """Clips of all splits.

    Args:
        folder: of the data set
        into: folder that audio inside of the tables is written to; None = reject such a data set

    Raises:
        Wav2SmallError: no such data set, no audio column, or audio inside and nowhere to write it
    """
    for split, path in _tables(folder):
        for number, (row, features) in enumerate(_read(path)):
            audio = next((n for n, f in features.items() if f.get("_type") == "Audio"), None)
            if audio is None:
                raise Wav2SmallError(f"{path}: no audio column; its columns: {', '.join(features)}")
            sound = row.pop(audio) or {}
            sound = {"path": sound} if isinstance(sound, str) else sound
            file = sound.get("path") or ""
            if sound.get("bytes"):
                if into is None:
                    remedy = f"write it out first: wav2small index hf {folder} -o index.csv"
                    raise Wav2SmallError(f"{path}: audio lies inside; {remedy}")
                ending = Path(file or "x.wav").suffix or ".wav"
                inside = into / f"{split}-{path.stem}-{number}{ending}"
                into.mkdir(parents=True, exist_ok=True)
                inside.write_bytes(sound["bytes"])
                file = str(inside.absolute())
            yield {"file": file, **_named(row, features), "split": split}


def _tables(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every file with rows, and the split it belongs to."""
    found = False
    states = [folder / "state.json", *sorted(folder.glob("*/state.json"))]
    for state in filter(Path.is_file, states):
        try:
            content = json.loads(decoded(state))
            files = [state.parent / file["filename"] for file in content["_data_files"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            wrong = f"{state}: not the state.json of a dataset ({error!r})"
            raise Wav2SmallError(f"{wrong}; save it again with save_to_disk") from error
        own = state.parent.name if state.parent != folder else ""
        for file in files:
            found = True
            yield content.get("_split") or own or "train", file
    if found:
        return
    paths = sorted(folder.rglob("*.parquet"))
    if not paths:  # the library's cache has NAME-train.arrow; what transforms wrote is no split
        arrows = sorted(folder.rglob("*-*.arrow"))
        paths = [path for path in arrows if not path.name.startswith(("data-", "cache-"))]
    for path in paths:
        names = re.split("[-.]", path.name)
        split = path.parent.name if names[0].isdigit() else names[0]  # train/0000.parquet
        yield names[1] if path.suffix == ".arrow" else split, path
    if not paths:
        raise OtherLayoutError(
            f"{folder}: no state.json with its arrow files (of save_to_disk) and no *.parquet, so "
            "this is no Hugging Face dataset on disk; save one with Dataset.save_to_disk"
        )


def _read(path: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Rows of an arrow or parquet file with the features of its columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.suffix == ".parquet":
            source: Any = pq.ParquetFile(path)
            schema, batches = source.schema_arrow, source.iter_batches(64)
        else:
            source = pa.ipc.open_stream(pa.memory_map(str(path)))
            schema, batches = source.schema, source
        about = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = (about.get("info") or {}).get("features") or {}
        features = {name: features.get(name) or {} for name in schema.names}
        for name in ("audio", "file"):  # a table without a description
            if name in features and not any("_type" in f for f in features.values()):
                features[name] = {"_type": "Audio"}
        for batch in batches:
            for row in batch.to_pylist():
                yield row, features
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise Wav2SmallError(f"{path}: cannot be read ({reason}); download it again") from error


def _named(row: dict[str, Any], features: dict[str, Any]) -> dict[str, Any]:
    """A row in the names of an index; numbers of classes become their names."""
    clip: dict[str, Any] = {}
    for column, value in row.items():
        names = features[column].get("names")
        if isinstance(value, int) and names and 0 <= value < len(names):
            value = names[value]
        if isinstance(value, str | int | float | bool) or value is None:
            name = _NAMES.get(column.lower(), column)
            if name == "emotion" and isinstance(value, str):
                value = common(value)
            if name == "sex":
                value = sex(value)
            if name in ("speaker", "dialogue") and value is not None:
                value = str(value)
            clip.setdefault(name, value)
    return clip
