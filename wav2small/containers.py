"""What an audio file promises against what it holds: cut, joined and streamed files.

libsndfile reads what a header promises, or as far as the file goes, and reports no truncation.
Here the parts of a container are counted without decoding them: chunks (WAV, RF64, W64, AIFF, SVX,
CAF, AU, AVR, VOC), pages (Ogg), frames (MP3, FLAC).
"""

from __future__ import annotations

import dataclasses
import functools
import mmap
import os
import re
import struct
from collections.abc import Callable, Iterator

from . import frames
from .frames import SLACK_S, TAGS, Bytes, Contents

UNKNOWN_BYTES = 4096  # may follow the samples where the bytes of a second are not known
_ID = re.compile(rb"[ -~]{4}")


def contents(path: str, state: os.stat_result | None = None) -> Contents:
    """Compare the header of an audio file with the file; repeated calls are free.

    Args:
        path: of a file that is there and not empty
        state: of the file, if known

    Raises:
        OSError: it cannot be opened

    Example:
        >>> contents("speech.wav")
        Contents(problem='', seconds=None, patch=None)
    """
    state = state or os.stat(path)
    return _contents(os.path.abspath(path), state.st_size, state.st_mtime_ns, state.st_ctime_ns)


@functools.lru_cache(maxsize=256)
def _contents(path: str, size: int, modified: int, changed: int) -> Contents:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return parse(data)


def parse(data: Bytes) -> Contents:
    """As `contents`, of bytes.

    Example:
        >>> parse(b"RIFF\\x24\\0\\0\\0WAVEfmt ").problem
        ''
    """
    start = data[:12]
    if start[:4] in (b"OggS", b"fLaC"):
        return frames.ogg(data) if start[:4] == b"OggS" else frames.flac(data)
    if reader := _CHUNKED.get(start[:4]):
        try:
            return reader(data)
        except (struct.error, ValueError):  # cut within the header: libsndfile rejects it
            return Contents()
    if start[:3] == b"ID3":
        at = frames.after_tags(data, 0)
        if data[at : at + 4] in (b"OggS", b"fLaC", *_CHUNKED):
            found = parse(data[at:])
            if found.patch:
                found = dataclasses.replace(found, patch=(found.patch[0] + at, found.patch[1]))
            return found
        return frames.mp3(data)
    return frames.mp3(data) if frames.mp3_frame(data, 0) else Contents()


def _samples(
    data: Bytes,
    start: int,
    claimed: int,
    per_second: float,
    after: Callable[[Bytes, int], int] = lambda _, at: at,
    patch_at: tuple[int, str] | None = None,
) -> Contents:
    """Compare the size that a header gives for its samples with the file.

    Args:
        data: the file
        start: where the samples begin
        claimed: their bytes according to the header, negative = not known
        per_second: bytes of a second of samples, 0 = not known
        after: from a place to the first one where no chunk begins
        patch_at: place of the size and its `struct` format, if it can be corrected
    """
    held = len(data) - start
    slack = SLACK_S * per_second

    def shown(size: int) -> str:
        return f"{size / per_second:.3f} s of audio" if per_second else f"{size:,} bytes"

    if claimed < 0 or (claimed > held and _is_marker(claimed)):
        return Contents()
    if claimed > held + slack:
        sizes = f"its header promises {shown(claimed)}, it holds {shown(held)}"
        return Contents(f"truncated: {sizes}; copy it again")
    rest = len(data) - after(data, start + claimed + (claimed & 1))
    if rest <= (slack or UNKNOWN_BYTES) or claimed > held:
        return Contents()
    if claimed == 0 and patch_at is not None:  # written to a pipe: nobody corrected the header
        place, kind = patch_at
        size = min(held, 256 ** struct.calcsize(kind) - 1)
        return Contents(patch=(place, struct.pack(kind, size)))
    sizes = f"its header promises {shown(claimed)}, but {shown(rest)} more may follow"
    return Contents(f"{sizes}; repair it, or convert its parts one by one")


