"""What accompanies the graph of an ONNX teacher: names of outputs, lineage, licence."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wav2small import files, models, provenance
from wav2small.errors import Wav2SmallError
from wav2small.session import first_line

from . import checkpoint

MODEL, DESCRIPTION = "model.onnx", "model.yaml"


@dataclass(frozen=True)
class Description:
    """What accompanies a graph."""

    path: Path  # of the `.onnx` file
    labels: Mapping[str, Sequence[str]]  # {output: names of its columns}, of `model.yaml`
    licences: Sequence[str]  # SPDX names that `model.yaml` and the model card give, or "unknown"
    sampling_rate: Any = None  # of `model.yaml`; None = it gives none


def holds(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder holds an ONNX model and no checkpoint of torch.

    Example:
        >>> holds("bundle")
        True
    """
    path = models.locate(folder)
    there = (path / MODEL).is_file() or (path / DESCRIPTION).is_file()
    return there and not (path / checkpoint.CONFIG).is_file()


def describe(spec: str | os.PathLike[str]) -> Description:
    """Find the graph of a folder and read what accompanies it.

    Raises:
        Wav2SmallError: no model there, a `model.yaml` that cannot be read, or one that asks for a
            transform of the signal

    Example:
        >>> describe("bundle").path.name
        'model.onnx'
    """
    path = models.locate(spec)
    folder = path if path.is_dir() else path.parent
    content: dict[str, Any] = {}
    own = path.is_dir() or path.name == MODEL  # the other files of the folder are about this model
    if own:
        content = _read_yaml(folder / DESCRIPTION) if (folder / DESCRIPTION).is_file() else {}
    if path.is_dir():
        path = folder / Path(str(content.get("path") or MODEL)).name
    if not path.is_file():
        raise Wav2SmallError(f"{path}: no such file; name a folder with {MODEL}, or an .onnx file")
    transform = content.get("transform")
    if isinstance(transform, Mapping) and not any(str(key).startswith("$") for key in transform):
        transform = any(transform.values())  # one per input
    if transform:
        raise Wav2SmallError(
            f"{folder / DESCRIPTION}: the model needs a transform of the signal, which is not run "
            "here; a teacher takes the waveform itself, so export the transform into the graph"
        )
    labels = content.get("labels") or {}
    if not isinstance(labels, Mapping):
        labels = {"logits": labels}
    labels = {str(name): _several(found) for name, found in labels.items() if found}
    licences = _several(content.get("licence") or content.get("license") or provenance.UNKNOWN)
    if own:
        licences.append(checkpoint.licence_of(folder, folder.name))
    return Description(path, labels, licences, content.get("sampling_rate"))


def _several(value: Any) -> list[str]:
    return [str(one) for one in (value if isinstance(value, list) else [value])]


def _read_yaml(path: Path) -> dict[str, Any]:
    """The object in an audonnx description: {"path", "labels", "transform"}."""
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise Wav2SmallError(f"{path}: not YAML ({first_line(error)}); copy it again") from error
    if isinstance(found, dict) and len(found) == 1 and str(next(iter(found))).startswith("$"):
        found = next(iter(found.values()))
    return found if isinstance(found, dict) else {}


def digest(path: Path) -> str:
    """Of the file and of its weights, where they are files of their own."""
    names = sorted(other for other in path.parent.glob(f"{path.name}*") if other.is_file())
    return "sha256:" + "+".join(files.sha256(name) for name in names)


def lineage(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """The provenance in the folder of a bundle, or a bare model in its metadata."""
    record = path.parent / "provenance.json"
    if path.name == MODEL and record.is_file():
        return provenance.read(record)
    try:
        found = json.loads(metadata.get("wav2small.provenance", "{}"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def licence(described: Description, metadata: Mapping[str, str], history: Mapping[str, Any]) -> str:
    """Of the lineage, else of the files in its folder and of its metadata: all that they name."""
    if history:
        return provenance.expression(history)
    named = [*described.licences, metadata.get("licence", ""), metadata.get("license", "")]
    return " AND ".join({n: 0 for n in named if n and n != provenance.UNKNOWN}) or "unknown"
