"""What every neural teacher shares: a device, a precision, batches that fit into memory."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wav2small import audio
from wav2small.dimensions import DIMENSIONS
from wav2small.errors import Wav2SmallError
from wav2small.teachers.base import ByColumns
from wav2small.teachers.multimodal.dialogue import Passage

from . import int8
from .checkpoint import Checkpoint

INT8 = "int8"
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class NeuralTeacher(ByColumns):
    """A network that labels.

    Args:
        network: `network(signal (B, T), lengths (B,) on the CPU)` -> (B, outputs), and for the
            names in `categories` logits (B, categories), else None
        checkpoint: where it comes from
        name: of the teacher
        dimensions: of the outputs, in their order; in the table they stand in the usual order
        categories: names of the categories it predicts, if any
        device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1"
        dtype: "auto" (bfloat16 on CUDA, else float32), "float32", "bfloat16", "float16", on a
            CPU "int8" (see `int8`)

    Raises:
        Wav2SmallError: no such device or precision, or not for this network
    """

    sampling_rate = audio.SAMPLING_RATE

    def __init__(
        self,
        network: nn.Module,
        checkpoint: Checkpoint,
        *,
        name: str,
        dimensions: tuple[str, ...],
        categories: tuple[str, ...] = (),
        invariances: frozenset[str] = frozenset(),
        device: str = "auto",
        dtype: str = "auto",
    ):
        self.name, self.id, self.revision = name, checkpoint.id, checkpoint.revision
        self.licence = checkpoint.licence
        self.dimensions = tuple(known for known in DIMENSIONS if known in dimensions)
        self.categories = categories
        self.invariances = invariances
        self._order = [dimensions.index(known) for known in self.dimensions]
        self._fits = float("inf")  # samples of a batch, padding counted
        self.device = choose_device(device)
        if dtype == INT8 and self.device.type != "cpu":
            raise Wav2SmallError("--dtype int8 is for CPUs; give auto or --device cpu")
        self.dtype = choose_dtype("float32" if dtype == INT8 else dtype, self.device)
        self.network = network.eval().requires_grad_(False).to(self.device)
        if dtype == INT8:
            int8.quantise(self.network, self.id)

    def predict_columns(
        self, batch: np.ndarray, lengths: np.ndarray, passages: list[Passage] | None = None
    ) -> dict[str, np.ndarray]:
        """Dimensions, and probabilities of the categories as `probability_NAME`."""
        return self.launch(batch, lengths, passages)()

    def launch(
        self, batch: np.ndarray, lengths: np.ndarray, passages: list[Passage] | None = None
    ) -> Callable[[], dict[str, np.ndarray]]:
        """Begin to label a batch; a GPU works while the caller prepares the next one.

        Returns:
            a function that waits for the columns
        """
        half = len(batch) // 2
        if batch.size <= self._fits or not half:
            try:
                return self._copied(*self._forward(batch, lengths, passages))
            except torch.cuda.OutOfMemoryError:
                if not half:
                    raise
                self._fits = batch.size // 2
                print(
                    f"out of memory on {self.device} with {len(batch)} clips of "
                    f"{batch.shape[1] / self.sampling_rate:.1f} s; going on with {half}",
                    file=sys.stderr,
                )
            torch.cuda.empty_cache()  # only here does the error let go of what it holds
        parts = []
        for rows in (slice(0, half), slice(half, None)):
            longest = lengths[rows].max()
            wait = self.launch(batch[rows, :longest], lengths[rows], passages and passages[rows])
            parts.append(wait())
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return lambda: joined

    def _inputs(
        self, batch: np.ndarray, lengths: np.ndarray, passages: list[Passage] | None
    ) -> tuple[Any, ...]:
        """What the network takes."""
        signal = torch.from_numpy(np.ascontiguousarray(batch, dtype=np.float32))
        if self.device.type == "cuda":
            signal = signal.pin_memory().to(self.device, non_blocking=True)
        return signal, torch.from_numpy(np.asarray(lengths, dtype=np.int64))

    def _forward(self, *clips: Any) -> tuple[Tensor, Tensor | None]:
        inputs = self._inputs(*clips)
        low, kind = self.dtype != torch.float32, self.device.type
        with torch.inference_mode(), torch.autocast(kind, dtype=self.dtype, enabled=low):
            outputs, logits = self.network(*inputs)[:2]
        return outputs, logits

    def _copied(self, values: Tensor, logits: Tensor | None) -> Callable[[], dict[str, np.ndarray]]:
        """Copy results behind the computation; what waits for them waits for no later batch."""
        shares = [] if logits is None else [logits.float().softmax(dim=1)]
        joined = torch.cat([values.float(), *shares], dim=1)
        places = dict(zip(self.dimensions, self._order, strict=True))
        for number, name in enumerate(self.categories, values.shape[1]):
            places[f"probability_{name}"] = number
        wait = lambda: None  # noqa: E731
        if self.device.type == "cuda":
            # Columns are ordered on the host: an index there would wait for all that is queued.
            joined = torch.empty(joined.shape, pin_memory=True).copy_(joined, non_blocking=True)
            done = torch.cuda.Event()
            done.record(torch.cuda.current_stream(self.device))
            wait = done.synchronize

        def columns() -> dict[str, np.ndarray]:
            wait()
            found = joined.numpy()
            return {name: found[:, place] for name, place in places.items()}

        return columns


class Categorical(nn.Module):
    """A network whose outputs are logits of categories, as `NeuralTeacher` takes it.

    Example:
        >>> network = lambda signal, lengths: (torch.zeros(len(signal), 4), None)
        >>> outputs, logits = Categorical(network)(torch.zeros(2, 800), torch.tensor([800, 800]))
        >>> outputs.shape, logits.shape
        (torch.Size([2, 0]), torch.Size([2, 4]))
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, signal: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        logits, _ = self.network(signal, lengths)
        return logits[:, :0], logits


def choose_device(name: str) -> torch.device:
    """The device a user asked for.

    Raises:
        Wav2SmallError: CUDA asked for but absent, or a name that is no device
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    remedy = "give auto, cpu, cuda or cuda:N"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise Wav2SmallError(f"--device {name}: no such device; {remedy}") from error
    if device.type not in ("cpu", "cuda"):
        raise Wav2SmallError(f"--device {name}: not supported; {remedy}")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count <= (device.index or 0):
            found = f"there are {count}" if count else "no CUDA device or driver is here"
            raise Wav2SmallError(f"--device {name}: {found}; give --device cpu or auto")
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The precision a user asked for.

    Raises:
        Wav2SmallError: no such precision

    Example:
        >>> choose_dtype("auto", choose_device("cpu"))
        torch.float32
    """
    if name == "auto":
        good = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if good else torch.float32
    if name not in _DTYPES:
        raise Wav2SmallError(f"--dtype {name}: give auto, {', '.join(_DTYPES)}")
    return _DTYPES[name]


def valid(signal: Tensor, lengths: Tensor) -> Tensor:
    """Mask of valid samples of a signal (B, T): the same shape, float."""
    return inside(lengths, signal).to(signal.dtype)


def inside(counts: Tensor, states: Tensor) -> Tensor:
    """Mask of the places of `states` (B, L, ...) that are below `counts` (B,): (B, L), bool."""
    steps = torch.arange(states.shape[1], device=states.device)
    return steps < counts.to(states.device, non_blocking=True)[:, None]
