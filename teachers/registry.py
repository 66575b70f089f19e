"""Teachers by name: the built-in ones, folders, hub ids, and classes of your own."""

from __future__ import annotations

import difflib
import inspect
import os
import sys
from collections.abc import Callable, Container, Mapping
from pkgutil import resolve_name
from typing import Any, TypeVar

from wav2small import hub, models
from wav2small.errors import Wav2SmallError
from wav2small.provenance import UNKNOWN

from .base import Teacher

Factory = TypeVar("Factory", bound=Callable[..., Any])


#: Built-in teachers: parameters, counted from the published checkpoints' configurations (None:
#: depends on what it is made of), licence, and what it is.
BUILT_IN = {
    "acoustic": (None, "MIT", "prosody and spectrum, regression; embedded, no download"),
    "wavlm": (318_607_043, "MIT", "WavLM-large, attentive pooling (SER-Odyssey baseline)"),
    "wav2vec2": (165_336_707, "CC-BY-NC-SA-4.0", "wav2vec2-large-robust, 12 layers (Dawn)"),
    "ensemble": (None, "of its members", "mean of teachers, by default wavlm and wav2vec2"),
}

#: Multimodal teachers; none is published, `finetune --teacher NAME` makes one.
MADE = {
    "spectra": (None, "of its encoders", "dialogues, fused; see docs/teachers.md"),
    "calm": (None, "of its encoders", "speech and text, aligned by contrast"),
    "bridge": (None, "of its encoders", "speech and text, joined by bridge tokens"),
    "mister_e": (None, "of its encoders", "experts on speech, text and both"),
}

#: What makes each built-in teacher, and what opens a folder or a hub id.
_MAKERS = {
    "acoustic": "wav2small.teachers.acoustic.teacher:Acoustic",
    "wavlm": "wav2small.teachers.speech.wavlm:wavlm",
    "wav2vec2": "wav2small.teachers.speech.wav2vec2:wav2vec2",
    "ensemble": "wav2small.teachers.speech.ensemble:Ensemble",
}
_FOLDER = "wav2small.teachers.folder:load_folder"
_ONNX = "wav2small.teachers.folder:load_onnx"
_PLACED = "wav2small.teachers.placed:Placed"
_HUB = "wav2small.teachers.folder:load_hub"

_registered: dict[str, Callable[..., Any]] = {}


def register_teacher(name: str) -> Callable[[Factory], Factory]:
    """Make a class or function known as a teacher: `@register_teacher("mine")`.

    It is called with those of the options (`device`, `dtype`, `revision` ...) it accepts.
    """

    def register(factory: Factory) -> Factory:
        _registered[name] = factory
        return factory

    return register


def list_teachers() -> list[dict[str, Any]]:
    """Name, parameters, licence and what it is, for every teacher known by name."""
    rows = {**BUILT_IN, **MADE}
    for name, factory in _registered.items():
        what = (inspect.getdoc(factory) or "").partition("\n")[0]
        rows.setdefault(name, (None, getattr(factory, "licence", "unknown"), what))
    columns = ("name", "parameters", "licence", "what")
    return [dict(zip(columns, (name, *row), strict=True)) for name, row in rows.items()]


def load_teacher(
    spec: str | Teacher, *, licence: str | None = None, placement: bool = False, **options: Any
) -> Teacher:
    """Load a teacher.

    Args:
        spec: a name of `list_teachers()`; a folder with `config.json` and `model.safetensors`
            (a checkpoint, or what `distill` and `finetune` write); a bundle, an audonnx folder or
            an `.onnx` file; a hub id `owner/name`, optionally `owner/name@revision`;
            `package.module:Class`, a class of your own; `ensemble:SPEC=WEIGHT,SPEC=WEIGHT`; or a
            teacher, which is returned as it is
        licence: of a teacher that names none
        placement: of a teacher of categories: arousal, dominance and valence by the documented
            places of its categories
        options: `device`, `dtype`, `members`, `weights`, of ONNX models `output`, `dimensions`,
            `scale` ...; a teacher takes those it knows

    Raises:
        Wav2SmallError: no such teacher, a checkpoint that cannot be used, or a `licence` for a
            teacher that has another one
    """
    if not isinstance(spec, str):
        return spec
    teacher = _load(spec, options)
    if licence and teacher.licence not in (UNKNOWN, licence):
        raise Wav2SmallError(
            f"--teacher-licence {licence}: {spec} is {teacher.licence}; the option is for teachers "
            "that name no licence"
        )
    if licence:
        teacher.licence = licence
    return resolve_name(_PLACED)(teacher) if placement else teacher


