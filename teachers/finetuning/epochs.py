"""Epochs that can be stopped: the state of a training after each, and the best one kept."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wav2small import files
from wav2small.errors import Wav2SmallError
from wav2small.teachers.speech import checkpoint
from wav2small.training import checkpoint as checkpoints

Saved = tuple[dict[str, torch.Tensor], dict[str, Any]]


def find(output: Path, settings: Any, *, overwrite: bool) -> Saved | None:
    """The checkpoint of the same run; None = begin.

    Args:
        output: folder of the run
        settings: a dataclass of what makes two runs the same run
        overwrite: begin anyway

    Raises:
        Wav2SmallError: another run's, and `overwrite` is not set
    """
    if overwrite:
        with contextlib.suppress(FileNotFoundError):
            (output / checkpoints.NAME).unlink()
        return None
    saved = checkpoints.load(output)
    if saved is None:
        if (output / checkpoint.CONFIG).exists():
            raise Wav2SmallError(f"{output}: holds a model of another run; use --overwrite")
        return None
    theirs = saved[1].get("settings", {})
    ours = asdict(settings)
    other = sorted(key for key in ours if ours[key] != theirs.get(key))
    if other:
        raise Wav2SmallError(
            f"{output}: a run with other {', '.join(other)}; choose another -o, or --overwrite"
        )
    return saved


def train(
    output: Path,
    *,
    settings: Any,
    saved: Saved | None,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    epochs: int,
    learn: Callable[[int], float | None],
    judge: Callable[[], tuple[Mapping[str, float], float]],
    keep: Callable[[], None],
) -> dict[str, Any]:
    """Train, and write `metrics.csv` and a checkpoint after every epoch.

    Args:
        output: folder of the run
        settings: see `find`
        saved: of `find`
        network: all that learns
        optimizer: of its parameters
        epochs: to be done in all
        learn: one epoch, by its number from 1; its loss, or None if it was stopped
        judge: figures of the network as it is, and the score that chooses the best
        keep: writes the network, the best so far

    Returns:
        `best_epoch`, and `rows`, the lines of metrics.csv

    Raises:
        KeyboardInterrupt: stopped; whole epochs are kept
    """
    state: dict[str, Any] = {"epoch": 0, "best": None, "best_epoch": 0, "rows": []}
    if saved:
        state = saved[1]["state"]
        network.load_state_dict(checkpoints.select(saved[0], "model."))
        checkpoints.load_optimizer(optimizer, checkpoints.select(saved[0], "optimizer."))
    for epoch in range(state["epoch"] + 1, epochs + 1):
        loss = learn(epoch)
        if loss is None:
            raise KeyboardInterrupt
        figures, score = judge()
        state["rows"].append({"epoch": epoch, "loss": loss, **figures})
        state["epoch"] = epoch
        if state["best"] is None or score > state["best"]:
            state |= {"best": score, "best_epoch": epoch}
            keep()
        _write_metrics(output / "metrics.csv", state["rows"])
        tensors = {f"model.{key}": value for key, value in network.state_dict().items()}
        tensors |= {
            f"optimizer.{key}": value
            for key, value in checkpoints.optimizer_tensors(optimizer).items()
        }
        checkpoints.save(output, tensors, {"settings": asdict(settings), "state": state})
    return state


def _write_metrics(path: Path, rows: list[dict[str, Any]]) -> None:
    with files.atomic(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
