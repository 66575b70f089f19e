"""Tiny on-device models of emotion in speech: arousal, dominance and valence, each 0..1.

Importing this package costs nothing: each public name loads its own room when first used,
and torch only where a name needs it (`label` with a neural teacher, `distill`, `finetune`).
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_ROOMS = {
    "AudioError": "errors",
    "Labels": "tables",
    "Predictor": "predictor",
    "Stream": "stream",
    "Wav2SmallError": "errors",
    "audit": "benchmarks.audit.audit",
    "benchmark": "benchmarks.host",
    "distill": "students.distillation",
    "evaluate": "evaluation",
    "finetune": "teachers.finetuning.finetune",
    "label": "teachers.labelling.run",
    "load_source": "index",
    "predict": "prediction",
    "read_labels": "tables",
    "report": "benchmarks.report.report",
    "write_labels": "tables",
}

__all__ = ["__version__", *sorted(_ROOMS)]


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'wav2small' has no attribute {name!r}")
    return getattr(import_module(f"wav2small.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return __all__
