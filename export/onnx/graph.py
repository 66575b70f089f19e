"""A small builder of ONNX graphs: short names, constants stored once, layers by name.

Files of a few ten thousand bytes spend a tenth of them on names and repeated shape constants;
this builder spends neither.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

IR_VERSION = 8  # ONNX 1.13 and every runtime since ONNX Runtime 1.13
Restore = Callable[[np.ndarray], np.ndarray]
Layers = dict[str, tuple[str, Restore]]
_DIGITS = "abcdefghijklmnopqrstuvwxyz0123456789"


class Graph:
    """Nodes in the order they are added; every method returns the name of a tensor.

    Args:
        opset: version of the operator set, 17 or more
        prefix: of the short names; the body of a loop needs another one than the graph around it
        unrolled: no loops, so that every named layer is a tensor of this graph

    Attributes:
        layers: tensors of named layers, `{layer: (tensor, restore)}`; `restore` puts the tensor
            into the layout that the student's module of that name gives

    Example:
        >>> graph = Graph()
        >>> total = graph.add("Add", graph.constant(1.0), graph.constant(2.0))
        >>> total
        '_c'
    """

    def __init__(self, *, opset: int = 17, prefix: str = "_", unrolled: bool = False):
        self.opset = opset
        self.layers: Layers = {}
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._count = 0
        self._prefix = prefix
        self.unrolled = unrolled

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """A stored tensor; equal values are stored once."""
        array = np.ascontiguousarray(value, dtype=dtype).reshape(np.shape(value))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = name = self._name()
            self._constants.append(numpy_helper.from_array(array, name))
        return self._known[key]

    def default(self, name: str, value: Any) -> str:
        """What an input of this name is where it is left out; describe the input to `model` too."""
        self._constants.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def integers(self, values: np.ndarray) -> str:
        """A table of int64, stored in the smallest type that holds it."""
        array = np.asarray(values)
        if array.size < 8:
            return self.constant(array, np.int64)
        small = np.result_type(np.min_scalar_type(array.min()), np.min_scalar_type(array.max()))
        return self.add("Cast", self.constant(array, small), to=TensorProto.INT64)

    def shape(self, *sizes: int) -> str:
        """A stored list of integers, for shapes, axes and bounds."""
        return self.constant(sizes, np.int64)

    def add(
        self, op: str, *inputs: str, outputs: int = 1, name: str = "", **attributes: Any
    ) -> Any:
        """Append a node; the name of its output, or a list of them.

        Args:
            op: operator, with its attributes as keywords
            inputs: names of tensors, "" for an optional input that is left out
            outputs: number of outputs
            name: of the only output; "" = a short one
        """
        names = [name] if name else [self._name() for _ in range(outputs)]
        self._nodes.append(helper.make_node(op, list(inputs), names, **attributes))
        return names[0] if len(names) == 1 else names

    def layer(self, name: str, tensor: str, restore: Restore = np.asarray) -> str:
        """Remember a tensor as the output of the student's module `name`; see `layers`."""
        self.layers[name] = (tensor, restore)
        return tensor

    def body(
        self, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]
    ) -> onnx.GraphProto:
        """The nodes as a bare graph, for the body of a loop."""
        return helper.make_graph(self._nodes, "b", inputs, outputs, self._constants)

    def model(
        self,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
        metadata: Mapping[str, str] | None = None,
    ) -> onnx.ModelProto:
        """The nodes as a checked model, with metadata sorted by key; for the others see `value`.

        Example:
            >>> graph = Graph()
            >>> doubled = graph.add("Add", "x", "x", name="y")
            >>> model = graph.model([value("x", [1, "time"])], [value("y", [1, "time"])])
            >>> model.graph.node[0].op_type
            'Add'
        """
        graph = helper.make_graph(self._nodes, "wav2small", inputs, outputs, self._constants)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", self.opset)],
            ir_version=IR_VERSION if self.opset < 21 else 10,
            producer_name="wav2small",
        )
        helper.set_model_props(model, dict(sorted((metadata or {}).items())))
        onnx.checker.check_model(model, full_check=True)
        return model

    def _name(self) -> str:
        count, name = self._count, ""
        self._count += 1
        while count or not name:
            count, digit = divmod(count, len(_DIGITS))
            name = _DIGITS[digit] + name
        return self._prefix + name


def value(name: str, shape: Sequence[int | str] | None, dtype: int = TensorProto.FLOAT) -> Any:
    """Description of an input or output; `None` = unknown shape."""
    return helper.make_tensor_value_info(name, dtype, shape)
