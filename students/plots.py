"""The run's picture: loss and CCC over epochs, student against teacher."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wav2small import files
from wav2small.dimensions import DIMENSIONS


def training(
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
        values = [row[f"ccc_{dimension}"] for row in rows]
        axes[1].plot(epochs, values, label=dimension)
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
