"""What a teacher is: anything that maps audio to arousal, dominance and valence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from wav2small.teachers.multimodal.dialogue import Passage


@runtime_checkable
class Teacher(Protocol):
    """A model that labels audio.

    Attributes:
        name: short name, such as "wavlm"
        id: where it comes from: hub id, folder or package
        revision: what pins it: commit of the hub, or hash of its weights
        licence: SPDX name of what binds its labels, or "unknown"
        sampling_rate: rate of its input, in Hz
        dimensions: columns of its output; of arousal, dominance, valence, in this order
        invariances: what leaves its output unchanged by construction, such as {"gain"}

    A teacher may have more:
        in_workers: True if it is cheap and free of torch; the labelling run then gives every
            worker process a copy of its own
        predict_columns: like `predict`, but returns {column: (clips,)}, the dimensions among
            them; the other columns (probabilities of categories) go to the label table as well
        launch: begins `predict_columns` and returns a function that waits for its result
        context: a `dialogue.Context` of a multimodal teacher: `predict_columns` and `launch` then
            take `passages`, one per clip, as a third argument
        too_long: of a multimodal teacher, texts -> how many it has to cut
    """

    name: str
    id: str
    revision: str
    licence: str
    sampling_rate: int
    dimensions: tuple[str, ...]
    invariances: frozenset[str]

    def predict(self, batch: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Label a batch.

        Args:
            batch: float32 (clips, samples), zeros after the end of shorter clips
            lengths: int (clips,), number of valid samples of each

        Returns:
            (clips, dimensions), 0..1
        """
        ...


class ByColumns:
    """A teacher that is defined by its `predict_columns`."""

    dimensions: tuple[str, ...]

    def predict_columns(self, batch: np.ndarray, lengths: np.ndarray) -> Mapping[str, Any]:
        """Every column of a batch; see `Teacher`."""
        raise NotImplementedError

    def predict(self, batch: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """See `Teacher.predict`."""
        found = self.predict_columns(batch, lengths)
        return np.stack([found[name] for name in self.dimensions], axis=1)


def columns(
    teacher: Teacher, batch: np.ndarray, lengths: np.ndarray, passages: list[Passage] | None = None
) -> dict[str, np.ndarray]:
    """Every column a teacher offers for a batch, dimensions clipped to 0..1, float32.

    Regressions end without a sigmoid, so their outputs can leave the scale by a little; a label
    table never does.
    """
    return launch(teacher, batch, lengths, passages)()


def launch(
    teacher: Teacher, batch: np.ndarray, lengths: np.ndarray, passages: list[Passage] | None = None
) -> Callable[[], dict[str, np.ndarray]]:
    """Begin `columns`; the result waits for them. Only a GPU gains from it."""
    inputs: tuple[Any, ...] = (batch, lengths, passages) if uses_text(teacher) else (batch, lengths)
    if hasattr(teacher, "launch"):
        wait = teacher.launch(*inputs)
        return lambda: _checked(teacher, wait())
    if hasattr(teacher, "predict_columns"):
        outputs: Mapping[str, Any] = teacher.predict_columns(*inputs)
    else:
        values = np.asarray(teacher.predict(batch, lengths))
        outputs = dict(zip(teacher.dimensions, values.T, strict=True))
    return lambda: _checked(teacher, outputs)


def _checked(teacher: Teacher, outputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    result = {name: np.asarray(column, dtype=np.float32) for name, column in outputs.items()}
    for name in teacher.dimensions:  # infinite stays, and is rejected
        result[name] = np.where(np.isinf(result[name]), np.nan, np.clip(result[name], 0.0, 1.0))
    return result


def licensed(teacher: Teacher) -> list[dict[str, Any]]:
    """The entries of a teacher in a provenance; an ensemble has one per member."""
    if hasattr(teacher, "provenance"):
        return list(teacher.provenance())
    return [entry(teacher)]


def entry(teacher: Teacher) -> dict[str, Any]:
    """The entry of one teacher in a provenance."""
    own = {name: getattr(teacher, name) for name in ("name", "id", "revision", "licence")}
    return {**own, "invariances": sorted(teacher.invariances)}


def uses_text(teacher: Teacher) -> bool:
    """Whether the teacher takes transcripts as well as audio."""
    return getattr(teacher, "context", None) is not None


def runs_in_workers(teacher: Teacher) -> bool:
    """Whether each worker process gets a copy of the teacher."""
    return bool(getattr(teacher, "in_workers", False))
