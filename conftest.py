"""Examples in docstrings run in a folder with a clip, ratings of it and a bundle."""

from __future__ import annotations

import doctest
import shutil
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def example_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`speech.wav` (2 s), `ratings.csv`, and `bundle/`: the mean square of the signal x 1, 2, 3."""
    import onnx
    import soundfile
    from onnx import TensorProto, helper

    folder = tmp_path_factory.mktemp("examples")
    tone = 0.5 * np.sqrt(2) * np.sin(np.arange(32000) * 2 * np.pi * 200 / 16000)
    soundfile.write(folder / "speech.wav", tone, 16000, subtype="FLOAT")
    (folder / "ratings.csv").write_text("file,arousal,dominance,valence\nspeech.wav,0.2,0.4,0.8\n")
    nodes = [
        helper.make_node("Mul", ["signal", "signal"], ["square"]),
        helper.make_node("ReduceMean", ["square"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Mul", ["mean", "scale"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "example",
        [helper.make_tensor_value_info("signal", TensorProto.FLOAT, [1, None])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3])],
        [onnx.numpy_helper.from_array(np.array([[1, 2, 3]], np.float32), "scale")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    (folder / "bundle").mkdir()
    onnx.save(model, folder / "bundle" / "model.onnx")
    return folder


@pytest.fixture(autouse=True)
def _in_example_folder(request: pytest.FixtureRequest) -> None:
    if isinstance(getattr(request.node, "dtest", None), doctest.DocTest):
        copy = request.getfixturevalue("tmp_path") / "examples"
        shutil.copytree(request.getfixturevalue("example_folder"), copy)
        request.getfixturevalue("monkeypatch").chdir(copy)
