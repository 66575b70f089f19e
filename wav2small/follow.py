"""`wav2small predict --follow -`: raw PCM in, a line of JSON per estimate out."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, TextIO

import numpy as np

from wav2small import audio, frames, media
from wav2small.dimensions import DIMENSIONS
from wav2small.errors import Wav2SmallError
from wav2small.stream import FIRST_S, MEMORY_S, Estimate, Stream

#: What the file formats of audio begin with.
HEADERS = {b"RIFF": "WAV", b"RIFX": "WAV", b"RF64": "RF64", b"BW64": "RF64", b"riff": "W64",
           b"fLaC": "FLAC", b"OggS": "Ogg", b"FORM": "AIFF", b"caff": "CAF", b".snd": "AU",
           b"dns.": "AU", b"NIST": "NIST", b"2BIT": "AVR", b"Crea": "VOC", b"PVF1": "PVF",
           b" paf": "PAF", b"fap ": "PAF", b"ID3\x02": "MP3", b"ID3\x03": "MP3",
           b"ID3\x04": "MP3"}  # fmt: skip
_MP3 = (b"\xff\xfb", b"\xff\xfa", b"\xff\xf3", b"\xff\xf2")  # of layer III
READ_BYTES = 65536  # at most; what a pipe holds is read as soon as it is there


def follow(
    bundle: str | os.PathLike[str],
    stdin: BinaryIO,
    stdout: TextIO,
    *,
    memory: float = MEMORY_S,
    gate: bool | str | None = True,
    threads: int = 1,
) -> int:
    """Estimate a pipe.

    Args:
        bundle: bundle folder or `.onnx` file
        stdin: 16-bit little-endian mono PCM at 16 kHz, without a header
        stdout: gets `{"time": s, "heard": s, "arousal": .., "dominance": .., "valence": ..,
            "overall": [a, d, v]}` per hop, flushed at once; nano adds "speech", a probability
        memory: with --follow: seconds that an estimate remembers. See `Stream`
        gate: silence does not move the estimate. See `Stream`
        threads: threads of ONNX Runtime

    Returns:
        exit code: 0, also when the reader of `stdout` has gone

    Raises:
        Wav2SmallError: the bundle cannot be used, or the pipe is empty, holds an audio file with
            a header, or too little that counts for one estimate
    """
    stream = Stream(bundle, memory=memory, gate=gate, threads=threads)
    read: Any = getattr(stdin, "read1", stdin.read)
    held, total, shown = b"", 0, False
    try:
        for block in _blocks(read):
            data = held + block
            held = data[len(data) & ~1 :]  # half a sample waits for its other half
            samples = np.frombuffer(data[: len(data) & ~1], "<i2").astype(np.int16)
            estimates = stream.push(samples)
            total, shown = total + len(samples), shown or bool(estimates)
            for estimate in estimates:
                stdout.write(json.dumps(_row(estimate)) + "\n")
            if estimates:
                stdout.flush()
    except BrokenPipeError:
        # Python would complain once more when it flushes standard output at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())
    except KeyboardInterrupt:
        return 0
    if not shown:
        found = f"{total / audio.SAMPLING_RATE:.2f} s came"
        if stream.gate:
            kind = "speech" if stream.gate == "voice" else "louder than silence"
            found += f", {stream.heard:.2f} s of it {kind} (--no-gate lets all count)"
        raise Wav2SmallError(f"no estimate: {FIRST_S} s are needed; {found}")
    return 0


def _blocks(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """What a pipe holds; not the file formats that somebody may have put into it."""
    start = b""
    while len(start) < media.START_BYTES and (data := read(READ_BYTES)):
        start += data
    if not start:
        raise Wav2SmallError("standard input is empty; does the command before the pipe work?")
    known = media.format_of(start) or HEADERS.get(start[:4])
    if known is None and start[:2] in _MP3 and frames.mp3_frame(start, 0):
        known = "MP3"
    if known:
        raise Wav2SmallError(
            f"standard input is a file ({known}); give raw samples: "
            "ffmpeg -i FILE -f s16le -ac 1 -ar 16000 - | wav2small predict BUNDLE --follow -"
        )
    yield start
    while data := read(READ_BYTES):
        yield data


def _row(estimate: Estimate) -> dict[str, Any]:
    return {
        "time": round(estimate.time, 3),
        "heard": round(estimate.heard, 3),
        **{name: round(getattr(estimate, name), 7) for name in DIMENSIONS},
        "overall": [round(value, 7) for value in estimate.overall],
        **({} if estimate.speech is None else {"speech": round(estimate.speech, 4)}),
    }
