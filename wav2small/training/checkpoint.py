"""The state of a run as one file, whole or absent: a kill at any moment loses minutes, no run.

`last/checkpoint.safetensors` holds tensors (weights, their average, the optimiser's moments) and,
in its metadata, everything else as JSON. One file, so that the two can never disagree.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wav2small import files
from wav2small.errors import Wav2SmallError

FORMAT = 1  # raise when an older reader could misread the file
NAME = "last/checkpoint.safetensors"


def save(
    run: str | os.PathLike[str], tensors: Mapping[str, Tensor], state: Mapping[str, Any]
) -> None:
    """Write a checkpoint into a run folder.

    Args:
        run: run folder
        tensors: any nesting is in the names, such as "model.l1.weight"
        state: JSON values
    """
    from safetensors.torch import save_file

    # Clones: safetensors rejects tensors that share memory.
    own = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    text = json.dumps({"format": FORMAT, **state})
    with files.atomic(Path(run) / NAME) as temporary:
        save_file(own, temporary, metadata={"wav2small.run": text})


def load(run: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Read the checkpoint of a run folder; None if there is none.

    Raises:
        Wav2SmallError: a newer version of wav2small wrote it, or the file is damaged
    """
    import safetensors

    path = Path(run) / NAME
    if not path.exists():
        return None
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            state = json.loads(file.metadata()["wav2small.run"])
            if state["format"] <= FORMAT:
                tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise Wav2SmallError(
            f"{path}: no checkpoint, or damaged ({type(error).__name__}); start again with "
            "--overwrite"
        ) from error
    if state["format"] > FORMAT:
        raise Wav2SmallError(
            f"{path}: written by a newer wav2small (format {state['format']}, this one reads up to "
            f"{FORMAT}); upgrade with pip install -U wav2small"
        )
    return tensors, state


def select(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with `prefix`, without it."""
    return {
        name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)
    }


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's moments under flat names "0.exp_avg"."""
    return {
        f"{number}.{name}": value
        for number, entry in optimizer.state_dict()["state"].items()
        for name, value in entry.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimiser the moments that `optimizer_tensors` took."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        number, key = name.split(".", 1)
        state.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )
