"""Checkpoints: `config.json` and `model.safetensors`, from a folder or the hub, nothing executed.

Every rejection names the file and the field or key, and the remedy.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wav2small import files, provenance
from wav2small.dimensions import DIMENSIONS
from wav2small.emotions import common
from wav2small.errors import Wav2SmallError
from wav2small.hub import fetch

if TYPE_CHECKING:
    import torch

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
PREPROCESSOR = "preprocessor_config.json"
SHARDS = "model.safetensors.index.json"
RECORDS = ("provenance.json", "README.md")
#: What to fetch of a repository.
PATTERNS = (CONFIG, WEIGHTS, SHARDS, "model-*-of-*.safetensors", PREPROCESSOR, *RECORDS)
CONVERSION = "conversion.json"  # of `convert`: what the weights were made from
PICKLE, PICKLE_SHARDS = "pytorch_model.bin", "pytorch_model.bin.index.json"
_PICKLES = (PICKLE, PICKLE_SHARDS, "model.bin", "model.pt", "pytorch_model.pt", "model.ckpt")

_TRAINING_ONLY = ("masked_spec_embed", "num_batches_tracked")

#: Licences of the published teachers; of other checkpoints it stands in their model card.
LICENCES = {
    "3loi/SER-Odyssey-Baseline-WavLM-Multi-Attributes": "MIT",
    "3loi/SER-Odyssey-Baseline-WavLM-Arousal": "MIT",
    "3loi/SER-Odyssey-Baseline-WavLM-Dominance": "MIT",
    "3loi/SER-Odyssey-Baseline-WavLM-Valence": "MIT",
    "3loi/SER-Odyssey-Baseline-WavLM-Categorical": "MIT",
    "audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim": "CC-BY-NC-SA-4.0",
    "audeering/wav2vec2-large-robust-24-ft-age-gender": "CC-BY-NC-SA-4.0",
    "audeering/wav2vec2-large-robust-6-ft-age-gender": "CC-BY-NC-SA-4.0",
    "audeering/wav2small": "CC-BY-NC-SA-4.0",
    "publicstaticvo/SPECTRA-base": "CC-BY-4.0",
}

#: Keys of weights with their sizes (see `fingerprint`) -> licence of the published checkpoint that
#: has exactly these, for folders that lost their model card. A model of one's own with the same
#: keys names another in its provenance.json or model card.
FINGERPRINTS = {
    "f79399d856826953": "CC-BY-NC-SA-4.0",  # audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim
}


@dataclass(frozen=True)
class Checkpoint:
    """Where a model's files are, and what pins them."""

    folder: Path  # holds config.json and model.safetensors
    id: str  # hub id, or the folder as the user named it
    revision: str  # commit of the hub, or the hash of the weights
    licence: str  # SPDX name or "unknown"

    @property
    def config(self) -> dict[str, Any]:
        """The parsed config.json."""
        return files.read_json(self.folder / CONFIG)

    def entry(self, name: str) -> dict[str, str]:
        """Its entry in the provenance of what is made of it."""
        return {"name": name, "id": self.id, "revision": self.revision, "licence": self.licence}


def local(
    folder: str | os.PathLike[str], *, option: str = "--teacher", config: str = CONFIG
) -> Checkpoint:
    """A checkpoint in a folder, `config` the name of its configuration; its weights may be in
    shards. `option` of the command line named it, for the remedy.

    Raises:
        Wav2SmallError: a file is missing, or the weights are a pickle
    """
    path = Path(folder)
    if not (path / config).is_file():
        other = ", or model.onnx (of another name: FOLDER/NAME.onnx)" * (option == "--teacher")
        raise Wav2SmallError(
            f"{path}: no {config}; a teacher's folder holds {config} and {WEIGHTS}{other}"
        )
    if not weight_files(path):
        for name in _PICKLES:
            if (path / name).exists():
                raise Wav2SmallError(
                    f"{path / name}: a pickle can run code and is not opened; convert it once, "
                    f"then use {option} {path} again: wav2small convert {path}"
                )
        raise Wav2SmallError(
            f"{path}: no {WEIGHTS}; a teacher's folder holds {CONFIG} and {WEIGHTS}"
        )
    return Checkpoint(path, os.fspath(folder), _digest(path), licence_of(path, path.name))


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint: one, or its shards; empty = none.

    Raises:
        Wav2SmallError: a shard is missing
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / SHARDS).is_file():
        return []
    found = files.read_json(folder / SHARDS).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise Wav2SmallError(f"{folder / SHARDS}: no `weight_map` of keys to files; copy it again")
    names = sorted({str(name) for name in found.values()})
    for name in names:
        if os.path.basename(name) != name or not (folder / name).is_file():
            raise Wav2SmallError(f"{folder}: no {name}, which {SHARDS} names; copy it again")
    return [folder / name for name in names]


