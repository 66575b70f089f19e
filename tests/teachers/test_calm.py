"""CALM: patches, masks, the contrastive loss by independent numpy, the way to a label table."""

import multimodal_cases
import numpy as np
import pytest
import torch
from finetuning_cases import finetune, pretrain
from multimodal_cases import CLASSES, log_softmax, passages, truth, turn

from wav2small.errors import Wav2SmallError
from wav2small.teachers import load_teacher
from wav2small.teachers.multimodal import calm
from wav2small.teachers.multimodal.base import retrieved
from wav2small.teachers.multimodal.calm_objectives import Objectives, cropped
from wav2small.teachers.multimodal.dialogue import Passage
from wav2small.transcripts import Word

SPECTRAN = {
    **calm.CONFIG,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "mels": 16,
    "patch_mels": 8,
}


@pytest.fixture
def network(encoders):
    return multimodal_cases.build("calm", encoders, speech_config=SPECTRAN)


def spoken():
    """`passages`, with times of the words of some turns."""
    found = []
    for number, passage in enumerate(passages()):
        own = passage.own
        if own.text and number != 1:
            step = len(own.signal) / 16000 / len(own.text.split())
            words = [Word(w, n * step, (n + 0.8) * step) for n, w in enumerate(own.text.split())]
            passage = passage.with_own(own._replace(words=tuple(words)))
        found.append(passage)
    return found


@pytest.mark.parametrize("cases", [passages, spoken])
def test_a_padded_batch_is_its_items(network, cases):
    multimodal_cases.assert_items_are_rows(network, cases())


def test_word_times_change_what_it_gives(network):
    with torch.no_grad():
        with_times, without = (network(network.collate(cases()))[0] for cases in (spoken, passages))
    away = (with_times - without).abs().amax(dim=1)
    assert ((away > 1e-6).tolist()) == [True, False, False, True, False]


def overlap(word, patch, step=8, wide=16):
    """Seconds that a word and a patch share; patches begin every 80 ms and are 182 ms wide."""
    begin = patch * step * 0.01
    end = begin + (wide - 1) * 0.01 + 512 / 16000
    return max(0.0, min(word.end, end) - max(word.start, begin))


