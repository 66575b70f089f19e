"""int8-static: weights and activations in 8 bits, for hardware that computes in integers.

ONNX Runtime's own quantiser puts QuantizeLinear / DequantizeLinear pairs around the operators of
the float graph, with ranges found on real clips. The front end stays in float: a logarithm of
powers over ten decades has no use for 256 levels. The pooling over time stays in float too (its
matrices with 8-bit weights): a softmax over thousands of frames has shares far below 1/256, which
rounding takes away (measured on a trained `wav2small`: outputs .28 off).
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from wav2small.errors import Wav2SmallError
from wav2small.students.base import Student

from . import models
from .graph import Graph

CALIBRATION_CLIPS = 64
POOLING = ("MatMul", "Split", "Softmax", "Sigmoid", "ReduceSum")  # where it begins
QUANTISED = ("Conv", "MaxPool", "Add", "Mul")


def build(
    student: Student, metadata: Mapping[str, str], calibration: Sequence[np.ndarray]
) -> tuple[onnx.ModelProto, Graph]:
    """The quantised model, and the float graph with the names of its layers.

    64 evenly spread ones of the real clips, each (n,) float32, are used for calibration.

    Raises:
        Wav2SmallError: no clips
    """
    from onnxruntime import quantization

    if not calibration:
        raise Wav2SmallError("int8-static needs real clips to calibrate on; add --calibration")
    chosen = np.linspace(0, len(calibration) - 1, min(CALIBRATION_CLIPS, len(calibration)))
    clips = [calibration[int(number)] for number in np.unique(chosen.round())]
    model, graph = models.build(student, "int8-static", unrolled=True)
    for number, node in enumerate(model.graph.node):
        node.name = f"n{number}"
    inside = _network(model, graph)
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    try:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "float.onnx", Path(folder) / "static.onnx"
            onnx.save(model, source)
            quantization.quantize_static(
                source,
                target,
                _Reader(clips),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=list(QUANTISED),
                nodes_to_quantize=inside,
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                calibrate_method=quantization.CalibrationMethod.MinMax,
                extra_options={"ForceQuantizeNoInputCheck": False},
            )
            quantised = onnx.load(target)
            _keep_float_for_float(quantised, set(inside))
    finally:
        logging.getLogger().setLevel(level)
    del quantised.metadata_props[:]
    helper.set_model_props(quantised, dict(sorted(metadata.items())))
    quantised.producer_name, quantised.producer_version = "wav2small", ""
    return quantised, graph


def _keep_float_for_float(model: onnx.ModelProto, inside: set[str]) -> None:
    """Take out the rounding of tensors that only float operators read.

    The products before the pooling have wide ranges (logits of a softmax), and their
    accumulators are wider than 8 bits anyway.
    """
    nodes = model.graph.node
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {output.name for output in model.graph.output}
    for quantise in [node for node in nodes if node.op_type == "QuantizeLinear"]:
        for back in readers.get(quantise.output[0], []):
            users = readers.get(back.output[0], [])
            if back.output[0] in outputs or any(user.name in inside for user in users):
                continue
            for user in users:
                for place, name in enumerate(user.input):
                    if name == back.output[0]:
                        user.input[place] = quantise.input[0]
            nodes.remove(back)
        if not any(quantise.output[0] in node.input for node in nodes):
            nodes.remove(quantise)


class _Reader:
    """Clips one after the other, as ONNX Runtime's calibration asks for them."""

    def __init__(self, clips: Sequence[np.ndarray]):
        self._feeds = iter([{"signal": clip[None]} for clip in clips])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def _network(model: onnx.ModelProto, graph: Graph) -> list[str]:
    """Nodes between the front end and the pooling over time."""
    front = next(name for name in graph.layers if name.endswith(("logmel", "logmel_extractor")))
    reached = {graph.layers[front][0]}
    names = []
    for node in model.graph.node:
        if reached & set(node.input) and node.op_type not in POOLING:
            reached |= set(node.output)
            if node.op_type in QUANTISED:
                names.append(node.name)
    return names
