"""The head for voice activity: learned on a frozen nano, the same in torch, files and streams."""

import functools
import json
import shutil

import numpy as np
import pytest
import soundfile
import torch
from nanos import random_nano

import wav2small
from wav2small import Stream, load, noises
from wav2small.errors import Wav2SmallError
from wav2small.export.onnx import models, streaming
from wav2small.prediction import predict
from wav2small.session import open_session
from wav2small.students import distillation, registry, voice_activity
from wav2small.students.nano import SPOKEN

SURE = float(np.log(SPOKEN / (1 - SPOKEN)))


@pytest.fixture(scope="module")
def signals(speech):
    """Clips with a pause."""
    clips = [soundfile.read(f, dtype="float32")[0] for f in sorted(speech.glob("*.flac"))[:8]]
    pause = 1e-4 * np.random.default_rng(0).standard_normal(9000).astype(np.float32)
    return [np.concatenate((clip[:16000], pause, clip[16000:])) for clip in clips]


@pytest.fixture(scope="module")
def nano(signals):
    """A head that finds some frames of each of these signals."""
    return random_nano(signals, voice=True)


def write(student, folder, precision="int8"):
    folder.mkdir(exist_ok=True)
    model = models.build(student, precision)[0]
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    streaming.write_streaming(student, folder, precision=precision)
    return folder


@pytest.fixture(scope="module")
def bundle(nano, tmp_path_factory):
    return write(nano, tmp_path_factory.mktemp("voice"))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_estimates_are_the_same_without_the_head(nano, signals, precision, tmp_path):
    bare = registry.create("nano").eval()
    bare.load_state_dict({k: v for k, v in nano.state_dict().items() if "voice" not in k})
    folders = [write(bare, tmp_path / "bare", precision), write(nano, tmp_path / "n", precision)]
    for x in signals:
        one, other = (load(folder).predict(x) for folder in folders)
        np.testing.assert_array_equal(one, other)
        streams = [Stream(folder, gate="energy").push(x)[-1] for folder in folders]
        assert streams[0].overall == streams[1].overall and streams[0].speech is None


def test_files_agree_with_torch(nano, signals, bundle):
    session = open_session(bundle / "model.onnx")
    for x in signals:
        with torch.no_grad():
            frames = nano.frames(torch.tensor(x)[None])
            logits = nano.voice(frames)[0].numpy()
            spoken = torch.tensor(logits >= SURE).float()
            gate, value = torch.sigmoid(nano.gate(frames)), torch.relu(nano.value(frames))
            pooled = (gate * value * spoken).sum(2) / ((gate * spoken).sum(2) + 1 / 256)
            expected = nano.head(pooled)[0].numpy()
        share, estimate = session.run(["speech", "speech_logits"], {"signal": x[None]})
        assert abs(share[0, 0] - (logits >= 0).mean()) < 0.03
        np.testing.assert_allclose(estimate[0], expected, atol=0.01)
        stream = Stream(bundle)
        assert stream.gate == "voice"
        parts = [e for block in np.array_split(x, 7) for e in stream.push(block)]
        shown = np.array([e.speech for e in parts])
        reference = 1 / (1 + np.exp(-logits[-len(shown) :]))
        np.testing.assert_allclose(shown, reference, atol=0.02)
        np.testing.assert_allclose(parts[-1].overall, estimate[0], atol=1e-4)
        assert stream.heard == pytest.approx((logits >= SURE).sum() * 0.016, abs=0.05)


def test_gates(nano, bundle, signals, tmp_path):
    for gate, shown in ((True, "voice"), ("energy", "energy"), (None, None), (False, None)):
        assert Stream(bundle, gate=gate).gate == shown
    with pytest.raises(Wav2SmallError, match="voice, energy or None"):
        Stream(bundle, gate="loud")
    bare = registry.create("nano").eval()
    folder = write(bare, tmp_path / "bare")
    assert Stream(folder).gate == "energy"
    with pytest.raises(Wav2SmallError, match="no head for voice activity"):
        Stream(folder, gate="voice")
    with torch.no_grad():
        nano.voice.out.bias -= 100
    try:
        deaf = write(nano, tmp_path / "deaf")
    finally:
        with torch.no_grad():
            nano.voice.out.bias += 100
    assert np.isnan(load(deaf).predict_details(signals[0], speech_only=True)[0]).all()
    stream = Stream(deaf)
    assert stream.push(signals[0]) == [] and stream.heard == 0
    # What does not know the head leaves `threshold` out.
    session = open_session(deaf / "streaming.onnx")
    assert "threshold" not in {node.name for node in session.get_inputs()}


