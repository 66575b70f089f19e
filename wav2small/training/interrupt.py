"""Ctrl-C and SIGTERM between two steps, never in the middle of one."""

from __future__ import annotations

import signal
import threading
from typing import Any


class Stop:
    """Turns the first Ctrl-C (or SIGTERM) into a flag; the second one stops at once.

    Use as a context manager around a loop that looks at `wanted` after every step.

    Example:
        >>> import signal
        >>> with Stop() as stop:
        ...     signal.raise_signal(signal.SIGINT)
        ...     stop.wanted
        True
    """

    def __init__(self) -> None:
        self.wanted = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True
