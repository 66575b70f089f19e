"""ONNX Runtime sessions as the bundles are meant to run: one thread, exact 8-bit arithmetic."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from wav2small.errors import Wav2SmallError
from wav2small.export.verification import SESSION, Run

OLDEST = (1, 20)
_LOCATION = b"\x0a\x08location\x12"


def check_version(version: str = onnxruntime.__version__) -> None:
    """Refuse an ONNX Runtime that the files are not tested with.

    Raises:
        Wav2SmallError: older than 1.20
    """
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < OLDEST:
        raise Wav2SmallError(
            f"ONNX Runtime {version} is too old; at least {'.'.join(map(str, OLDEST))} is needed: "
            "pip install -U onnxruntime"
        )


def session(model: bytes | str | os.PathLike[str], *, threads: int = 1) -> Any:
    """A session on the CPU.

    Raises:
        Wav2SmallError: ONNX Runtime is too old or refuses the model
    """
    check_version()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    for key, value in SESSION.items():
        options.add_session_config_entry(key, value)
    try:
        return onnxruntime.InferenceSession(
            model if isinstance(model, bytes) else os.fspath(model),
            options,
            providers=["CPUExecutionProvider"],
        )
    except Exception as error:  # ONNX Runtime's errors share no narrower base
        where = "the model" if isinstance(model, bytes) else str(model)
        raise Wav2SmallError(
            f"{where}: ONNX Runtime {onnxruntime.__version__} cannot load it "
            f"({str(error).splitlines()[0][:200]}); export it again"
        ) from error


def file_run(model: bytes | str | os.PathLike[str]) -> Run:
    """A file as a function of one signal, (n,) -> (3,)."""
    opened = session(model)

    def run(signal: np.ndarray) -> np.ndarray:
        return opened.run(["logits"], {"signal": signal[None]})[0][0]

    return run


def check_self_contained(path: Path) -> None:
    """Refuse a model whose weights lie in other files.

    A model of a stranger could point to any file of this machine. Read as bytes, since the
    runtime's installation holds no ONNX parser: every such tensor has an entry `location`, encoded
    as field 1 (the key, 8 bytes) and field 2 (the value, with its length).

    Raises:
        Wav2SmallError: it cannot be read, or it points to external data
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Wav2SmallError(f"{path}: {error.strerror}; export it again") from error
    if (found := data.find(_LOCATION)) < 0:
        return
    start = found + len(_LOCATION)
    where = data[start + 1 : start + 1 + min(data[start], 100)].decode("utf-8", "replace")
    raise Wav2SmallError(
        f"{path}: a tensor points to another file ({where}); "
        "a bundle's model holds all of its weights, take it from another source"
    )
