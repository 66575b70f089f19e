"""The examples of the docstrings run."""

import doctest
import importlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def modules():
    for folder in ("wav2small", "teachers", "students", "export", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if ">>> " in path.read_text(encoding="utf-8"):
                name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                name = name.removesuffix(".__init__")
                yield name if folder == "wav2small" else f"wav2small.{name}"


@pytest.mark.parametrize("name", list(modules()))
def test_examples(name, example_folder, clip, tmp_path, monkeypatch):
    monkeypatch.chdir(shutil.copytree(example_folder, tmp_path / "examples"))
    module = importlib.import_module(name)
    found = doctest.testmod(
        module, optionflags=FLAGS, extraglobs={"np": np, "os": os, "signal": clip}
    )
    assert found.attempted and not found.failed
