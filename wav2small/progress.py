"""Progress bars: on stderr, only on a terminal, only for work of more than two seconds."""

from __future__ import annotations

import sys
from typing import Any


def note(text: str) -> None:
    """A line about the run, on stderr."""
    print(text, file=sys.stderr)


def bar(total: float | None, *, unit: str, desc: str) -> Any:
    """A tqdm bar.

    Args:
        total: amount of work in `unit`
        unit: what is counted, such as "clip" or "h" (hours of audio)
        desc: the verb, such as "label"
    """
    import tqdm

    counted = "{n:.2f}/{total:.2f} {unit}" if unit == "h" else "{n_fmt}/{total_fmt} {unit}"
    return tqdm.tqdm(
        total=total,
        unit=unit,
        desc=desc,
        delay=2,
        disable=None,
        dynamic_ncols=True,
        bar_format="{desc}: {percentage:3.0f}%|{bar}| "
        + counted
        + " [{elapsed}<{remaining}{postfix}]",
    )
