"""The list of refused clips beside a label table."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from .clips import Refusal
from .store import Folder

NAME = "errors.csv"


def write(folder: Folder, table: str, refusals: list[Refusal]) -> str:
    """List refused clips in `errors.csv` beside the table; it can be labelled like any index.

    The list is shared by the tables of a folder: lines of other tables stay.
    """
    header = ["file", "start", "end", "reason", "table"]
    kept: list[list[str]] = []
    if folder.exists(NAME):
        with folder.open(NAME) as file:
            before = list(csv.reader(io.TextIOWrapper(file, newline="")))
        kept = [line for line in before if line != header and line[-1:] != [table]]
    lines = [
        [
            refusal.file,
            f"{refusal.start / 1e9:.9g}",
            "" if refusal.end is None else f"{refusal.end / 1e9:.9g}",
            refusal.reason,
            table,
        ]
        for refusal in refusals
    ]

    def fill(path: Path) -> None:
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows([header, *kept, *lines])

    if kept or lines:
        folder.write(NAME, fill)
    else:
        folder.remove(NAME)
    return folder.shown(NAME)
