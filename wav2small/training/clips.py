"""Clips of a label table: decoded when they are needed, and kept on disk (`cache`)."""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from wav2small import audio, places
from wav2small import augmentation as variants
from wav2small.errors import AudioError

from .cache import Cache
from .cache import key as cache_key

if TYPE_CHECKING:
    import pandas as pd

AHEAD = 4  # batches that are prepared ahead of the network

Item = TypeVar("Item")
Made = TypeVar("Made")


def prepared(
    make: Callable[[Item], Made], items: Iterable[Item], *, workers: int
) -> Iterator[Made]:
    """Make something of every item, in order, ahead of what consumes it.

    Args:
        make: called in threads
        items: such as the rows of each batch
        workers: threads; 0 = no thread and nothing ahead

    Example:
        >>> list(prepared(abs, [-1, 2, -3], workers=2))
        [1, 2, 3]
    """
    if workers == 0:
        yield from map(make, items)
        return
    waiting: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(make, item))
                if len(waiting) > max(AHEAD, workers):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


class Clips:
    """Clips of a label table, decoded when asked for.

    Args:
        frame: columns `file`, `start`, `end`, optionally `variant`
        root: folder that `file` is relative to
        cache: keeps what is decoded; None = nothing is kept
        made_with: how the label table's variants were made, by its provenance

    Attributes:
        rejected: {file: reason}
    """

    def __init__(
        self,
        frame: pd.DataFrame,
        root: str,
        *,
        cache: Cache | None = None,
        made_with: Mapping[str, Any] | None = None,
    ):
        self.files = [places.join(root, file) for file in frame["file"]]
        self.start_s = frame["start"].dt.total_seconds().to_numpy()
        self.end_s = frame["end"].dt.total_seconds().to_numpy()  # NaN = to the end
        self.variant = np.zeros(len(frame), dtype=np.int64)
        if "variant" in frame:
            self.variant = frame["variant"].to_numpy(dtype=np.int64)
        known = {item.name for item in dataclasses.fields(variants.VariantSettings)}
        own = {name: value for name, value in (made_with or {}).items() if name in known}
        self.settings = variants.VariantSettings(**own)
        self.cache = cache
        self.decoded = 0  # clips decoded so far, for tests of the cache
        self.rejected: dict[str, str] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.files)

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Samples at 16 kHz of every clip, (clips,); 0 where the file cannot be used."""
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
        """Samples of a clip, as the teacher labelled it: float32 (samples,) at 16 kHz.

        Raises:
            AudioError: the clip cannot be decoded
        """
        file, start_s, variant = self.files[row], float(self.start_s[row]), int(self.variant[row])
        end_s = None if np.isnan(self.end_s[row]) else float(self.end_s[row])
        made_with = (variants.RECIPES, self.settings) if variant else None
        key = cache_key(file, start_s, end_s, variant, made_with) if self.cache else None
        if self.cache and key and (cached := self.cache.load(key)) is not None:
            return cached
        signal = variants.read(
            file, start_s=start_s, end_s=end_s, variant=variant, settings=self.settings
        )
        with self._lock:
            self.decoded += 1
        if self.cache and key:
            self.cache.store(key, signal)
        return signal

    def readable(self, rows: Iterable[int], make: Callable[[int, int], Any]) -> dict[int, Any]:
        """What `make(place, row)` gives for the rows (all different) whose audio can be read."""
        found = {}
        for place, row in enumerate(map(int, rows)):
            try:
                found[row] = make(place, row)
            except AudioError as error:
                self.rejected[self.files[row]] = str(error)
        return found
