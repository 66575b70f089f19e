"""Cost model of an ONNX file: parameters, multiply-accumulates and bytes, layer by layer.

Shapes come from ONNX Runtime itself: every tensor's shape becomes an output of a copy of the
graph, and the copy is run once on noise. So dynamic graphs, quantised ones and operators that
shape inference does not know are counted alike.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from wav2small.audio import SAMPLING_RATE
from wav2small.errors import Wav2SmallError
from wav2small.session import first_line, open_session, session_options

from . import models

Shapes = dict[str, tuple[int, ...]]

#: Operators whose inner cost cannot be read off the graph; they are named, never guessed.
UNCOUNTED = frozenset(
    "If Scan STFT DFT Attention MultiHeadAttention GroupQueryAttention QAttention".split()
)

#: First inputs of these hold the numbers, the others only scales and zero points.
_DEQUANTISERS = {"DequantizeLinear", "DequantizeBFP"}

#: FLOAT, FLOAT16, DOUBLE, BFLOAT16 of onnx.TensorProto; INT64, STRING and BOOL.
_REAL, _NO_NUMBERS = {1, 10, 11, 16}, {7, 8, 9}

#: Which inputs of an operator hold weights; the other constants steer it (shapes, scales).
_WEIGHT_INPUTS = {
    "QLinearConv": (3, 8),
    "QLinearMatMul": (0, 3),
    "QGemm": (0, 3, 6),
    "ConvInteger": (0, 1),
    "MatMulInteger": (0, 1),
    "DynamicQuantizeMatMul": (0, 1, 4),
    "MatMulIntegerToFloat": (0, 1, 6),
    "MatMulNBits": (1,),
    "QuantizeLinear": (0,),
    "DynamicQuantizeLSTM": (1, 2, 3),
}


def cost(path: str | os.PathLike[str], duration_s: float = 1.0) -> dict[str, Any]:
    """Count one model for one clip length.

    Multiply-accumulates (MACs) are those of convolutions, matrix products and recurrent cells,
    padding counted as published figures do; element-wise work is not counted. A parameter is a
    number of a weight tensor, stored once however often it is used and however it is
    quantised; scales, zero points, shapes and single constants are none.

    Args:
        path: bundle folder or ONNX file with a waveform input
        duration_s: length of the clip in seconds

    Returns:
        `duration_s`, `parameters`, `macs`, `macs_per_s` (of audio), `weight_bytes`,
        `activation_peak_bytes` (most bytes alive at once when the graph, as optimised by ONNX
        Runtime, runs in order with nothing computed in place), `operators` (histogram after all
        optimisation), `uncounted` (operators whose inside is not counted), `layers`: list of
        {name, operator, output, parameters, weight_bytes, macs, output_bytes}

    Raises:
        Wav2SmallError: no onnx package, no model, or it cannot run at this length
    """
    model = models.WaveformModel(path)
    feed = model.feed(models.noise(round(duration_s * SAMPLING_RATE)))
    graph = count(model.path, feed)
    with tempfile.TemporaryDirectory() as folder:
        optimised = _optimise(model.path, Path(folder) / "all.onnx", "ORT_ENABLE_ALL")
        operators = Counter(node.op_type for node in optimised.graph.node)
        # The layout stage blocks channels in ways that hide shapes, so liveness stops before it.
        _optimise(model.path, Path(folder) / "extended.onnx", "ORT_ENABLE_EXTENDED")
        try:
            peak = activation_peak(Path(folder) / "extended.onnx", feed)
        except Wav2SmallError:  # a fused operator that cannot run unfused
            peak = activation_peak(model.path, feed)
    return {
        "duration_s": duration_s,
        **graph,
        "macs_per_s": graph["macs"] / duration_s,
        "activation_peak_bytes": peak,
        "operators": dict(operators.most_common()),
    }


def count(path: str | os.PathLike[str], feed: dict[str, np.ndarray]) -> dict[str, Any]:
    """`parameters`, `macs`, `weight_bytes`, `uncounted` and `layers` of an ONNX file, as of `cost`.

    It may have any inputs; the shapes of those in `feed` are what is counted.
    """
    proto = _load(path)
    shapes, sizes, iterations = _shapes(proto, feed)
    constants = _Constants(proto)
    layers = []
    for loop, node in _nodes(proto):
        if not constants.depends_on_input(node):
            continue  # folded by the runtime: costs nothing per call
        each = [{**shapes, **inner} for inner in iterations[loop]] if loop else [shapes]
        parameters, weight_bytes = constants.claim(node, each[0] if each else shapes)
        macs = sum(_macs(node, known) for known in each)
        output = each[0].get(node.output[0], ()) if each else ()
        if parameters or macs:
            layers.append(
                {
                    "name": node.name or node.output[0],
                    "operator": f"{node.op_type} x {len(each)}" if loop else node.op_type,
                    "output": list(output),
                    "parameters": parameters,
                    "weight_bytes": weight_bytes,
                    "macs": macs,
                    "output_bytes": sum(sizes.get(name, 0) for name in node.output),
                }
            )
    operators = {node.op_type for _, node in _nodes(proto)} & UNCOUNTED
    if any(loop and node.op_type == "Loop" for loop, node in _nodes(proto)):
        operators.add("Loop")  # a loop in a loop
    totals = ("parameters", "macs", "weight_bytes")
    return {
        **{name: sum(layer[name] for layer in layers) for name in totals},
        "uncounted": sorted(operators),
        "layers": layers,
    }


def activation_peak(path: str | os.PathLike[str], feed: dict[str, np.ndarray]) -> int:
    """Most bytes of activations alive at once, nodes run in the file's order.

    A tensor lives from the node that writes it to the last that reads it; views (Reshape and
    its kin) share the memory of what they look at; inputs count, weights do not.
    """
    proto = _load(path)
    _, sizes, _ = _shapes(proto, feed)
    inputs = {name: value.nbytes for name, value in feed.items()}
    return _peak(proto.graph, inputs, sizes, _Constants(proto))


def _peak(graph: Any, inputs: dict[str, int], sizes: dict[str, int], constants: _Constants) -> int:
    nodes = [node for node in graph.node if constants.depends_on_input(node)]
    owner: dict[str, str] = {}
    last: dict[str, int] = {}
    for step, node in enumerate(nodes):
        if node.op_type in _VIEWS:
            owner[node.output[0]] = owner.get(node.input[0], node.input[0])
        inner = [name for body in _bodies(node) for one in body.node for name in one.input]
        for name in [*node.input, *inner]:
            last[owner.get(name, name)] = step
    for output in graph.output:
        last[owner.get(output.name, output.name)] = len(nodes)
    alive = dict(inputs)
    peak = sum(alive.values())
    for step, node in enumerate(nodes):
        for name in node.output:
            if name and name not in owner:
                alive[name] = sizes.get(name, 0)
        # What a loop computes in one iteration comes on top of what lives around it.
        inner_peak = sum(_peak(body, {}, sizes, constants) for body in _bodies(node))
        peak = max(peak, sum(alive.values()) + inner_peak)
        alive = {name: size for name, size in alive.items() if last.get(name, -1) > step}
    return peak


def _bodies(node: Any) -> list[Any]:
    """The body of a loop, [] for other operators."""
    return [attribute.g for attribute in node.attribute if node.op_type == "Loop"
            and attribute.name == "body"]  # fmt: skip


def _nodes(proto: Any) -> Iterator[tuple[str, Any]]:
    """Nodes of the graph and of the bodies of its loops: (first output of the loop or "", node)."""
    for node in proto.graph.node:
        for body in _bodies(node):
            yield from ((node.output[0], inner) for inner in body.node)
        yield "", node


_VIEWS = {"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"}


class _Constants:
    """Which tensors are constant, and which weights stand behind them."""

    def __init__(self, proto: Any):
        self.weights: dict[str, tuple[int, int]] = {}  # name -> elements, bytes
        self.behind: dict[str, set[str]] = {}  # constant tensor -> weights it is made of
        self.quantised: set[str] = set()  # weights stored as integers
        bodies = [body for node in proto.graph.node for body in _bodies(node)]
        for graph in (proto.graph, *bodies):
            for tensor in graph.initializer:
                self._add(tensor.name, tensor)
        for sparse in proto.graph.sparse_initializer:
            self._add(sparse.values.name, sparse.values)
        for _, node in _nodes(proto):
            if node.op_type == "Constant":
                for attribute in node.attribute:
                    if attribute.name == "value":
                        self._add(node.output[0], attribute.t)
                self.behind.setdefault(node.output[0], set())
            elif (
                node.op_type != "Loop"
                and node.input
                and all(name in self.behind or not name for name in node.input)
            ):
                self.behind |= dict.fromkeys(node.output, self._weights(node))
        self.claimed: set[str] = set()

    def _add(self, name: str, tensor: Any) -> None:
        elements = math.prod(tensor.dims)
        self.behind[name] = set()
        # int64 tensors are shapes and indices; a tensor without dimensions is a constant of the
        # recipe (an epsilon, a factor), not something learnt.
        if tensor.data_type in _NO_NUMBERS or not tensor.dims:
            return
        self.weights[name] = (elements, _bytes(tensor.data_type, elements))
        self.behind[name] = {name}
        if tensor.data_type not in _REAL:
            self.quantised.add(name)

    def _weights(self, node: Any) -> set[str]:
        if node.op_type in _DEQUANTISERS:
            chosen = node.input[:1]
        else:
            which = _WEIGHT_INPUTS.get(node.op_type, range(len(node.input)))
            chosen = [name for place, name in enumerate(node.input) if place in which]
        weights = set().union(*(self.behind.get(name, set()) for name in chosen))
        if node.op_type == "Mul" and all(name in self.behind for name in node.input):
            # Integers times their scales, written out: the scales are no parameters.
            return weights & self.quantised or weights
        return weights

    def depends_on_input(self, node: Any) -> bool:
        return not all(name in self.behind for name in node.output)

    def claim(self, node: Any, shapes: Shapes) -> tuple[int, int]:
        """Parameters and bytes that this node is the first to use."""
        new = self._weights(node) - self.claimed
        self.claimed |= new
        parameters = sum(self.weights[name][0] for name in new)
        for name in node.input:
            # Two numbers in one byte, taken apart by the graph: twice as many come out.
            packed = self.behind.get(name, set()) & new & self.quantised
            elements = sum(self.weights[one][0] for one in packed)
            if packed and math.prod(shapes.get(name, ())) == 2 * elements:
                parameters += elements
        return parameters, sum(self.weights[name][1] for name in new)


def _bytes(data_type: int, elements: int) -> int:
    import onnx

    name = onnx.TensorProto.DataType.Name(data_type)
    bits = 4 if name.endswith("INT4") or name == "FLOAT4E2M1" else 2 if name.endswith("INT2") else 0
    if not bits:
        bits = 8 * np.dtype(onnx.helper.tensor_dtype_to_np_dtype(data_type)).itemsize
    return math.ceil(elements * bits / 8)


def _macs(node: Any, shapes: Shapes) -> int:
    """Multiply-accumulates of one node; 0 for element-wise work."""
    ins = [shapes.get(name, ()) for name in node.input]
    out = shapes.get(node.output[0], ())
    operator = node.op_type
    if operator in _CONVOLUTIONS:
        # Weight (out, in / group, *kernel): each output is a dot product of all but the first.
        return math.prod(out) * math.prod(ins[_CONVOLUTIONS[operator]][1:])
    if operator == "ConvTranspose":
        return math.prod(ins[0]) * math.prod(ins[1][1:])
    if operator in _PRODUCTS:
        transposed = len(ins[0]) > 1 and _attribute(node, "transA", 0)
        return math.prod(out) * ins[0][-2 if transposed else -1]
    if operator == "MatMulNBits":
        return math.prod(out) * _attribute(node, "K", 0)
    if operator in ("GRU", "LSTM", "RNN"):
        # X (steps, batch, input), W (directions, gates * hidden, input), R (.., .., hidden);
        # with layout=1 steps and batch change places, which changes no product.
        return ins[0][0] * ins[0][1] * (math.prod(ins[1]) + math.prod(ins[2]))
    if operator == "Einsum":
        equation = _attribute(node, "equation", b"").decode().replace(" ", "")
        terms = equation.split("->")[0].split(",")
        if len(terms) < 2 or "." in equation:
            return 0
        labels = zip("".join(terms), (size for shape in ins for size in shape), strict=True)
        return math.prod(dict(labels).values())
    return 0


#: Which input of a convolution is its weight.
_CONVOLUTIONS = {"Conv": 1, "FusedConv": 1, "NhwcConv": 1, "ConvInteger": 1, "QLinearConv": 3}
_PRODUCTS = frozenset(
    "MatMul FusedMatMul MatMulInteger MatMulIntegerToFloat DynamicQuantizeMatMul QLinearMatMul "
    "Gemm FusedGemm QGemm".split()
)


def _attribute(node: Any, name: str, default: Any) -> Any:
    import onnx

    for attribute in node.attribute:
        if attribute.name == name:
            return onnx.helper.get_attribute_value(attribute)
    return default


def _load(path: str | os.PathLike[str]) -> Any:
    try:
        import onnx
    except ImportError as error:
        raise Wav2SmallError(
            "the cost model needs the package onnx: pip install onnx (or give --no-cost)"
        ) from error
    try:
        return onnx.load(os.fspath(path))
    except Exception as error:  # protobuf and onnx raise unrelated classes
        raise Wav2SmallError(f"{path}: not an ONNX file: {first_line(error)}") from error


def _shapes(
    proto: Any, feed: dict[str, np.ndarray]
) -> tuple[Shapes, dict[str, int], dict[str, list[Shapes]]]:
    """Shapes of all tensors, by running the graph once.

    Returns:
        shape of every tensor outside loops; bytes of every activation (inside loops the most of
        all iterations, float32); first output of each loop -> shapes inside it, by iteration
    """
    import onnx

    shapes: Shapes = {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}
    shapes |= {name: value.shape for name, value in feed.items()}
    names = [name for node in proto.graph.node for name in node.output if name]
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    del copy.graph.output[:]
    inside: dict[str, list[str]] = {}
    for node in copy.graph.node:
        for body in _bodies(node):
            shapes |= {tensor.name: tuple(tensor.dims) for tensor in body.initializer}
            inside[node.output[0]] = _watch(body, node)
    # The default domain only: Shape of opset 13 serves all; older graphs have it as well.
    for name in names:
        copy.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
        measured = f"{name}//shape"
        copy.graph.node.append(onnx.helper.make_node("Shape", [name], [measured]))
        copy.graph.output.append(_int64(measured))
    looped = [f"{name}//iterations" for watched in inside.values() for name in watched]
    copy.graph.output.extend(map(_int64, looped))
    try:
        with tempfile.TemporaryDirectory() as folder:
            # As a file with its weights outside: a serialised message ends at 2 GB.
            file = os.path.join(folder, "probe.onnx")
            large = copy.ByteSize() > 1 << 30
            onnx.save_model(copy, file, save_as_external_data=large)
            session = open_session(file, options=_options("ORT_DISABLE_ALL"))
            names_out = [f"{name}//shape" for name in names] + looped
            results = dict(zip(names_out, session.run(names_out, feed), strict=True))
    except Exception as error:  # ORT raises eight unrelated classes
        raise Wav2SmallError(
            f"the graph cannot be run for counting: {first_line(error)}"
        ) from error
    types = {output.name: output.type for output in session.get_outputs()}
    sizes = {name: value.nbytes for name, value in feed.items()}
    for name in names:
        shapes[name] = tuple(int(size) for size in results[f"{name}//shape"])
        sizes[name] = math.prod(shapes[name]) * _WIDTHS.get(types[name], 4)
    iterations: dict[str, list[Shapes]] = {}
    for loop, watched in inside.items():
        rows = [results[f"{name}//iterations"] for name in watched]  # each (iterations, rank)
        iterations[loop] = [
            {name: tuple(map(int, row)) for name, row in zip(watched, each, strict=True)}
            for each in zip(*rows, strict=True)
        ]
        for name in watched:
            inner_sizes = (math.prod(inner[name]) for inner in iterations[loop])
            sizes[name] = 4 * max(inner_sizes, default=0)
    return shapes, sizes, iterations


def _watch(body: Any, node: Any) -> list[str]:
    """Make a loop give the shapes of all tensors inside it, one row per iteration."""
    import onnx

    names = [value.name for value in body.input]
    names += [name for inner in body.node for name in inner.output if name]
    for name in names:
        body.node.append(onnx.helper.make_node("Shape", [name], [f"{name}//inside"]))
        body.output.append(_int64(f"{name}//inside"))
        node.output.append(f"{name}//iterations")
    return names


def _int64(name: str) -> Any:
    import onnx

    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, None)


_WIDTHS = {
    "tensor(float16)": 2, "tensor(bfloat16)": 2, "tensor(double)": 8, "tensor(int64)": 8,
    "tensor(int8)": 1, "tensor(uint8)": 1, "tensor(bool)": 1, "tensor(int16)": 2,
}  # fmt: skip


def _optimise(source: Path, target: Path, level: str) -> Any:
    import onnx

    options = _options(level)
    options.optimized_model_filepath = str(target)
    open_session(source, options=options)
    return onnx.load(str(target), load_external_data=False)


def _options(level: str) -> Any:
    import onnxruntime

    options = session_options(severity=4)
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    return options
