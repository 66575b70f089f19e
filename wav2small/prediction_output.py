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

COLUMNS = ("file", "start", "end", *DIMENSIONS)
LIMITED = "band_limited"
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
    own = [*COLUMNS, *(f"probability_{name}" for name in categories)]
    own += [SPEECH] * speech + [LIMITED]
    return [*own, *(f"source_{name}" if name in own else name for name in kept)]


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
    ):
        self._header = header
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
                file.write(json.dumps(dict(zip(self._header, _rounded(row), strict=True))) + "\n")
        else:
            plain = csv.writer(file, lineterminator="\n")
            quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
            for cells in map(formatted, rows):
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


def formatted(row: tuple[Any, ...]) -> list[str]:
    file, start, end, *values = row
    return [file, f"{start:.3f}", f"{end:.3f}", *map(_text, values)]


def _text(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    if value is None or value != value:  # NaN and NaT
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _rounded(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """A row as JSON values, with the digits that a CSV has."""
    return row[0], *(round(number, 3) for number in row[1:3]), *map(_json, row[3:])


def _json(value: Any) -> Any:
    if value is None or value != value:
        return None
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float):
        return round(value, 4)
    return value if isinstance(value, bool | int | str) else str(value)
