"""Teachers: models of arousal, dominance and valence that label audio, and the labelling run.

Importing this package loads neither torch nor a teacher: each name loads its own file.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base import Teacher as Teacher
    from .finetuning.finetune import finetune as finetune
    from .finetuning.pretrain import pretrain as pretrain
    from .labelling.run import label as label
    from .registry import list_teachers as list_teachers
    from .registry import load_teacher as load_teacher
    from .registry import register_teacher as register_teacher

_HOMES = {
    "Teacher": "base",
    "finetune": "finetuning.finetune",
    "label": "labelling.run",
    "list_teachers": "registry",
    "load_teacher": "registry",
    "pretrain": "finetuning.pretrain",
    "register_teacher": "registry",
}

__all__ = sorted(_HOMES)

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'wav2small.teachers' has no attribute {name!r}")
        return getattr(import_module(f"wav2small.teachers.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
