"""Progress on stderr: a bar on a terminal or in a notebook, a line now and then anywhere else."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Sequence
from typing import Any

from wav2small.errors import one_line

DELAY_S = 2.0  # work that is done sooner shows nothing
LINE_S = 30.0  # between the lines where there is no terminal


def note(text: str) -> None:
    """A line about the run, on stderr."""
    print(one_line(text), file=sys.stderr)


def plain_warnings() -> None:
    """Let this process show a warning as one line, without the code that it comes from."""
    warnings.formatwarning = lambda message, *_, **__: f"warning: {one_line(str(message))}\n"
    warnings.filterwarnings("ignore", "samples up to")  # after that which names the file


def report_rejected(rejected: Sequence[tuple[str, str]]) -> int:
    """List on stderr what was rejected; the exit code that follows from it, 0 or 1."""
    for _, reason in rejected:
        note(f"rejected: {reason}")
    if rejected:
        note(f"{len(rejected)} rejected, listed above; all else is done")
    return 1 if rejected else 0


def bar(total: float | None, *, unit: str, desc: str) -> Any:
    """A progress bar; where stderr is a file or a pipe, a line every 30 seconds.

    Args:
        total: amount of work in `unit`
        unit: what is counted, such as "clip" or "h" (hours of audio)
        desc: the verb, such as "label"

    Returns:
        tqdm bar

    Example:
        >>> with bar(2, unit="clip", desc="label") as progress:
        ...     _ = progress.update()
    """
    import tqdm.auto

    graphical = sys.stderr.isatty() or "ipykernel" in sys.modules
    # Parts of a long clip count, too.
    digits = 2 if unit == "h" or (total or 0) < 10 else 0
    drawn = "|{bar}|" if graphical else ""
    done = f"{{percentage:3.0f}}%{drawn} {{n:.{digits}f}}/{{total_fmt}} {{unit}}"
    return tqdm.auto.tqdm(
        total=round(total, 2) if total else total,
        unit=unit,
        desc=desc,
        delay=DELAY_S,
        dynamic_ncols=graphical,
        file=None if graphical else _Lines(),
        bar_format="{desc}: " + done + " [{elapsed}<{remaining}{postfix}]",
    )


class _Lines:
    """A file that passes one state of a bar on to stderr every `LINE_S` seconds, as a line."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def write(self, text: str) -> None:
        now = time.monotonic()
        if text.strip() and now - self._last >= LINE_S:
            self._last = now
            print(text.strip(), file=sys.stderr, flush=True)

    def flush(self) -> None:
        """Lines are flushed as they are written."""
