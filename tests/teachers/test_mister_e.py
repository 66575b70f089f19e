"""MiSTER-E: conversations of any length, losses by independent numpy, the way to a table."""

import json
from dataclasses import replace

import multimodal_cases
import numpy as np
import pytest
import torch
from multimodal_cases import CLASSES, log_softmax, passages, truth, turn

from wav2small.errors import Wav2SmallError
from wav2small.teachers.multimodal import mister_e
from wav2small.teachers.multimodal import teacher as multimodal
from wav2small.teachers.multimodal.base import info_nce
from wav2small.teachers.multimodal.dialogue import WHOLE, Context, Passage, Turn

SMALL = {"context_size": 16, "cross_size": 16, "cross_inner": 12}


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
    """A turn has no field for it."""
    assert set(Turn._fields) == {"file", "start", "end", "text", "words", "signal"}


def test_a_context_expert_is_what_numpy_computes():
    """ReLU after each convolution, their sum, the recurrent layers, a linear skip."""
    torch.manual_seed(0)
    expert, turns = mister_e.ContextExpert(6, 4), torch.randn(2, 5, 6)
    turns[1, 3:] = 0
    with torch.no_grad():
        found = expert(turns, torch.tensor([5, 3])).numpy()
        for row, count in ((0, 5), (1, 3)):
            x = turns[row, :count].double().numpy()
            mixed = 0
            for layer in expert.convolutions:
                weight = layer.weight.double().numpy()
                padded = np.pad(x, ((layer.padding[0],) * 2, (0, 0)))
                cut = [padded[n : n + weight.shape[2]] for n in range(count)]
                mixed += np.maximum(np.einsum("oik,nki->no", weight, cut) + layer.bias.numpy(), 0)
            states, _ = expert.recurrent(torch.tensor(mixed).float()[None])
            skip = x @ expert.skip.weight.double().numpy().T + expert.skip.bias.numpy()
            np.testing.assert_allclose(found[row, :count], states[0].numpy() + skip, atol=1e-5)


def test_attentive_statistics_are_what_numpy_computes():
    torch.manual_seed(0)
    pool, states = mister_e.AttentiveStatistics(3), torch.randn(2, 4, 3)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    with torch.no_grad():
        found = pool(states, mask).numpy()
        scores = pool.weight(pool.hidden(states).tanh())[..., 0].double().numpy()
    for row, count in ((0, 4), (1, 2)):
        shares = np.exp([log_softmax(scores[row, :count])])[0][:, None]
        x = states[row, :count].double().numpy()
        mean = (shares * x).sum(0)
        deviation = np.sqrt((shares * (x - mean) ** 2).sum(0) + 1e-6)
        np.testing.assert_allclose(found[row], np.r_[mean, deviation], atol=1e-5)


