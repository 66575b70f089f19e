"""Reading audio: what libsndfile or PyAV reads, any rate, one channel out, float32 in -1..1."""

from __future__ import annotations

import os
import stat
import warnings
from typing import Any

import numpy as np

from wav2small.errors import AudioError, SilentError

from . import containers, media, places, progress, wav

SAMPLING_RATE = 16000  # Hz; the rate of every student and teacher
LOWEST_RATE, HIGHEST_RATE = 4000, 768000  # Hz; other numbers are no rate of recorded speech
LARGEST = 1e6  # of a sample: the square of larger ones can overflow, and none was recorded
UNSCALED = 16.0  # larger ones are integers that somebody forgot to scale
LIMITED = "band_limited"  # column of tables
UPPER_DB = -50.0  # of the upper octave; see `is_band_limited`
_FRAME, _FRAMES = 512, 100  # samples, and most frames that are looked at
_WINDOW = np.hanning(_FRAME).astype(np.float32)
_VOICE, _UPPER = slice(7, 109), slice(192, 241)  # bins of 31.25 Hz: .2..3.4 and 6..7.5 kHz
SILENT = "digital silence"  # in the message of every `SilentError`
MP3_PADDING = 3000  # samples that an encoder adds at most and a decoder takes away
_LFS_POINTER = b"version https://git-lfs"  # what Git leaves in place of a large file

MIN_DURATION_S = 0.1  # shorter clips hold less than one syllable

#: Endings that a folder is searched for, lower case; those of `media` are searched for, too.
EXTENSIONS = frozenset(
    ".wav .flac .ogg .oga .opus .mp3 .aif .aiff .aifc .au .caf .w64 .rf64 .sph .snd".split()
)


def read(
    file: str | os.PathLike[str],
    *,
    start_s: float = 0.0,
    end_s: float | None = None,
    sampling_rate: int = SAMPLING_RATE,
    channel: int | None = None,
) -> np.ndarray:
    """Read a clip; only the asked part of the file is decoded.

    Args:
        file: path of the audio file
        start_s: start of the clip in seconds
        end_s: end of the clip in seconds, None = end of the file
        sampling_rate: rate of the result in Hz (resampled with soxr, HQ)
        channel: number of the channel to take, from 0; None = mean of all

    Returns:
        signal, float32 (samples,), full scale = -1..1

    Raises:
        AudioError: no such file, not audio, broken, empty, shorter than 0.1 s, one value
            throughout (`SilentError`), NaN or infinite samples

    Example:
        >>> read("speech.wav", start_s=0.5, end_s=1.5).shape
        (16000,)
    """
    with Recording(file) as recording:
        return recording.read(
            start_s=start_s, end_s=end_s, sampling_rate=sampling_rate, channel=channel
        )


class Recording:
    """An audio file that is open, for several clips of it.

    Args:
        file: path of the audio file

    Attributes:
        duration: in seconds

    Raises:
        AudioError: no such file, not audio, broken

    Example:
        >>> with Recording("speech.wav") as recording:
        ...     print(recording.duration, recording.read(start_s=1.5).shape)
        2.0 (8000,)
    """

    def __init__(self, file: str | os.PathLike[str]):
        self._file = file
        self._sound = _open(file)
        self.duration: float = self._sound.frames / self._sound.samplerate

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *exception: object) -> None:
        self._sound.close()

    def read(
        self,
        *,
        start_s: float = 0.0,
        end_s: float | None = None,
        sampling_rate: int = SAMPLING_RATE,
        channel: int | None = None,
    ) -> np.ndarray:
        """Read a clip of it; arguments, result and errors are those of the function `read`."""
        file, sound, total_s = self._file, self._sound, self.duration
        if sound.frames == 0:
            raise AudioError(f"{file}: no audio in it (0 samples); record or export it again")
        stop_s = total_s if end_s is None else min(end_s, total_s)
        where = f"{file}: {_span(start_s, end_s)}"
        held = f"but the file holds {total_s:.3f} s"
        if end_s is not None and end_s > total_s + 0.1:
            remedy = "correct `end` (in seconds; --time-unit ms), or the file is truncated"
            raise AudioError(f"{file}: the clip ends at {end_s:.3f} s {held}; {remedy}")
        if not start_s >= 0 or (end_s is not None and not end_s > start_s):
            raise AudioError(f"{where}no such part; `start` must be 0 or later and `end` after it")
        if start_s >= total_s:
            remedy = "correct `start` (in seconds; --time-unit ms)"
            raise AudioError(f"{file}: the clip starts at {start_s:.3f} s {held}; {remedy}")
        start = round(start_s * sound.samplerate)
        frames = round(stop_s * sound.samplerate) - start
        if frames / sound.samplerate < MIN_DURATION_S:
            held_s = max(frames, 0) * 1000 // sound.samplerate / 1000
            needed = f"at least {MIN_DURATION_S} s are needed"
            raise AudioError(f"{where}{held_s:.3f} s of audio is too short; {needed}")
        if channel is not None and not 0 <= channel < sound.channels:
            there = f"it has {sound.channels}, counted from 0"
            raise AudioError(f"{file}: no channel {channel}; {there}")
        channels = _decode(sound, file, start, frames)
        mixed = channel is None and channels.shape[1] > 1
        signal = channels.mean(axis=1) if mixed else channels[:, channel or 0]
        if sound.subtype != "PCM_16" and (problem := impossible(signal, f"{file}: ")):
            raise AudioError(f"{where}{problem}; export it again as PCM")
        if constant(signal):
            if np.ptp(channels, axis=0).any():
                raise AudioError(
                    f"{where}the mean of its {sound.channels} channels is silent: they cancel each "
                    "other; choose one with predict --channel 0, or write one into a file"
                )
            value = f"{signal[0]:.3g} throughout" if signal[0] else "only zeros"
            raise SilentError(f"{where}{value} ({SILENT}); leave it out")
        if sound.samplerate != sampling_rate:
            import soxr

            signal = soxr.resample(signal, sound.samplerate, sampling_rate)
        return np.ascontiguousarray(signal, dtype=np.float32)


