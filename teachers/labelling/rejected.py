"""The list of rejected clips beside a label table."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from .clips import Rejection
from .store import Folder

NAME = "errors.csv"


def write(folder: Folder, table: str, rejections: list[Rejection]) -> str:
    """List rejected clips in `errors.csv` beside the table; it can be labelled like any index.

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
            rejection.file,
            f"{rejection.start / 1e9:.9g}",
            "" if rejection.end is None else f"{rejection.end / 1e9:.9g}",
            rejection.reason,
            table,
        ]
        for rejection in rejections
    ]

    def fill(path: Path) -> None:
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows([header, *kept, *lines])

    if kept or lines:
        folder.write(NAME, fill)
    else:
        folder.remove(NAME)
    return folder.shown(NAME)
