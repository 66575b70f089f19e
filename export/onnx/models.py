"""Which student is built by what, and the whole model from `signal` to `logits`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx

from wav2small.errors import Wav2SmallError
from wav2small.students.base import Student

from . import mobilenet, nano, wav2small
from .graph import Graph
from .weights import Weights

#: Adds a student to a graph, from the input `signal` to the pooled embedding [1, E].
Builder = Callable[[Student, Weights, Graph], str]

_BUILDERS: dict[str, Builder] = {
    "wav2small": wav2small.build,
    "wav2small2": wav2small.build,
    "mobilenetv3_small": mobilenet.build,
    "mobilenetv3_large": mobilenet.build,
    "mobilenetv4_conv_small": mobilenet.build,
    "mobilenetv4_conv_medium": mobilenet.build,
    "nano": nano.build,
}


def register_builder(name: str, builder: Builder) -> None:
    """Make a student exportable.

    Args:
        name: of the student in `wav2small.students.registry`
        builder: see `Builder`
    """
    _BUILDERS[name] = builder


def build(
    student: Student,
    precision: str,
    metadata: Mapping[str, str] | None = None,
    *,
    whole: bool = False,
) -> tuple[onnx.ModelProto, Graph]:
    """The ONNX model of a student, and the graph with the names of its layers.

    Outputs: `logits` [1, 3], `hidden_states` [1, E] and, if the student has them, `categories`.

    Args:
        student: in evaluation mode
        precision: one of `weights.PRECISIONS`
        metadata: for the file
        whole: no loops: larger in memory, but every layer can be looked at

    Raises:
        Wav2SmallError: nobody told how to build this student
    """
    if student.name not in _BUILDERS:
        raise Wav2SmallError(
            f"student {student.name!r} cannot be exported; "
            "tell how with wav2small.export.onnx.models.register_builder (see docs/export.md)"
        )
    graph = Graph(whole=whole)
    weights = Weights(student, precision)
    embedding = _BUILDERS[student.name](student, weights, graph)
    graph.add("Identity", embedding, name="hidden_states")
    outputs = {"logits": [1, 3], "hidden_states": [1, student.embedding]}
    _linear(graph, weights, "adv", "logits")
    if student.category is not None:
        _linear(graph, weights, "category", "categories")
        outputs["categories"] = [1, student.category.out_features]
    return graph.model(outputs, dict(metadata or {})), graph


def _linear(graph: Graph, weights: Weights, module: str, output: str) -> None:
    graph.add(
        "Gemm",
        "hidden_states",
        weights.store(graph, f"{module}.weight"),
        graph.constant(weights.numpy(f"{module}.bias")),
        transB=1,
        name=output,
    )
    graph.layer(module, output)
