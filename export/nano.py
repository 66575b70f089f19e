"""nano as ONNX, time last from the first product on.

The frames of 512 samples become columns once; from there the factored DFT is two matrix products
(the twiddle factors are part of the second), the mel bands a third, and everything after that
looks along rows. Scales and logarithms' bases are folded into the stem's weights.
"""

from __future__ import annotations

import numpy as np

from wav2small.students import nano
from wav2small.students.student import Student

from . import frontend
from .graph import Graph
from .weights import Weights

LN2 = float(np.log(2))


def build(student: Student, weights: Weights, graph: Graph) -> str:
    """Add the student from `signal` to its pooled embedding [1, E]."""
    assert isinstance(student, nano.Nano)
    x = _features(student, graph, _bands(student, graph, _power(student, graph)))
    # x is 8 ln 2 times the student's: the stem takes that back.
    x = _causal(student, weights, graph, "stem", x, scale=1 / (nano.SCALE * LN2))
    x = graph.add("Relu", x)
    for number in range(len(student.config["dilations"])):
        name = f"blocks.{number}"
        y = _causal(student, weights, graph, f"{name}.depthwise", x)
        y = graph.add("Relu", _causal(student, weights, graph, f"{name}.pointwise", y))
        x = graph.layer(name, graph.add("Add", x, y), _map)
    both = _causal(student, weights, graph, ("gate", "value"), x)
    gate, value = graph.add("Split", both, axis=1, outputs=2)
    graph.layer("gate", gate, _map)
    graph.layer("value", value, _map)
    gate, value = graph.add("Sigmoid", gate), graph.add("Relu", value)
    last = graph.shape(3)
    numerator = graph.add("ReduceSum", graph.add("Mul", gate, value), last)
    denominator = graph.add("ReduceSum", gate, last)
    denominator = graph.add("Add", denominator, graph.constant(nano.EMPTY))
    return graph.add("Reshape", graph.add("Div", numerator, denominator), graph.shape(1, -1))


def _map(array: np.ndarray) -> np.ndarray:
    """(1, C, 1, frames) as the student lays it out."""
    return array[:, :, 0]


def _causal(
    student: nano.Nano,
    weights: Weights,
    graph: Graph,
    names: str | tuple[str, ...],
    x: str,
    scale: float = 1.0,
) -> str:
    """A convolution that looks back only, and its BatchNorm; several of one input become one."""
    names = (names,) if isinstance(names, str) else names
    layer = student.get_submodule(names[0])
    assert isinstance(layer, nano.Causal)
    gain, bias = (
        np.concatenate(parts)
        for parts in zip(*(weights.fold(f"{name}.norm") for name in names), strict=True)
    )
    _, inputs, taps = layer.conv.weight.shape
    kernel = weights.store(
        graph,
        [f"{name}.conv.weight" for name in names],
        gain=gain * np.float32(scale),
        shape=(-1, inputs, 1, taps),
    )
    x = graph.add(
        "Conv",
        x,
        kernel,
        graph.constant(bias),
        pads=[0, layer.context, 0, 0],
        dilations=[1, int(layer.conv.dilation[0])],
        group=layer.conv.groups,
    )
    return x if len(names) > 1 else graph.layer(names[0], x, _map)


