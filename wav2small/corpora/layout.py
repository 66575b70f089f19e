"""What readers of corpora share: files that must be there, tables, scales."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from wav2small import audio, media
from wav2small.errors import Wav2SmallError

_SEXES = {
    **dict.fromkeys(("f", "female", "w", "woman"), "female"),
    **dict.fromkeys(("m", "male", "man"), "male"),
    **dict.fromkeys(("", "nan", "none", "null", "n/a", "unknown", "?"), ""),
}


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
    raise _other_layout(folder, patterns[0], corpus)


def _other_layout(folder: Path, missing: str, corpus: str) -> OtherLayoutError:
    other = f"so this is not the published layout of {corpus}"
    return OtherLayoutError(f"{folder}: no {missing}, {other}; name the folder that holds it")


def decoded(path: Path) -> str:
    """A text file in UTF-8, in UTF-16 with its mark, or else as Windows writes it (CP1252)."""
    data = path.read_bytes()
    if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def table(path: Path, columns: Iterable[str], corpus: str) -> list[dict[str, str]]:
    """Rows of a table, as text; comma, semicolon or tab separates them, as its header has it.

    Raises:
        Wav2SmallError: a column is missing, it is no such table, or a row has other cells
    """
    try:
        content = decoded(path)
        if "\0" in content:
            raise ValueError("zero bytes in it")
        separator = max(",;\t", key=content.partition("\n")[0].count)
        lines = csv.reader(io.StringIO(content, newline=""), delimiter=separator)
        names = [name.strip() for name in next(lines, [])]
        cells = [(lines.line_num, row) for row in lines if row]
    except (OSError, ValueError, csv.Error) as error:
        raise Wav2SmallError(f"{path}: not a CSV table ({error}); copy it again") from error
    for column in columns:
        if column not in names:
            other = f"no column {column}, so this is not the table of {corpus}"
            raise Wav2SmallError(f"{path}: {other}; its columns: {', '.join(names)[:200]}")
    if not cells:
        raise Wav2SmallError(f"{path}: a table without rows; copy it again")
    least = 1 + max(names.index(column) for column in columns)
    for line, row in cells:
        if len(row) < least or any(row[len(names) :]):
            wrong = f"line {line}: {len(row)} cells, but {len(names)} columns"
            remedy = "copy it again, or put text with separators into quotation marks"
            raise Wav2SmallError(f"{path}: {wrong}; {remedy}")
    rows = (map(str.strip, row[: len(names)]) for _, row in cells)
    return [dict(zip_longest(names, row, fillvalue="")) for row in rows]


def sex(value: object) -> str:
    """ "female" or "male", however it is written; another value in lower case; "" = not known.

    Example:
        >>> sex("M"), sex("Woman"), sex("Unknown"), sex("diverse")
        ('male', 'female', '', 'diverse')
    """
    name = str(value).strip().lower()
    return _SEXES.get(name, name)


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
        raise _other_layout(folder, f"{pattern} with audio", corpus)
    return found


def once(files: list[Path]) -> list[Path]:
    """The first file of each name: some copies of a corpus hold all of it twice.

    Example:
        >>> [path.name for path in once([Path("a/x.wav"), Path("b/x.wav"), Path("b/y.wav")])]
        ['x.wav', 'y.wav']
    """
    return list({path.stem: path for path in reversed(files)}.values())[::-1]
