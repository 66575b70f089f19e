"""Options of the verbs: from a function to arguments of a parser, and back to a call of it.

A verb is one call of a public function, and each option is described once: in that function and in
the dataclasses of options that it takes (see `signatures`).
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
from collections.abc import Callable
from pkgutil import resolve_name
from typing import Any

from wav2small.cli import signatures
from wav2small.cli.signatures import Option, flat

LABEL = "wav2small.teachers.labelling.run:label"
#: Options of a teacher whose files do not describe it.
UNDESCRIBED = tuple("teacher_output teacher_dimensions teacher_scale teacher_embedding "
                    "teacher_licence teacher_placement".split())  # fmt: skip

#: Types that a word of the command line is converted to, with the usual name of such a word.
_KINDS: dict[str, tuple[Callable[[str], Any], str]] = {"int": (int, "N"), "float": (float, "X")}

#: What stands for a value in `--help`, where neither its type nor its name tells.
_METAVARS = {
    name: shown
    for shown, names in {
        "COLUMN": "by categories",
        "D": "tolerance",
        "FILE": "baseline clip config",
        "FOLDER": "mixture noise onnxruntime_web pretrained rooms root",
        "FOLDER|HUB_ID": "asr backbone speech text",
        "GROUP:TEST": "only require",
        "NAME": "audio_licence device mixture_licence noise_licence rooms_licence split",
        "NAME|FILE|FOLDER|HUB_ID": "encoder",
        "NAME|FOLDER|HUB_ID": "teacher",
        "ONNX": "against",
        "S": "durations hop memory window",
        "SHARE|COLUMN=VALUE": "validation",
        "SOURCE": "calibration",
        "TABLE": "truth",
        "TEACHER": "online",
        "TEXT": "message",
        "TYPE": "dtype",
        "UNIT": "time_unit",
    }.items()
    for name in names.split()
}


def add(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup,
    function: str,
    *names: str,
    skip: tuple[str, ...] = (),
    **changes: dict[str, Any],
) -> None:
    """Add the options of a function to a parser.

    Args:
        parser: gets an argument for each option, in the order of the signature
        function: "package.module:function"
        names: only these options; all by default
        skip: all but these
        changes: option -> what `add_argument` gets instead of what follows from the signature;
            `flags` replaces its names, such as ["-o", "--output"]

    Example:
        >>> parser = argparse.ArgumentParser()
        >>> add(parser, "wav2small.index:load_source", root={"metavar": "FOLDER"})
        >>> parser.parse_args(["speech/"])
        Namespace(source='speech/', root=None, time_unit='s', raters=False, reject_rows=False)
    """
    for name, option in signatures.read(function).items():
        if (names and name not in names) or name in skip:
            continue
        settings = {**_settings(name, option), **changes.get(name, {})}
        flags = settings.pop("flags", None) or _flags(name, option)
        if flags[0].startswith("-"):
            settings["dest"] = name
            settings["required"] = option.required and settings.get("default") is None
        parser.add_argument(*flags, **settings)


def add_teacher(parser: argparse.ArgumentParser) -> None:
    """Add what a teacher's own files leave open."""
    group = parser.add_argument_group("teachers that do not describe themselves")
    changes: dict[str, Any] = {name: {"metavar": "NAME"} for name in UNDESCRIBED}
    changes |= {"teacher_scale": {}, "teacher_placement": {"flags": ["--placement"]}}
    add(group, LABEL, *UNDESCRIBED, **changes)


def add_gate(parser: argparse.ArgumentParser) -> None:
    """Add the choice of what moves the estimate of a stream; `--no-gate` is everything."""
    parser.add_argument(
        "--gate",
        choices=["voice", "energy"],
        default=True,
        help="what moves the estimate of a stream: speech, or all but silence (default: voice "
        "where the model detects speech, such as nano)",
    )


def _flags(name: str, option: Option) -> list[str]:
    shown = name.removesuffix("_s").replace("_", "-")
    if name == "output":
        return ["-o", "--output"]
    if option.required:
        return [name]
    return [f"--no-{shown}" if option.default is True else f"--{shown}"]


def _settings(name: str, option: Option) -> dict[str, Any]:
    text = option.help.replace("%", "%%")
    if option.annotation.startswith("bool"):
        action = "store_false" if option.default is True else "store_true"
        return {"action": action, "default": option.default, "help": text}
    kind, metavar = _KINDS.get(_word(option.annotation), (str, None))
    settings: dict[str, Any] = {"type": kind}
    if not option.required:
        metavar = _METAVARS.get(name, metavar)
    if metavar:
        settings["metavar"] = "S" if name.endswith("_s") else metavar
    if option.annotation.startswith("tuple"):
        settings |= {"nargs": 2, "metavar": ("LOW", "HIGH")}
    elif "Sequence[" in option.annotation:
        settings["nargs"] = "+"
    if not option.required:
        settings["default"] = option.default
        if option.default not in (None, "", ()) and "default: " not in text:
            several = isinstance(option.default, tuple)
            shown = " ".join(map(str, option.default)) if several else "%(default)s"
            text += f" (default: {shown})"
    return {**settings, "help": text}


def _word(annotation: str) -> str:
    """The type of a value, or of the values of a sequence: "Sequence[float] | None" -> "float"."""
    return re.sub(r"^(Sequence|tuple)\[|[\],].*", "", annotation).partition(" |")[0]


def call(function: str | Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call a function with options by name, also those that it takes in groups.

    Args:
        function: "package.module:function" or the function; it may take some options in dataclasses
        arguments: passed on
        options: of the function and of its groups; those of neither are passed over

    Example:
        >>> call("wav2small:label", "speech.wav", "labels.parquet", workers=0, window_s=3.0).rows
        1
    """
    target = _target(function)
    parameters = inspect.signature(target).parameters
    options |= grouped(target, *parameters, **options)
    return target(*arguments, **{key: options[key] for key in options if key in parameters})


def grouped(function: str | Callable[..., Any], *names: str, **options: Any) -> dict[str, Any]:
    """The groups of options that a function takes, made of their fields.

    Args:
        function: "package.module:function" or the function
        names: of the parameters that take groups
        options: by name; those of other groups are passed over

    Example:
        >>> grouped("wav2small:label", "clips", window_s=3.0)["clips"].window_s
        3.0
    """
    target = _target(function)
    made = {}
    for name in names:
        kind = _group(target, name)
        if kind is None or isinstance(options.get(name), kind):
            continue
        fields = [field.name for field in dataclasses.fields(kind)]
        chosen = {own: options[key] for own in fields if (key := flat(name, own)) in options}
        if chosen:
            made[name] = kind(**chosen)
    return made


def _target(function: str | Callable[..., Any]) -> Any:
    return resolve_name(function) if isinstance(function, str) else function


def _group(function: Callable[..., Any], name: str) -> type | None:
    """The dataclass that a parameter takes."""
    annotation = str(inspect.signature(function).parameters[name].annotation).partition(" ")[0]
    kind = getattr(function, "__globals__", {}).get(annotation)
    return kind if isinstance(kind, type) and dataclasses.is_dataclass(kind) else None
