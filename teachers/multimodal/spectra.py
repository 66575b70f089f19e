"""SPECTRA (Yu et al. 2023, arXiv 2305.11579): speech and text of a dialogue in one fusion layer.

    [first] up to 8 turns, own turn            [audio_cls] previous turn [audio_sep] own turn
            |                                                |
       input embeddings                          features of the CNN, projected
            |  + type: own turn or not                       |  + the same types
       text encoder                                    speech encoder
            |  + modality                                    |  + modality
            +----------------------+-------------------------+
                          one transformer layer
                                   |
              first position: dense, GELU, outputs, categories

The published structure is the default. `SMALL` names what does with little data: a sinusoid of the
time in its turn at every frame, and heads and masks of pretraining (`spectra_objectives`).
docs/multimodal.md compares. Ours throughout: encoders of other sizes are projected; a turn without
audio, and a dialogue without text, is one learned position.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from wav2small import audio
from wav2small.errors import Wav2SmallError
from wav2small.teachers.speech import backbones
from wav2small.training.losses import rating_loss

from .base import AudioBatch, MultimodalNetwork, OnDevice, TextBatch, mean, missing, sinusoid
from .dialogue import Context, Passage, Turn
from .encoders import Tokenizer

HISTORY = 8  # turns before the own whose text is encoded (published)
MOST_TOKENS = 512  # of history and own turn (published)
SMALL = {
    "frame_times": True,
    "word_times": "layer",
    "position_weight": 2000.0,
    "response": "compared",
    "acoustic_share": 0.15,
    "without_text_share": 0.5,
    "pooling": "frames",
    "previous_dropout": 0.5,
}


@dataclass
class Batch(OnDevice):
    """Some passages."""

    text: TextBatch  # (B, L) history and own turn
    distance: Tensor  # (B, L) how many turns before the own a token is
    audio: AudioBatch  # (2 B, T) the previous turns, then the own ones


@dataclass
class Joint:
    """Two turns of audio as one sequence."""

    hidden: Tensor  # (S, J, size) states of the speech encoder
    source: Tensor  # (S, J) frame among all (N x F) that a position is, -1 = none
    previous: Tensor  # (S, J) bool, of the previous turn
    own: Tensor  # (S, J) bool, of the own turn
    mask: Tensor  # (S, J) bool, positions that count

    def rows(self, index: Tensor) -> Joint:
        """The sequences of some rows."""
        return Joint(*(value[index] for value in vars(self).values()))


@dataclass
class Fused:
    """What the fusion layer gives; masks mark the positions that count."""

    text: Tensor  # (S, L, size) history and own turn
    own: Tensor  # (S, L) bool, tokens of the own turn
    history: Tensor  # (S, L) bool
    speech: Tensor  # (S, J, size)
    own_frames: Tensor  # (S, J) bool, frames of the own turn
    previous_frames: Tensor  # (S, J) bool
    frames: Tensor  # (S, J) bool, all positions of the audio

    def rows(self, index: slice) -> Fused:
        """The sequences of some rows."""
        return Fused(*(value[index] for value in vars(self).values()))


class Network(MultimodalNetwork):
    """See the module."""

    system = "spectra"
    context = Context(before=HISTORY, audio_before=1)
    small = SMALL
    defaults: ClassVar[Mapping[str, Any]] = {
        "fusion_heads": None,  # None = as in the text encoder (published)
        "fusion_dropout": None,  # the same
        "frame_times": False,  # a sinusoid of the time in its turn is added to each frame
        "word_times": "linear",  # head of pretraining; or "layer"
        "position_weight": 1.0,  # of the loss of times, which is small: (s / 10)^2
        "response": "first",  # position that pretraining's response selection reads; or "compared"
        "acoustic_share": None,  # of frames masked in pretraining; None = as published
        "without_text_share": 0.0,  # of the loss; see `loss`
        "pooling": "first",  # position that the head reads; or "frames": with the own frames' mean
        "previous_dropout": 0.0,  # of previous turns, whose audio is hidden in fine-tuning
    }

    def __init__(self, config: Mapping[str, Any], tokenizer: Tokenizer, where: Any = "config.json"):
        super().__init__(config, tokenizer, where)
        if not hasattr(self.speech.model, "feature_extractor"):
            raise Wav2SmallError(
                f"{where}: spectra joins turns at the CNN of WavLM, wav2vec2 or HuBERT; give one "
                "of these as --speech"
            )
        size, speech = self.text.size, self.speech.size
        same = speech == size
        self.project = nn.Identity() if same else nn.Linear(speech, size)
        self.types = nn.Embedding(2, size)  # another turn's, the own turn's
        nn.init.normal_(self.types.weight, std=0.02)
        self.project_types = nn.Identity() if same else nn.Linear(size, speech, bias=False)
        self.audio_cls = nn.Parameter(torch.randn(speech))
        self.audio_sep = nn.Parameter(torch.randn(speech))
        self.modality = nn.Embedding(2, size)  # text, speech
        inner = self.text.model.config
        heads = self.config["fusion_heads"] or inner.num_attention_heads
        wide = getattr(inner, "intermediate_size", 4 * size)
        dropout = self.config["fusion_dropout"]
        if dropout is None:
            dropout = getattr(inner, "hidden_dropout_prob", 0.1)
        eps = getattr(inner, "layer_norm_eps", 1e-5)
        self.fusion = nn.TransformerEncoderLayer(
            size, heads, wide, dropout, "gelu", layer_norm_eps=eps, batch_first=True
        )
        self.dense = nn.Sequential(nn.Linear(size, size), nn.GELU())
        self.build_head(size)
        if self.config["without_text_share"]:
            self.text_dropout = 0.0

    def collate(self, passages: Sequence[Passage]) -> Batch:
        turns = [passage.previous for passage in passages] + [passage.own for passage in passages]
        return self.batch([self.tokens(passage)[:2] for passage in passages], turns)

    def batch(
        self, rows: Sequence[tuple[list[int] | None, list[int]]], turns: Sequence[Turn]
    ) -> Batch:
        """Pad ids and distances of `tokens`, and the signals of turns."""
        text = self.text_batch([ids for ids, _ in rows])
        distance = torch.zeros_like(text.tokens)
        for number, (_, distances) in enumerate(rows):
            distance[number, : len(distances)] = torch.tensor(distances, dtype=torch.long)
        return Batch(text, distance, self.audio_batch(turns))

    def tokens(
        self, passage: Passage, known: Mapping[int, list[int]] | None = None
    ) -> tuple[list[int] | None, list[int], dict[int, int]]:
        """Ids of a passage, of each how many turns before the own it is, and where turns begin.

        The first token, the history from the oldest turn on, then the own turn. What does not fit
        is missing from the front. A turn may begin before the first token: its front is missing.
        No ids (None): there is no text. `known` are ids of some turns by distance; of the others
        those of their text count.
        """
        limit = min(self.tokenizer.limit, MOST_TOKENS)
        known = known or {}
        ids: list[int] = []
        distances: list[int] = []
        begins: dict[int, int] = {}  # from the end
        for distance in range(min(passage.at, HISTORY) + 1):
            part = known.get(distance)
            if part is None:
                part = self.tokenizer.ids(passage.turns[passage.at - distance].text or "")
            room = limit - 1 - len(ids)
            if not part or room < 2:
                continue
            begins[distance] = len(ids) + 1 + len(part)
            if distance == 0:  # the own turn keeps its front
                part = part[: room - 1]
                begins[distance] = 1 + len(part)
            part = [*part, self.tokenizer.last][-room:]
            ids, distances = part + ids, [distance] * len(part) + distances
        if not ids:
            return None, [], {}
        total = 1 + len(ids)
        begins = {distance: total - begin for distance, begin in begins.items()}
        return [self.tokenizer.first, *ids], [distances[0], *distances], begins

    def forward(self, batch: Batch) -> tuple[Tensor | None, ...]:
        rows = torch.arange(len(batch.audio.present) // 2, device=batch.distance.device)
        sounds = batch.audio
        if self.training and self.config["previous_dropout"]:
            hidden = torch.rand(len(sounds.present)) < self.config["previous_dropout"]
            hidden[len(rows) :] = False
            sounds = replace(sounds, present=sounds.present & ~hidden.to(sounds.present.device))
        joint = self.encode_joint(sounds, torch.stack([rows, rows + len(rows)], dim=1))
        text, mask = self.encode_dialogue(batch)
        fused = self.fuse(text, mask, batch.distance, joint)
        found = (*self.read(fused), batch.text.present.float())
        if not (self.training and self.config["without_text_share"]):
            return found
        first = batch.distance.new_zeros(len(rows), 1)
        alone = self.fuse(self.no_text.expand(len(rows), 1, -1), first == 0, first, joint)
        return (*found, *self.read(alone))

    def read(self, fused: Fused) -> tuple[Tensor, Tensor | None]:
        """Outputs and logits of the categories: the first position, or that and the own frames.

        From little data the first position alone learns to know turns by heart sooner than what
        is said in their frames; the mean, which adds up what each frame says, does not.
        """
        pooled = fused.text[:, 0]
        if self.config["pooling"] == "frames":
            pooled = pooled + mean(fused.speech, fused.own_frames)
        return self.head(self.dense(pooled))

    def loss(self, truth: Tensor, classes: Tensor | None, outputs: Tensor, *rest: Any) -> Tensor:
        """With `without_text_share`, of each turn twice: as it is, and without its text.

        Both share one pass of the speech encoder. Where two fifths of the transcripts are hidden
        instead, the audio alone learns from two turns in five, by the CCC of these few.
        """
        value = super().loss(truth, classes, outputs, *rest)
        if len(rest) == 2:
            return value
        share = self.config["without_text_share"]
        return (1 - share) * value + share * rating_loss(truth, classes, *rest[2:])

    def encode_dialogue(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The text encoder with the types of the tokens: (B, L, size) and mask."""
        types = self.types((batch.distance == 0).long())
        hidden = self.text(batch.text.tokens, batch.text.mask, types)
        return missing(hidden, batch.text.mask, batch.text.present, self.no_text)

    def encode_joint(
        self, batch: AudioBatch, pairs: Tensor, features: Tensor | None = None
    ) -> Joint:
        """The speech encoder over pairs of N turns: (S, 2) rows of the previous and the own turn;
        with features (N, F, conv_dim) instead of those of the audio itself."""
        model = self.speech.model
        hidden = backbones.project(model, self.features(batch) if features is None else features)
        rows, frames = hidden.shape[:2]
        device = hidden.device
        counts = backbones.frames(model, batch.lengths).to(device)
        before, after = counts.where(batch.present, counts.new_tensor(1))[pairs].T[..., None]
        there = batch.present[pairs].T[..., None]
        place = torch.arange(int((before + after).max()) + 2, device=device)[None]
        previous, own = (place >= 1) & (place <= before), place > before + 1
        mask = place < before + after + 2
        own = own & mask
        # The states of all frames, then those of a turn without audio, audio_cls and audio_sep.
        first = rows * frames
        source = torch.where(
            previous, pairs[:, :1] * frames + place - 1, pairs[:, 1:] * frames + place - before - 2
        )
        source = source.where((previous & there[0]) | (own & there[1]), first)
        special = torch.stack([self.no_speech, self.audio_cls, self.audio_sep])
        bank = torch.cat([hidden.flatten(0, 1), special.to(hidden.dtype)])
        index = source.where(place > 0, first + 1)
        index = index.where(place != before + 1, first + 2)
        types = self.project_types(self.types((place > before).long()))
        states = backbones.contextualise(model, bank[index] + types.to(bank.dtype), mask)
        return Joint(states, source.where(source < first, -1), previous, own, mask)

    def fuse(self, text: Tensor, text_mask: Tensor, distance: Tensor, joint: Joint) -> Fused:
        """The fusion layer over text (S, L, size), the mask of its positions that count, the
        distance of its tokens in turns before the own, and S sequences of audio."""
        speech = self.project(joint.hidden)
        if self.config["frame_times"]:
            own, previous = (turn.long().cumsum(1) - 1 for turn in (joint.own, joint.previous))
            place = torch.where(joint.own, own, previous).clamp(min=0)
            speech = speech + sinusoid(place * self.hop_s, speech.shape[2]).to(speech.dtype)
        text = text + self.modality.weight[0]
        speech = speech + self.modality.weight[1]
        mask = torch.cat([text_mask, joint.mask], dim=1)
        fused = self.fusion(torch.cat([text, speech], dim=1), src_key_padding_mask=~mask)
        text, speech = fused.split([text.shape[1], speech.shape[1]], dim=1)
        own, history = text_mask & (distance == 0), text_mask & (distance != 0)
        return Fused(text, own, history, speech, joint.own, joint.previous, joint.mask)

    @property
    def hop_s(self) -> float:
        """Seconds from one frame to the next."""
        return math.prod(self.speech.model.config.conv_stride) / audio.SAMPLING_RATE

    def features(self, batch: AudioBatch) -> Tensor:
        """Convolutional features: (N, frames, conv_dim)."""
        scaled = self.speech.scaled(batch.signal, batch.lengths)
        return backbones.features(self.speech.model, scaled, batch.lengths)
