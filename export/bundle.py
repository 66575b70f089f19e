"""The bundle folder: written completely or not at all, with a manifest of its files' hashes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wav2small import files
from wav2small.errors import Wav2SmallError

MODEL = "model.onnx"
RECORD = "verification.json"
PROVENANCE = "provenance.json"
CARD = "README.md"
AUDONNX = "model.yaml"
BUILD = "c/build/"  # what `make c` compiles in the bundle

#: The version of audonnx whose format model.yaml has; newer ones read it.
AUDONNX_VERSION = "1.0.0"


@contextlib.contextmanager
def replace_folder(output: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder that becomes `output` when the block ends well.

    A former bundle stays where it is until the new one is complete, and survives a failure.

    Raises:
        Wav2SmallError: `output` exists and `overwrite` is not set, or it exists and is no
            bundle, or its place cannot be written

    Example:
        >>> folder = Path(tempfile.mkdtemp()) / "bundle"
        >>> with replace_folder(folder) as temporary:
        ...     _ = (temporary / MODEL).write_bytes(b"onnx")
        >>> [path.name for path in folder.iterdir()]
        ['model.onnx']
    """
    output = Path(output)
    if output.exists() or output.is_symlink():
        if not output.is_dir():
            raise Wav2SmallError(f"{output}: a file; choose another -o for the bundle folder")
        empty = not any(output.iterdir())
        if not empty and not overwrite:
            raise Wav2SmallError(f"{output}: exists; choose another -o, or add --overwrite")
        if not empty and not (output / MODEL).exists():
            raise Wav2SmallError(
                f"{output}: holds files but no {MODEL}; --overwrite replaces bundles only, "
                "choose another -o"
            )
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    except OSError as error:
        raise Wav2SmallError(
            f"cannot write {output}: {error.strerror}; choose another -o"
        ) from error
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        if output.exists():
            former = temporary.with_name(temporary.name + ".old")
            os.replace(output, former)
            os.replace(temporary, output)
            shutil.rmtree(former)
        else:
            os.replace(temporary, output)
    except OSError as error:
        raise Wav2SmallError(
            f"cannot write {output}: {error.strerror or error}; choose another -o"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON values readably, the same bytes for the same content."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n")


def audonnx_yaml(categories: list[str], *, dimensions: bool = True) -> str:
    """Text of model.yaml, with which audonnx loads the bundle.

    Args:
        categories: names of the second head; empty = there is none
        dimensions: the first head is there

    Example:
        >>> print(audonnx_yaml([]))
        $audonnx.core.model.Model==1.0.0:
          path: model.onnx
          labels:
            logits: [arousal, dominance, valence]
          transform: null
        <BLANKLINE>
    """
    labels = "    logits: [arousal, dominance, valence]\n" if dimensions else ""
    if categories:
        labels += f"    categories: {json.dumps(categories)}\n"
    head = f"$audonnx.core.model.Model=={AUDONNX_VERSION}:\n  path: {MODEL}\n  labels:\n"
    return f"{head}{labels}  transform: null\n"


def seal(folder: Path, record: Mapping[str, Any]) -> None:
    """Write the record with the hashes of all files of the bundle, and its own."""
    manifest = {
        path.relative_to(folder).as_posix(): files.sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != RECORD
    }
    content = {**record, "files": manifest}
    write_json(folder / RECORD, {**content, "sha256": digest(content)})


def read_record(folder: Path) -> dict[str, Any]:
    """verification.json of a bundle.

    Raises:
        Wav2SmallError: not there, not JSON, or changed after it was written
    """
    path = folder / RECORD
    if not folder.is_dir():
        raise Wav2SmallError(f"{folder}: no such bundle; name the folder `wav2small export` wrote")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        claimed = record.pop("sha256")
    except FileNotFoundError as error:
        raise Wav2SmallError(
            f"{path}: no such file, so nothing proves this bundle; export it again"
        ) from error
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise Wav2SmallError(f"{path}: damaged ({error}); export the bundle again") from error
    if digest(record) != claimed:
        raise Wav2SmallError(f"{path}: changed after the export; export the bundle again")
    return record


def check_files(folder: Path, record: Mapping[str, Any]) -> None:
    """Compare every file with its hash.

    Raises:
        Wav2SmallError: a file is missing or changed; all such files are named
    """
    wrong = []
    for name, expected in record.get("files", {}).items():
        if not (folder / name).is_file():
            wrong.append(f"{name} is missing")
        elif files.sha256(folder / name) != expected:
            wrong.append(f"{name} was changed")
    if wrong:
        raise Wav2SmallError(
            f"{folder}: {', '.join(wrong)} after the export; restore the files, or export again"
        )


def extra_files(folder: Path, record: Mapping[str, Any]) -> list[str]:
    """Names of the files in a bundle that neither the export nor its `make c` wrote."""
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    added = names - {*record["files"], RECORD}
    return sorted(name for name in added if not name.startswith(BUILD))


def digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of JSON values, independent of spacing and order.

    Example:
        >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
        True
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
