"""Made noises: what reaches a hearing aid besides speech, as pure functions of a random generator.

All numbers are chosen by listening and by what instruments, dishes and machines do. Nothing is
recorded.
"""

from __future__ import annotations

import numpy as np

from wav2small import operations

RATE = operations.RATE
SCALES = (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10)  # semitones, major and minor
NYQUIST = 7800.0  # Hz, of the highest partial


def noise(samples: int, rng: np.random.Generator) -> np.ndarray:
    """One or two made noises at once, power about 1, steady or swelling.

    Example:
        >>> noise(1600, np.random.default_rng(0)).shape
        (1600,)
    """
    total = np.zeros(samples)
    kinds, every = (coloured, impacts, music, hum, narrow), RATE // 4
    for _ in range(rng.integers(1, 3)):
        make = kinds[int(rng.choice(5, p=(0.3, 0.2, 0.3, 0.1, 0.1)))]
        sound = make(samples, rng)
        if rng.random() < 0.4:
            knots = rng.uniform(0.05, 1, samples // every + 2) ** 2
            sound = sound * np.interp(np.arange(samples) / every, np.arange(len(knots)), knots)
        total += operations.scaled(sound, rng.uniform(0.04, 1), 0.0)
    return total


def coloured(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Noise from white to brown."""
    return operations.coloured_noise(rng.standard_normal(samples), rng.uniform(0, 2))


def narrow(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Noise of one band."""
    low = rng.uniform(50, 2500)
    high = min(7500.0, low * rng.uniform(1.3, 6))
    return operations.band(rng.standard_normal(samples), low, high)


def hum(samples: int, rng: np.random.Generator) -> np.ndarray:
    """A machine: partials of a slowly wandering tone of 45 to 500 Hz."""
    time = np.arange(samples) / RATE
    wander = 1 + rng.uniform(0, 0.3) * np.sin(2 * np.pi * rng.uniform(0.05, 0.6) * time)
    phase = 2 * np.pi * np.cumsum(rng.uniform(45, 500) * wander) / RATE
    rolloff = rng.uniform(0, 1.5)
    partials = range(1, int(rng.integers(2, 16)))
    return sum((k**-rolloff * np.sin(k * phase + rng.uniform(0, 6)) for k in partials), 0 * time)


def impacts(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Dishes, doors, keys: a click and up to five decaying resonances, .5 to 5 times a second."""
    sound = np.zeros(samples)
    for _ in range(1 + rng.poisson(samples / RATE * rng.uniform(0.5, 5))):
        time = np.arange(int(rng.uniform(0.03, 0.5) * RATE)) / RATE
        hit = rng.standard_normal(len(time)) * np.exp(-time * rng.uniform(60, 400))
        for _ in range(rng.integers(1, 6)):
            ring = np.sin(2 * np.pi * rng.uniform(300, 6000) * time)
            hit += rng.uniform(0.2, 1) * ring * np.exp(-time * rng.uniform(8, 120))
        _add(sound, hit * rng.uniform(0.1, 1), int(rng.integers(samples)))
    return sound


def music(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Chords of plucked or held tones on a beat, often with drums."""
    sound = np.zeros(samples)
    beat = int(RATE * 60 / rng.uniform(60, 180))
    root, scale = rng.uniform(80, 260), SCALES[int(rng.integers(2))]
    partials, rolloff = int(rng.integers(2, 9)), rng.uniform(0.4, 1.6)
    decay, drums = rng.uniform(0.5, 6), rng.random() < 0.6
    for start in range(0, samples, beat):
        for _ in range(rng.integers(1, 5)):
            semitones = scale[int(rng.integers(7))] + 12 * int(rng.integers(3))
            time = np.arange(int(beat * rng.choice([0.5, 1, 2]))) / RATE
            phase = 2 * np.pi * root * 2 ** (semitones / 12) * time
            if rng.random() < 0.3:
                phase = phase * (1 + 0.004 * np.sin(2 * np.pi * 5 * time))
            tone = np.zeros(len(time))
            for k in range(1, partials + 1):
                if k * root * 2 ** (semitones / 12) < NYQUIST:
                    tone += k**-rolloff * np.sin(k * phase + rng.uniform(0, 6))
            attack = np.minimum(1, time / rng.uniform(0.003, 0.08))
            _add(sound, rng.uniform(0.3, 1) * tone * attack * np.exp(-time * decay), start)
        for place in (start, start + beat // 2) if drums else ():
            time = np.arange(int(0.15 * RATE)) / RATE
            snare = rng.standard_normal(len(time)) * np.exp(-time * 40)
            bass = np.sin(2 * np.pi * 60 * time) * np.exp(-time * 20)
            _add(sound, rng.uniform(0.2, 2) * (snare if rng.random() < 0.5 else bass), place)
    return sound


def _add(sound: np.ndarray, part: np.ndarray, start: int) -> None:
    """Add a part to a sound, in place; what is beyond its end is lost."""
    room = sound[start : start + len(part)]
    room += part[: len(room)]
