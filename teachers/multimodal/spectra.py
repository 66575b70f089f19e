"""SPECTRA (Yu et al. 2023, arXiv 2305.11579): speech and text of a dialogue in one fusion layer.

    text, own turn and up to 8 before it             speech, previous and own turn
            |                                                |
       text encoder                                    speech encoder
            |  + modality + turn                             |  + modality + turn + time
            +----------------------+-------------------------+
                          one transformer layer
                                   |
                    first position: outputs, categories

Published: the encoders, the modality and turn embeddings, the single fusion layer, the context,
the four objectives of pretraining (`spectra_objectives`) and the head on the first position. Ours:
the own turn comes first, so that its positions do not depend on the history; turn embeddings are
added where the encoders end, so that these stay as they were published; a sinusoid of the time in
its turn is added to each frame; encoders of other sizes are projected; a turn without transcript
or audio is one learned position.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from wav2small import audio
from wav2small.teachers.speech import backbones

from .base import AudioBatch, MultimodalNetwork, OnDevice, TextBatch, missing, sinusoid
from .dialogue import Context, Passage, Turn
from .encoders import Tokenizer

HISTORY = 8  # turns before the own whose text is encoded (paper)
MOST_TOKENS = 512  # of history and own turn (paper)
_AUDIO_TURNS = 2  # of the audio: the previous and the own (paper)
#: Deviation of new embeddings, half of the encoders' states: attention sees them at once. (chosen)
_APART = 0.5


@dataclass
class Batch(OnDevice):
    """Some passages.

    Attributes:
        text: (B, L) history and own turn
        turns: (B, L) how many turns before the own a token is
        audio: (2 B, T) the previous turns, then the own ones
    """

    text: TextBatch
    turns: Tensor
    audio: AudioBatch


@dataclass
class Fused:
    """What the fusion layer gives; masks mark the positions that count.

    Attributes:
        text: (B, L, size) own turn and history
        own: (B, L) bool, of the own turn
        history: (B, L) bool
        speech: (B, frames, size) of the own turn
        speech_mask: (B, frames) bool
        previous: (B, frames, size) of the previous turn
        previous_mask: (B, frames) bool
    """

    text: Tensor
    own: Tensor
    history: Tensor
    speech: Tensor
    speech_mask: Tensor
    previous: Tensor
    previous_mask: Tensor

    @property
    def pooled(self) -> Tensor:
        """The first position: (B, size)."""
        return self.text[:, 0]


class Network(MultimodalNetwork):
    """See the module."""

    system = "spectra"
    context = Context(before=HISTORY, audio_before=_AUDIO_TURNS - 1)
    #: None = as in the text encoder
    defaults: ClassVar[Mapping[str, Any]] = {"fusion_heads": None, "fusion_dropout": None}

    def __init__(self, config: Mapping[str, Any], tokenizer: Tokenizer, where: Any = "config.json"):
        super().__init__(config, tokenizer, where)
        size = self.text.size
        same = self.speech.size == size
        self.project = nn.Identity() if same else nn.Linear(self.speech.size, size)
        self.modality = nn.Parameter(_APART * torch.randn(2, size))
        self.text_turn = nn.Parameter(_APART * torch.randn(HISTORY + 1, size))
        self.speech_turn = nn.Parameter(_APART * torch.randn(_AUDIO_TURNS, size))
        inner = self.text.model.config
        heads = self.config["fusion_heads"] or inner.num_attention_heads
        dropout = self.config["fusion_dropout"]
        if dropout is None:
            dropout = getattr(inner, "hidden_dropout_prob", 0.1)
        self.fusion = nn.TransformerEncoderLayer(
            size,
            heads,
            4 * size,
            dropout=dropout,
            activation="gelu",
            batch_first=True,
        )
        self.build_head(size)

    def collate(self, passages: Sequence[Passage]) -> Batch:
        return self.batch(passages, [self.tokens(passage) for passage in passages])

    def batch(
        self, passages: Sequence[Passage], rows: Sequence[tuple[list[int] | None, list[int]]]
    ) -> Batch:
        """`collate` with the ids of `tokens` given."""
        text = self.text_batch([ids for ids, _ in rows])
        turns = torch.zeros_like(text.tokens)
        for number, (_, distances) in enumerate(rows):
            turns[number, : len(distances)] = torch.tensor(distances, dtype=torch.long)
        before = [p.turns[p.at - 1] if p.at else Turn() for p in passages]
        return Batch(text, turns, self.audio_batch([*before, *(p.own for p in passages)]))

    def tokens(
        self, passage: Passage, own: list[int] | None = None
    ) -> tuple[list[int] | None, list[int]]:
        """Ids of a passage, and of each how many turns before the own it is.

        The own turn comes first, then the history from the nearest on, as far as it fits. None:
        there is no text.

        Args:
            passage: turns with text
            own: ids of its own turn; None = of its text
        """
        limit = min(self.tokenizer.limit, MOST_TOKENS)
        own = self.tokenizer.ids(passage.own.text or "") if own is None else own
        history = range(1, min(passage.at, HISTORY) + 1)
        parts = [(0, own)] + [
            (distance, self.tokenizer.ids(passage.turns[passage.at - distance].text or ""))
            for distance in history
        ]
        ids: list[int] = []
        distances: list[int] = []
        for distance, part in parts:
            room = limit - 2 - len(ids)
            if part and room > 0:
                ids += [*part[:room], self.tokenizer.last]
                distances += [distance] * (len(ids) - len(distances))
        if not ids:
            return None, []
        return [self.tokenizer.first, *ids], [0, *distances]

    def forward(self, batch: Batch) -> tuple[Tensor | None, ...]:
        return (*self.head(self.fuse(batch).pooled), batch.text.present.float())

    def fuse(self, batch: Batch, features: Tensor | None = None) -> Fused:
        """Encoders and fusion layer.

        Args:
            batch: of `collate`
            features: (2 B, frames, conv_dim), other features than those of the audio itself
        """
        text, text_mask = self.encode_text(batch.text)
        speech, speech_mask = self._encode(batch.audio, features)
        frames = speech.shape[1]
        seconds = torch.arange(frames, device=speech.device) * self.hop_s
        speech = self.project(speech) + sinusoid(seconds, text.shape[2]).to(speech.dtype)
        before, own = speech.chunk(2)
        text = text + self.modality[0] + self.text_turn[batch.turns]
        before = before + self.modality[1] + self.speech_turn[1]
        own = own + self.modality[1] + self.speech_turn[0]
        together = torch.cat([text, own, before], dim=1)
        previous_mask, own_mask = speech_mask.chunk(2)
        mask = torch.cat([text_mask, own_mask, previous_mask], dim=1)
        fused = self.fusion(together, src_key_padding_mask=~mask)
        text, own, before = fused.split([text.shape[1], frames, frames], dim=1)
        latest = batch.turns == 0
        return Fused(
            text, text_mask & latest, text_mask & ~latest, own, own_mask, before, previous_mask
        )

    @property
    def hop_s(self) -> float:
        """Seconds from one frame to the next."""
        return math.prod(self.speech.model.config.conv_stride) / audio.SAMPLING_RATE

    def features(self, batch: AudioBatch) -> Tensor:
        """Convolutional features: (N, frames, conv_dim)."""
        scaled = self.speech.scaled(batch.signal, batch.lengths)
        return backbones.features(self.speech.model, scaled, batch.lengths)

    def _encode(self, batch: AudioBatch, features: Tensor | None) -> tuple[Tensor, Tensor]:
        if features is None:
            return self.encode_speech(batch)
        hidden, mask = backbones.encode(self.speech.model, features, batch.lengths)
        return missing(hidden, mask, batch.present, self.no_speech)
