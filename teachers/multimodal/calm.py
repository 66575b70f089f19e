"""CALM, from its abstract (Sachidananda et al. 2022, arXiv 2202.03587): speech aligned with words.

    log-mel patches                 text
          |                           |
       SpecTran                input embeddings ---------+
          |                           |                  |
     aligned, patch by patch     language model          |
       |       |     |                |                  |
       |  words' mean: mean: speech   |     mean: text --+
       |       |     |                |        |
     patches words utterance       tokens   utterance
       +-------+-----+--------+-------+--------+
           multimodal transformer, two layers
                         |
       the two utterance positions: outputs, categories

Published: SpecTran over linearised patches of a spectrogram, contrastive pretraining that aligns
audio with the input embedding space of a pretrained language model and uses contrast between
acoustic inputs (`calm_objectives`), information at several rates (patch, word, utterance), a
multimodal transformer over acoustic and lexical tokens. The paper's full text is public, but this
was written from its abstract: every size, what is pooled how, the position encodings of the rates
and the weights of the losses are ours, and were not compared with those of the paper.

It has its own speech encoder, so `--speech` is not needed.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from .base import AudioBatch, MultimodalNetwork, OnDevice, TextBatch, mean, missing, sinusoid
from .dialogue import Passage, Turn
from .encoders import Tokenizer, pre_norm
from .spectran import CONFIG, SpecTran


@dataclass
class Words(OnDevice):
    """The timed words of some turns, W in all."""

    row: Tensor  # (W,) the turn of each word
    place: Tensor  # (W,) its number in the turn, from 0
    first: Tensor  # (W,) the place of its first token
    last: Tensor  # (W,) of its last one
    times: Tensor  # (W, 2) start and end, seconds
    name: Tensor  # (W,) the same number for the same word


@dataclass
class Batch(OnDevice):
    """Some turns: their speech, text, and words with times as far as they are known."""

    audio: AudioBatch
    text: TextBatch
    words: Words


@dataclass
class Aligned:
    """Speech in the space of the language model's input embeddings."""

    tokens: Tensor  # (B, patches, size)
    mask: Tensor  # (B, patches) bool
    speech: Tensor  # (B, size) their mean
    text: Tensor  # (B, size) the mean of the input embeddings of the transcript
    words: Tensor  # (W, size) mean of a word's patches, weighted by how much of each it fills
    timed: Tensor  # (W,) bool, some patch has a part in it


