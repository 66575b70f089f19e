"""Rows of `predict`: their columns, as CSV, JSON lines or HTML, and the journal of a run."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TextIO

import numpy as np

from wav2small.dimensions import DIMENSIONS

from . import files
from .audio import LIMITED

COLUMNS = ("file", "start", "end", *DIMENSIONS)
SPEECH = "speech"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> str:
    """An HTML table of at most 20 rows, as notebooks show it.

    Example:
        >>> table(["file"], [["a.wav"]], "1 file").count("<td>")
        1
    """
    from html import escape
    from itertools import islice

    def line(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(line("td", row) for row in islice(rows, 20))
    head = line("th", header)
    return f"<table><caption>{escape(caption)}</caption>{head}{body}</table>"


def columns(categories: Sequence[str], kept: Sequence[str] = (), speech: bool = False) -> list[str]:
    """Names of the columns for a student with these categories, and columns of the source.

    Example:
        >>> columns(["anger"], ["speaker", "valence"])[-4:]
        ['probability_anger', 'band_limited', 'speaker', 'source_valence']
    """
    names = [*COLUMNS, *(f"probability_{name}" for name in categories)]
    names += [SPEECH] * speech + [LIMITED]
    for name in kept:
        while name in names:
            name = f"source_{name}"
        names.append(name)
    return names


class Output:
    """Where the rows go, and the journal of a run in `OUTPUT.part`.

    A file is written at the end, from the journal. An output that is no regular file (an open text
    file, a pipe, a device) gets each row at once and cannot be taken up.
    """

    def __init__(
        self,
        output: str | os.PathLike[str] | TextIO | None,
        settings: dict[str, Any],
        header: list[str],
        json_lines: bool,
        kept: int = 0,
    ):
        self._header, self._kept = header, kept
        self._json_lines = json_lines
        self._stack = contextlib.ExitStack()
        self._output = output
        self._stream: TextIO | None = None
        self._regular = isinstance(output, str | os.PathLike) and not files.special(output)
        self.journal = files.Journal(f"{output}.part" if self._regular else None, settings)
        self._order = array("q")  # places of the parts in the journal

    def __enter__(self) -> Output:
        self._stack.enter_context(self.journal)
        if self._output is None or self._regular:
            return self
        if isinstance(self._output, str | os.PathLike):
            binary = files.open_special(self._output)
            opened = io.TextIOWrapper(binary, newline="", encoding="utf-8")
            self._stream = self._stack.enter_context(opened)
        else:
            self._stream = self._output
        self._write_header(self._stream)
        return self

    def add(self, number: int, rows: list[tuple[Any, ...]], place: int) -> None:
        """Write the rows of a part at once, or remember where the journal keeps them."""
        if self._stream is not None:
            self._write(self._stream, rows)
            self._stream.flush()
        elif self._regular and rows:
            self._order.extend((number, place))

    def _write_header(self, file: TextIO) -> None:
        if not self._json_lines:
            csv.writer(file, lineterminator="\n").writerow(self._header)

    def _write(self, file: TextIO, rows: Iterable[tuple[Any, ...]]) -> None:
        if self._json_lines:
            for row in rows:
                values = _rounded(row, self._kept)
                file.write(json.dumps(dict(zip(self._header, values, strict=True))) + "\n")
        else:
            plain = csv.writer(file, lineterminator="\n")
            quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
            for cells in (formatted(row, self._kept) for row in rows):
                # A name with a carriage return could not be read back unquoted.
                (quoted if "\r" in cells[0] else plain).writerow(cells)

    def finish(self, shown: Callable[[int, list[Any]], list[tuple[Any, ...]]]) -> None:
        """Write the file: `shown(number of the clip, its rows)`, part by part."""
        if not self._regular:
            return
        with (
            files.atomic(self._output) as temporary,  # type: ignore[arg-type]
            open(temporary, "w", newline="", encoding="utf-8") as file,
        ):
            self._write_header(file)
            for number, place in zip(self._order[::2], self._order[1::2], strict=True):
                self._write(file, shown(number, self.journal.read(place)[0]))
        self.journal.remove()

    def __exit__(self, *exception: object) -> None:
        self._stack.close()


def formatted(row: tuple[Any, ...], kept: int = 0) -> list[str]:
    """The cells of a row, of which the last are columns of the source, with all their digits.

    Example:
        >>> formatted(("a.wav", 0, 1.5, 0.123456, 0.123456, None), 2)
        ['a.wav', '0.000', '1.500', '0.1235', '0.123456', '']
    """
    file, start, end, *values = row[: len(row) - kept]
    digits = (_text(value, None) for value in row[len(row) - kept :])
    return [file, f"{start:.3f}", f"{end:.3f}", *map(_text, values), *digits]


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def _text(value: Any, digits: int | None = 4) -> str:
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    value = _plain(value)
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    if value != value:
        return ""
    return repr(value).removesuffix(".0") if digits is None else f"{value:.{digits}f}"


def _rounded(row: tuple[Any, ...], kept: int) -> tuple[Any, ...]:
    """A row as JSON values, with the digits that a CSV has."""
    own, others = row[3 : len(row) - kept], row[len(row) - kept :]
    times = (round(number, 3) for number in row[1:3])
    return row[0], *times, *map(_json, own), *(_json(value, None) for value in others)


def _json(value: Any, digits: int | None = 4) -> Any:
    value = _plain(value)
    if not isinstance(value, float):
        return value if isinstance(value, bool | int | str | list | dict | None) else str(value)
    if not np.isfinite(value):
        return None if value != value else str(value)
    return value if digits is None else round(value, digits)
