"""Clips on their way into the network: decoded once, cut, levelled and batched ahead of it.

Everything random is a function of (seed, epoch, row), never of what was drawn before: a run that
was killed goes on exactly where it was, and any number of processes and threads hear the same.
"""

from __future__ import annotations

import dataclasses
import os
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from wav2small import audio
from wav2small import augmentation as variants
from wav2small.errors import AudioError, Wav2SmallError

if TYPE_CHECKING:
    import pandas as pd

#: Batches that are sorted by length together: enough to save padding, few enough to mix lengths.
BUCKET_BATCHES = 8
AHEAD = 4  # batches prepared ahead of the network


class Clips:
    """Clips of a label table, decoded when asked for and kept while memory allows.

    Args:
        frame: columns `file`, `start`, `end`, optionally `variant`
        root: folder that `file` is relative to
        cache_bytes: what decoded audio may take in memory; what comes first stays
        made_with: what the label table's provenance says about how its variants were made

    Attributes:
        lengths: (clips,) in samples at 16 kHz; 0 where the file cannot be read
        rejected: {file: reason}
    """

    def __init__(
        self,
        frame: pd.DataFrame,
        root: str,
        *,
        cache_bytes: int = 1 << 30,
        made_with: Mapping[str, Any] | None = None,
    ):
        self.files = [os.path.join(root, file) for file in frame["file"]]
        self.start_s = frame["start"].dt.total_seconds().to_numpy()
        self.end_s = frame["end"].dt.total_seconds().to_numpy()  # NaN = to the end
        self.variant = (
            frame["variant"].to_numpy(dtype=np.int64)
            if "variant" in frame
            else np.zeros(len(frame), dtype=np.int64)
        )
        self.settings = _settings(made_with or {})
        self.cache_bytes = cache_bytes
        self.cached_bytes = 0
        self.decoded = 0  # clips decoded so far, for tests of the cache
        self.rejected: dict[str, str] = {}
        self._cache: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()
        self.lengths = self._measure()

    def __len__(self) -> int:
        return len(self.files)

    def _measure(self) -> np.ndarray:
        durations: dict[str, float] = {}
        lengths = np.zeros(len(self), dtype=np.int64)
        for row, file in enumerate(self.files):
            if file not in durations:
                try:
                    durations[file] = audio.duration(file)
                except AudioError as error:
                    durations[file] = 0.0
                    self.rejected[file] = str(error)
            end_s = np.nan_to_num(self.end_s[row], nan=np.inf)
            duration_s = min(end_s, durations[file]) - self.start_s[row]
            lengths[row] = max(0, round(duration_s * audio.SAMPLING_RATE))
            if durations[file] and duration_s < audio.MIN_DURATION_S:
                self.rejected[file] = f"{file}: a clip of {duration_s:.3f} s is too short"
                lengths[row] = 0
        return lengths

    def signal(self, row: int) -> np.ndarray:
        """The samples the teacher heard, float32 (samples,).

        Raises:
            AudioError: the clip cannot be decoded
        """
        found = self._cache.get(row)
        if found is not None:
            return found
        end_s = None if np.isnan(self.end_s[row]) else float(self.end_s[row])
        signal = variants.read(
            self.files[row],
            start_s=float(self.start_s[row]),
            end_s=end_s,
            variant=int(self.variant[row]),
            settings=self.settings,
        )
        with self._lock:
            self.decoded += 1
            if self.cached_bytes + signal.nbytes <= self.cache_bytes and row not in self._cache:
                self._cache[row] = signal
                self.cached_bytes += signal.nbytes
        return signal


def _settings(provenance: Mapping[str, Any]) -> variants.Settings:
    known = {item.name for item in dataclasses.fields(variants.Settings)}
    return variants.Settings(**{k: v for k, v in provenance.items() if k in known})


