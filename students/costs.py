"""What a student costs: parameters, and multiply-accumulates per second of audio."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from wav2small.audio import SAMPLING_RATE

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


def count(student: Student) -> Cost:
    """Count by running the student once on silence.

    torch counts convolutions and matrix products; a module that computes less than its matrices
    have, or more, has a method `macs(inputs, output) -> int` of its own. Additions, activations
    and divisions are not counted, as everywhere in the literature.

    Example:
        >>> from wav2small.students.registry import create
        >>> count(create("wav2small2")).parameters
        10806
    """
    own: dict[str, int] = {}
    handles = [
        module.register_forward_hook(partial(_keep, own, name))
        for name, module in student.named_modules()
        if hasattr(module, "macs")
    ]
    training = student.training
    student.eval()
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            student(torch.zeros(1, round(SECONDS * SAMPLING_RATE)))
    finally:
        for handle in handles:
            handle.remove()
        student.train(training)
    counts = counter.get_flop_counts()

    def products(name: str) -> int:
        return sum(counts[f"{type(student).__name__}.{name}"].values()) // 2

    total = counter.get_total_flops() // 2 + sum(own[name] - products(name) for name in own)
    named = student.named_modules()
    frontend = [name for name, module in named if getattr(module, "frontend", False)]
    counters = ("running_mean", "running_var", "num_batches_tracked")
    return Cost(
        parameters=sum(p.numel() for p in student.parameters() if p.requires_grad),
        constants=sum(b.numel() for k, b in student.named_buffers() if not k.endswith(counters)),
        macs_per_second=round(total / SECONDS),
        macs_frontend=round(sum(own.get(n) or products(n) for n in frontend) / SECONDS),
    )


def _keep(own: dict[str, int], name: str, module: Any, inputs: Any, output: Tensor) -> None:
    own[name] = module.macs(inputs, output)