@pytest.mark.parametrize("exclude, training", [(True, False), (False, False), (True, True)])
def test_the_mixture_is_that_of_the_experts(encoders, exclude, training):
    """The gate sees the experts' estimates, its softmax has a temperature of 2, and after training
    an expert whose modality the turn lacks has no share, unless the option lets it."""
    network = multimodal_cases.build("mister_e", encoders, exclude_missing=exclude, **SMALL)
    network.training = training  # without dropout
    given, gates = [], []
    network.gate.register_forward_hook(lambda module, inputs, output: given.append(inputs[0]))
    network.gate.register_forward_hook(lambda module, inputs, output: gates.append(output))
    cases = [*passages(), Passage((turn(1), turn(2)._replace(signal=None)), 1)]
    with torch.no_grad():
        mixed, mixture, outputs, logits, *_ = network(network.collate(cases))
    estimates = np.concatenate([outputs.numpy(), logits.numpy()], axis=2).reshape(6, -1)
    np.testing.assert_allclose(given[0].numpy(), estimates, atol=1e-6)
    shares = np.exp([log_softmax(row / 2) for row in gates[0].numpy()])
    if exclude and not training:
        for row, expert in ((2, 1), (4, 1), (5, 0)):  # 0 = speech, 1 = text
            shares[row, expert] = 0
            shares[row] /= shares[row].sum()
    for found, each in ((mixed, outputs), (mixture, logits)):
        expected = np.einsum("be,bed->bd", shares, each.numpy())
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("classes", [CLASSES, None])
def test_the_loss_is_what_numpy_computes(network, classes):
    with torch.no_grad():
        given = network(network.collate(passages()))
        ratings = truth()
        value = float(network.loss(ratings, classes, *given))
    outputs, logits, rated, guesses, speech, text, both = (
        tensor.numpy().astype(np.float64) for tensor in given
    )
    expected = multimodal_cases.ccc_loss(ratings, outputs)
    expected += sum(multimodal_cases.ccc_loss(ratings, rated[:, e]) for e in range(3))
    if classes is not None:
        expected += focal(logits, classes) + sum(focal(guesses[:, e], classes) for e in range(3))
    differences, divergences = [], []
    for a, b in ((0, 1), (0, 2), (1, 2)):
        differences.append(np.mean((rated[:, a] - rated[:, b]) ** 2))
        for p, q in zip(guesses[:, a], guesses[:, b], strict=True):
            p, q = log_softmax(p), log_softmax(q)
            divergences.append((np.exp(p) * (p - q)).sum() + (np.exp(q) * (q - p)).sum())
    expected += 0.1 * (np.mean(differences) + np.mean(divergences))
    assert both.tolist() == [1, 1, 0, 1, 0]
    rows = [0, 1, 3]
    if classes is not None:  # 0 1 . 1 .
        alike = np.array([[1, 0, 0], [0, 1, 1], [0, 1, 1]], float)
    else:
        away = ratings.numpy()[rows][:, None] - ratings.numpy()[rows][None]
        alike = np.exp(-(away.astype(float) ** 2).sum(axis=2) / (2 * 0.15**2))
    expected += 2 * supervised(speech[rows], text[rows], alike, 1.0)
    assert value == pytest.approx(expected, abs=1e-5)


def focal(logits, classes):
    """Mean of (1 - p)^3 times the cross-entropy of the known classes."""
    logs = [log_softmax(row)[n] for row, n in zip(logits, classes.tolist(), strict=True) if n >= 0]
    return np.mean([(1 - np.exp(log)) ** 3 * -log for log in logs])


def supervised(speech, text, alike, temperature):
    """Supervised contrast of all states of both modalities, state by state."""
    states = np.concatenate([speech, text])
    states /= np.linalg.norm(states, axis=1, keepdims=True)
    turns = len(speech)
    losses = []
    for one in range(2 * turns):
        others = [other for other in range(2 * turns) if other != one]
        logs = log_softmax(np.array([states[one] @ states[k] for k in others]) / temperature)
        weights = np.array([alike[one % turns, k % turns] for k in others])
        losses.append(-(weights * logs).sum() / weights.sum())
    return np.mean(losses)


def test_contrast_of_few():
    random = np.random.default_rng(0)
    speech, text = random.normal(size=(2, 7, 5))
    tensors = torch.tensor(speech).float(), torch.tensor(text).float()
    own = np.eye(7)
    expected = supervised(speech, text, own, 0.5)
    assert float(mister_e.contrast(*tensors, torch.eye(7), 0.5)) == pytest.approx(
        expected, abs=1e-5
    )
    assert float(mister_e.contrast(tensors[0][:0], tensors[1][:0], torch.eye(0), 1.0)) == 0
    assert float(info_nce(tensors[0][:0], tensors[1][:0], 10.0)) == 0


def test_a_turn_of_several_passages_is_encoded_once(network):
    turns = turn(1), turn(2, 0.9, "on a mat"), turn(3, 0.4, None), turn(1)
    batch = network.collate([Passage(turns, at) for at in range(4)])
    assert len(batch.audio.signal) == 3 and len(batch.text.tokens) == 2
    assert batch.audio_at.tolist() == [0, 1, 2, 0] * 4
    assert batch.text_at.tolist() == [0, 1, 2, 0] * 4  # 2: none
    with torch.no_grad():
        together = network(batch)[0]
        alone = [network(network.collate([Passage(turns, at)]))[0][0] for at in range(4)]
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "options, expected",
    [([], (WHOLE, WHOLE)), (["small"], (4, 1)), (["small", "turns=2", "audio_turns=0"], (2, 0))],
)
def test_the_context_is_the_conversation_or_as_the_options_set(options, expected, encoders):
    changes = multimodal.options("mister_e", options)
    context = multimodal_cases.build("mister_e", encoders, **{**changes, **SMALL}).context
    assert context == Context(expected[0], expected[0], expected[1], expected[1])


