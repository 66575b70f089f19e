"""BRIDGE (Ispas et al. 2023, arXiv 2401.00536): learnable tokens that meet text, then speech.

              text                      speech
                |                          |
          text encoder               speech encoder
                |                          |
         self-attention             self-attention         refinement, side by side
                |                          |
    8 tokens -> cross-attention ---> cross-attention
                |                          |
              means of the tokens after each: outputs, categories

Published: the parallel refinement, the bridge tokens that merge both modalities through
cross-attention, the multi-task loss of cross-entropy and 1 - CCC. Ours: the sizes, that the tokens
attend to text first and speech second, that the head takes them after each, the shares of turns
that are masked, and that both parts of the loss weigh the same. With one mean after both, the many
frames drowned the few words: on the spoken dialogues valence was not learned in 13 epochs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from wav2small.training.losses import ccc

from .base import (
    CrossAttention,
    MultimodalNetwork,
    SpeechTextBatch,
)
from .dialogue import Passage
from .encoders import Tokenizer


class Refinement(nn.Module):
    """Self-attention within a modality, norms first, and a norm of what it gives."""

    def __init__(self, size: int, heads: int, dropout: float):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(
            size, heads, 4 * size, dropout, "gelu", batch_first=True, norm_first=True
        )
        self.norm = nn.LayerNorm(size)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """(B, L, size), whose mask (B, L) marks what counts -> the same shape."""
        return self.norm(self.layer(states, src_key_padding_mask=~mask))


class Network(MultimodalNetwork):
    """See the module."""

    system = "bridge"
    text_dropout = 0.0  # it masks for itself
    defaults: ClassVar[Mapping[str, Any]] = {
        "fusion_size": 256,
        "fusion_heads": 4,
        "fusion_dropout": 0.1,
        "bridge_tokens": 8,
        "mask_speech": 0.1,  # shares of turns, in training (chosen)
        "mask_text": 0.4,
    }

    def __init__(self, config: Mapping[str, Any], tokenizer: Tokenizer, where: Any = "config.json"):
        super().__init__(config, tokenizer, where)
        size, heads = self.config["fusion_size"], self.config["fusion_heads"]
        dropout = self.config["fusion_dropout"]
        self.project_speech = nn.Linear(self.speech.size, size)
        self.project_text = nn.Linear(self.text.size, size)
        self.refine_speech = Refinement(size, heads, dropout)
        self.refine_text = Refinement(size, heads, dropout)
        self.bridge = nn.Parameter(0.02 * torch.randn(self.config["bridge_tokens"], size))
        self.ask_text = CrossAttention(size, heads, dropout)
        self.ask_speech = CrossAttention(size, heads, dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in range(2))
        self.build_head(2 * size)

    def collate(self, passages: Sequence[Passage]) -> SpeechTextBatch:
        own = [passage.own for passage in passages]
        return SpeechTextBatch(
            self.audio_batch(own), self.text_batch([self.sequence(turn.text) for turn in own])
        )

    def forward(self, batch: SpeechTextBatch) -> tuple[Tensor | None, ...]:
        if self.training:
            batch = self.masked(batch)
        speech, speech_mask = self.encode_speech(batch.audio)
        text, text_mask = self.encode_text(batch.text)
        speech = self.refine_speech(self.project_speech(speech), speech_mask)
        text = self.refine_text(self.project_text(text), text_mask)
        after_text = self.ask_text(self.bridge.expand(len(text), -1, -1), text, text_mask)
        after_both = self.ask_speech(after_text, speech, speech_mask)
        means = [
            norm(tokens.mean(dim=1))
            for norm, tokens in zip(self.norms, (after_text, after_both), strict=True)
        ]
        return self.head(torch.cat(means, dim=1))

    def masked(self, batch: SpeechTextBatch) -> SpeechTextBatch:
        """Hide one modality of some turns, never both; what is alone is never hidden."""
        has_audio, has_text = batch.audio.present, batch.text.present
        draw = torch.rand(len(has_audio), device=has_audio.device)
        speech, text = self.config["mask_speech"], self.config["mask_text"]
        hide_audio = (draw < speech) & has_text
        hide_text = (draw >= speech) & (draw < speech + text) & has_audio
        return SpeechTextBatch(
            replace(batch.audio, present=has_audio & ~hide_audio),
            replace(batch.text, present=has_text & ~hide_text),
        )

    def loss(
        self,
        truth: Tensor,
        classes: Tensor | None,
        outputs: Tensor,
        logits: Tensor | None,
        *rest: Tensor | None,
    ) -> Tensor:
        """Sum of 1 - CCC, and the cross-entropy of categories that are known."""
        value = (1 - ccc(truth, outputs)).sum()
        if logits is not None and classes is not None and (classes >= 0).any():
            value = value + nn.functional.cross_entropy(logits, classes, ignore_index=-1)
        return value
