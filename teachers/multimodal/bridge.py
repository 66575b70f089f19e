"""BRIDGE (Ispas et al. 2023, arXiv 2401.00536): learnable tokens that meet text, then speech.

              text                      speech
                |                          |
          text encoder               speech encoder
                |                          |
         self-attention             self-attention         refinement, side by side
                |                          |
    8 tokens -> cross-attention ---> cross-attention
                |                          |
         means of what each adds to the tokens: outputs, categories

Published: the parallel refinement, the bridge tokens that merge both modalities through two
layers of cross-attention, masking one modality at random, the loss of cross-entropy and 1 - CCC.
Chosen here: sizes, shares of masked turns, the order text, then speech, and that the head takes
what each layer adds to the tokens. docs/multimodal.md compares.

There is no norm before the head. A LayerNorm of the tokens' mean does not change with its length,
so every step of Adam lengthens that mean, and nearly all of it is what all turns have in common:
what differs between turns shrank from .24 of it to .0085, and nothing was learned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from wav2small.training.losses import disagreement

from .base import (
    CrossAttention,
    MultimodalNetwork,
    SpeechTextBatch,
)
from .dialogue import Passage
from .encoders import Tokenizer

GAIN = 4.0  # brings what a fresh layer adds, about .25, to 1 (chosen)


class Refinement(nn.Module):
    """Self-attention within a modality, norms first, and a norm of what it gives.

    Example:
        >>> mask = torch.ones(2, 5, dtype=torch.bool)
        >>> Refinement(8, heads=2, dropout=0.0)(torch.rand(2, 5, 8), mask).shape
        torch.Size([2, 5, 8])
    """

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
        bridge = self.bridge.expand(len(text), -1, -1)
        after_text = self.ask_text(bridge, text, text_mask)
        after_both = self.ask_speech(after_text, speech, speech_mask)
        added = torch.cat([after_text - bridge, after_both - after_text], dim=2).mean(dim=1)
        return (*self.head(GAIN * added), batch.text.present.float())

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
        value = disagreement(truth, outputs, *rest[:1])
        if logits is not None and classes is not None and (classes >= 0).any():
            value = value + nn.functional.cross_entropy(logits, classes, ignore_index=-1)
        return value
