"""MobileNet students as ONNX: timm's modules walked in the order they run.

In timm's blocks the order of the children is the order of `forward`; a block with `has_skip` adds
its input. BatchNorm folds into the convolution before it, and time is the last axis, as in
`wav2small.py`. A layer this walk does not know is rejected by name.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import nn

from wav2small.errors import Wav2SmallError
from wav2small.students.base import Student
from wav2small.students.mobilenet import MaskedSqueeze

from . import frontend
from .frontend import DECIBELS, TIME_LAST
from .graph import Graph
from .weights import Weights


def build(student: Student, weights: Weights, graph: Graph) -> str:
    """Add the student from `signal` to its pooled embedding [1, E]."""
    extractor = "spectrogram_extractor"
    mean, power = frontend.moments(graph, exact=True)
    bands = frontend.mel_matrix(graph, weights.numpy("logmel_extractor.melW"))
    x = frontend.log_mel(
        graph,
        graph.add("Sub", "signal", mean),
        real=weights.numpy(f"{extractor}.conv_real.weight")[:, 0],
        imag=weights.numpy(f"{extractor}.conv_imag.weight")[:, 0],
        bands=graph.add("Div", bands, power),
        hop=student.get_submodule(extractor).hop,  # type: ignore[arg-type]
    )
    graph.layer("logmel_extractor", x, lambda x: x.transpose(TIME_LAST) * DECIBELS)
    walk = _Walk(student, weights, graph, {"network.conv_stem": DECIBELS})
    for name in ("conv_stem", "bn1", "blocks"):
        x = walk.visit(f"network.{name}", x)
    x = graph.add("ReduceMean", walk.finish(x), axes=[2, 3])
    for name in ("conv_head", "norm_head", "act2"):
        x = walk.visit(f"network.{name}", x)
    return graph.add("Reshape", walk.finish(x), graph.shape(1, -1))


class _Walk:
    """Adds modules one after the other; a convolution waits for the BatchNorm that may follow."""

    def __init__(self, student: Student, weights: Weights, graph: Graph, factors: dict[str, float]):
        self.student, self.weights, self.graph = student, weights, graph
        self._factors = factors  # of the inputs of convolutions, by name
        self._waiting = ""  # name of a convolution whose input is the current tensor

    def visit(self, name: str, x: str) -> str:
        """Add the module `name` behind tensor `x`."""
        module = self.student.get_submodule(name)
        if isinstance(module, nn.Identity):
            return x
        if isinstance(module, nn.Conv2d):
            x = self.finish(x)
            self._waiting = name
            return x
        if isinstance(module, nn.BatchNorm2d):
            if not self._waiting:
                raise self._unknown(name, "a BatchNorm without a convolution before it")
            x = self._convolve(x, norm=name)
            x = self._activate(f"{name}.act", getattr(module, "act", nn.Identity()), x)
            return self.graph.layer(name, x, lambda array: array.transpose(TIME_LAST))
        x = self.finish(x)
        if isinstance(module, MaskedSqueeze):
            return self._squeeze(name, x)
        children = [child for child, _ in module.named_children()]
        if not children:
            return self._activate(name, module, x)
        block = x
        for child in children:
            x = self.visit(f"{name}.{child}", x)
        x = self.finish(x)
        if getattr(module, "has_skip", False):
            x = self.graph.add("Add", x, block)
        return x

    def finish(self, x: str) -> str:
        """Add the convolution that waits, without a BatchNorm."""
        return self._convolve(x) if self._waiting else x

    def _convolve(self, x: str, norm: str = "") -> str:
        name, self._waiting = self._waiting, ""
        module = self.student.get_submodule(name)
        assert isinstance(module, nn.Conv2d)
        bias = f"{name}.bias" if module.bias is not None else ""
        gain, shift = None, None
        if norm:
            gain, shift = self.weights.fold(norm, bias)
        elif bias:
            shift = self.weights.numpy(bias)
        if name in self._factors:
            factor = np.full(module.out_channels, self._factors[name], np.float32)
            gain = factor if gain is None else gain * factor
        kernel = self.weights.store(self.graph, f"{name}.weight", gain=gain, axes=TIME_LAST)
        inputs = [x, kernel] + ([] if shift is None else [self.graph.constant(shift)])
        pads, strides = _turned(module.padding) * 2, _turned(module.stride)
        dilations, group = _turned(module.dilation), module.groups
        return self.graph.add(
            "Conv", *inputs, pads=pads, strides=strides, dilations=dilations, group=group
        )

    def _activate(self, name: str, module: nn.Module, x: str) -> str:
        if isinstance(module, nn.Identity):
            return x
        if isinstance(module, nn.ReLU):
            return self.graph.add("Relu", x)
        if isinstance(module, nn.Hardswish):
            return self.graph.add("HardSwish", x)
        if isinstance(module, nn.Hardsigmoid):
            return self.graph.add("HardSigmoid", x, alpha=1 / 6, beta=0.5)
        raise self._unknown(name, type(module).__name__)

    def _squeeze(self, name: str, x: str) -> str:
        gate = self.graph.add("ReduceMean", x, axes=[2, 3])
        for child in ("conv_reduce", "act1", "conv_expand", "gate"):
            gate = self.visit(f"{name}.{child}", gate)
        return self.graph.add("Mul", x, self.finish(gate))

    def _unknown(self, name: str, what: str) -> Wav2SmallError:
        return Wav2SmallError(
            f"student {self.student.name!r} cannot be exported: {name} is {what}; "
            "add it to wav2small.export.onnx.mobilenet"
        )


def _turned(size: Sequence[int] | str) -> list[int]:
    """(time, mel) as [mel, time]."""
    assert not isinstance(size, str)
    return [int(number) for number in reversed(size)]