@pytest.mark.parametrize("word", ["turn=2", "turns", "large"])
def test_options_that_are_none_are_named(word):
    with pytest.raises(Wav2SmallError, match=f"--set {word}: mister_e has small and .*turns=null"):
        multimodal.options("mister_e", [word])


@pytest.mark.parametrize(
    "system, word, message",
    [
        ("mister_e", "turns=many", 'turns="many": give an integer from 0'),
        ("mister_e", "turns=-1", "turns=-1: give an integer from 0"),
        ("mister_e", "turns=1.5", "turns=1.5: give an integer from 0"),
        ("mister_e", "cross_size=0", "cross_size=0: give an integer above 0"),
        ("mister_e", "cross_size=null", "cross_size=null: give an integer above 0"),
        ("mister_e", "cross_size=true", "cross_size=true: give an integer above 0"),
        ("mister_e", "focus=high", 'focus="high": give a number from 0'),
        ("mister_e", "contrast_temperature=0", "contrast_temperature=0: give a number above 0"),
        ("mister_e", "exclude_missing=1", "exclude_missing=1: give true or false"),
        ("bridge", "bridge_tokens=0", "bridge_tokens=0: give an integer above 0"),
        ("spectra", "word_times=layers", 'word_times="layers": give linear or layer'),
        ("bridge", "mask_text=2", "mask_text=2: give a number from 0 to 1"),
        ("calm", "fusion_dropout=1.5", "fusion_dropout=1.5: give a number from 0 to 1"),
        ("spectra", "acoustic_share=-1", "acoustic_share=-1: give a number from 0 to 1"),
    ],
)
def test_values_that_an_option_cannot_have_are_named(system, word, message):
    with pytest.raises(Wav2SmallError, match=f"^--set: {message}$"):
        multimodal.options(system, [word])


@pytest.mark.parametrize("system", multimodal.SYSTEMS)
def test_defaults_and_options_for_little_data_are_allowed(system):
    kind = multimodal.network_class(system)
    for name, value in (*kind.defaults.items(), *kind.small.items()):
        assert multimodal.options(system, [f"{name}={json.dumps(value)}"]) == {name: value}
    if kind.small:
        assert multimodal.options(system, ["small"]) == kind.small


@pytest.mark.parametrize(
    "changes, reason",
    [({"cross_heads": 5}, "embed_dim must be divisible"), ({"context_size": 17}, "17 is odd")],
)
def test_options_that_do_not_go_together_are_one_clear_line(changes, reason, encoders):
    with pytest.raises(Wav2SmallError, match="no mister_e can be built of .*" + reason) as caught:
        multimodal_cases.build("mister_e", encoders, **{**SMALL, **changes})
    assert "\n" not in str(caught.value)


def test_gradients_reach_every_part_that_learns(network):
    network.speech.model.feature_extractor._freeze_parameters()
    value = network.loss(truth(), CLASSES, *network(network.collate(passages())))
    multimodal_cases.assert_all_learn(network, value)


def test_neither_audio_nor_text(network):
    silent, wordless = turn(1)._replace(signal=None), turn(1, text=None)
    for one in (silent, wordless):
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

    dialogue = (
        with_audio(4),
        with_audio(5),
        with_audio(6),
        Turn(),
        with_audio(7),
    )
    own = teacher.network(teacher.network.collate([Passage(dialogue, 2)]))[0]
    np.testing.assert_allclose(own[0].detach().clamp(0, 1), labels.values[6], atol=1e-4)


def test_an_epoch_goes_dialogue_by_dialogue(encoders, corpus):
    from wav2small import transcripts
    from wav2small.tables import read_labels
    from wav2small.teachers.finetuning.multimodal_recipe import MultimodalRecipe

    table = read_labels(corpus / "ratings.csv")
    table = replace(table, frame=transcripts.normalise(table.frame, "ratings.csv"))
    orders = {}
    for system in ("mister_e", "bridge"):
        clips = MultimodalRecipe(system, **encoders).clips(table, None, 3.0)
        orders[system] = clips.shuffled(np.arange(16), np.random.default_rng(0))
        assert sorted(orders[system]) == list(range(16))
    dialogues = orders["mister_e"].reshape(4, 4) // 4
    assert (dialogues == dialogues[:, :1]).all() and dialogues[:, 0].tolist() != [0, 1, 2, 3]
    assert np.diff(orders["bridge"] // 4).astype(bool).sum() > 5  # turn by turn
