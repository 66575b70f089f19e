"""nano as ONNX, time last from the first product on.

The frames of 512 samples become columns once; from there the factored DFT is two matrix products
(the twiddle factors are part of the second), the mel bands a third, and everything after that
looks along rows. Scales and logarithms' bases are folded into the stem's weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from onnx import TensorProto

from wav2small.students import nano
from wav2small.students.base import Student

from . import frontend
from .graph import Graph
from .weights import Weights

LN2 = float(np.log(2))
SPEECH, SPEECH_STATES = "speech", "speech_states"  # of a nano with a head for voice activity
Step = Callable[[str, str], str]


def build(student: Student, weights: Weights, graph: Graph) -> str:
    """Add the student from `signal` to its pooled embedding [1, E]."""
    assert isinstance(student, nano.Nano)
    blocks = [f"blocks.{number}" for number in range(len(student.config["dilations"]))]
    depthwise = [f"{name}.depthwise" for name in blocks]
    pointwise = [*(f"{name}.pointwise" for name in blocks), "gate", "value"]
    kernels = {
        **store_alike(weights, graph, depthwise),
        **store_alike(weights, graph, pointwise),
    }

    def convolve(name: str, x: str, **options: Any) -> str:
        return causal(student, weights, graph, name, x, kernel=kernels.get(name), **options)

    x = _features(student, graph, bands(student, graph, power(student, graph)))
    # x is 8 ln 2 times the student's: the stem takes that back.
    x = graph.add("Relu", convolve("stem", x, scale=1 / (nano.SCALE * LN2)))
    for name in blocks:
        y = convolve(f"{name}.depthwise", x)
        y = graph.add("Relu", convolve(f"{name}.pointwise", y))
        x = graph.layer(name, graph.add("Add", x, y), _map)
    gate = graph.add("Sigmoid", convolve("gate", x))
    value = graph.add("Relu", convolve("value", x))
    product = graph.add("Mul", gate, value)
    if student.voice is not None:
        logits = voice(student, weights, graph, x, partial(convolve, named=False))
        masks = []
        for probability in (0.5, nano.SPOKEN):
            least = graph.constant(np.log(probability / (1 - probability)))
            mask = graph.add("GreaterOrEqual", logits, least)
            masks.append(graph.add("Cast", mask, to=TensorProto.FLOAT))
        graph.add("ReduceMean", masks[0], axes=[2, 3], keepdims=0, name=SPEECH)
        parts = [graph.add("Mul", part, masks[1]) for part in (product, gate)]
        any_ = graph.add("ReduceMax", masks[1], axes=[3])  # 0 / 0 = NaN without speech
        empty = graph.add("Mul", any_, graph.constant(nano.EMPTY))
        _ratio(graph, parts[0], parts[1], empty, name=SPEECH_STATES)
    return _ratio(graph, product, gate, graph.constant(nano.EMPTY))


def _ratio(graph: Graph, product: str, gate: str, empty: str, name: str = "") -> str:
    """The pooled embedding [1, E] of gate x value and gate [1, E, 1, frames]."""
    last = graph.shape(3)
    numerator = graph.add("ReduceSum", product, last)
    denominator = graph.add("ReduceSum", gate, last)
    denominator = graph.add("Add", denominator, empty)
    ratio = graph.add("Div", numerator, denominator)
    return graph.add("Reshape", ratio, graph.shape(1, -1), name=name)


def voice(student: nano.Nano, weights: Weights, graph: Graph, x: str, step: Step) -> str:
    """The head for voice activity: [1, channels, 1, frames] -> logits [1, 1, 1, frames].

    `step` is a convolution: (module, its input) -> its output.
    """
    assert student.voice is not None
    for name in ("reduce", *(f"context.{i}" for i in range(len(student.voice.context)))):
        module = f"voice.{name}"
        x = graph.add("Relu", step(module, x))
    kernel = weights.store(graph, "voice.out.weight", shape=(1, -1, 1, 1))
    return graph.add("Conv", x, kernel, graph.constant(weights.numpy("voice.out.bias")))


def _map(array: np.ndarray) -> np.ndarray:
    """(1, C, 1, frames) as the student lays it out."""
    return array[:, :, 0]


def causal(
    student: nano.Nano,
    weights: Weights,
    graph: Graph,
    names: str | tuple[str, ...],
    x: str,
    *,
    kernel: tuple[str, str] | None = None,
    scale: float = 1.0,
    padded: bool = True,
    named: bool = True,
) -> str:
    """A convolution that looks back only, with its BatchNorm folded.

    Args:
        student, weights, graph: as of `build`
        names: the module, or several of one input, which become one
        x: [1, channels, 1, frames]
        kernel: weights and biases, as of `store`; None = stored here
        scale: factor of the weights
        padded: zeros stand for the frames before `x`; False = `x` begins with them
        named: a layer that can be compared with the student's forward pass
    """
    names = (names,) if isinstance(names, str) else names
    layer = student.get_submodule(names[0])
    assert isinstance(layer, nano.Causal)
    kernel = kernel or store(weights, graph, names, scale=scale)
    options: dict[str, Any] = {}  # what is not ONNX's default: each takes a dozen bytes or more
    if padded and layer.context:
        options["pads"] = [0, layer.context, 0, 0]
    if layer.conv.dilation[0] > 1:
        options["dilations"] = [1, int(layer.conv.dilation[0])]
    if layer.conv.groups > 1:
        options["group"] = layer.conv.groups
    x = graph.add("Conv", x, *kernel, **options)
    return graph.layer(names[0], x, _map) if named and len(names) == 1 else x


def store(
    weights: Weights, graph: Graph, names: Sequence[str], *, scale: float = 1.0
) -> tuple[str, str]:
    """Weights and biases of convolutions one after the other, with their BatchNorms folded."""
    folds = [weights.fold(f"{name}.norm") for name in names]
    gain, bias = (np.concatenate(parts) for parts in zip(*folds, strict=True))
    parts = [f"{name}.conv.weight" for name in names]
    _, inputs, taps = weights.state[parts[0]].shape
    gain, shape = gain * np.float32(scale), (-1, inputs, 1, taps)
    kernel = weights.store(graph, parts, gain=gain, shape=shape)
    return kernel, weights.bias(graph, bias, parts[0])


def store_alike(weights: Weights, graph: Graph, names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Weights and biases by module, of convolutions that are stored as one and cut at load.

    It saves a hundred bytes each. {} where the weights are floats: the file is large anyway, and
    ONNX Runtime's quantiser looks for stored tensors.
    """
    if len(names) < 2 or f"{names[0]}.conv.weight" not in weights.levels:
        return {}
    sizes = graph.shape(*(len(weights.state[f"{name}.conv.weight"]) for name in names))
    parts = [
        graph.add("Split", tensor, sizes, outputs=len(names))
        for tensor in store(weights, graph, names)
    ]
    return dict(zip(names, zip(*parts, strict=True), strict=True))


