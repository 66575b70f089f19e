"""What a student learns from: targets out of a label table, and batches of clips.

Everything random is a function of (seed, epoch, row), never of what was drawn before: a run that
was killed resumes exactly where it was, and any number of processes and threads give the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wav2small import augmentation as variants
from wav2small.audio import SAMPLING_RATE
from wav2small.dimensions import DIMENSIONS
from wav2small.errors import AudioError, Wav2SmallError
from wav2small.index import KEYS, fingerprint
from wav2small.tables import Labels
from wav2small.training.clips import Clips, prepared

from . import noise
from .config import Config

#: Batches that are sorted by length together: enough to save padding, few enough to mix lengths.
BUCKET_BATCHES = 8
#: Settings that change a clip and not its label, another way in every epoch (`noise`).
DISTURBANCES = ("noise_probability", "room_probability", "band_probability", "size_probability")
#: Begins the names of the columns with a teacher's probabilities of categories.
PROBABILITY = "probability_"


def targets(
    table: Labels, config: Config, source: str, online: Any
) -> tuple[list[str], np.ndarray]:
    """Names of the categories to learn, and the targets of all clips: (clips, 3 + K).

    Where the table holds categories alone, the first three targets are 0 and serve nothing.

    Raises:
        Wav2SmallError: there are none, or nothing that could teach them
    """
    if not config.categories:
        if config.student_options.get("categories"):
            raise Wav2SmallError("student_options: categories are learned with --categories")
        return [], table.values
    if online is not None:
        raise Wav2SmallError("--categories: learned from a label table only; leave out --online")
    columns = [name for name in map(str, table.frame) if name.startswith(PROBABILITY)]
    if len(columns) < 2:
        raise Wav2SmallError(
            f"--categories: {source or 'the table'} has no columns {PROBABILITY}NAME; label with a "
            "teacher of categories (`wav2small finetune --categories COLUMN`)"
        )
    probabilities = table.frame[columns].to_numpy(np.float64)
    names = [name.removeprefix(PROBABILITY) for name in columns]
    values = table.values if table.dimensions else np.zeros((len(table.frame), len(DIMENSIONS)))
    return names, np.hstack([values, probabilities])


def variant_settings(config: Config, table: Labels, *, fresh: bool) -> Mapping[str, Any]:
    """What variants are made with: as the table's were, or as asked for with a teacher online."""
    if fresh and (config.noise or config.rooms):
        return vars(variants.settings(noise=config.noise or None, rooms=config.rooms or None))
    return table.provenance.get("variants") or {}


def disturbances(config: Config) -> list[dict[str, str]]:
    """Folders that variants for a teacher online are made with, for the provenance."""
    named = (
        {"source": config.noise, "licence": config.noise_licence, "role": "noise"},
        {"source": config.rooms, "licence": config.rooms_licence, "role": "rooms"},
    )
    return [entry for entry in named if entry["source"]]


def invariances(provenance: Mapping[str, Any]) -> frozenset[str]:
    """Changes of the audio that no teacher of a label table reacts to, such as {"gain"}."""
    sets = [set(teacher.get("invariances", ())) for teacher in provenance.get("teachers", ())]
    return frozenset(set.intersection(*sets)) if sets else frozenset()


def constant(labels: np.ndarray) -> np.ndarray:
    """Which dimensions have labels that do not vary: (clips, 3) -> (3,) bool.

    Raises:
        Wav2SmallError: all of them

    Example:
        >>> constant(np.array([[0.1, 0.5, 0.3], [0.2, 0.5, 0.4]]))
        array([False,  True, False])
    """
    same = np.ptp(labels, axis=0) < 1e-6
    if same.all():
        raise Wav2SmallError(
            "all labels are the same in every dimension: nothing to learn; label other audio"
        )
    return same


