"""Heads that only SPECTRA's pretraining needs: when words are said, and whether a turn responds.

Both are ours. On the spoken dialogues of `wav2small.benchmarks.studies.multimodal`, heads of
the word and of the first position alone stayed at errors of .14 s and at 45 % of the responses.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .spectra import Fused


class Timing(nn.Module):
    """When words begin and end: one layer over the own turn, a head for starts, one for ends.

    The squared error of .1 s over 10 s is a ten-thousandth, beside losses around 1 that it is added
    to unweighted: what is shared hardly moves for it, so it has a layer that learns nothing else.

    Args:
        size: of the states
        heads: of the layer's attention
    """

    def __init__(self, size: int, heads: int):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(
            size, heads, 4 * size, dropout=0.0, activation="gelu", batch_first=True
        )
        self.start = nn.Sequential(nn.Linear(size, size), nn.GELU(), nn.Linear(size, 1))
        self.end = nn.Sequential(nn.Linear(size, size), nn.GELU(), nn.Linear(size, 1))

    def forward(self, fused: Fused, row: Tensor, first: Tensor, last: Tensor) -> Tensor:
        """Seconds from the beginning of the turn: (W, 2), start and end.

        Args:
            fused: what was read and heard
            row: (W,) of each word
            first: (W,) place of its first token
            last: (W,) of its last one
        """
        length = fused.text.shape[1]
        turn = torch.cat([fused.text, fused.speech], dim=1)
        mask = torch.cat([fused.own, fused.heard], dim=1)
        text = self.layer(turn, src_key_padding_mask=~mask)[:, :length]
        return torch.cat([self.start(text[row, first]), self.end(text[row, last])], dim=1)


class Response(nn.Module):
    """Whether text and sound respond to what went before: four ways.

    Each is summed up, and compared with the sum of its kind before; the first position alone would
    have to learn what "the same" means.

    Args:
        size: of the states
    """

    def __init__(self, size: int):
        super().__init__()
        self.text = Summary(size)
        self.speech = Summary(size)
        self.choose = nn.Sequential(nn.Linear(3 * size, size), nn.GELU(), nn.Linear(size, 4))

    def forward(self, fused: Fused) -> Tensor:
        """Logits (B, 4) of 2 x text is wrong + audio is wrong."""
        text = self.text(fused.text, fused.own) - self.text(fused.text, fused.history)
        speech = self.speech(fused.speech, fused.heard)
        speech = speech - self.speech(fused.before, fused.heard_before)
        return self.choose(torch.cat([fused.pooled, text.abs(), speech.abs()], dim=1))


class Summary(nn.Module):
    """A sum of states, weighted by how much they matter; zeros where there are none."""

    def __init__(self, size: int):
        super().__init__()
        self.weight = nn.Linear(size, 1)
        self.value = nn.Linear(size, size)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """(B, L, size), of which the mask (B, L) says what counts -> (B, size)."""
        weights = self.weight(states)[..., 0].float().masked_fill(~mask, -1e4).softmax(dim=1) * mask
        return (weights[..., None].to(states.dtype) * self.value(states)).sum(dim=1)
