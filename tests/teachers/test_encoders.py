"""Encoders of teachers that read: what fits is loaded, what does not is named."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from wav2small.benchmarks.studies import small_encoders
from wav2small.errors import Wav2SmallError
from wav2small.teachers.multimodal import encoders
from wav2small.teachers.multimodal import teacher as multimodal_teacher
from wav2small.teachers.speech.checkpoint import Checkpoint
from wav2small.transcripts import Word

TINY = {
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
}
WORDS = "the cat sat on a mat"


@pytest.fixture(scope="module")
def roberta(tmp_path_factory):
    return small_encoders.text(tmp_path_factory.mktemp("text") / "roberta", [WORDS], **TINY)


@pytest.fixture
def copy(roberta, tmp_path):
    return shutil.copytree(roberta, tmp_path / "copy")


def change(folder, **fields):
    config = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps(config))


def test_a_text_encoder_gives_what_transformers_gives(roberta):
    import transformers

    start = encoders.load_text(str(roberta))
    tokens, mask = encoders.pad([[0, 5, 6, 2], [0, 7, 2]], start.tokenizer.pad)
    mine = start.model.eval()(tokens, mask)
    model = transformers.RobertaModel.from_pretrained(roberta, add_pooling_layer=False).eval()
    theirs = model(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
    torch.testing.assert_close(mine, theirs)
    alone = start.model(tokens[1:, :3], mask[1:, :3])
    torch.testing.assert_close(alone[0], mine[1, :3], atol=1e-5, rtol=0)
    assert start.tokenizer.limit == 128 and start.source.licence == "unknown"


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2"])
def test_other_language_models_are_text_encoders(family, roberta, copy):
    import transformers

    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    if family == "gpt2":
        size = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}
    elif family == "llama":
        size |= {"num_key_value_heads": 2}
    if family != "gpt2":
        size |= {"num_attention_heads": 2, "max_position_embeddings": 64}
    ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "vocab_size": 11}
    config = transformers.AutoConfig.for_model(family, **size, **ids)
    full = transformers.AutoModelForCausalLM if family != "bert" else transformers.BertForMaskedLM
    model = full.from_config(config) if family != "bert" else full(config)
    (copy / "config.json").unlink()
    model.save_pretrained(copy)  # with its head, under its own prefix
    start = encoders.load_text(str(copy))
    inner = start.model.model.state_dict()
    published = model.base_model.state_dict()
    assert len(inner) > 5
    for key, value in inner.items():
        torch.testing.assert_close(value, published[key])
    tokens, mask = encoders.pad([[0, 5, 6, 2]], 1)
    assert start.model(tokens, mask).shape == (1, 4, 16)


def test_old_names_of_a_layer_norm(copy):
    weights = load_file(copy / "model.safetensors")
    old = {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): value
        for key, value in weights.items()
    }
    assert old.keys() != weights.keys()
    save_file(old, copy / "model.safetensors")
    encoders.load_text(str(copy))


def test_the_places_of_words_among_the_tokens():
    """With a tokenizer of shards, byte-level: blanks belong to the token after them."""
    import tokenizers
    import transformers

    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
    inner.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=264, initial_alphabet=alphabet, special_tokens=["<s>"], show_progress=False
    )
    inner.train_from_iterator([WORDS] * 9, trainer)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<s>")
    tokenizer = encoders.Tokenizer(fast, 64)
    words = [Word(word, n, n + 1) for n, word in enumerate("the rat, sat on a-mat".split())]
    ids, places = tokenizer.timed(words)
    assert ids == tokenizer.ids("the rat, sat on a-mat")
    assert places[0][0] == 0 and places[-1][1] == len(ids) - 1
    for (_, last), (first, _) in zip(places, places[1:], strict=False):
        assert first - last in (1, 2)  # a blank can be a token of its own
    for word, (first, last) in zip(words, places, strict=True):
        assert fast.decode(ids[first : last + 1]).strip() == word.word
    assert any(last > first for first, last in places)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"model_type": "wavlm"}, "model_type 'wavlm' is no text encoder"),
        ({"model_type": "vit"}, "model_type 'vit' is no text encoder"),
        ({"model_type": None}, "no field `model_type`"),
        ({"vocab_size": 9}, "shape"),
        ({"pad_token_id": 3}, "pad_token_id is 1 for the tokenizer and 3 for the encoder"),
        ({"num_hidden_layers": 2}, "lacks key encoder.layer.1"),
    ],
)
def test_what_does_not_fit_is_named(fields, message, copy):
    change(copy, **fields)
    with pytest.raises(Wav2SmallError, match=message):
        encoders.load_text(str(copy))


def test_a_tokenizer_of_another_encoder(copy):
    small_encoders.word_tokenizer("many more words than it knows by far".split()).save_pretrained(
        copy
    )
    with pytest.raises(Wav2SmallError, match="has an id 12, the encoder embeds 11"):
        encoders.load_text(str(copy))


def test_files_that_are_missing_or_damaged(copy):
    (copy / "tokenizer.json").write_text("{}")
    with pytest.raises(Wav2SmallError, match="no tokenizer can be read"):
        encoders.load_text(str(copy))
    (copy / "model.safetensors").write_bytes(b"none")
    with pytest.raises(Wav2SmallError, match="truncated or no safetensors"):
        encoders.load_text(str(copy))
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(Wav2SmallError, match="a pickle can run code"):
        encoders.load_text(str(copy))


def test_a_licence_comes_from_the_model_card_or_is_unknown(copy):
    assert encoders.load_text(str(copy)).source.licence == "unknown"
    (copy / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    assert encoders.load_text(str(copy)).source.licence == "Apache-2.0"


def test_only_safe_folders_are_teachers_that_read(copy):
    """A checkpoint that lacks a tokenizer or a field is named, not guessed."""
    change(copy, model_type="spectra")
    source = Checkpoint(copy, "copy", "0", "unknown")
    with pytest.raises(Wav2SmallError, match="no field `speech_config`"):
        multimodal_teacher.load(source)


def test_the_filter_bank_separates_frequencies():
    bank = small_encoders.filter_bank(48, 160)[:, 0].numpy()
    power = np.abs(np.fft.rfft(bank, 1024)) ** 2
    peaks = power.argmax(axis=1) * 16000 / 1024
    mels = np.linspace(100, 2700, 24)
    wanted = np.repeat(700 * (10 ** (mels / 2595) - 1), 2)
    assert np.abs(peaks - wanted)[4:].max() < 60
    np.testing.assert_allclose((bank**2).sum(axis=1), 1, rtol=1e-5)
