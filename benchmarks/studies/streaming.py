"""What a stream costs on this machine, and how late it is.

    python -m wav2small.benchmarks.studies.streaming BUNDLE SPEECH

SPEECH is a label table or folder. Prints JSON: processor time as a share of real time for blocks
of 10 ms, for `Stream`, for `streaming.onnx` in ONNX Runtime alone, for the C library over it and for
plain C (built here with `cc -O3`; null where there is none), in turn, and the delay from a sample to the first estimate that it changes.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from wav2small import audio
from wav2small.benchmarks import studies
from wav2small.benchmarks.studies.parity import SOURCES
from wav2small.benchmarks.studies.plain_c import PlainC
from wav2small.errors import Wav2SmallError
from wav2small.export.c.emitter import ENGINE
from wav2small.index import load_source
from wav2small.session import open_session
from wav2small.stream import Stream

BLOCK = 160
HOP = 256  # of nano
SECONDS = 120.0
ROUNDS = 5
_SOURCE = ENGINE.parent
Push = Callable[[np.ndarray], object]


def streaming(bundle: str | os.PathLike[str], speech: str | os.PathLike[str]) -> dict[str, Any]:
    """See the module; shares are the least of five rounds.

    Raises:
        Wav2SmallError: no speech, or the bundle cannot be used
    """
    signal = _speech(speech)
    stream = Stream(bundle)
    result: dict[str, Any] = {
        "seconds": round(len(signal) / audio.SAMPLING_RATE, 1),
        "block_ms": 1000 * BLOCK / audio.SAMPLING_RATE,
        **dict.fromkeys(("python", "onnx", "c", "plain_c")),
    }
    ways: dict[str, Push] = {"python": stream.push}
    with tempfile.TemporaryDirectory(prefix="wav2small-") as folder:
        library = None
        if (Path(bundle) / "streaming.onnx").is_file():
            ways["onnx"] = _onnx(Path(bundle) / "streaming.onnx")
        if shutil.which("cc"):
            library = _Library(Path(folder), bundle)
            ways["c"] = library.push
            if sources := sorted(Path(bundle).glob("c/nano_*.c")):
                ways["plain_c"] = _plain_c(sources[0])
        result |= _shares(ways, signal)
        if library:
            library.close()
    if result["plain_c"] and result["onnx"]:
        result["plain_c_over_onnx"] = round(result["plain_c"] / result["onnx"], 3)
    return result | {"delay_ms": _delay(stream, signal)}


def _onnx(path: Path) -> Push:
    """One hop at a time through the file, whatever the block: what the runtime alone takes."""
    session = open_session(str(path))
    kinds = {"tensor(float)": np.float32, "tensor(double)": np.float64}
    inputs = {
        one.name: np.ones([1 if isinstance(n, str) else n for n in one.shape], kinds[one.type])
        for one in session.get_inputs()
    }
    waiting = np.zeros(0, np.float32)

    def push(block: np.ndarray) -> None:
        nonlocal waiting
        waiting = np.concatenate([waiting, block])
        if len(waiting) >= HOP:
            inputs["block"], waiting = waiting[None, :HOP], waiting[HOP:]
            session.run(None, inputs)

    return push


def _plain_c(source: Path) -> Push:
    """The microcontroller's code on this machine."""
    engine = PlainC(source, "-O3")
    state = engine.begin()
    estimate = (ctypes.c_uint64 * 8)()

    def push(block: np.ndarray) -> None:
        pointer = block.ctypes.data_as(ctypes.c_void_p)
        engine.function("push_float")(state, pointer, ctypes.c_size_t(len(block)))
        engine.function("read")(state, estimate)

    return push


