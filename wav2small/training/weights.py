"""Weights and safetensors files: the one strict reader, and the one writer.

A network is filled with exactly the tensors that it has. Everything that does not fit (missing,
unexpected, of another shape) is named in one line.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from wav2small import files
from wav2small.errors import Wav2SmallError

#: A network computes the same without them: a counter of steps, and a mask for training only.
OPTIONAL = ("num_batches_tracked", "masked_spec_embed")


def read(file: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        Wav2SmallError: the file is damaged, truncated, or in another format
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise Wav2SmallError(
            f"{file}: damaged, truncated or no safetensors ({error}); copy it again"
        ) from error


def write(file: str | os.PathLike[str], state: Mapping[str, Tensor], **metadata: str) -> None:
    """Write tensors to a safetensors file, atomically, with metadata as text.

    Example:
        >>> import torch
        >>> write("weights.safetensors", {"bias": torch.zeros(3)})
        >>> read("weights.safetensors")["bias"].shape
        torch.Size([3])
    """
    from safetensors.torch import save_file

    # Clones: safetensors rejects tensors that share memory.
    own = {key: value.detach().cpu().clone().contiguous() for key, value in state.items()}
    with files.atomic(file) as temporary:
        save_file(own, temporary, metadata={"format": "pt", **metadata})


def check(module: nn.Module, state: Mapping[str, Tensor], source: str | os.PathLike[str]) -> None:
    """Reject weights that are not exactly those of a network.

    Args:
        module: the network, on any device
        state: the weights
        source: where they come from, named in the error

    Raises:
        Wav2SmallError: keys that are missing or unexpected, or shapes that differ

    Example:
        >>> import torch
        >>> check(torch.nn.Linear(2, 3), {"weight": torch.zeros(3, 1)}, "a.safetensors")
        Traceback (most recent call last):
        wav2small.errors.Wav2SmallError: a.safetensors does not fit Linear: lacks key bias; \
weight has shape (3, 1) instead of (3, 2); take config.json and weights from the same folder
    """
    own = module.state_dict()
    missing = sorted(key for key in own.keys() - state.keys() if not key.endswith(OPTIONAL))
    unexpected = sorted(key for key in state.keys() - own.keys() if not key.endswith(OPTIONAL))
    shapes = [
        f"{key} has shape {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in sorted(own.keys() & state.keys())
        if own[key].shape != state[key].shape
    ]
    kind = type(module).__name__
    reject(source, kind, missing=missing, unexpected=unexpected, shapes=shapes)


def reject(
    source: str | os.PathLike[str],
    kind: str,
    *,
    missing: Sequence[str] = (),
    unexpected: Sequence[str] = (),
    shapes: Sequence[str] = (),
) -> None:
    """Raise one line that names the weights that do not fit a network of class `kind`, if any."""
    found = (("lacks key ", missing), ("has an unexpected key ", unexpected), ("", shapes))
    problems = [what + _some(names) for what, names in found if names]
    if problems:
        raise Wav2SmallError(
            f"{source} does not fit {kind}: {'; '.join(problems)}; "
            "take config.json and weights from the same folder"
        )


def fill(module: nn.Module, state: Mapping[str, Tensor], source: str | os.PathLike[str]) -> None:
    """Give a network its weights, after `check`; arguments and errors are the same.

    A network on the device "meta", which was built without memory, comes to the CPU: its
    parameters are replaced. Values take the precision of the network.
    """
    check(module, state, source)
    own = module.state_dict()
    meta = any(value.is_meta for value in own.values())
    filled = {
        key: state[key].to(value.dtype)
        if key in state
        else (torch.zeros_like(value, device="cpu") if value.is_meta else value)
        for key, value in own.items()
    }
    module.load_state_dict(filled, assign=meta)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
