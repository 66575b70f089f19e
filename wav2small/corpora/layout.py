"""What readers of corpora share: files that must be there, tables, scales."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from wav2small import audio, media
from wav2small.errors import Wav2SmallError


class OtherLayoutError(Wav2SmallError):
    """A folder lacks a file that the published layout of a corpus has."""


def require(folder: Path, patterns: Iterable[str], corpus: str) -> list[Path]:
    """Files of a folder that match one of some patterns, the first pattern that matches any.

    Raises:
        OtherLayoutError: none does; it names the first pattern
    """
    patterns = list(patterns)
    for pattern in patterns:
        found = [path for path in sorted(folder.glob(pattern)) if not path.name.startswith(".")]
        if found:
            return found
    raise OtherLayoutError(
        f"{folder}: no {patterns[0]}, so this is not the published layout of {corpus}; name the "
        "folder that holds it"
    )


def table(path: Path, columns: Iterable[str], corpus: str) -> list[dict[str, str]]:
    """Rows of a CSV file, as text.

    Raises:
        Wav2SmallError: a column is missing, or it is no CSV
    """
    try:
        with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
            reader = csv.DictReader(file)
            rows = [{key: (row[key] or "").strip() for key in row if key} for row in reader]
            names = reader.fieldnames or []
    except (OSError, csv.Error) as error:
        raise Wav2SmallError(f"{path}: not a CSV table ({error}); copy it again") from error
    for column in columns:
        if column not in names:
            raise Wav2SmallError(
                f"{path}: no column {column}, so this is not the table of {corpus}; its columns: "
                f"{', '.join(names)}"
            )
    return rows


def unit(
    value: str | float, low: float, high: float, where: str, *, slack: float = 0.0
) -> float | None:
    """A rating on 0..1; None where it is empty.

    Args:
        value: as it is written
        low: lowest rating of the scale
        high: highest rating
        where: named in errors
        slack: how far beyond the scale a rating still counts as its end

    Raises:
        Wav2SmallError: no number, or outside of the corpus's scale

    Example:
        >>> unit("4", 1, 7, "a.csv"), unit("", 1, 7, "a.csv")
        (0.5, None)
    """
    if str(value).strip() in ("", "nan", "NaN", "None"):
        return None
    try:
        number = float(value)
    except ValueError as error:
        raise Wav2SmallError(f"{where}: {value!r} is not a rating") from error
    if not low - slack - 1e-6 <= number <= high + slack + 1e-6:
        raise Wav2SmallError(f"{where}: {number:g} is outside the corpus's scale {low:g}..{high:g}")
    return min(1.0, max(0.0, (number - low) / (high - low)))


def per_rater(clip: dict[str, Any], ratings: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each rater of a clip; the clip without a rater's name where none is known.

    Example:
        >>> per_rater({"file": "a.wav", "arousal": 0.5}, [{"rater": "E1", "arousal": 0.25}])
        [{'file': 'a.wav', 'arousal': 0.25, 'rater': 'E1'}]
    """
    return [{**clip, **own} for own in ratings or [{"rater": ""}]]


def audio_files(folder: Path, corpus: str, *, pattern: str) -> list[Path]:
    """Audio files anywhere below a folder whose name matches a pattern, relative to it.

    Raises:
        OtherLayoutError: there are none
    """
    endings = audio.EXTENSIONS | media.EXTENSIONS
    found = sorted(
        path.relative_to(folder)
        for path in folder.rglob(pattern)
        if path.suffix.lower() in endings and not path.name.startswith(".")
    )
    if not found:
        raise OtherLayoutError(
            f"{folder}: no {pattern} with audio, so this is not the published layout of {corpus}; "
            "name the folder that holds it"
        )
    return found


def once(files: list[Path]) -> list[Path]:
    """The first file of each name: some copies of a corpus hold all of it twice.

    Example:
        >>> [path.name for path in once([Path("a/x.wav"), Path("b/x.wav"), Path("b/y.wav")])]
        ['x.wav', 'y.wav']
    """
    return list({path.stem: path for path in reversed(files)}.values())[::-1]
