"""The training loop: epochs, checkpoints, early stopping, and resuming.

`Training.fit` is read from top to bottom: a run is epochs, an epoch is steps and a validation, a
step is forward, loss, backward and a move of the weights. Each kind of training is a subclass that
defines its batches, outputs, loss and validation: `students.distillation.Distiller` and
`teachers.finetuning.training.FineTuning`.

Everything random is a function of (seed, epoch, step), so a checkpoint needs no random state, and
a run that resumes computes bitwise what it would have computed without the stop.
"""

from __future__ import annotations

import ctypes
import functools
import json
import math
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from wav2small import progress
from wav2small.errors import Wav2SmallError

from . import checkpoint, distributed, gradient_cache, weights
from .gradient_cache import Outputs
from .interrupt import Stop
from .threads import Pace

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
#: Columns of metrics.csv before the figures of `Training.validate`.
COLUMNS = ("epoch", "step", "seconds", "learning_rate", "loss")


def keep_memory() -> None:
    """Let glibc keep freed memory instead of returning it to the system with every step.

    A step frees all it computed, and the next one gets it back page by page, each cleared: a
    tenth of the time of `wav2small`, a third beside threads that decode. Elsewhere it does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the most that glibc takes
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


@dataclass(frozen=True)
class LoopOptions:
    """How a training repeats its steps.

    Attributes:
        epochs: passes over the training clips
        learning_rate: peak of the learning rate
        seed: of everything random
        clip_norm: largest norm of the gradient; 0 = no limit
        patience: stop after so many epochs without a better validation; 0 = never
        checkpoint_s: seconds between checkpoints within an epoch
        threads: that compute on a CPU; 0 = chosen by timing steps, see `threads.Pace`
    """

    epochs: int
    learning_rate: float
    seed: int = 0
    clip_norm: float = 0.0
    patience: int = 0
    checkpoint_s: float = 300.0
    threads: int = 0


class Training(ABC):
    """One run of training.

    Args:
        output: run folder; `metrics.csv` and `last/` are written into it
        network: all that learns, on its device
        optimizer: of its parameters
        identity: what makes two runs the same run, JSON values by name: a checkpoint of a run
            where one differs is rejected
        options: see `LoopOptions`
        device: where to compute

    Attributes:
        state: JSON values of the run, saved in checkpoints: `epoch` (finished ones), `step` (within
            the epoch), `loss` (sum over `trained` steps of the epoch), `rows` (of metrics.csv),
            `best` (score), `best_epoch`, `epochs` (fewer after early stopping), `seconds`,
            `threads`, `finished`
    """

    #: Name in the progress bar.
    title: ClassVar[str] = "train"
    #: Former name -> today's name, of values in `identity` and `state`.
    former: ClassVar[Mapping[str, str]] = {}
    #: Epochs of a last phase, after the last epoch or early stopping.
    final_epochs: int = 0

    def __init__(
        self,
        output: Path,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        identity: Mapping[str, Any],
        options: LoopOptions,
        device: torch.device,
    ):
        self.output = output
        self.network = network
        self.optimizer = optimizer
        self.options = options
        self.device = device
        self.events: Any = None  # writer of TensorBoard events, if a subclass wants them
        self.state: dict[str, Any] = {
            "identity": json.loads(json.dumps(identity)), "epoch": 0, "step": 0,
            "loss": 0.0, "trained": 0, "rows": [], "best": None, "best_epoch": 0,
            "epochs": options.epochs, "seconds": 0.0, "threads": None, "finished": False,
        }  # fmt: skip

    @property
    @abstractmethod
    def steps(self) -> int:
        """Steps per epoch."""

    @abstractmethod
    def batches(self, epoch: int, first: int) -> Iterator[Sequence[Any]]:
        """The batches of an epoch from step `first` on, each as parts that fit into memory.

        A batch without parts is left out.
        """

    @abstractmethod
    def forward(self, part: Any) -> Outputs:
        """Outputs of the network for a part of a batch: tensors whose first axis is the part's."""

    @abstractmethod
    def loss(self, parts: Sequence[Any], *outputs: Any) -> Tensor:
        """Loss of a full batch, scalar; `outputs` are those of `forward`, joined."""

    @abstractmethod
    def validate(self) -> tuple[Mapping[str, Any], float]:
        """Figures for metrics.csv, and the score (higher is better) that chooses the best epoch."""

    @abstractmethod
    def keep_best(self) -> None:
        """Keep the network that `validate` has just scored: it is the best so far."""

    def learning_rate(self) -> float:
        """Learning rate of the next step; constant by default."""
        return self.options.learning_rate

    def loading_s(self) -> float:
        """Processor seconds that threads beside the steps of this epoch take for a batch."""
        return 0.0

    def begin_epoch(self) -> None:
        """Whatever changes between epochs; by default nothing."""
        return

    def train_mode(self) -> None:
        """Put the network into training mode."""
        self.network.train()

    def after_step(self, number: int) -> None:
        """Whatever follows step `number` of the run, such as a moving average of weights."""
        return

    def modules(self) -> dict[str, nn.Module]:
        """What a checkpoint holds besides the optimiser, by name."""
        return {"model": self.network}

    def save_batch(self, parts: Sequence[Any]) -> str:
        """Save a batch that made training diverge; a sentence about it for the error."""
        return ""

    def summary(self) -> str:
        """What the progress bar shows after an epoch."""
        return f"best epoch {self.state['best_epoch']}"

    def fit(self, stop: Stop) -> None:
        """Train to the end, from the checkpoint in the run folder if there is one.

        Raises:
            KeyboardInterrupt: `stop` was wanted; the run is saved
            Wav2SmallError: the checkpoint belongs to another run, or the loss is not finite
        """
        self._resume()
        state = self.state
        if state["finished"]:
            return
        keep_memory()
        self._began = time.monotonic() - state["seconds"]
        self._pace = Pace(
            self.options.threads,
            state["threads"],
            on_cpu=self.device.type == "cpu",
            processes=distributed.local_processes(),
        )
        total = (state["epochs"] + self.final_epochs) * self.steps
        with progress.bar(total, unit="step", desc=self.title) as bar:
            bar.update(state["epoch"] * self.steps + state["step"])
            while state["epoch"] < state["epochs"] + self.final_epochs:
                self.begin_epoch()
                self._epoch(stop, bar)
                bar.set_postfix_str(self.summary())
        state["finished"] = True
        self._save()

    def _epoch(self, stop: Stop, bar: Any) -> None:
        state, options, saved = self.state, self.options, time.monotonic()
        first = state["step"]
        for parts in self.batches(state["epoch"], first):
            if state["step"] == first:
                self._pace.loading(self.loading_s())
            if parts:
                with self._pace.step(functools.partial(self._trial, parts)):
                    self._step(parts)
            state["step"] += 1
            state["threads"] = self._pace.number
            bar.update()
            if distributed.any_process(stop.wanted, self.device):
                self._save()
                raise KeyboardInterrupt
            if time.monotonic() - saved > options.checkpoint_s:
                self._save()
                saved = time.monotonic()
        self._validate()
        state["epoch"] += 1
        state |= {"step": 0, "loss": 0.0, "trained": 0}
        waited = state["epoch"] - state["best_epoch"]
        if options.patience and state["epoch"] <= state["epochs"] and waited >= options.patience:
            state["epochs"] = state["epoch"]
        self._save()

    def _step(self, parts: Sequence[Any]) -> None:
        number = self.state["epoch"] * self.steps + self.state["step"]
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self.train_mode()
        self.optimizer.zero_grad(set_to_none=True)
        # One seed per step: dropout and the like need no saved state to resume.
        seed = (self.options.seed * 1000003 + number) * 4096 + distributed.world()[0]
        value = self._backward(parts, seed)
        parameters = [p for p in self.network.parameters() if p.grad is not None]
        distributed.sum_gradients(parameters)
        norm = nn.utils.clip_grad_norm_(parameters, self.options.clip_norm or math.inf)
        if not (math.isfinite(value) and math.isfinite(float(norm))):
            raise Wav2SmallError(
                f"training diverged: loss {value:g} at epoch {self.state['epoch'] + 1}, step "
                f"{self.state['step'] + 1}; {self.save_batch(parts)}the last good checkpoint is "
                f"kept; try --learning-rate {self.options.learning_rate / 4:g} with --overwrite"
            )
        self.optimizer.step()
        self.after_step(number)
        self.state["loss"] += value
        self.state["trained"] += 1

    def _backward(self, parts: Sequence[Any], seed: int) -> float:
        return gradient_cache.backward(
            self.forward, parts, lambda *outputs: self.loss(parts, *outputs), seed=seed
        )

    def _trial(self, parts: Sequence[Any]) -> None:
        """The costly part of a step, without a trace: statistics of BatchNorm are put back."""
        before = {name: buffer.clone() for name, buffer in self.network.named_buffers()}
        self.train_mode()
        self._backward(parts, seed=0)
        self.optimizer.zero_grad(set_to_none=True)
        for name, buffer in self.network.named_buffers():
            buffer.copy_(before[name])

    def _validate(self) -> None:
        state = self.state
        if not state["trained"]:
            raise Wav2SmallError("fewer than two of the training clips can be read")
        figures, score = self.validate()
        epoch = state["epoch"] + 1
        state["seconds"] = time.monotonic() - self._began
        loss, seconds = state["loss"] / state["trained"], round(state["seconds"], 2)
        values = (epoch, epoch * self.steps, seconds, self.learning_rate(), loss)
        state["rows"].append(row := {**dict(zip(COLUMNS, values, strict=True)), **figures})
        if state["best"] is None or score > state["best"]:
            state |= {"best": score, "best_epoch": epoch}
            self.keep_best()
        if distributed.world()[0] == 0:
            checkpoint.write_metrics(self.output / "metrics.csv", state["rows"])
        if self.events is not None:
            for name in ("learning_rate", "loss", *figures):
                if isinstance(row[name], float):
                    self.events.add_scalar(name, row[name], row["step"])

    def _save(self) -> None:
        self.state["seconds"] = time.monotonic() - self._began
        if distributed.world()[0]:
            return
        parts = {name: module.state_dict() for name, module in self.modules().items()}
        parts["optimizer"] = checkpoint.optimizer_tensors(self.optimizer)
        tensors = {f"{part}.{k}": v for part, values in parts.items() for k, v in values.items()}
        checkpoint.save(self.output, tensors, self.state)

    def _resume(self) -> None:
        found = checkpoint.load(self.output)
        if found is None:
            return
        tensors, state = found
        self.state |= checkpoint.same_run(state, self.state["identity"], self.output, self.former)
        source = self.output / checkpoint.NAME
        for name, module in self.modules().items():
            weights.fill(module, checkpoint.select(tensors, f"{name}."), source)
        checkpoint.load_optimizer(self.optimizer, checkpoint.select(tensors, "optimizer."))