class _Library:
    """The C library over ONNX Runtime, in this process."""

    def __init__(self, folder: Path, bundle: str | os.PathLike[str]):
        path = folder / "libwav2small.so"
        command = ["cc", "-std=gnu99", "-O3", "-shared", "-fPIC", f"-I{_SOURCE}", "-o", str(path)]
        command += [str(_SOURCE / name) for name in SOURCES]
        subprocess.run([*command, "-ldl", "-lm"], check=True)
        capi = Path(onnxruntime.__file__).parent / "capi"
        os.environ.setdefault("W2S_ONNXRUNTIME", str(next(capi.glob("libonnxruntime.so*"))))
        self.c = ctypes.CDLL(str(path))
        self.model = ctypes.c_void_p()
        message = ctypes.create_string_buffer(256)
        if self.c.w2s_open(os.fsencode(bundle), None, ctypes.byref(self.model), message):
            raise Wav2SmallError(message.value.decode())
        self.estimates = ctypes.create_string_buffer(64 * 64)
        self.count = ctypes.c_size_t()

    def push(self, block: np.ndarray) -> None:
        pointer = block.ctypes.data_as(ctypes.c_void_p)
        none, room = ctypes.c_float(-1.0), ctypes.c_size_t(64)
        given = pointer, ctypes.c_size_t(len(block)), audio.SAMPLING_RATE, none
        count = ctypes.byref(self.count)
        status = self.c.w2s_stream_push(self.model, *given, self.estimates, room, count)
        if status:
            raise Wav2SmallError(f"w2s_stream_push: status {status}")

    def close(self) -> None:
        self.c.w2s_close(self.model)


def _speech(speech: str | os.PathLike[str]) -> np.ndarray:
    source = load_source(speech)
    parts: list[np.ndarray] = []
    for file in dict.fromkeys(source.path(file) for file in source.frame["file"]):
        parts.append(audio.read(file))
        if sum(map(len, parts)) >= SECONDS * audio.SAMPLING_RATE:
            break
    if not parts:
        raise Wav2SmallError(f"{speech}: no speech in it")
    return np.concatenate(parts)[: round(SECONDS * audio.SAMPLING_RATE)].astype(np.float32)


def _shares(ways: dict[str, Push], signal: np.ndarray) -> dict[str, float]:
    """Processor time over the time of the audio, the least of the rounds; the ways alternate."""
    blocks = [signal[at : at + BLOCK] for at in range(0, len(signal) - BLOCK + 1, BLOCK)]
    least = dict.fromkeys(ways, float("inf"))
    for _ in range(ROUNDS):
        for name, push in ways.items():
            start = time.process_time()
            for block in blocks:
                push(block)
            least[name] = min(least[name], time.process_time() - start)
    seconds = len(signal) / audio.SAMPLING_RATE
    return {name: round(took / seconds, 5) for name, took in least.items()}


def _delay(stream: Stream, signal: np.ndarray) -> float:
    """Longest over the samples of a hop, in milliseconds; what computing takes comes on top."""
    signal = signal[: 3 * audio.SAMPLING_RATE].copy()
    start = 2 * audio.SAMPLING_RATE // stream.hop_samples * stream.hop_samples
    wanted = _estimates(stream, signal)
    longest = 0.0
    for place in range(start, start + stream.hop_samples, max(1, stream.hop_samples // 32)):
        other = signal.copy()
        other[place] += 0.5
        for one, two in zip(wanted, _estimates(stream, other), strict=True):
            if one != two:
                longest = max(longest, one[0] - place / audio.SAMPLING_RATE)
                break
    return round(1000 * longest, 2)


def _estimates(stream: Stream, signal: np.ndarray) -> list[tuple[float, ...]]:
    stream.reset()
    return [(e.time, e.arousal, e.dominance, e.valence) for e in stream.push(signal)]


def main() -> None:
    parser = studies.parser("streaming", __doc__)
    parser.add_argument("bundle", help="bundle folder")
    parser.add_argument("speech", help="label table or folder")
    args = parser.parse_args()
    print(json.dumps(streaming(args.bundle, args.speech), indent=2))


if __name__ == "__main__":
    main()