def _load(spec: str, options: dict[str, Any]) -> Teacher:
    if spec.startswith("ensemble:"):
        members, weights = _parse_ensemble(spec.removeprefix("ensemble:"))
        return _load("ensemble", {**options, "members": members, "weights": weights})
    if spec in _registered:
        return _call(_registered[spec], options)
    if spec in _MAKERS:
        return _call(resolve_name(_MAKERS[spec]), options)
    if spec in MADE and not os.path.isdir(spec):
        raise Wav2SmallError(
            f"--teacher {spec}: no weights are published; make a teacher first: wav2small finetune "
            f"RATINGS --teacher {spec} --speech FOLDER --text FOLDER -o teacher/; then label with "
            "--teacher teacher/"
        )
    if spec in models.NAMES and not os.path.isfile(os.path.join(spec, "config.json")):
        return resolve_name(_ONNX)(os.fspath(models.locate(spec)), **options)
    if os.path.isdir(spec):
        return resolve_name(_FOLDER)(spec, **options)
    if spec.lower().endswith(".onnx") and os.path.isfile(spec):
        return resolve_name(_ONNX)(spec, **options)
    if ":" in spec and "/" not in spec.partition(":")[0]:
        return _call(_imported(spec), options)
    if hub.is_id(spec):
        return resolve_name(_HUB)(spec, **options)
    known = ", ".join([*BUILT_IN, *(name for name in _registered if name not in BUILT_IN)])
    close = difflib.get_close_matches(spec, [*BUILT_IN, *_registered], n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise Wav2SmallError(
        f"--teacher {spec}: no teacher of that name and no such folder; {hint}"
        f"known: {known}; else a folder, an .onnx file, a hub id owner/name, or "
        "package.module:Class"
    )


def _call(factory: Callable[..., Any], options: dict[str, Any]) -> Teacher:
    parameters = inspect.signature(factory).parameters
    if any(entry.kind is inspect.Parameter.VAR_KEYWORD for entry in parameters.values()):
        return factory(**options)
    check_described(getattr(factory, "__name__", "teacher"), options, parameters)
    return factory(**{name: value for name, value in options.items() if name in parameters})


def check_described(name: str, options: Mapping[str, Any], known: Container[str] = ()) -> None:
    """Reject options that are set and that only ONNX models have.

    Raises:
        Wav2SmallError: it names the option

    Example:
        >>> check_described("acoustic", {"device": "cpu", "output": None})
    """
    for option in ("output", "dimensions", "scale", "embedding"):
        if options.get(option) is not None and option not in known:
            raise Wav2SmallError(
                f"--teacher-{option}: {name} states itself what it takes and gives; the option is "
                "for ONNX models"
            )


def _imported(spec: str) -> Callable[..., Any]:
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # console scripts do not look into the current folder
    try:
        return resolve_name(spec)
    except (ImportError, AttributeError, ValueError) as error:
        raise Wav2SmallError(
            f"--teacher {spec}: {error}; give package.module:Class that Python can import"
        ) from error


def _parse_ensemble(text: str) -> tuple[list[str], list[list[float]]]:
    """`SPEC=WEIGHT,SPEC=WEIGHT` -> members, weights; a weight left out is 1.

    A weight is one number, or one each for arousal, dominance and valence, as 1/1/0.5.

    Raises:
        Wav2SmallError: a weight is no number
    """
    members, weights = [], []
    for part in text.split(","):
        spec, _, weight = part.partition("=")
        try:
            weights.append([float(number) for number in (weight or "1").split("/")])
        except ValueError as error:
            raise Wav2SmallError(f"ensemble: {part!r}: the weight is no number") from error
        members.append(spec.strip())
    if not all(members):
        raise Wav2SmallError(f"ensemble:{text}: name members as SPEC=WEIGHT,SPEC=WEIGHT")
    return members, weights
