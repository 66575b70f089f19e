"""Teachers that read as well as listen: what SPECTRA, CALM, BRIDGE and MiSTER-E share.

A system is one file: `teachers/NAME.py` with a class `Network(ReadingNetwork)`, and its name in
`SYSTEMS`. The class says

    system      its name, `model_type` in config.json
    context     what of the dialogue it asks for beside the turn (`turns.Context`)
    defaults    its sizes, which config.json may change
    ear         the configuration of a speech encoder of its own, if it has one, that `build_speech`
                builds; it then needs no `--speech`

and has

    __init__(config, tokenizer)   calls `super().__init__`, builds its own layers from `self.config`
    collate(passages) -> batch    host side: `turns.Passage`s, own turn heard, to anything with
                                  `.to(device)`; `self.sound(turns)` and `self.prose(id lists)` pad
    forward(batch) -> (outputs, logits, ...)
                                  A/D/V (B, D), category logits (B, C) or None, then whatever its
                                  loss wants, tensors whose first axis is the batch
    loss(truth, classes, outputs, logits, ...) -> scalar
                                  default: sum of 1 - CCC, and cross-entropy of the categories; if
                                  `forward` gives (B,) 1 = read, 0 = not read after the logits,
                                  CCC is of each of the two (`learner.disagreement`)

`self.listen(sound)` and `self.read(prose)` run the encoders; a turn that was not heard, or has no
transcript, becomes one position with the learned embedding of a missing modality, so nothing
downstream needs to know. `self.head(pooled)` gives outputs and logits. Loading, saving, labelling,
fine-tuning (`finetune --teacher NAME`), resume and provenance then work: nothing else to write. In
training a share `text_dropout` of the transcripts is hidden, so that the teacher also knows what to
do without; a system with masking of its own sets it to 0. Losses are taken over the whole batch
however small the parts in memory (`accumulation`), so `forward` must not mix rows of the batch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from wav2small import audio, files, provenance
from wav2small.errors import Wav2SmallError
from wav2small.teachers.finetuning import learner
from wav2small.teachers.speech import checkpoint, pretrained
from wav2small.teachers.speech.checkpoint import Checkpoint

from . import encoders, lora
from .encoders import Tokenizer
from .turns import Context, Passage, Turn

SYSTEMS = ("spectra", "calm", "bridge", "mister_e")
FIELDS = ("speech_config", "text_config", "mean", "std", "id2label")

Moved = TypeVar("Moved", bound="OnDevice")


class OnDevice:
    """A dataclass of tensors, of the like, and of what stays where it is."""

    def to(self: Moved, device: torch.device) -> Moved:
        """The same on another device; tensors on the host by name `lengths` stay there."""
        moved = {}
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            moves = isinstance(value, Tensor | OnDevice) and field.name != "lengths"
            moved[field.name] = value.to(device) if moves else value
        return type(self)(**moved)


@dataclass
class Sound(OnDevice):
    """What was heard.

    Attributes:
        signal: (N, T) float32, zeros after the end of shorter ones
        lengths: (N,) samples, on the CPU
        there: (N,) bool; False = not heard, the row of `signal` is a stand-in
    """

    signal: Tensor
    lengths: Tensor
    there: Tensor


@dataclass
class Prose(OnDevice):
    """What was read.

    Attributes:
        tokens: (N, L) ids
        mask: (N, L) bool, of the ids that count
        there: (N,) bool; False = no transcript
    """

    tokens: Tensor
    mask: Tensor
    there: Tensor


class ReadingNetwork(nn.Module):
    """The base of a system; see the module.

    Args:
        config: `speech_config`, `text_config` of transformers, `mean` and `std` of the samples,
            `id2label`, optionally `categories`, and what `defaults` names
        tokenizer: of the text encoder
        where: named in errors
    """

    system: ClassVar[str]
    context: ClassVar[Context] = Context()
    defaults: ClassVar[Mapping[str, Any]] = {}
    text_dropout: ClassVar[float] = 0.4  # [choose]
    ear: ClassVar[Mapping[str, Any] | None] = None
    speech: Any  # of `build_speech`

    def __init__(self, config: Mapping[str, Any], tokenizer: Tokenizer, where: Any = "config.json"):
        super().__init__()
        checkpoint.require(config, FIELDS, where)
        self.config = {**self.defaults, **config, "model_type": self.system}
        self.tokenizer = tokenizer
        self.speech = self.build_speech(float(config["mean"]), float(config["std"]), where)
        self.text = encoders.Text(config["text_config"], where)
        self.no_speech = nn.Parameter(0.02 * torch.randn(self.speech.size))
        self.no_text = nn.Parameter(0.02 * torch.randn(self.text.size))

    def build_speech(self, mean: float, std: float, where: Any) -> nn.Module:
        """The speech encoder, for samples of that mean and deviation."""
        return encoders.Speech(self.config["speech_config"], mean, std, where)

    def build_head(self, size: int) -> None:
        """Layers of `head`, for pooled states of `size`."""
        self.outputs = nn.Linear(size, len(self.config["id2label"]))
        nn.init.normal_(self.outputs.weight, std=0.02)
        nn.init.constant_(self.outputs.bias, 0.5)  # the middle of the scale
        categories = self.config.get("categories") or ()
        self.categories = nn.Linear(size, len(categories)) if categories else None

    def head(self, pooled: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, size) -> outputs, logits of the categories."""
        return self.outputs(pooled), self.categories(pooled) if self.categories else None

    def adapt(self, rank: int) -> None:
        """Let the encoders learn through adapters only; see `lora`."""
        lora.adapt(self.text.model, rank)
        if self.ear is None:
            lora.adapt(self.speech.model, rank)

    def sound(self, turns: Sequence[Turn]) -> Sound:
        """Pad the signals of turns; those that were not heard are noted."""
        least = np.zeros(round(audio.MIN_DURATION_S * audio.SAMPLING_RATE), np.float32)
        signals = [least if turn.signal is None else turn.signal for turn in turns]
        lengths = torch.tensor([len(signal) for signal in signals])
        padded = torch.zeros(len(signals), int(lengths.max()))
        for row, signal in enumerate(signals):
            padded[row, : len(signal)] = torch.from_numpy(np.ascontiguousarray(signal))
        return Sound(padded, lengths, torch.tensor([turn.signal is not None for turn in turns]))

    def prose(self, rows: Sequence[Sequence[int] | None]) -> Prose:
        """Pad sequences of ids, None = no transcript."""
        there = torch.tensor([row is not None for row in rows])
        tokens, mask = encoders.pad([row or [self.tokenizer.first] for row in rows], _pad(self))
        return Prose(tokens, mask, there)

    def sequence(self, text: str | None) -> list[int] | None:
        """The ids of one transcript with its first and last, cut to what the encoder reads."""
        if text is None:
            return None
        room = self.tokenizer.limit - 2
        return [self.tokenizer.first, *self.tokenizer.ids(text)[:room], self.tokenizer.last]

    def listen(self, sound: Sound) -> tuple[Tensor, Tensor]:
        """Run the speech encoder: (N, frames, size) and the mask of valid frames."""
        hidden, mask = self.speech(sound.signal, sound.lengths)
        return missing(hidden, mask, sound.there, self.no_speech)

    def read(self, prose: Prose) -> tuple[Tensor, Tensor]:
        """Run the text encoder: (N, L, size) and the mask of valid positions."""
        hidden = self.text(prose.tokens, prose.mask)
        return missing(hidden, prose.mask, prose.there, self.no_text)

    def collate(self, passages: Sequence[Passage]) -> Any:
        raise NotImplementedError

    def forward(self, batch: Any) -> tuple[Tensor | None, ...]:
        raise NotImplementedError

    def loss(
        self,
        truth: Tensor,
        classes: Tensor | None,
        outputs: Tensor,
        logits: Tensor | None,
        *rest: Tensor | None,
    ) -> Tensor:
        """Of a whole batch; classes -1 are not known; the first of `rest` says what was read."""
        return learner.rating_loss(truth, classes, outputs, logits, *rest[:1])


