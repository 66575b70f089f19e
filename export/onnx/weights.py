"""How weights are stored: small in the file, floats once the file is loaded.

Every operator here works on constants only, so ONNX Runtime computes it once while loading
(constant folding) and a call finds plain float32 weights, padded to the width of its fast
convolutions. `DequantizeLinear` would be shorter, but the runtime leaves it in place for its own
8-bit kernels and would run it in every call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from onnx import TensorProto

from wav2small.students import quantisation
from wav2small.students.base import Student

from .graph import Graph

PRECISIONS = ("fp32", "int8", "int4", "int8-static")
BLOCK = 16  # channels of the widest blocked convolution (AVX-512); AVX2 and NEON use 8 and 4


class Weights:
    """The weights of a student at a precision.

    Args:
        student: in evaluation mode
        precision: "fp32", "int8" or "int4"; for "int8-static" matrices only, the convolutions
            are left to `static.py`

    Attributes:
        levels: largest integer of each stored parameter's grid, by name; see
            `students.quantisation`

    Example:
        >>> from wav2small.students import registry
        >>> student = registry.create("wav2small").eval()
        >>> sorted(set(Weights(student, "int4").levels.values()))
        [7, 127]
    """

    def __init__(self, student: Student, precision: str):
        self.student = student
        self.state = student.state_dict()
        self.levels: dict[str, int] = {}
        if precision in ("int8", "int4"):
            self.levels = quantisation.plan(student, precision)
        elif precision == "int8-static":
            plan = quantisation.plan(student, "int8")
            self.levels = {
                name: level for name, level in plan.items() if self.state[name].dim() < 3
            }

    def numpy(self, name: str) -> np.ndarray:
        """A tensor of the state dict as it is."""
        return self.state[name].detach().cpu().numpy()

    def store(
        self,
        graph: Graph,
        names: str | Sequence[str],
        *,
        gain: np.ndarray | None = None,
        axes: Sequence[int] | None = None,
        shape: Sequence[int] | None = None,
        pad: Mapping[int, int] | None = None,
    ) -> str:
        """Store weights and restore them at load; the name of the float32 tensor.

        Args:
            graph: where to
            names: parameter, or several that become one along the first axis (outputs)
            gain: one factor per output (folded BatchNorm); it goes into the scales, so that the
                integers are those that quantisation-aware training saw
            axes: order of axes in the graph; the first must stay the first
            shape: of one stored tensor, before `axes`
            pad: zeros to append, `{axis: size afterwards}`
        """
        names = [names] if isinstance(names, str) else list(names)
        levels = {self.levels.get(name) for name in names}
        if len(levels) > 1:
            raise ValueError(f"{names} are stored on different grids")
        parts = [self.state[name].detach().cpu() for name in names]
        gains = np.ones(sum(map(len, parts)), np.float32) if gain is None else gain
        level = levels.pop()
        if level is None:
            weight = np.concatenate([part.numpy() for part in parts])
            weight = _view(_rows(gains, weight) * weight, shape, axes)
            return pad_zeros(graph, graph.constant(weight), weight.shape, pad or {})
        integers, scales = zip(*(quantisation.quantise(part, level) for part in parts), strict=True)
        scale = torch.cat([part.flatten() for part in scales]).numpy() * gains
        stored = _view(torch.cat(integers).numpy(), shape, axes)
        if level <= 7:
            tensor = _unpack(graph, stored)
        else:
            tensor = graph.add("Cast", graph.constant(stored, np.int8), to=TensorProto.FLOAT)
        tensor = graph.add("Mul", tensor, _halved(graph, _rows(scale, stored)))
        return pad_zeros(graph, tensor, stored.shape, pad or {})

    def bias(self, graph: Graph, values: np.ndarray, weight: str) -> str:
        """Store the biases (outputs,) of a convolution; float32 unless `weight`, its parameter, is
        on a grid.
        """
        return _halved(graph, values, 1e-3) if weight in self.levels else graph.constant(values)

    def fold(self, norm: str, bias: str = "") -> tuple[np.ndarray, np.ndarray]:
        """BatchNorm `norm` after a convolution as (gain, bias) of that convolution's outputs.

        `bias` names the convolution's own bias, if it has one.
        """
        module = self.student.get_submodule(norm)
        gain, mean, variance, beta = (
            self.numpy(f"{norm}.{key}").astype(np.float64)
            for key in ("weight", "running_mean", "running_var", "bias")
        )
        gain = gain / np.sqrt(variance + float(module.eps))  # type: ignore[arg-type]
        own = self.numpy(bias).astype(np.float64) if bias else 0.0
        return gain.astype(np.float32), (beta + (own - mean) * gain).astype(np.float32)


def _halved(graph: Graph, values: np.ndarray, least: float = 0.0) -> str:
    """Store in half precision if no value changes by more than .05 % of itself, or of `least`."""
    half = values.astype(np.float16)
    close = np.abs(half.astype(np.float32) - values) <= 5e-4 * np.maximum(np.abs(values), least)
    if values.size < BLOCK or not close.all():
        return graph.constant(values)
    return graph.add("Cast", graph.constant(half, np.float16), to=TensorProto.FLOAT)


def pad_zeros(graph: Graph, tensor: str, shape: Sequence[int], pad: Mapping[int, int]) -> str:
    """Append zeros at load; nothing where the size is right already."""
    after = [pad.get(axis, size) - size for axis, size in enumerate(shape)]
    if not any(after):
        return tensor
    return graph.add("Pad", tensor, graph.shape(*[0] * len(shape), *after))


def blocks(channels: int) -> int:
    """Channels rounded up to complete blocks of the runtime's fast convolutions.

    Example:
        >>> blocks(13), blocks(16), blocks(17)
        (16, 16, 32)
    """
    return -(-channels // BLOCK) * BLOCK


def _rows(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    return values.reshape(-1, *[1] * (like.ndim - 1)).astype(np.float32)


def _view(array: np.ndarray, shape: Sequence[int] | None, axes: Sequence[int] | None) -> np.ndarray:
    if shape is not None:
        array = array.reshape(shape)
    return array if axes is None else np.ascontiguousarray(array.transpose(axes))


def _unpack(graph: Graph, levels: np.ndarray) -> str:
    """Two numbers -7..7 per byte: the low half of the byte holds the first half of the outputs.

    Plain float arithmetic, since not every runtime knows a 4-bit type.
    """
    outputs = len(levels)
    if outputs % 2:
        levels = np.concatenate([levels, np.zeros_like(levels[:1])])
    low, high = np.split(levels.astype(np.int64) + 8, 2)
    packed = graph.add("Cast", graph.constant(low + 16 * high, np.uint8), to=TensorProto.FLOAT)
    upper = graph.add("Floor", graph.add("Mul", packed, graph.constant(1 / 16)))
    lower = graph.add("Sub", packed, graph.add("Mul", upper, graph.constant(16.0)))
    tensor = graph.add("Sub", graph.add("Concat", lower, upper, axis=0), graph.constant(8.0))
    if outputs % 2:
        tensor = graph.add("Slice", tensor, graph.shape(0), graph.shape(outputs), graph.shape(0))
    return tensor
