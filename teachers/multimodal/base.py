"""Multimodal teachers, of speech and text: what SPECTRA, CALM, BRIDGE and MiSTER-E share.

A system is one file: `NAME.py` with a class `Network(MultimodalNetwork)`, and its name in
`teacher.SYSTEMS`. The class sets attributes of `MultimodalNetwork`, builds its layers from
`self.config`, and has the methods `collate` and `forward`; it may have a `loss` of its own, and
`after_step()`, called after each step of the optimiser in training. Loading, saving, labelling,
fine-tuning (`finetune --teacher NAME`), resume and provenance then work: nothing else to write.

A turn without signal or transcript becomes one position with the learned embedding of a missing
modality, so nothing after the encoders needs to know. Losses are taken over the full batch however
small the parts in memory (`gradient_cache`), so `forward` must not mix rows of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from wav2small import audio
from wav2small.teachers.speech import checkpoint
from wav2small.training import losses

from . import encoders, lora
from .dialogue import Context, Passage, Turn
from .encoders import Tokenizer
from .lora import Adapter

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
class AudioBatch(OnDevice):
    """The audio of some turns."""

    signal: Tensor  # (N, T) float32, zeros after the end of shorter ones
    lengths: Tensor  # (N,) samples, on the CPU
    present: Tensor  # (N,) bool; False = no signal, the row of `signal` is a stand-in


@dataclass
class TextBatch(OnDevice):
    """The transcripts of some turns."""

    tokens: Tensor  # (N, L) ids
    mask: Tensor  # (N, L) bool, of the ids that count
    present: Tensor  # (N,) bool; False = no transcript


@dataclass
class SpeechTextBatch(OnDevice):
    """Speech and text of the same turns.

    Example:
        >>> import torch
        >>> yes = torch.tensor([True])
        >>> audio = AudioBatch(torch.zeros(1, 16000), torch.tensor([16000]), yes)
        >>> text = TextBatch(torch.tensor([[0, 5, 2]]), torch.ones(1, 3, dtype=torch.bool), yes)
        >>> SpeechTextBatch(audio, text).to(torch.device("cpu")).text.tokens.shape
        torch.Size([1, 3])
    """

    audio: AudioBatch
    text: TextBatch


class MultimodalNetwork(nn.Module):
    """The base of a system; see the module.

    Args:
        config: `speech_config`, `text_config` of transformers, `mean` and `std` of the samples,
            `id2label`, optionally `categories`, and what `defaults` names
        tokenizer: of the text encoder
        where: file named in errors
    """

    system: ClassVar[str]  # its name, `model_type` in config.json
    context: Context = Context()  # what of the dialogue it asks for besides the turn
    by_dialogue: ClassVar[bool] = False  # whether dialogues are shuffled, instead of turns
    #: Its options, as published; config.json and `--set NAME=VALUE` may change them.
    defaults: ClassVar[Mapping[str, Any]] = {}
    small: ClassVar[Mapping[str, Any]] = {}  # changes of these for little data, `--set small`
    #: How `--lora` adapts its encoders.
    adapters: ClassVar[Mapping[str, Adapter]] = {"text": Adapter(), "speech": Adapter()}
    #: Share of transcripts hidden in training (chosen), so that it also learns to do without; 0 for
    #: a system with masking of its own.
    text_dropout: float = 0.4
    clip_norm: ClassVar[float] = 0.0  # of the gradient in training; 0 = no limit
    #: Configuration of a speech encoder of its own that `build_speech` builds, without `--speech`.
    own_encoder: ClassVar[Mapping[str, Any] | None] = None
    speech: Any  # of `build_speech`

    def __init__(self, config: Mapping[str, Any], tokenizer: Tokenizer, where: Any = "config.json"):
        super().__init__()
        checkpoint.require(config, FIELDS, where)
        self.config = {**self.defaults, **config, "model_type": self.system}
        self.context = self.wanted(self.config)
        self.tokenizer = tokenizer
        self.speech = self.build_speech(float(config["mean"]), float(config["std"]), where)
        self.text = encoders.Text(config["text_config"], where)
        self.no_speech = nn.Parameter(0.02 * torch.randn(self.speech.size))
        self.no_text = nn.Parameter(0.02 * torch.randn(self.text.size))

    @classmethod
    def wanted(cls, config: Mapping[str, Any]) -> Context:
        """The context that a network of such options asks for."""
        return cls.context

    def build_speech(self, mean: float, std: float, where: Any) -> nn.Module:
        """The speech encoder, for samples of that mean and deviation."""
        return encoders.Speech(self.config["speech_config"], mean, std, where)

    def build_head(self, size: int) -> None:
        """Layers of `head`, for pooled states of `size`."""
        self.outputs, self.categories = output_layers(self.config, size)

    def head(self, pooled: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, size) -> outputs, logits of the categories."""
        return self.outputs(pooled), self.categories(pooled) if self.categories else None

    def adapt(self, rank: int) -> None:
        """Let the encoders learn through adapters of a rank, 0 = of that of `adapters`."""
        lora.adapt(self.text.model, self.adapters["text"].of_rank(rank))
        if self.own_encoder is None:
            lora.adapt(self.speech.model, self.adapters["speech"].of_rank(rank))

    def audio_batch(self, turns: Sequence[Turn]) -> AudioBatch:
        """Pad the signals of turns; those without signal are noted."""
        least = np.zeros(round(audio.MIN_DURATION_S * audio.SAMPLING_RATE), np.float32)
        signals = [least if turn.signal is None else turn.signal for turn in turns]
        lengths = torch.tensor([len(signal) for signal in signals])
        rows = [torch.from_numpy(np.ascontiguousarray(signal)) for signal in signals]
        present = torch.tensor([turn.signal is not None for turn in turns])
        return AudioBatch(pad_sequence(rows, batch_first=True), lengths, present)

    def text_batch(self, rows: Sequence[Sequence[int] | None]) -> TextBatch:
        """Pad sequences of ids, None = no transcript."""
        present = torch.tensor([row is not None for row in rows])
        ids = [row or [self.tokenizer.first] for row in rows]
        return TextBatch(*encoders.pad(ids, self.tokenizer.pad), present)

    def sequence(self, text: str | None) -> list[int] | None:
        """The ids of one transcript with its first and last, cut to what the encoder takes."""
        if text is None:
            return None
        room = self.tokenizer.limit - 2
        return [self.tokenizer.first, *self.tokenizer.ids(text)[:room], self.tokenizer.last]

    def encode_speech(self, batch: AudioBatch) -> tuple[Tensor, Tensor]:
        """Run the speech encoder: (N, frames, size) and the mask of valid frames."""
        hidden, mask = self.speech(batch.signal, batch.lengths)
        return missing(hidden, mask, batch.present, self.no_speech)

    def encode_text(self, batch: TextBatch) -> tuple[Tensor, Tensor]:
        """Run the text encoder: (N, L, size) and the mask of valid positions."""
        hidden = self.text(batch.tokens, batch.mask)
        return missing(hidden, batch.mask, batch.present, self.no_text)

    def collate(self, passages: Sequence[Passage]) -> Any:
        """On the host: passages, own turns with signals, as anything with `.to(device)`."""
        raise NotImplementedError

    def forward(self, batch: Any) -> tuple[Tensor | None, ...]:
        """A/D/V (B, D), category logits (B, C) or None, then whatever `loss` wants, tensors whose
        first axis is the batch."""
        raise NotImplementedError

    def loss(self, truth: Tensor, classes: Tensor | None, outputs: Tensor, *rest: Any) -> Tensor:
        """Of a full batch: `losses.rating_loss`.

        Args:
            truth: (B, D)
            classes: (B,) of categories, -1 = not known; None = there are none
            outputs: and `rest`, what `forward` gives; after the logits which have text (B,), if it
                gives that
        """
        return losses.rating_loss(truth, classes, outputs, *rest[:2])


