"""Options of a function, read from its source text.

Names, types, defaults and descriptions are in its signature and docstring, and in those of the
dataclasses of options that it takes. Nothing is imported: `--help` does not wait for torch.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any


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


def flat(group: str, field: str) -> str:
    """The name of a group's field among all options: `teacher_options` gives `teacher_output`."""
    return group.removesuffix("options") + field if group.endswith("_options") else field


def _options(source: _Source, node: ast.FunctionDef) -> Iterator[tuple[str, Option]]:
    given = [*node.args.args, *node.args.kwonlyargs]
    defaults = [None] * (len(node.args.args) - len(node.args.defaults)) + node.args.defaults
    text = _descriptions(ast.get_docstring(node))
    for argument, default in zip(given, [*defaults, *node.args.kw_defaults], strict=True):
        annotation = ast.unparse(argument.annotation) if argument.annotation else ""
        place, group = source.find(annotation.partition(" ")[0])
        decorators = map(ast.unparse, getattr(group, "decorator_list", ()))
        if isinstance(group, ast.ClassDef) and any("dataclass" in name for name in decorators):
            described = _descriptions(ast.get_docstring(group))
            while isinstance(default, ast.Name):  # of a group whose defaults are others
                _, default = source.find(default.id)
            changed = {item.arg: item.value for item in getattr(default, "keywords", ())}
            for field in group.body:
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                    own = field.target.id
                    value = changed.get(own, field.value)
                    option = place.option(field.annotation, value, described.get(own))
                    yield flat(argument.arg, own), option
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
            place = _Source(f"{statement.module or self.package}.{module}")
            node = ast.Name(node.attr)
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
