"""The examples of the docstrings run."""

import doctest
import importlib
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).parents[1]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def modules():
    for folder in ("wav2small", "teachers", "students", "export", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if ">>> " in path.read_text(encoding="utf-8"):
                name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                name = name.removesuffix(".__init__")
                yield name if folder == "wav2small" else f"wav2small.{name}"


@pytest.fixture(scope="module")
def folder(bundle, clip, tmp_path_factory):
    """Where examples run: `bundle/` and `speech.wav` are there."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "bundle").symlink_to(bundle)
    soundfile.write(folder / "speech.wav", clip, 16000)
    return folder


@pytest.mark.parametrize("name", list(modules()))
def test_examples(name, folder, clip, monkeypatch):
    monkeypatch.chdir(folder)
    module = importlib.import_module(name)
    found = doctest.testmod(
        module, optionflags=FLAGS, extraglobs={"np": np, "os": os, "signal": clip}
    )
    assert found.attempted and not found.failed
