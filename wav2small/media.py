"""Audio of formats that libsndfile does not read (M4A, AAC, WMA, AMR, video), decoded by PyAV.

The audio is decoded once into a temporary WAV file with its own rate and channels, so that windows
of it are the same samples in whatever order they are read.
"""

from __future__ import annotations

import os
from typing import Any

from wav2small.errors import AudioError

from . import places
from .frames import SLACK_S

#: Endings that a folder is searched for, too, lower case.
EXTENSIONS = frozenset(
    ".m4a .m4b .aac .wma .amr .wv .tta .mka "
    ".mp4 .m4v .mov .3gp .3g2 .webm .mkv .wmv .flv .avi".split()
)
#: Formats by their first bytes; those of MPEG-4 and AVI begin later.
_STARTS = {b"\x30\x26\xb2\x75": "WMA", b"\x1a\x45\xdf\xa3": "Matroska", b"#!AMR": "AMR",
           b"FLV\x01": "FLV", b"wvpk": "WavPack", b"TTA1": "TTA"}  # fmt: skip
START_BYTES = 12
_RAW = ("aac", "amr")  # formats without a duration in their header
_VIDEO_SLACK_S = 0.5  # how long a last picture is shown, is often not written


def format_of(start: bytes) -> str:
    """The format that begins with these bytes, "" = none of these.

    Example:
        >>> format_of(b"\\0\\0\\0\\x1cftypM4A ")
        'MPEG-4'
    """
    if start[4:8] == b"ftyp":
        return "MPEG-4"
    if start[:4] + start[8:12] == b"RIFFAVI ":
        return "AVI"
    return next((name for mark, name in _STARTS.items() if start.startswith(mark)), "")


def is_media(path: str) -> bool:
    """Whether a file is of one of these formats, by its ending or its first bytes.

    Example:
        >>> is_media("speech.wav")
        False
    """
    if os.path.splitext(path)[1].lower() in EXTENSIONS:
        return True
    with open(path, "rb") as file:
        return bool(format_of(file.read(START_BYTES)))


def decoded(path: str) -> str:
    """The audio of a file as a WAV file, which lives as long as the process needs it.

    Raises:
        AudioError: PyAV is not installed; or the file has no audio, is damaged or truncated
    """
    state = os.stat(path)
    return places.copied(
        f"{path}.{state.st_size}.{state.st_mtime_ns}.wav", lambda _, target: _decode(path, target)
    )


def _decode(path: str, target: str) -> None:
    """Decode a file; all of it, or an error as `decoded` raises."""
    import soundfile

    try:
        import av
    except ModuleNotFoundError as error:
        stem, ending = os.path.splitext(path)
        with open(path, "rb") as file:
            name = format_of(file.read(START_BYTES))
        name = ending[1:].upper() if ending.lower() in EXTENSIONS else name
        target = stem + (".flac" if ending.lower() == ".wav" else ".wav")
        raise AudioError(
            f"{path}: {name} is read with PyAV; pip install 'wav2small[av]', or convert it: "
            f'ffmpeg -i "{path}" "{target}"'
        ) from error
    av.logging.set_level(av.logging.PANIC)  # what is wrong is in the exception
    if missing := _missing_bytes(path):
        raise AudioError(f"{path}: truncated: {missing:,} bytes are missing; copy it again")
    try:
        with av.open(f"file:{path}") as container:
            if not container.streams.audio:
                raise AudioError(f"{path}: no audio in it; leave it out")
            missing_s = _write(container, target)
    except av.FFmpegError as error:
        problem = f"not audio, damaged or truncated ({error.strerror})"
        raise AudioError(f"{path}: {problem}; copy it again") from error
    except (OSError, soundfile.LibsndfileError) as error:
        problem = f"cannot be decoded into {os.path.dirname(target)} ({error})"
        raise AudioError(f"{path}: {problem}; make room there, or set TMPDIR") from error
    if missing_s > 0:
        raise AudioError(f"{path}: truncated: {missing_s:.3f} s are missing; copy it again")


def _missing_bytes(path: str) -> int:
    """Bytes that an AVI promises and the file does not hold; FFmpeg passes over them."""
    size, at = os.path.getsize(path), 0
    with open(path, "rb") as file:
        while (head := file.read(START_BYTES))[:4] + head[8:11] == b"RIFFAVI":
            at += 8 + int.from_bytes(head[4:8], "little")
            file.seek(at + at % 2)
    return max(0, at - size)


def _write(container: Any, target: str) -> float:
    """Decode the first audio stream into a file; seconds that are missing at its end."""
    import av
    import soundfile

    stream, sound, end_s = container.streams.audio[0], None, 0.0
    resampler = av.AudioResampler(format="s16")  # packed; rate and channels stay
    try:
        for packet in container.demux():
            if packet.pts is not None:
                end_s = max(end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream is not stream:
                continue
            for part in (new for frame in packet.decode() for new in resampler.resample(frame)):
                channels = part.layout.nb_channels
                if sound is None:
                    layout = (part.sample_rate, channels, "PCM_16")
                    sound = soundfile.SoundFile(target, "w", *layout, format="RF64")
                sound.write(part.to_ndarray().reshape(-1, channels))
    finally:
        if sound is not None:
            sound.close()
    if sound is None:
        raise av.InvalidDataError(0, "0 samples")
    if container.duration is None or container.format.name.startswith(_RAW):
        return 0.0
    promised_s = (container.duration + (container.start_time or 0)) / 1e6
    slack_s = SLACK_S if len(container.streams) == 1 else _VIDEO_SLACK_S
    return promised_s - end_s if promised_s - end_s > slack_s else 0.0
