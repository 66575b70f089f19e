"""Differences between a file and its student on the same signal, layer by layer."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from onnx import helper

from wav2small import session as runtime
from wav2small.students.base import Student

from .graph import Layers


class LayerDifference(NamedTuple):
    """Difference of one layer's output."""

    name: str  # of the student's module
    difference: float  # root of the mean squared difference, relative to that of the output
    growth: float  # what this layer adds to the difference of the layer before it


def compare(
    student: Student, model: onnx.ModelProto, layers: Layers, signal: np.ndarray
) -> list[LayerDifference]:
    """Compare layer by layer, in the order of the computation.

    Args:
        student: in evaluation mode
        model: its file
        layers: `Graph.layers` of the file
        signal: (n,) float32
    """
    expected: dict[str, np.ndarray] = {}

    def keep(name: str, module: Any, inputs: Any, output: torch.Tensor) -> None:
        expected[name] = output.detach().numpy()

    with contextlib.ExitStack() as hooks, torch.no_grad():
        for name in layers:
            hook = student.get_submodule(name).register_forward_hook(partial(keep, name))
            hooks.callback(hook.remove)
        student(torch.from_numpy(signal)[None])
    there = {tensor for node in model.graph.node for tensor in node.output}
    asked = {name: layers[name] for name in expected if layers[name][0] in there}
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    tensors = [tensor for tensor, _ in asked.values()]
    for tensor in sorted({*tensors} - {output.name for output in model.graph.output}):
        opened.graph.output.append(helper.make_empty_tensor_value_info(tensor))
    session = runtime.open_session(opened.SerializeToString())
    outputs = session.run(tensors, {"signal": signal[None]})
    result, previous = [], 0.0
    for (name, (_, restore)), array in zip(asked.items(), outputs, strict=True):
        reference = expected[name].astype(np.float64)
        difference = _rms(_aligned(restore(array), reference.shape) - reference)
        relative = difference / max(_rms(reference), 1e-12)
        result.append(LayerDifference(name, relative, relative - previous))
        previous = relative
    return result


def worst(layers: list[LayerDifference]) -> LayerDifference:
    """The layer that adds most; NaN counts as most.

    Example:
        >>> worst([LayerDifference("stem", 0.01, 0.01), LayerDifference("head", 0.05, 0.04)]).name
        'head'
    """
    return max(layers, key=lambda layer: np.nan_to_num(layer.growth, nan=np.inf))


def table(layers: list[LayerDifference]) -> str:
    """The layers as lines of text.

    Example:
        >>> print(table([LayerDifference("stem", 0.01, 0.01)]))
        layer  difference     adds
        stem     1.00e-02  1.0e-02
    """
    width = max(len(layer.name) for layer in layers)
    lines = [f"{'layer':{width}}  difference     adds"]
    lines += [
        f"{layer.name:{width}}  {layer.difference:10.2e}  {max(layer.growth, 0):7.1e}"
        for layer in layers
    ]
    return "\n".join(lines)


def _aligned(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if array.ndim == len(shape):  # padded channels are cut off
        array = array[tuple(slice(size) for size in shape)]
    return array.reshape(shape).astype(np.float64)


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))
