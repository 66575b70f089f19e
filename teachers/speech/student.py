"""A student as a teacher: the folder of a distillation, or the published 16K-parameter model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from wav2small import provenance
from wav2small.teachers.base import entry

from .checkpoint import Checkpoint
from .neural import NeuralTeacher


class _Network(nn.Module):
    def __init__(self, student: Any):
        super().__init__()
        self.student = student

    def forward(self, signal: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.student.category is None:
            return self.student(signal, lengths), None
        values, logits = self.student.forward_categories(signal, lengths)
        return values[:, : len(self.student.dimensions)], logits


class StudentTeacher(NeuralTeacher):
    """Wraps a student; `provenance` keeps the licences of whom it learned from."""

    def __init__(self, source: Checkpoint, **options: Any):
        from wav2small.students import registry

        student = registry.load(source.folder)
        self._lineage = registry.provenance(source.folder)
        source = replace(source, licence=provenance.expression(self._lineage))
        options |= {"name": student.name, "dimensions": student.dimensions}
        options["categories"] = tuple(student.config.get("categories") or ())
        super().__init__(_Network(student), source, **options)

    def provenance(self) -> list[dict[str, Any]]:
        """The student, then its own teachers."""
        return [entry(self), *self._lineage.get("teachers", ())]