class Network(MultimodalNetwork):
    """See the module."""

    system = "calm"
    own_encoder = CONFIG
    defaults: ClassVar[Mapping[str, Any]] = {
        "fusion_layers": 2,
        "fusion_heads": 0,  # 0 = as the text's
        "fusion_dropout": 0.1,
        "word_contrast": 1.0,  # weight in pretraining, next to that of utterances
        "audio_contrast": 1.0,  # the same, of two views of an utterance's audio
    }

    def __init__(self, config: Mapping[str, Any], tokenizer: Tokenizer, where: Any = "config.json"):
        super().__init__(config, tokenizer, where)
        size = self.text.size
        heads = self.config["fusion_heads"] or self.text.model.config.num_attention_heads
        dropout = self.config["fusion_dropout"]
        self.align = nn.Linear(self.speech.size, size)
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in _KINDS)
        self.kinds = nn.Parameter(0.02 * torch.randn(len(_KINDS), size))
        layers = (pre_norm(size, heads, dropout) for _ in range(self.config["fusion_layers"]))
        self.fusion = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(2 * size)
        self.build_head(2 * size)

    def build_speech(self, mean: float, std: float, where: Any) -> nn.Module:
        return SpecTran(self.config["speech_config"], mean, std, where)

    def collate(self, passages: Sequence[Passage]) -> Batch:
        return self.batch([passage.own for passage in passages])

    def batch(self, turns: Sequence[Turn]) -> Batch:
        """`collate` of turns alone."""
        room = self.tokenizer.limit - 2
        rows: list[list[int] | None] = []
        found = []
        for number, turn in enumerate(turns):
            timed = turn.timed() if turn.signal is not None else []
            if not timed:
                rows.append(self.sequence(turn.text))
                continue
            ids, places = self.tokenizer.timed(timed)
            rows.append([self.tokenizer.first, *ids[:room], self.tokenizer.last])
            for place, (word, (first, last)) in enumerate(zip(timed, places, strict=True)):
                if 0 <= first and last < room:
                    name = zlib.crc32(word.word.lower().encode()) & 0xFFFFFF  # exact in float32
                    found.append((number, place, 1 + first, 1 + last, name, word.start, word.end))
        columns = np.array(found, dtype=np.float64).reshape(-1, 7)
        row, place, first, last, name = torch.from_numpy(columns[:, :5].T.astype(np.int64))
        times = torch.from_numpy(columns[:, 5:]).float()
        words = Words(row, place, first, last, times, name)
        return Batch(self.audio_batch(turns), self.text_batch(rows), words)

    def forward(self, batch: Batch) -> tuple[Tensor | None, ...]:
        aligned = self.aligned(batch)
        lexical, lexical_mask = self.encode_text(batch.text)
        words, words_mask = self._rows(aligned, batch.words)
        utterance = aligned.speech[:, None], aligned.text[:, None]
        sequences = (*utterance, lexical, words, aligned.tokens)
        positions = (0, 0, 0, self._positions(words), self.speech.positions(aligned.tokens))
        kinds = zip(self.norms, sequences, self.kinds, positions, strict=True)
        parts = [norm(sequence) + kind + position for norm, sequence, kind, position in kinds]
        states = torch.cat(parts, dim=1)
        always = lexical_mask.new_ones(len(lexical), len(utterance))
        mask = torch.cat([always, lexical_mask, words_mask, aligned.mask], dim=1)
        for layer in self.fusion:
            states = layer(states, src_key_padding_mask=~mask)
        outputs, logits = self.head(self.norm(states[:, : len(utterance)].flatten(1)))
        return outputs, logits, batch.text.present.float()

    def aligned(self, batch: Batch) -> Aligned:
        """What contrastive pretraining aligns."""
        hidden, mask = self.encode_speech(batch.audio)
        tokens = self.align(hidden)
        embedded, counted = self.lexical(batch.text)
        words = batch.words
        shares = self.speech.overlaps(words.times, tokens.shape[1]) * mask[words.row]
        total = shares.sum(1, keepdim=True)
        pooled = torch.einsum("wp,wps->ws", shares / total.clamp(min=1e-6), tokens[words.row])
        speech, read = mean(tokens, mask), mean(embedded, counted)
        return Aligned(tokens, mask, speech, read, pooled, total[:, 0] > 0)

    def lexical(self, text: TextBatch) -> tuple[Tensor, Tensor]:
        """Input embeddings of the transcripts, and the mask of the words among them."""
        ends = (text.tokens == self.tokenizer.first) | (text.tokens == self.tokenizer.last)
        inner = text.mask & ~ends
        alone = inner.any(dim=1, keepdim=True)  # a transcript of which no token is left
        embedded = self.text.embed(text.tokens)
        return missing(embedded, torch.where(alone, inner, text.mask), text.present, self.no_text)

    def _rows(self, aligned: Aligned, words: Words) -> tuple[Tensor, Tensor]:
        """Words by turn: (B, most words, size), and the mask of those that count."""
        count = int(words.place.max()) + 1 if len(words.place) else 0
        rows, size = aligned.speech.shape
        states = aligned.words.new_zeros(rows, count, size)
        mask = torch.zeros(rows, count, dtype=torch.bool, device=states.device)
        at = words.row, words.place
        return states.index_put(at, aligned.words), mask.index_put(at, aligned.timed)

    def _positions(self, words: Tensor) -> Tensor:
        """Of words, by their number: a tenth of a second each."""
        number = torch.arange(words.shape[1], device=words.device)
        return sinusoid(number / 10, words.shape[2]).to(words.dtype)


_KINDS = ("speech", "text", "lexical", "words", "patches")
