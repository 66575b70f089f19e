"""Pages and frames of compressed audio, counted without decoding: Ogg, FLAC, MP3."""

from __future__ import annotations

import functools
import mmap
import re
import zlib
from dataclasses import dataclass

Bytes = mmap.mmap | bytes

_PART = 1 << 24  # bytes that are looked at before their memory is given back
SLACK_S = 0.1  # seconds that a header may be wrong by
TAGS = (b"TAG", b"ID3", b"APETAGEX", b"LYRICS")  # after the audio, in many formats


@dataclass(frozen=True)
class Contents:
    """What is in a container.

    Attributes:
        problem: why it must not be read as it is, "" if it may
        seconds: duration of the frames that were counted, None = they were not
        patch: (offset, bytes) that make the header right, None = it is
    """

    problem: str = ""
    seconds: float | None = None
    patch: tuple[int, bytes] | None = None


def ogg(data: Bytes) -> Contents:
    """Whether an Ogg file is one stream that begins once and ends once."""
    at, open_, begun = 0, False, 0
    while len(data) - at >= 27 and data[at : at + 4] == b"OggS":
        flags, lacing = data[at + 5], data[at + 27 : at + 27 + data[at + 26]]
        if flags & 2:
            if begun:
                several = "several Ogg streams one after another, of which only the first"
                remedy = "split or convert it: ffmpeg -i FILE FILE.wav"
                return Contents(f"{several} would be read; {remedy}")
            begun += 1
        open_ = not flags & 4
        end = at + 27 + len(lacing) + sum(lacing)
        if end <= len(data) and _ogg_crc(data[at:end]) != data[at + 22 : at + 26]:
            return Contents("damaged: a page of it has a wrong checksum; copy it again")
        if at // _PART != end // _PART:
            _release(data)
        at = end
    if at > len(data) or (at == len(data) and open_):
        missing = "its last Ogg page, which ends the stream, is missing"
        remedy = "copy it again, or repair it: ffmpeg -i FILE -c copy NEW"
        return Contents(f"truncated: {missing}; {remedy}")
    tagged = at == len(data) or data[at : at + 8].startswith(TAGS)
    if not tagged and (open_ or data.find(b"OggS", at) >= 0):
        return Contents("damaged: something other than an Ogg page is in it; copy it again")
    return Contents()