def _power(student: nano.Nano, graph: Graph) -> str:
    """[1, T] -> powers of the places of the factored DFT and their imaginary parts, squared:
    [(rows / 2 + 1) x 2 columns, frames]."""
    spectrogram = student.spectrogram
    hop, rows, columns = spectrogram.hop, spectrogram.rows, spectrogram.columns
    half = rows // 2 + 1
    # Whole hops of the signal as columns: (hop, hops).
    count = graph.add("Slice", graph.add("Shape", "signal"), graph.shape(1), graph.shape(2))
    size = graph.shape(hop)
    whole = graph.add("Mul", graph.add("Div", count, size), size)
    signal = graph.add("Slice", "signal", graph.shape(0), whole, graph.shape(1))
    hops = graph.add("Reshape", signal, graph.shape(-1, hop))
    hops = graph.add("Transpose", hops, perm=[1, 0])
    far = graph.shape(2**31)
    first = graph.add("Slice", hops, graph.shape(0), graph.shape(-1), graph.shape(1))
    second = graph.add("Slice", hops, graph.shape(1), far, graph.shape(1))
    frames = graph.add("Concat", first, second, axis=0)  # (n_fft, frames)
    table = frontend.circle(graph, spectrogram.n_fft)
    half_ = graph.constant(0.5)
    window = graph.add("Sub", half_, graph.add("Mul", half_, table))
    window = graph.add("Reshape", window, graph.shape(-1, 1))
    frames = graph.add("Mul", frames, window)
    grid = graph.add("Reshape", frames, graph.shape(rows, -1))  # (rows, columns x frames)
    # Rows (k1, real and imaginary) of the first transform: cos and -sin of k1 r / R.
    k1 = graph.integers(np.arange(half).reshape(-1, 1, 1))
    part = graph.constant(np.array([0, spectrogram.n_fft // 4]).reshape(1, -1, 1), np.int64)
    step = graph.integers(np.arange(rows) * columns)
    turns = graph.add("Add", graph.add("Mul", k1, step), part)
    first_dft = frontend.on_circle(graph, table, turns, spectrogram.n_fft)
    first_dft = graph.add("Reshape", first_dft, graph.shape(2 * half, rows))
    spectrum = graph.add("MatMul", first_dft, grid)
    # Per k1 the second one with its twiddle factors: angle c k1 / N + c k2 / C.
    spectrum = graph.add("Reshape", spectrum, graph.shape(half, 2 * columns, -1))
    k = graph.add("Add", k1, graph.integers(np.arange(columns).reshape(-1, 1) * rows))
    angle = graph.add("Mul", k, graph.integers(np.arange(columns)))  # (k1, k2, c)
    quarter = graph.constant(spectrogram.n_fft // 4, np.int64)
    cos = frontend.on_circle(graph, table, angle, spectrogram.n_fft)
    sin = frontend.on_circle(graph, table, graph.add("Sub", angle, quarter), spectrogram.n_fft)
    minus = frontend.on_circle(graph, table, graph.add("Add", angle, quarter), spectrogram.n_fft)
    second_dft = graph.add(
        "Concat",
        graph.add("Concat", cos, sin, axis=2),
        graph.add("Concat", minus, cos, axis=2),
        axis=1,
    )  # (k1, (real, imaginary) x k2, (real, imaginary) x c)
    spectrum = graph.add("MatMul", second_dft, spectrum)
    spectrum = graph.add("Reshape", spectrum, graph.shape(half * 2 * columns, -1))
    return graph.add("Mul", spectrum, spectrum)


def _bands(student: nano.Nano, graph: Graph, power: str) -> str:
    """Squares -> natural logarithm of the mel bands, [mels, frames]."""
    spectrogram = student.spectrogram
    bands = student.logmel.bands.numpy()  # (k1 x k2, mels)
    half, columns = spectrogram.rows // 2 + 1, spectrogram.columns
    single = frontend.mel_bands(graph, bands, spectrogram.bins, spectrogram.n_fft)
    shape = (bands.shape[1], half, columns)
    single = graph.add("Reshape", single, graph.shape(*shape))
    both = graph.add("Concat", single, single, axis=2)
    both = graph.add("Reshape", both, graph.shape(bands.shape[1], -1))
    floored = graph.add(
        "Max", graph.add("MatMul", both, power), graph.constant(2.0**nano.FLOOR_LOG2)
    )
    log = graph.add("Log", floored)
    graph.layer("logmel", log, lambda x: x.T[None] / LN2)
    return log


def _features(student: nano.Nano, graph: Graph, log: str) -> str:
    """Bands relative to the loudest level of the last seconds: [1, mels, 1, frames].

    Times 8 ln 2, see `build`.
    """
    level = graph.add("ReduceMean", log, axes=[0])  # (1, frames)
    level = graph.add("Unsqueeze", level, graph.shape(0))
    size = student.level_frames
    level = graph.add("MaxPool", level, kernel_shape=[size], pads=[size - 1, 0])
    reference = graph.add("Sub", graph.add("Squeeze", level, graph.shape(0)),
                          graph.constant(nano.OFFSET * LN2))  # fmt: skip
    x = graph.add("Sub", log, reference)
    limit = nano.LIMIT * LN2
    x = graph.add("Clip", x, graph.constant(-limit), graph.constant(limit))
    return graph.add("Unsqueeze", x, graph.shape(0, 2))
