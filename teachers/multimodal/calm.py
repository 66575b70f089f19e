"""In the style of CALM (Sachidananda et al. 2022, arXiv 2202.03587): sound aligned with words.

    log-mel patches                 text
          |                           |
       SpecTran                input embeddings ---------+
          |                           |                  |
     aligned, patch by patch     language model          |
          |      |                    |                  |
          |      +-- mean: heard      |     mean: read --+
          |            |              |        |
        acoustic tokens    utterance    lexical tokens
                |              |              |
             multimodal transformer, two layers
                               |
           the two utterance positions: outputs, categories

Published: SpecTran over linearised patches of a spectrogram, contrastive pretraining that aligns
sound with the input embedding space of a pretrained language model (`calm_objectives`), a
multimodal transformer over acoustic and lexical tokens with context of the utterance. Not
implemented: contrast between acoustic inputs, and information at the rate of words beside that of
frames and utterances, both of which the abstract names. Ours: every size; lexical tokens are the language model's hidden states; the context
of the utterance is one position for the mean of what was heard and one for that of what was read,
both in the space of the alignment; the head reads these two.

It has its own speech encoder, so `--speech` is not needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from . import spectran
from .base import OnDevice, Prose, ReadingNetwork, Sound, missing
from .encoders import Tokenizer
from .turns import Passage, Turn


@dataclass
class Batch(OnDevice):
    """Some turns, heard and read."""

    sound: Sound
    prose: Prose


@dataclass
class Aligned:
    """What was heard, in the space of the language model's input embeddings.

    Attributes:
        tokens: (B, patches, size)
        mask: (B, patches) bool
        heard: (B, size) their mean
        read: (B, size) the mean of the input embeddings of what was read
    """

    tokens: Tensor
    mask: Tensor
    heard: Tensor
    read: Tensor


class Network(ReadingNetwork):
    """See the module."""

    system = "calm"
    ear = spectran.CONFIG
    defaults: ClassVar[Mapping[str, Any]] = {
        "fusion_layers": 2,
        "fusion_heads": 0,  # 0 = as the text's
        "fusion_dropout": 0.1,
    }

    def __init__(self, config: Mapping[str, Any], tokenizer: Tokenizer, where: Any = "config.json"):
        super().__init__(config, tokenizer, where)
        size = self.text.size
        heads = self.config["fusion_heads"] or self.text.model.config.num_attention_heads
        dropout = self.config["fusion_dropout"]
        self.align = nn.Linear(self.speech.size, size)
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in _KINDS)
        self.kinds = nn.Parameter(0.02 * torch.randn(len(_KINDS), size))
        self.fusion = nn.ModuleList(
            nn.TransformerEncoderLayer(
                size, heads, 4 * size, dropout, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(self.config["fusion_layers"])
        )
        self.norm = nn.LayerNorm(2 * size)
        self.build_head(2 * size)

    def build_speech(self, mean: float, std: float, where: Any) -> nn.Module:
        return spectran.SpecTran(self.config["speech_config"], mean, std, where)

    def collate(self, passages: Sequence[Passage]) -> Batch:
        return self.batch([passage.own for passage in passages])

    def batch(self, turns: Sequence[Turn]) -> Batch:
        """`collate` of turns alone."""
        return Batch(self.sound(turns), self.prose([self.sequence(turn.text) for turn in turns]))

    def forward(self, batch: Batch) -> tuple[Tensor | None, ...]:
        aligned = self.aligned(batch)
        lexical, lexical_mask = self.read(batch.prose)
        utterance = aligned.heard[:, None], aligned.read[:, None]
        sequences = (*utterance, lexical, aligned.tokens)
        states = torch.cat(
            [
                norm(sequence) + kind
                for norm, sequence, kind in zip(self.norms, sequences, self.kinds, strict=True)
            ],
            dim=1,
        )
        always = lexical_mask.new_ones(len(lexical), len(utterance))
        mask = torch.cat([always, lexical_mask, aligned.mask], dim=1)
        for layer in self.fusion:
            states = layer(states, src_key_padding_mask=~mask)
        outputs, logits = self.head(self.norm(states[:, : len(utterance)].flatten(1)))
        return outputs, logits, batch.prose.there.float()

    def aligned(self, batch: Batch) -> Aligned:
        """What contrastive pretraining aligns."""
        hidden, mask = self.listen(batch.sound)
        tokens = self.align(hidden)
        words, counted = self.words(batch.prose)
        return Aligned(tokens, mask, mean(tokens, mask), mean(words, counted))

    def words(self, prose: Prose) -> tuple[Tensor, Tensor]:
        """Input embeddings of what was read, and the mask of the words among them."""
        ends = (prose.tokens == self.tokenizer.first) | (prose.tokens == self.tokenizer.last)
        inner = prose.mask & ~ends
        alone = inner.any(dim=1, keepdim=True)  # a transcript of which no token is left
        embedded = self.text.embed(prose.tokens)
        return missing(embedded, torch.where(alone, inner, prose.mask), prose.there, self.no_text)


_KINDS = ("heard", "read", "lexical", "acoustic")


def mean(states: Tensor, mask: Tensor) -> Tensor:
    """Of the positions that count: (B, L, size), (B, L) -> (B, size)."""
    counted = mask[..., None].to(states.dtype)
    return (states * counted).sum(1) / counted.sum(1)
