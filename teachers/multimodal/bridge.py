"""BRIDGE (Ispas et al. 2023, arXiv 2401.00536): learnable tokens that meet text, then speech.

              text                      speech
                |                          |
          text encoder               speech encoder
                |                          |
         self-attention             self-attention         refinement, side by side
                |                          |
    8 tokens -> cross-attention ---> cross-attention
                |                          |
      means of what each adds to the tokens, centred: outputs, categories

Published: the parallel refinement, the bridge tokens that merge both modalities through two
layers of cross-attention, masking one modality at random, the loss of cross-entropy and 1 - CCC.
Chosen here: sizes, shares of masked turns, the order text, then speech, and that the head takes
what each layer adds to the tokens. docs/multimodal.md compares.

What the tokens' means of all turns have in common is several times as long as what differs between
them. Through a LayerNorm it squashed that (from .24 of it at the start to .0085 in a run that
learned nothing), and without a norm each step of the head's weights moves all outputs at once. So
the head gets means less their running mean, over their running deviation (`Centred`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from wav2small.training.losses import disagreement

from .base import CrossAttention, MultimodalNetwork, SpeechTextBatch
from .dialogue import Passage
from .encoders import Tokenizer, pre_norm

MOMENTUM = 0.1  # of the running mean and deviation (chosen)


class Refinement(nn.Module):
    """Self-attention within a modality, norms first, and a norm of what it gives.

    Example:
        >>> mask = torch.ones(2, 5, dtype=torch.bool)
        >>> Refinement(8, heads=2, dropout=0.0)(torch.rand(2, 5, 8), mask).shape
        torch.Size([2, 5, 8])
    """

    def __init__(self, size: int, heads: int, dropout: float):
        super().__init__()
        self.layer = pre_norm(size, heads, dropout)
        self.norm = nn.LayerNorm(size)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """(B, L, size), whose mask (B, L) marks what counts -> the same shape."""
        return self.norm(self.layer(states, src_key_padding_mask=~mask))


class Centred(nn.Module):
    """Features less their running mean, over their running deviation.

    Other than in a BatchNorm, a batch in training is centred by the statistics of those before it:
    rows do not depend on each other.

    Example:
        >>> import torch
        >>> norm = Centred(1)
        >>> norm.observe(torch.tensor([[9.0], [11.0]]))
        >>> norm.advance()
        >>> norm(torch.tensor([[12.0]])).item()
        2.0
    """

    mean: Tensor
    deviation: Tensor
    steps: Tensor

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("deviation", torch.ones(size))
        self.register_buffer("steps", torch.tensor(0))
        self._seen: tuple[Tensor, Tensor] | None = None

    def forward(self, features: Tensor) -> Tensor:
        """(B, size) -> (B, size)."""
        return (features - self.mean) / self.deviation

    def observe(self, features: Tensor) -> None:
        """Note the statistics of a full batch (B, size)."""
        deviation, mean = torch.std_mean(features.detach(), dim=0, correction=0)
        self._seen = mean, deviation.clamp(min=1e-3)

    def advance(self) -> None:
        """Bring the running statistics nearer to those of the batch noted last; after a step."""
        if self._seen is None:
            return
        share = max(MOMENTUM, 1 / (1 + int(self.steps)))
        for running, seen in zip((self.mean, self.deviation), self._seen, strict=True):
            running.lerp_(seen.to(running), share)
        self.steps += 1
        self._seen = None


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
        self.centred = Centred(2 * size)
        self.build_head(2 * size)

    def collate(self, passages: Sequence[Passage]) -> SpeechTextBatch:
        own = [passage.own for passage in passages]
        text = self.text_batch([self.sequence(turn.text) for turn in own])
        return SpeechTextBatch(self.audio_batch(own), text)

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
        return (*self.head(self.centred(added)), batch.text.present.float(), added)

    def after_step(self) -> None:
        """The running statistics move, once per step of the optimiser."""
        self.centred.advance()

    def masked(self, batch: SpeechTextBatch) -> SpeechTextBatch:
        """Hide one modality of some turns, never both; what is alone is never hidden."""
        has_audio, has_text = batch.audio.present, batch.text.present
        draw = torch.rand(len(has_audio), device=has_audio.device)
        speech, text = self.config["mask_speech"], self.config["mask_text"]
        hide_audio = (draw < speech) & has_text
        hide_text = (draw >= speech) & (draw < speech + text) & has_audio
        audio = replace(batch.audio, present=has_audio & ~hide_audio)
        return SpeechTextBatch(audio, replace(batch.text, present=has_text & ~hide_text))

    def loss(self, truth: Tensor, classes: Tensor | None, outputs: Tensor, *rest: Any) -> Tensor:
        """Sum of 1 - CCC, of turns with text and of those without, and the cross-entropy of
        categories that are known; `rest` is logits, which have text (B,), what the head centres."""
        if self.training and len(rest) > 2:
            self.centred.observe(rest[2])
        value = disagreement(truth, outputs, *rest[1:2])
        logits = rest[0]
        if logits is not None and classes is not None and (classes >= 0).any():
            value = value + nn.functional.cross_entropy(logits, classes, ignore_index=-1)
        return value
