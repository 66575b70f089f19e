"""Students by name: create one, load one from a folder, list them all."""

from __future__ import annotations

import difflib
import inspect
import os
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, TypeVar

import wav2small
from wav2small import files
from wav2small import provenance as provenances
from wav2small.errors import Wav2SmallError

if TYPE_CHECKING:
    from .base import Student

S = TypeVar("S", bound="type[Student]")

CONFIG, WEIGHTS = "config.json", "model.safetensors"  # of a student's folder

#: Built-in students and the module that registers them when first asked for.
_MODULES = {
    "wav2small": "wav2small.students.wav2small",
    "wav2small2": "wav2small.students.wav2small2",
    "mobilenetv3_small": "wav2small.students.mobilenet",
    "mobilenetv3_large": "wav2small.students.mobilenet",
    "mobilenetv4_conv_small": "wav2small.students.mobilenet",
    "mobilenetv4_conv_medium": "wav2small.students.mobilenet",
    "nano": "wav2small.students.nano",
}

_STUDENTS: dict[str, type[Student]] = {}
_DESCRIPTIONS: dict[str, str] = {}

#: config.json of a published 16K checkpoint has these keys and no `student`.
_PUBLISHED_KEYS = frozenset({"half_mel", "n_fft", "n_time", "hidden", "hop"})


def register_student(name: str, *, description: str = "") -> Callable[[S], S]:
    """Class decorator that makes a student known by name.

    Args:
        name: what `distil --student` takes and config.json holds
        description: one line: what it is for
    """

    def register(cls: S) -> S:
        cls.name = name
        cls.from_pretrained = classmethod(_from_pretrained)  # type: ignore[method-assign,assignment]
        _STUDENTS[name] = cls
        _DESCRIPTIONS[name] = description
        return cls

    return register


def _from_pretrained(cls: type[Student], folder: str | os.PathLike[str]) -> Student:
    student = load(folder)
    if not isinstance(student, cls):
        raise Wav2SmallError(f"{folder} holds a {student.name}, not a {cls.name}")
    return student


def names() -> list[str]:
    """Names of all students, the built-in ones first."""
    return list(dict.fromkeys([*_MODULES, *_STUDENTS]))


def create(name: str, **config: Any) -> Student:
    """A new student with random weights.

    Args:
        name: one of `names()`
        config: options of its constructor, as in config.json

    Raises:
        Wav2SmallError: unknown name or option; the nearest one is named

    Example:
        >>> create("wav2small2", categories=["joy", "anger"]).category
        Linear(in_features=..., out_features=2, bias=True)
    """
    cls = _class(name)
    own = inspect.signature(cls).parameters.values()
    options = [p.name for p in own if p.kind is p.KEYWORD_ONLY] + ["categories", "dimensions"]
    for key in config:
        if key not in options:
            raise Wav2SmallError(f"student {name} has no option {key!r}{_nearest(key, options)}")
    return cls(**config)


def load(folder: str | os.PathLike[str]) -> Student:
    """A trained student from its folder, in evaluation mode.

    Args:
        folder: with config.json and model.safetensors; a run, or a published 16K checkpoint

    Raises:
        Wav2SmallError: no such folder or file, broken JSON or safetensors, unknown student,
            written by a newer version, tensors missing, left over or of another shape
    """
    from wav2small.training import weights

    folder = Path(folder)
    config = read_config(folder)
    student = create(config.pop("student"), **config)
    path = _file(folder, WEIGHTS)
    student.load_weights(weights.read(path), path)
    return student.eval()


def read_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """config.json as `student` and the options of `create`; a published layout is translated.

    Raises:
        Wav2SmallError: as `load`
    """
    path = Path(folder) / CONFIG
    config = _read_config(Path(folder))
    if "student" not in config:
        if not config.keys() >= _PUBLISHED_KEYS:
            raise Wav2SmallError(f"{path}: no `student` in it; is this a student's folder?")
        return resolve_name("wav2small.students.wav2small2:published_config")(config, path)
    version = str(config.pop("wav2small_version", "0"))
    if _version(version) > _version(wav2small.__version__):
        raise Wav2SmallError(
            f"{path}: written by wav2small {version}, this is {wav2small.__version__}; "
            "pip install -U wav2small"
        )
    return _class(str(config["student"])).former_options | config


def provenance(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Provenance of a student's folder: its provenance.json, else what the layout implies.

    Raises:
        Wav2SmallError: broken provenance.json or config.json
    """
    path = Path(folder) / "provenance.json"
    if path.is_file():
        return files.read_json(path)
    if "student" not in _read_config(Path(folder)):
        published = resolve_name("wav2small.students.wav2small2:PUBLISHED_PROVENANCE")
        return provenances.new(**published)
    return provenances.new(
        teachers=[{"name": "unknown", "id": str(folder), "revision": "", "licence": "unknown"}]
    )


def list_students() -> list[dict[str, Any]]:
    """One row per student.

    Returns:
        rows with `name`, `parameters` (trainable), `constants` (DFT, mel: stored, not trained),
        `macs_per_second` (multiply-accumulates per second of audio, counted on 5 s),
        `macs_frontend` (the part of it before the first trained layer), `licence`, `description`
    """
    count = resolve_name("wav2small.students.costs:count")
    rows = []
    for name in names():
        cls = _class(name)
        row = {"name": name, **count(create(name).eval())._asdict()}
        row |= {"licence": getattr(cls, "licence", "MIT"), "description": _DESCRIPTIONS[name]}
        rows.append(row)
    return rows


def _read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise Wav2SmallError(f"{folder}: no such folder; give a run or a folder with {CONFIG}")
    return files.read_json(_file(folder, CONFIG))


def _file(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise Wav2SmallError(
            f"{path}: no such file; a student's folder holds {CONFIG} and {WEIGHTS}"
        )
    return path


def _class(name: str) -> type[Student]:
    if name not in _STUDENTS and name in _MODULES:
        import_module(_MODULES[name])
    if name not in _STUDENTS:
        raise Wav2SmallError(f"no student {name!r}{_nearest(name, names())}")
    return _STUDENTS[name]


def _nearest(word: str, choices: list[str]) -> str:
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.4)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(choices)}"


def _version(text: str) -> tuple[int, ...]:
    """The numbers at its beginning: "0.2.1rc1" -> (0, 2, 1)."""
    return tuple(int(part) for part in re.split(r"[^\d.]", text)[0].split(".") if part)
