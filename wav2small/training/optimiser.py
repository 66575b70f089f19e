"""Learning rate over time, AdamW without decay on scales and biases, moving average of weights."""

from __future__ import annotations

import copy
import math
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

WARM_UP = 0.25  # share of the steps in which one-cycle climbs
START = 25.0  # peak rate over first rate
END = 1e-3  # last rate over peak rate


def rate(progress: float, schedule: str) -> float:
    """Learning rate as a share of its peak.

    Args:
        progress: 0..1 through the run
        schedule: "onecycle", "cosine" (a twentieth of warm-up) or "constant"

    Example:
        >>> [round(rate(progress, "onecycle"), 3) for progress in (0, 0.25, 1)]
        [0.04, 1.0, 0.001]
    """
    if schedule == "constant":
        return 1.0
    warm_up = WARM_UP if schedule == "onecycle" else 0.05
    if progress < warm_up:
        return _cosine(1 / START, 1.0, progress / warm_up)
    return _cosine(1.0, END, (progress - warm_up) / (1 - warm_up))


def _cosine(first: float, last: float, progress: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def adamw(model: nn.Module, *, weight_decay: float) -> torch.optim.AdamW:
    """AdamW on what can be trained; decay on matrices and kernels only."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=0.0)


M = TypeVar("M", bound=nn.Module)


def frozen_copy(model: M) -> M:
    """A copy in evaluation mode that is not trained."""
    return copy.deepcopy(model).eval().requires_grad_(False)


class Average(Generic[M]):
    """Exponential moving average of weights and of BatchNorm's statistics.

    The decay grows from 0, as (1 + n) / (10 + n) after n steps, up to its final value, so that
    random first weights are forgotten at once.

    Args:
        model: what is averaged
        decay: per step; 0 = the average is the model itself

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> average = Average(model, decay=0.9)
        >>> _ = nn.init.constant_(model.weight, average.model.weight.item() + 1)
        >>> average.update(model, step=0)  # at step 0 the decay is 0.1
        >>> round(float((model.weight - average.model.weight).detach()), 3)
        0.1
    """

    def __init__(self, model: M, decay: float):
        self.decay = decay
        self.model = frozen_copy(model)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after step number `step`."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step)) if self.decay else 1.0
        states = self.model.state_dict().values(), model.state_dict().values()
        pairs: list[tuple[Tensor, Tensor]] = list(zip(*states, strict=True))
        floats = [(own, new) for own, new in pairs if own.is_floating_point()]
        torch._foreach_lerp_([own for own, _ in floats], [new for _, new in floats], weight)
        for own, new in pairs:
            if not own.is_floating_point():
                own.copy_(new)