@dataclass
class Batch:
    """One process's share of a step.

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
        labels: (clips, 3) of the whole table, with categories (clips, 3 + K)
        rows: rows to take
        batch_size: clips per step over all processes
        crop: longest piece in samples, 0 = whole clips
        gain_db: largest random gain, up or down
        seed: of order, place of the crop and gain
        workers: threads
        rank: number of this process
        size: number of processes
        teacher: asked for the labels of what is heard, instead of the table; None = the table
        augment_probability: share of clips that become a fresh variant each epoch; needs a teacher
    """

    clips: Clips
    labels: np.ndarray
    rows: np.ndarray
    batch_size: int
    crop: int = 0
    gain_db: float = 0.0
    seed: int = 0
    workers: int = 2
    rank: int = 0
    size: int = 1
    teacher: Any = None
    augment_probability: float = 0.0

    @property
    def steps(self) -> int:
        """Steps per epoch."""
        return -(-len(self.rows) // self.batch_size)

    def plan(self, epoch: int) -> list[np.ndarray]:
        """Rows of every global batch of an epoch; all batches are full.

        Clips of similar length meet in a batch, so that little of it is padding. The last batch
        is filled up from the start of the order: no clip is left out.
        """
        generator = np.random.default_rng([self.seed, epoch])
        order = generator.permutation(self.rows)
        order = np.resize(order, self.steps * self.batch_size)
        lengths = self.clips.lengths[order]
        if self.crop:
            lengths = np.minimum(lengths, self.crop)
        bucket = BUCKET_BATCHES * self.batch_size
        batches: list[np.ndarray] = []
        for first in range(0, len(order), bucket):
            part = slice(first, first + bucket)
            ranked = order[part][np.argsort(lengths[part], kind="stable")]
            batches += np.split(ranked, len(ranked) // self.batch_size)
        return [batches[number] for number in generator.permutation(len(batches))]

    def epoch(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        """Batches of an epoch from step `first` on, prepared ahead by threads."""
        plan = self.plan(epoch)[first:]
        if self.workers == 0:
            yield from (self.load(rows, epoch) for rows in plan)
            return
        waiting: deque[Future[Batch]] = deque()
        with ThreadPoolExecutor(self.workers) as pool:
            try:
                for rows in plan:
                    waiting.append(pool.submit(self.load, rows, epoch))
                    if len(waiting) > AHEAD:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def load(self, rows: np.ndarray, epoch: int) -> Batch:
        """This process's share of a global batch."""
        rows = rows[self.rank :: self.size]
        signals, taken = [], []
        for row in rows:
            row, signal = self._readable(int(row))
            signals.append(self._alter(signal, row, epoch))
            taken.append(row)
        if self.teacher is not None:
            # The teacher labels what is left, so nothing need be padded.
            shortest = min(map(len, signals))
            signals = [signal[:shortest] for signal in signals]
        batch = collate(signals, self.labels, np.array(taken))
        if self.teacher is not None:
            heard = self.teacher.predict(batch.signal.numpy(), batch.lengths.numpy())
            batch.labels = torch.from_numpy(np.clip(heard, 0, 1).astype(np.float32))
        return batch

    def _readable(self, row: int) -> tuple[int, np.ndarray]:
        """A clip that turns out broken is replaced by the next one, the same in every epoch."""
        for _ in range(len(self.rows)):
            try:
                return row, self.clips.signal(row)
            except AudioError as error:
                self.clips.rejected[self.clips.files[row]] = str(error)
                place = int(np.searchsorted(self.rows, row)) + 1
                row = int(self.rows[place % len(self.rows)])
        raise Wav2SmallError("none of the clips can be read; mend the paths or --root")

    def _alter(self, signal: np.ndarray, row: int, epoch: int) -> np.ndarray:
        generator = np.random.default_rng([self.seed, epoch, row])
        if self.teacher is not None and generator.random() < self.augment_probability:
            seed = int(generator.integers(1, 1 << 31))
            signal = variants.variant(signal, seed, **vars(self.clips.settings))
        if self.crop and len(signal) > self.crop:
            start = generator.integers(len(signal) - self.crop + 1)
            signal = signal[start : start + self.crop]
        if self.gain_db:
            gain_db = generator.uniform(-self.gain_db, self.gain_db)
            signal = signal * np.float32(10 ** (gain_db / 20))
        return signal


def collate(signals: list[np.ndarray], labels: np.ndarray, rows: np.ndarray) -> Batch:
    """Pad signals with zeros to the longest of them."""
    lengths = [len(signal) for signal in signals]
    padded = np.zeros((len(signals), max(lengths)), dtype=np.float32)
    for place, signal in zip(padded, signals, strict=True):
        place[: len(signal)] = signal
    return Batch(
        signal=torch.from_numpy(padded),
        lengths=torch.tensor(lengths),
        labels=torch.from_numpy(labels[rows].astype(np.float32)),
        rows=rows,
    )


def whole(
    clips: Clips, labels: np.ndarray, rows: np.ndarray, *, batch_samples: int = 1 << 21
) -> Iterator[Batch]:
    """Whole clips in order of length, in batches of at most `batch_samples` (one clip at least)."""
    order = rows[np.argsort(clips.lengths[rows], kind="stable")]
    group: list[int] = []
    for row in order:
        if group and (len(group) + 1) * clips.lengths[row] > batch_samples:
            yield from _read(clips, labels, group)
            group = []
        group.append(int(row))
    yield from _read(clips, labels, group)


def _read(clips: Clips, labels: np.ndarray, rows: list[int]) -> Iterator[Batch]:
    signals, taken = [], []
    for row in rows:
        try:
            signals.append(clips.signal(row))
            taken.append(row)
        except AudioError as error:
            clips.rejected[clips.files[row]] = str(error)
    if taken:
        yield collate(signals, labels, np.array(taken))