def _is_marker(size: int) -> bool:
    """Whether a size stands for "not known yet", as programs write into pipes."""
    return 0x7FFFF000 <= size <= 0x80000024 or 0xFFFFF000 <= size <= 0xFFFFFFFF


def _skip(data: Bytes, at: int, kind: str) -> int:
    """The place after all complete chunks, whose sizes are of this kind, and tags from `at` on."""
    header = 4 + struct.calcsize(kind)
    while len(data) - at >= header and _ID.fullmatch(data[at : at + 4]):
        if data[at : at + 8].startswith(TAGS):
            return len(data)
        if data[at : at + 4] in _CHUNKED:
            break  # another file begins
        (size,) = struct.unpack(kind, data[at + 4 : at + header])
        if size < 0 or size > len(data) - at - header:
            break
        at += header + size + (size & 1 if header == 8 else 0)
    return len(data) if len(data) - at < header else at


def _chunks(data: Bytes, at: int, kind: str) -> Iterator[tuple[bytes, int, int]]:
    """Name, place of the contents and size of each chunk; those of 8-byte headers are even."""
    header = 4 + struct.calcsize(kind)
    while len(data) - at >= header:
        (size,) = struct.unpack(kind, data[at + 4 : at + header])
        yield data[at : at + 4], at + header, size
        if size < 0:
            break
        at += header + size + (size & 1 if header == 8 else 0)


def _wav(data: Bytes) -> Contents:
    per_second, long, long_at = 0, 0, 0
    order = ">" if data[:4] == b"RIFX" else "<"
    for name, at, size in _chunks(data, 12, order + "I"):
        if name == b"ds64":
            (long,), long_at = struct.unpack("<Q", data[at + 8 : at + 16]), at + 8
        elif name == b"fmt ":
            (per_second,) = struct.unpack(order + "I", data[at + 8 : at + 12])
        elif name == b"data":
            patch_at = (at - 4, "<I") if order == "<" and not long else None
            if long_at and size == 0xFFFFFFFF:
                size, patch_at = long % (2**64 - 1), (long_at, "<Q")  # of a pipe: 0, or all bits
            after = functools.partial(_skip, kind=order + "I")
            found = _samples(data, at, size, per_second, after, patch_at)
            if data[:4] == b"BW64":  # whose samples libsndfile finds under the name of RF64
                at, new = found.patch or (4, b"")
                found = dataclasses.replace(found, patch=(0, b"RF64" + data[4:at] + new))
            return found
    return Contents()


def _w64(data: Bytes) -> Contents:
    at, per_second = 40, 0
    while len(data) - at >= 24:
        name, (size,) = data[at : at + 4], struct.unpack("<q", data[at + 16 : at + 24])
        if name == b"fmt ":
            (per_second,) = struct.unpack("<I", data[at + 32 : at + 36])
        elif name == b"data":
            return _samples(data, at + 24, size - 24, per_second, _w64_skip)
        if size < 24:
            break
        at += (size + 7) & ~7
    return Contents()


def _w64_skip(data: Bytes, at: int) -> int:
    at = (at + 7) & ~7
    while len(data) - at >= 24:
        if not _ID.fullmatch(name := data[at : at + 4]) or name == b"riff":
            return at
        (size,) = struct.unpack("<q", data[at + 16 : at + 24])
        if not 24 <= size <= len(data) - at:
            break
        at += (size + 7) & ~7
    return at if len(data) - at >= 24 else len(data)


