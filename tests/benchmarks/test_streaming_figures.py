"""The commands behind the figures of docs/embedding.md."""

import shutil

import numpy as np
import onnx
import pytest
import soundfile
from nanos import random_nano

from wav2small.benchmarks.studies import plain_c, silence, streaming
from wav2small.errors import Wav2SmallError


@pytest.fixture(scope="module")
def student(speech):
    files = sorted(speech.glob("*.flac"))
    return random_nano([soundfile.read(file, dtype="float32")[0] for file in files])


@pytest.fixture(scope="module")
def nano(student, tmp_path_factory):
    from wav2small.export.onnx import models
    from wav2small.export.onnx import streaming as stateful

    folder = tmp_path_factory.mktemp("nano")
    onnx.save(models.build(student, "int8")[0], folder / "model.onnx")
    stateful.write_streaming(student, folder)
    return folder


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    folder = tmp_path_factory.mktemp("noise")
    hiss = np.random.default_rng(0).normal(0, 0.1, 8 * 16000)
    soundfile.write(folder / "hiss.flac", hiss, 16000)
    return folder


def test_silence(nano, speech, noise):
    found = silence.silence(nano, speech / "labels.csv", noise, clips=3)
    assert found["speech"]["frames_counted"] > 0.9 and found["speech"]["clips_never_heard"] == 0
    far, near = (found["after"][level] for level in ("60.0", "20.0"))
    assert far["counted"] < 0.1 < 0.5 < near["counted"]
    assert found["before"]["digital"]["counted"] == 0
    shut = silence.silence(nano, speech / "labels.csv", noise, clips=3, open_db=-1, close_db=-2)
    assert shut["speech"] == {
        "frames_counted": 0.0,
        "frames_counted_worst_clip": 0.0,
        "clips_never_heard": 3,
    }


def test_silence_without_noise(nano, speech, tmp_path):
    with pytest.raises(Wav2SmallError, match="no audio"):
        silence.silence(nano, speech / "labels.csv", tmp_path)


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_cost_and_delay(nano, speech, monkeypatch):
    monkeypatch.setattr(streaming, "SECONDS", 4.0)
    monkeypatch.setattr(streaming, "ROUNDS", 1)
    found = streaming.streaming(nano, speech / "labels.csv")
    assert found["seconds"] == 4.0 and found["block_ms"] == 10
    assert 0 < found["c"] and 0 < found["python"]
    assert 15.5 <= found["delay_ms"] <= 16.0  # a hop of 256 samples


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_plain_c_on_other_clips(student, labels, speech, tmp_path):
    student.save_pretrained(tmp_path)
    found = plain_c.compare(str(tmp_path), str(labels), str(speech / "labels.csv"))
    assert found["clips"] == 24 and set(found["ccc"]) == {"torch", "onnx", "c"}
    for dimension, largest in found["difference_from_torch"]["max"].items():
        assert 0 < largest < 0.005
        assert found["ccc"]["onnx"][dimension] - found["ccc"]["c"][dimension] < 0.01