def _order(student: nano.Nano) -> np.ndarray:
    """Rows of the first transform, even ones first: both halves of a frame serve them all."""
    half = np.arange(student.spectrogram.rows // 2 + 1)
    return np.concatenate([half[::2], half[1::2]])


def power(student: nano.Nano, graph: Graph) -> str:
    """[1, T] -> powers of the places of the factored DFT, [(rows / 2 + 1) x columns, hops].

    Rows of the first transform stand in `_order`; the last hop begins no complete frame and its
    powers mean nothing.
    """
    spectrogram = student.spectrogram
    n_fft, hop, columns = spectrogram.n_fft, spectrogram.hop, spectrogram.columns
    rows = spectrogram.rows // 2  # of half a frame
    assert n_fft == 2 * hop
    order = _order(student)
    evens = (len(order) + 1) // 2
    # Complete hops of the signal as columns: (hop, hops).
    count = graph.add("Slice", graph.add("Shape", "signal"), graph.shape(1), graph.shape(2))
    size = graph.shape(hop)
    complete = graph.add("Mul", graph.add("Div", count, size), size)
    signal = graph.add("Slice", "signal", graph.shape(0), complete, graph.shape(1))
    hops = graph.add("Reshape", signal, graph.shape(-1, hop))
    hops = graph.add("Transpose", hops, perm=[1, 0])
    # A hop is the first half of a frame and the second of the one before; Hann's halves add to 1.
    table = frontend.circle(graph, n_fft)
    half = graph.constant(0.5)
    window = graph.add("Sub", half, graph.add("Mul", half, table))
    window = graph.add("Slice", window, graph.shape(0), graph.shape(hop))
    first = graph.add("Mul", hops, graph.add("Reshape", window, graph.shape(-1, 1)))
    second = graph.add("Reshape", graph.add("Sub", hops, first), graph.shape(-1))
    second = graph.add("Pad", second, graph.shape(-1, 1))  # one column on, without copying rows
    second = graph.add("Reshape", second, graph.shape(hop, -1))
    # First transform, real and imaginary: cos and -sin of k1 r / R. Over half a frame k1 r rotates
    # by k1 / 2: the second half is added for even k1, subtracted for odd ones.
    k1 = graph.integers(order.reshape(-1, 1, 1))
    part = graph.constant(np.array([0, n_fft // 4]).reshape(1, -1, 1), np.int64)
    step = graph.integers(np.arange(rows) * columns)
    angles = graph.add("Add", graph.add("Mul", k1, step), part)
    first_dft = frontend.on_circle(graph, table, angles, n_fft)
    # Per k1 the second one with its twiddle factors: angle c k1 / N + c k2 / C.
    k = graph.integers(np.arange(columns).reshape(-1, 1) * spectrogram.rows)
    angle = graph.add("Mul", graph.add("Add", k1, k), graph.integers(np.arange(columns)))
    quarter = graph.constant(n_fft // 4, np.int64)
    cos = frontend.on_circle(graph, table, angle, n_fft)  # (k1, k2, c)
    sin = frontend.on_circle(graph, table, graph.add("Sub", angle, quarter), n_fft)
    minus = frontend.on_circle(graph, table, graph.add("Add", angle, quarter), n_fft)
    halves = [graph.add("Concat", *pair, axis=2) for pair in ((cos, sin), (minus, cos))]
    # (k1, (real, imaginary) x k2, (real, imaginary) x c)
    second_dft = graph.add("Concat", *halves, axis=1)
    powers = []
    for begin, end, butterfly in ((0, evens, "Add"), (evens, len(order), "Sub")):
        bounds = graph.shape(begin), graph.shape(end)
        frames = graph.add("Reshape", graph.add(butterfly, first, second), graph.shape(rows, -1))
        weights = graph.add("Slice", first_dft, *bounds)
        weights = graph.add("Reshape", weights, graph.shape(-1, rows))
        spectrum = graph.add("MatMul", weights, frames)  # (2 k1, columns x hops)
        spectrum = graph.add("Reshape", spectrum, graph.shape(end - begin, 2 * columns, -1))
        spectrum = graph.add("MatMul", graph.add("Slice", second_dft, *bounds), spectrum)
        squares = graph.add("Mul", spectrum, spectrum)
        squares = graph.add("Reshape", squares, graph.shape(end - begin, 2, -1))
        total = graph.add("ReduceSum", squares, graph.shape(1))
        powers.append(graph.add("Reshape", total, graph.shape((end - begin) * columns, -1)))
    return graph.add("Concat", *powers, axis=0)


def bands(student: nano.Nano, graph: Graph, powers: str) -> str:
    """Powers -> natural logarithm of the mel bands, [mels, frames]."""
    spectrogram = student.spectrogram
    order, columns = _order(student), spectrogram.columns
    places = (order[:, None] * columns + np.arange(columns)).ravel()
    matrix = student.logmel.bands.numpy()[places]  # (k1 x k2, mels)
    triangles = frontend.mel_bands(graph, matrix, spectrogram.bins[places], spectrogram.n_fft)
    mel = graph.add("MatMul", triangles, powers)
    mel = graph.add("Slice", mel, graph.shape(0), graph.shape(-1), graph.shape(1))
    floored = graph.add("Max", mel, graph.constant(2.0**nano.FLOOR_LOG2))
    log = graph.add("Log", floored)
    graph.layer("logmel", log, lambda x: x.T[None] / LN2)
    return log


def _features(student: nano.Nano, graph: Graph, log: str) -> str:
    """Bands relative to the loudest level of the last seconds: [1, mels, 1, frames].

    Times 8 ln 2, see `build`.
    """
    level = mean_level(student, graph, log)  # (1, frames)
    level = graph.add("Unsqueeze", level, graph.shape(0))
    size = student.level_frames
    level = graph.add("MaxPool", level, kernel_shape=[size], pads=[size - 1, 0])
    return graph.add("Unsqueeze", relative(student, graph, log, level), graph.shape(2))


def mean_level(student: nano.Nano, graph: Graph, log: str) -> str:
    """Mean of the bands that make the level: [mels, frames] -> [1, frames]."""
    first, last = student.level_bands.start, student.level_bands.stop
    bands = graph.add("Slice", log, graph.shape(first), graph.shape(last), graph.shape(0))
    return graph.add("ReduceMean", bands, axes=[0])


def relative(student: nano.Nano, graph: Graph, log: str, loudest: str) -> str:
    """Bands relative to the level [1, 1, frames], within what the student tells apart.

    Times 8 ln 2: [1, mels, frames].
    """
    level = graph.add("Max", loudest, graph.constant(student.least_level * LN2))
    x = graph.add("Sub", log, graph.add("Sub", level, graph.constant(nano.OFFSET * LN2)))
    low, high = student.softest * LN2, nano.LIMIT * LN2
    return graph.add("Clip", x, graph.constant(low), graph.constant(high))
