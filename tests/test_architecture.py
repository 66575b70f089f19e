"""The architecture, read from the syntax trees: no circle of imports, and who may import whom."""

import ast
import configparser
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("wav2small", "teachers", "students", "export", "benchmarks")


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    name = ".".join(parts if parts[0] == "wav2small" else ("wav2small", *parts))
    return name.removesuffix(".__init__")


MODULES = {
    module_of(path): path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))
}


def imports_of(module: str) -> set[str]:
    """Every module that is imported anywhere in a file, but for types alone."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                name = f"{base}.{alias.name}"
                found.add(name if name in MODULES else base)
        waiting += ast.iter_child_nodes(node)
    return found


IMPORTS = {module: imports_of(module) for module in MODULES}


def test_no_circle_of_imports():
    # The package itself imports nothing: its public names are loaded when they are used.
    graph = {m: {t for t in IMPORTS[m] if t in MODULES and t != m} for m in MODULES}
    graph["wav2small"] = set()
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


HEAVY = {"torch", "transformers", "timm", "onnx", "safetensors", "accelerate", "matplotlib"}
OWN = {f"wav2small.{name}" for name in (*FOLDERS[1:], "training", "cli", "demo")}
#: Layer -> top-level packages and layers that it must not import.
FORBIDDEN = {
    "wav2small": HEAVY | {"librosa", "ray", "peft"} | OWN,
    "wav2small.training": {"transformers", "timm", "onnx"} | (OWN - {"wav2small.training"}),
    "wav2small.students": {"transformers", "onnx"}
    | (OWN - {"wav2small.students", "wav2small.training"}),
    "wav2small.teachers": {"onnx", "timm", "wav2small.export", "wav2small.benchmarks"}
    | {"wav2small.cli", "wav2small.demo"},
    "wav2small.export": {"transformers", "wav2small.teachers", "wav2small.benchmarks"}
    | {"wav2small.cli", "wav2small.demo"},
    "wav2small.benchmarks": {"wav2small.cli"},
    "wav2small.cli": set(),
    "wav2small.demo": set(),
}


def layer_of(module: str) -> str:
    inner = ".".join(module.split(".")[:2])
    return inner if inner in FORBIDDEN else "wav2small"


@pytest.mark.parametrize("layer", FORBIDDEN)
def test_import_table(layer):
    wrong = [
        f"{module} imports {target}"
        for module in MODULES
        if layer_of(module) == layer and module not in ("wav2small", "wav2small.__main__")
        for target in sorted(IMPORTS[module])
        for part in FORBIDDEN[layer]
        if target == part or target.startswith(part + ".")
    ]
    assert not wrong


def test_every_package_is_installed_but_the_studies():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    listed = set(settings["options"]["packages"].split())
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    assert listed == packages - {"wav2small.benchmarks.studies"}


def test_each_part_is_understood_from_at_most_four_files():
    """The table of CONTRIBUTING.md; a name without a folder lies where the one before it does."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = text.partition("| to understand | read |")[2].partition("\n\n")[0].splitlines()[2:]
    assert len(rows) >= 8
    for row in rows:
        files = re.findall(r"`([\w/]+\.(?:py|c|md))`", row)
        folder = ROOT
        for file in files:
            path = next(p for p in (ROOT / file, folder / file) if p.is_file())
            folder = path.parent
        assert 1 <= len(files) <= 4, row
