"""Contrastive audio-language pretraining, in the style of CALM; see `calm`.

The mean of the aligned patches of a turn is to find, among the turns of its batch, the mean of the
input embeddings of its words, and the other way round: symmetric InfoNCE with a learned
temperature. The language model stays as it is: its input space is where speech is mapped to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .base import OnDevice, SpeechTextBatch, info_nce, retrieved
from .calm import Network
from .dialogue import Passage, Turn

TEMPERATURE = 0.07  # at the beginning (CLIP's, Radford et al. 2021, arXiv 2103.00020)
_MOST = math.log(100)  # of the logarithm of 1 / temperature (CLIP's)


@dataclass
class Task(OnDevice):
    """Turns to learn from.

    Attributes:
        batch: speech and text
        both: (B,) float, 1 = both modalities are present
    """

    batch: SpeechTextBatch
    both: Tensor


class Objectives(nn.Module):
    """The temperature, next to the network.

    Args:
        network: to be pretrained; only its speech encoder and the alignment will learn
    """

    negatives = 0  # the other turns of the batch serve

    def __init__(self, network: Network):
        super().__init__()
        network.requires_grad_(False)
        network.speech.requires_grad_(True)
        network.align.requires_grad_(True)
        self.network = network
        self.log_scale = nn.Parameter(torch.tensor(-math.log(TEMPERATURE)))

    def collate(
        self, passages: Sequence[Passage], others: Sequence[Sequence[Turn]], random: Any
    ) -> Task:
        """Make the task of some passages; `others` and `random` are not needed."""
        batch = self.network.batch([passage.own for passage in passages])
        return Task(batch, (batch.audio.present & batch.text.present).float())

    def forward(self, task: Task) -> tuple[Tensor | None, ...]:
        """Speech (B, size), text (B, size), and whether a turn has both (B,)."""
        aligned = self.network.aligned(task.batch)
        return aligned.speech.float(), aligned.text.float(), task.both

    def loss(self, speech: Tensor, text: Tensor, both: Tensor) -> Tensor:
        """Symmetric InfoNCE over the turns that have both."""
        paired = both > 0.5
        return info_nce(speech[paired], text[paired], self.log_scale.clamp(max=_MOST).exp())

    def figures(self, speech: Tensor, text: Tensor, both: Tensor) -> dict[str, float]:
        """Share of turns whose speech retrieves their text in the batch, and the temperature."""
        paired = both > 0.5
        right = retrieved(speech[paired], text[paired]).float()
        return {
            "retrieval_top1": float(right.mean()) if len(right) else 0.0,
            "temperature": float((-self.log_scale.clamp(max=_MOST)).exp()),
        }
