"""Contrastive pretraining in the style of CALM; see `calm`.

Three symmetric InfoNCE, of temperatures that are learned, over a batch:

1. **utterances**: the mean of the aligned patches of a turn is to find the mean of the input
   embeddings of its transcript, and the other way round;
2. **words**: the mean of the patches of a word is to find the mean of its own input embeddings
   among the other words of the batch; where times of words are known;
3. **acoustic inputs**: a crop of a turn is to find the turn among the others, by audio alone.

The language model stays as it is: its input space is where speech is mapped to.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wav2small import audio

from .base import AudioBatch, OnDevice, info_nce, mean, retrieved
from .calm import Batch, Network
from .dialogue import Passage, Turn

TEMPERATURE = 0.07  # at the beginning (CLIP's, Radford et al. 2021, arXiv 2103.00020)
_MOST = math.log(100)  # of the logarithm of 1 / temperature (CLIP's)
CROP = (0.5, 0.8)  # of a turn, least and most (chosen)
CONTRASTS = ("utterance", "word", "audio")


@dataclass
class Task(OnDevice):
    """Turns to learn from."""

    batch: Batch  # speech, text and words
    crop: AudioBatch  # of a part of each turn
    both: Tensor  # (B,) float, 1 = both modalities are present


class Objectives(nn.Module):
    """The temperatures, next to the network: only its speech encoder and the alignment learn."""

    negatives = 0  # the other turns of the batch serve

    def __init__(self, network: Network):
        super().__init__()
        network.requires_grad_(False)
        network.speech.requires_grad_(True)
        network.align.requires_grad_(True)
        self.network = network
        self.log_scales = nn.Parameter(torch.full((len(CONTRASTS),), -math.log(TEMPERATURE)))
        self.weights = (1.0, network.config["word_contrast"], network.config["audio_contrast"])

    def collate(
        self, passages: Sequence[Passage], others: Sequence[Sequence[Turn]], random: Any
    ) -> Task:
        """Make the task of some passages; `others` are not needed."""
        turns = [passage.own for passage in passages]
        batch = self.network.batch(turns)
        crops = [turn._replace(signal=cropped(turn.signal, random)) for turn in turns]
        both = (batch.audio.present & batch.text.present).float()
        return Task(batch, self.network.audio_batch(crops), both)

    def forward(self, task: Task) -> tuple[Tensor | None, ...]:
        """Speech, text and crop (B, size), whether a turn has both modalities and whether it has
        audio (B,), then of words the speech, the text (W, size) and the name (W,)."""
        network, words = self.network, task.batch.words
        aligned = network.aligned(task.batch)
        hidden, mask = network.encode_speech(task.crop)
        crop = mean(network.align(hidden), mask)
        embedded = network.text.embed(task.batch.text.tokens)
        place = torch.arange(embedded.shape[1], device=embedded.device)
        inside = (place >= words.first[:, None]) & (place <= words.last[:, None])
        read = mean(embedded[words.row], inside)
        turns = aligned.speech, aligned.text, crop, task.both, task.crop.present
        timed = (of_words[aligned.timed] for of_words in (aligned.words, read, words.name))
        return tuple(states.float() for states in (*turns, *timed))

    def loss(self, *states: Tensor) -> Tensor:
        """The weighted sum of the contrasts."""
        contrasts = zip(self.weights, self._scales(), self._pairs(*states), strict=True)
        return torch.stack(
            [w * info_nce(one, other, scale, same) for w, scale, (one, other, same) in contrasts]
        ).sum()

    def figures(self, *states: Tensor) -> dict[str, float]:
        """Of each contrast the share of the batch that is found, and the temperature."""
        found = {}
        contrasts = zip(CONTRASTS, self._scales(), self._pairs(*states), strict=True)
        for name, scale, (one, other, same) in contrasts:
            right = retrieved(one, other, same).float()
            ending = "" if name == "utterance" else f"_{name}"
            found[f"retrieval_top1{ending}"] = float(right.mean()) if len(right) else 0.0
            found[f"temperature{ending}"] = float(1 / scale)
        return found

    def _scales(self) -> Tensor:
        return self.log_scales.clamp(max=_MOST).exp()

    def _pairs(self, *states: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """What is to find each other in each contrast, and which pairs are of the same thing."""
        speech, text, crop, both, audible, spoken, read, names = states
        paired, with_audio = both > 0.5, audible > 0.5
        yield speech[paired], text[paired], None
        yield spoken, read, names[:, None] == names[None]
        yield speech[with_audio], crop[with_audio], None


def cropped(signal: np.ndarray | None, random: Any) -> np.ndarray | None:
    """A part of a signal, at random `CROP` of it, no shorter than the shortest clip."""
    if signal is None:
        return None
    least = round(audio.MIN_DURATION_S * audio.SAMPLING_RATE)
    count = min(len(signal), max(least, round(random.uniform(*CROP) * len(signal))))
    begin = int(random.integers(0, len(signal) - count + 1))
    return signal[begin : begin + count]
