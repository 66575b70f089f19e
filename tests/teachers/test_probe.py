"""Probes on frozen encoders: the algebra, encoders against transformers, bad input."""

import importlib.util
import json

import numpy as np
import onnx
import pandas as pd
import pytest
import soundfile
from onnx import TensorProto, helper

from wav2small import metrics
from wav2small.errors import Wav2SmallError
from wav2small.tables import Labels
from wav2small.teachers.finetuning.options import RatingOptions
from wav2small.teachers.finetuning.probe import ProbeOptions, calibration, fit_probe, ridge
from wav2small.teachers.registry import load_teacher
from wav2small.teachers.speech.frozen import open_encoder

HAS_MOONSHINE = importlib.util.find_spec("moonshine_voice") is not None
moonshine = pytest.mark.skipif(not HAS_MOONSHINE, reason="moonshine-voice is not installed")
RATE = 16000


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """An ONNX encoder whose states are 64 ms frames of the waveform times a fixed matrix."""
    path = tmp_path_factory.mktemp("encoder") / "frames.onnx"
    weight = np.random.default_rng(0).normal(size=(8, 1, 1024)).astype(np.float32) / 32
    nodes = [
        helper.make_node("Unsqueeze", ["signal", "one"], ["x"]),
        helper.make_node("Conv", ["x", "w"], ["y"], strides=[512]),
        helper.make_node("Abs", ["y"], ["a"]),
        helper.make_node("Transpose", ["a"], ["hidden_states"], perm=[0, 2, 1]),
    ]
    graph = helper.make_graph(
        nodes,
        "frames",
        [helper.make_tensor_value_info("signal", TensorProto.FLOAT, [1, "n"])],
        [helper.make_tensor_value_info("hidden_states", TensorProto.FLOAT, [1, "t", 8])],
        [
            helper.make_tensor("one", TensorProto.INT64, [1], [1]),
            helper.make_tensor("w", TensorProto.FLOAT, weight.shape, weight.tobytes(), raw=True),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def ratings(tmp_path_factory):
    """48 clips of 6 speakers; arousal is what a louder high tone does, valence the tone's pitch."""
    folder = tmp_path_factory.mktemp("rated")
    random = np.random.default_rng(3)
    rows = []
    for number in range(48):
        high, pitch = random.uniform(0.05, 0.5), random.uniform(150, 400)
        time = np.arange(RATE) / RATE
        signal = 0.2 * np.sin(2 * np.pi * pitch * time) + 0.3 * high * random.normal(size=RATE)
        soundfile.write(folder / f"{number}.wav", 0.5 * signal, RATE)
        entry = {"file": f"{number}.wav", "speaker": f"s{number % 6}", "arousal": 2 * high - 0.05}
        rows.append(entry | {"dominance": high, "valence": (pitch - 100) / 400})
    pd.DataFrame(rows).to_csv(folder / "ratings.csv", index=False)
    return folder / "ratings.csv"


@pytest.mark.parametrize("clips, size", [(40, 7), (20, 60)])
def test_ridge_solves_its_equations(clips, size):
    # Gradient of mean squared error + penalty is zero, for the primal and for the dual system.
    random = np.random.default_rng(1)
    values, truth = random.normal(size=(clips, 2, size)), random.uniform(size=(clips, 3))
    fitted = ridge(values, truth, 0.5)
    flat = values.reshape(-1, size)
    inputs = 3 * np.tanh((flat - flat.mean(0)) / (3 * (flat.std(0) + 1e-6)))
    error = inputs @ fitted["slopes"] + fitted["intercept"] - np.repeat(truth - 0.5, 2, axis=0)
    gradient = (inputs - inputs.mean(0)).T @ error / len(inputs) + 0.5 * fitted["slopes"]
    np.testing.assert_allclose(gradient, 0, atol=1e-9)
    np.testing.assert_allclose(error.mean(0), 0, atol=1e-9)


def test_calibration_reaches_mean_and_spread():
    scores = np.random.default_rng(2).normal(scale=0.08, size=(500, 3))
    mean, spread = np.array([0.6, 0.5, 0.4]), np.array([0.2, 0.15, 0.18])
    gain, shift = calibration(scores, scores, mean, spread)
    outputs = 0.5 * (1 + np.tanh(2 * (scores * gain + shift)))
    np.testing.assert_allclose(outputs.mean(0), mean, atol=1e-3)
    np.testing.assert_allclose(outputs.std(0), spread, atol=1e-3)


def test_a_probe_is_a_teacher(encoder, ratings, tmp_path):
    options = ProbeOptions(encoder=str(encoder), copies=1)
    found = fit_probe(ratings, tmp_path / "probe", options, ratings=RatingOptions())
    assert found.clips == 48 and found.groups == "speakers" and not found.rejected
    assert found.pcc["arousal"] > 0.8  # speakers that it was not fitted on
    teacher = load_teacher(str(tmp_path / "probe"))
    table = pd.read_csv(ratings)
    signals = [soundfile.read(ratings.parent / f, dtype="float32")[0] for f in table["file"]]
    single = np.concatenate([teacher.predict(s[None], np.array([len(s)])) for s in signals[:8]])
    batch = np.zeros((8, RATE + 500), np.float32)
    batch[:, :RATE] = signals[:8]
    together = teacher.predict(batch, np.full(8, RATE))
    np.testing.assert_allclose(single, together, atol=1e-6)
    assert metrics.pcc(table["arousal"][:8].to_numpy(), single[:, 0]) > 0.8
    lineage = json.loads((tmp_path / "probe" / "provenance.json").read_text())
    assert lineage["teachers"][0]["name"] == "encoder" and lineage["probe"]["copies"] == 1


def test_another_encoder_is_noticed(encoder, ratings, tmp_path):
    own = tmp_path / "own.onnx"
    own.write_bytes(encoder.read_bytes())
    fit_probe(ratings, tmp_path / "probe", ProbeOptions(encoder=str(own), copies=0))
    model = onnx.load(own)
    model.doc_string = "another version"
    onnx.save(model, own)
    with pytest.raises(Wav2SmallError, match="was fitted on"):
        load_teacher(str(tmp_path / "probe"))


def _changed(ratings, **columns):
    frame = pd.read_csv(ratings)
    return Labels(
        frame.assign(start=pd.Timedelta(0), end=pd.Timedelta(1, "s"), **columns),
        str(ratings.parent),
    )


def test_one_speaker_falls_back_to_files(encoder, ratings, tmp_path):
    table = _changed(ratings, speaker="one")
    found = fit_probe(table, tmp_path / "probe", ProbeOptions(encoder=str(encoder), copies=0))
    assert found.groups == "files" and "one speaker" in found.warnings[0]


@pytest.mark.parametrize(
    "change, why",
    [
        ({"valence": 0.5}, "every valence is 0.5"),
        ({"file": "missing.wav"}, "0 rated clips can be used.*missing.wav"),
    ],
)
def test_ratings_that_teach_nothing(encoder, ratings, tmp_path, change, why):
    with pytest.raises(Wav2SmallError, match=why):
        fit_probe(
            _changed(ratings, **change),
            tmp_path / "probe",
            ProbeOptions(encoder=str(encoder), copies=0),
        )
    assert not (tmp_path / "probe").exists()


@pytest.mark.parametrize(
    "options, why",
    [
        ({"mean": [0.5]}, "three numbers"),
        ({"spread": [0.2, 0.2, 2.0]}, "three numbers"),
        ({"copies": -1}, "--copies -1"),
    ],
)
def test_bad_options(options, why):
    with pytest.raises(Wav2SmallError, match=why):
        ProbeOptions(**options)


def test_a_model_without_states_is_no_encoder(tmp_path):
    node = helper.make_node("ReduceMean", ["signal"], ["logits"], axes=[1], keepdims=0)
    graph = helper.make_graph(
        [node],
        "mean",
        [helper.make_tensor_value_info("signal", TensorProto.FLOAT, [1, "n"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "mean.onnx")
    with pytest.raises(Wav2SmallError, match="no encoder: .*hidden"):
        open_encoder(str(tmp_path / "mean.onnx"))


@pytest.mark.parametrize("kind", ["wavlm", "whisper", "moonshine"])
def test_encoders_of_transformers(kind, tmp_path):
    import torch
    import transformers
    from safetensors.torch import save_file

    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    if kind == "wavlm":
        config = transformers.WavLMConfig(
            num_hidden_layers=3, conv_dim=[16] * 7, num_conv_pos_embedding_groups=4, **size
        )
        model = transformers.WavLMModel(config)
        signal = np.random.default_rng(0).normal(size=RATE).astype(np.float32) * 0.1
        given = torch.from_numpy((signal - signal.mean()) / np.sqrt(signal.var() + 1e-7))[None]
        run = model.eval()
    elif kind == "whisper":
        config = transformers.WhisperConfig(
            d_model=32, encoder_layers=3, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, vocab_size=20,
            num_mel_bins=80, pad_token_id=0, bos_token_id=0, eos_token_id=0,
            decoder_start_token_id=0,
        )  # fmt: skip
        model = transformers.WhisperForConditionalGeneration(config)
        signal = np.random.default_rng(0).normal(size=RATE).astype(np.float32) * 0.1
        extract = transformers.WhisperFeatureExtractor(feature_size=80)
        given = extract(signal, sampling_rate=RATE, return_tensors="pt").input_features
        run = model.model.encoder.eval()
    else:
        config = transformers.MoonshineConfig(
            hidden_size=32, intermediate_size=64, encoder_num_hidden_layers=3,
            decoder_num_hidden_layers=1, encoder_num_attention_heads=2,
            decoder_num_attention_heads=2, vocab_size=20,
        )  # fmt: skip
        model = transformers.MoonshineForConditionalGeneration(config)
        signal = np.random.default_rng(0).normal(size=RATE).astype(np.float32) * 0.1
        given = torch.from_numpy(signal)[None]
        run = model.model.encoder.eval()
    folder = tmp_path / kind
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config.to_dict(), default=str))
    state = {k: v.contiguous().clone() for k, v in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    with torch.no_grad():
        expected = run(given, output_hidden_states=True).hidden_states
    encoder = open_encoder(str(folder), device="cpu")
    assert encoder.layers == 4 == len(expected)
    for layer, states in enumerate(encoder.states(signal, range(4))):
        other = expected[layer][0].numpy()[: len(states)]
        np.testing.assert_allclose(states, other, atol=1e-5)
    if kind == "whisper":
        assert len(states) == 50  # one second, not the 30 s of its input


@moonshine
def test_moonshine_gives_its_layers():
    encoder = open_encoder("moonshine")
    assert encoder.licence == "MIT" and encoder.layers == 6
    signal = np.random.default_rng(0).normal(size=RATE).astype(np.float32) * 0.1
    states = encoder.states(signal, range(6))
    assert {state.shape[1] for state in states} == {288}
    louder = encoder.states(10 * signal, [5])[0]
    np.testing.assert_allclose(louder, states[5], atol=1e-3)  # level is taken out
    # The last output is that of the file as it is published, untouched.
    import onnxruntime

    path = importlib.util.find_spec("moonshine_voice").submodule_search_locations[0]
    session = onnxruntime.InferenceSession(f"{path}/assets/tiny-en/encoder_model.ort")
    scaled = signal * np.float32(0.08 / np.sqrt(np.mean(signal**2)))
    feed = {"input_values": scaled[None], "attention_mask": np.ones((1, RATE), np.int64)}
    np.testing.assert_allclose(session.run(None, feed)[0][0], states[5], atol=1e-3)


def test_a_missing_wheel_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Wav2SmallError, match=r"wav2small\[moonshine\]"):
        open_encoder("moonshine")
