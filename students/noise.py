"""What clips get anew in every epoch, under unchanged labels: speakers, rooms, noise, bands.

A network learns by heart what is the same in every epoch, the noise of variants too. Half of the
noises are coloured, from white to brown and most of them near white; the others are babble, one to
six clips of the training set. A quarter of either is one short event that dies away. All numbers
are chosen.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

import numpy as np

from wav2small import operations, voice

SNR_DB = (5.0, 40.0)  # the clip's power over the noise's; of an event, where it begins
BABBLE = 0.5  # share of the noises
VOICES = 6  # of a babble, at most
EVENTS = 0.25  # share of the noises that are one sound, not all the time
EVENT_S = (0.01, 0.3)  # in which an event falls by a factor of e
REVERBERATION_S, DIRECT_DB = (0.1, 0.9), (-6.0, 12.0)  # of a room: 60 dB, direct over reflected
BANDS_HZ, COLOUR_DB = (100.0, 300.0, 800.0, 2000.0, 4000.0, 8000.0), 9.0  # of a room, at most
SEMITONES = (-4.0, 4.0)  # of a speaker's size, as of variants (`wav2small.augmentation`)
LOW_HZ, HIGH_HZ = (100.0, 350.0), (3200.0, 7500.0)  # ends of a narrow band
TELEPHONES = 0.6  # share of the bands that have a lower end
COLOURS, SAMPLES = 33, 1 << 18  # of made noise


def room(signal: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A clip across a made room: reflections, and the colour of distance, walls and microphone.

    Args:
        signal: float32 (samples,)
        generator: all that is drawn comes from it

    Example:
        >>> room(np.ones(100, np.float32), np.random.default_rng(0)).shape
        (100,)
    """
    samples = int(generator.uniform(*REVERBERATION_S) * operations.RATE)
    white = generator.standard_normal(samples)
    response = operations.decaying_noise(white, generator.uniform(*DIRECT_DB))
    response[0] += 1.0
    size = 1 << (samples - 1).bit_length()
    octaves = np.log2(np.maximum(np.fft.rfftfreq(size, 1 / operations.RATE), BANDS_HZ[0]))
    colour_db = np.interp(octaves, np.log2(BANDS_HZ), generator.uniform(-1, 1, len(BANDS_HZ)))
    colour = 10 ** (generator.uniform(0, COLOUR_DB) * colour_db / 20)
    response = np.fft.irfft(np.fft.rfft(response, size) * colour, size)
    return operations.reverberate(signal, response).astype(np.float32)


def size(signal: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A clip by a smaller or larger speaker: pitch and vocal tract move, the duration stays.

    Args:
        signal: float32 (samples,)
        generator: all that is drawn comes from it

    Example:
        >>> size(np.ones(16000, np.float32), np.random.default_rng(0)).shape
        (16000,)
    """
    return voice.shift(signal, generator.uniform(*SEMITONES)).astype(np.float32)


def band(signal: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """What a telephone or a low sampling rate leaves of a clip.

    Args:
        signal: float32 (samples,)
        generator: all that is drawn comes from it

    Example:
        >>> band(np.ones(100, np.float32), np.random.default_rng(0)).shape
        (100,)
    """
    low_hz = generator.uniform(*LOW_HZ) if generator.random() < TELEPHONES else 0.0
    return operations.band(signal, low_hz, generator.uniform(*HIGH_HZ)).astype(np.float32)


def add(
    signal: np.ndarray,
    generator: np.random.Generator,
    others: Callable[[int], Iterable[np.ndarray]],
) -> np.ndarray:
    """A clip with noise.

    Args:
        signal: float32 (samples,)
        generator: all that is drawn comes from it
        others: gives that many other clips

    Example:
        >>> clip = np.ones(100, np.float32)
        >>> add(clip, np.random.default_rng(0), lambda count: [clip] * count).shape
        (100,)
    """
    size, ratio_db = len(signal), generator.uniform(*SNR_DB)
    if generator.random() < BABBLE:
        noise = np.zeros(size)
        for clip in others(int(generator.integers(1, VOICES + 1))):
            other = operations.excerpt(clip, size, generator.random())
            noise += operations.scaled(other, 1.0, 0.0)
    else:
        made = _made()[int(generator.integers(COLOURS))]
        noise = operations.excerpt(made, size, generator.random())
    noise = operations.scaled(noise, operations.power(signal), ratio_db)
    if generator.random() < EVENTS:
        age = np.arange(size) - generator.integers(size)
        fall = generator.uniform(*EVENT_S) * operations.RATE
        noise *= np.where(age >= 0, np.exp(-np.maximum(age, 0) / fall), 0)
    return (signal + noise).astype(np.float32)


@functools.cache
def _made() -> list[np.ndarray]:
    """Noise of every colour; the same for a network as if it were made each time."""
    generator = np.random.default_rng(0)
    colours = np.linspace(0, 2, COLOURS) ** 1.5
    return [
        operations.coloured_noise(generator.uniform(-1, 1, SAMPLES), colour).astype(np.float32)
        for colour in colours
    ]