def _pad(network: ReadingNetwork) -> int:
    return network.tokenizer.pad


def missing(
    hidden: Tensor, mask: Tensor, there: Tensor, embedding: Tensor
) -> tuple[Tensor, Tensor]:
    """Rows that are not there become one position, the embedding of the missing modality."""
    first = torch.zeros_like(mask)
    first[:, 0] = True
    gone = ~there[:, None]
    hidden = torch.where((gone & first)[..., None], embedding.to(hidden.dtype), hidden)
    return hidden, torch.where(gone, first, mask)


def network_class(system: str) -> type[ReadingNetwork]:
    """The class of a system.

    Raises:
        Wav2SmallError: no such system
    """
    if system not in SYSTEMS:
        raise Wav2SmallError(f"--teacher {system}: give one of {', '.join(SYSTEMS)}")
    return import_module(f"wav2small.teachers.multimodal.{system}").Network


@dataclass
class Start:
    """What training begins with: two encoders, or a network that was pretrained.

    Attributes:
        config: of the network, without outputs
        tokenizer: of the text encoder
        weights: state dict of the network, as far as there is one
        entries: of the provenance: every encoder with its licence
        scale: mean and deviation of samples, if the speech encoder names them
    """

    config: dict[str, Any]
    tokenizer: Tokenizer
    weights: dict[str, Tensor]
    entries: list[dict[str, Any]]
    scale: tuple[float, float] | None

    @property
    def identity(self) -> str:
        """Ids and revisions of all it is made of."""
        return " ".join(f"{entry['id']}={entry['revision']}" for entry in self.entries)


