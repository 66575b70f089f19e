"""Variants: augmented copies of a clip, each a pure function of the clip and a seed.

A label table keeps the seed of each variant (0 = the clip as it is); the student later gets the
same samples, made again from the same clip, seed and folders. The order of what happens to the
sound is nature's: the manner of speaking (`wav2small.voice`), the speaker's size, pauses, another
voice, the room, its noise, the microphone, the channel, the volume control.

What a variant's label is true of, by `VariantSettings.targets`:

* "heard": the teacher labels the variant itself.
* "clean": the teacher labels the clip after the first step only. A voice that was changed gets a
  label of its own; the size of the speaker, noise, rooms, channels and levels, through which people
  still perceive the same emotion, do not move it.
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
RECIPES = "4"  # part of the digest; raise it when a seed comes to mean something else
TARGETS = ("heard", "clean")
_USED_S = 60.0  # seconds of a noise or mixture file that are used
_CHECKED = 200  # files of a folder that are read before a run begins

# How often each operation happens, and between which bounds, uniformly distributed; chosen.
_SIZE = (0.4, -4.0, 4.0)  # semitones; pitch and vocal tract move together
_STRETCH = (0.5, 0.7, 1.4)  # factor of the duration
_EFFORT = (0.4, -6.0, 6.0)  # dB per octave
_DYNAMICS = (0.3, 0.6, 1.6)  # exponent of the loudness contour
_INTONATION = (0.4, 0.3, 2.2)  # factor of F0's range
_MIXTURE = (0.3, 5.0, 20.0)  # dB by which the clip is louder than the other voice
_PAUSE = (0.4, 0.0, 1.5)  # s before the voice, and as much or less or more after it
_ROOM = 0.4
_REVERBERATION = (0.15, 0.9), (-6.0, 12.0)  # of made rooms: 60 dB time in s, direct sound in dB
_NOISE = (0.7, 5.0, 35.0)  # signal-to-noise ratio in dB
_FLOOR = (45.0, 80.0)  # dB by which the noise of a quiet recording is softer than the clip
_COLOUR = (0.0, 2.0)  # of made noise: power falls with frequency ** -colour, white to brown;
# half of it has less than .5, since hiss changes the most for a network
_WIND = (0.05, 0.0, 20.0)  # dB
_MICROPHONE = (0.35, -3.0, 3.0), (20.0, 500.0)  # dB per octave; Hz of the high-pass
_LOW_PASS = (2500.0, 7000.0)  # Hz
_TELEPHONE = (300.0, 3400.0)  # Hz
_RATES = (8000, 8000, 11025, 12000)  # Hz, of recordings and of 8-bit mu-law codecs
#: Channels and how often each is met; the rest of the variants has the full band.
CHANNELS = {
    "low_pass": 0.12,
    "telephone": 0.08,
    "rate": 0.10,
    "mu_law": 0.06,
    "gsm": 0.06,
    "opus8": 0.015,
    "opus16": 0.025,
}
_OFFSET = (0.1, 0.005)  # direct current of cheap converters, of full scale
_CLIP = (0.05, 0.3, 0.9)  # of the peak, at which the converter cuts
_GAIN = (-40.0, 6.0)  # dB, always


@dataclass(frozen=True)
class VariantSettings:
    """Folders that variants are made with; `digest` pins what is in them.

    The fields stand under `variants` in the provenance
    of a label table.
    """

    noise: str | None = None
    rooms: str | None = None
    mixture: str | None = None
    targets: str = "heard"
    digest: str | None = None


@dataclass(frozen=True)
class Recipe:
    """What a seed does to a clip; None = that step is left out."""

    size: float | None  # semitones
    stretch: float | None
    effort: float | None  # dB per octave
    dynamics: float | None
    intonation: float | None
    mixture: tuple[float, float, float] | None  # which file, where in it (0..1), dB
    pause: tuple[float, float] | None  # s before, s after
    room: tuple[float, float, float] | None  # which file, 0..1; of a made room: s, dB
    noise: tuple[float, float, float] | None  # which file, where in it, dB
    floor_db: float  # of the recording, where there is no other noise
    colour: float
    wind_db: float | None
    microphone: tuple[float, float] | None  # dB per octave, Hz
    channel: str | None  # of `CHANNELS`
    low_pass_hz: float
    rate: int
    offset: float | None
    clip: float | None
    gain_db: float


def settings(
    *,
    noise: str | None = None,
    rooms: str | None = None,
    mixture: str | None = None,
    targets: str = "heard",
) -> VariantSettings:
    """Check the folders and pin their listing.

    Args:
        noise: folder of background noise; None = coloured noise is made
        rooms: folder of room impulse responses; None = rooms are made
        mixture: folder of other voices; None = no mixtures
        targets: what the labels of variants are true of, "heard" or "clean"; see the module

    Raises:
        Wav2SmallError: a folder without audio, a file in it that cannot be read, other targets

    Example:
        >>> settings().noise is None  # coloured noise is made
        True
    """
    if targets not in TARGETS:
        raise Wav2SmallError(f"--targets {targets}: give {' or '.join(TARGETS)}")
    folders = {"noise": noise, "rooms": rooms, "mixture": mixture}
    chosen = {name: os.path.abspath(folder) for name, folder in folders.items() if folder}
    for folder in chosen.values():
        files = _files(folder)
        for file in files[:: max(1, len(files) // _CHECKED)]:
            _load(file)
    digest = _digest(*(chosen.get(name) for name in folders))
    return VariantSettings(**chosen, targets=targets, digest=digest)


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


def recipe(seed: int, *, mixture: bool = False) -> Recipe:
    """What a seed does; a pure function.

    Args:
        seed: above 0
        mixture: whether there are other voices

    Example:
        >>> recipe(4).channel
        'mu_law'
    """
    # Raw words of the generator are the same in all versions of numpy; its distributions are not.
    raw = np.random.PCG64(seed).random_raw(40) >> np.uint64(11)
    draw = iter((raw * 2.0**-53).tolist())

    def happens(share: float) -> bool:
        return next(draw) < share

    def between(low: float, high: float) -> float:
        return low + (high - low) * next(draw)

    def maybe(share: float, low: float, high: float) -> float | None:
        chosen, value = happens(share), between(low, high)
        return value if chosen else None

    # Every draw is made, needed or not: a step keeps its numbers when another one is left out.
    size, stretch = maybe(*_SIZE), maybe(*_STRETCH)
    effort, dynamics, intonation = maybe(*_EFFORT), maybe(*_DYNAMICS), maybe(*_INTONATION)
    other = happens(_MIXTURE[0]), (next(draw), next(draw), between(*_MIXTURE[1:]))
    room = happens(_ROOM), (next(draw), between(*_REVERBERATION[0]), between(*_REVERBERATION[1]))
    noise = happens(_NOISE[0]), (next(draw), next(draw), between(*_NOISE[1:]))
    colour = _COLOUR[0] + (_COLOUR[1] - _COLOUR[0]) * next(draw) ** 2
    wind_db = maybe(*_WIND)
    microphone = (
        happens(_MICROPHONE[0][0]),
        (between(*_MICROPHONE[0][1:]), between(*_MICROPHONE[1])),
    )
    place, channel = next(draw), None
    for name, share in CHANNELS.items():
        if channel is None and place < share:
            channel = name
        place -= share
    low_pass_hz, rate = between(*_LOW_PASS), _RATES[int(next(draw) * len(_RATES))]
    offset, cut = maybe(_OFFSET[0], -_OFFSET[1], _OFFSET[1]), maybe(*_CLIP)
    gain_db = between(*_GAIN)
    pause = happens(_PAUSE[0]), (between(*_PAUSE[1:]), between(*_PAUSE[1:]))
    return Recipe(
        size=size,
        stretch=stretch,
        effort=effort,
        dynamics=dynamics,
        intonation=intonation,
        mixture=other[1] if other[0] and mixture else None,
        pause=pause[1] if pause[0] else None,
        room=room[1] if room[0] else None,
        noise=noise[1] if noise[0] else None,
        floor_db=between(*_FLOOR),
        colour=colour,
        wind_db=wind_db,
        microphone=microphone[1] if microphone[0] else None,
        channel=channel,
        low_pass_hz=low_pass_hz,
        rate=rate,
        offset=offset,
        clip=cut,
        gain_db=gain_db,
    )


def variant(
    signal: np.ndarray, seed: int, settings: VariantSettings | None = None, *, part: str = "all"
) -> np.ndarray:
    """Make a variant of a clip.

    Args:
        signal: float32 (samples,) at 16 kHz
        seed: 0 = the clip as it is
        settings: of `settings`; None = no folders. Its `digest` is checked where it has one
        part: "all"; "voice", the manner of speaking only; or "channel", all others

    Returns:
        float32 (.7 to 1.4 times the samples, up to 3 s more,), peak at most 1

    Raises:
        Wav2SmallError: a folder is missing or is not what it was

    Example:
        >>> signal = audio.read("speech.wav")
        >>> bool((variant(signal, 7) == variant(signal, 7)).all())
        True
    """
    if seed == 0:
        return signal
    made_with = settings or VariantSettings()
    noise, rooms, mixture = made_with.noise, made_with.rooms, made_with.mixture
    digest = made_with.digest
    if digest is not None and digest != _digest(noise, rooms, mixture):
        folders = ", ".join(folder for folder in (noise, rooms, mixture) if folder) or "the recipes"
        raise Wav2SmallError(
            f"variants: {folders}: not what was labelled; bring the files back or label again"
        )
    steps = recipe(seed, mixture=mixture is not None)
    sound = signal.astype(np.float64)
    if part != "channel":
        sound = _voice(sound, steps)
    if part != "voice":
        sound = _surroundings(sound, steps, seed, noise=noise, rooms=rooms, mixture=mixture)
        sound = _channel(sound, steps)
    if not np.abs(sound).max() > 0:  # a transformed clip that fell silent teaches nothing
        return signal
    return (sound / max(1.0, float(np.abs(sound).max()))).astype(np.float32)


def _voice(sound: np.ndarray, steps: Recipe) -> np.ndarray:
    """The first step: the words are spoken otherwise."""
    from . import voice

    if steps.stretch:
        sound = voice.stretch(sound, steps.stretch)
    if steps.intonation:
        sound = voice.intonation(sound, steps.intonation)
    if steps.effort:
        sound = voice.effort(sound, steps.effort)
    if steps.dynamics:
        sound = voice.dynamics(sound, steps.dynamics)
    return sound


def _surroundings(
    sound: np.ndarray,
    steps: Recipe,
    seed: int,
    *,
    noise: str | None,
    rooms: str | None,
    mixture: str | None,
) -> np.ndarray:
    """Speaker, pauses, other voices, the room and its noise."""
    from . import voice

    if steps.size:
        sound = voice.shift(sound, steps.size)
    if steps.pause:
        before, after = (round(pause * RATE) for pause in steps.pause)
        sound = np.pad(sound, (before, after))
    if steps.mixture and mixture:
        other = _excerpt(mixture, len(sound), *steps.mixture[:2])
        sound = operations.add(sound, other, steps.mixture[2])
    if steps.room:
        which, time_s, direct_db = steps.room
        if rooms:
            response = _load(_pick(rooms, which))
        else:
            response = operations.decaying_noise(_white(seed, round(time_s * RATE), 2), direct_db)
            response[0] = 1.0
        sound = operations.reverberate(sound, response)
    if steps.noise:
        if noise:
            background = _excerpt(noise, len(sound), *steps.noise[:2])
        else:
            background = operations.coloured_noise(_white(seed, len(sound)), steps.colour)
        sound = operations.add(sound, background, steps.noise[2])
    else:
        floor = operations.coloured_noise(_white(seed, len(sound)), steps.colour)
        sound = operations.add(sound, floor, steps.floor_db)
    if steps.wind_db is not None:
        sound = operations.wind(sound, _white(seed, len(sound), 3), steps.wind_db)
    return sound


def _channel(sound: np.ndarray, steps: Recipe) -> np.ndarray:
    """Microphone, band limits, codecs, converter and volume control."""
    if steps.microphone:
        sound = operations.microphone(sound, *steps.microphone)
    if steps.channel == "low_pass":
        sound = operations.band(sound, 0.0, steps.low_pass_hz)
    elif steps.channel == "telephone":
        sound = operations.band(sound, *_TELEPHONE)
    elif steps.channel == "rate":
        sound = operations.narrow(sound, steps.rate)
    elif steps.channel == "mu_law":
        sound = operations.mu_law(sound, steps.rate)
    elif steps.channel:
        sound = operations.telephone_codec(sound, steps.channel)
    if steps.clip:
        limit = steps.clip * np.abs(sound).max()
        sound = np.clip(sound, -limit, limit)
    sound = sound * 10 ** (steps.gain_db / 20)
    return sound + steps.offset if steps.offset else sound


def read(
    file: str | os.PathLike[str],
    *,
    start_s: float = 0.0,
    end_s: float | None = None,
    variant: int = 0,
    settings: VariantSettings = VariantSettings(),
    sampling_rate: int = RATE,
    channel: int | None = None,
    labelled: bool = False,
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
        labelled: read what the teacher labels, as in `settings.targets`, not what the
            student gets

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
    part = "voice" if labelled and settings.targets == "clean" else "all"
    signal = _variant(signal, variant, settings, part=part)
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


def _white(seed: int, samples: int, stream: int = 1) -> np.ndarray:
    """Uniform white noise, -1..1; every stream of a seed is another one."""
    raw = np.random.PCG64(seed).jumped(stream).random_raw(samples) >> np.uint64(11)
    return raw * 2.0**-52 - 1
