"""Multimodal teachers as folders: build one of encoders, save it, load it, label with it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from wav2small import files, provenance
from wav2small.errors import Wav2SmallError
from wav2small.teachers.base import entry
from wav2small.teachers.speech import checkpoint, pretrained
from wav2small.teachers.speech.checkpoint import Checkpoint
from wav2small.teachers.speech.neural import NeuralTeacher

from . import encoders, lora, spectra_checkpoint
from .base import FIELDS, MultimodalNetwork
from .dialogue import Passage, Turn
from .encoders import Tokenizer

SYSTEMS = ("spectra", "calm", "bridge", "mister_e")


def network_class(system: str) -> type[MultimodalNetwork]:
    """The class of a system.

    Raises:
        Wav2SmallError: no such system
    """
    if system not in SYSTEMS:
        raise Wav2SmallError(f"--teacher {system}: give one of {', '.join(SYSTEMS)}")
    return import_module(f"wav2small.teachers.multimodal.{system}").Network


def options(system: str, changes: Sequence[str]) -> dict[str, Any]:
    """Options of a system from the words of a command line: NAME=VALUE each, VALUE as in JSON, or
    `small`, what the system changes for little data.

    Raises:
        Wav2SmallError: no such option, or a value that it cannot have

    Example:
        >>> options("mister_e", ["turns=2", "cross_size=64"])
        {'turns': 2, 'cross_size': 64}
    """
    kind = network_class(system)
    chosen: dict[str, Any] = {}
    for word in changes:
        name, equals, value = word.partition("=")
        if word == "small" and kind.small:
            chosen |= kind.small
        elif equals and name in kind.defaults:
            try:
                chosen[name] = json.loads(value)
            except json.JSONDecodeError:
                chosen[name] = value
        else:
            known = ", ".join(f"{name}={json.dumps(now)}" for name, now in kind.defaults.items())
            raise Wav2SmallError(f"--set {word}: {system} has small and NAME=VALUE of {known}")
    check(kind, chosen, "--set")
    return chosen


def check(kind: type[MultimodalNetwork], config: Mapping[str, Any], where: Any) -> None:
    """Reject values that an option of a system cannot have; names of other fields are passed over.

    A default states the kind of its option; where it is None, the value for little data does.

    Raises:
        Wav2SmallError: it names the option and what it can be
    """
    for name in kind.defaults.keys() & config.keys():
        default, small, value = kind.defaults[name], kind.small.get(name), config[name]
        example = small if default is None else default
        if isinstance(example, bool):
            right, wanted = isinstance(value, bool), "true or false"
        elif isinstance(example, str):
            right, wanted = value in (default, small), f"{default} or {small}"
        else:
            integral = isinstance(example, int)
            divides = name.endswith(("_temperature", "_tokens", "_size", "_inner"))
            number = isinstance(value, int if integral else int | float)
            right = number and not isinstance(value, bool) and value >= 0 and (value or not divides)
            least = "above 0" if divides else "from 0"
            if name.startswith("mask_") or name.endswith(("_share", "_dropout")):
                right, least = right and value <= 1, "from 0 to 1"
            wanted = f"{'an integer' if integral else 'a number'} {least}"
        if not right and not (value is None and default is None):
            raise Wav2SmallError(f"{where}: {name}={json.dumps(value)}: give {wanted}")


def construct(
    system: str, config: Mapping[str, Any], tokenizer: Tokenizer, where: Any = "config.json"
) -> MultimodalNetwork:
    """The network of a configuration, with random weights.

    Raises:
        Wav2SmallError: a field is missing, or options do not go together
    """
    kind = network_class(system)
    check(kind, config, where)
    try:
        return kind(config, tokenizer, where)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        given = [name for name in kind.defaults if name in config]
        names = ", ".join(f"{name}={json.dumps(config[name])}" for name in given) or "its defaults"
        raise Wav2SmallError(f"{where}: no {system} can be built of {names} ({error})") from error


@dataclass
class Start:
    """What training begins with: two encoders, or a network that was pretrained."""

    config: dict[str, Any]  # of the network, without outputs
    tokenizer: Tokenizer  # of the text encoder
    weights: dict[str, Tensor]  # of the network, as far as there are any
    entries: list[dict[str, Any]]  # of the provenance: every encoder with its licence
    scale: (
        tuple[float, float] | None
    )  # mean, deviation of samples, if the speech encoder names them

    @property
    def identity(self) -> str:
        """Ids and revisions of all it is made of."""
        return " ".join(f"{entry['id']}={entry['revision']}" for entry in self.entries)


def from_encoders(
    speech: str | None, text: str, *, own_encoder: Mapping[str, Any] | None = None
) -> Start:
    """Begin with a text encoder, and a speech encoder or the system's own.

    Args:
        speech: folder or hub id; see `pretrained.load`
        text: folder or hub id; see `encoders.load_text`
        own_encoder: of the system
    """
    language = encoders.load_text(text)
    weights = {f"text.{key}": value for key, value in language.model.state_dict().items()}
    entries, scale = [language.source.entry("text encoder")], None
    speech_config = dict(own_encoder or {})
    if speech is not None and own_encoder is None:
        backbone = pretrained.load(speech, option="--speech")
        weights |= {f"speech.model.{key}": value for key, value in backbone.weights.items()}
        entries.insert(0, backbone.source.entry("speech encoder"))
        speech_config, scale = backbone.config, backbone.scale
    config = {"speech_config": speech_config, "text_config": language.config}
    return Start(config, language.tokenizer, weights, entries, scale)


def from_pretrained(folder: str, system: str) -> Start:
    """Begin with what `wav2small pretrain` wrote, or with SPECTRA as it was published.

    Raises:
        Wav2SmallError: another system's, or a field of config.json is missing
    """
    if system == "spectra" and spectra_checkpoint.published(Path(folder)):
        source, config, tokenizer, weights = spectra_checkpoint.load(Path(folder))
        return Start(config, tokenizer, weights, [source.entry("pretrained spectra")], None)
    source = checkpoint.local(folder)
    config, where = source.config, source.folder / checkpoint.CONFIG
    if config.get("model_type") != system:
        raise Wav2SmallError(
            f"{where}: model_type {config.get('model_type')!r} is no {system}; give the folder of "
            f"`wav2small pretrain {system}`"
        )
    checkpoint.require(config, FIELDS, where)
    weights = checkpoint.read_weights(source)
    tokenizer = encoders.load_tokenizer(source.folder, config["text_config"])
    history = lineage(source)
    kept = {key: value for key, value in config.items() if key not in _HEAD_FIELDS}
    entries = [source.entry("pretrained " + system), *history.get("teachers", ())]
    return Start(kept, tokenizer, weights, entries, (config["mean"], config["std"]))


def with_speech(start: Start, speech: str) -> Start:
    """A start of `from_pretrained` with another speech encoder, a folder or a hub id, such as the
    one before pretraining.

    Raises:
        Wav2SmallError: it cannot be used, or its weights do not fit
    """
    backbone = pretrained.load(speech, option="--speech")
    own = {f"speech.model.{key}": value for key, value in backbone.weights.items()}
    there = {key: value for key, value in start.weights.items() if key.startswith("speech.model.")}
    if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in there.items()}:
        raise Wav2SmallError(
            f"--speech {speech}: other layers than the speech encoder of --pretrained has; give "
            "the one that pretraining began with"
        )
    entries = [*start.entries, backbone.source.entry("speech encoder")]
    scale = backbone.scale or start.scale
    return replace(start, weights={**start.weights, **own}, entries=entries, scale=scale)


_HEAD_FIELDS = ("id2label", "categories", "teacher_name", "trained")
_HEADS = ("outputs.", "categories.")


def build(
    system: str,
    start: Start,
    *,
    dimensions: Sequence[str],
    categories: Sequence[str] = (),
    scale: tuple[float, float] = (0.0, 1.0),
    trained: bool = True,
    **changes: Any,
) -> MultimodalNetwork:
    """A network with the encoders' weights and new layers next to them.

    Args:
        system: see `SYSTEMS`
        start: its weights
        dimensions: of the outputs
        categories: of the second head; empty = none
        scale: mean and deviation of samples
        trained: whether its outputs will mean anything; False for pretraining
        changes: of `defaults`
    """
    config = {
        **start.config,
        **changes,
        "mean": scale[0],
        "std": scale[1],
        "id2label": {str(number): name for number, name in enumerate(dimensions)},
        "categories": list(categories),
        "teacher_name": system,
        "trained": trained,
    }
    network = construct(system, config, start.tokenizer)
    own = network.state_dict()
    fits = own.keys() & {key for key in start.weights if not key.startswith(_HEADS)}
    network.load_state_dict({**own, **{key: start.weights[key] for key in fits}})
    return network


def save(network: MultimodalNetwork, folder: str | os.PathLike[str]) -> None:
    """Write config.json, model.safetensors and the tokenizer's files; see `lora`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    network.tokenizer.save(folder)
    checkpoint.write_weights(folder, lora.merged(network))
    files.write_json(folder / checkpoint.CONFIG, network.config)