def from_encoders(speech: str | None, text: str, *, ear: Mapping[str, Any] | None = None) -> Start:
    """Begin with a speech and a text encoder; see `pretrained.load`, `encoders.load_text`.

    Args:
        speech: folder or hub id; not of a system with an ear of its own
        text: folder or hub id
        ear: of the system
    """
    read = encoders.load_text(text)
    weights = {f"text.{key}": value for key, value in read.model.state_dict().items()}
    entries = [_entry("text encoder", read.source)]
    if speech is None or ear is not None:
        config = {"speech_config": dict(ear or {}), "text_config": read.config}
        return Start(config, read.tokenizer, weights, entries, None)
    heard = pretrained.load(speech)
    weights |= {f"speech.model.{key}": value for key, value in heard.weights.items()}
    entries.insert(0, _entry("speech encoder", heard.source))
    config = {"speech_config": heard.config, "text_config": read.config}
    return Start(config, read.tokenizer, weights, entries, heard.scale)


def from_pretrained(folder: str, system: str) -> Start:
    """Begin with what `wav2small pretrain` wrote.

    Raises:
        Wav2SmallError: another system's
    """
    source = checkpoint.local(folder)
    config = source.config
    if config.get("model_type") != system:
        raise Wav2SmallError(
            f"{source.folder / checkpoint.CONFIG}: model_type {config.get('model_type')!r} is no "
            f"{system}; give the folder of `wav2small pretrain {system}`"
        )
    weights = pretrained.read_weights(source.folder / checkpoint.WEIGHTS)
    weights = {checkpoint.modern(key): value for key, value in weights.items()}
    tokenizer = encoders.load_tokenizer(source.folder, config["text_config"])
    history = lineage(source)
    kept = {key: value for key, value in config.items() if key not in _HEAD_FIELDS}
    entries = [_entry("pretrained " + system, source), *history.get("teachers", ())]
    return Start(kept, tokenizer, weights, entries, (config["mean"], config["std"]))


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
) -> ReadingNetwork:
    """A network with the encoders' weights and new layers beside them.

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
    network = network_class(system)(config, start.tokenizer)
    own = network.state_dict()
    fits = {key: value for key, value in start.weights.items() if not key.startswith(_HEADS)}
    network.load_state_dict({**own, **{key: fits[key] for key in fits if key in own}})
    return network


def save(network: ReadingNetwork, folder: str | os.PathLike[str]) -> None:
    """Write config.json, model.safetensors and the tokenizer's files; see `lora`."""
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    network.tokenizer.save(folder)
    state = {
        checkpoint.published(key): value.detach().cpu().clone().contiguous()
        for key, value in lora.merged(network).items()
    }
    with files.atomic(folder / checkpoint.WEIGHTS) as temporary:
        save_file(state, temporary, metadata={"format": "pt"})
    with files.atomic(folder / checkpoint.CONFIG) as temporary:
        temporary.write_text(json.dumps(network.config, indent=2) + "\n")


def _entry(name: str, source: Checkpoint) -> dict[str, Any]:
    what = {"id": source.id, "revision": source.revision, "licence": source.licence}
    return {"name": name, **what}


def lineage(source: Checkpoint) -> dict[str, Any]:
    """The provenance in a checkpoint's folder."""
    found = source.folder / "provenance.json"
    return checkpoint.read_json(found) if found.exists() else provenance.new()
