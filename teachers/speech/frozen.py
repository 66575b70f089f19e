"""Frozen speech encoders, as a probe reads them: one clip in, the states of every layer out.

Three kinds: Moonshine's encoder inside the wheel `moonshine-voice` ("moonshine"; MIT, no download),
any ONNX file with a waveform input and an output of states, and folders or hub ids of transformers
(WavLM, wav2vec2, HuBERT, Whisper, Moonshine, Qwen2-Audio).
"""

from __future__ import annotations

import importlib.util
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wav2small import files, provenance
from wav2small.errors import Wav2SmallError
from wav2small.session import open_session, session_options

MOONSHINE = "moonshine"
SHORTEST = 4000  # samples; shorter clips are padded with zeros: an encoder needs some frames
LEVEL = 0.08  # root mean square that Moonshine's input is brought to, that of its own examples
_STATES = re.compile(r"hidden|state|embedding", re.I)


@dataclass(frozen=True)
class Encoder:
    """A frozen encoder."""

    spec: str  # what the user named
    id: str  # what a provenance calls it
    revision: str  # hash of its file, or commit
    licence: str  # SPDX name, or "unknown"
    layers: int  # how many layers of states it gives
    in_workers: bool  # whether worker processes may have a copy each
    #: Signal (samples,) at 16 kHz, and numbers of layers -> their states, each (frames, size).
    states: Callable[[np.ndarray, Sequence[int]], list[np.ndarray]]

    @property
    def entry(self) -> dict[str, str]:
        """What pins it, in a provenance."""
        return {"id": self.id, "revision": self.revision, "licence": self.licence}


def open_encoder(spec: str, *, device: str = "auto") -> Encoder:
    """Open a frozen encoder.

    Args:
        spec: "moonshine", an ONNX file or a folder with `model.onnx`, or a folder or hub id of
            transformers
        device: of an encoder of transformers

    Raises:
        Wav2SmallError: nothing there, another kind of model, or a missing extra
    """
    if spec == MOONSHINE:
        return _moonshine()
    path = Path(spec)
    if path.is_dir() and not (path / "config.json").exists():
        path = path / "model.onnx"
    if path.suffix in (".onnx", ".ort"):
        if not path.is_file():
            raise Wav2SmallError(f"{path}: no such file; name an encoder: moonshine, FILE.onnx ...")
        return _onnx(spec, path, path.read_bytes(), id=spec, licence=provenance.UNKNOWN)
    return _transformers(spec, device)


def _moonshine() -> Encoder:
    found = importlib.util.find_spec("moonshine_voice")  # found, not imported: it opens sound cards
    folders = list(found.submodule_search_locations or []) if found else []
    path = Path(folders[0], "assets", "tiny-en", "encoder_model.ort") if folders else None
    if path is None or not path.is_file():
        raise Wav2SmallError(
            "--encoder moonshine: the encoder comes with `pip install wav2small[moonshine]`; "
            "or name another encoder"
        )
    content = _with_outputs(path.read_bytes(), r"/layers\.\d+/Add_1_output_0")
    return _onnx(MOONSHINE, path, content, id="moonshine-voice/tiny-en", licence="MIT", level=LEVEL)


def _onnx(
    spec: str, path: Path, content: bytes, *, id: str, licence: str, level: float | None = None
) -> Encoder:
    session = open_session(content, options=session_options(threads=1))
    inputs = {node.name: node.type for node in session.get_inputs()}
    signals = [name for name, kind in inputs.items() if kind == "tensor(float)"]
    masks = [name for name, kind in inputs.items() if kind == "tensor(int64)"]
    outputs = [node for node in session.get_outputs() if len(node.shape) in (2, 3)]
    states = [n.name for n in outputs if len(n.shape) == 3 or _STATES.search(n.name)]
    if len(signals) != 1 or len(masks) + 1 != len(inputs) or not states:
        raise Wav2SmallError(
            f"{path}: no encoder: inputs {', '.join(inputs)}, outputs "
            f"{', '.join(n.name for n in session.get_outputs())}; needed: one waveform, and hidden "
            "states [1, frames, size]"
        )

    def run(signal: np.ndarray, layers: Sequence[int]) -> list[np.ndarray]:
        if level is not None:
            signal = signal * (level / max(float(np.sqrt(np.mean(np.square(signal)))), 1e-9))
            signal = np.clip(signal, -1, 1)
        signal = np.pad(signal, (0, max(0, SHORTEST - len(signal)))).astype(np.float32)[None]
        feed = {signals[0]: signal} | {name: np.ones(signal.shape, np.int64) for name in masks}
        return [np.atleast_2d(found[0]) for found in session.run([states[n] for n in layers], feed)]

    return Encoder(spec, id, "sha256:" + files.sha256(path), licence, len(states), True, run)


