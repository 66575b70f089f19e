"""What a student costs: parameters, and multiply-accumulates per second of audio."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from .base import Student

SECONDS = 5.0  # length of the clip that is counted, as in the paper's tables


class Cost(NamedTuple):
    """Counts of one student.

    Attributes:
        parameters: trainable numbers
        constants: stored numbers that are not trained (DFT, window, mel bands)
        macs_per_second: multiply-accumulates per second of audio, front end included
        macs_frontend: those of modules marked `frontend` (DFT and mel bands)
    """

    parameters: int
    constants: int
    macs_per_second: int
    macs_frontend: int


def count(student: Student, *, seconds: float = SECONDS) -> Cost:
    """Count by running the student once on silence with hooks on every layer.

    Convolutions and linear layers are known; another module that multiplies has a method
    `macs(inputs, output) -> int` and is counted without its children. Additions, activations
    and divisions are not counted, as everywhere in the literature.

    Example:
        >>> from wav2small.students.registry import create
        >>> count(create("wav2small2")).parameters
        10806
    """
    total = {"frontend": 0, "network": 0}

    def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        part = "frontend" if getattr(module, "frontend", False) else "network"
        total[part] += layer_macs(module, inputs, output)

    handles = [
        module.register_forward_hook(hook)
        for module in student.modules()
        if hasattr(module, "macs") or isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear)
    ]
    training = student.training
    student.eval()
    try:
        with torch.no_grad():
            student(torch.zeros(1, round(seconds * 16000)))
    finally:
        for handle in handles:
            handle.remove()
        student.train(training)
    counters = ("running_mean", "running_var", "num_batches_tracked")
    return Cost(
        parameters=sum(p.numel() for p in student.parameters() if p.requires_grad),
        constants=sum(
            value.numel()
            for key, value in student.named_buffers()
            if key.rsplit(".", 1)[-1] not in counters
        ),
        macs_per_second=round(sum(total.values()) / seconds),
        macs_frontend=round(total["frontend"] / seconds),
    )


def layer_macs(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> int:
    """Multiply-accumulates of one call of a layer."""
    if hasattr(module, "macs"):
        return int(module.macs(inputs, output))  # type: ignore[operator]
    if isinstance(module, nn.Linear):
        return output.numel() * module.in_features
    assert isinstance(module, nn.Conv1d | nn.Conv2d)
    taps = 1
    for size in module.kernel_size:
        taps *= size
    return output.numel() * taps * module.in_channels // module.groups
