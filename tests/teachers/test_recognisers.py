"""Whisper and Moonshine as backbones: as in transformers, padded or not, and in a teacher."""

import json

import multimodal_cases
import numpy as np
import pytest
import torch
import transformers
from finetuning_cases import finetune
from safetensors.torch import load_file, save_file
from test_finetune import ratings  # noqa: F401, a fixture

from wav2small.errors import Wav2SmallError
from wav2small.teachers import load_teacher
from wav2small.teachers.multimodal.dialogue import Passage
from wav2small.teachers.speech import backbones, pretrained

WHISPER = {
    "d_model": 32, "encoder_layers": 3, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "vocab_size": 20,
    "num_mel_bins": 16, "max_source_positions": 100, "pad_token_id": 0, "bos_token_id": 0,
    "eos_token_id": 0, "decoder_start_token_id": 0,
}  # fmt: skip
MOONSHINE = {
    "hidden_size": 32, "intermediate_size": 64, "encoder_num_hidden_layers": 3,
    "decoder_num_hidden_layers": 1, "encoder_num_attention_heads": 2,
    "decoder_num_attention_heads": 2, "vocab_size": 20,
}  # fmt: skip


@pytest.fixture(scope="module", params=["whisper", "moonshine"])
def published(request, tmp_path_factory):
    """A recogniser with random weights as transformers writes it, and its folder."""
    torch.manual_seed(0)
    if request.param == "whisper":
        config = transformers.WhisperConfig(**WHISPER)
        model = transformers.WhisperForConditionalGeneration(config)
    else:
        config = transformers.MoonshineConfig(**MOONSHINE)
        model = transformers.MoonshineForConditionalGeneration(config)
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "config.json").write_text(json.dumps(config.to_dict(), default=str))
    state = {key: value.contiguous().clone() for key, value in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    return model.eval(), folder


def signals(lengths=(16000, 9377, 5000)):
    random = np.random.default_rng(3)
    batch = np.zeros((len(lengths), max(lengths)), np.float32)
    for row, length in enumerate(lengths):
        batch[row, :length] = 0.1 * random.normal(size=length)
    return torch.from_numpy(batch), torch.tensor(lengths)


def expected(model, signal):
    """The states of one clip by transformers; of Whisper those of the clip, 20 ms each."""
    encoder = model.model.encoder
    if model.config.model_type == "moonshine":
        return encoder(signal[None]).last_hidden_state[0]
    extract = transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=2)
    given = extract(signal.numpy(), sampling_rate=16000, return_tensors="pt").input_features
    return encoder(given).last_hidden_state[0, : -(-len(signal) // 320)]


def test_a_padded_batch_gives_what_transformers_gives_of_each_clip(published):
    model, folder = published
    start = pretrained.load(str(folder))
    own = backbones.build(start.config, "here").eval()
    start.fill(own)
    batch, lengths = signals()
    with torch.no_grad():
        found, mask = backbones.hidden_states(own, batch, lengths)
        for row, length in enumerate(lengths):
            states = expected(model, batch[row, :length])
            assert int(mask[row].sum()) == len(states)
            torch.testing.assert_close(found[row, : len(states)], states, atol=1e-4, rtol=0)


@pytest.mark.parametrize("pooling", ["attentive", "mean"])
def test_it_becomes_a_teacher(published, pooling, ratings, tmp_path):  # noqa: F811
    _, folder = published
    options = {"epochs": 1, "batch_size": 12, "crop_s": 1.0, "device": "cpu"}
    made = finetune(
        ratings, tmp_path / "t", backbone=str(folder), pooling=pooling, layers=2, **options
    )
    assert set(made.ccc) == {"arousal", "dominance", "valence"}
    keys = load_file(tmp_path / "t" / "model.safetensors")
    assert not any("layers.2." in key or "decoder" in key for key in keys)
    before = load_file(folder / "model.safetensors")
    same = {key: torch.equal(before[f"model.encoder.{key.partition('encoder.')[2]}"], value)
            for key, value in keys.items() if ".encoder." in key}  # fmt: skip
    assert all(same[key] for key in same if "encoder.conv" in key)
    assert not all(same.values())
    teacher = load_teacher(str(tmp_path / "t"), device="cpu")
    batch, lengths = (each.numpy() for each in signals())
    together = teacher.predict(batch, lengths)
    for row, length in enumerate(lengths):
        alone = teacher.predict(batch[row : row + 1, :length], lengths[row : row + 1])
        np.testing.assert_allclose(together[row], alone[0], atol=1e-5)


def test_a_multimodal_teacher_takes_it(published, tmp_path):
    folders = {**multimodal_cases.encoders(tmp_path), "speech": str(published[1])}
    network = multimodal_cases.build("bridge", folders)
    passages = [Passage((multimodal_cases.turn(seed, seconds),), 0)
                for seed, seconds in ((0, 0.5), (1, 1.2), (2, 0.8))]  # fmt: skip
    multimodal_cases.assert_items_are_rows(network, passages)
    with pytest.raises(Wav2SmallError, match="spectra joins turns at the CNN"):
        multimodal_cases.build("spectra", folders)


def test_a_bare_recogniser_is_no_teacher(published):
    with pytest.raises(Wav2SmallError, match="wav2small finetune RATINGS --backbone"):
        load_teacher(str(published[1]), device="cpu")
