"""Options of the verbs, read from the functions that the verbs call.

A verb is one call of a public function. The names, types, defaults and help of its options stand in
that function only: in its signature and docstring, and in those of the dataclasses of options that
it takes. They are read from the source text, not by importing, so that `--help` is quick and needs
none of the function's packages.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import functools
import importlib.util
import inspect
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

LABEL = "wav2small.teachers.labelling.run:label"

#: Types that a word of the command line is converted to, with the usual name of such a word.
_KINDS: dict[str, tuple[Callable[[str], Any], str]] = {"int": (int, "N"), "float": (float, "X")}


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of a function.

    Attributes:
        annotation: its type, as written
        default: its default; None for a required one
        required: whether it has no default
        help: the first sentence of its description
    """

    annotation: str
    default: Any
    required: bool
    help: str


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
        Namespace(source='speech/', root=None)
    """
    for name, option in read(function).items():
        if (names and name not in names) or name in skip:
            continue
        settings = {**_settings(name, option), **changes.get(name, {})}
        flags = settings.pop("flags", None) or _flags(name, option)
        if flags[0].startswith("-"):
            settings["dest"] = name
            settings["required"] = option.required and settings.get("default") is None
        parser.add_argument(*flags, **settings)


def add_teacher(parser: argparse.ArgumentParser) -> None:
    """Add what a teacher is asked for that does not say all of it itself."""
    names = ("teacher_output", "teacher_dimensions", "teacher_scale", "teacher_licence")
    named: dict[str, Any] = {name: {"metavar": "NAME"} for name in names if "scale" not in name}
    group = parser.add_argument_group("teachers that do not describe themselves")
    placement = {"flags": ["--placement"]}
    add(group, LABEL, *names, "teacher_placement", teacher_placement=placement, **named)


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
        fields = {_flat(name, field.name): field.name for field in dataclasses.fields(kind)}
        chosen = {fields[key]: options[key] for key in fields if key in options}
        if chosen:
            made[name] = kind(**chosen)
    return made


def _target(function: str | Callable[..., Any]) -> Any:
    if not isinstance(function, str):
        return function
    module, _, name = function.partition(":")
    return getattr(import_module(module), name)


def _group(function: Callable[..., Any], name: str) -> type | None:
    """The dataclass that a parameter takes."""
    annotation = str(inspect.signature(function).parameters[name].annotation).partition(" ")[0]
    kind = getattr(function, "__globals__", {}).get(annotation)
    return kind if isinstance(kind, type) and dataclasses.is_dataclass(kind) else None


def _flat(group: str, field: str) -> str:
    """The name of a group's field among all options: `teacher_options` gives `teacher_output`."""
    return group.removesuffix("options") + field if group.endswith("_options") else field


@functools.cache
def read(function: str) -> dict[str, Option]:
    """The options of a function and of its groups, by name, in the order of the signature.

    Args:
        function: "package.module:function"

    Example:
        >>> read("wav2small.index:load_source")["root"].default is None
        True
    """
    module, _, name = function.partition(":")
    source, node = _Source(module).find(name)
    return dict(_options(source, node))


def _options(source: _Source, node: ast.FunctionDef) -> Iterator[tuple[str, Option]]:
    given = [*node.args.args, *node.args.kwonlyargs]
    defaults = [None] * (len(node.args.args) - len(node.args.defaults)) + node.args.defaults
    text = _descriptions(ast.get_docstring(node))
    for argument, default in zip(given, [*defaults, *node.args.kw_defaults], strict=True):
        annotation = ast.unparse(argument.annotation) if argument.annotation else ""
        place, group = source.find(annotation.partition(" ")[0])
        if isinstance(group, ast.ClassDef) and any("dataclass" in ast.unparse(decorator) for
                                                   decorator in group.decorator_list):  # fmt: skip
            described = _descriptions(ast.get_docstring(group))
            while isinstance(default, ast.Name):  # of a group whose defaults are others
                _, default = source.find(default.id)
            changed = {item.arg: item.value for item in getattr(default, "keywords", ())}
            for field in group.body:
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                    own = field.target.id
                    name = _flat(argument.arg, own)
                    value = changed.get(own, field.value)
                    yield name, place.option(field.annotation, value, described.get(own))
        else:
            name = argument.arg
            yield name, source.option(argument.annotation, default, text.get(name))


def _descriptions(docstring: str | None) -> dict[str, str]:
    """The first sentence about each entry of the section Args or Attributes."""
    section = re.search(r"^(?:Args|Attributes):\n((?:[ ]+.*\n?|\n(?=[ ]))+)", docstring or "", re.M)
    entries = re.split(r"^    (?=\w+: )", section[1], flags=re.M) if section else []
    pairs = (entry.partition(": ") for entry in entries if entry.strip())
    return {name: _sentence(" ".join(text.split())) for name, _, text in pairs}


def _sentence(text: str) -> str:
    """The first sentence; "; None = all" at its end becomes " (default: all)"."""
    first = re.split(r"\.\s+(?=[^a-z\s])|(?<!\.)\.$", text)[0]
    return re.sub(r"[;,] (?:None = |default: )(.*)$", r" (default: \1)", first)


@functools.cache
class _Source:
    """The definitions in the source text of a module."""

    def __init__(self, module: str):
        spec = importlib.util.find_spec(module)
        assert spec is not None and spec.origin is not None, module
        self.package = module if spec.submodule_search_locations else module.rpartition(".")[0]
        self.found: dict[str, Any] = {}
        for node in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                self.found[node.name] = node
            elif isinstance(node, ast.Assign):
                for target, value in _pairs(node.targets[0], node.value):
                    self.found[ast.unparse(target)] = value
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    self.found[alias.asname or alias.name] = (node, alias.name)

    def find(self, name: str) -> tuple[_Source, Any]:
        """Where a name is defined, and its node; None = it is not ours."""
        node = self.found.get(name)
        if not isinstance(node, tuple):
            return self, node
        statement, original = node
        home = "." * statement.level + (statement.module or "")
        home = importlib.util.resolve_name(home, self.package) if statement.level else home
        return _Source(home).find(original) if home.startswith("wav2small") else (self, None)

    def value(self, node: Any) -> Any:
        """What an expression of constants is worth."""
        place: _Source = self
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):  # module.NAME
            statement, module = self.found[node.value.id]
            place, node = (
                _Source(f"{statement.module or self.package}.{module}"),
                ast.Name(node.attr),
            )
        while isinstance(node, ast.Name):
            place, node = place.find(node.id)
            assert node is not None, "a default that is no constant"
        return None if node is None else ast.literal_eval(node)

    def option(self, annotation: Any, default: Any, text: str | None) -> Option:
        written = ast.unparse(annotation) if annotation else ""
        return Option(written, self.value(default), default is None, text or "")


def _pairs(target: ast.expr, value: ast.expr) -> Iterator[tuple[ast.expr, ast.expr]]:
    """The single assignments of one: "A, B = 1, 2" is two."""
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        return zip(target.elts, value.elts, strict=True)
    return iter([(target, value)])
