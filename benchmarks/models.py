"""Opening what is benchmarked: a bundle folder, or any ONNX file that takes a waveform."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from wav2small.errors import Wav2SmallError
from wav2small.predictor import model_path
from wav2small.session import open_session

_FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}


class WaveformModel:
    """An ONNX session of a bundle or file with one waveform input of any usual shape.

    Raises:
        Wav2SmallError: no model, not ONNX, or its inputs are not one waveform
    """

    def __init__(self, path: str | os.PathLike[str], *, threads: int = 1):
        self.path = model_path(path)
        self.session = open_session(self.path, threads=threads)
        inputs = self.session.get_inputs()
        signal = inputs[0] if inputs else None
        if (
            signal is None
            or len(inputs) != 1
            or signal.type not in _FLOATS
            or not 1 <= len(signal.shape) <= 3
            or any(isinstance(size, int) and size != 1 for size in signal.shape[:-1])
        ):
            given = ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs) or "none"
            raise Wav2SmallError(
                f"{self.path}: needs exactly one waveform input such as float32 [1, -1]; "
                f"its inputs: {given}"
            )
        self.input = signal.name
        self.rank = len(signal.shape)
        self.dtype = _FLOATS[signal.type]
        self.samples = signal.shape[-1] if isinstance(signal.shape[-1], int) else None
        self.outputs = [output.name for output in self.session.get_outputs()]

    def feed(self, signal: np.ndarray) -> dict[str, np.ndarray]:
        """The signal (samples,) in the shape and type that the model asks for."""
        shape = (1,) * (self.rank - 1) + (-1,)
        return {self.input: signal.astype(self.dtype, copy=False).reshape(shape)}

    def run(self, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        """The model's first output for a feed (the others are not computed twice)."""
        return self.session.run(self.outputs[:1], feed)


def short_names(paths: Iterable[str | os.PathLike[str]]) -> list[str]:
    """Names of models: the folder's or file's own, numbered where two would be equal.

    Example:
        >>> short_names(["runs/nano/model.onnx", "other/nano", "net.onnx"])
        ['nano', 'nano #2', 'net']
    """
    names: list[str] = []
    for path in paths:
        place = Path(path).resolve()
        if place.name == "model.onnx":
            place = place.parent
        name = place.stem if place.suffix == ".onnx" else place.name
        twins = sum(taken.split(" #")[0] == name for taken in names)
        names.append(f"{name} #{twins + 1}" if twins else name)
    return names


def noise(samples: int) -> np.ndarray:
    """Seeded white noise at the level of speech (.05 RMS), float32 (samples,).

    Latency does not depend on the words; digital silence would be faster or slower
    (denormal numbers), noise is neither.

    Example:
        >>> noise(16000).shape
        (16000,)
    """
    return (np.random.default_rng(0).standard_normal(samples) * 0.05).astype(np.float32)
