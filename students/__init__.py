"""Students: tiny networks from a waveform to arousal, dominance and valence.

Example:
    >>> from wav2small import students
    >>> students.create("nano").__class__.__name__
    'Nano'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from wav2small.training.threads import wait_quietly as _wait_quietly

if TYPE_CHECKING:
    from .base import Student as Student
    from .registry import create as create
    from .registry import list_students as list_students
    from .registry import load as load
    from .registry import register_student as register_student

_wait_quietly()  # before torch is loaded

__all__ = ["Student", "create", "list_students", "load", "register_student"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module 'wav2small.students' has no attribute {name!r}")
        home = "base" if name == "Student" else "registry"
        return getattr(import_module(f"wav2small.students.{home}"), name)


def __dir__() -> list[str]:
    return __all__
