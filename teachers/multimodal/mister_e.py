"""MiSTER-E (arXiv 2602.23300): experts for speech, text and both, over a conversation.

    turns before, own, turns after
       |                    |
    speech encoder      text encoder        one embedding of each turn
       |                    |
    context expert      context expert      Conv1d k 1/3/5 summed, 3 layers of BiGRU, skip
       |     |              |     |
       |     +-> co-attention <-+ |         4 blocks over the turns
       |              |           |
     speech         cross        text       each: outputs, categories
       +------- gate: softmax / 2 ----+     their mixture

Published: the two context experts, the cross-modal expert, the gate and its temperature, the
contrastive loss between paired speech and text, the divergence between experts, and that nobody
asks who speaks. Ours: an utterance is the mean of its hidden states; `TURNS` turns on both sides
stand for the conversation, `AUDIO_TURNS` of them with audio; ratings agree by their squared
difference; turns of the same category are positives of each other, and without categories those
whose ratings differ by no more than `NEAR`; each expert also learns for itself; the weights. The
encoders learn in full, or through LoRA (`--lora`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from wav2small.training.losses import rating_loss

from .base import AudioBatch, CrossAttention, MultimodalNetwork, OnDevice, TextBatch, contrast, mean
from .dialogue import Context, Passage
from .encoders import Tokenizer

TURNS = 4  # on both sides whose text is encoded (chosen)
AUDIO_TURNS = 1  # of these, those whose audio is encoded; each costs labelling a turn (chosen)
KERNELS = (1, 3, 5)  # paper
GRU_LAYERS = 3  # paper
BLOCKS = 4  # of co-attention (paper)
TEMPERATURE = 2.0  # of the gate (paper)
EXPERT_WEIGHT = 1.0  # else the gate starves the expert that learns last (chosen)
CONTRAST_WEIGHT = 0.1  # (chosen)
AGREEMENT_WEIGHT = 0.1  # (chosen)
CONTRAST_TEMPERATURE = 0.1  # (chosen)
NEAR = 0.15  # by which the ratings of positives differ at most, where no category is known (chosen)


@dataclass
class Batch(OnDevice):
    """The turns of some passages, N in all, one passage after the other.

    Attributes:
        audio: of the turns with a signal
        text: of the turns that have a transcript
        has_audio: (N,) bool
        has_text: (N,) bool
        lengths: (B,) turns of each passage, on the CPU
        at: (B,) place of its own turn
    """

    audio: AudioBatch | None
    text: TextBatch | None
    has_audio: Tensor
    has_text: Tensor
    lengths: Tensor
    at: Tensor


class ContextExpert(nn.Module):
    """Each turn in the context of the turns around it."""

    def __init__(self, size: int, dropout: float):
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv1d(size, size, kernel, padding=kernel // 2) for kernel in KERNELS
        )
        self.recurrent = nn.GRU(
            size, size // 2, GRU_LAYERS, batch_first=True, bidirectional=True, dropout=dropout
        )
        self.norm = nn.LayerNorm(size)

    def forward(self, states: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, size), zeros after the last turn, and (B,) on the CPU -> the same shape."""
        across = states.transpose(1, 2)
        mixed = torch.stack([layer(across) for layer in self.convolutions]).sum(0).transpose(1, 2)
        packed = pack_padded_sequence(mixed, lengths, batch_first=True, enforce_sorted=False)
        found, _ = self.recurrent(packed)
        followed, _ = pad_packed_sequence(found, batch_first=True, total_length=states.shape[1])
        return self.norm(states + followed)


