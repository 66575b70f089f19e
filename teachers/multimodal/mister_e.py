"""MiSTER-E (arXiv 2602.23300): experts for speech, text and both, over a full conversation.

    every turn of the conversation
       |                    |
    speech encoder      text encoder        a turn: mean of frames; attentive statistics of tokens
       |    |               |    |
    context |             context|          ReLU of Conv1d k 1/3/5 summed, 3 layers of BiGRU, skip
    expert  |             expert |
       |    +- cross-modal -+    |          4 blocks of cross- and self-attention, skip, norm
       |         expert          |
     speech       both         text         each: outputs, categories
       +------- gate: MLP / 2 ---+          their mixture

The published structure and loss are the default, with 1 - CCC in the place of the focal loss for
ratings. After training, an expert whose modality a turn lacks has no share in its mixture
(`exclude_missing`): its estimate is the same for all such turns, and the gate, whose shares hardly
differ between turns, gave it up to a third. `SMALL` names what does with little data and little
time. docs/multimodal.md compares.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from wav2small.teachers.speech.neural import inside
from wav2small.training.losses import ccc

from .base import AudioBatch, MultimodalNetwork, OnDevice, TextBatch, mean, output_layers
from .dialogue import WHOLE, Context, Passage
from .encoders import Tokenizer
from .lora import Adapter
from .mister_e_losses import contrast, differences, divergence, focal, likeness

KERNELS = (1, 3, 5)  # published
GRU_LAYERS = 3  # published
BLOCKS = 4  # published
GATE_SIZE = 10  # published
TEMPERATURE = 2.0  # of the gate (published)
EPSILON = 1e-6  # of the norms (published)
#: For little data: neighbours instead of the conversation, a narrow network, and the weights of
#: contrast and dropout that were chosen for it.
SMALL = {
    "turns": 4,
    "audio_turns": 1,
    "context_size": 256,
    "cross_size": 256,
    "cross_dropout": 0.1,
    "contrast_weight": 0.1,
    "contrast_temperature": 0.1,
}


@dataclass
class Batch(OnDevice):
    """The turns of some passages, N in all, one passage after the other.

    A turn that is in several passages is encoded once.
    """

    audio: AudioBatch | None  # the different signals
    text: TextBatch | None  # the different transcripts
    audio_at: Tensor  # (N,) the signal of each turn; their number = it has none
    text_at: Tensor  # (N,) the transcript of each turn, in the same way
    lengths: Tensor  # (B,) turns of each passage, on the CPU
    at: Tensor  # (B,) place of its own turn


class ContextExpert(nn.Module):
    """Each turn in the context of the turns around it; `size`, of the states, is even.

    Example:
        >>> ContextExpert(6, 8)(torch.rand(2, 4, 6), torch.tensor([4, 2])).shape
        torch.Size([2, 4, 8])
    """

    def __init__(self, inputs: int, size: int):
        super().__init__()
        if size % 2:
            raise ValueError(f"context_size {size} is odd; half of it is for each direction")
        self.convolutions = nn.ModuleList(
            nn.Conv1d(inputs, size, kernel, padding=kernel // 2) for kernel in KERNELS
        )
        self.recurrent = nn.GRU(size, size // 2, GRU_LAYERS, batch_first=True, bidirectional=True)
        self.skip = nn.Linear(inputs, size)

    def forward(self, turns: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, inputs), zeros after the last turn, and (B,) on the CPU -> (B, T, size)."""
        across = turns.transpose(1, 2)
        mixed = torch.stack([layer(across).relu() for layer in self.convolutions]).sum(0)
        packed = pack_padded_sequence(
            mixed.transpose(1, 2), lengths, batch_first=True, enforce_sorted=False
        )
        states, _ = self.recurrent(packed)
        followed, _ = pad_packed_sequence(states, batch_first=True, total_length=turns.shape[1])
        return followed + self.skip(turns)


