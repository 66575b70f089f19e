"""Memory of one model at one clip length, measured from the inside of a fresh process.

The resident set is split into three, because each is reduced in another way:

- runtime: Python, NumPy, ONNX Runtime and every page of library code the call touches
- model: what loading the file adds (weights, the optimised graph)
- activations: the most that one call adds, above what loading left behind

Linux only: it reads /proc/self/smaps and resets the peak through /proc/self/clear_refs; psutil
neither resets the peak nor stays small compared with the models that are measured.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

from wav2small.errors import Wav2SmallError
from wav2small.session import open_session

from . import models

#: An ONNX model that does nothing (Identity of float32 [1]): loading and running it brings in
#: the runtime itself. Written by onnx.helper (opset 13); here as bytes, because the runtime
#: that is measured must not import the onnx package.
_NOTHING = bytes.fromhex(
    "080712003a3d0a100a017812017922084964656e7469747912076e6f7468696e675a0f0a0178120a"
    "0a08080112040a020801620f0a0179120a0a08080112040a02080142040a00100d"
)


def supported() -> bool:
    """Whether this system can separate kinds of memory (Linux)."""
    return os.access("/proc/self/smaps", os.R_OK)


def measure(
    path: str | os.PathLike[str], duration_s: float, *, threads: int = 1, timeout_s: float = 600
) -> dict[str, Any]:
    """Memory, load time and first-call time of a bundle or ONNX file in a process of its own.

    Returns:
        `duration_s`, `runtime_bytes`, `model_bytes`, `activations_bytes`, `above_runtime_bytes`
        (model + activations), `peak_bytes` (all), `load_ms`, `first_call_ms`, `second_call_ms`

    Raises:
        Wav2SmallError: the model fails at this length
    """
    command = [sys.executable, "-m", __name__, os.fspath(path), str(duration_s), str(threads)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise Wav2SmallError(
            f"{path}: no result for {duration_s} s of audio after {timeout_s:.0f} s"
        ) from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["ended without a message"])[-1]
        raise Wav2SmallError(f"{path}: fails for {duration_s} s of audio: {last}")
    return json.loads(done.stdout.splitlines()[-1])


def probe(path: str, duration_s: float, threads: int) -> dict[str, Any]:
    """What `measure` returns, for this process: call it only in a fresh one."""
    from wav2small.audio import SAMPLING_RATE

    nothing = open_session(_NOTHING, threads=threads)
    nothing.run(None, {"x": models.noise(1)})
    # The clip itself belongs to the caller, so it is there before counting starts.
    signal = models.noise(round(duration_s * SAMPLING_RATE))
    start, start_code = _resident()

    began = time.perf_counter_ns()
    model = models.WaveformModel(path, threads=threads)
    load_ms = (time.perf_counter_ns() - began) / 1e6
    feed = model.feed(signal)
    loaded, loaded_code = _resident()

    exact = _reset_peak()
    began = time.perf_counter_ns()
    model.run(feed)
    first_ms = (time.perf_counter_ns() - began) / 1e6
    peak = peak_bytes()
    _, called_code = _resident()
    began = time.perf_counter_ns()
    model.run(feed)
    second_ms = (time.perf_counter_ns() - began) / 1e6

    model_bytes = max(0, (loaded - start) - (loaded_code - start_code))
    activations = max(0, (peak - loaded) - (called_code - loaded_code))
    return {
        "duration_s": duration_s,
        "runtime_bytes": start + called_code - start_code,
        "model_bytes": model_bytes,
        "activations_bytes": activations,
        "above_runtime_bytes": model_bytes + activations,
        "peak_bytes": peak,
        "peak_is_of_the_call": exact,
        "load_ms": load_ms,
        "first_call_ms": first_ms,
        "second_call_ms": second_ms,
    }


def _resident() -> tuple[int, int]:
    """Resident bytes of this process: all, and those of library code and data (.so)."""
    total = code = 0
    library = False
    with open("/proc/self/smaps", encoding="utf-8", errors="replace") as file:
        for row in file:
            if row.startswith("Rss:"):
                size = int(row.split()[1]) * 1024
                total += size
                code += size if library else 0
            elif "-" in row.split(" ", 1)[0]:
                library = ".so" in row
    return total, code


def _reset_peak() -> bool:
    """Make the kernel's peak start again here; False where it is not allowed."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        return False
    return True


def peak_bytes() -> int:
    """Peak of this process's resident memory; `ru_maxrss` has that of the parent in it."""
    with open("/proc/self/status", encoding="utf-8") as file:
        for row in file:
            if row.startswith("VmHWM:"):
                return int(row.split()[1]) * 1024
    raise Wav2SmallError("/proc/self/status has no VmHWM: memory cannot be measured here")


if __name__ == "__main__":
    print(json.dumps(probe(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))))
