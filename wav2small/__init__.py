"""Tiny on-device models of emotion in speech: arousal, dominance and valence, each 0..1.

Importing this package costs nothing: each public name loads its module when first used, and torch
only where a name needs it (`label` with a neural teacher, `distill`, `finetune`).

Example:
    >>> import wav2small
    >>> "Predictor" in dir(wav2small)
    True
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:  # what type checkers see; the table below is the same at run time
    from wav2small import students as students
    from wav2small import teachers as teachers
    from wav2small.benchmarks.audit.audit import audit as audit
    from wav2small.benchmarks.host import benchmark as benchmark
    from wav2small.benchmarks.report.report import report as report
    from wav2small.corpora.registry import index_corpus as index_corpus
    from wav2small.errors import AudioError as AudioError
    from wav2small.errors import Wav2SmallError as Wav2SmallError
    from wav2small.evaluation import evaluate as evaluate
    from wav2small.export.export import export_bundle as export_bundle
    from wav2small.export.push import push as push
    from wav2small.export.verification import verify_bundle as verify_bundle
    from wav2small.index import load_source as load_source
    from wav2small.microphone import listen as listen
    from wav2small.prediction import predict as predict
    from wav2small.predictor import Predictor as Predictor
    from wav2small.predictor import load as load
    from wav2small.stream import Stream as Stream
    from wav2small.students.distillation import distill as distill
    from wav2small.tables import Labels as Labels
    from wav2small.tables import read_labels as read_labels
    from wav2small.tables import write_labels as write_labels
    from wav2small.teachers.finetuning.finetune import finetune as finetune
    from wav2small.teachers.labelling.options import ComputeOptions as ComputeOptions
    from wav2small.teachers.labelling.options import SourceOptions as SourceOptions
    from wav2small.teachers.labelling.options import TeacherOptions as TeacherOptions
    from wav2small.teachers.labelling.options import VariantOptions as VariantOptions
    from wav2small.teachers.labelling.run import label as label
    from wav2small.teachers.speech.convert import convert as convert

_PUBLIC = {
    "AudioError": "errors:AudioError",
    "ComputeOptions": "teachers.labelling.options:ComputeOptions",
    "Labels": "tables:Labels",
    "Predictor": "predictor:Predictor",
    "SourceOptions": "teachers.labelling.options:SourceOptions",
    "Stream": "stream:Stream",
    "TeacherOptions": "teachers.labelling.options:TeacherOptions",
    "VariantOptions": "teachers.labelling.options:VariantOptions",
    "Wav2SmallError": "errors:Wav2SmallError",
    "audit": "benchmarks.audit.audit:audit",
    "benchmark": "benchmarks.host:benchmark",
    "convert": "teachers.speech.convert:convert",
    "distill": "students.distillation:distill",
    "evaluate": "evaluation:evaluate",
    "export_bundle": "export.export:export_bundle",
    "finetune": "teachers.finetuning.finetune:finetune",
    "index_corpus": "corpora.registry:index_corpus",
    "label": "teachers.labelling.run:label",
    "listen": "microphone:listen",
    "load": "predictor:load",
    "load_source": "index:load_source",
    "predict": "prediction:predict",
    "push": "export.push:push",
    "read_labels": "tables:read_labels",
    "report": "benchmarks.report.report:report",
    "students": "students",
    "teachers": "teachers",
    "verify_bundle": "export.verification:verify_bundle",
    "write_labels": "tables:write_labels",
}

__all__ = sorted([*_PUBLIC, "__version__"])

if not TYPE_CHECKING:  # a checker that saw it would take every name for Any

    def __getattr__(name: str) -> Any:
        if name not in _PUBLIC:
            raise AttributeError(f"module 'wav2small' has no attribute {name!r}")
        module, _, attribute = _PUBLIC[name].partition(":")
        try:
            loaded = import_module(f"wav2small.{module}")
        except ModuleNotFoundError as error:
            from wav2small.errors import missing_package

            raise missing_package(error) from error
        return getattr(loaded, attribute) if attribute else loaded


def __dir__() -> list[str]:
    return __all__
