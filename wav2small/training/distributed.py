"""Several processes, one batch: what makes N processes compute what one would.

Every process holds a share of the global batch. Outputs are gathered with gradient, each process
computes the loss of the global batch, and gradients are summed: the same update as one process.
Batch normalisation takes its statistics over all shares.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable
from functools import partial
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from wav2small.errors import Wav2SmallError

PIECE = 1 << 16  # bytes that a socket takes before the other side reads
_neighbours: Neighbours | None = None


class Neighbours:
    """Sockets between processes that share one machine's cores.

    A message of Gloo wakes threads on either side, which wait for a core where all of them compute:
    two processes of `nano` took 2.8 times as long as with sockets that the computing threads read
    themselves (`benchmarks.studies.speed`). Batch normalisation alone sends 22 messages per step.
    """

    def __init__(self) -> None:
        self.rank, size = world()
        # The path of a socket has 100 characters at most.
        base = tempfile.gettempdir() if len(tempfile.gettempdir()) < 60 else "/tmp"
        folder = tempfile.mkdtemp(prefix="wav2small-", dir=base) if self.rank == 0 else ""
        path = torch.zeros(1024, dtype=torch.uint8)
        path[: len(os.fsencode(folder))] = torch.tensor(list(os.fsencode(folder)))
        dist.broadcast(path, 0)
        folder = os.fsdecode(bytes(path.tolist()).rstrip(b"\0"))
        self.others: dict[int, Connection] = {}
        with Listener(str(Path(folder, str(self.rank))), family="AF_UNIX", backlog=size) as own:
            dist.barrier()
            for rank in range(self.rank):
                self.others[rank] = Client(str(Path(folder, str(rank))), family="AF_UNIX")
                self.others[rank].send_bytes(bytes([self.rank]))
            for _ in range(self.rank + 1, size):
                other = own.accept()
                self.others[other.recv_bytes()[0]] = other
        dist.barrier()
        if self.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)

    def everyone(self, tensor: Tensor) -> list[Tensor]:
        """The tensor of every process, in their order; all have the same shape."""
        count = len(self.others) + 1
        found = [torch.empty(tensor.shape, dtype=tensor.dtype) for _ in range(count)]
        found[self.rank] = tensor.detach().contiguous()
        memory = [memoryview(one.reshape(-1).numpy()).cast("B") for one in found]
        for first in range(0, len(memory[0]), PIECE):
            for other in self.others.values():
                other.send_bytes(memory[self.rank][first : first + PIECE])
            for rank, other in self.others.items():
                other.recv_bytes_into(memory[rank], first)
        return found


def world() -> tuple[int, int]:
    """(number of this process, number of processes)."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def local_processes() -> int:
    """Number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world()[1]))


def gather(tensor: Tensor) -> Tensor:
    """(B, ...) of every process -> (N * B, ...), in the order of processes.

    The gradient flows into this process's own share only: with the same loss computed
    everywhere and gradients summed over processes, each is counted once.
    """
    rank, size = world()
    if size == 1:
        return tensor
    if _neighbours is not None:
        parts = _neighbours.everyone(tensor)
    else:
        parts = [torch.empty_like(tensor) for _ in range(size)]
        dist.all_gather(parts, tensor.detach().contiguous())
    parts[rank] = tensor
    return torch.cat(parts)


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Sum the gradients over all processes, in one message."""
    if world()[1] == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = sum_everywhere(torch.cat([gradient.flatten() for gradient in gradients]))
    sizes = [gradient.numel() for gradient in gradients]
    for gradient, share in zip(gradients, flat.split(sizes), strict=True):
        gradient.copy_(share.view_as(gradient))


def sum_everywhere(tensor: Tensor) -> Tensor:
    """Sum a tensor over all processes, in place and without gradient."""
    if _neighbours is not None:
        tensor.copy_(torch.stack(_neighbours.everyone(tensor)).sum(0))
    elif world()[1] > 1:
        dist.all_reduce(tensor)
    return tensor


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether a flag is set in any process; its tensor of the exchange is on `device`."""
    if world()[1] == 1:
        return flag
    return bool(sum_everywhere(torch.tensor([float(flag)], device=device)))


class _Sum(torch.autograd.Function):
    """All-reduce whose gradient is all-reduced as well."""

    @staticmethod
    def forward(context: Any, tensor: Tensor) -> Tensor:
        return sum_everywhere(tensor.clone())

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        return sum_everywhere(gradients[0].clone())


def global_batch_norm(
    module: nn.modules.batchnorm._BatchNorm, signal: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Batch normalisation in training mode with statistics of the global batch.

    Args:
        module: whose weight, bias and running statistics are used and updated
        signal: (B, C, ...) share of this process
        mask: 1 where a position counts, 0 in padding; any shape that multiplies with `signal`
    """
    axes = [axis for axis in range(signal.dim()) if axis != 1]
    values = signal.float()
    valid = (
        torch.ones_like(values[:, :1]) if mask is None else mask.float().expand_as(values[:, :1])
    )
    counted = values * valid
    count = valid.sum().view(1)
    sums = _Sum.apply(torch.cat([count, counted.sum(axes), (counted * values).sum(axes)]))
    total = sums[0]
    mean, square = (sums[1:] / total).chunk(2)
    variance = (square - mean.square()).clamp_min(0)
    if module.track_running_stats and module.running_mean is not None:
        with torch.no_grad():
            momentum = module.momentum or 0.1
            module.running_mean.lerp_(mean, momentum)
            assert module.running_var is not None and module.num_batches_tracked is not None
            module.running_var.lerp_(variance * total / (total - 1), momentum)
            module.num_batches_tracked += 1
    shape = [1, -1] + [1] * (signal.dim() - 2)
    scale = (variance + module.eps).rsqrt()
    result = (values - mean.view(shape)) * scale.view(shape)
    if module.affine:
        result = result * module.weight.view(shape) + module.bias.view(shape)
    return result.to(signal.dtype)


def share_batch_norm(model: nn.Module) -> None:
    """Let every batch normalisation of `model` see the global batch while training.

    Works on any backend (torch's SyncBatchNorm has no CPU form) and changes no name in the
    state dict. Layers with a forward of their own call `masking.masked_batch_norm`, which shares
    its statistics itself. Nothing happens with one process.
    """
    if world()[1] == 1:
        return
    plain = nn.modules.batchnorm._BatchNorm
    for module in model.modules():
        if isinstance(module, plain) and type(module).forward is plain.forward:
            module.forward = partial(_shared_forward, module)  # type: ignore[method-assign]


def _shared_forward(module: nn.modules.batchnorm._BatchNorm, signal: Tensor) -> Tensor:
    return (global_batch_norm if module.training else type(module).forward)(module, signal)


def start(device: str) -> tuple[torch.device, int, int]:
    """Join the other processes, if `accelerate launch` (or torchrun) started several.

    Args:
        device: "auto", "cpu", "cuda" or "cuda:1"

    Returns:
        device, number of this process, number of processes

    Raises:
        Wav2SmallError: CUDA was asked for and is not there
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise Wav2SmallError(f"--device {device}: this machine has no CUDA; use --device cpu")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState

        state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available())
        # Threads of Gloo that still run when a process ends abort it, now and then.
        atexit.register(state.destroy_process_group)
        one_machine = local_processes() == world()[1] and sys.platform != "win32"
        if state.device.type == "cpu" and one_machine:
            global _neighbours
            _neighbours = _neighbours or Neighbours()
        return state.device, state.process_index, state.num_processes
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device), 0, 1
