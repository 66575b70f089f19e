"""Wav2Small (72K and 16K parameters) as ONNX.

What makes it faster and leaner than a plain export, without changing an output beyond rounding:

- Time is the last axis: rows of the convolutions are long, and no transpose is needed between
  spectrum, body and pooling.
- `lin` and `sof` are one product; real and imaginary DFT are one convolution.
- The signal is never scaled: the mel bands are divided by its variance instead. The logarithm's
  base goes into the first convolution.
- **Memory does not grow with the clip**: a loop takes about 2.6 seconds at a time, with as many
  frames more on either side as the convolutions see, and keeps the softmax over time as three
  running vectors. At the ends of the clip nothing is added, so that the convolutions' own padding
  is where it belongs: the result is that of the full clip.
- Channels between `l3` and `l4` are padded to 16 at load, so that the pooling runs in the
  runtime's blocked layout.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from onnx import TensorProto

from wav2small.students.base import Student

from . import frontend
from .frontend import DECIBELS, TIME_LAST
from .graph import Graph, value
from .weights import Weights, blocks

STEP = 640  # tokens (two frames each) per iteration of the loop: 2.56 s at a hop of 32 samples
# Tokens beyond the step that an output sees: four convolutions after the pooling, and three
# convolutions and the pooling before it, 4 frames.
HALO = 6
LOWEST = -1e30  # maximum of nothing, for the running softmax


def build(student: Student, weights: Weights, graph: Graph) -> str:
    """Add the student from `signal` to its pooled embedding [1, E].

    `graph.unrolled` leaves the loop out, so that every layer is a tensor of the main graph.
    """
    mean, power = frontend.moments(graph)
    mel = frontend.mel_matrix(graph, weights.numpy("vgg7.logmel_extractor.melW"))
    bands = graph.add("Div", mel, power)
    if graph.unrolled:
        tokens = _maps(student, weights, graph, graph.add("Sub", "signal", mean), bands)
        lin, sof = _products(student, weights, graph, tokens)
        share = graph.add("Softmax", sof, axis=-1)
        pooled = graph.add("ReduceSum", graph.add("Mul", lin, share), graph.shape(-1))
    else:
        pooled = _loop(student, weights, graph, mean, bands)
    return _embedding(student, weights, graph, pooled)


def _loop(student: Student, weights: Weights, graph: Graph, mean: str, bands: str) -> str:
    """Steps of `STEP` tokens; see the module. Returns the pooled map [channels^2, 1]."""
    hop = student.config["hop"]
    n_fft = student.config["n_fft"]
    one, two = graph.shape(1), graph.shape(2)
    samples = graph.add("Slice", graph.add("Shape", "signal"), one, two)
    inner = graph.add("Sub", samples, graph.shape(n_fft))
    frames = graph.add("Add", graph.add("Div", inner, graph.shape(hop)), one)
    tokens = graph.add("Div", graph.add("Add", frames, one), two)
    loops = graph.add("Div", graph.add("Add", tokens, graph.shape(STEP - 1)), graph.shape(STEP))

    body = Graph(opset=graph.opset, prefix="b")
    zero, one, step, halo = (body.shape(number) for number in (0, 1, STEP, HALO))
    start = body.add("Mul", body.add("Unsqueeze", "turn", zero), step)
    stop = body.add("Min", body.add("Add", start, step), tokens)
    first = body.add("Max", body.add("Sub", start, halo), zero)
    last = body.add("Add", stop, halo)
    # Tokens first..last-1 see frames 2 first .. 2 last - 1; a slice ends with the signal anyway.
    pace = body.shape(2 * hop)
    low = body.add("Mul", first, pace)
    high = body.add("Add", body.add("Mul", last, pace), body.shape(n_fft - hop))
    part = body.add("Sub", body.add("Slice", "signal", low, high, one), mean)
    maps = _maps(student, weights, body, part, bands)
    inside = (body.add("Sub", start, first), body.add("Sub", stop, first))
    lin, sof = _products(student, weights, body, maps, inside)
    # Softmax over time, one step at a time: everything is relative to the maximum so far.
    top = body.add("Max", "top", body.add("ReduceMax", sof, axes=[1]), name="top_")
    faded = body.add("Exp", body.add("Sub", "top", top))
    weight = body.add("Exp", body.add("Sub", sof, top))
    for name, more in (("total", weight), ("pooled", body.add("Mul", lin, weight))):
        kept = body.add("Mul", name, faded)
        body.add("Add", kept, body.add("ReduceSum", more, one), name=f"{name}_")
    body.add("Identity", "on", name="on_")

    size, names = student.config["half_mel"] ** 2, ("top", "total", "pooled")
    before, after = (
        [value(f"on{end}", [], TensorProto.BOOL), *(value(name + end, [size, 1]) for name in names)]
        for end in ("", "_")
    )
    inputs = [value("turn", [], TensorProto.INT64), *before]
    shape = graph.shape(size, 1)
    lowest = graph.add("Expand", graph.constant(LOWEST), shape)
    nothing = graph.add("Expand", graph.constant(0.0), shape)
    begin = graph.add("Squeeze", loops), "", lowest, nothing, nothing
    _, total, pooled = graph.add("Loop", *begin, outputs=3, body=body.body(inputs, after))
    return graph.add("Div", pooled, total)


def _maps(student: Student, weights: Weights, graph: Graph, signal: str, bands: str) -> str:
    """Centred signal -> tokens: [1, n] -> [1, channels, channels, tokens]."""
    extractor = "vgg7.spectrogram_extractor"
    x = frontend.log_mel(
        graph,
        signal,
        real=weights.numpy(f"{extractor}.conv_real.weight")[:, 0],
        imag=weights.numpy(f"{extractor}.conv_imag.weight")[:, 0],
        bands=bands,
        hop=student.config["hop"],
    )
    graph.layer("vgg7.logmel_extractor", x, lambda x: x.transpose(TIME_LAST) * DECIBELS)
    channels = student.config["half_mel"]
    wide = {3: blocks(channels)}  # layer: channels after it
    for number in range(1, 8):
        layer = f"vgg7.l{number}"
        gain, bias = weights.fold(f"{layer}.norm")
        outputs = wide.get(number, channels)
        kernel = weights.store(
            graph,
            f"{layer}.conv.weight",
            gain=gain * np.float32(DECIBELS if number == 1 else 1),
            axes=TIME_LAST,
            pad={0: outputs, 1: 1 if number == 1 else wide.get(number - 1, channels)},
        )
        shift = graph.constant(np.pad(bias, (0, outputs - channels)))
        x = graph.add("Relu", graph.add("Conv", x, kernel, shift, pads=[1, 1, 1, 1]))
        graph.layer(layer, x, lambda x: x.transpose(TIME_LAST))
        if number == 3:
            x = graph.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    return x


def _products(
    student: Student,
    weights: Weights,
    graph: Graph,
    tokens: str,
    inside: tuple[str, str] | None = None,
) -> tuple[str, str]:
    """`lin` and `sof` without their biases: two times [channels^2, tokens].

    The softmax does not see the bias of `sof`; that of `lin` is added once, after pooling. `inside`
    names the first and last token to keep.
    """
    channels = student.config["half_mel"]
    large = student.name == "wav2small"  # one matrix over channels and mels, or 1x1 convolutions
    names = ["vgg7.lin.weight", "vgg7.sof.weight"]
    if inside is not None:
        tokens = graph.add("Slice", tokens, *inside, graph.shape(3))
    inputs = channels**2 if large else channels
    x = graph.add("Reshape", tokens, graph.shape(inputs, -1))
    x = graph.add("MatMul", weights.store(graph, names, shape=(2 * inputs, inputs)), x)
    if not large:
        x = graph.add("Reshape", x, graph.shape(2 * channels**2, -1))
    lin, sof = graph.add("Split", x, axis=0, outputs=2)
    for layer, tensor in (("vgg7.lin", lin), ("vgg7.sof", sof)):
        graph.layer(layer, tensor, partial(_tokens, weights.numpy(f"{layer}.bias"), large))
    return lin, sof


def _embedding(student: Student, weights: Weights, graph: Graph, pooled: str) -> str:
    """Pooled map [channels^2, 1] -> embedding [1, E]; its form differs between the students."""
    channels = student.config["half_mel"]
    bias = weights.numpy("vgg7.lin.bias")
    if student.name == "wav2small":
        return graph.add("Add", graph.add("Transpose", pooled, perm=[1, 0]), graph.constant(bias))
    pooled = graph.add("Reshape", pooled, graph.shape(channels, channels))
    pooled = graph.add("Add", pooled, graph.constant(bias[:, None]))
    gram = graph.add("MatMul", pooled, graph.add("Transpose", pooled, perm=[1, 0]))
    both = graph.add("Concat", pooled, gram, axis=1)
    return graph.add("Reshape", both, graph.shape(1, -1))


def _tokens(bias: np.ndarray, large: bool, array: np.ndarray) -> np.ndarray:
    """Tokens as the student lays them out: (1, T, C x F), or (1, C, T, F)."""
    if large:
        return (array.T + bias)[None]
    channels = len(bias)
    return array.reshape(1, channels, channels, -1).transpose(TIME_LAST) + bias[:, None, None]