def output_layers(config: Mapping[str, Any], size: int) -> tuple[nn.Linear, nn.Linear | None]:
    """From states of `size` to the outputs, and to logits of the categories if there are any."""
    outputs = nn.Linear(size, len(config["id2label"]))
    nn.init.normal_(outputs.weight, std=0.02)
    nn.init.constant_(outputs.bias, 0.5)  # the middle of the scale
    categories = config.get("categories") or ()
    return outputs, nn.Linear(size, len(categories)) if categories else None


def missing(
    hidden: Tensor, mask: Tensor, present: Tensor, embedding: Tensor
) -> tuple[Tensor, Tensor]:
    """Rows that are not present become one position, the embedding of the missing modality."""
    first = torch.zeros_like(mask)
    first[:, 0] = True
    gone = ~present[:, None]
    hidden = torch.where((gone & first)[..., None], embedding.to(hidden.dtype), hidden)
    return hidden, torch.where(gone, first, mask)


class CrossAttention(nn.Module):
    """Attention to another sequence, then a feed-forward layer, each with a skip, norms first.

    Example:
        >>> import torch
        >>> layer = CrossAttention(size=8, heads=2, dropout=0.0)
        >>> states, sequence = torch.zeros(1, 3, 8), torch.zeros(1, 5, 8)
        >>> layer(states, sequence, torch.ones(1, 5, dtype=torch.bool)).shape
        torch.Size([1, 3, 8])
    """

    def __init__(self, size: int, heads: int, dropout: float):
        super().__init__()
        self.attention = nn.MultiheadAttention(size, heads, dropout, batch_first=True)
        self.feed = nn.Sequential(
            nn.Linear(size, 4 * size), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * size, size)
        )
        self.asking, self.feeding = nn.LayerNorm(size), nn.LayerNorm(size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, sequence: Tensor, mask: Tensor) -> Tensor:
        """(B, K, size) attend to (B, L, size), with the mask (B, L) of valid positions."""
        asked, _ = self.attention(
            self.asking(states), sequence, sequence, key_padding_mask=~mask, need_weights=False
        )
        states = states + self.dropout(asked)
        return states + self.dropout(self.feed(self.feeding(states)))