_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg_crc(page: bytes) -> bytes:
    """Checksum of an Ogg page: zlib's polynomial with the bits in the other order, from 0."""
    blank = page[:22] + bytes(4) + page[26:]
    value = zlib.crc32(blank.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return value.to_bytes(4, "big").translate(_REVERSED)


def flac(data: Bytes) -> Contents:
    """The number of samples that the header gives, and that of the last frame."""
    if len(data) < 42:
        return Contents()
    fields = int.from_bytes(data[18:26], "big")
    rate, total = fields >> 44, fields & (1 << 36) - 1
    if _second_flac(data):
        only = "of which only the first would be read"
        return Contents(f"several FLAC files in one, {only}; convert its parts one by one")
    end = _flac_end(data, int.from_bytes(data[8:10], "big"))
    if not total:
        remedy = "write it again: ffmpeg -i FILE NEW.flac"
        return Contents(f"a FLAC file without its length (written to a pipe); {remedy}")
    if rate and end and end > total + SLACK_S * rate:
        held = f"promises {total / rate:.3f} s of audio, but it holds {end / rate:.3f} s"
        return Contents(f"its header {held}; write it again: ffmpeg -i FILE NEW.flac")
    return Contents()


def _second_flac(data: Bytes) -> bool:
    for at in range(4, len(data), _PART):
        for mark in (b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22"):
            if data.find(mark, at, at + _PART + 7) >= 0:
                return True
        _release(data)
    return False


def _release(data: Bytes) -> None:
    """Give the pages of a mapped file back, so that a long one takes no memory."""
    if isinstance(data, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        data.madvise(mmap.MADV_DONTNEED)


def _flac_end(data: Bytes, fixed: int) -> int:
    """Number of the sample after the last frame of a FLAC file, 0 = no frame was found."""
    tail = data[max(42, len(data) - (1 << 18)) :]
    for match in reversed(list(re.finditer(rb"\xff[\xf8\xf9]", tail))):
        head = tail[match.start() : match.start() + 16]
        if len(head) < 6 or head[3] & 1 or head[2] >> 4 == 0 or head[2] & 15 == 15:
            continue
        count = 8 - (~head[4] & 0xFF).bit_length()  # leading ones
        if count == 1 or count > 7:
            continue
        number = head[4] if not count else head[4] & (0x7F >> count)
        for byte in head[5 : 4 + max(count, 1)]:
            number = number << 6 | byte & 0x3F
        at, code = 4 + max(count, 1), head[2] >> 4
        if code in (6, 7):
            block = int.from_bytes(head[at : at + code - 5], "big") + 1
            at += code - 5
        else:
            block = 192 if code == 1 else 576 << code - 2 if code < 6 else 256 << code - 8
        at += {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)
        if at < len(head) and _crc8(head[:at]) == head[at]:
            return number + block if head[1] & 1 else number * fixed + block
    return 0


def _crc8(data: bytes) -> int:
    value = 0
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value << 1 ^ (0x07 if value & 0x80 else 0)) & 0xFF
    return value


_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_KBITS = {
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


@functools.lru_cache(maxsize=1024)
def _mp3_header(head: bytes) -> tuple[int, int, int] | None:
    """(bytes, samples, Hz) of an MPEG audio frame; None = no such header."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer, padding = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3), head[2] >> 1 & 1
    code, rate_code = head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or layer == 4 or code in (0, 15) or rate_code == 3 or head[3] & 3 == 2:
        return None
    first = version == 3
    rate = _RATES[version][rate_code]
    bits = _KBITS[first, layer][code - 1] * 1000
    if layer == 1:
        return (12 * bits // rate + padding) * 4, 384, rate
    samples = 1152 if first or layer == 2 else 576
    return samples // 8 * bits // rate + padding, samples, rate


def after_tags(data: Bytes, at: int) -> int:
    """The place after all ID3 tags from `at` on.

    Example:
        >>> after_tags(b"ID3" + bytes(6) + b"\\x02..fLaC", 0)
        12
    """
    while data[at : at + 3] == b"ID3" and len(data) - at >= 10:
        parts = data[at + 6 : at + 10]
        at += 10 + (parts[0] << 21 | parts[1] << 14 | parts[2] << 7 | parts[3])
    return at


def mp3_frame(data: Bytes, at: int) -> tuple[int, int, int] | None:
    """(bytes, samples, Hz) of the MPEG audio frame that begins at a place, None = none does."""
    return _mp3_header(data[at : at + 4])


def mp3(data: Bytes) -> Contents:
    """Count the frames of an MP3 file, across tags and damaged places."""
    at, seconds, first, promised = 0, 0.0, True, 0.0
    while len(data) - at >= 4:
        frame = mp3_frame(data, at)
        if frame is None:
            after = after_tags(data, at)
            at = after if after > at else _mp3_resume(data, at)
            continue
        size, samples, rate = frame
        table = re.search(rb"(Xing|Info|VBRI)(.{4})(.{4})", data[at : at + 180], re.DOTALL)
        if first and table:  # a first frame with a table has no audio
            known = table[1] != b"VBRI" and table[2][3] & 1
            promised = int.from_bytes(table[3], "big") * samples / rate if known else 0.0
        else:
            seconds += samples / rate * min(1.0, (len(data) - at) / size)
        if at // _PART != (at + size) // _PART:
            _release(data)
        first, at = False, at + size
    if promised and abs(promised - seconds) > SLACK_S:
        held = f"promises {promised:.3f} s of audio, its frames hold {seconds:.3f} s"
        remedy = "copy it again, or write it again: ffmpeg -i FILE NEW.wav"
        return Contents(f"its table {held}: cut or joined; {remedy}")
    return Contents(seconds=seconds if seconds else None)


def _mp3_resume(data: Bytes, at: int) -> int:
    """The next place where two frames follow each other, or a tag begins."""
    for match in re.compile(rb"\xff[\xe0-\xff]|ID3[\x02-\x04]").finditer(data, at + 1):
        place = match.start()
        frame = mp3_frame(data, place)
        if data[place : place + 3] == b"ID3" or (frame and mp3_frame(data, place + frame[0])):
            return place
    return len(data)
