"""ONNX Runtime sessions: the only place that opens one.

Every session runs with the threads it is given and exact 8-bit arithmetic, on the CPU unless a
teacher asks for another provider.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wav2small.errors import Wav2SmallError

OLDEST = (1, 20)
#: Without this entry, 8-bit convolutions saturate silently on x86 processors that lack VNNI.
SESSION_ENTRIES = {"session.x64quantprecision": "1"}
_LOCATION = b"\x0a\x08location\x12"

#: signal (n,) -> arousal, dominance, valence, then probabilities of categories (3 + K,)
SignalFunction = Callable[[np.ndarray], np.ndarray]


def check_version(version: str | None = None) -> None:
    """Reject an ONNX Runtime that the files are not tested with.

    Args:
        version: such as "1.22.0"; None = that of the installed package

    Raises:
        Wav2SmallError: older than 1.20

    Example:
        >>> check_version("1.22.0")
    """
    if version is None:
        import onnxruntime

        version = onnxruntime.__version__
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < OLDEST:
        needed = f"at least {'.'.join(map(str, OLDEST))} is needed: pip install -U onnxruntime"
        raise Wav2SmallError(f"ONNX Runtime {version} is too old; {needed}")


def session_options(
    *, threads: int = 1, entries: Mapping[str, str] = SESSION_ENTRIES, severity: int = 3
) -> Any:
    """Options of a session, an `onnxruntime.SessionOptions`.

    Args:
        threads: threads of one operator; operators run one after another
        entries: session configuration entries
        severity: lowest level of messages that ONNX Runtime prints; 3 = errors, 4 = fatal errors

    Example:
        >>> session_options(threads=2).intra_op_num_threads
        2
    """
    import onnxruntime

    if threads < 0:
        raise Wav2SmallError(f"--threads {threads}: 1 or more, or 0 for all cores")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = severity
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    return options


def open_session(
    model: bytes | str | os.PathLike[str],
    *,
    threads: int = 1,
    options: Any = None,
    providers: Sequence[Any] = ("CPUExecutionProvider",),
) -> Any:
    """Open a model, on the CPU by default.

    Args:
        model: path of an ONNX file, or its bytes
        threads: threads of ONNX Runtime
        options: from `session_options`, then changed by the caller; replaces `threads`
        providers: execution providers, or pairs of a provider and its options

    Returns:
        `onnxruntime.InferenceSession`

    Raises:
        Wav2SmallError: ONNX Runtime is too old or cannot load the model

    Example:
        >>> open_session("bundle/model.onnx").get_inputs()[0].name
        'signal'
    """
    import onnxruntime

    check_version()
    if options is None:
        options = session_options(threads=threads)
    file = model if isinstance(model, bytes) else os.fspath(model)
    try:
        return onnxruntime.InferenceSession(file, options, providers=list(providers))
    except Exception as error:  # ONNX Runtime's errors share no narrower base
        where = "the model" if isinstance(model, bytes) else str(model)
        # After the path, and the place in its own source that some of its errors name.
        reason = first_line(error).rpartition(" failed:")[2].rpartition("&) ")[2]
        problem = f"ONNX Runtime {onnxruntime.__version__} cannot load it ({reason[:200]})"
        remedy = "copy or export it again, or pip install -U onnxruntime"
        raise Wav2SmallError(f"{where}: {problem}; {remedy}") from error


class Model:
    """A model file with its session, which goes wherever programs carry it.

    A copy shares the session. A pickle holds the path and the number of threads, so that another
    process opens the file again; so does a process that was forked, as threads do not survive that.

    Args:
        path: ONNX file
        threads: threads of ONNX Runtime

    Raises:
        Wav2SmallError: ONNX Runtime is too old or cannot load the model

    Example:
        >>> Model("bundle/model.onnx").session.get_inputs()[0].name
        'signal'
    """

    def __init__(self, path: str | os.PathLike[str], threads: int = 1):
        self.path, self.threads = os.path.abspath(path), threads
        self._session, self._process = open_session(path, threads=threads), os.getpid()

    @property
    def session(self) -> Any:
        """`onnxruntime.InferenceSession` of this process."""
        if self._process != os.getpid():
            # The end of the old one would wait for threads that are not in this process.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._session))
            self._session = open_session(self.path, threads=self.threads)
            self._process = os.getpid()
        return self._session

    def __reduce__(self) -> Any:
        return Model, (self.path, self.threads)

    def __deepcopy__(self, memo: Any) -> Model:
        return self


def file_run(model: bytes | str | os.PathLike[str]) -> SignalFunction:
    """A file as a function of one signal, (n,) -> (3 + K,), as far as it estimates them.

    Example:
        >>> file_run("bundle/model.onnx")(np.ones(1600, np.float32))
        array([1., 2., 3.], dtype=float32)
    """
    opened = open_session(model)
    there = [node.name for node in opened.get_outputs()]
    names = [name for name in ("logits", "categories") if name in there]

    def run(signal: np.ndarray) -> np.ndarray:
        found = dict(zip(names, opened.run(names, {"signal": signal[None]}), strict=True))
        if "categories" in found:
            found["categories"] = softmax(found["categories"])
        return np.concatenate([found[name][0] for name in names])

    return run


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities along the last axis.

    Example:
        >>> softmax(np.array([1.0, 1.0]))
        array([0.5, 0.5])
    """
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=-np.inf))
    return shares / shares.sum(axis=-1, keepdims=True)


def check_self_contained(path: Path) -> None:
    """Reject a model whose weights lie in other files.

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
    remedy = "a bundle's model holds all of its weights, take it from another source"
    raise Wav2SmallError(f"{path}: a tensor points to another file ({where}); {remedy}")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type if it has none.

    Example:
        >>> first_line(ValueError("no such tensor\\nat 0x1234"))
        'no such tensor'
        >>> first_line(KeyboardInterrupt())
        'KeyboardInterrupt'
    """
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