def digest(table: Labels, categories: list[str], train: np.ndarray, valid: np.ndarray) -> str:
    """Hash of what is learned: clips, labels, split."""
    columns = [*KEYS, *table.dimensions] + (["variant"] if "variant" in table.frame else [])
    columns += [PROBABILITY + name for name in categories]
    return fingerprint(table.frame[columns], train.astype(np.int64), valid.astype(np.int64))


@dataclass
class TrainingBatch:
    """One process's share of a step.

    With `consistency_weight` every second clip is the copy of the one before.

    Attributes:
        signal: (B, T) float32, zeros behind the end of each clip
        lengths: (B,) int64, samples
        labels: (B, 3) float32, with categories (B, 3 + K)
        rows: (B,) rows of the label table
    """

    signal: Tensor
    lengths: Tensor
    labels: Tensor
    rows: np.ndarray


@dataclass
class Batcher:
    """Makes the batches of every epoch.

    Attributes:
        clips: audio
        labels: (clips, 3) of the full table, with categories (clips, 3 + K)
        rows: rows to take
        config: batch size, crop, gain, probabilities, seed and threads, all resolved
        rank: number of this process
        size: number of processes
        teacher: predicts the labels of the batch itself; None = labels of the table, and no
            `augment_probability`
    """

    clips: Clips
    labels: np.ndarray
    rows: np.ndarray
    config: Config
    rank: int = 0
    size: int = 1
    teacher: Any = None
    _took_s: list[float] = field(default_factory=list, init=False)  # for a batch of this epoch

    @property
    def crop(self) -> int:
        """Longest part of a clip in samples, 0 = full clips."""
        return round(self.config.crop_s * SAMPLING_RATE)

    @property
    def loading_s(self) -> float:
        """Processor seconds that a batch of this epoch takes before it gets to the network."""
        return float(np.mean(self._took_s or [0.0]))

    @property
    def steps(self) -> int:
        """Steps per epoch."""
        return -(-len(self.rows) // self.config.batch_size)

    def plan(self, epoch: int) -> list[np.ndarray]:
        """Rows of every global batch of an epoch; all batches are full.

        Clips of similar length meet in a batch, so that little of it is padding. The last batch
        is filled up from the start of the order: no clip is left out.
        """
        generator = np.random.default_rng([self.config.seed, epoch])
        batch_size = self.config.batch_size
        order = np.resize(generator.permutation(self.rows), self.steps * batch_size)
        lengths = self.clips.lengths[order]
        if self.crop:
            lengths = np.minimum(lengths, self.crop)
        bucket = BUCKET_BATCHES * batch_size
        batches: list[np.ndarray] = []
        for first in range(0, len(order), bucket):
            part = slice(first, first + bucket)
            ranked = order[part][np.argsort(lengths[part], kind="stable")]
            batches += np.split(ranked, len(ranked) // batch_size)
        return [batches[number] for number in generator.permutation(len(batches))]

    def epoch(self, epoch: int, *, first: int = 0) -> Iterator[TrainingBatch]:
        """Batches of an epoch from step `first` on, prepared ahead by threads."""
        plan, self._took_s = self.plan(epoch)[first:], []
        return prepared(lambda rows: self.load(rows, epoch), plan, workers=self.config.workers)

    def load(self, rows: np.ndarray, epoch: int) -> TrainingBatch:
        """This process's share of a global batch."""
        began = time.thread_time()
        signals, taken = [], []
        for row in rows[self.rank :: self.size]:
            row, signal = self._readable(int(row))
            altered = self._alter(signal, row, epoch)
            signals += altered
            taken += [row] * len(altered)
        if self.teacher is not None:
            # The teacher labels what is left, so nothing need be padded.
            shortest = min(map(len, signals))
            signals = [signal[:shortest] for signal in signals]
        batch = collate(signals, self.labels, np.array(taken))
        if self.teacher is not None:
            predicted = self.teacher.predict(batch.signal.numpy(), batch.lengths.numpy())
            batch.labels = torch.from_numpy(np.clip(predicted, 0, 1).astype(np.float32))
        self._took_s.append(time.thread_time() - began)
        return batch

    def _readable(self, row: int) -> tuple[int, np.ndarray]:
        """A clip that cannot be decoded is replaced by the next one, the same in every epoch."""
        for _ in range(len(self.rows)):
            try:
                return row, self.clips.signal(row)
            except AudioError as error:
                self.clips.rejected[self.clips.files[row]] = str(error)
                place = int(np.searchsorted(self.rows, row)) + 1
                row = int(self.rows[place % len(self.rows)])
        raise Wav2SmallError("none of the clips can be read; correct the paths or --root")

    def _others(self, count: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
        for row in generator.choice(self.rows, count):
            yield self._readable(int(row))[1]

    def _alter(self, signal: np.ndarray, row: int, epoch: int) -> list[np.ndarray]:
        """What a clip is in this epoch; with `consistency_weight` itself and a disturbed copy."""
        config, crop = self.config, self.crop
        generator = np.random.default_rng([config.seed, epoch, row])
        if self.teacher is not None and generator.random() < config.augment_probability:
            seed = int(generator.integers(1, 1 << 31))
            signal = variants.variant(signal, seed, self.clips.settings)
        if crop and len(signal) > crop:
            start = generator.integers(len(signal) - crop + 1)
            signal = signal[start : start + crop]
        plain = [self._gain(signal, generator)] if config.consistency_weight else []
        if config.size_probability and generator.random() < config.size_probability:
            signal = noise.size(signal, generator)
        if config.room_probability and generator.random() < config.room_probability:
            signal = noise.room(signal, generator)
        if config.noise_probability and generator.random() < config.noise_probability:
            signal = noise.add(signal, generator, lambda count: self._others(count, generator))
        if config.band_probability and generator.random() < config.band_probability:
            signal = noise.band(signal, generator)
        return [*plain, self._gain(signal, generator)]

    def _gain(self, signal: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        if not self.config.gain_db:
            return signal
        gain_db = generator.uniform(-self.config.gain_db, self.config.gain_db)
        return signal * np.float32(10 ** (gain_db / 20))


def collate(signals: list[np.ndarray], labels: np.ndarray, rows: np.ndarray) -> TrainingBatch:
    """Pad signals with zeros to the longest of them.

    Example:
        >>> signals = [np.ones(3, np.float32), np.ones(2, np.float32)]
        >>> collate(signals, np.zeros((9, 3)), np.array([4, 5])).signal
        tensor([[1., 1., 1.],
                [1., 1., 0.]])
    """
    # Without torch: in a thread that prepares batches it would start compute threads of its own.
    lengths = np.array([len(signal) for signal in signals])
    padded = np.zeros((len(signals), lengths.max()), np.float32)
    for row, signal in zip(padded, signals, strict=True):
        row[: len(signal)] = signal
    return TrainingBatch(
        signal=torch.from_numpy(padded),
        lengths=torch.from_numpy(lengths),
        labels=torch.from_numpy(labels[rows].astype(np.float32)),
        rows=rows,
    )


def full_clips(
    clips: Clips,
    labels: np.ndarray,
    rows: np.ndarray,
    *,
    batch_samples: int = 1 << 19,
    workers: int = 0,
) -> Iterator[TrainingBatch]:
    """Full clips in order of length, in batches of at most `batch_samples` (one clip at least)."""
    order = rows[np.argsort(clips.lengths[rows], kind="stable")]
    groups: list[list[int]] = [[]]
    for row in map(int, order):
        if groups[-1] and (len(groups[-1]) + 1) * clips.lengths[row] > batch_samples:
            groups.append([])
        groups[-1].append(row)

    def batch(group: list[int]) -> TrainingBatch | None:
        signals = clips.readable(group, lambda place, row: clips.signal(row))
        return collate(list(signals.values()), labels, np.array(list(signals))) if signals else None

    yield from filter(None, prepared(batch, groups, workers=workers))
