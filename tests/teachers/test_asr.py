"""Transcripts by a Whisper-type model before labelling: words with times, kept, resumed."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from labelling_cases import label

from wav2small import read_labels
from wav2small.errors import Wav2SmallError
from wav2small.folders import Folder
from wav2small.index import load_source
from wav2small.teachers.multimodal import asr
from wav2small.teachers.multimodal.dialogue import Context
from wav2small.transcripts import Word, fault

SPECIALS = ["<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"]


class Reads:
    """A teacher that reports how much it read."""

    name = id = "reads"
    revision, licence, sampling_rate = "1", "MIT", 16000
    dimensions, invariances = ("arousal", "dominance", "valence"), frozenset()
    context = Context()

    def predict_columns(self, batch, lengths, passages):
        read = np.array([len((p.own.text or "").split()) for p in passages], float)
        return {"read": read} | {name: np.full(len(batch), 0.5) for name in self.dimensions}


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    """A Whisper of two layers with random weights and a byte-level tokenizer."""
    import tokenizers
    import transformers

    folder = tmp_path_factory.mktemp("whisper")
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=150,
        special_tokens=SPECIALS,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()[:60],
        show_progress=False,
    )
    inner.train_from_iterator([" the cat sat on the mat and said so to the other cat"] * 9, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token=SPECIALS[0], additional_special_tokens=SPECIALS[1:]
    )
    tokenizer.save_pretrained(folder)
    end, start, plain = tokenizer.convert_tokens_to_ids(SPECIALS)
    torch.manual_seed(0)
    config = transformers.WhisperConfig(
        vocab_size=len(tokenizer),
        num_mel_bins=80,
        d_model=16,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_target_positions=24,
        decoder_start_token_id=start,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        init_std=0.5,
    )
    model = transformers.WhisperForConditionalGeneration(config)
    model.generation_config.no_timestamps_token_id = plain
    model.generation_config.is_multilingual = False
    model.generation_config.max_length = 16
    model.generation_config.suppress_tokens = [end, start, plain]
    model.save_pretrained(folder)
    transformers.WhisperFeatureExtractor().save_pretrained(folder)
    return folder


def test_words_lie_inside_the_signal_and_in_order(whisper, clip):
    transcriber = asr.Transcriber(asr.Recogniser(str(whisper)).source, device="cpu")
    words = transcriber.words(clip)
    assert len(words) >= 1 and all(word.word.strip() == word.word != "" for word in words)
    assert fault(words, 0.0, len(clip) / 16000) is None
    assert words == transcriber.words(clip)
    long = np.tile(clip, 1 + 35 * 16000 // len(clip))  # transcribed in two parts
    found = transcriber.words(long)
    assert fault(found, 0.0, len(long) / 16000) is None
    assert found[-1].end > 30 or found[-1].start >= 0


def test_tokens_become_words():
    class Tokenizer:
        all_special_ids = (0,)
        shards = ("<s>", " he", "llo", " wor", "ld", " ")

        def decode(self, ids):
            return "".join(self.shards[n] for n in ids)

    tokens, ends = [0, 1, 2, 3, 4, 5, 0], [0.0, 0.2, 0.5, 0.7, 2.0, 2.0, 2.0]
    assert asr.grouped(Tokenizer(), tokens, ends, 1.5) == [
        Word("hello", 0.0, 0.5),
        Word("world", 0.5, 1.5),
    ]
    assert asr.grouped(Tokenizer(), [0], [0.0], 1.5) == []


def test_transcripts_are_used_and_kept(whisper, speech, tmp_path):
    table = pd.read_csv(speech / "labels.csv")[["file"]][:4]
    table["text"] = [None, "said so", None, None]
    table["file"] = [str(speech / file) for file in table["file"]]
    table.loc[3, "file"] = str(tmp_path / "absent.wav")
    table["start"] = [0.3, 0, 0, 0]
    table.to_csv(tmp_path / "index.csv", index=False)
    output = tmp_path / "labels.parquet"
    options = {"teacher": f"{__name__}:Reads", "asr": str(whisper), "workers": 0, "device": "cpu"}
    result = label(tmp_path / "index.csv", output, **options)
    assert result.rows == 3 and result.errors == 1
    labels = read_labels(output)
    frame = labels.frame
    assert frame["text"][1] == "said so" and frame["words"][1] is None
    for row in (0, 2):
        words = [Word(**word) for word in frame["words"][row]]
        assert " ".join(word.word for word in words) == frame["text"][row]
        assert fault(words, frame["start"][row].total_seconds(), None) is None
    assert list(frame["read"]) == [len(text.split()) for text in frame["text"]]
    entry = labels.provenance["teachers"][-1]
    assert entry["name"] == "asr" and entry["id"] == str(whisper) and entry["licence"] == "unknown"
    assert label(tmp_path / "index.csv", output, **options).already_complete
    with pytest.raises(Wav2SmallError, match="other asr"):
        label(tmp_path / "index.csv", output, **(options | {"asr": None}))


def test_a_run_that_was_broken_off_goes_on(whisper, speech, tmp_path, monkeypatch):
    index = load_source(speech / "labels.csv")
    index.frame = index.frame[["file", "start", "end"]][:3]
    folder = Folder(str(tmp_path))
    transcriber = asr.Transcriber(asr.Recogniser(str(whisper)).source, device="cpu")
    full = asr.fill(index, transcriber, Folder(str(tmp_path / "other")))
    monkeypatch.setattr(asr, "_FLUSH_S", 0.0)
    lengths = []

    class Broken:
        def words(self, signal):
            if len(lengths) == 2:
                raise KeyboardInterrupt
            lengths.append(len(signal))
            return transcriber.words(signal)

    with pytest.raises(KeyboardInterrupt):
        asr.fill(index, Broken(), folder)
    lengths.clear()
    again = asr.fill(index, Broken(), folder)
    assert len(lengths) == 1
    pd.testing.assert_frame_equal(again.frame, full.frame)


def test_another_model_is_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "wavlm"}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(Wav2SmallError, match="model_type 'wavlm' is no recogniser"):
        asr.Recogniser(str(tmp_path))