def lineage(source: Checkpoint) -> dict[str, Any]:
    """The provenance in a checkpoint's folder."""
    found = source.folder / "provenance.json"
    return files.read_json(found) if found.exists() else provenance.new()


class MultimodalTeacher(NeuralTeacher):
    """A multimodal teacher; it has a `context`, so the labelling run hands it passages."""

    network: MultimodalNetwork

    def __init__(self, network: MultimodalNetwork, source: Checkpoint, **options: Any):
        super().__init__(network, source, **options)
        self.context = network.context
        self._lineage = lineage(source).get("teachers", [])

    def too_long(self, texts: Sequence[str]) -> int:
        """How many transcripts are cut."""
        return self.network.tokenizer.too_long(texts)

    def provenance(self) -> list[dict[str, Any]]:
        """The teacher, which uses text, then every encoder with its licence."""
        return [{**entry(self), "reads": "text"}, *self._lineage]

    def _inputs(
        self, batch: np.ndarray, lengths: np.ndarray, passages: list[Passage] | None
    ) -> tuple[Any, ...]:
        if passages is None:  # `predict` is called without transcripts
            passages = [Passage((Turn(),), 0)] * len(batch)
        with_signals = [
            passage.with_own(passage.own._replace(signal=signal[:length]))
            for passage, signal, length in zip(passages, batch, lengths, strict=True)
        ]
        return (self.network.collate(with_signals).to(self.device),)


def load(source: Checkpoint, **options: Any) -> MultimodalTeacher:
    """Build the teacher of a checkpoint.

    Raises:
        Wav2SmallError: the checkpoint cannot be used; the line states why
    """
    config, where = source.config, source.folder / checkpoint.CONFIG
    checkpoint.require(config, FIELDS, where)
    if config.get("trained") is False:
        raise Wav2SmallError(
            f"{where}: pretrained, it knows no ratings yet; fine-tune it first: wav2small finetune "
            f"RATINGS --teacher {config['model_type']} --pretrained {source.folder} -o teacher/"
        )
    tokenizer = encoders.load_tokenizer(source.folder, config["text_config"])
    network = construct(config["model_type"], config, tokenizer, where)
    checkpoint.load_weights(network, source)
    options["name"] = config.get("teacher_name") or config["model_type"]
    options["dimensions"] = checkpoint.dimensions(config, len(config["id2label"]), where)
    options["categories"] = tuple(config.get("categories") or ())
    return MultimodalTeacher(network, source, **options)
