"""The ONNX model of a student, from `signal` to `logits`, and the registry of its builders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pkgutil import resolve_name

import onnx

from wav2small.errors import Wav2SmallError
from wav2small.students.base import Student

from . import nano
from .graph import Graph, value
from .weights import Weights

#: Adds a student to a graph, from the input `signal` to the pooled embedding [1, E].
Builder = Callable[[Student, Weights, Graph], str]

#: Builders by the name of their student, as "module:object".
_BUILDERS: dict[str, Builder | str] = {
    "wav2small": "wav2small.export.onnx.wav2small:build",
    "wav2small2": "wav2small.export.onnx.wav2small:build",
    "mobilenetv3_small": "wav2small.export.onnx.mobilenet:build",
    "mobilenetv3_large": "wav2small.export.onnx.mobilenet:build",
    "mobilenetv4_conv_small": "wav2small.export.onnx.mobilenet:build",
    "mobilenetv4_conv_medium": "wav2small.export.onnx.mobilenet:build",
    "nano": "wav2small.export.onnx.nano:build",
}


def register_builder(name: str, builder: Builder | str) -> None:
    """Make a student exportable.

    Args:
        name: of the student in `wav2small.students.registry`
        builder: see `Builder`; or where it is, as "module:object"

    Example:
        >>> register_builder("mine", "mypackage.onnx:build")
    """
    _BUILDERS[name] = builder


def find_builder(name: str) -> Builder:
    """The builder of the student of this name.

    Raises:
        Wav2SmallError: no builder is registered for this student

    Example:
        >>> find_builder("nano").__module__
        'wav2small.export.onnx.nano'
    """
    builder = _BUILDERS.get(name)
    if builder is None:
        raise Wav2SmallError(
            f"student {name!r} cannot be exported; "
            "add a builder with wav2small.export.onnx.models.register_builder (see docs/export.md)"
        )
    return resolve_name(builder) if isinstance(builder, str) else builder


def build(
    student: Student,
    precision: str,
    metadata: Mapping[str, str] | None = None,
    *,
    unrolled: bool = False,
) -> tuple[onnx.ModelProto, Graph]:
    """The ONNX model of a student, and the graph with the names of its layers.

    Outputs: `logits` [1, 3], `hidden_states` [1, E] and `categories` [1, K], of which the student
    estimates; with a head for voice activity `speech` [1, 1], the share of frames that hold speech
    rather than not, and `speech_logits` [1, 3], the estimate of those that do for sure
    (`nano.SPOKEN`), NaN without any.

    Args:
        student: in evaluation mode
        precision: one of `weights.PRECISIONS`
        metadata: for the file
        unrolled: no loops: larger in memory, but every layer can be looked at

    Raises:
        Wav2SmallError: no builder is registered for this student

    Example:
        >>> from wav2small.students import registry
        >>> model, graph = build(registry.create("nano").eval(), "int8")
        >>> [output.name for output in model.graph.output]
        ['logits', 'hidden_states']
    """
    add_student = find_builder(student.name)
    graph = Graph(unrolled=unrolled)
    weights = Weights(student, precision)
    embedding = add_student(student, weights, graph)
    graph.add("Identity", embedding, name="hidden_states")
    outputs = [value("hidden_states", [1, student.embedding])]
    if student.dimensions:
        outputs.insert(0, value("logits", [1, 3]))
        head = _linear(graph, weights, "adv", "logits")
        if getattr(student, "voice", None) is not None:
            graph.add("Gemm", nano.SPEECH_STATES, *head, transB=1, name="speech_logits")
            outputs += [value(nano.SPEECH, [1, 1]), value("speech_logits", [1, 3])]
    if student.category is not None:
        _linear(graph, weights, "category", "categories")
        outputs.append(value("categories", [1, student.category.out_features]))
    return graph.model([value("signal", [1, "time"])], outputs, metadata), graph


def _linear(graph: Graph, weights: Weights, module: str, output: str) -> tuple[str, str]:
    """Add a layer of the embedding; the names of its weight and bias."""
    weight = weights.store(graph, f"{module}.weight")
    head = weight, graph.constant(weights.numpy(f"{module}.bias"))
    graph.add("Gemm", "hidden_states", *head, transB=1, name=output)
    graph.layer(module, output)
    return head
