"""Speech LLMs as speech encoders: what transformers computes, and the way to a label table."""

import json

import multimodal_cases
import numpy as np
import pytest
import torch
import transformers
from finetuning_cases import finetune
from multimodal_cases import passages
from safetensors.torch import load_file, save_file
from test_finetune import ratings  # noqa: F401, a fixture

from wav2small.errors import Wav2SmallError
from wav2small.teachers import load_teacher
from wav2small.teachers.multimodal import mister_e
from wav2small.teachers.multimodal import teacher as multimodal
from wav2small.teachers.speech import backbones, pretrained, recognisers
from wav2small.teachers.speech.frozen import open_encoder

SMALL = {"context_size": 16, "cross_size": 16, "cross_inner": 12}
CONFIG = {
    "model_type": "qwen2_audio",
    "audio_token_id": 5,
    "audio_config": {
        "model_type": "qwen2_audio_encoder",
        "num_mel_bins": 16,
        "d_model": 16,
        "encoder_layers": 1,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 16,
        "max_source_positions": 1500,
    },
    "text_config": {
        "model_type": "qwen2",
        "vocab_size": 20,
        "hidden_size": 24,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as Qwen2-Audio is published: its language model has a head and another prefix."""
    folder = tmp_path_factory.mktemp("llm")
    torch.manual_seed(0)
    model = transformers.Qwen2AudioModel(transformers.Qwen2AudioConfig(**CONFIG))
    state = {
        key.replace("language_model.", "language_model.model."): value.clone()
        for key, value in model.state_dict().items()
    }
    state["language_model.lm_head.weight"] = torch.zeros(20, 24)
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def signals():
    random = np.random.default_rng(0)
    return [random.normal(0, 0.1, length).astype(np.float32) for length in (9000, 16000)]


def test_it_gives_what_transformers_gives(folder):
    """Whisper's features and the model of transformers over as many audio tokens as frames."""
    start = pretrained.load(str(folder))
    own = backbones.build(start.config, "here").eval()
    start.fill(own)
    whole = transformers.Qwen2AudioModel(transformers.Qwen2AudioConfig(**CONFIG)).eval()
    whole.load_state_dict(own.state_dict())
    extractor = transformers.WhisperFeatureExtractor(feature_size=16)
    given = extractor(
        signals(), sampling_rate=16000, return_tensors="pt", return_attention_mask=True
    )
    padded = torch.zeros(2, 16000)
    for row, signal in enumerate(signals()):
        padded[row, : len(signal)] = torch.tensor(signal)
    lengths = torch.tensor([9000, 16000])
    mels = recognisers.log_mel(padded, lengths, bins=16, longest=480000)
    torch.testing.assert_close(mels, given["input_features"], atol=1e-4, rtol=0)
    with torch.no_grad():
        found, mask = own(padded, lengths)
        for row in range(2):
            count = int(mask[row].sum())
            expected = whole(
                input_ids=torch.full((1, count), 5),
                input_features=given["input_features"][row : row + 1],
                feature_attention_mask=given["attention_mask"][row : row + 1],
                attention_mask=torch.ones(1, count, dtype=torch.long),
            ).last_hidden_state
            torch.testing.assert_close(found[row, :count], expected[0], atol=1e-4, rtol=0)
            alone, _ = own(padded[row : row + 1, : lengths[row]], lengths[row : row + 1])
            torch.testing.assert_close(found[row, :count], alone[0], atol=1e-5, rtol=0)


def test_a_system_takes_it(folder, encoders):
    given = {"speech": str(folder), "text": encoders["text"]}
    network = multimodal_cases.build("mister_e", given, **SMALL)
    assert isinstance(network.speech.model, recognisers.SpeechLLM)
    multimodal_cases.assert_items_are_rows(network, passages()[:3])
    with pytest.raises(Wav2SmallError, match="spectra joins turns at the CNN"):
        multimodal_cases.build("spectra", given)


def test_weights_that_are_missing_are_named(folder, encoders, tmp_path):
    state = load_file(folder / "model.safetensors")
    del state["multi_modal_projector.linear.bias"]
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(Wav2SmallError, match="lacks key multi_modal_projector.linear.bias"):
        multimodal.from_encoders(str(tmp_path), encoders["text"])


def test_from_finetuning_to_a_label_table(folder, encoders, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(mister_e.Network, "defaults", {**mister_e.Network.defaults, **SMALL,
                                                       "audio_turns": 0})  # fmt: skip
    given = {"speech": str(folder), "text": encoders["text"]}
    _, entries, teacher = multimodal_cases.finetune_and_label("mister_e", given, corpus, tmp_path)
    assert entries["speech encoder"]["id"] == str(folder)
    assert isinstance(teacher.network.speech.model, recognisers.SpeechLLM)


@pytest.mark.parametrize("pooling", ["attentive", "mean"])
def test_it_becomes_a_teacher(folder, pooling, ratings, tmp_path):  # noqa: F811
    options = {"epochs": 1, "batch_size": 12, "crop_s": 1.0, "device": "cpu"}
    made = finetune(
        ratings, tmp_path / "t", backbone=str(folder), pooling=pooling, layers=1, **options
    )
    assert set(made.ccc) == {"arousal", "dominance", "valence"}
    keys = load_file(tmp_path / "t" / "model.safetensors")
    assert not any("layers.1." in key or "lm_head" in key for key in keys)
    before = load_file(folder / "model.safetensors")
    tower = {key: value for key, value in keys.items() if "audio_tower" in key}
    assert tower and all(
        torch.equal(value, before[f"audio_tower.{key.partition('audio_tower.')[2]}"])
        for key, value in tower.items()
    )
    teacher = load_teacher(str(tmp_path / "t"), device="cpu")
    batch, lengths = np.zeros((2, 16000), np.float32), np.array([9000, 16000])
    for row, signal in enumerate(signals()):
        batch[row, : len(signal)] = signal
    together = teacher.predict(batch, lengths)
    for row, length in enumerate(lengths):
        alone = teacher.predict(batch[row : row + 1, :length], lengths[row : row + 1])
        np.testing.assert_allclose(together[row], alone[0], atol=1e-5)


def test_a_probe_reads_every_layer(folder):
    encoder = open_encoder(str(folder), device="cpu")
    own = backbones.build((start := pretrained.load(str(folder))).config, "here").eval()
    start.fill(own)
    signal = signals()[0]
    states = encoder.states(signal, range(encoder.layers))
    assert [each.shape[1] for each in states] == [24] * 3  # embeddings, two layers
    with torch.no_grad():
        last, _ = own(torch.from_numpy(signal)[None], torch.tensor([len(signal)]))
        first = own.language_model.layers[0](
            torch.from_numpy(states[0])[None],
            position_embeddings=own.language_model.rotary_emb(
                last, torch.arange(len(states[0]))[None]
            ),
        )
    np.testing.assert_allclose(states[2], last[0], atol=1e-5)
    if not isinstance(first, torch.Tensor):
        first = first[0]
    # One layer alone has no mask: its last frame sees all before it, as with the mask.
    np.testing.assert_allclose(states[1][-1], first[0, -1], atol=1e-5)
