"""The folder of a distillation: what is in it, and what is written before and after training."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wav2small import files, provenance
from wav2small.dimensions import DIMENSIONS
from wav2small.errors import Wav2SmallError
from wav2small.tables import Labels, write_labels
from wav2small.training import weights

from . import config as configuration
from .base import Student
from .config import Config
from .data import PROBABILITY, TrainingBatch, disturbances

#: Everything a run writes: what `overwrite` removes, and nothing else.
PARTS = (
    "config.json model.safetensors distill.toml provenance.json metrics.csv training.png "
    "validation.parquet bad_batch.safetensors events last .lock"
).split()


def prepare(output: Path) -> None:
    """Make the run folder; reject one that holds something else."""
    if output.exists() and not output.is_dir():
        raise Wav2SmallError(f"{output}: a file, not a folder; choose another -o")
    foreign = output.is_dir() and any(entry.name not in PARTS for entry in output.iterdir())
    if foreign and not (output / "distill.toml").exists():
        raise Wav2SmallError(f"{output}: holds other files and no run; choose another -o")
    output.mkdir(parents=True, exist_ok=True)


def clear(output: Path) -> None:
    """Remove the run that the folder holds; whoever calls holds its lock."""
    for name in PARTS:
        path = output / name
        if path.is_dir():
            shutil.rmtree(path)
        elif name != ".lock":
            path.unlink(missing_ok=True)


def events(output: Path) -> Any:
    """TensorBoard's writer, if it is installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(output / "events"))


def write_provenance(
    output: Path, table: Labels, student: Student, config: Config, digest: str, online: Any = None
) -> None:
    """Write provenance.json: that of the label table, and the distillation.

    Args:
        output: run folder
        table: what the student learns from
        student: its name and options are written
        config: its settings that change the weights are written
        digest: hash of clips, labels and split
        online: teacher that was asked during training, if any
    """
    lineage = provenance.new() | table.provenance
    if online is not None:
        fields = ("name", "id", "revision", "licence")
        asked = [{name: str(getattr(online, name, provenance.UNKNOWN)) for name in fields}]
        if hasattr(online, "provenance"):
            asked = list(online.provenance())
        for kind, added in (("teachers", asked), ("audio", disturbances(config))):
            known = list(lineage[kind] or ())
            lineage[kind] = known + [entry for entry in added if entry not in known]
    used = provenance.versions("numpy", "soundfile", "soxr", "torch")
    lineage |= {
        "student": {"name": student.name, **student.config},
        "distillation": {"labels": digest, "settings": configuration.identity(config)},
        "versions": table.provenance.get("versions", {}) | used,
    }
    files.write_json(output / "provenance.json", lineage)


def write_batch(file: Path, batch: TrainingBatch, paths: Sequence[str]) -> None:
    """Write a batch, and the names of its audio files in the metadata."""
    tensors = vars(batch) | {"rows": torch.as_tensor(batch.rows, dtype=torch.int64)}
    weights.write(file, tensors, files="\n".join(paths[row] for row in batch.rows))


def write_validation(
    output: Path, table: Labels, valid: np.ndarray, prediction: np.ndarray, categories: list[str]
) -> None:
    """Write validation.parquet: labels and predictions of the clips in the rows `valid`.

    `prediction` is (clips, 3 + K): logits of the K categories follow A, D and V.
    """
    count = len(DIMENSIONS)
    frame = table.frame.iloc[valid].reset_index(drop=True)
    for column, name in enumerate(table.dimensions):
        frame[f"{name}_student"] = prediction[:, column].astype(np.float32)
    shares = torch.from_numpy(prediction[:, count:]).softmax(dim=1).numpy()
    for column, name in enumerate(categories):
        frame[f"student_{PROBABILITY}{name}"] = shares[:, column].astype(np.float32)
    root = table.root if "://" in table.root else os.path.abspath(table.root)
    lineage = files.read_json(output / "provenance.json")
    write_labels(output / "validation.parquet", Labels(frame, root, lineage))


def draw(
    path: str | os.PathLike[str],
    rows: Sequence[Mapping[str, Any]],
    truth: np.ndarray,
    prediction: np.ndarray,
    *,
    title: str,
) -> None:
    """Draw `training.png`.

    Args:
        path: of the PNG
        rows: rows of metrics.csv
        truth: (clips, 3) labels of the teacher on the validation clips
        prediction: (clips, 3) outputs of the best student on them
        title: of the figure
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 3.4), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(1, 5)
    epochs = [row["epoch"] for row in rows]
    axes[0].plot(epochs, [row["loss"] for row in rows])
    axes[0].set(xlabel="epoch", ylabel="loss")
    for dimension in DIMENSIONS:
        axes[1].plot(epochs, [row[f"ccc_{dimension}"] for row in rows], label=dimension)
    axes[1].set(xlabel="epoch", ylabel="CCC with the teacher", ylim=(-0.05, 1.0))
    axes[1].legend(loc="lower right")
    for column, (axis, dimension) in enumerate(zip(axes[2:], DIMENSIONS, strict=True)):
        axis.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
        axis.scatter(truth[:, column], prediction[:, column], s=6, alpha=0.5)
        axis.set(xlabel=f"teacher: {dimension}", ylabel="student", xlim=(0, 1), ylim=(0, 1))
        axis.set_aspect("equal")
    FigureCanvasAgg(figure)
    with files.atomic(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
