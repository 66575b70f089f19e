"""A transformer layer that asks another sequence."""

from __future__ import annotations

from torch import Tensor, nn


class CrossAttention(nn.Module):
    """Attention to another sequence, then a feed-forward layer, each with a skip, norms first.

    Args:
        size: of the states of both
        heads: of the attention
        dropout: in training
    """

    def __init__(self, size: int, heads: int, dropout: float):
        super().__init__()
        self.attention = nn.MultiheadAttention(size, heads, dropout, batch_first=True)
        self.feed = nn.Sequential(
            nn.Linear(size, 4 * size), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * size, size)
        )
        self.asking, self.feeding = nn.LayerNorm(size), nn.LayerNorm(size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, sequence: Tensor, mask: Tensor) -> Tensor:
        """(B, K, size) ask (B, L, size), of which the mask (B, L) says what counts."""
        asked, _ = self.attention(
            self.asking(states), sequence, sequence, key_padding_mask=~mask, need_weights=False
        )
        states = states + self.dropout(asked)
        return states + self.dropout(self.feed(self.feeding(states)))
