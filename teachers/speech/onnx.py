"""ONNX models as teachers: a bundle, an audonnx folder, or a bare file with one waveform input.

The graph is run as it is, by ONNX Runtime; neither torch nor transformers is needed. What the file
does not state about itself (which output, which column is which dimension, scale, licence) comes
from `model.yaml`, from the file's metadata, or from the caller.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from wav2small import audio, progress, provenance
from wav2small.dimensions import DIMENSIONS
from wav2small.emotions import common
from wav2small.errors import AudioError, Wav2SmallError
from wav2small.session import first_line, open_session, session_options, softmax
from wav2small.teachers.base import ByColumns, entry

from .onnx_files import Description, describe, digest, licence, lineage

#: The folder audEERING publishes (Zenodo 6221127) names no licence in its files; its record does.
AUDEERING_LICENCE = "CC-BY-NC-SA-4.0"
CATEGORIES = "wav2small.categories"  # key of a bundle's metadata
_SAME = 1e-3  # largest difference between a clip in a batch and the same clip alone
_FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
_WHOLE = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_}
_COUNTS = {**_WHOLE, **_FLOATS}


class OnnxTeacher(ByColumns):
    """An ONNX model that labels.

    Its waveform input is float, (clips, samples), (clips, 1, samples) or (samples,). A second input
    may be the mask of valid samples (named `padding_mask`: of the padding) or their number; with
    one, clips go through in batches, as long as the first batch gives what its shortest clip gives
    alone; without one, alone.

    Args:
        spec: bundle, audonnx folder or `.onnx` file
        device: "auto" (CUDA where ONNX Runtime has it), "cpu", "cuda", "cuda:1", or another
            execution provider of ONNX Runtime by its short name, such as "coreml"
        output: name of the output; None = `logits`, or the only one
        dimensions: what the columns of the output are, in their order; None = as `model.yaml` or
            the metadata states. Other names are categories, whose probabilities become columns
        scale: (lowest, highest) output, mapped to 0..1; None = it is 0..1 already
        embedding: output [clips, n] that becomes the column `embedding`, such as `hidden_states`
        threads: of ONNX Runtime; worker processes have one each

    Raises:
        Wav2SmallError: the model cannot be loaded, takes something else than a waveform, or nothing
            states which output is which

    Example:
        >>> teacher = OnnxTeacher("bundle", dimensions=["arousal", "dominance", "valence"])
        >>> teacher.predict(signal[None], np.array([len(signal)])).shape
        (1, 3)
    """

    invariances: frozenset[str] = frozenset()

    def __init__(
        self,
        spec: str | os.PathLike[str],
        *,
        device: str = "auto",
        output: str | None = None,
        dimensions: Sequence[str] | None = None,
        scale: tuple[float, float] | None = None,
        embedding: str | None = None,
        threads: int = 1,
    ):
        given: dict[str, Any] = {"output": output, "dimensions": dimensions, "scale": scale}
        given["embedding"] = embedding
        self._again = functools.partial(
            OnnxTeacher, os.fspath(spec), device=device, threads=threads, **given
        )
        described = describe(spec)
        self.path = described.path
        provider, number = choose_provider(device)
        chosen = [(provider, {"device_id": number} if provider.startswith("CUDA") else {})]
        options = session_options(threads=threads)
        self.session = open_session(self.path, options=options, providers=chosen)
        if device != "auto" and self.session.get_providers()[0] != provider:
            raise Wav2SmallError(f"--device {device}: {provider} does not start; give --device cpu")
        kind = "cpu" if provider.startswith("CPU") else provider.partition("Execution")[0].lower()
        self.device = SimpleNamespace(type=kind)
        self.in_workers = kind == "cpu"
        self._waveform, self._companion = _inputs(self.session, self.path)
        #: Whether clips go through in batches; None = the first batch will show.
        shapes = [node.shape for node in (self._waveform, self._companion) if node]
        single = not self._companion or len(shapes[0]) == 1 or 1 in (shape[0] for shape in shapes)
        self._batches = False if single else None
        metadata = self.session.get_modelmeta().custom_metadata_map
        self._output, names = self._columns(described, metadata, output, dimensions)
        self.dimensions = tuple(name for name in DIMENSIONS if name in names)
        self._order = [names.index(name) for name in self.dimensions]
        self.categories: tuple[str, ...] = () if self.dimensions else tuple(names)
        category_output = "" if self.dimensions else self._output
        if CATEGORIES in metadata and self.dimensions:
            self.categories = tuple(json.loads(metadata[CATEGORIES]))
            category_output = "categories"
        there = {node.name: node.shape for node in self.session.get_outputs()}
        if embedding and (embedding not in there or len(there[embedding]) != 2):
            shown = ", ".join(f"{name} {list(shape)}" for name, shape in there.items())
            raise Wav2SmallError(
                f"{self.path}: no output {embedding} of one row per clip; its outputs: {shown}"
            )
        #: What is asked of the model: column(s) -> output, number of its values per clip.
        self._asked: dict[str, tuple[str, int | None]] = {}
        if self.dimensions:
            self._asked["dimensions"] = self._output, len(names)
        if category_output:
            self._asked["categories"] = category_output, len(self.categories)
        if embedding:
            self._asked["embedding"] = embedding, None
        self._low, self._high = scale or (0.0, 1.0)
        if not -math.inf < self._low < self._high < math.inf:
            raise Wav2SmallError(
                f"--teacher-scale {self._low:g} {self._high:g}: two numbers, lowest first"
            )
        rate = described.sampling_rate or metadata.get("sampling_rate") or audio.SAMPLING_RATE
        self.sampling_rate = _rate(rate, self.path)
        self.id = os.fspath(spec)
        self.name = metadata.get("wav2small.student") or Path(spec).resolve().stem
        self.revision = ";".join(
            [digest(self.path), *(f"{key}={value}" for key, value in given.items() if value)]
        )
        self._lineage = lineage(self.path, metadata)
        self.licence = licence(described, metadata, self._lineage)
        if self.licence == provenance.UNKNOWN and self._is_audeering(names):
            self.name, self.licence = "wav2vec2", AUDEERING_LICENCE

    def __reduce__(self) -> tuple[Any, ...]:
        return self._again, ()

    def predict_columns(self, batch: np.ndarray, lengths: np.ndarray) -> dict[str, np.ndarray]:
        """Dimensions, probabilities of the categories as `probability_NAME`, the embedding."""
        found = self._run(batch, lengths) if self._batches is not False else {}
        if self._batches is None and np.ptp(lengths):
            row = int(np.argmin(lengths))
            alone = self._run(batch[row : row + 1, : lengths[row]], lengths[row : row + 1])
            self._batches = all(np.allclose(found[k][row], alone[k][0], 0, _SAME) for k in alone)
            if not self._batches:
                progress.note(f"{self.path}: padding changes its output, so clips go one by one")
        if self._batches is False:
            places = enumerate(lengths)
            rows = [self._run(batch[n : n + 1, :end], lengths[n : n + 1]) for n, end in places]
            found = {name: np.concatenate([row[name] for row in rows]) for name in self._asked}
        columns: dict[str, np.ndarray] = {}
        if "dimensions" in found:
            values = found["dimensions"][:, self._order]
            scaled = (values - self._low) / (self._high - self._low)
            columns = dict(zip(self.dimensions, scaled.T, strict=True))
        if "categories" in found:
            names = (f"probability_{name}" for name in self.categories)
            columns |= dict(zip(names, probabilities(found["categories"]).T, strict=True))
        if "embedding" in found:
            columns["embedding"] = found["embedding"]
        return columns

    def provenance(self) -> list[dict[str, Any]]:
        """The model, then the teachers it learned from, if it names them."""
        return [entry(self), *self._lineage.get("teachers", ())]

    def _run(self, batch: np.ndarray, lengths: np.ndarray) -> dict[str, np.ndarray]:
        """What is asked of the model for a batch, each (clips, values), float32."""
        rank = len(self._waveform.shape)
        signal = batch.astype(_FLOATS[self._waveform.type])
        signal = {1: signal[0], 2: signal}[rank] if rank < 3 else signal[:, None]
        feed = {self._waveform.name: np.ascontiguousarray(signal)}
        if self._companion is not None:
            kind = _COUNTS[self._companion.type]
            if len(self._companion.shape) == 1:
                feed[self._companion.name] = np.asarray(lengths).astype(kind)
            else:
                valid = np.arange(batch.shape[1]) < np.asarray(lengths)[:, None]
                inverted = "padding" in self._companion.name
                feed[self._companion.name] = (valid ^ inverted).astype(kind)
        try:
            outputs = self.session.run([output for output, _ in self._asked.values()], feed)
        except Exception as error:  # ONNX Runtime's errors share no narrower base
            raise AudioError(
                f"{self.path}: fails on {batch.shape[1]} samples ({first_line(error)[:160]})"
            ) from error
        found = {}
        for (name, (output, width)), values in zip(self._asked.items(), outputs, strict=True):
            if width is not None and values.size != len(batch) * width:
                raise Wav2SmallError(
                    f"{self.path}: output {output} has shape {values.shape} for {len(batch)} "
                    f"clips; {width} values a clip are needed, so name another --teacher-output"
                )
            found[name] = values.reshape(len(batch), -1).astype(np.float32)
        return found

    def _columns(
        self,
        described: Description,
        metadata: Mapping[str, str],
        output: str | None,
        dimensions: Sequence[str] | None,
    ) -> tuple[str, list[str]]:
        """The output to take, and the names of its columns."""
        there = {node.name: node.shape for node in self.session.get_outputs()}
        usual = [name for name in ("logits", "categories") if name in there]
        chosen = output or [*usual, *there][0]
        if chosen not in there or (output is None and len(there) > 1 and not usual):
            problem = f"no output {output}" if output else "nothing states which output it is"
            raise Wav2SmallError(
                f"{self.path}: {problem}; name one of {', '.join(there)} with --teacher-output"
            )
        names = dimensions or described.labels.get(chosen)
        if not names and "wav2small.student" in metadata:
            names = DIMENSIONS if chosen == "logits" else json.loads(metadata[CATEGORIES])
        width = there[chosen][-1] if there[chosen] else None
        if not names:
            shown = width if isinstance(width, int) else "of"
            raise Wav2SmallError(
                f"{self.path}: nothing names the {shown} columns of output {chosen}; give "
                "--teacher-dimensions arousal dominance valence, in the order of the model"
            )
        names = [str(name).strip() for name in names]
        known = [name.lower() for name in names if name.lower() in DIMENSIONS]
        fits = not isinstance(width, int) or width == len(names)
        if not fits or len({name.lower() for name in names}) < len(names):
            raise Wav2SmallError(
                f"{self.path}: output {chosen} has {width} columns, and {len(names)} names "
                f"for them: {', '.join(names)}; each once, with --teacher-dimensions"
            )
        if known and len(known) != len(names):
            raise Wav2SmallError(
                f"{self.path}: output {chosen} mixes dimensions and other columns "
                f"({', '.join(names)}); name another --teacher-output, or its columns with "
                f"--teacher-dimensions, of {', '.join(DIMENSIONS)}"
            )
        categories = [common(name) for name in names]
        return chosen, known or (categories if len({*categories}) == len(names) else names)

    def _is_audeering(self, names: Sequence[str]) -> bool:
        """Whether it is laid out as the published wav2vec2 model."""
        there = {node.name: list(node.shape)[-1:] for node in self.session.get_outputs()}
        return tuple(names) == DIMENSIONS and there == {"hidden_states": [1024], "logits": [3]}


def choose_provider(device: str) -> tuple[str, int]:
    """The execution provider of a device, and its number.

    Raises:
        Wav2SmallError: this ONNX Runtime has no such provider

    Example:
        >>> choose_provider("cpu")
        ('CPUExecutionProvider', 0)
    """
    import onnxruntime

    providers = onnxruntime.get_available_providers()
    known = {name.removesuffix("ExecutionProvider").lower(): name for name in providers}
    kind, _, number = device.lower().partition(":")
    if kind == "auto":
        kind = "cuda" if "cuda" in known else "cpu"
    if kind not in known or not (number or "0").isdigit():
        remedy = "pip install onnxruntime-gpu, or " if kind == "cuda" else ""
        raise Wav2SmallError(
            f"--device {device}: this ONNX Runtime has no such provider; {remedy}give auto or one "
            f"of {', '.join(sorted(known))}"
        )
    return known[kind], int(number or 0)


def probabilities(values: np.ndarray) -> np.ndarray:
    """Probabilities of categories: softmax over logits; what is probabilities already stays.

    Example:
        >>> probabilities(np.array([[0.25, 0.75]]))
        array([[0.25, 0.75]])
        >>> probabilities(np.array([[1.0, 1.0]]))
        array([[0.5, 0.5]])
    """
    if (values >= 0).all() and np.allclose(values.sum(axis=1), 1, atol=1e-3):
        return values
    return softmax(values)


def _inputs(session: Any, path: Path) -> tuple[Any, Any]:
    """The waveform, and the mask or the lengths if the model takes clips in batches."""
    nodes = session.get_inputs()
    companions = [node for node in nodes if "mask" in node.name or "len" in node.name.lower()]
    waveform = [node for node in nodes if node not in companions and node.type in _FLOATS]
    shape = waveform[0].shape if waveform else []
    clips, channels = [*shape[:-1], 1, 1][:2]
    fits = (
        len(nodes) == len(waveform) + len(companions)
        and len(waveform) == 1
        and len(companions) <= 1
        and 1 <= len(shape) <= 3
        and not isinstance(shape[-1], int)
        and (clips == 1 or not isinstance(clips, int))
        and channels == 1
        # Lengths as floats are shares of the longest clip to some models, samples to others.
        and all(one.type in {1: _WHOLE, 2: _COUNTS}.get(len(one.shape), ()) for one in companions)
    )
    if not fits:
        shown = ", ".join(f"{node.name} {node.type} {list(node.shape)}" for node in nodes)
        raise Wav2SmallError(
            f"{path}: no teacher: inputs {shown}; needed is a waveform, float [clips, samples] of "
            "any length, and at most its mask, or lengths as whole numbers of samples"
        )
    return waveform[0], companions[0] if companions else None


def _rate(rate: Any, path: Path) -> int:
    """A sampling rate as files state it."""
    try:
        value = float(rate)
    except (TypeError, ValueError):
        value = 0.0
    if not audio.LOWEST_RATE <= value <= audio.HIGHEST_RATE or value % 1:
        raise Wav2SmallError(
            f"{path}: its sampling_rate is {rate!r}; correct it, in Hz, in the metadata or in "
            "model.yaml"
        )
    return int(value)
