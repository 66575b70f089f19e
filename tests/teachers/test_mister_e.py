"""MiSTER-E: conversations of any length, losses by independent numpy, the way to a table."""

import multimodal_cases
import numpy as np
import pytest
import torch
from multimodal_cases import CLASSES, log_softmax, passages, truth, turn

from wav2small.teachers.multimodal import mister_e
from wav2small.teachers.multimodal.base import contrast, info_nce
from wav2small.teachers.multimodal.dialogue import Passage, Turn

SMALL = {"fusion_size": 16, "fusion_heads": 2, "contrast_size": 6}


@pytest.fixture
def network(encoders):
    return multimodal_cases.build("mister_e", encoders, **SMALL)


def test_a_padded_batch_is_its_items(network):
    multimodal_cases.assert_items_are_rows(network)


def test_the_turns_around_are_used(network):
    """A gap is a turn that is neither: it is not the same as a dialogue without it."""
    before, own, after = turn(1), turn(2, 0.9, "on a mat"), turn(3, 0.4, "very good")
    one = Passage((before, own, after), 1)
    changes = [
        one.with_own(own._replace(text="bad today")),
        one.with_own(own._replace(signal=turn(9, 0.9).signal)),
        Passage((before._replace(text="bad today"), own, after), 1),
        Passage((before, own, after._replace(text="bad today")), 1),
        Passage((before, own, after._replace(signal=turn(9, 0.4).signal)), 1),
        Passage((Turn(), own, after), 1),
        Passage((own, after), 0),
        Passage((before, own, after, Turn()), 1),
    ]
    with torch.no_grad():
        found = network(network.collate([one, *changes]))[0].numpy()
    assert np.abs(found[1:] - found[0]).max(axis=1).min() > 1e-6
    assert len({row.round(6).tobytes() for row in found}) == len(found)


def test_nobody_asks_who_speaks():
    """A turn has no field that could tell."""
    assert set(Turn._fields) == {"file", "start", "end", "text", "words", "signal"}


def test_the_mixture_is_that_of_the_experts(network):
    states = []
    network.gate.register_forward_hook(lambda module, given, found: states.append(found))
    with torch.no_grad():
        mixed, mixture, outputs, logits, *_ = network(network.collate(passages()))
    shares = states[0].numpy().astype(np.float64) / 2
    shares = np.exp(shares) / np.exp(shares).sum(axis=1, keepdims=True)
    expected = np.einsum("be,bed->bd", shares, outputs.numpy())
    np.testing.assert_allclose(mixed.numpy(), expected, atol=1e-5)
    each = np.exp([[log_softmax(row) for row in rows] for rows in logits.numpy()])
    found = np.exp([log_softmax(row) for row in mixture.numpy()])
    np.testing.assert_allclose(found, np.einsum("be,bec->bc", shares, each), atol=1e-5)


@pytest.mark.parametrize("classes", [CLASSES, None])
def test_the_loss_is_what_numpy_computes(network, classes):
    with torch.no_grad():
        given = network(network.collate(passages()))
        ratings = truth()
        ratings[3] = ratings[0] + 0.14  # near each other
        value = float(network.loss(ratings, classes, *given))
    outputs, logits, rated, categories, speech, text, both = (
        None if tensor is None else tensor.numpy().astype(np.float64) for tensor in given
    )
    expected = multimodal_cases.ccc_loss(ratings, outputs)
    expected += np.mean([multimodal_cases.ccc_loss(ratings, rated[:, e]) for e in range(3)])
    differences, divergences = [], []
    for a, b in ((0, 1), (0, 2), (1, 2)):
        differences.append(np.mean((rated[:, a] - rated[:, b]) ** 2))
        for p, q in zip(categories[:, a], categories[:, b], strict=True):
            p, q = log_softmax(p), log_softmax(q)
            divergences.append((np.exp(p) * (p - q)).sum() + (np.exp(q) * (q - p)).sum())
    expected += 0.1 * np.mean(differences)
    if classes is not None:
        expected += 0.3 * multimodal_cases.entropy(logits, classes)
        expected += 0.3 * np.mean(
            [multimodal_cases.entropy(categories[:, e], classes) for e in range(3)]
        )
    expected += 0.1 * np.mean(divergences)
    assert both.tolist() == [1, 1, 0, 1, 0]
    rows = [0, 1, 3]
    if classes is not None:  # 0 1 . 1 .
        alike = {0: [0], 1: [1, 3], 3: [1, 3]}
    else:
        alike = {0: [0, 3], 1: [1], 3: [0, 3]}
    expected += 0.1 * supervised(speech, text, rows, alike)
    assert value == pytest.approx(expected, abs=1e-5)