def sinusoid(seconds: Tensor, size: int) -> Tensor:
    """Sines and cosines of a time, periods of 40 ms to 40 s in equal ratios: (..., size).

    Example:
        >>> import torch
        >>> sinusoid(torch.tensor([0.0, 0.5]), 4).shape
        torch.Size([2, 4])
        >>> sinusoid(torch.tensor(0.0), 4).tolist()
        [0.0, 0.0, 1.0, 1.0]
    """
    count = size // 2
    periods = torch.logspace(math.log10(0.04), math.log10(40), count, device=seconds.device)
    angles = 2 * math.pi * seconds[..., None] / periods
    return functional.pad(torch.cat([angles.sin(), angles.cos()], dim=-1), (0, size % 2))


def mean(states: Tensor, mask: Tensor) -> Tensor:
    """Mean over the valid positions: (B, L, size), (B, L) -> (B, size).

    Example:
        >>> import torch
        >>> mean(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]])).item()
        2.0
    """
    counted = mask[..., None].to(states.dtype)
    return (states * counted).sum(1) / counted.sum(1)


def info_nce(
    one: Tensor, other: Tensor, scale: Tensor | float, same: Tensor | None = None
) -> Tensor:
    """Each item of one view (N, size) is to find its counterpart in the other, and vice versa.

    -log softmax of the cosines, which `scale` (1 / temperature) multiplies, mean over items and
    both directions (van den Oord et al. 2018, arXiv 1807.03748); 0 if there are no items. Pairs in
    `same` (N, N), bool, are no counterexamples to each other.

    Example:
        >>> import torch
        >>> round(info_nce(torch.eye(2), torch.eye(2), 1.0).item(), 4)  # -log(e / (e + 1))
        0.3133
    """
    if not len(one):
        return one.sum() + other.sum()
    cosines = scale * functional.normalize(one, dim=1) @ functional.normalize(other, dim=1).T
    own = torch.arange(len(one), device=one.device)
    if same is not None:
        cosines = cosines.masked_fill(same & (own[:, None] != own), float("-inf"))
    both = [functional.cross_entropy(view, own) for view in (cosines, cosines.T)]
    return (both[0] + both[1]) / 2


def retrieved(one: Tensor, other: Tensor, same: Tensor | None = None) -> Tensor:
    """Whether each item of one view finds its counterpart in the other: (N,) bool.

    The same counterpart twice counts as found: the two are indistinguishable. `same` is that of
    `info_nce`.

    Example:
        >>> import torch
        >>> retrieved(torch.eye(2), torch.tensor([[0.0, -1.0], [1.0, 1.0]])).tolist()
        [False, True]
    """
    cosines = functional.normalize(one, dim=1) @ functional.normalize(other, dim=1).T
    own = cosines.diagonal()
    if same is not None:
        cosines = cosines.masked_fill(same, -1.0)
    return own >= cosines.amax(dim=1) - 1e-6 if len(one) else own.bool()