class NarrowAttention(nn.Module):
    """Attention to a sequence in a space of `inner` numbers, a skip, and a norm of the sum."""

    def __init__(self, size: int, inner: int, heads: int, dropout: float):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(size, inner) for _ in range(3))
        self.attention = nn.MultiheadAttention(inner, heads, 0.1, batch_first=True)  # published
        self.out = nn.Linear(inner, size)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(size, EPSILON)

    def forward(self, states: Tensor, sequence: Tensor, mask: Tensor) -> Tensor:
        """(B, T, size) attend to (B, T, size), whose mask (B, T) marks what counts."""
        parts = self.query(states), self.key(sequence), self.value(sequence)
        attended, _ = self.attention(*parts, key_padding_mask=~mask, need_weights=False)
        return self.norm(states + self.dropout(self.out(attended)))


class CrossBlock(nn.Module):
    """Speech attends to text and text to speech, then each to itself."""

    def __init__(self, *sizes: Any):
        super().__init__()
        self.cross_speech, self.cross_text = NarrowAttention(*sizes), NarrowAttention(*sizes)
        self.self_speech, self.self_text = NarrowAttention(*sizes), NarrowAttention(*sizes)

    def forward(self, speech: Tensor, text: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        speech, text = self.cross_speech(speech, text, mask), self.cross_text(text, speech, mask)
        return self.self_speech(speech, speech, mask), self.self_text(text, text, mask)


class CrossModalExpert(nn.Module):
    """Both modalities from their raw embeddings, of sizes `speech` and `text`; states have `size`,
    the attention `inner` and `heads`.

    Example:
        >>> expert = CrossModalExpert(6, 5, size=8, inner=4, heads=2, dropout=0.0)
        >>> mask = torch.ones(2, 4, dtype=torch.bool)
        >>> [states.shape for states in expert(torch.rand(2, 4, 6), torch.rand(2, 4, 5), mask)][0]
        torch.Size([2, 4, 8])
    """

    def __init__(self, speech: int, text: int, size: int, inner: int, heads: int, dropout: float):
        super().__init__()
        self.enter_speech, self.skip_speech = (nn.Linear(speech, size) for _ in range(2))
        self.enter_text, self.skip_text = (nn.Linear(text, size) for _ in range(2))
        self.blocks = nn.ModuleList(CrossBlock(size, inner, heads, dropout) for _ in range(BLOCKS))
        self.norm = nn.LayerNorm(2 * size, EPSILON)
        self.join = nn.Linear(2 * size, size)

    def forward(self, speech: Tensor, text: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Fused states of speech and of text, and of both, for the head: each (B, T, size)."""
        one, other = self.enter_speech(speech), self.enter_text(text)
        for block in self.blocks:
            one, other = block(one, other, mask)
        one, other = one + self.skip_speech(speech), other + self.skip_text(text)
        joined = self.join(self.norm(torch.cat([other, one], dim=-1)))
        return one, other, joined.relu()


class Head(nn.Module):
    """Outputs and logits from the states of a turn."""

    def __init__(self, config: Mapping[str, Any], size: int):
        super().__init__()
        self.outputs, self.categories = output_layers(config, size)

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.outputs(states), self.categories(states) if self.categories else None


class AttentiveStatistics(nn.Module):
    """Mean and deviation over time, weighted by attention (Okabe et al. 2018, arXiv 1803.10963).

    Example:
        >>> mask = torch.ones(2, 5, dtype=torch.bool)
        >>> AttentiveStatistics(4)(torch.rand(2, 5, 4), mask).shape
        torch.Size([2, 8])
    """

    def __init__(self, size: int):
        super().__init__()
        self.hidden = nn.Linear(size, size)
        self.weight = nn.Linear(size, 1)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """(B, L, size), with the mask (B, L) of valid positions -> (B, 2 size)."""
        weights = self.weight(self.hidden(states).tanh())[..., 0].float()
        shares = weights.masked_fill(~mask, float("-inf")).softmax(dim=1)[..., None]
        average = (shares * states).sum(1)
        square = (shares * (states - average[:, None]).square()).sum(1)
        return torch.cat([average, (square + EPSILON).sqrt()], dim=1)


class Network(MultimodalNetwork):
    """See the module."""

    system = "mister_e"
    by_dialogue = True
    clip_norm = 1.0  # published
    small = SMALL
    adapters: ClassVar[Mapping[str, Adapter]] = {
        "text": Adapter(rank=8, alpha=32),  # published
        "speech": Adapter(rank=16, alpha=8, layers=("q_proj", "k_proj", "query", "key")),
    }
    defaults: ClassVar[Mapping[str, Any]] = {
        "turns": None,  # on both sides whose text is encoded; None = the conversation (published)
        "audio_turns": None,  # of these, those whose audio is encoded; each costs labelling a turn
        "context_size": 1024,  # published
        "cross_size": 1024,  # published
        "cross_inner": 120,  # published
        "cross_heads": 3,  # published
        "cross_dropout": 0.5,  # published
        "exclude_missing": True,  # after training, the expert of what a turn lacks (chosen)
        "focus": 3.0,  # gamma of the focal loss (published)
        "contrast_weight": 2.0,  # published
        "contrast_temperature": 1.0,  # published
        "agreement_weight": 0.1,  # published
    }

    def __init__(self, config: Mapping[str, Any], tokenizer: Tokenizer, where: Any = "config.json"):
        super().__init__(config, tokenizer, where)
        own = self.config
        speech, text = self.speech.size, 2 * self.text.size
        self.pool_text = AttentiveStatistics(self.text.size)
        self.no_text = nn.Parameter(0.02 * torch.randn(text))  # of a turn, not of a token
        self.follow_speech = ContextExpert(speech, own["context_size"])
        self.follow_text = ContextExpert(text, own["context_size"])
        self.cross = CrossModalExpert(
            speech, text, *(own[f"cross_{name}"] for name in ("size", "inner", "heads", "dropout"))
        )
        widths = own["context_size"], own["context_size"], own["cross_size"]
        self.experts = nn.ModuleList(Head(own, width) for width in widths)
        estimates = len(widths) * (len(own["id2label"]) + len(own.get("categories") or ()))
        self.gate = nn.Sequential(
            nn.Linear(estimates, GATE_SIZE), nn.ReLU(), nn.Linear(GATE_SIZE, len(widths))
        )

    @classmethod
    def wanted(cls, config: Mapping[str, Any]) -> Context:
        turns, audio = (
            WHOLE if config[name] is None else config[name] for name in ("turns", "audio_turns")
        )
        return Context(turns, turns, min(turns, audio), min(turns, audio))

    def collate(self, passages: Sequence[Passage]) -> Batch:
        turns = [turn for passage in passages for turn in passage.turns]
        signals = [None if turn.signal is None else turn.signal.tobytes() for turn in turns]
        sounds, audio_at = distinct(signals)
        texts, text_at = distinct([turn.text for turn in turns])
        return Batch(
            audio=self.audio_batch([turns[n] for n in sounds]) if sounds else None,
            text=self.text_batch([self.sequence(turns[n].text) for n in texts]) if texts else None,
            audio_at=torch.tensor(audio_at),
            text_at=torch.tensor(text_at),
            lengths=torch.tensor([len(passage.turns) for passage in passages]),
            at=torch.tensor([passage.at for passage in passages]),
        )

    def forward(self, batch: Batch) -> tuple[Tensor | None, ...]:
        """Outputs and logits of the mixture, of the experts (B, 3, ...), then what is contrasted:
        fused states of speech and text of the own turn (B, size), and whether it has both (B,)."""
        rows = torch.arange(len(batch.at), device=batch.at.device)

        def own(turns: Tensor) -> Tensor:
            return turns[rows, batch.at]

        speech, has_speech = self._speech(batch)
        text, has_text = self._text(batch)
        speech, text = self._turns(speech, batch), self._turns(text, batch)
        mask = inside(batch.lengths, speech)
        fused_speech, fused_text, joined = self.cross(speech, text, mask)
        followed = self.follow_speech(speech, batch.lengths), self.follow_text(text, batch.lengths)
        pairs = zip(self.experts, (*followed, joined), strict=True)
        each = [head(own(states)) for head, states in pairs]
        outputs = torch.stack([ratings for ratings, _ in each], dim=1)
        given = [outputs]
        logits = None
        if each[0][1] is not None:
            logits = torch.stack([logits for _, logits in each], dim=1)
            given.append(logits)
        estimates = torch.cat(given, dim=2).flatten(1)
        own_speech, own_text = (own(self._turns(has, batch)) for has in (has_speech, has_text))
        weights = self.gate(estimates) / TEMPERATURE
        if self.config["exclude_missing"] and not self.training:
            missing = torch.stack([~own_speech, ~own_text, torch.zeros_like(own_text)], dim=1)
            weights = weights.masked_fill(missing, float("-inf"))
        shares = weights.softmax(dim=1)[..., None]
        mixed = (shares * outputs).sum(1)
        mixture = None if logits is None else (shares * logits).sum(1)
        contrasted = own(fused_speech), own(fused_text), (own_speech & own_text).float()
        return mixed, mixture, outputs, logits, *contrasted

    def loss(self, truth: Tensor, classes: Tensor | None, outputs: Tensor, *rest: Any) -> Tensor:
        """Of the mixture, of each expert, of contrast and of agreement; of a full batch.

        `rest` is, as `forward` gives it: logits, ratings (B, E, D) and logits (B, E, C) of the
        experts, fused states of speech and of text (B, size), and which turns have both (B,).
        """
        logits, expert_outputs, expert_logits, speech, text, both = rest
        weights = self.config
        agreement = differences(expert_outputs)
        all_logits = [logits] * (1 + expert_outputs.shape[1])  # None each, or
        if expert_logits is not None:
            agreement = agreement + divergence(expert_logits)
            all_logits = [logits, *expert_logits.unbind(dim=1)]
        estimates = zip([outputs, *expert_outputs.unbind(dim=1)], all_logits, strict=True)
        each = [
            (1 - ccc(truth, ratings)).sum() + focal(classes, guesses, weights["focus"])
            for ratings, guesses in estimates
        ]
        paired = both > 0.5
        alike = likeness(truth, classes)[paired][:, paired]
        temperature = weights["contrast_temperature"]
        contrasted = contrast(speech[paired], text[paired], alike, temperature)
        value = torch.stack(each).sum() + weights["contrast_weight"] * contrasted
        return value + weights["agreement_weight"] * agreement

    def _speech(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The embedding of each turn by its audio (N, size), and which have one (N,)."""
        own = self.no_speech[None]
        if batch.audio is not None:
            own = torch.cat([mean(*self.encode_speech(batch.audio)), own])
        return own[batch.audio_at], batch.audio_at < len(own) - 1

    def _text(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The embedding of each turn by its transcript (N, 2 size), and which have one (N,)."""
        own = self.no_text[None]
        if batch.text is not None:
            states = self.text(batch.text.tokens, batch.text.mask)
            own = torch.cat([self.pool_text(states, batch.text.mask), own])
        return own[batch.text_at], batch.text_at < len(own) - 1

    def _turns(self, flat: Tensor, batch: Batch) -> Tensor:
        """(N, ...) -> (B, T, ...), zeros after the last turn of a passage."""
        return pad_sequence(list(flat.split(batch.lengths.tolist())), batch_first=True)


def distinct(values: Sequence[Hashable]) -> tuple[list[int], list[int]]:
    """Where each different value is first, and for each value which of them it is.

    None is no value: its number is that of the different values.

    Example:
        >>> distinct(["a", None, "b", "a"])
        ([0, 2], [0, 2, 1, 0])
    """
    first: dict[Hashable, int] = {}
    for place, value in enumerate(values):
        if value is not None:
            first.setdefault(value, place)
    numbers = {value: number for number, value in enumerate(first)}
    return list(first.values()), [numbers.get(value, len(first)) for value in values]