def _aiff(data: Bytes) -> Contents:
    per_second = 0.0
    for name, at, size in _chunks(data, 12, ">I"):
        if name == b"COMM":
            channels, _, bits = struct.unpack(">hIh", data[at : at + 8])
            exponent, mantissa = struct.unpack(">HQ", data[at + 8 : at + 18])
            rate = mantissa * 2.0 ** (exponent - 16383 - 63) if exponent < 16450 else 0.0
            coding = data[at + 18 : at + 22].lower() if size > 18 else b""
            width = {b"ulaw": 1, b"alaw": 1, b"ima4": 34 / 64}.get(coding, (bits + 7) // 8)
            per_second = channels * width * rate
        elif name == b"VHDR":  # of 8SVX and 16SV
            (rate,) = struct.unpack(">H", data[at + 12 : at + 14])
            per_second = rate * (2.0 if data[8:12] == b"16SV" else 1.0)
        elif name in (b"SSND", b"BODY"):
            return _samples(data, at, size, per_second, functools.partial(_skip, kind=">I"))
    return Contents()


def _au(data: Bytes) -> Contents:
    order = ">" if data[:4] == b".snd" else "<"
    start, size, encoding, rate, channels = struct.unpack(order + "5I", data[4:24])
    width = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 23: 0.5, 27: 1}.get(encoding, 1)
    claimed = -1 if size == 0xFFFFFFFF else size
    return _samples(data, start, claimed, width * rate * channels)


def _nist(data: Bytes) -> Contents:
    """SPHERE: a header in text."""
    start = int(data[8:16])
    fields = dict(re.findall(rb"(\w+) -i (\d+)", data[16:start]))
    names = (b"sample_count", b"channel_count", b"sample_n_bytes", b"sample_rate")
    count, channels, width, rate = (int(fields.get(name, 0)) for name in names)
    if not width and b"law" in data[16:start]:
        width = 1
    if not count * width or b"shorten" in data[16:start]:
        return Contents()
    frame = channels * width
    return _samples(data, start, count * frame, frame * rate)


def _avr(data: Bytes) -> Contents:
    stereo, bits = struct.unpack(">2H", data[12:16])
    rate, count = struct.unpack(">2I", data[22:30])
    frame = (2 if stereo else 1) * (bits // 8)
    return _samples(data, 128, count * frame, frame * (rate & 0xFFFFFF))


def _voc(data: Bytes) -> Contents:
    """Blocks, each with its kind (0 ends the file) and three bytes of its size."""
    at, begin, size = int.from_bytes(data[20:22], "little"), 0, 0
    while at + 4 <= len(data) and data[at]:
        begin, size = at + 4, int.from_bytes(data[at + 1 : at + 4], "little")
        at = begin + size
    return _samples(data, begin, size, 0.0, lambda _, end: end + 1)


def _caf(data: Bytes) -> Contents:
    per_second = 0.0
    for name, at, size in _chunks(data, 8, ">q"):
        if name == b"desc":
            rate, _, _, packet, frames = struct.unpack(">d4s3I", data[at : at + 24])
            per_second = packet * rate / frames if frames and rate > 0 else 0.0
        elif name == b"data" and size == -1:  # to the end, as the format allows
            return Contents(patch=(at - 8, struct.pack(">q", len(data) - at)))
        elif name == b"data":
            return _samples(data, at, size, per_second, functools.partial(_skip, kind=">q"))
    return Contents()


_CHUNKED: dict[bytes, Callable[[Bytes], Contents]] = {
    **dict.fromkeys((b"RIFF", b"RIFX", b"RF64", b"BW64"), _wav),
    b"riff": _w64,
    b"FORM": _aiff,
    b"caff": _caf,
    b"NIST": _nist,
    b"2BIT": _avr,
    b"Crea": _voc,
    **dict.fromkeys((b".snd", b"dns."), _au),
}


class Patched:
    """A file with some of its bytes replaced, as libsndfile reads it."""

    def __init__(self, path: str, offset: int, replacement: bytes):
        self._file = open(path, "rb")
        self._offset, self._replacement = offset, replacement
        self.seek, self.tell, self.close = self._file.seek, self._file.tell, self._file.close

    def read(self, size: int = -1) -> bytes:
        """As of any file."""
        start = self._file.tell()
        data = bytearray(self._file.read(size))
        low = max(self._offset, start)
        high = min(self._offset + len(self._replacement), start + len(data))
        if low < high:
            new = self._replacement[low - self._offset : high - self._offset]
            data[low - start : high - start] = new
        return bytes(data)
