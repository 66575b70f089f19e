"""WAV files of 16-bit samples, the most frequent kind, which need no decoder."""

from __future__ import annotations

import struct
from typing import IO

import numpy as np

_HEAD = 4096  # bytes that are searched for the samples
_CHANNELS = 1024  # the most that libsndfile takes


class PlainWav:
    """Such a file, with what is used of `soundfile.SoundFile`, which takes three times as long.

    Args:
        file: open, without a buffer
        start: place of the first sample
        frames: this and the others are those of `SoundFile`
    """

    subtype = "PCM_16"

    def __init__(self, file: IO[bytes], start: int, frames: int, channels: int, samplerate: int):
        self._file, self._start = file, start
        self.frames, self.channels, self.samplerate = frames, channels, samplerate
        self.close = file.close
        self.seek(0)

    def seek(self, frame: int) -> None:
        """Go to a sample."""
        self._file.seek(self._start + 2 * self.channels * frame)

    def read(self, frames: int, dtype: str = "int16", always_2d: bool = True) -> np.ndarray:
        """The next samples, int16 (frames, channels)."""
        samples = np.fromfile(self._file, dtype="<i2", count=frames * self.channels)
        whole = len(samples) // self.channels * self.channels  # fewer if the file became shorter
        return samples[:whole].reshape(-1, self.channels)


def open_plain(path: str, size: int) -> PlainWav | None:
    """Open such a file; None = any other, or one whose header is not exactly right.

    Args:
        path: of a file that is there
        size: its bytes

    Raises:
        OSError: it cannot be opened

    Example:
        >>> import os, soundfile
        >>> soundfile.write("plain.wav", np.zeros(16000), 16000)  # of 16 bits
        >>> open_plain("plain.wav", os.path.getsize("plain.wav")).frames
        16000
        >>> open_plain("speech.wav", os.path.getsize("speech.wav"))  # of floats
    """
    file = open(path, "rb", buffering=0)
    layout = _layout(file.read(_HEAD), size)
    if layout is None:
        file.close()
        return None
    return PlainWav(file, *layout)


def _layout(head: bytes, size: int) -> tuple[int, int, int, int] | None:
    """Place of the samples, frames, channels and rate, where the samples end with the file."""
    if head[:4] != b"RIFF" or head[8:16] != b"WAVEfmt " or len(head) < 44:
        return None
    length, coding, channels, rate, per_second, width, bits = struct.unpack("<IHHIIHH", head[16:36])
    if (coding, bits, width, per_second) != (1, 16, 2 * channels, rate * width):
        return None
    if not 0 < channels <= _CHANNELS or length not in (16, 18):
        return None
    at = 20 + length
    while len(head) - at >= 8:
        name, length = head[at : at + 4], int.from_bytes(head[at + 4 : at + 8], "little")
        at += 8
        if name == b"data":
            fits = at + length == size and length % width == 0
            return (at, length // width, channels, rate) if fits else None
        if name == b"fmt " or not name.strip().isalnum():
            return None
        at += length + (length & 1)
    return None
