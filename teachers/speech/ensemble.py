"""The mean of several teachers; the paper's teacher is the mean of wavlm and wav2vec2."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from wav2small.dimensions import DIMENSIONS
from wav2small.errors import Wav2SmallError
from wav2small.teachers import base as teacher
from wav2small.teachers import registry
from wav2small.teachers.base import ByColumns, Teacher

PAPER = ("wavlm", "wav2vec2")


class Ensemble(ByColumns):
    """Weighted mean of teachers, for each dimension over those members that judge it.

    Args:
        members: as for `load_teacher`; the same teacher twice is an error of the user's
        weights: one per member, a positive number, or (arousal, dominance, valence) of which some
            may be 0; None = all the same
        options: of the members

    Raises:
        Wav2SmallError: no members, other weights than members, another sampling rate, a dimension
            whose members all have weight 0

    Example:
        >>> Ensemble(["acoustic", "acoustic"], [(1, 1, 0), (0, 0, 1)]).weights
        [(1.0, 1.0, 0.0), (0.0, 0.0, 1.0)]
    """

    name = "ensemble"

    def __init__(
        self,
        members: Sequence[str | Teacher] | None = None,
        weights: Sequence[float | Sequence[float]] | None = None,
        **options: Any,
    ):
        specs = list(members or PAPER)
        weights = [1.0] * len(specs) if weights is None else weights
        if len(weights) != len(specs):
            raise Wav2SmallError(
                f"--weights: {len(weights)} weights for {len(specs)} members; give one for each"
            )
        self.weights = _shares(weights)
        self.members = [registry.load_teacher(spec, **options) for spec in specs]
        for member in self.members:
            if teacher.uses_text(member):
                raise Wav2SmallError(
                    f"ensemble: {member.id} uses text as well as audio; label with it alone"
                )
        rates = {member.sampling_rate for member in self.members}
        if len(rates) > 1:
            raise Wav2SmallError(f"ensemble: members want {sorted(rates)} Hz; give one rate")
        self.sampling_rate = rates.pop()
        judged = {name for member in self.members for name in member.dimensions}
        self.dimensions = tuple(name for name in DIMENSIONS if name in judged)
        pairs = list(zip(self.members, self.weights, strict=True))
        for name in self.dimensions:
            index = DIMENSIONS.index(name)
            if not any(weight[index] for member, weight in pairs if name in member.dimensions):
                raise Wav2SmallError(f"--weights: no member that judges {name} has a weight for it")
        self.invariances = frozenset.intersection(*(m.invariances for m in self.members))
        self.in_workers = all(teacher.runs_in_workers(member) for member in self.members)
        self.id = "ensemble:" + ",".join(f"{member.id}={_text(weight)}" for member, weight in pairs)
        revisions = "\n".join(f"{member.id} {member.revision}" for member in self.members)
        self.revision = "sha256:" + hashlib.sha256(revisions.encode()).hexdigest()
        self.licence = " AND ".join(dict.fromkeys(member.licence for member in self.members))

    def predict_columns(self, batch: np.ndarray, lengths: np.ndarray) -> dict[str, np.ndarray]:
        """Weighted means of every column that members offer, each clipped to 0..1 before."""
        sums: dict[str, np.ndarray] = {}
        totals: dict[str, float] = {}
        for member, weight in zip(self.members, self.weights, strict=True):
            for name, values in teacher.columns(member, batch, lengths).items():
                if values.ndim > 1:
                    continue  # embeddings of several models have no mean
                mean = sum(weight) / len(weight)
                own = dict(zip(DIMENSIONS, weight, strict=True)).get(name, mean)
                sums[name] = sums.get(name, 0.0) + own * values.astype(np.float64)
                totals[name] = totals.get(name, 0.0) + own
        return {name: values / totals[name] for name, values in sums.items()}

    def provenance(self) -> list[dict[str, Any]]:
        """One entry for each member, with its weight."""
        entries = []
        for member, weight in zip(self.members, self.weights, strict=True):
            shown = weight[0] if len(set(weight)) == 1 else list(weight)
            entries += [{**entry, "weight": shown} for entry in teacher.licensed(member)]
        return entries


def _shares(weights: Sequence[float | Sequence[float]]) -> list[tuple[float, ...]]:
    """Weights of each member for arousal, dominance, valence; those of a dimension sum to 1."""
    table = []
    for weight in weights:
        row = np.asarray(weight, np.float64)
        if row.size not in (1, len(DIMENSIONS)):
            raise Wav2SmallError(f"--weights {weight}: give one number, or three as 1/1/0.5")
        if not (np.isfinite(row).all() and (row >= 0).all() and row.any()):
            raise Wav2SmallError("--weights: every weight must be above 0")
        table.append(np.broadcast_to(row.ravel(), len(DIMENSIONS)))
    totals = np.sum(table, axis=0)
    return [tuple((row / np.where(totals > 0, totals, 1.0)).tolist()) for row in table]


def _text(weight: tuple[float, ...]) -> str:
    same = len(set(weight)) == 1
    return "/".join(f"{share:.6g}" for share in (weight[:1] if same else weight))
