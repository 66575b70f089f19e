"""BRIDGE: masks, its loss by independent numpy, modality masking, and the way to a label table."""

import multimodal_cases
import numpy as np
import pytest
import torch
from finetuning_cases import finetune
from multimodal_cases import CLASSES, passages, truth, turn

from wav2small.errors import Wav2SmallError
from wav2small.teachers.multimodal import teacher as multimodal
from wav2small.teachers.multimodal.dialogue import Passage

SMALL = {"fusion_size": 16, "fusion_heads": 2}


@pytest.fixture
def network(encoders):
    return multimodal_cases.build("bridge", encoders, **SMALL)


def test_a_padded_batch_is_its_items(network):
    multimodal_cases.assert_items_are_rows(network)


def test_it_uses_its_own_turn_alone(network):
    one = passages()[0]
    found = network(
        network.collate(
            [
                one,
                one.with_own(one.own._replace(text="bad today")),
                one.with_own(one.own._replace(signal=turn(9, 0.9).signal)),
                Passage((turn(9, text="again"), one.own), 1),
            ]
        )
    )[0]
    away = (found - found[0]).abs().amax(dim=1)
    assert away[1] > 1e-5 and away[2] > 1e-5 and away[3] < 1e-5


@pytest.mark.parametrize("classes", [CLASSES, torch.full((5,), -1), None])
def test_the_loss_is_what_numpy_computes(network, classes):
    with torch.no_grad():
        outputs, logits, has_text, _ = network(network.collate(passages()))
        value = float(network.loss(truth(), classes, outputs, logits, has_text))
    assert has_text.tolist() == [1, 1, 0, 1, 0]
    expected = multimodal_cases.ccc_loss(truth(), outputs)
    if classes is CLASSES:
        expected += multimodal_cases.entropy(logits, classes)
    assert value == pytest.approx(expected, abs=1e-5)


def test_gradients_reach_every_part_that_learns(network):
    network.speech.model.feature_extractor._freeze_parameters()
    unheard = turn(9, text="again")._replace(signal=None)
    batch = network.collate([*passages()[1:], Passage((unheard,), 0)])
    value = network.loss(truth(), CLASSES, *network(batch))
    multimodal_cases.assert_all_learn(network, value)


def test_what_all_turns_have_in_common_squashes_nothing(network):
    """However much a layer adds to every turn, the head sees the same once it is centred."""
    batch = network.collate(passages())

    def trained():
        network.train()
        for module in network.modules():
            module.training = module is network  # the loss observes, nothing is dropped
        network.config |= {"mask_text": 0.0, "mask_speech": 0.0}
        for _ in range(150):
            network.loss(truth(), None, *network(batch))
            network.after_step()
        return network(batch)[0]

    with torch.no_grad():
        before = trained()
        network.ask_speech.feed[-1].bias += 30.0
        after = trained()
        added = network(batch)[3].numpy()
    torch.testing.assert_close(after, before, atol=1e-2, rtol=0)
    assert (before - before[0])[1:].abs().amax(dim=1).min() > 1e-2
    np.testing.assert_allclose(network.centred.mean, added.mean(axis=0), atol=0.06)
    np.testing.assert_allclose(network.centred.deviation, added.std(axis=0), atol=1e-3)


def test_statistics_run_as_numpy_computes():
    from wav2small.teachers.multimodal.bridge import Centred

    batches = np.random.default_rng(0).normal(3, 2, size=(15, 8, 4)).astype(np.float32)
    norm = Centred(4)
    mean, deviation = np.zeros(4), np.ones(4)
    for step, batch in enumerate(batches):
        norm.observe(torch.tensor(batch))
        before = norm(torch.tensor(batch))
        np.testing.assert_allclose(before, (batch - mean) / deviation, atol=1e-4)
        norm.advance()
        norm.advance()  # once for each batch
        share = max(0.1, 1 / (step + 1))
        mean = mean + share * (batch.mean(0) - mean)
        deviation = deviation + share * (batch.std(0) - deviation)
    np.testing.assert_allclose(norm.mean, mean, atol=1e-5)
    np.testing.assert_allclose(norm.deviation, deviation, atol=1e-5)


def test_modalities_are_masked_in_training_only(network):
    unheard = turn(9, text="again")._replace(signal=None)
    untold = turn(8, 0.3, None)
    kinds = [turn(3, 0.3), unheard, untold]
    batch = network.collate([Passage((one,), 0) for one in kinds * 400])
    torch.manual_seed(0)
    masked = network.masked(batch)
    has_speech, has_text = (
        present.view(400, 3).float() for present in (masked.audio.present, masked.text.present)
    )
    assert has_speech[:, 0].mean() == pytest.approx(0.9, abs=0.06)
    assert has_text[:, 0].mean() == pytest.approx(0.6, abs=0.08)
    assert (has_speech[:, 0] + has_text[:, 0]).min() == 1  # never both
    assert not has_speech[:, 1].any() and has_text[:, 1].all()  # what is alone stays
    assert has_speech[:, 2].all() and not has_text[:, 2].any()

    few = network.collate([Passage((turn(n, 0.3),), 0) for n in range(12)])
    quiet = network(few)[0]
    torch.testing.assert_close(quiet, network(few)[0])
    network.train()
    assert (network(few)[0] - quiet).abs().amax(dim=1).max() > 1e-4


def test_what_is_masked_changes_nothing(network):
    """A hidden transcript is none: what it said cannot leak."""
    one, other = turn(1), turn(1, text="bad today")
    network.config |= {"mask_text": 1.0, "mask_speech": 0.0}
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout | torch.nn.MultiheadAttention):
            module.eval()
    masked = network.masked(network.collate([Passage((one,), 0), Passage((other,), 0)]))
    outputs = network(masked)[0]
    silent = network(network.collate([Passage((one._replace(text=None),), 0)]))[0]
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-6, rtol=0)
    torch.testing.assert_close(outputs[0], silent[0], atol=1e-6, rtol=0)


def test_from_finetuning_to_a_label_table(encoders, corpus, tmp_path, capsys, monkeypatch):
    from wav2small.teachers.multimodal import bridge

    monkeypatch.setattr(bridge.Network, "defaults", bridge.Network.defaults | SMALL)
    _, entries, teacher = multimodal_cases.finetune_and_label("bridge", encoders, corpus, tmp_path)
    said = capsys.readouterr().err
    assert "1 of 16 clips have no transcript" in said
    assert "1 transcripts are longer than the text encoder takes and are cut" in said
    assert entries["speech encoder"]["id"] == encoders["speech"]
    assert entries["text encoder"]["id"] == encoders["text"]
    assert isinstance(teacher.network, multimodal.network_class("bridge"))
    silent = teacher.predict(np.ones((2, 8000), np.float32) * 0.1, np.array([8000, 6000]))
    assert silent.shape == (2, 3) and np.isfinite(silent).all()


def test_it_needs_both_encoders(encoders, corpus, tmp_path):
    with pytest.raises(Wav2SmallError, match="give --speech FOLDER and --text FOLDER"):
        finetune(
            corpus / "ratings.csv",
            tmp_path / "out",
            teacher="bridge",
            speech=encoders["speech"],
        )
    with pytest.raises(Wav2SmallError, match="model_type 'wavlm' is no text encoder"):
        finetune(
            corpus / "ratings.csv",
            tmp_path / "out",
            teacher="bridge",
            speech=encoders["speech"],
            text=encoders["speech"],
        )
