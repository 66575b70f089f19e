"""A teacher of categories as a teacher of arousal, dominance and valence: `--placement`.

Each category has a documented place (`acoustic.placement`: ratings of words, expected ranges of
speech); a clip gets the mean of the places, weighted by the probabilities of their categories.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from wav2small.dimensions import DIMENSIONS
from wav2small.emotions import common
from wav2small.errors import Wav2SmallError

from . import base
from .acoustic.placement import placements
from .base import ByColumns, Teacher

PROBABILITY = "probability_"


class Placed(ByColumns):
    """Wraps a teacher; its probabilities stay columns of the table.

    Args:
        teacher: has categories and no dimensions

    Raises:
        Wav2SmallError: it has dimensions of its own, uses text, or fewer than two of its categories
            have a place
    """

    dimensions = DIMENSIONS

    def __init__(self, teacher: Teacher):
        names = tuple(getattr(teacher, "categories", ()))
        if teacher.dimensions or not names or base.uses_text(teacher):
            raise Wav2SmallError(
                f"--placement: {teacher.id} estimates {', '.join(teacher.dimensions) or 'nothing'} "
                "itself; the option is for teachers of categories alone"
            )
        places = placements()
        self.places = {name: places[common(name)] for name in names if common(name) in places}
        if len(self.places) < 2:
            raise Wav2SmallError(
                f"--placement: no place is known for {', '.join(names)}; known: {', '.join(places)}"
            )
        self._teacher = teacher
        self.name, self.id, self.licence = teacher.name, teacher.id, teacher.licence
        self.revision = f"{teacher.revision};placement"
        self.sampling_rate, self.invariances = teacher.sampling_rate, teacher.invariances
        self.in_workers = base.runs_in_workers(teacher)
        self.device = getattr(teacher, "device", None)

    def predict_columns(self, batch: np.ndarray, lengths: np.ndarray) -> dict[str, np.ndarray]:
        """The dimensions, and the columns of the teacher itself."""
        return self.launch(batch, lengths)()

    def launch(self, batch: np.ndarray, lengths: np.ndarray) -> Callable[[], dict[str, np.ndarray]]:
        """Begin to label a batch; see `base.launch`."""
        wait = base.launch(self._teacher, batch, lengths)

        def columns() -> dict[str, np.ndarray]:
            found = wait()
            shares = np.stack([found[PROBABILITY + name] for name in self.places], axis=1)
            shares = shares / np.maximum(shares.sum(axis=1, keepdims=True), 1e-6)
            placed = (shares @ np.stack(list(self.places.values())) + 1) / 2
            return {**dict(zip(DIMENSIONS, placed.T, strict=True)), **found}

        return columns

    def provenance(self) -> list[dict[str, Any]]:
        """The teacher's own, with the places (0..1, arousal, dominance, valence)."""
        first, *others = base.licensed(self._teacher)
        places = {
            name: [round(float(v), 4) for v in (p + 1) / 2] for name, p in self.places.items()
        }
        return [{**first, "revision": self.revision, "placement": places}, *others]