def test_predict_gives_the_share_of_speech(bundle, signals, tmp_path):
    file = tmp_path / "clip.wav"
    soundfile.write(file, signals[0], 16000, subtype="FLOAT")
    result = predict(bundle, file)
    share = result.to_frame().speech[0]
    assert share == load(bundle).predict_details(signals[0])[2] and 0 < share < 1
    only = predict(bundle, file, speech_only=True)
    assert only.rows[0][3:6] != result.rows[0][3:6] and only.rows[0][6] == share
    write(registry.create("nano").eval(), tmp_path / "bare")
    assert "speech" not in predict(tmp_path / "bare", file).to_frame()
    with pytest.raises(Wav2SmallError, match="does not detect speech"):
        predict(tmp_path / "bare", file, speech_only=True)


def test_add_voice(labels, signals, tmp_path):
    pytest.importorskip("silero_vad")
    run = tmp_path / "run"
    random_nano(signals).save_pretrained(run)
    before = registry.load(run)
    options = voice_activity.VoiceOptions(scenes=6, epochs=2, batch_size=3, seconds=4.0, judged=3)
    result = voice_activity.add_voice(run, labels, options=options)
    after = registry.load(run)
    assert after.voice is not None and set(result.auc) == {20.0, 5.0}
    for name, tensor in before.state_dict().items():
        assert torch.equal(tensor, after.state_dict()[name]), name
    record = json.loads((run / "provenance.json").read_text())
    assert record["student"]["voice"] and record["voice"]["detector"]["licence"] == "MIT"
    again = tmp_path / "again"
    shutil.copytree(run, again)
    voice_activity.add_voice(again, labels, options=options)
    repeated = registry.load(again).state_dict()
    assert all(torch.equal(tensor, repeated[k]) for k, tensor in after.state_dict().items())


def test_from_labels_to_a_bundle(labels, signals, tmp_path, monkeypatch):
    """`distill --voice`, again on the run that is done, and `export` with all forms."""
    pytest.importorskip("silero_vad")
    options = voice_activity.VoiceOptions(scenes=4, epochs=2, batch_size=2, seconds=3.0, judged=2)
    small = functools.partial(voice_activity.add_voice, options=options)
    monkeypatch.setattr(distillation, "add_voice", small)
    run = tmp_path / "run"
    settings = {"student": "nano", "epochs": 1, "batch_size": 8}
    first = wav2small.distill(labels, run, voice=True, **settings)
    assert set(first.voice) == {20.0, 5.0} and registry.load(run).voice is not None
    weights = (run / "model.safetensors").read_bytes()
    assert wav2small.distill(labels, run, voice=True, **settings).voice == first.voice
    assert (run / "model.safetensors").read_bytes() == weights
    wav2small.export_bundle(run, tmp_path / "bundle", streaming=True, c=True)
    assert Stream(tmp_path / "bundle").gate == "voice"
    assert "speech_logits" in (tmp_path / "bundle" / "README.md").read_text()
    assert "voice_inner_weight" in (tmp_path / "bundle" / "c" / "nano_bundle.c").read_text()
    wav2small.verify_bundle(tmp_path / "bundle")


def test_add_voice_needs_a_nano(run):
    with pytest.raises(Wav2SmallError, match="only nano"):
        voice_activity.add_voice(run)


@pytest.mark.parametrize("kind", ["coloured", "impacts", "music", "hum", "narrow", "noise"])
def test_made_noises(kind):
    made = [getattr(noises, kind)(32000, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert made[0].shape == (32000,) and np.isfinite(made[0]).all() and made[0].std() > 0
    np.testing.assert_array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])


def test_silero_is_the_published_model(clip):
    """The sequence form of the wheel against its frame-by-frame form."""
    pytest.importorskip("silero_vad")
    from wav2small import silero

    full = silero.probabilities(clip)
    path = silero._session()._model_path.replace("_16k_sequence", "")
    session = open_session(path)
    state, padded = np.zeros((2, 1, 128), np.float32), np.concatenate([np.zeros(64), clip])
    rate = np.array(16000, np.int64)
    for number, expected in enumerate(full):
        block = padded[None, 512 * number : 512 * number + 576].astype(np.float32)
        found, state = session.run(None, {"input": block, "state": state, "sr": rate})
        assert abs(found[0, 0] - expected) < 1e-5
    assert full.max() > 0.9
