"""The state of a run as one file, complete or absent: a kill at any moment loses minutes, no run.

`last/checkpoint.safetensors` holds tensors (weights, their average, the optimiser's moments) and,
in its metadata, everything else as JSON. One file, so that the two can never disagree.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wav2small import files
from wav2small.errors import Wav2SmallError

from . import weights

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

    Example:
        >>> save("run", {"model.weight": torch.zeros(2)}, {"epoch": 1})
        >>> tensors, state = load("run")
        >>> select(tensors, "model."), state["epoch"]
        ({'weight': tensor([0., 0.])}, 1)
    """
    text = json.dumps({"format": FORMAT, **state})
    weights.write(Path(run) / NAME, tensors, **{"wav2small.run": text})


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


def same_run(
    saved: dict[str, Any], identity: Mapping[str, Any], run: Path, former: Mapping[str, str]
) -> dict[str, Any]:
    """The state in a checkpoint under today's names, if it is one of the same run.

    Args:
        saved: state of the checkpoint, of this version or an earlier one
        identity: what makes two runs the same run
        run: folder, named in the error
        former: former name -> today's name

    Raises:
        Wav2SmallError: a value of `identity` differs
    """
    if "settings" in saved:  # fine-tuning, as earlier versions saved it
        saved = {"identity": saved["settings"], **saved["state"]}
    elif "config" in saved:  # distillation, as earlier versions saved it
        theirs = {"architecture": saved.pop("student"), **saved.pop("config")}
        saved = {"identity": {"labels or split": saved.pop("fingerprint"), **theirs}, **saved}
    saved = {former.get(name, name): value for name, value in saved.items()}
    theirs = {former.get(name, name): value for name, value in saved["identity"].items()}
    other = [
        f"another {name}"
        if isinstance(own, dict) or len(str(own)) > 40
        else f"{name} = {theirs[name]!r} (now {own!r})"
        for name, own in identity.items()
        if name in theirs and theirs[name] != own
    ]
    if other:
        raise Wav2SmallError(
            f"{run}: holds a run with {', '.join(other)}; give the same, or choose another -o, or "
            "--overwrite"
        )
    return {"trained": saved.get("step", 0), **saved, "identity": dict(identity)}


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


def write_metrics(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write metrics.csv, one row per epoch."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with files.atomic(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
