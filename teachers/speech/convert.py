"""`convert`: weights that are published as a pickle become safetensors, once, on request.

torch reads the pickle with `weights_only=True`, which rejects everything but tensors. Nothing else
of the toolkit opens one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wav2small import files, hub, provenance
from wav2small.errors import Wav2SmallError
from wav2small.session import first_line

from . import checkpoint

#: What a repository may hold besides the weights that a teacher, an encoder or a recogniser needs.
_COMPANIONS = ("*.json", "*.txt", "*.model", "README.md", "LICENSE*")


@dataclass(frozen=True)
class Conversion:
    """What was converted.

    Attributes:
        output: folder with safetensors
        files: {safetensors file: the pickle it was made from}
        tensors: number of tensors
        left_out: entries of the pickles that are no tensors
    """

    output: str
    files: dict[str, str]
    tensors: int
    left_out: list[str]


def convert(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = False,
) -> Conversion:
    """Convert a checkpoint to safetensors; hashes of both sides go to `conversion.json`.

    Args:
        source: folder, or hub id `owner/name` or `owner/name@revision`, with `pytorch_model.bin` or
            its shards
        output: folder; None = that of the pickle. A hub id needs one
        overwrite: replace safetensors that are there

    Raises:
        Wav2SmallError: no pickle there, one that holds more than tensors or is damaged, or
            safetensors that are there already
    """
    folder, origin = _find(os.fspath(source), output)
    target = Path(output) if output is not None else folder
    target.mkdir(parents=True, exist_ok=True)
    names = _names(folder)
    if checkpoint.weight_files(target) and not overwrite:
        raise Wav2SmallError(
            f"{target}: {checkpoint.weight_files(target)[0].name} is there already; nothing is to "
            "be converted, or add --overwrite"
        )
    from wav2small.training import weights

    left_out: list[str] = []
    where: dict[str, str] = {}
    for pickle, name in names.items():
        tensors, others = _read(folder / pickle)
        weights.write(target / name, tensors)
        left_out += others
        where |= dict.fromkeys(tensors, name)
    if len(names) > 1:
        files.write_json(target / checkpoint.SHARDS, {"metadata": {}, "weight_map": where})
    if target != folder:
        for pattern in _COMPANIONS:
            for file in folder.glob(pattern):
                if not file.name.endswith(".index.json"):
                    shutil.copyfile(file, target / file.name)
    record = {
        "from": {"id": origin, **{name: files.sha256(folder / name) for name in names}},
        "to": {name: files.sha256(target / name) for name in names.values()},
        "versions": provenance.versions("torch", "safetensors"),
    }
    files.write_json(target / checkpoint.CONVERSION, record)
    made = {name: pickle for pickle, name in names.items()}
    return Conversion(os.fspath(target), made, len(where), left_out)


def _find(source: str, output: Any) -> tuple[Path, str]:
    """The folder with the pickles, and what it is known as."""
    if os.path.isdir(source):
        return Path(source), os.path.basename(os.path.abspath(source))
    if not hub.is_id(source):
        raise Wav2SmallError(f"{source}: no such folder; name a folder or a hub id owner/name")
    if output is None:
        raise Wav2SmallError(f"{source}: name a folder for the result: -o FOLDER")
    pickles = (checkpoint.PICKLE, checkpoint.PICKLE_SHARDS, "pytorch_model-*-of-*.bin")
    folder = checkpoint.fetch(source, (*pickles, *_COMPANIONS), option="wav2small convert")
    return folder, f"{source.partition('@')[0]}@{folder.name}"


def _names(folder: Path) -> dict[str, str]:
    """Pickles of a folder, and the names of the safetensors they become."""
    if (folder / checkpoint.PICKLE).is_file():
        return {checkpoint.PICKLE: checkpoint.WEIGHTS}
    if not (folder / checkpoint.PICKLE_SHARDS).is_file():
        raise Wav2SmallError(
            f"{folder}: no {checkpoint.PICKLE}; convert reads that, or its shards with their index"
        )
    index = files.read_json(folder / checkpoint.PICKLE_SHARDS)
    shards = sorted(set((index.get("weight_map") or {}).values()))
    for name in shards:
        if os.path.basename(name) != name or not (folder / name).is_file():
            raise Wav2SmallError(f"{folder}: no {name}, which its index names; copy it again")
    return {
        name: name.replace("pytorch_model", "model").removesuffix(".bin") + ".safetensors"
        for name in shards
    }


def _read(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Tensors of a pickle, and the names of what else is in it."""
    import pickle
    import warnings

    import torch

    try:
        with warnings.catch_warnings(action="ignore"):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise Wav2SmallError(
            f"{path}: holds more than tensors, or is damaged, so it is not opened; ask its author "
            "for safetensors"
        ) from error
    except Exception as error:  # whatever damaged bytes ask of a machine that reads pickles
        raise Wav2SmallError(
            f"{path}: damaged ({type(error).__name__}: {first_line(error)[:120]}); copy it again"
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping):
        raise Wav2SmallError(f"{path}: no state dict but a {type(found).__name__}")
    tensors = {str(k): v for k, v in found.items() if isinstance(v, torch.Tensor)}
    if not tensors:
        raise Wav2SmallError(f"{path}: no tensor in it; is it the weights of a model?")
    return tensors, [str(key) for key in found if str(key) not in tensors]
