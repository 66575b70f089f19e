"""Which frames of a stream count: an energy gate, described in `wav2small.stream`."""

from __future__ import annotations

import numpy as np

from . import audio

FADE_DB = 1.0  # per second, of the loudest frame


class Gate:
    """Weights of frames: an energy gate with hysteresis, times a probability.

    Args:
        frame: samples per frame
        enabled: False = every frame counts
        open_db: this and the others are those of `stream.Stream`

    Example:
        >>> gate = Gate(160, True, -55.0, -61.0, 0.2, 30.0)
        >>> gate.push(np.full(320, 0.1), 1.0)
        >>> gate.take(2)
        array([1., 1.])
    """

    def __init__(
        self,
        frame: int,
        enabled: bool,
        open_db: float,
        close_db: float,
        hold: float,
        range_db: float,
    ):
        self.frame, self.enabled = frame, enabled
        self.open_power, self.close_power = 10 ** (open_db / 10), 10 ** (close_db / 10)
        self.range = 10 ** (-range_db / 10)
        self.keep = 10 ** (-FADE_DB / 10 * frame / audio.SAMPLING_RATE)
        self.hold = int(np.floor(hold * audio.SAMPLING_RATE / frame + 0.5))
        self.reset()

    def reset(self) -> None:
        self.open = False
        self.loudest = 0.0
        self.below = 0
        self.filled = 0
        self.energy = self.probability = 0.0
        self._weights: list[float] = []

    def push(self, samples: np.ndarray, probability: float) -> None:
        """Process samples of one probability."""
        squares = np.square(samples, dtype=np.float64)
        start = 0
        while start < len(samples):
            stop = min(start + self.frame - self.filled, len(samples))
            self.energy += float(squares[start:stop].sum())
            self.probability += probability * (stop - start)
            self.filled += stop - start
            start = stop
            if self.filled == self.frame:
                is_open = self._is_open(self.energy / self.frame)
                passed = is_open or not self.enabled
                self._weights.append(self.probability / self.frame if passed else 0.0)
                self.filled, self.energy, self.probability = 0, 0.0, 0.0

    def take(self, frames: int) -> np.ndarray:
        """Weights of the oldest frames that were not taken yet."""
        taken = np.array(self._weights[:frames])
        del self._weights[:frames]
        return taken

    def _is_open(self, power: float) -> bool:
        self.loudest = max(power, self.loudest * self.keep)
        level = max(self.open_power, self.loudest * self.range)
        if power >= level:
            self.open = True
        above = power >= level * (self.close_power / self.open_power)
        self.below = 0 if above else self.below + 1
        if self.below > self.hold:
            self.open = False
        return self.open
