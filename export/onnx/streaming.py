"""`streaming.onnx`: nano one or more hops at a time, with its past as explicit tensors.

A step takes `hops` complete hops and gives one estimate per hop. Everything that the next step
needs comes out as `next_state` and `next_pool` and goes in again as `state` and `pool`; a stream
starts with zeros, except for the places in `state` that the metadata entry `stream_initial` lists
as `offset:count:value`.

| input | type | |
|---|---|---|
| `block` | float32 [1, hops x hop] | new samples |
| `weight` | float32 [1, hops] | how much each hop counts, 0..1 (energy gate, voice activity) |
| `log_keep` | float64 [1] | -hop / memory, of the estimate over the last seconds |
| `state` | float32 [1, S] | the parts that `stream_layout` lists |
| `pool` | float64 [1, 4 E] | sums of gate x value, of gate: memory, everything |
| `threshold` | float32 [1] | with a head for voice activity, optional: see below; .8 |

| output | type | |
|---|---|---|
| `estimates` | float32 [1, hops, 6] | A, D, V over the memory, then over everything |
| `next_state`, `next_pool` | as their inputs | |
| `speech` | float32 [1, hops] | with the head: probability that a hop holds speech |

The sums are float64: after a day of audio a float32 sum would no longer move. A hop of weight 0
leaves the sums as they are, bit by bit, so silence neither moves an estimate nor fades it. With a
head for voice activity a hop whose `speech` is below `threshold` has weight 0; threshold 0 = none.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto

from wav2small import files
from wav2small.errors import Wav2SmallError
from wav2small.students.base import Student
from wav2small.students.nano import EMPTY, LOWEST, SCALE, SPOKEN, Nano

from . import nano
from .graph import Graph, value
from .weights import Weights

FILE = "streaming.onnx"
_FAR = 1e9  # octaves below the level: so low that the maximum ignores it


class StatePart(NamedTuple):
    """A tensor inside `state`: (rows, columns), time last."""

    name: str
    rows: int
    columns: int


def layout(student: Nano) -> list[StatePart]:
    """The parts of `state`, in order.

    Example:
        >>> from wav2small.students import registry
        >>> [part.name for part in layout(registry.create("nano"))]
        ['last_hop', 'started', 'level', 'stem', 'blocks']
    """
    stem = student.stem
    deep = [block.depthwise for block in student.blocks]
    parts = [
        StatePart("last_hop", 1, student.hop),
        StatePart("started", 1, 1),  # 0 before the first hop: the first hop alone is no frame
        StatePart("level", 1, student.level_frames - 1),
        StatePart("stem", stem.conv.in_channels, stem.context),
        # of all depthwise convolutions side by side along time, each oldest first
        StatePart("blocks", deep[0].conv.in_channels, sum(layer.context for layer in deep)),
    ]
    if student.voice is not None:
        layers = student.voice.context  # likewise
        parts.append(StatePart("voice", layers[0].conv.in_channels, sum(m.context for m in layers)))
    return [part for part in parts if part.columns]


def build(student: Nano, precision: str = "int8") -> onnx.ModelProto:
    """The streaming model of a nano in evaluation mode.

    Args:
        student: trained
        precision: of the stored weights: "fp32", "int8" or "int4"

    Raises:
        Wav2SmallError: not a nano

    Example:
        >>> from wav2small.students import registry
        >>> model = build(registry.create("nano").eval())
        >>> [output.name for output in model.graph.output]
        ['estimates', 'next_state', 'next_pool']
    """
    if not isinstance(student, Nano):
        raise Wav2SmallError(
            f"student {student.name!r} is not causal and has no streaming model; "
            "`wav2small.Stream` runs it in sliding windows"
        )
    return _Builder(student, precision).model()


def write_streaming(
    student: Student, folder: str | os.PathLike[str], *, precision: str = "int8"
) -> Path:
    """Write `streaming.onnx` into the folder of a bundle, see `build`; returns its path.

    Raises:
        Wav2SmallError: not a nano
    """
    model = build(student, precision)  # type: ignore[arg-type]
    path = Path(folder) / FILE
    with files.atomic(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
    return path


class _Builder:
    def __init__(self, student: Nano, precision: str):
        self.student = student
        self.graph = Graph()
        self.weights = Weights(student, precision)
        self.parts = layout(student)

    def model(self) -> onnx.ModelProto:
        s, g = self.student, self.graph
        sizes = [part.rows * part.columns for part in self.parts]
        parts = g.add("Split", "state", g.shape(*sizes), outputs=len(sizes), axis=1)
        past = dict(zip((part.name for part in self.parts), parts, strict=True))

        # `signal` is the input of the offline graph's front end, one hop of the past included.
        g.add("Concat", past["last_hop"], "block", axis=1, name="signal")
        power = nano.power(s, g)
        log = nano.bands(s, g, power)  # natural, [mels, frames]
        last_hop = self._last("signal", s.hop, axis=1)
        valid, started = self._valid(past["started"])
        x, level = self._features(log, past["level"], valid)

        valid_map = g.add("Unsqueeze", valid, g.shape(0, 1))  # [1, 1, 1, frames]
        x = g.add("Mul", x, valid_map)
        before = self._map(past["stem"], "stem") if "stem" in past else ""
        y, stem = self._causal("stem", x, before, scale=1 / (SCALE * nano.LN2))
        contexts = [block.depthwise.context for block in s.blocks]
        deep = self._map(past["blocks"], "blocks")
        pasts = [deep]
        if len(contexts) > 1:
            pasts = g.add("Split", deep, g.shape(*contexts), outputs=len(contexts), axis=3)
        y = g.add("Relu", y)
        futures = []
        for number, before in enumerate(pasts):
            y = g.add("Mul", y, valid_map)  # zeros before the first frame
            z, future = self._causal(f"blocks.{number}.depthwise", y, before)
            futures.append(future)
            z, _ = self._causal(f"blocks.{number}.pointwise", z)
            y = g.add("Add", y, g.add("Relu", z))
        deep = g.add("Concat", *futures, axis=3)
        voice, weight = "", g.add("Mul", "weight", valid)
        if s.voice is not None:
            voice, weight = self._voice(y, past["voice"], valid_map, weight)
        estimates, pool = self._pool(y, weight)

        g.add("Identity", estimates, name="estimates")
        flat = [g.add("Reshape", part, g.shape(1, -1)) for part in (stem, deep, voice) if part]
        g.add("Concat", last_hop, started, level, *flat, name="next_state", axis=1)
        g.add("Identity", pool, name="next_pool")
        return self._finish(sizes)

    def _map(self, tensor: str, name: str) -> str:
        """A part of the state as [1, rows, 1, columns]; four axes take the fast convolutions."""
        part = next(part for part in self.parts if part.name == name)
        return self.graph.add("Reshape", tensor, self.graph.shape(1, part.rows, 1, part.columns))

    def _last(self, tensor: str, count: int, *, axis: int) -> str:
        g = self.graph
        return g.add("Slice", tensor, g.shape(-count), g.shape(2**31), g.shape(axis))

    def _valid(self, started: str) -> tuple[str, str]:
        """1 for each frame, 0 for the one before the second hop: [1, hops]."""
        g = self.graph
        ones = g.add("Sign", g.add("Add", "weight", g.constant(1.0)))
        rest = g.add("Slice", ones, g.shape(1), g.shape(2**31), g.shape(1))
        return g.add("Concat", started, rest, axis=1), g.constant([[1.0]])

    def _features(self, log: str, level: str, valid: str) -> tuple[str, str]:
        """Step 4 of `students.nano`, times 8 ln 2: [1, mels, 1, frames]; and the levels to keep."""
        s, g = self.student, self.graph
        missing = g.add("Mul", g.add("Sub", valid, g.constant(1.0)), g.constant(_FAR))
        e = g.add("Add", nano.mean_level(s, g, log), missing)  # [1, frames]
        levels = g.add("Concat", level, g.add("Max", e, g.constant(LOWEST)), axis=1)
        row = g.add("Unsqueeze", levels, g.shape(0))
        # [1, 1, frames]
        loudest = g.add("MaxPool", row, kernel_shape=[s.level_frames], strides=[1])
        x = g.add("Unsqueeze", nano.relative(s, g, log, loudest), g.shape(2))
        return x, self._last(levels, s.level_frames - 1, axis=1)

    def _causal(
        self, names: str | tuple[str, ...], x: str, past: str = "", **options: Any
    ) -> tuple[str, str]:
        """A convolution as of `nano.causal`, and the input that its next step needs."""
        s, g, future = self.student, self.graph, ""
        if past:
            x = g.add("Concat", past, x, axis=3)
            name = names if isinstance(names, str) else names[0]
            future = self._last(x, s.get_submodule(name).context, axis=3)
        return nano.causal(s, self.weights, g, names, x, padded=False, **options), future

    def _voice(self, y: str, past: str, valid: str, weight: str) -> tuple[str, str]:
        """The past of the head for voice activity, and the weights of hops that hold speech."""
        s, g = self.student, self.graph
        assert s.voice is not None
        contexts = [layer.context for layer in s.voice.context]
        pasts = g.add("Split", self._map(past, "voice"), g.shape(*contexts), outputs=2, axis=3)
        futures: list[str] = []

        def step(module: str, x: str) -> str:
            if module == "voice.reduce":
                return self._causal(module, x, named=False)[0]
            x = g.add("Mul", x, valid)  # zeros before the first frame
            x, future = self._causal(module, x, pasts[len(futures)], named=False)
            futures.append(future)
            return x

        logits = nano.voice(s, self.weights, g, y, step)
        speech = g.add("Mul", g.add("Sigmoid", logits), valid)
        g.add("Reshape", speech, g.shape(1, -1), name=nano.SPEECH)
        passed = g.add("GreaterOrEqual", nano.SPEECH, "threshold")
        weight = g.add("Mul", weight, g.add("Cast", passed, to=TensorProto.FLOAT))
        return g.add("Concat", *futures, axis=3), weight

    def _pool(self, y: str, weight: str) -> tuple[str, str]:
        """Sums over everything and over the memory, and the estimates they give.

        Both fade by `keep^weight` from hop to hop, one with keep 1. With C the running sum of
        weights, hop t holds the sum over s <= t of exp(log_keep (C_t - C_s)) times what came in
        s, and exp(log_keep C_t) times what was there.
        """
        s, g = self.student, self.graph
        size, float64 = s.embedding, TensorProto.DOUBLE
        both, _ = self._causal(("gate", "value"), y)
        gate, value_ = g.add("Split", both, outputs=2, axis=1)
        open_ = g.add("Mul", g.add("Sigmoid", gate), weight)
        sums_in = g.add("Concat", g.add("Mul", open_, g.add("Relu", value_)), open_, axis=1)
        new = g.add("Cast", g.add("Reshape", sums_in, g.shape(2 * size, -1)), to=float64)

        # No Transpose may touch a float64 MatMul: ONNX Runtime 1.20 fuses the two into an
        # operator that it has for float32 only.
        fades = g.add("Mul", "log_keep", g.constant([[[1.0]], [[0.0]]], np.float64))
        count = g.add("CumSum", g.add("Cast", weight, to=float64), g.constant(1, np.int64))
        column = g.add("Reshape", count, g.shape(-1, 1))
        age = g.add("Exp", g.add("Mul", fades, g.add("Sub", count, column)))  # (2, s, t)
        start = g.add("Exp", g.add("Mul", fades, count))  # (2, 1, hops)
        pool = g.add("Reshape", "pool", g.shape(2, 2 * size, 1))
        added = g.add("MatMul", new, g.add("Trilu", age, upper=1))
        sums = g.add("Add", added, g.add("Mul", start, pool))  # (2, 2 E, hops): memory, overall
        top, bottom = g.add("Split", sums, outputs=2, axis=1)
        shut = g.add("Add", bottom, g.constant(EMPTY, np.float64))
        embedding = g.add("Cast", g.add("Div", top, shut), to=TensorProto.FLOAT)
        bias = g.constant(self.weights.numpy("adv.bias")[:, None])
        logits = g.add("Add", g.add("MatMul", self.weights.store(g, "adv.weight"), embedding), bias)
        estimates = g.add("Transpose", logits, perm=[2, 0, 1])  # (hops, 2, 3)
        estimates = g.add("Reshape", estimates, g.shape(1, -1, 6))
        return estimates, g.add("Reshape", self._last(sums, 1, axis=2), g.shape(1, 4 * size))

    def _finish(self, sizes: list[int]) -> onnx.ModelProto:
        g, state, pool = self.graph, [1, sum(sizes)], [1, 4 * self.student.embedding]
        float64 = TensorProto.DOUBLE
        inputs = [
            value("block", [1, "samples"]),
            value("weight", [1, "hops"]),
            value("log_keep", [1], float64),
            value("state", state),
            value("pool", pool, float64),
        ]
        outputs = [
            value("estimates", [1, "hops", 6]),
            value("next_state", state),
            value("next_pool", pool, float64),
        ]
        if self.student.voice is not None:
            inputs.append(value(g.default("threshold", [SPOKEN]), [1]))
            outputs.append(value(nano.SPEECH, [1, "hops"]))
        names = [part.name for part in self.parts]
        level = names.index("level")
        layout = (f"{name}:{rows}x{columns}" for name, rows, columns in self.parts)
        metadata = {
            "stream_hop": str(self.student.hop),
            "stream_initial": f"{sum(sizes[:level])}:{sizes[level]}:{LOWEST:g}",
            "stream_layout": " ".join(layout),
        }
        return g.model(inputs, outputs, metadata)
