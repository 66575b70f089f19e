"""Which clips a run learns from and which it is judged on: never the same voice in both."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wav2small.errors import Wav2SmallError
from wav2small.tables import texts

if TYPE_CHECKING:
    import pandas as pd

#: Judging more clips than this after every epoch costs time and changes no decision.
MAX_VALIDATION_CLIPS = 2000


def split(frame: pd.DataFrame, validation: str, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows to validate on.

    Args:
        frame: label table, with a column `speaker` if voices are known
        validation: share of clips such as "0.15", held out by speakers (by files
            without that column), or "COLUMN=VALUE,VALUE"
        seed: of the choice of speakers or files

    Returns:
        row numbers for training (variants included) and for validation (unaltered clips only)

    Raises:
        Wav2SmallError: nothing is left on one of the two sides

    Example:
        >>> import pandas as pd
        >>> split(pd.DataFrame({"file": ["a.wav", "b.wav", "c.wav"]}), "file=b.wav", seed=0)
        (array([0, 2]), array([1]))
    """
    held_out = _named(frame, validation) if "=" in validation else _share(frame, validation, seed)
    clean = frame["variant"].to_numpy() == 0 if "variant" in frame else np.ones(len(frame), bool)
    train, valid = np.flatnonzero(~held_out), np.flatnonzero(held_out & clean)
    if len(train) < 2 or len(valid) < 1:
        raise Wav2SmallError(
            f"--validation {validation}: {len(train)} clips to train on and {len(valid)} to "
            "validate on; at least 2 and 1 are needed: label more audio or choose another share"
        )
    if len(valid) > MAX_VALIDATION_CLIPS and "=" not in validation:
        chosen = np.random.default_rng([seed, 1]).permutation(len(valid))[:MAX_VALIDATION_CLIPS]
        valid = valid[np.sort(chosen)]
    return train, valid


def _named(frame: pd.DataFrame, validation: str) -> np.ndarray:
    column, _, names = validation.partition("=")
    column = column.strip()
    if column not in frame:
        raise Wav2SmallError(
            f"--validation {validation}: no column {column!r} in the label table; it has "
            + ", ".join(map(str, frame.columns))
        )
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    values = texts(frame[column])
    unknown = [name for name in wanted if not (values == name).any()]
    if unknown or not wanted:
        some = ", ".join(sorted(values.unique())[:10])
        raise Wav2SmallError(
            f"--validation {validation}: no clip with {column} {', '.join(unknown)}; there are "
            f"{some}"
        )
    return values.isin(wanted).to_numpy()


def _share(frame: pd.DataFrame, validation: str, seed: int) -> np.ndarray:
    try:
        share = float(validation)
    except ValueError:
        share = -1.0
    if not 0 < share < 1:
        raise Wav2SmallError(
            f"--validation {validation}: give a share between 0 and 1, or COLUMN=VALUE,VALUE"
        )
    by_speaker = "speaker" in frame and frame["speaker"].nunique() > 1
    groups = texts(frame["speaker" if by_speaker else "file"]).to_numpy()
    names, codes, counts = np.unique(groups, return_inverse=True, return_counts=True)
    if len(names) == 1:
        raise Wav2SmallError(
            f"--validation {validation}: all clips are of {names[0]}; label a second recording to "
            "judge by, or name what to hold out as COLUMN=VALUE"
        )
    order = np.random.default_rng(seed).permutation(len(names))
    # Whole groups up to the share, at least one; the smallest where the first is too large.
    taken = int(np.searchsorted(np.cumsum(counts[order]), share * len(frame), "right"))
    return np.isin(codes, order[:taken] if taken else [counts.argmin()])
