"""Batches of clips of nearly the same length, bounded by seconds of audio, padding counted."""

from __future__ import annotations

from collections.abc import Sequence

from .clips import Item

#: Batches that are cut from one sorted stretch of the index: the more, the less padding; the
#: fewer, the sooner rows are finished and written.
STRETCH_BATCHES = 16


def cut(items: Sequence[Item], batch_s: float) -> list[list[Item]]:
    """Cut items into batches.

    Args:
        items: in any order
        batch_s: most seconds of a batch, each clip counted as long as the longest; a clip that
            is longer is a batch of its own

    Returns:
        batches, the longest clips first: if memory does not suffice, that shows at once
    """
    batches: list[list[Item]] = []
    longest = 0.0
    for item in sorted(items, key=lambda item: item.heard_s, reverse=True):
        if not batches or (len(batches[-1]) + 1) * longest > batch_s:
            batches.append([])
            longest = item.heard_s
        batches[-1].append(item)
    return batches