def supervised(one, other, rows, alike):
    """Supervised contrast of temperature .1 in both directions, turn by turn."""
    found = []
    for a, b in ((one, other), (other, one)):
        for row in rows:
            cosines = [a[row] @ b[k] / np.linalg.norm(a[row]) / np.linalg.norm(b[k]) for k in rows]
            logs = dict(zip(rows, log_softmax(np.array(cosines) / 0.1), strict=True))
            found.append(-np.mean([logs[k] for k in alike[row]]))
    return np.mean(found)


def test_contrast():
    random = np.random.default_rng(0)
    one, other = random.normal(size=(2, 7, 5))
    rows = list(range(7))
    tensors = torch.tensor(one).float(), torch.tensor(other).float()
    expected = supervised(one, other, rows, {row: [row] for row in rows})
    assert float(info_nce(*tensors, 10.0)) == pytest.approx(expected, abs=1e-5)
    nobody = info_nce(tensors[0][:0], tensors[1][:0], 10.0)
    assert float(nobody) == 0
    own = torch.eye(7).bool()
    assert float(contrast(tensors[0], tensors[0], 100.0, own)) == pytest.approx(0, abs=1e-5)


def test_who_is_alike():
    ratings = torch.tensor([[0.1, 0.2, 0.3], [0.2, 0.1, 0.4], [0.3, 0.2, 0.3], [0.1, 0.2, 0.9]])
    near = mister_e.positives(ratings, None)
    assert near.int().tolist() == [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]]
    named = mister_e.positives(ratings, torch.tensor([2, -1, 2, -1]))
    assert named.int().tolist() == [[1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]]


def test_gradients_reach_every_part_that_learns(network):
    network.speech.model.feature_extractor._freeze_parameters()
    value = network.loss(truth(), CLASSES, *network(network.collate(passages())))
    multimodal_cases.assert_all_learn(network, value)


def test_neither_audio_nor_text(network):
    text_only, untold = turn(1)._replace(signal=None), turn(1, text=None)
    for one in (text_only, untold):
        found = network(network.collate([Passage((one,), 0), Passage((one,), 0)]))
        value = network.loss(truth()[:2], None, *found)
        assert torch.isfinite(value) and found[-1].sum() == 0


def test_from_finetuning_to_a_label_table(encoders, corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(mister_e.Network, "defaults", mister_e.Network.defaults | SMALL)
    labels, entries, teacher = multimodal_cases.finetune_and_label(
        "mister_e", encoders, corpus, tmp_path
    )
    said = capsys.readouterr().err
    assert "1 of 16 clips have no transcript" in said
    assert "1 turns are missing in 1 dialogues; they have neither audio nor text" in said
    assert entries["speech encoder"]["id"] == encoders["speech"]
    # The label of a clip is the network's for its passage, read from the table by hand.
    from wav2small import audio

    def with_audio(number):
        row = labels.frame.iloc[number]
        return Turn(f"{number}.wav", text=row["text"], signal=audio.read(corpus / f"{number}.wav"))

    text_only = [with_audio(number)._replace(signal=None) for number in (4, 7)]  # but read
    dialogue = (text_only[0], with_audio(5), with_audio(6), Turn(), text_only[1])
    own = teacher.network(teacher.network.collate([Passage(dialogue, 2)]))[0]
    np.testing.assert_allclose(own[0].detach().clamp(0, 1), labels.values[6], atol=1e-4)