def test_words_are_means_of_their_patches(network):
    batch = network.collate(spoken())
    with torch.no_grad():
        aligned = network.aligned(batch)
    words = [(row, word) for row, one in enumerate(spoken()) for word in one.own.timed()]
    assert batch.words.row.tolist() == [row for row, _ in words] and aligned.timed.all()
    for (row, word), found in zip(words, aligned.words.numpy(), strict=True):
        count = int(aligned.mask[row].sum())
        shares = np.array([overlap(word, patch // 2) for patch in range(count)])  # two bands
        tokens = aligned.tokens[row, :count].double().numpy()
        np.testing.assert_allclose(found, shares @ tokens / shares.sum(), atol=1e-5)


@pytest.mark.parametrize("mels", [16, 8])
def test_patches_are_what_numpy_cuts(mels):
    """Frames inside the clip, decibels of mel bands, rectangles; the last one ends in silence."""
    from wav2small.students.frontend import hann, mel_bands

    encoder = calm.SpecTran({**SPECTRAN, "patch_mels": mels}, 0.02, 0.1, "here")
    random = np.random.default_rng(0)
    long, short = random.normal(0.02, 0.1, 9000), random.normal(0.02, 0.1, 5003)
    padded = torch.zeros(2, 9000)
    padded[0], padded[1, :5003] = torch.tensor(long), torch.tensor(short)
    found, mask = encoder.patches(padded, torch.tensor([9000, 5003]))
    for row, signal in enumerate((long, short)):
        scaled = (signal - 0.02) / 0.1
        frames = (len(signal) - 512) // 160 + 1
        cut = np.stack([scaled[160 * n : 160 * n + 512] * hann(512) for n in range(frames)])
        power = np.abs(np.fft.rfft(cut)) ** 2 @ mel_bands(512, 16)
        steps = int(np.ceil(max(0, frames - 16) / 8)) + 1
        levels = np.full((8 * (steps - 1) + 16, 16), 1e-10)
        levels[:frames] = power
        levels = (10 * np.log10(levels) + 15) / 20
        assert mask[row].sum() == steps
        for step in range(steps):
            for band in range(16 // mels):
                patch = levels[8 * step : 8 * step + 16, mels * band : mels * (band + 1)]
                np.testing.assert_allclose(found[row, step, band], patch.T.ravel(), atol=1e-3)


@pytest.mark.parametrize("samples", [1, 511, 512, 3071, 3073])
def test_the_shortest_clips_have_a_patch(samples):
    encoder = calm.SpecTran(SPECTRAN, 0.0, 0.1, "here").eval()
    signal = torch.randn(2, 4000)
    signal[0, samples:] = 0
    hidden, mask = encoder(signal, torch.tensor([samples, 4000]))
    alone, all_ = encoder(signal[:1, :samples], torch.tensor([samples]))
    assert all_.all() and mask[0].sum() == all_.shape[1]
    torch.testing.assert_close(hidden[0, : all_.shape[1]], alone[0], atol=1e-5, rtol=0)


def test_a_speech_encoder_of_another_kind_is_named():
    for change in ({"model_type": "wavlm"}, {"patch_mels": 5}):
        with pytest.raises(Wav2SmallError, match="here: speech_config is no spectran"):
            calm.SpecTran({**SPECTRAN, **change}, 0.0, 1.0, "here")


def task_of(network):
    objectives = Objectives(network)
    return objectives, objectives.collate(spoken(), [[]] * 5, np.random.default_rng(0))


def contrasted(one, other, names=None):
    """Symmetric InfoNCE of temperature .07, and the share that is found; the same is no rival."""
    one, other = (np.stack(view).astype(np.float64) for view in (one, other))
    one /= np.linalg.norm(one, axis=1, keepdims=True)
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    losses, right = [], []
    for cosines in (one @ other.T, other @ one.T):
        for n, row in enumerate(cosines):
            rivals = [m for m in range(len(row)) if m == n or names is None or names[m] != names[n]]
            losses.append(-log_softmax(row[rivals] / 0.07)[rivals.index(n)])
            right.append(row[n] == row[rivals].max())
    return np.mean(losses), np.mean(right[: len(one)])


def test_the_loss_is_what_numpy_computes(network):
    """Of utterances, of words, and of two views of the audio."""
    network.config |= {"word_contrast": 0.5, "audio_contrast": 2.0}
    objectives, task = task_of(network)
    with torch.no_grad():
        states = objectives(task)
        value = float(objectives.loss(*states))
        figures = objectives.figures(*states)

        def aligned(audio):
            hidden, mask = network.speech(audio.signal, audio.lengths)
            return [
                row[kept].double().numpy() for row, kept in zip(network.align(hidden), mask,
                                                                strict=True)
            ]  # fmt: skip

        full, crop = aligned(task.batch.audio), aligned(task.crop)
    assert states[3].tolist() == [1, 1, 0, 1, 0] and states[4].tolist() == [1, 1, 1, 1, 1]
    table = network.text.model.get_input_embeddings().weight.detach().double().numpy()
    read = [
        table[network.tokenizer.ids(passages()[row].own.text)].mean(axis=0) for row in (0, 1, 3)
    ]
    utterances = contrasted([full[row].mean(axis=0) for row in (0, 1, 3)], read)
    audio = contrasted(*([frames.mean(axis=0) for frames in view] for view in (full, crop)))
    said, meant, names = [], [], []
    for row, one in enumerate(spoken()):
        for word in one.own.timed():
            shares = np.array([overlap(word, patch // 2) for patch in range(len(full[row]))])
            said.append(shares @ full[row] / shares.sum())
            meant.append(table[network.tokenizer.ids(word.word)].mean(axis=0))
            names.append(word.word)
    words = contrasted(said, meant, names)
    expected = utterances[0] + 0.5 * words[0] + 2 * audio[0]
    assert value == pytest.approx(expected, abs=2e-5)
    for name, (_, found) in (("", utterances), ("_word", words), ("_audio", audio)):
        assert figures[f"temperature{name}"] == pytest.approx(0.07, abs=1e-5)
        assert figures[f"retrieval_top1{name}"] == pytest.approx(found)


def test_crops_are_parts_of_their_turn():
    random = np.random.default_rng(0)
    signal = np.arange(8000, dtype=np.float32)
    crops = [cropped(signal, random) for _ in range(200)]
    assert all(np.array_equal(crop, np.arange(crop[0], crop[0] + len(crop))) for crop in crops)
    lengths = np.array([len(crop) for crop in crops])
    assert lengths.min() >= 4000 and lengths.max() <= 6400 and len(set(lengths)) > 100
    assert len(cropped(signal[:400], random)) == 400 and cropped(None, random) is None


def test_retrieval_counts_what_is_found():
    text = torch.eye(4)
    speech = text[[0, 1, 3, 3]] + 0.01
    assert retrieved(speech, text).tolist() == [True, True, False, True]
    assert retrieved(speech[[0, 0]], text[[0, 0]]).all()  # the same words twice
    assert len(retrieved(speech[:0], text[:0])) == 0


def test_gradients_reach_every_part_that_learns(network):
    objectives, task = task_of(network)
    multimodal_cases.assert_all_learn(objectives, objectives.loss(*objectives(task)))
    learn = {
        ".".join(name.split(".")[:2])
        for name, parameter in objectives.named_parameters()
        if parameter.requires_grad
    }
    assert learn == {"log_scales", "network.speech", "network.align"}
    network.zero_grad()
    network.requires_grad_(True)
    unheard = turn(9, text="again")._replace(signal=None)
    batch = network.collate([*spoken()[1:], Passage((unheard,), 0)])
    value = network.loss(truth(), CLASSES, *network(batch))
    multimodal_cases.assert_all_learn(network, value)


def test_it_uses_both(network):
    one = passages()[0]
    changes = [
        one.with_own(one.own._replace(text="bad today")),
        one.with_own(one.own._replace(signal=turn(9, 0.9).signal)),
        one.with_own(one.own._replace(text=None)),
    ]
    found = network(network.collate([one, *changes]))[0]
    assert (found[1:] - found[0]).abs().amax(dim=1).min() > 1e-5


def test_from_pretraining_to_a_label_table(encoders, corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(calm.Network, "own_encoder", SPECTRAN)
    first = pretrain(
        "calm",
        corpus / "ratings.csv",
        tmp_path / "pre",
        text=encoders["text"],
        epochs=1,
        **multimodal_cases.OPTIONS,
    )
    assert set(first.figures) >= {"retrieval_top1", "temperature"}
    with pytest.raises(Wav2SmallError, match="fine-tune it first"):
        load_teacher(str(tmp_path / "pre"))
    capsys.readouterr()
    folders = {"pretrained": str(tmp_path / "pre")}
    _, entries, teacher = multimodal_cases.finetune_and_label("calm", folders, corpus, tmp_path)
    assert "1 of 16 clips have no transcript" in capsys.readouterr().err
    assert entries["text encoder"]["id"] == encoders["text"]
    assert teacher.network.config["speech_config"] == SPECTRAN
    assert {"calm", "pretrained calm", "text encoder"} == set(entries)


def test_it_needs_no_speech_encoder(encoders, corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(calm.Network, "own_encoder", SPECTRAN)
    _, entries, _ = multimodal_cases.finetune_and_label("calm", encoders, corpus, tmp_path)
    assert "calm has its own speech encoder; --speech is not used" in capsys.readouterr().err
    assert "speech encoder" not in entries
    with pytest.raises(Wav2SmallError, match="give --text FOLDER"):
        finetune(corpus / "ratings.csv", tmp_path / "out", teacher="calm")
