"""Variants: augmented copies of a clip, each a pure function of the clip and a seed.

A label is only true of the audio that its teacher labelled. So a label table keeps the seed of each
variant (0 = the clip as it is); the teacher labels `variant(signal, seed)`, and the student later
gets the same samples, made again from the same clip, seed and folders. The order of what
happens to the sound is nature's: the voice, another voice, the room, its noise, the channel, the
volume control.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from wav2small.errors import AudioError, Wav2SmallError

from . import audio, operations

RATE = audio.SAMPLING_RATE  # variants are made at this rate, whatever rate the teacher takes
RECIPES = "1"  # part of the digest; raise it when a seed comes to mean something else
_USED_S = 60.0  # seconds of a noise or mixture file that are used
_CHECKED = 200  # files of a folder that are read before a run begins

# How often each operation happens, and between which bounds, uniformly distributed; chosen.
_SPEED = (0.3, 0.9, 1.1)  # factor; pitch moves along
_MIXTURE = (0.3, 5.0, 20.0)  # dB by which the clip is louder than the other voice
_ROOM = 0.4
_NOISE = (0.7, 5.0, 35.0)  # signal-to-noise ratio in dB
_COLOUR = (0.0, 2.0)  # of made noise: power falls with frequency ** -colour, white to brown
_LOW_PASS = (0.15, 3000.0, 7000.0)  # Hz
_TELEPHONE = 0.1, (300.0, 3400.0)  # Hz
_CODEC = 0.15, (8000, 11025, 12000)  # rates in Hz
_GAIN = (-18.0, 6.0)  # dB, always


@dataclass(frozen=True)
class Settings:
    """Folders that variants are made with; `digest` pins what is in them.

    The fields are keyword arguments of `variant`, and stand under `variants` in the provenance
    of a label table.
    """

    noise: str | None = None
    rooms: str | None = None
    mixture: str | None = None
    digest: str | None = None


@dataclass(frozen=True)
class Recipe:
    """What a seed does to a clip; None = that step is left out."""

    speed: float | None
    mixture: tuple[float, float, float] | None  # which file, where in it (0..1), dB
    room: float | None  # which file, 0..1
    noise: tuple[float, float, float] | None  # which file, where in it, dB
    colour: float
    band_hz: tuple[float, float] | None
    codec_hz: int | None
    gain_db: float


def settings(
    *, noise: str | None = None, rooms: str | None = None, mixture: str | None = None
) -> Settings:
    """Check the folders and pin their listing.

    Args:
        noise: folder of background noise; None = coloured noise is made
        rooms: folder of room impulse responses; None = no rooms
        mixture: folder of other voices; None = no mixtures

    Raises:
        Wav2SmallError: a folder without audio, or a file in it that cannot be read

    Example:
        >>> settings().noise is None  # coloured noise is made
        True
    """
    folders = {"noise": noise, "rooms": rooms, "mixture": mixture}
    chosen = {name: os.path.abspath(folder) for name, folder in folders.items() if folder}
    for folder in chosen.values():
        files = _files(folder)
        for file in files[:: max(1, len(files) // _CHECKED)]:
            _load(file)
    return Settings(**chosen, digest=_digest(*(chosen.get(name) for name in folders)))


def seeds(file: str, start: int, end: int | None, copies: int) -> list[int]:
    """Seeds of the variants of a clip: above 0, the same on every machine.

    Args:
        file: as in the index
        start: nanoseconds
        end: nanoseconds, None = to the end of the file
        copies: how many

    Example:
        >>> seeds("a.wav", 0, None, copies=2) == seeds("a.wav", 0, None, copies=2)
        True
    """
    found: dict[int, None] = {}
    attempt = 0
    while len(found) < copies:
        key = f"{file}\0{start}\0{end}\0{attempt}".encode(errors="surrogateescape")
        digest = hashlib.blake2b(key, digest_size=4).digest()
        found[1 + int.from_bytes(digest, "big") % (2**31 - 1)] = None
        attempt += 1
    return list(found)


def recipe(seed: int, *, rooms: bool = False, mixture: bool = False) -> Recipe:
    """What a seed does; a pure function.

    Args:
        seed: above 0
        rooms: whether there are room impulse responses
        mixture: whether there are other voices

    Example:
        >>> recipe(5).codec_hz
        12000
    """
    # Raw words of the generator are the same in all versions of numpy; its distributions are not.
    raw = np.random.PCG64(seed).random_raw(18) >> np.uint64(11)
    draw = iter((raw * 2.0**-53).tolist())

    def happens(share: float) -> bool:
        return next(draw) < share

    def between(low: float, high: float) -> float:
        return low + (high - low) * next(draw)

    # Every draw is made, needed or not: a step keeps its numbers when another one is left out.
    speed = happens(_SPEED[0]), between(*_SPEED[1:])
    voice = happens(_MIXTURE[0]), (next(draw), next(draw), between(*_MIXTURE[1:]))
    room = happens(_ROOM), next(draw)
    noise = happens(_NOISE[0]), (next(draw), next(draw), between(*_NOISE[1:]))
    colour = between(*_COLOUR)
    channel = next(draw)
    low_pass_hz = between(*_LOW_PASS[1:])
    codec_hz = _CODEC[1][int(next(draw) * len(_CODEC[1]))]
    gain_db = between(*_GAIN)
    band_hz = None
    if channel < _LOW_PASS[0]:
        band_hz = (0.0, low_pass_hz)
    elif channel < _LOW_PASS[0] + _TELEPHONE[0]:
        band_hz = _TELEPHONE[1]
    return Recipe(
        speed=speed[1] if speed[0] else None,
        mixture=voice[1] if voice[0] and mixture else None,
        room=room[1] if room[0] and rooms else None,
        noise=noise[1] if noise[0] else None,
        colour=colour,
        band_hz=band_hz,
        codec_hz=codec_hz if channel > 1 - _CODEC[0] else None,
        gain_db=gain_db,
    )


def variant(
    signal: np.ndarray,
    seed: int,
    *,
    noise: str | None = None,
    rooms: str | None = None,
    mixture: str | None = None,
    digest: str | None = None,
) -> np.ndarray:
    """Make a variant of a clip.

    Args:
        signal: float32 (samples,) at 16 kHz
        seed: 0 = the clip as it is
        noise: folder, see `settings`
        rooms: folder
        mixture: folder
        digest: what the folders held when the teacher labelled the variant; None = not checked

    Returns:
        float32 (.9 to 1.12 times the samples,), peak at most 1

    Raises:
        Wav2SmallError: a folder is missing or is not what it was

    Example:
        >>> signal = audio.read("speech.wav")
        >>> bool((variant(signal, 7) == variant(signal, 7)).all())
        True
    """
    if seed == 0:
        return signal
    if digest is not None and digest != _digest(noise, rooms, mixture):
        folders = ", ".join(folder for folder in (noise, rooms, mixture) if folder) or "the recipes"
        raise Wav2SmallError(
            f"variants: {folders}: not what was labelled; bring the files back or label again"
        )
    steps = recipe(seed, rooms=rooms is not None, mixture=mixture is not None)
    sound = signal.astype(np.float64)
    if steps.speed:
        sound = operations.resample(sound, RATE * steps.speed, RATE)
    if steps.mixture and mixture:
        voice = _excerpt(mixture, len(sound), *steps.mixture[:2])
        sound = operations.add(sound, voice, steps.mixture[2])
    if steps.room is not None and rooms:
        sound = operations.reverberate(sound, _load(_pick(rooms, steps.room)))
    if steps.noise:
        if noise:
            background = _excerpt(noise, len(sound), *steps.noise[:2])
        else:
            background = operations.coloured_noise(_white(seed, len(sound)), steps.colour)
        sound = operations.add(sound, background, steps.noise[2])
    if steps.band_hz:
        sound = operations.band(sound, *steps.band_hz)
    if steps.codec_hz:
        sound = operations.mu_law(sound, steps.codec_hz)
    sound = sound * 10 ** (steps.gain_db / 20)
    return (sound / max(1.0, float(np.abs(sound).max()))).astype(np.float32)


def read(
    file: str | os.PathLike[str],
    *,
    start_s: float = 0.0,
    end_s: float | None = None,
    variant: int = 0,
    settings: Settings = Settings(),
    sampling_rate: int = RATE,
    channel: int | None = None,
) -> np.ndarray:
    """Read the signal of a row of a label table: its clip, or its variant of the clip.

    Args:
        file: path of the audio file
        start_s: start of the clip in seconds
        end_s: end of the clip in seconds, None = end of the file
        variant: seed, 0 = the clip as it is
        settings: of the variants
        sampling_rate: of the result, in Hz
        channel: see `audio.read`

    Raises:
        AudioError: the clip cannot be used
        Wav2SmallError: a folder of `settings` cannot

    Example:
        >>> read("speech.wav", variant=0).shape
        (32000,)
    """
    if not variant:
        return audio.read(
            file, start_s=start_s, end_s=end_s, sampling_rate=sampling_rate, channel=channel
        )
    signal = audio.read(file, start_s=start_s, end_s=end_s, channel=channel)
    signal = _variant(signal, variant, **vars(settings))
    if sampling_rate != RATE:
        signal = operations.resample(signal, RATE, sampling_rate)
    return signal


_variant = variant  # `read` has an argument of that name


def _files(folder: str) -> list[str]:
    return [file for file, _ in _listing(folder)]


@lru_cache(maxsize=8)
def _listing(folder: str) -> tuple[tuple[str, int], ...]:
    """(path, bytes) of the audio in a folder, in the same order everywhere."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if os.path.splitext(name)[1].lower() in audio.EXTENSIONS and not name.startswith("."):
                path = os.path.join(parent, name)
                found.append((path, os.path.getsize(path)))
    if not found:
        raise Wav2SmallError(f"{folder}: no audio in this folder for variants; name another one")
    return tuple(sorted(found, key=lambda entry: os.path.relpath(entry[0], folder)))


@lru_cache(maxsize=8)
def _digest(*folders: str | None) -> str:
    digest = hashlib.sha256(RECIPES.encode())
    for folder in folders:
        digest.update(b"\0folder\0")
        for path, size in _listing(folder) if folder else ():
            name = os.path.relpath(path, folder).replace(os.sep, "/")
            digest.update(f"{name}\0{size}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()


@lru_cache(maxsize=32)
def _load(file: str) -> np.ndarray:
    try:
        end_s = min(_USED_S, audio.duration(file))
        return audio.read(file, end_s=end_s).astype(np.float64)
    except AudioError as error:
        raise Wav2SmallError(f"variants: {error}; or take the file out of its folder") from error


def _pick(folder: str, which: float) -> str:
    files = _files(folder)
    return files[int(which * len(files))]


def _excerpt(folder: str, samples: int, which: float, where: float) -> np.ndarray:
    """`samples` of a file of the folder; a shorter file is repeated."""
    return operations.excerpt(_load(_pick(folder, which)), samples, where)


def _white(seed: int, samples: int) -> np.ndarray:
    """Uniform white noise, -1..1."""
    raw = np.random.PCG64(seed).jumped().random_raw(samples) >> np.uint64(11)
    return raw * 2.0**-52 - 1