def _digest(folder: Path) -> str:
    """Of the weights: SHA-256 of the file, of shards that of their hashes."""
    hashes = [files.sha256(file) for file in weight_files(folder)]
    joined = hashlib.sha256("".join(hashes).encode()).hexdigest()
    return "sha256:" + (hashes[0] if len(hashes) == 1 else joined)


def fingerprint(sizes: Mapping[str, int]) -> str:
    """Hash of the keys of weights and their sizes; what serves training only does not count.

    Args:
        sizes: key -> number of values; names of today's torch or of published checkpoints

    Example:
        >>> fingerprint({"b": 2, "a": 1}) == fingerprint({"a": 1, "b": 2, "num_batches_tracked": 1})
        True
    """
    counted = {k: size for k, size in sizes.items() if not k.endswith(_TRAINING_ONLY)}
    lines = sorted(f"{published(key)} {size}" for key, size in counted.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _sizes(folder: Path) -> dict[str, int]:
    """Sizes of the weights of a folder, from the headers of its files; empty = unreadable."""
    from safetensors import SafetensorError, safe_open

    sizes: dict[str, int] = {}
    try:
        for file in weight_files(folder):
            with safe_open(file, framework="np") as opened:
                for key in opened.keys():  # noqa: SIM118, it is no mapping
                    sizes[key] = math.prod(opened.get_slice(key).get_shape())
    except (SafetensorError, OSError, Wav2SmallError):
        return {}
    return sizes


def hub(spec: str, *, extra: Iterable[str] = (), option: str = "--teacher") -> Checkpoint:
    """A checkpoint of the hub: `owner/name` or `owner/name@revision`.

    The commit that was found is the checkpoint's revision. Without a network the copy of an
    earlier download serves. `extra` are names or patterns of further files.

    Raises:
        Wav2SmallError: no such repository or revision, no safetensors in it, or no network
    """
    name = spec.partition("@")[0]
    folder = fetch(spec, (*PATTERNS, *extra), option=option)
    if not (folder / CONFIG).exists():
        raise Wav2SmallError(f"{spec}: no {CONFIG} in this repository or its local copy")
    if not weight_files(folder):
        raise Wav2SmallError(
            f"{spec}: no {WEIGHTS} in this repository or its local copy; if it offers only "
            f"{PICKLE}, convert that once, then use {option} FOLDER: wav2small convert {spec} "
            "-o FOLDER"
        )
    return Checkpoint(folder, name, revision_of(folder), licence_of(folder, name))


def find(spec: str, *, extra: Iterable[str] = (), option: str = "--teacher") -> Checkpoint:
    """The checkpoint in a folder, see `local`, or behind a hub id, see `hub`."""
    if os.path.isdir(spec):
        return local(spec, option=option)
    return hub(spec, extra=extra, option=option)


def revision_of(folder: Path) -> str:
    """The commit of a snapshot of the hub, which its folder is named after; else a hash."""
    if re.fullmatch(r"[0-9a-f]{40}", folder.name):
        return folder.name
    return _digest(folder)


def require(config: Mapping[str, Any], names: Iterable[str], where: str | Path) -> None:
    """Reject a configuration without one of the fields.

    Raises:
        Wav2SmallError: it names the field
    """
    for name in names:
        if config.get(name) is None:
            raise Wav2SmallError(
                f"{where}: no field `{name}`; bring the file it was published with"
            )


def categories(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of a head's outputs where none of them is a dimension; empty otherwise.

    Example:
        >>> categories({"id2label": {"0": "Angry", "1": "neutral"}})
        ('anger', 'neutral')
    """
    names = config.get("id2label") or {}
    if not all(str(key).isdigit() for key in names):
        return ()
    found = tuple(common(names[key]) for key in sorted(names, key=int))
    unnamed = all(re.fullmatch(r"label_\d+", name) for name in found)  # of transformers
    return () if unnamed or set(found) & set(DIMENSIONS) or len(set(found)) < 2 else found


def dimensions(
    config: Mapping[str, Any], outputs: int, where: str | Path
) -> tuple[str, ...] | None:
    """Names of a head's outputs by `id2label`, in the order of the head; None = it names none.

    Raises:
        Wav2SmallError: a name that is none of the dimensions, one named twice, too few or many
    """
    names = config.get("id2label")
    if not names:
        return None
    try:
        ordered = [str(names[key]).strip().lower() for key in sorted(names, key=int)]
    except ValueError as error:
        raise Wav2SmallError(f"{where}: id2label has keys that are no numbers") from error
    for name in ordered:
        if name not in DIMENSIONS:
            raise Wav2SmallError(
                f"{where}: id2label names an output {name!r}; known are {', '.join(DIMENSIONS)}, "
                "or names of emotions alone"
            )
    if len(set(ordered)) != len(ordered) or len(ordered) != outputs:
        raise Wav2SmallError(
            f"{where}: id2label names {len(ordered)} outputs ({', '.join(ordered)}), "
            f"the model has {outputs}; each dimension once"
        )
    return tuple(ordered)


def read_weights(source: Checkpoint) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint (all shards) under the names of today's torch, in float32.

    Raises:
        Wav2SmallError: truncated or no safetensors
    """
    from wav2small.training import weights

    return {
        modern(key): value.float() if value.is_floating_point() else value
        for file in weight_files(source.folder)
        for key, value in weights.read(file).items()
    }


def load_weights(model: torch.nn.Module, source: Checkpoint) -> None:
    """Fill a model, built on any device, with exactly the weights of a checkpoint.

    Raises:
        Wav2SmallError: truncated or no safetensors; a key that is missing, unexpected or of
            another shape, named
    """
    from wav2small.training import weights

    weights.fill(model, read_weights(source), source.folder / WEIGHTS)


def write_weights(folder: Path, state: Mapping[str, torch.Tensor]) -> None:
    """Write weights under the names of the published checkpoints."""
    from wav2small.training import weights

    weights.write(folder / WEIGHTS, {published(key): value for key, value in state.items()})


def modern(key: str) -> str:
    """The name torch gives a weight-normalised weight today; checkpoints have the older one."""
    return key.replace("conv.weight_g", "conv.parametrizations.weight.original0").replace(
        "conv.weight_v", "conv.parametrizations.weight.original1"
    )


def published(key: str) -> str:
    """The name that published checkpoints give a weight-normalised weight."""
    return key.replace("conv.parametrizations.weight.original0", "conv.weight_g").replace(
        "conv.parametrizations.weight.original1", "conv.weight_v"
    )


def licence_of(folder: Path, name: str) -> str:
    """By our own provenance, hub id, the model card's front matter, or the keys of weights."""
    lineage = folder / "provenance.json"
    if lineage.exists():
        return provenance.expression(provenance.read(lineage))
    names = [name]
    if (folder / CONVERSION).is_file():
        names.append(str((files.read_json(folder / CONVERSION).get("from") or {}).get("id")))
    for known, licence in LICENCES.items():
        if {known, known.partition("/")[2]} & {one.partition("@")[0] for one in names}:
            return licence
    found = _card_licence(folder / "README.md")
    return found or FINGERPRINTS.get(fingerprint(_sizes(folder)), provenance.UNKNOWN)


def _card_licence(card: Path) -> str:
    """The licence, or several, in the front matter of a model card; "" = it names none."""
    if not card.is_file():
        return ""
    import yaml

    text = card.read_text(encoding="utf-8-sig", errors="replace")
    found = re.match(r"---\s*\n(.*?\n)---\s*$", text, re.DOTALL | re.MULTILINE)
    try:
        content = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError:
        return ""
    if not isinstance(content, dict):
        return ""
    named = content.get("license")
    names = [str(name).strip() for name in (named if isinstance(named, list) else [named]) if name]
    if names == ["other"]:  # the hub's word for a licence that is not in its list
        names = [str(content.get("license_name") or "other")]
    return " AND ".join(_spdx(name) for name in names if name.lower() not in ("", "unknown"))


def _spdx(name: str) -> str:
    """The hub writes SPDX names in lower case."""
    return {"apache-2.0": "Apache-2.0"}.get(name.lower(), name.upper())
