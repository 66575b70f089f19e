"""Pickles become safetensors, and nothing else opens one; shards; licences that files carry."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_teachers_neural import DAWN, SER, signals, write

from wav2small.cli.main import main
from wav2small.errors import Wav2SmallError
from wav2small.files import sha256
from wav2small.teachers import load_teacher
from wav2small.teachers.speech import backbones, checkpoint, pretrained, wav2vec2
from wav2small.teachers.speech.convert import convert


@pytest.fixture
def folder(tmp_path):
    """A teacher whose weights are published as a pickle, and the safetensors."""
    path = write(tmp_path / "teacher", SER)
    (path / "README.md").write_text("---\nlicense: mit\n---\n")
    weights = load_file(path / "model.safetensors")
    (path / "model.safetensors").rename(tmp_path / "original.safetensors")
    torch.save(weights, path / "pytorch_model.bin")
    return path


def shards(path, *, ending):
    """Split weights in two, as transformers does."""
    full = path / "pytorch_model.bin"
    weights = torch.load(full, weights_only=True)
    stem = "pytorch_model" if ending == "bin" else "model"
    where = {}
    for part, keys in enumerate((sorted(weights)[::2], sorted(weights)[1::2]), start=1):
        name = f"{stem}-0000{part}-of-00002.{ending}"
        own = {key: weights[key] for key in keys}
        torch.save(own, path / name) if ending == "bin" else save_file(own, path / name)
        where |= dict.fromkeys(keys, name)
    index = {"metadata": {}, "weight_map": where}
    (path / f"{stem}.{ending}.index.json").write_text(json.dumps(index))
    full.unlink()


def labels(path):
    return load_teacher(str(path), device="cpu").predict(*signals())


def expected(folder):
    full = shutil.copytree(folder, folder.parent / "full")
    shutil.copyfile(folder.parent / "original.safetensors", full / "model.safetensors")
    return labels(full)


def test_a_pickle_is_rejected_with_the_line_that_converts_it(folder, capsys):
    wanted = expected(folder)
    with pytest.raises(Wav2SmallError, match=f"--teacher {folder} again: wav2small convert"):
        load_teacher(str(folder))
    with pytest.raises(Wav2SmallError, match=f"--backbone {folder} again: wav2small convert"):
        pretrained.load(str(folder))
    assert main(["convert", str(folder)]) == 0
    np.testing.assert_array_equal(labels(folder), wanted)
    record = json.loads((folder / "conversion.json").read_text())
    assert record["from"]["pytorch_model.bin"] == sha256(folder / "pytorch_model.bin")
    assert record["to"]["model.safetensors"] == sha256(folder / "model.safetensors")
    assert main(["convert", str(folder)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["convert", str(folder), "--overwrite"]) == 0


def test_shards_of_both_kinds(folder, tmp_path):
    wanted = expected(folder)
    safe = shutil.copytree(folder, tmp_path / "safe")
    shards(safe, ending="safetensors")
    np.testing.assert_array_equal(labels(safe), wanted)
    shards(folder, ending="bin")
    result = convert(folder, tmp_path / "out")
    assert list(result.files) == [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    np.testing.assert_array_equal(labels(tmp_path / "out"), wanted)
    assert load_teacher(str(tmp_path / "out"), device="cpu").licence == "MIT"
    (tmp_path / "out/model-00002-of-00002.safetensors").unlink()
    with pytest.raises(Wav2SmallError, match="no model-00002-of-00002.safetensors"):
        load_teacher(str(tmp_path / "out"))


class Harmful:
    """Runs code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_with_code_is_not_run(folder, tmp_path):
    torch.save({"weight": torch.ones(2), "harm": Harmful(tmp_path / "ran")}, folder / "a.bin")
    (folder / "a.bin").replace(folder / "pytorch_model.bin")
    with pytest.raises(Wav2SmallError, match="holds more than tensors"):
        convert(folder)
    assert not (tmp_path / "ran").exists()
    assert not (folder / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged"),
        (b"PK\x03\x04 cut", "damaged"),
        (b"hello world" * 9, "damaged"),  # asks the reader for what it has not
        ({}, "no tensor in it"),
        ([torch.ones(2)], "no state dict but a list"),
    ],
)
def test_what_cannot_be_converted(content, message, folder):
    path = folder / "pytorch_model.bin"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(Wav2SmallError, match=message) as caught:
        convert(folder)
    assert "\n" not in str(caught.value)


def test_a_training_checkpoint_is_unwrapped(folder):
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    wrapped = {"state_dict": {**weights, "step": 3}, "epoch": 1}
    torch.save(wrapped, folder / "pytorch_model.bin")
    assert convert(folder).left_out == ["step"]
    assert labels(folder).shape == (4, 3)


def test_from_the_hub(folder, tmp_path, monkeypatch):
    import huggingface_hub

    snapshot = folder.parent / ("0" * 40)
    folder.rename(snapshot)
    (snapshot / "README.md").unlink()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(snapshot))
    name = "audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim"
    with pytest.raises(Wav2SmallError, match=f"wav2small convert {name} -o FOLDER"):
        load_teacher(name)
    with pytest.raises(Wav2SmallError, match="-o FOLDER"):
        convert(name)
    convert(name, tmp_path / "mine")
    assert load_teacher(str(tmp_path / "mine"), device="cpu").licence == "CC-BY-NC-SA-4.0"
    with pytest.raises(Wav2SmallError, match="no such folder"):
        convert("nowhere", tmp_path / "other")


def test_published_weights_keep_their_licence_without_a_card(tmp_path, monkeypatch):
    config = backbones.WAVLM_LARGE | {"model_type": "wav2vec2", "num_hidden_layers": 12}
    config |= {"conv_bias": True, "id2label": DAWN["id2label"]}
    with torch.device("meta"):
        state = wav2vec2.Wav2vec2Network(config).state_dict()
    sizes = {checkpoint.published(key): value.numel() for key, value in state.items()}
    published = checkpoint.fingerprint({**sizes, "wav2vec2.masked_spec_embed": 1024})
    assert checkpoint.FINGERPRINTS[published] == "CC-BY-NC-SA-4.0"
    folder = write(tmp_path / "small", DAWN)
    assert load_teacher(str(folder), device="cpu").licence == "unknown"
    own = {key: v.numel() for key, v in load_file(folder / "model.safetensors").items()}
    monkeypatch.setitem(checkpoint.FINGERPRINTS, checkpoint.fingerprint(own), "CC-BY-NC-SA-4.0")
    assert load_teacher(str(folder), device="cpu").licence == "CC-BY-NC-SA-4.0"
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    assert load_teacher(str(folder), device="cpu").licence == "MIT"


@pytest.mark.parametrize(("floor", "fits"), [(1e-10, True), (1e-5, False)])
def test_the_published_student_comes_with_its_floor(floor, fits):
    from wav2small.students import registry

    student = registry.create("wav2small2")
    state = {**student.state_dict(), "vgg7.logmel_extractor.amin": torch.tensor([floor])}
    if fits:
        student.load_weights(state, "model.safetensors")
    else:
        with pytest.raises(Wav2SmallError, match="amin is .*must be 1e-10"):
            student.load_weights(state, "model.safetensors")
