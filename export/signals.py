"""Test signals that break careless arithmetic: computed, never stored, the same everywhere."""

from __future__ import annotations

import numpy as np

from wav2small.audio import SAMPLING_RATE


def signals() -> dict[str, np.ndarray]:
    """Silence, constants, clipping, a synthetic voice ...: float32 (samples,) at 16 kHz, by name.

    Example:
        >>> made = signals()
        >>> len(made["silence"]), float(made["constant"].max())
        (16000, 0.25)
    """
    second = np.arange(SAMPLING_RATE) / SAMPLING_RATE
    voice = np.tile(_voice(2 * SAMPLING_RATE), 30)
    made = {
        "silence": np.zeros(SAMPLING_RATE),
        "constant": np.full(SAMPLING_RATE, 0.25),
        "offset": 0.5 + 0.1 * voice[:SAMPLING_RATE],
        "clipping": np.clip(20 * voice[: 2 * SAMPLING_RATE], -1, 1),
        "quiet": 1e-4 * voice[: 2 * SAMPLING_RATE],
        "tone": 0.5 * np.sin(2 * np.pi * 440 * second),
        "click": np.eye(1, SAMPLING_RATE, 4000)[0],
        "noise": _noise(SAMPLING_RATE),
        "voice": voice[: 2 * SAMPLING_RATE],
        "short (0.1 s)": voice[3000:4600],
        "long (60 s)": voice,
    }
    return {name: signal.astype(np.float32) for name, signal in made.items()}


def _voice(samples: int) -> np.ndarray:
    """A buzzing vowel in syllables, in -.5...5."""
    time = np.arange(samples) / SAMPLING_RATE
    phase = 2 * np.pi * (140 * time + 3 * np.sin(2 * np.pi * 2.5 * time))
    buzz = sum(np.sin(order * phase) / order for order in range(1, 25))
    syllables = np.sin(np.pi * 3.5 * time) ** 2
    return 0.3 * buzz * syllables + 0.005 * _noise(samples)


def _noise(samples: int) -> np.ndarray:
    """Uniform noise in -1..1 from a counter; numpy's generators may change between versions."""
    counter = np.arange(1, samples + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    counter ^= counter >> np.uint64(31)
    counter *= np.uint64(0xBF58476D1CE4E5B9)
    counter ^= counter >> np.uint64(29)
    return (counter >> np.uint64(11)).astype(np.float64) / 2**52 - 1
