"""The log-mel front end as ONNX: one product for the spectrum, one for the mel bands.

The spectrum's real and imaginary rows are one convolution, and their squares are added by the
mel product, whose bands are repeated for both. The tables are computed from a cosine and the
bands that are not zero while the file is loaded; so they take hundreds of bytes, not thousands.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from wav2small.students import frontend as students_frontend

from .graph import Graph

TIME_LAST = (0, 1, 3, 2)  # (outputs, inputs, time, mel) kernels and maps with time last
DECIBELS = 10 / np.log(10)  # per natural logarithm
FLOOR = students_frontend.FLOOR
SAMPLING_RATE = students_frontend.SAMPLING_RATE


def moments(graph: Graph, *, exact: bool = False) -> tuple[str, str]:
    """Mean [1, 1] and variance + 1e-7 [1, 1] of the input `signal` [1, T].

    Args:
        graph: where to
        exact: sum the mean in rows, which takes 1.7 MB more for 5 s. Where a recording is digitally
            silent its mean is all that remains, and one long float32 sum is a hundredth off: the
            outputs of a deep student move by 1e-4.
    """
    mean = _mean(graph) if exact else graph.add("ReduceMean", "signal", axes=[1])
    centred = graph.add("Sub", "signal", mean)
    if not exact:
        # The first mean is rounded: what it leaves of a constant offset would be amplified by
        # 1 / sqrt(1e-7) where nothing else is in the signal.
        mean = graph.add("Add", mean, graph.add("ReduceMean", centred, axes=[1]))
    variance = graph.add("ReduceMean", graph.add("Mul", centred, centred), axes=[1])
    return mean, graph.add("Add", variance, graph.constant(1e-7))


def _mean(graph: Graph) -> str:
    count = graph.add("Slice", graph.add("Shape", "signal"), graph.shape(1), graph.shape(2))
    short = graph.add("Mod", graph.add("Neg", count), graph.shape(512))
    pads = graph.add("Concat", graph.shape(0, 0, 0), short, axis=0)
    rows = graph.add("Reshape", graph.add("Pad", "signal", pads), graph.shape(-1, 512))
    total = graph.add("ReduceSum", graph.add("ReduceSum", rows, graph.shape(1)), graph.shape(0))
    return graph.add("Div", total, graph.add("Cast", count, to=TensorProto.FLOAT))


def log_mel(
    graph: Graph, signal: str, *, real: np.ndarray, imag: np.ndarray, bands: str, hop: int
) -> str:
    """Natural logarithm of mel bands, time last: [1, T] -> [1, 1, mels, frames].

    Decibels are 10 / ln 10 times that: a factor for the first layer's weights.

    Args:
        graph: where to
        signal: without its mean
        real: windowed DFT rows, (bins, n_fft)
        imag: likewise
        bands: (mels, 2 bins), divided by the signal's variance
        hop: distance of frames in samples
    """
    wave = graph.add("Unsqueeze", signal, graph.shape(1))
    spectrum = graph.add("Conv", wave, dft_kernel(graph, real, imag), strides=[hop])
    squares = graph.add("Mul", spectrum, spectrum)
    floored = graph.add("Max", graph.add("MatMul", bands, squares), graph.constant(FLOOR))
    return graph.add("Unsqueeze", graph.add("Log", floored), graph.shape(1))


def dft_kernel(graph: Graph, real: np.ndarray, imag: np.ndarray) -> str:
    """Rows of the spectrum, (2 bins, 1, n_fft): real ones, then imaginary ones."""
    bins, n_fft = real.shape
    expected = students_frontend.dft(n_fft)
    if not all(np.abs(a - b).max() < 1e-6 for a, b in zip((real, imag), expected, strict=True)):
        # A checkpoint that brought a DFT of its own keeps it.
        return graph.constant(np.concatenate([real, imag])[:, None])
    table = circle(graph, n_fft)
    row = graph.integers(np.arange(bins).reshape(-1, 1, 1))
    step = graph.add("Mul", row, graph.integers(np.arange(n_fft)))  # (bins, 1, n_fft)
    # cos(x + pi / 2) = -sin(x): a quarter of the circle further.
    quarter = graph.add("Add", step, graph.constant(n_fft // 4, np.int64))
    rows = on_circle(graph, table, graph.add("Concat", step, quarter, axis=0), n_fft)
    half = graph.constant(0.5)
    window = graph.add("Sub", half, graph.add("Mul", half, table))
    return graph.add("Mul", rows, window)


def circle(graph: Graph, size: int) -> str:
    """cos(2 pi n / size) for n = 0..size-1, computed at load; n - size / 2 keeps angles small."""
    half = size // 2
    bounds = [graph.constant(number, np.float32) for number in (-half, size - half, 1)]
    angle = graph.add("Mul", graph.add("Range", *bounds), graph.constant(2 * np.pi / size))
    return graph.add("Neg", graph.add("Cos", angle))


def on_circle(graph: Graph, table: str, steps: str, size: int) -> str:
    """Look up integers of any size on the circle."""
    return graph.add("Gather", table, graph.add("Mod", steps, graph.constant(size, np.int64)))


def mel_matrix(graph: Graph, mel: np.ndarray) -> str:
    """Bands for real and imaginary squares side by side: (mels, 2 bins)."""
    single = mel_bands(graph, mel, np.arange(len(mel)), 2 * (len(mel) - 1))
    return graph.add("Concat", single, single, axis=1)


def mel_bands(graph: Graph, matrix: np.ndarray, bins: np.ndarray, n_fft: int) -> str:
    """Mel bands computed at load from their edges, (mels, places).

    Args:
        graph: where to
        matrix: the student's bands, (places, mels)
        bins: DFT bin of every place; one outside a byte must have no weight
        n_fft: size of the DFT
    """
    mels = matrix.shape[1]
    own = students_frontend.mel_bands(n_fft, mels)[np.minimum(bins, n_fft // 2)]
    used = matrix.any(axis=1)
    if np.abs(matrix - own)[used].max() > 1e-6 * own.max():
        # Bands of a checkpoint's own.
        return graph.constant(np.ascontiguousarray(matrix.T))
    low, high = (students_frontend.hz_to_mel(hz) for hz in (0, SAMPLING_RATE / 2))
    edges = students_frontend.mel_to_hz(np.linspace(low, high, mels + 2))
    # In double precision: neighbouring edges are close, and their differences count.
    edge = graph.constant(edges.reshape(-1, 1) * n_fft / SAMPLING_RATE, np.float64)
    low, centre, high = (
        graph.add("Slice", edge, graph.shape(start), graph.shape(mels + start), graph.shape(0))
        for start in (0, 1, 2)
    )
    # The bin 0 has no weight in any band: a place that is not used takes it.
    place = graph.integers(np.where(used, bins, 0))
    place = graph.add("Cast", place, to=TensorProto.DOUBLE)
    rising = graph.add("Div", graph.add("Sub", place, low), graph.add("Sub", centre, low))
    falling = graph.add("Div", graph.add("Sub", high, place), graph.add("Sub", high, centre))
    triangle = graph.add("Min", rising, falling)
    triangle = graph.add("Max", triangle, graph.constant(0, np.float64))
    width = graph.add("Sub", high, low)
    area = graph.add("Div", graph.constant(2 * n_fft / SAMPLING_RATE, np.float64), width)
    return graph.add("Cast", graph.add("Mul", triangle, area), to=TensorProto.FLOAT)