class CoAttention(nn.Module):
    """Speech attends to text, and text to speech."""

    def __init__(self, size: int, heads: int, dropout: float):
        super().__init__()
        self.speech = CrossAttention(size, heads, dropout)
        self.text = CrossAttention(size, heads, dropout)

    def forward(self, speech: Tensor, text: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.speech(speech, text, mask), self.text(text, speech, mask)


class Expert(nn.Module):
    """Outputs and logits from the states of a turn."""

    def __init__(self, size: int, dimensions: int, categories: int):
        super().__init__()
        self.outputs = nn.Linear(size, dimensions)
        nn.init.normal_(self.outputs.weight, std=0.02)
        nn.init.constant_(self.outputs.bias, 0.5)  # the middle of the scale
        self.categories = nn.Linear(size, categories) if categories else None

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.outputs(states), self.categories(states) if self.categories else None


class Network(MultimodalNetwork):
    """See the module."""

    system = "mister_e"
    context = Context(before=TURNS, after=TURNS, audio_before=AUDIO_TURNS, audio_after=AUDIO_TURNS)
    defaults: ClassVar[Mapping[str, Any]] = {
        "fusion_size": 256,
        "fusion_heads": 4,
        "fusion_dropout": 0.1,
        "contrast_size": 64,
    }

    def __init__(self, config: Mapping[str, Any], tokenizer: Tokenizer, where: Any = "config.json"):
        super().__init__(config, tokenizer, where)
        size, heads = self.config["fusion_size"], self.config["fusion_heads"]
        dropout = self.config["fusion_dropout"]
        self.project_speech = nn.Linear(self.speech.size, size)
        self.project_text = nn.Linear(self.text.size, size)
        self.contrast_speech = nn.Linear(size, self.config["contrast_size"])
        self.contrast_text = nn.Linear(size, self.config["contrast_size"])
        self.follow_speech = ContextExpert(size, dropout)
        self.follow_text = ContextExpert(size, dropout)
        self.cross = nn.ModuleList(CoAttention(size, heads, dropout) for _ in range(BLOCKS))
        counts = len(self.config["id2label"]), len(self.config.get("categories") or ())
        self.experts = nn.ModuleList(Expert(width, *counts) for width in (size, size, 2 * size))
        self.gate = nn.Linear(4 * size, len(self.experts))

    def collate(self, passages: Sequence[Passage]) -> Batch:
        turns = [turn for passage in passages for turn in passage.turns]
        audible = [turn for turn in turns if turn.signal is not None]
        read = [self.sequence(turn.text) for turn in turns if turn.text is not None]
        return Batch(
            audio=self.audio_batch(audible) if audible else None,
            text=self.text_batch(read) if read else None,
            has_audio=torch.tensor([turn.signal is not None for turn in turns]),
            has_text=torch.tensor([turn.text is not None for turn in turns]),
            lengths=torch.tensor([len(passage.turns) for passage in passages]),
            at=torch.tensor([passage.at for passage in passages]),
        )

    def forward(self, batch: Batch) -> tuple[Tensor | None, ...]:
        """Outputs and logits of the mixture, of the experts (B, 3, ...), then what is contrasted:
        speech and text of the own turn (B, contrast_size), and whether it has both (B,)."""
        rows = torch.arange(len(batch.at), device=batch.at.device)

        def own(sequence: Tensor) -> Tensor:
            return sequence[rows, batch.at]

        speech = self._sequences(self.project_speech(self._speech(batch)), batch)
        text = self._sequences(self.project_text(self._text(batch)), batch)
        pair = self.contrast_speech(own(speech)), self.contrast_text(own(text))
        both = own(self._sequences((batch.has_audio & batch.has_text).to(speech.dtype), batch))

        speech = self.follow_speech(speech, batch.lengths)
        text = self.follow_text(text, batch.lengths)
        steps = torch.arange(speech.shape[1], device=speech.device)
        mask = steps < batch.lengths.to(speech.device)[:, None]
        crossed_speech, crossed_text = speech, text
        for block in self.cross:
            crossed_speech, crossed_text = block(crossed_speech, crossed_text, mask)
        states = [
            own(speech),
            own(text),
            torch.cat([own(crossed_speech), own(crossed_text)], dim=1),
        ]
        found = [expert(state) for expert, state in zip(self.experts, states, strict=True)]
        shares = (self.gate(torch.cat(states, dim=1)) / TEMPERATURE).softmax(dim=1)[..., None]
        outputs = torch.stack([ratings for ratings, _ in found], dim=1)
        mixed = (shares * outputs).sum(1)
        if found[0][1] is None:
            return mixed, None, outputs, None, *pair, both
        logits = torch.stack([logits for _, logits in found], dim=1).float()
        mixture = (shares.float().log() + logits.log_softmax(dim=2)).logsumexp(dim=1)
        return mixed, mixture, outputs, logits, *pair, both

    def loss(
        self,
        truth: Tensor,
        classes: Tensor | None,
        outputs: Tensor,
        logits: Tensor | None,
        *rest: Tensor | None,
    ) -> Tensor:
        """See `mixture_loss`."""
        return mixture_loss(truth, classes, outputs, logits, *rest)

    def _speech(self, batch: Batch) -> Tensor:
        """The embedding of each turn by its audio: (N, size)."""
        states = self.no_speech.expand(len(batch.has_audio), -1)
        if batch.audio is None:
            return states
        return _put(states, batch.has_audio, self.encode_speech(batch.audio))

    def _text(self, batch: Batch) -> Tensor:
        """The embedding of each turn by its transcript: (N, size)."""
        states = self.no_text.expand(len(batch.has_text), -1)
        if batch.text is None:
            return states
        return _put(states, batch.has_text, self.encode_text(batch.text))

    def _sequences(self, flat: Tensor, batch: Batch) -> Tensor:
        """(N, ...) -> (B, T, ...), zeros after the last turn of a passage."""
        return pad_sequence(list(flat.split(batch.lengths.tolist())), batch_first=True)


def _put(states: Tensor, present: Tensor, hidden: tuple[Tensor, Tensor]) -> Tensor:
    """Means of the hidden states in the rows that are present."""
    means = mean(*hidden)
    return states.to(means.dtype).index_put((present,), means)


def mixture_loss(
    truth: Tensor,
    classes: Tensor | None,
    outputs: Tensor,
    logits: Tensor | None,
    expert_outputs: Tensor | None,
    expert_logits: Tensor | None,
    speech: Tensor | None,
    text: Tensor | None,
    both: Tensor | None,
) -> Tensor:
    """Ratings and categories of the mixture and of each expert, agreement, contrast.

    Of a full batch.

    Args:
        truth: (B, D), 0..1
        classes: (B,) categories, -1 = not known; None = there are none
        outputs: (B, D) of the mixture
        logits: (B, C) of the mixture
        expert_outputs: (B, E, D)
        expert_logits: (B, E, C)
        speech: (B, size) of the turn's audio
        text: (B, size) of its transcript
        both: (B,) 1 = both are present, else 0
    """
    assert expert_outputs is not None
    assert speech is not None and text is not None and both is not None
    value = rating_loss(truth, classes, outputs, logits) + EXPERT_WEIGHT * alone(
        truth, classes, expert_outputs, expert_logits
    )
    agreement = differences(expert_outputs)
    if expert_logits is not None:
        agreement = agreement + divergence(expert_logits)
    paired = both > 0.5
    alike = positives(truth, classes)[paired][:, paired]
    contrasted = contrast(speech[paired], text[paired], 1 / CONTRAST_TEMPERATURE, alike)
    return value + AGREEMENT_WEIGHT * agreement + CONTRAST_WEIGHT * contrasted


def alone(truth: Tensor, classes: Tensor | None, outputs: Tensor, logits: Tensor | None) -> Tensor:
    """The loss of each expert's own outputs (B, E, D), logits (B, E, C); mean."""
    count = outputs.shape[1]
    each_logits = [None] * count if logits is None else logits.unbind(dim=1)
    each = zip(outputs.unbind(dim=1), each_logits, strict=True)
    return sum(rating_loss(truth, classes, *found) for found in each) / count  # type: ignore


def differences(outputs: Tensor) -> Tensor:
    """Squared difference of two experts' ratings, mean over pairs, turns and dimensions.

    Example:
        >>> import torch
        >>> differences(torch.tensor([[[0.5], [1.0]]])).item()  # one turn, two experts
        0.25
    """
    pairs = combinations(outputs.unbind(dim=1), 2)
    return torch.stack([(one - other).square().mean() for one, other in pairs]).mean()


def divergence(logits: Tensor) -> Tensor:
    """KL(p, q) + KL(q, p) of two experts' categories, mean over pairs and turns."""
    logs = logits.log_softmax(dim=2).unbind(dim=1)
    pairs = [((p.exp() - q.exp()) * (p - q)).sum(1).mean() for p, q in combinations(logs, 2)]
    return torch.stack(pairs).mean()


def positives(truth: Tensor, classes: Tensor | None) -> Tensor:
    """Which turns are alike: (B, B) bool; each is like itself.

    Example:
        >>> import torch
        >>> positives(torch.tensor([[0.1], [0.2], [0.9]]), None).int().tolist()
        [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    """
    own = torch.eye(len(truth), dtype=torch.bool, device=truth.device)
    if classes is None:
        return own | ((truth[:, None] - truth[None]).abs().amax(dim=2) <= NEAR)
    known = classes >= 0
    return own | ((classes[:, None] == classes[None]) & known[:, None] & known[None])