def impossible(samples: np.ndarray, where: str = "") -> str:
    """Why samples cannot be audio: NaN, infinite, or far beyond -1..1; "" if they can.

    Samples that look like integers which were not scaled are warned about: `where` they are.

    Example:
        >>> impossible(np.array([0.5, 1e18]))
        'a sample of 1e+18 (full scale is 1)'
    """
    largest = np.maximum(float(samples.max(initial=0)), -float(samples.min(initial=0)))
    if not largest < np.inf:
        return "NaN or infinite samples"
    if largest > LARGEST:
        return f"a sample of {largest:.3g} (full scale is 1)"
    if largest > UNSCALED:
        warnings.warn(
            f"{where}samples up to {largest:.3g}, but full scale is 1: integers that were not "
            "scaled?",
            stacklevel=3,
        )
    return ""


def constant(signal: np.ndarray) -> bool:
    """Whether a signal is one value throughout.

    Example:
        >>> constant(np.zeros(1600)), constant(np.arange(1600))
        (True, False)
    """
    return bool(signal[0] == signal[len(signal) // 2] and not np.ptp(signal))


def duration(file: str | os.PathLike[str]) -> float:
    """Duration of an audio file in seconds, from its header.

    Raises:
        AudioError: no such file, not audio

    Example:
        >>> duration("speech.wav")
        2.0
    """
    with Recording(file) as recording:
        return recording.duration


def is_band_limited(signal: np.ndarray) -> bool:
    """Whether a signal has nothing in the upper octave, as of a telephone or a low sampling rate.

    The loudest 5 % of the frames are compared, in 6..7.5 kHz and .2..3.4 kHz. Recordings at 16 kHz
    are above -43 dB (Emo-DB, RAVDESS and two other corpora, 212 clips), the same clips through 8
    and 11 kHz below -54 dB.

    Args:
        signal: (samples,) at 16 kHz

    Example:
        >>> noise = np.random.default_rng(0).normal(size=16000)
        >>> is_band_limited(noise)
        False
    """
    frames = signal[: len(signal) // _FRAME * _FRAME].reshape(-1, _FRAME)
    if not len(frames):
        return False
    limit = 10 ** (UPPER_DB / 10)
    # Most clips show enough in an eighth of the frames, those that change most, the consonants.
    # No bin of the voice has more than half of what the window leaves of the loudest frame.
    power = np.einsum("ij,ij->i", frames, frames)
    changes = power - np.einsum("ij,ij->i", frames[:, 1:], frames[:, :-1])
    some = len(frames) // -8
    upper = _power(frames[changes.argpartition(some)[some:]])[:, _UPPER].mean(axis=0).max()
    if upper > limit * power.max() * np.square(_WINDOW).sum() / 2:
        return False
    frames = np.lib.stride_tricks.sliding_window_view(signal, _FRAME)[:: _FRAME // 2]
    frames = frames[:: -(-len(frames) // _FRAMES)]
    most = max(1, len(frames) // 20)
    loudest = np.partition(_power(frames), -most, axis=0)[-most:].mean(axis=0)
    return bool(loudest[_UPPER].max() < limit * loudest[_VOICE].max())


def note_limited(count: int, total: int, what: str, where: str = f" (`{LIMITED}`)") -> None:
    """The line about audio that `is_band_limited`, on stderr; none where there is none.

    Example:
        >>> note_limited(0, 10, "rows")
    """
    if count:
        progress.note(
            f"{count} of {total} {what} have nothing above 6 kHz{where}: a model that was not "
            "trained on telephone audio can be far off there"
        )


def _power(frames: np.ndarray) -> np.ndarray:
    return np.square(np.abs(np.fft.rfft(frames * _WINDOW, axis=1)))


def _span(start_s: float, end_s: float | None) -> str:
    if start_s == 0 and end_s is None:
        return ""
    return f"from {start_s:.3f} s to {'the end' if end_s is None else f'{end_s:.3f} s'}: "


def _open(file: str | os.PathLike[str]) -> Any:
    import soundfile

    path = places.local(os.fspath(file))
    try:
        state = os.stat(path)
        if stat.S_ISFIFO(state.st_mode):
            remedy = "write it into a file (predict --follow - takes raw samples)"
            raise AudioError(f"{path}: a pipe, which cannot be read twice; {remedy}")
        if state.st_size == 0:
            raise AudioError(f"{path}: the file is empty (0 bytes); copy or record it again")
        plain = wav.open_plain(path, state.st_size)
        found = containers.Contents() if plain else containers.contents(path, state)
    except FileNotFoundError as error:
        near = places.nearest(path)
        raise AudioError(f"{path}: no such file{near}; correct the path or --root") from error
    except IsADirectoryError as error:
        raise AudioError(f"{path}: a folder, not an audio file") from error
    except PermissionError as error:
        raise AudioError(f"{path}: no permission to read it; try chmod +r") from error
    except (OSError, ValueError) as error:  # a loop of links, a name too long, a NUL in it
        reason = getattr(error, "strerror", None) or str(error)
        raise AudioError(f"{path!r}: no such file ({reason}); correct the path") from error
    if found.problem:
        raise AudioError(f"{path}: {found.problem}")
    try:
        whole = containers.Patched(path, *found.patch) if found.patch else path
        sound = plain or soundfile.SoundFile(whole)
    except TypeError as error:  # libsndfile takes the ending .raw for samples without a header
        raise AudioError(
            f"{path}: samples without a header; convert it: ffmpeg -f s16le -ar 16000 -ac 1 "
            f'-i "{path}" "{os.path.splitext(path)[0]}.wav"'
        ) from error
    except (RuntimeError, OSError, ValueError) as error:  # libsndfile's are of the first
        if media.is_media(path):
            return soundfile.SoundFile(media.decoded(path))
        with open(path, "rb") as content:
            if content.read(len(_LFS_POINTER)) == _LFS_POINTER:
                raise AudioError(f"{path}: a pointer of Git LFS; fetch it: git lfs pull") from error
        target = os.path.splitext(path)[0] + (".flac" if path.lower().endswith(".wav") else ".wav")
        raise AudioError(
            f'{path}: not audio, or damaged; convert it: ffmpeg -i "{path}" "{target}"'
        ) from error
    if not LOWEST_RATE <= sound.samplerate <= HIGHEST_RATE:
        sound.close()
        remedy = f"{LOWEST_RATE} to {HIGHEST_RATE} are read: correct its header, or export it again"
        raise AudioError(f"{path}: a sampling rate of {sound.samplerate} Hz; {remedy}")
    promised_s = sound.frames / sound.samplerate
    slack_s = containers.SLACK_S + MP3_PADDING / sound.samplerate
    if found.seconds is not None and abs(promised_s - found.seconds) > slack_s:
        sound.close()
        raise AudioError(
            f"{path}: truncated, or joined from several, or without a table of its length: "
            f"its header promises {promised_s:.3f} s of audio, its frames hold {found.seconds:.3f} "
            f's; write it again: ffmpeg -i "{path}" "{os.path.splitext(path)[0]}.wav"'
        )
    return sound


def _decode(sound: Any, file: str | os.PathLike[str], start: int, frames: int) -> np.ndarray:
    try:
        if start:
            sound.seek(start)
        kind = "int16" if sound.subtype == "PCM_16" else "float32"  # libsndfile scales slowly
        signal = sound.read(frames, dtype=kind, always_2d=True)  # (frames, channels)
    except (RuntimeError, OSError) as error:  # libsndfile's are of the former
        raise AudioError(f"{file}: damaged or truncated ({error}); copy it again") from error
    # Headers of MP3 and Ogg files estimate the length; more than .1 s missing is a torn file.
    if len(signal) < frames - 0.1 * sound.samplerate or len(signal) == 0:
        found_s, asked_s = (count / sound.samplerate for count in (len(signal), frames))
        found = f"{found_s:.3f} s could be decoded of {asked_s:.3f} s"
        raise AudioError(f"{file}: truncated: {found}; copy it again")
    return signal * np.float32(1 / 32768) if kind == "int16" else signal