def _with_outputs(model: bytes, pattern: str) -> bytes:
    """An ORT-format model that gives its inner values of matching names as outputs, too.

    The format is a FlatBuffer: the graph's field `outputs` is a relative offset to a vector of
    offsets to strings, so a longer vector is written behind the file and the field pointed to it.
    """
    from onnxruntime.tools.ort_format_model import ort_flatbuffers_py  # noqa: F401, sets the path
    from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs import InferenceSession

    session = InferenceSession.InferenceSession.GetRootAsInferenceSession(model, 0)
    graph = session.Model().Graph()
    names = [
        name
        for node in map(graph.Nodes, range(graph.NodesLength()))
        for name in map(node.Outputs, range(node.OutputsLength()))
        if re.fullmatch(pattern, name.decode())
    ] + [graph.Outputs(place) for place in range(graph.OutputsLength())]
    offset = next(  # of the field: the table's entry that leads to the outputs' vector
        at
        for at in range(4, 64, 2)
        if (o := graph._tab.Offset(at))
        and graph._tab.VectorLen(o) == graph.OutputsLength()
        and _first_string(graph, o) == graph.Outputs(0)
    )
    field = graph._tab.Pos + graph._tab.Offset(offset)
    data = bytearray(model) + bytes(-len(model) % 8)
    vector = len(data)
    struct.pack_into("<I", data, field, vector - field)
    data += struct.pack("<I", len(names)) + bytes(4 * len(names))
    for place, name in enumerate(names):
        entry = vector + 4 + 4 * place
        struct.pack_into("<I", data, entry, len(data) - entry)
        data += struct.pack("<I", len(name)) + name + b"\0"
        data += bytes(-len(data) % 4)
    return bytes(data + bytes(-len(data) % 8))


def _first_string(graph: Any, offset: int) -> bytes | None:
    try:
        found: bytes = graph._tab.String(graph._tab.Vector(offset))
        return found
    except Exception:  # another kind of field: its bytes are no string
        return None


def _transformers(spec: str, device: str) -> Encoder:
    import torch

    from . import backbones, checkpoint, pretrained, recognisers
    from .neural import choose_device

    start = pretrained.load(spec, option="--encoder")
    config, source, chosen = start.config, start.source, choose_device(device)
    network: Any = backbones.build(config, source.folder / checkpoint.CONFIG)
    start.fill(network)
    network = network.eval().requires_grad_(False).to(chosen)
    is_recogniser = config["model_type"] in recognisers.NAMES

    def run(signal: np.ndarray, layers: Sequence[int]) -> list[np.ndarray]:
        signal = np.pad(signal, (0, max(0, SHORTEST - len(signal)))).astype(np.float32)
        with torch.inference_mode():
            if is_recogniser:
                found = network.layer_states(torch.from_numpy(signal).to(chosen))
            else:
                values = _normalised(signal, start.scale)
                given = torch.from_numpy(values).to(chosen)[None]
                states = network(given, output_hidden_states=True).hidden_states
                found = [each[0] for each in states]
        return [found[layer].float().cpu().numpy() for layer in layers]

    layers = 1 + int(config["num_hidden_layers"])
    return Encoder(spec, source.id, source.revision, source.licence, layers, False, run)


def _normalised(signal: np.ndarray, scale: tuple[float, float] | None) -> np.ndarray:
    """Samples at the mean and deviation of the encoder's training, or of the clip itself."""
    mean, std = scale or (float(signal.mean()), float(np.sqrt(signal.var() + 1e-7)))
    return ((signal - mean) / std).astype(np.float32)
