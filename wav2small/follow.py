"""`wav2small predict --follow -`: raw PCM in, a line of JSON per estimate out."""

from __future__ import annotations

import json
import os
from typing import Any, BinaryIO, TextIO

import numpy as np

from wav2small.stream import HOP_S, MEMORY_S, Stream

READ_BYTES = 65536  # at most; what a pipe holds is read as soon as it is there


def follow(
    bundle: str | os.PathLike[str],
    stdin: BinaryIO,
    stdout: TextIO,
    *,
    memory: float = MEMORY_S,
    hop: float = HOP_S,
    gate: bool = True,
    threads: int = 1,
) -> int:
    """Estimate a pipe.

    Args:
        bundle: bundle folder or `.onnx` file
        stdin: 16-bit little-endian mono PCM at 16 kHz, without a header
        stdout: gets `{"time": s, "heard": s, "arousal": .., "dominance": .., "valence": ..,
            "overall": [a, d, v]}` per hop, flushed at once
        memory: seconds, see `Stream`
        hop: seconds, see `Stream`
        gate: silence does not move the estimate
        threads: of ONNX Runtime

    Returns:
        exit code: 0, also when the reader of `stdout` has gone

    Raises:
        Wav2SmallError: the bundle cannot be used
    """
    stream = Stream(bundle, memory=memory, hop=hop, gate=gate, threads=threads)
    read: Any = getattr(stdin, "read1", stdin.read)
    held = b""
    try:
        while data := read(READ_BYTES):
            data = held + data
            held = data[len(data) & ~1 :]  # half a sample waits for its other half
            block = np.frombuffer(data[: len(data) & ~1], "<i2").astype(np.int16)
            estimates = stream.push(block)
            for estimate in estimates:
                stdout.write(json.dumps(_row(estimate)) + "\n")
            if estimates:
                stdout.flush()
    except BrokenPipeError:
        # Python would complain once more when it flushes standard output at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())
    except KeyboardInterrupt:
        pass
    return 0


def _row(estimate: Any) -> dict[str, Any]:
    return {
        "time": round(estimate.time, 3),
        "heard": round(estimate.heard, 3),
        "arousal": round(estimate.arousal, 7),
        "dominance": round(estimate.dominance, 7),
        "valence": round(estimate.valence, 7),
        "overall": [round(value, 7) for value in estimate.overall],
    }
