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
from wav2small.teachers.multimodal.calm_objectives import Objectives
from wav2small.teachers.multimodal.dialogue import Passage

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


def test_a_padded_batch_is_its_items(network):
    multimodal_cases.assert_items_are_rows(network)


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
    return objectives, objectives.collate(passages(), [[]] * 5, np.random.default_rng(0))


def test_the_loss_is_what_numpy_computes(network):
    objectives, task = task_of(network)
    with torch.no_grad():
        speech, text, both = objectives(task)
        value = float(objectives.loss(speech, text, both))
        figures = objectives.figures(speech, text, both)
        hidden, mask = network.speech(task.batch.audio.signal, task.batch.audio.lengths)
        aligned = network.align(hidden).double().numpy()
    assert both.tolist() == [1, 1, 0, 1, 0]
    table = network.text.model.get_input_embeddings().weight.detach().double().numpy()
    ones, others = [], []
    for row in (0, 1, 3):
        frames = aligned[row, mask[row].numpy()]
        ones.append(frames.mean(axis=0))
        ids = network.tokenizer.ids(passages()[row].own.text)
        others.append(table[ids].mean(axis=0))
    ones, others = np.stack(ones), np.stack(others)
    np.testing.assert_allclose(speech[[0, 1, 3]], ones, atol=1e-5)
    np.testing.assert_allclose(text[[0, 1, 3]], others, atol=1e-5)
    ones /= np.linalg.norm(ones, axis=1, keepdims=True)
    others /= np.linalg.norm(others, axis=1, keepdims=True)
    cosines = ones @ others.T / 0.07
    losses = [-log_softmax(view[n])[n] for view in (cosines, cosines.T) for n in range(3)]
    assert value == pytest.approx(np.mean(losses), abs=1e-5)
    assert figures["temperature"] == pytest.approx(0.07, abs=1e-5)
    assert figures["retrieval_top1"] == pytest.approx(np.mean(cosines.argmax(1) == np.arange(3)))


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
    assert learn == {"log_scale", "network.speech", "network.align"}
    network.zero_grad()
    network.requires_grad_(True)
    unheard = turn(9, text="again")._replace(signal=None)
    batch = network.collate([*passages()[1:], Passage((unheard,), 0)])
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
