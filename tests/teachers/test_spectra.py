"""SPECTRA: masks, the four losses by independent numpy, gradients, and the way to a label table."""

import dataclasses
import json

import finetuning_cases
import numpy as np
import pandas as pd
import pytest
import torch
from finetuning_cases import finetune, pretrain
from labelling_cases import label
from multimodal_cases import log_softmax

from wav2small import metrics, read_labels
from wav2small.benchmarks.studies import small_encoders
from wav2small.errors import Wav2SmallError
from wav2small.teachers import load_teacher
from wav2small.teachers.finetuning.multimodal_recipe import MultimodalRecipe, without_text
from wav2small.teachers.multimodal import spectra, spectra_objectives
from wav2small.teachers.multimodal import teacher as multimodal
from wav2small.teachers.multimodal.base import sinusoid
from wav2small.teachers.multimodal.dialogue import Passage, Turn
from wav2small.teachers.multimodal.spectra import Fused
from wav2small.teachers.multimodal.spectra_objectives import (
    Objectives,
    Response,
    Summary,
    Timing,
    hide,
    mask_frames,
    means,
)
from wav2small.transcripts import Word

TINY = {
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "conv_dim": [16, 16, 16],
    "num_conv_pos_embedding_groups": 2,
}
SMALL_TEXT = {
    "hidden_size": 24,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "max_position_embeddings": 42,
}
WORDS = "the cat sat on a mat and was very good or bad today again"


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders")
    small_encoders.speech(folder / "speech", **TINY)
    small_encoders.text(folder / "text", [WORDS], **SMALL_TEXT)
    return folder


def build(encoders, **changes):
    torch.manual_seed(0)
    start = multimodal.from_encoders(str(encoders / "speech"), str(encoders / "text"))
    dimensions = ("arousal", "dominance", "valence")
    return multimodal.build(
        "spectra", start, dimensions=dimensions, categories=("x", "y"), scale=(0.0, 0.1), **changes
    ).eval()


@pytest.fixture
def network(encoders, monkeypatch):
    monkeypatch.setattr(spectra_objectives, "SPAN", (3, 5))  # turns of half a second
    return build(encoders)


def turn(seed, seconds=0.5, text="the cat sat"):
    signal = np.random.default_rng(seed).normal(0, 0.1, round(16000 * seconds))
    words = None
    if text:
        step = seconds / len(text.split())
        words = tuple(Word(word, n * step, (n + 0.9) * step) for n, word in enumerate(text.split()))
    return Turn(f"{seed}.wav", 0, None, text, words, signal.astype(np.float32))


def passages():
    """With and without history, without text, without a previous turn, of several lengths."""
    quiet = turn(5)._replace(signal=None)
    return [
        Passage((turn(1), turn(2, 0.9, "on a mat and was")), 1),
        Passage((turn(3, 0.3),), 0),
        Passage((turn(4, 0.7, None),), 0),
        Passage((turn(6, 0.4, "very good"), Turn(), turn(7, 1.1, "or bad today")), 2),
        Passage((quiet, turn(8, 0.6, None)), 1),
    ]


def test_a_padded_batch_is_its_items(network):
    together = network(network.collate(passages()))
    for number, passage in enumerate(passages()):
        alone = network(network.collate([passage]))
        for one, all_ in zip(alone, together, strict=True):
            torch.testing.assert_close(one[0], all_[number], atol=1e-5, rtol=0)


@pytest.mark.parametrize("change", ["text", "history", "sound", "before"])
def test_it_uses_the_documented_inputs(network, change):
    one = passages()[0]
    other = {
        "text": one.with_own(one.own._replace(text="bad today")),
        "history": Passage((one.turns[0]._replace(text="bad today"), one.own), 1),
        "sound": one.with_own(one.own._replace(signal=turn(9, 0.9).signal)),
        "before": Passage((one.turns[0]._replace(signal=turn(9).signal), one.own), 1),
    }[change]
    found = network(network.collate([one, other]))[0]
    assert (found[0] - found[1]).abs().max() > 1e-5


def test_long_texts_keep_the_own_turn_and_the_nearest_history(network):
    """The oldest turn first; what does not fit is missing from the front."""
    limit = network.tokenizer.limit
    assert limit == 40  # 42 positions; RoBERTa's begin after the padding id
    history = [turn(n, text="cat " * 12) for n in range(3)]
    own = turn(9, text="mat " * 20)
    ids, distances, begins = network.tokens(Passage((*history, own), 3))
    assert len(ids) == limit and ids[-1] == network.tokenizer.last
    assert distances == [2] * (limit - 34) + [1] * 13 + [0] * 21
    assert begins == {0: 19, 1: 6, 2: -7}  # the front of turn 2 is missing
    ids, distances, begins = network.tokens(Passage((turn(1, text="mat " * 60),), 0))
    assert len(ids) == limit and ids[-1] == network.tokenizer.last and begins == {0: 1}
    network(network.collate([Passage((*history, own), 3)]))
    assert network.tokenizer.too_long(["mat " * 38, "mat " * 39]) == 1


def test_both_turns_go_through_the_encoder_jointly(network):
    """[audio_cls] previous [audio_sep] own, with the types that the text has, too."""
    one = passages()[0]
    batch = network.collate([one, passages()[2]])  # the second has no previous turn
    with torch.no_grad():
        found = network.encode_joint(batch.audio, torch.tensor([[0, 2], [1, 3]]))
        model, frames = network.speech.model, []
        for signal in (one.turns[0].signal, one.own.signal, passages()[2].own.signal):
            scaled = (torch.tensor(signal) - network.speech.mean) / (network.speech.std + 1e-6)
            projected = model.feature_projection(
                model.feature_extractor(scaled[None]).transpose(1, 2)
            )
            frames.append(projected[0][0])
        types = network.project_types(network.types.weight)
        for row, (before, own) in enumerate(
            ((frames[0], frames[1]), (network.no_speech[None], frames[2]))
        ):
            first = torch.cat([network.audio_cls[None], before]) + types[0]
            second = torch.cat([network.audio_sep[None], own]) + types[1]
            expected = model.encoder(torch.cat([first, second])[None]).last_hidden_state[0]
            length = len(expected)
            assert found.mask[row].sum() == length
            torch.testing.assert_close(found.hidden[row, :length], expected, atol=1e-5, rtol=0)
            assert found.own[row].nonzero()[:, 0].tolist() == list(range(2 + len(before), length))
        types = network.types(torch.tensor([[0] * 5 + [1] * 6]))
        tokens = batch.text.tokens[:1]
        read = network.text(tokens, batch.text.mask[:1], types)
        torch.testing.assert_close(network.encode_dialogue(batch)[0][:1], read)


def test_the_sinusoid_of_a_time():
    found = sinusoid(torch.tensor([0.0, 0.3]), 6).numpy()
    periods = 0.04 * (40 / 0.04) ** (np.arange(3) / 2)
    angles = 2 * np.pi * 0.3 / periods
    np.testing.assert_allclose(found[1], np.r_[np.sin(angles), np.cos(angles)], atol=1e-4)
    np.testing.assert_allclose(found[0], [0, 0, 0, 1, 1, 1], atol=1e-6)


def task_of(network):
    """The first task that has something of every kind."""
    objectives = Objectives(network)
    others = [[turn(20 + n, 0.5, "good today"), turn(30 + n, 0.8)] for n in range(5)]
    for seed in range(100):
        task = objectives.collate(passages(), others, np.random.default_rng(seed))
        if (task.targets >= 0).sum() > 2 and task.silent.any():
            return objectives, task
    raise AssertionError


@pytest.fixture(params=["published", "small"])
def either(request, encoders, monkeypatch):
    """A network with the published objectives, or with those for little data."""
    monkeypatch.setattr(spectra_objectives, "SPAN", (3, 5))  # turns of half a second
    return build(encoders, **(spectra.SMALL if request.param == "small" else {}))


def test_the_four_losses_are_what_numpy_computes(either):
    """Of fusions one by one, each with its own text and audio."""
    network = either
    objectives, task = task_of(network)
    batch, frames = task.batch, task.masked.shape[1]
    with torch.no_grad():
        sums, counts, scores = objectives(task)
        features = network.features(batch.audio)
        corrupted = features.clone()
        for row in range(15):
            for place in range(frames):
                corrupted[row, place] = features[row, task.source[row, place]]
                corrupted[row, place] *= not task.silent[row, place]
        text, mask = network.encode_dialogue(batch)
        fusions = {}
        for row in range(5):
            for kind in range(4):
                read = row + 5 * (kind // 2)
                pair = torch.tensor([[row, 5 + row + 5 * (kind % 2)]])
                joint = network.encode_joint(batch.audio, pair, corrupted)
                at = slice(read, read + 1)
                fusions[row, kind] = network.fuse(text[at], mask[at], batch.distance[at], joint)
        embeddings = network.text.model.get_input_embeddings().weight
        language, acoustic, position, away, response, right = ([] for _ in range(6))
        lengths = [[int(n) for n in task_frames(network, batch.audio.lengths[row::5])]
                   for row in range(5)]  # fmt: skip
        for row in range(5):
            fused = fusions[row, 0]
            said = objectives.language(fused.text[0]) @ embeddings.T + objectives.language_bias
            for place, target in enumerate(task.targets[row].tolist()):
                if target >= 0:
                    language.append(-log_softmax(said[place].numpy())[target])
            predicted = objectives.acoustic(fused.speech[0]).numpy()
            before = lengths[row][0] if batch.audio.present[row] else 1
            for turn_row, begin in ((row, 1), (5 + row, before + 2)):
                for place in np.flatnonzero(task.masked[turn_row]):
                    error = predicted[begin + place] - features[turn_row, place].numpy()
                    acoustic.append(np.abs(error).mean())
            words = task.row == row
            if words.any():
                at = torch.zeros(int(words.sum()), dtype=torch.long)
                placed = objectives.timing(fused, at, task.first[words], task.last[words])
                error = placed.numpy() / 10 - task.times[words].numpy()
                position += list((error**2).mean(axis=1))
                away += list(10 * np.abs(error).mean(axis=1))
            for kind in range(4):
                choice = objectives.response(fusions[row, kind])[0].numpy()
                if task.responds[row]:
                    response.append(-log_softmax(choice)[kind])
                    right.append(choice.argmax() == kind)
    kinds = [language, acoustic, position, response]
    assert all(len(kind) >= 2 for kind in kinds)
    weights = 1, 1, network.config["position_weight"], 1
    expected = sum(weight * np.mean(kind) for weight, kind in zip(weights, kinds, strict=True))
    assert float(objectives.loss(sums, counts, scores)) == pytest.approx(expected, abs=1e-5)
    figures = objectives.figures(sums, counts, scores)
    for name, kind in zip(("language", "acoustic", "position", "response"), kinds, strict=True):
        assert figures[name] == pytest.approx(np.mean(kind), abs=1e-5)
    assert figures["position_mae_s"] == pytest.approx(np.mean(away), abs=1e-5)
    assert figures["response_accuracy"] == pytest.approx(np.mean(right))


@pytest.mark.parametrize(
    "place, name, bound", [(0, "language", 0.1), (2, "position", 1e-4), (3, "response", 0.1)]
)
def test_an_objective_learns_one_batch_by_heart(place, name, bound, either):
    objectives, task = task_of(either)
    optimizer = torch.optim.Adam(objectives.train().parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
    for _ in range(100):
        sums, counts, _ = objectives(task)
        optimizer.zero_grad()
        means(sums, counts)[place].backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        figures = objectives.eval().figures(*objectives(task))
    assert figures[name] < bound


def task_frames(network, lengths):
    """Frames of clips, by the kernels and strides of the CNN."""
    config = network.speech.model.config
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        lengths = (lengths - kernel) // stride + 1
    return lengths


def test_losses_of_parts_are_those_of_the_batch(network):
    objectives, task = task_of(network)
    with torch.no_grad():
        full = objectives(task)
        sums, counts, rest = (tensor.repeat(2, 1) for tensor in full)
    one, two = objectives.loss(*full), objectives.loss(sums, counts, rest)
    torch.testing.assert_close(one, two)


def test_a_summary_is_what_numpy_computes():
    torch.manual_seed(0)
    summary, states = Summary(6), torch.randn(3, 5, 6)
    mask = torch.tensor([[1, 1, 0, 1, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]]).bool()
    found = summary(states, mask).detach().numpy()
    parts = [value.detach().numpy().astype(float) for value in summary.parameters()]
    for row in range(3):
        there = states[row, mask[row]].numpy().astype(float)
        scores = np.exp(there @ parts[0][0] + parts[1])
        expected = (scores / scores.sum()) @ (there @ parts[2].T + parts[3])
        np.testing.assert_allclose(found[row], expected if len(there) else 0, atol=1e-6)


@pytest.mark.parametrize(
    "part, place, times, answers",
    [
        ("text", (0, 1), True, True),  # of the history
        ("text", (0, 3), True, True),  # of the own turn
        ("text", (0, 5), False, False),  # padding
        ("speech", (0, 1), True, True),  # previous
        ("speech", (0, 3), True, False),  # audio_sep
        ("speech", (0, 5), True, True),  # own
        ("speech", (0, 6), False, False),
    ],
)
def test_heads_for_little_data_look_where_documented(part, place, times, answers):
    """Which of the two change when one position does; 7 frames, 6 tokens."""
    torch.manual_seed(0)
    timing, response = Timing(8, 2).eval(), Response(8, compared=True).eval()

    def marked(count, *places):
        return torch.tensor([[place in places for place in range(count)]])

    masks = {
        "own": marked(6, 3, 4),
        "history": marked(6, 0, 1, 2),
        "own_frames": marked(7, 4, 5),
        "previous_frames": marked(7, 1, 2),
        "frames": marked(7, 0, 1, 2, 3, 4, 5),
    }
    states = {"text": torch.randn(1, 6, 8), "speech": torch.randn(1, 7, 8)}
    at = torch.tensor([0]), torch.tensor([2]), torch.tensor([2])
    before = Fused(**states, **masks)
    states[part] = states[part].clone()
    states[part][place] += torch.randn(8)
    after = Fused(**states, **masks)
    assert torch.equal(timing(before, *at), timing(after, *at)) != times
    assert torch.equal(response(before), response(after)) != answers


def test_words_of_both_turns_are_timed_at_their_tokens(network):
    """Times over 10 s, from the beginning of the turn."""
    _, task = task_of(network)
    rows = task.row.numpy()
    before, own = passages()[0].turns
    ids, distances, _ = network.tokens(passages()[0])
    mine = np.flatnonzero(rows == 0)
    words = [(0, word) for word in own.timed()] + [(1, word) for word in before.timed()]
    assert len(mine) == len(words)
    for place, (distance, word) in zip(mine, words, strict=True):
        token = int(task.first[place])
        assert distances[token] == distance
        assert ids[token] == network.tokenizer.ids(word.word)[0]
        expected = [word.start / 10, word.end / 10]
        np.testing.assert_allclose(task.times[place].numpy(), expected, atol=1e-6)
    assert set(rows) == {0, 1, 3}  # the others have no words, or no audio


def test_words_of_a_turn_that_lost_its_front_are_timed_in_what_is_there(network):
    """Of a long previous turn the end is used: its words are later in the file than there."""
    before = turn(1, 1.0, "the cat sat on")
    late = before._replace(end=1_000_000_000, signal=before.signal[8000:])
    objectives = Objectives(network)
    passage = Passage((late, turn(2)), 1)
    task = objectives.collate([passage], [[turn(3), turn(4)]], np.random.default_rng(0))
    times = 10 * task.times.numpy()[3:]  # after the three words of the own turn
    np.testing.assert_allclose(times, [[0.0, 0.225], [0.25, 0.475]], atol=1e-5)


def test_responses_are_wrong_as_documented(network):
    objectives = Objectives(network)
    own = Passage((turn(1), passages()[1].own), 1)
    text, sound = turn(40, 0.5, "good today"), turn(41, 0.8)
    task = objectives.collate([own], [[text, sound]], np.random.default_rng(0))
    assert task.responds.tolist() == [True]
    lengths = [len(one.signal) for one in (own.turns[0], own.own, sound)]
    assert task.batch.audio.lengths.tolist() == lengths
    for row, words in enumerate(("the cat sat", "good today")):
        expected = network.tokenizer.ids(words)
        tokens = task.batch.text.tokens[row][task.batch.distance[row] == 0][: len(expected)]
        hidden = tokens == network.tokenizer.mask
        assert ((tokens == torch.tensor(expected)) | hidden).float().mean() > 0.5
    # 2 x text is wrong + audio is wrong
    fused, _, _ = objectives.fused(task)
    same = [torch.equal(fused.own_frames[0], fused.own_frames[kind]) for kind in range(4)]
    assert same == [True, False, True, False]
    assert [int(fused.own[kind].sum()) for kind in range(4)] == [4, 4, 3, 3]
    alone = objectives.collate([passages()[1]], [[text, sound]], np.random.default_rng(0))
    assert alone.responds.tolist() == [False]  # it responds to nothing


def test_gradients_reach_every_part_that_learns(network):
    objectives, task = task_of(network)
    network.speech.model.feature_extractor._freeze_parameters()
    objectives.loss(*objectives(task)).backward()
    for name, parameter in objectives.named_parameters():
        fine_tuned = name.startswith(("network.outputs", "network.categories", "network.dense"))
        fine_tuned |= name in ("network.no_text", "network.no_speech")
        if parameter.requires_grad and not fine_tuned:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    network.zero_grad()
    outputs = network(network.collate(passages()))
    truth, classes = torch.rand(5, 3), torch.tensor([0, 1, 0, 1, -1])
    network.loss(truth, classes, *outputs).backward()
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    "read, groups",
    [
        (None, [range(10)]),
        ([1, 0] * 5, [range(0, 10, 2), range(1, 10, 2)]),
        ([1] * 7 + [0] * 3, [range(10)]),  # too few for a CCC
        ([0] * 10, [range(10)]),
    ],
)
def test_clips_that_are_read_agree_for_themselves(read, groups, network):
    random = np.random.default_rng(0)
    truth, outputs = random.random((2, 10, 3))
    expected = 0
    for group in map(list, groups):
        found = [metrics.ccc(truth[group, i], outputs[group, i]) for i in range(3)]
        expected += len(group) / 10 * (3 - sum(found))
    flags = None if read is None else torch.tensor(read, dtype=torch.float32)
    found = network.loss(torch.tensor(truth), None, torch.tensor(outputs), None, flags)
    assert float(found) == pytest.approx(expected, abs=1e-6)


def test_each_turn_is_learned_with_and_without_its_text(encoders):
    """What stands for a turn without text is what such a turn gives; the loss weighs the two."""
    share = 0.3
    network = build(encoders, without_text_share=share, fusion_dropout=0.0, pooling="frames")
    given = passages()
    bare = [without_text(passage) for passage in given]
    expected = [network(network.collate(some))[:2] for some in (given, bare)]
    assert network.text_dropout == 0 and spectra.Network.text_dropout > 0
    found = network.train()(network.collate(given))
    assert found[2].tolist() == [1, 1, 0, 1, 1]
    for (outputs, logits), place in zip(expected, (0, 3), strict=True):
        torch.testing.assert_close(found[place], outputs, atol=1e-5, rtol=0)
        torch.testing.assert_close(found[place + 1], logits, atol=1e-5, rtol=0)
    truth, classes = torch.rand(5, 3), torch.tensor([0, 1, 0, 1, -1])
    value = 0.0
    for (outputs, logits), weight in zip(expected, (1 - share, share), strict=True):
        agreement = [metrics.ccc(truth[:, i].numpy(), outputs[:, i].detach()) for i in range(3)]
        entropy = -np.mean([log_softmax(logits[i].detach())[classes[i]] for i in range(4)])
        value += weight * (3 - sum(agreement) + 0.3 * entropy)
    loss = network.loss(truth, classes, *found)
    assert loss.item() == pytest.approx(value, abs=1e-5)
    loss.backward()
    assert network.no_text.grad.abs().sum() > 0


def test_the_head_also_reads_the_mean_of_the_own_frames(encoders):
    network = build(encoders, pooling="frames")
    text, speech = torch.rand(1, 2, 24), torch.rand(1, 5, 24)
    own = torch.tensor([[False, False, False, True, True]])
    fused = Fused(text, own[:, :2], own[:, :2], speech, own, ~own, own | True)
    pooled = text[:, 0].numpy() + speech[:, 3:].numpy().mean(1)
    expected = network.head(network.dense(torch.from_numpy(pooled)))
    for found, wanted in zip(network.read(fused), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_audio_of_previous_turns_is_hidden_in_training(encoders):
    """Of all of them, here: what remains is what a turn gives after one whose audio is missing."""
    network = build(encoders, previous_dropout=1.0, fusion_dropout=0.0)
    given = passages()[0]
    silent = Passage((given.turns[0]._replace(signal=None), given.own), 1)
    expected = network(network.collate([silent]))[0]
    assert (network(network.collate([given]))[0] - expected).abs().max() > 1e-4
    found = network.train()(network.collate([given]))[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_use_of_text_is_reported(network):
    has_text = network(network.collate(passages()))[2]
    assert has_text.tolist() == [1, 1, 0, 1, 1]  # the last reads what went before


def test_tokens_are_hidden_as_often_as_promised(network):
    tokens = torch.full((200, 50), 7)
    words = torch.ones_like(tokens, dtype=torch.bool)
    words[:, 0] = False
    hidden, targets = hide(tokens, words, network.tokenizer, np.random.default_rng(0))
    chosen = targets >= 0
    assert not chosen[:, 0].any() and (targets[chosen] == 7).all()
    assert (hidden[~chosen] == 7).all()
    assert chosen[:, 1:].float().mean() == pytest.approx(0.15, abs=0.015)
    shares = (hidden[chosen] == network.tokenizer.mask).float().mean()
    assert shares == pytest.approx(0.8, abs=0.05)
    kept = (hidden[chosen] == 7).float().mean()
    assert kept == pytest.approx(0.1, abs=0.04)


def spans(row):
    """Begins and lengths of what is masked."""
    edges = np.flatnonzero(np.diff(np.r_[0, row, 0]))
    return edges[::2], edges[1::2] - edges[::2]


def test_frames_are_masked_as_published():
    """Spans of one length per turn, 20 to 50 frames, about two thirds of a turn of 200."""
    frames = np.full(1000, 200)
    masked, silent, source = mask_frames(frames, np.random.default_rng(0))
    assert masked.mean() == pytest.approx(0.65, abs=0.03)
    seen = set()
    for row in masked:
        begins, lengths = spans(row)
        assert len(set(lengths)) == 1 and 20 <= lengths[0] <= 50
        assert (np.diff(begins) > 1.2 * lengths[0] - 1).all()
        seen.add(int(lengths[0]))
    assert len(seen) == 31
    moved = (source != np.arange(200)) & masked
    assert not (source != np.arange(200))[~masked].any() and not silent[~masked].any()
    assert silent[masked].mean() == pytest.approx(0.8, abs=0.01)  # frame by frame
    assert moved[masked].mean() == pytest.approx(0.1, abs=0.01)
    short, _, _ = mask_frames(np.array([15, 200]), np.random.default_rng(0))
    assert not short[0].any()  # no span fits


def test_a_share_of_the_frames_is_masked_where_little_data_wants_it():
    frames = np.full(1000, 300)
    masked, silent, _ = mask_frames(frames, np.random.default_rng(0), share=0.15)
    assert masked.mean() == pytest.approx(0.13, abs=0.025)  # spans may overlap
    lengths = np.concatenate([spans(row)[1] for row in masked])
    assert lengths.min() >= 20 and lengths.max() <= 50
    assert silent[masked].mean() == pytest.approx(0.8, abs=0.02)
    short, _, _ = mask_frames(np.array([5, 3]), np.random.default_rng(0), share=0.15)
    assert short[1].sum() == 3


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Sixteen turns of noise, one without a transcript; the louder, the more aroused."""
    import soundfile

    folder = tmp_path_factory.mktemp("corpus")
    random = np.random.default_rng(0)
    rows = []
    for number in range(16):
        value = random.uniform(0.1, 0.9)
        soundfile.write(folder / f"{number}.wav", random.normal(0, 0.1 * value, 9600), 16000)
        words = WORDS.split()[number % 5 : number % 5 + 3]
        timed = [{"word": w, "start": 0.1 * n, "end": 0.1 * n + 0.1} for n, w in enumerate(words)]
        rows.append(
            {
                "file": f"{number}.wav",
                "arousal": value,
                "dominance": 1 - value,
                "valence": random.uniform(),
                "text": " ".join(words) if number else None,
                "words": json.dumps(timed) if number else None,
                "dialogue": number // 4,
                "turn": number % 4,
                "speaker": f"s{number % 4}",
                "emotion": "high" if value > 0.5 else "low",
            }
        )
    pd.DataFrame(rows).to_csv(folder / "ratings.csv", index=False)
    return folder


OPTIONS = {"batch_size": 6, "micro_batch": 4, "learning_rate": 1e-3, "device": "cpu"}


def test_from_pretraining_to_a_label_table(encoders, corpus, tmp_path, capsys):
    speech, text = str(encoders / "speech"), str(encoders / "text")
    ratings = corpus / "ratings.csv"
    first = pretrain(
        "spectra", ratings, tmp_path / "pre", speech=speech, text=text, epochs=2, **OPTIONS
    )
    assert set(first.figures) >= {"language", "acoustic", "position", "response"}
    with pytest.raises(Wav2SmallError, match="fine-tune it first"):
        load_teacher(str(tmp_path / "pre"))
    result = finetune(
        ratings,
        tmp_path / "teacher",
        teacher="spectra",
        pretrained=str(tmp_path / "pre"),
        categories="emotion",
        validation="speaker=s0,s1",
        epochs=3,
        **OPTIONS,
    )
    assert not result.rejected
    assert capsys.readouterr().err.count("1 of 16 clips have no transcript") == 2
    table = tmp_path / "labels.parquet"
    label(ratings, table, teacher=str(tmp_path / "teacher"), workers=0, device="cpu")
    assert "1 of 16 clips have no transcript" in capsys.readouterr().err
    labels = read_labels(table)
    assert {"probability_high", "probability_low", "text"} <= set(labels.frame)
    assert labels.frame["arousal"].nunique() > 10
    # The best epoch is chosen by what the teacher predicts for validation clips, read or not.
    truth = pd.read_csv(ratings)
    truth.drop(columns=["text", "words"]).to_csv(corpus / "unread.csv", index=False)
    unread = tmp_path / "unread.parquet"
    label(corpus / "unread.csv", unread, teacher=str(tmp_path / "teacher"), workers=0, device="cpu")
    held_out = truth["speaker"].isin(["s0", "s1"]).to_numpy()
    for found, reported in ((labels, result.ccc), (read_labels(unread), result.ccc_without_text)):
        for name in ("arousal", "dominance", "valence"):
            expected = metrics.ccc(truth[name][held_out].values, found.frame[name][held_out].values)
            assert reported[name] == pytest.approx(expected, abs=1e-4)
    assert result.ccc != result.ccc_without_text
    scores = pd.read_csv(tmp_path / "teacher/metrics.csv")
    best = scores.iloc[result.best_epoch - 1]
    means = [np.mean(list(ccc.values())) for ccc in (result.ccc, result.ccc_without_text)]
    assert best["mean"] == pytest.approx(np.mean(means))
    assert best["mean"] == scores["mean"].max()
    entries = {entry["name"]: entry for entry in labels.provenance["teachers"]}
    assert entries["spectra"]["reads"] == "text"
    for name, folder in (("speech encoder", speech), ("text encoder", text)):
        assert entries[name]["id"] == folder and entries[name]["licence"] == "unknown"
    assert "unknown" in result.licence
    # The teacher predicts for a clip what the network predicts for its passage.
    teacher = load_teacher(str(tmp_path / "teacher"), device="cpu")
    assert teacher.dimensions == ("arousal", "dominance", "valence")
    audio_batch = [(np.stack([turn(n).signal for n in range(4)])), np.full(4, 8000)]
    read = [Passage((turn(n)._replace(signal=None),), 0) for n in range(4)]
    full = teacher.predict_columns(*audio_batch, read)
    teacher._fits = 1.0  # as after a GPU ran out of memory: batches are halved
    halves = teacher.predict_columns(*audio_batch, read)
    np.testing.assert_allclose(halves["valence"], full["valence"], atol=1e-5)
    silent = teacher.predict(np.ones((2, 8000), np.float32) * 0.1, np.array([8000, 6000]))
    assert silent.shape == (2, 3) and np.isfinite(silent).all()


def test_pretraining_goes_on_where_it_was(encoders, corpus, tmp_path, monkeypatch):
    options = {
        "speech": str(encoders / "speech"),
        "text": str(encoders / "text"),
        "epochs": 2,
        **OPTIONS,
    }
    source = corpus / "ratings.csv"
    full = pretrain("spectra", source, tmp_path / "full", **options)
    for step in (1, 2):
        with finetuning_cases.stop_after(monkeypatch, step), pytest.raises(KeyboardInterrupt):
            pretrain("spectra", source, tmp_path / "parts", **options)
    with pytest.raises(Wav2SmallError, match=r"batch_size = 6 \(now 5\)"):
        pretrain("spectra", source, tmp_path / "parts", **(options | {"batch_size": 5}))
    parts = pretrain("spectra", source, tmp_path / "parts", **options)
    assert parts.losses == full.losses
    assert dataclasses.asdict(parts) | {"output": ""} == dataclasses.asdict(full) | {"output": ""}


def test_fine_tuning_can_begin_with_the_speech_encoder_before_pretraining(
    encoders, corpus, tmp_path
):
    given = {"speech": str(encoders / "speech"), "text": str(encoders / "text")}
    pretrain("spectra", corpus / "ratings.csv", tmp_path, epochs=1, **given, **OPTIONS)
    starts = {
        name: MultimodalRecipe("spectra", **start).start
        for name, start in {
            "encoders": given,
            "pretrained": {"pretrained": str(tmp_path)},
            "both": {"pretrained": str(tmp_path), "speech": given["speech"]},
        }.items()
    }
    for key, value in starts["both"].weights.items():
        source = "encoders" if key.startswith("speech.model.") else "pretrained"
        assert torch.equal(value, starts[source].weights[key]), key
    moved = starts["encoders"].weights, starts["pretrained"].weights
    assert any(not torch.equal(moved[0][key], moved[1][key]) for key in moved[0])
    assert starts["both"].identity != starts["pretrained"].identity
    small_encoders.speech(tmp_path / "other", **{**TINY, "hidden_size": 8})
    with pytest.raises(Wav2SmallError, match="other layers than the speech encoder"):
        MultimodalRecipe("spectra", str(tmp_path / "other"), pretrained=str(tmp_path))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"teacher": "spectre"}, "--teacher spectre: give one of"),
        ({"teacher": "spectra", "speech": "here"}, "give --speech FOLDER and --text FOLDER"),
        ({"teacher": "spectra", "backbone": "here"}, "--backbone and --layers are"),
        ({"speech": "here"}, "give --backbone FOLDER"),
        ({}, "give --backbone FOLDER"),
    ],
)
def test_wrong_usage(options, message, corpus, tmp_path):
    with pytest.raises(Wav2SmallError, match=message):
        finetune(corpus / "ratings.csv", tmp_path / "out", device="cpu", **options)


def test_pretraining_needs_transcripts_and_dialogues(encoders, corpus, tmp_path):
    options = {"speech": str(encoders / "speech"), "text": str(encoders / "text")}
    table = pd.read_csv(corpus / "ratings.csv")
    for name, columns, message in (
        ("a", {"text": None, "words": None}, "no transcripts"),
        ("b", {"dialogue": 1, "turn": range(16)}, "there is only one"),
    ):
        table.assign(**columns).to_csv(corpus / f"{name}.csv", index=False)
        with pytest.raises(Wav2SmallError, match=message):
            pretrain("spectra", corpus / f"{name}.csv", tmp_path / name, **options)
    with pytest.raises(Wav2SmallError, match="give one of"):
        pretrain("other", corpus / "ratings.csv", tmp_path / "c", **options)


#: What of the published state dict is not an encoder, with the sizes of this test's encoders.
PUBLISHED = {
    "audio_encoder.audio_cls": (24,),
    "audio_encoder.audio_sep": (24,),
    "audio_encoder.masked_spec_embed": (24,),
    "text_encoder.embeddings.position_ids": (1, 42),
    "text_encoder.pooler.dense.weight": (24, 24),
    "text_encoder.pooler.dense.bias": (24,),
    "token_type_embeddings.weight": (2, 24),
    **{
        f"fused_encoder.0.{name}.{end}": shape if end == "weight" else shape[:1]
        for name, shape in {
            "attention.self.query": (24, 24),
            "attention.self.key": (24, 24),
            "attention.self.value": (24, 24),
            "attention.output.dense": (24, 24),
            "attention.output.LayerNorm": (24,),
            "intermediate.dense": (40, 24),
            "output.dense": (24, 40),
            "output.LayerNorm": (24,),
        }.items()
        for end in ("weight", "bias")
    },
}


@pytest.fixture
def published(tmp_path):
    """A folder of the layout of SPECTRA-base, with a deep CNN as theirs and random weights."""
    import transformers
    from safetensors.torch import save_file

    from wav2small.teachers.speech import backbones, checkpoint

    folder = tmp_path / "spectra-base"
    text = {**SMALL_TEXT, "intermediate_size": 40, "type_vocab_size": 2, "num_fused_layers": 1}
    small_encoders.text(folder, [WORDS], **text)
    (folder / "config.json").rename(folder / "text_config.json")
    audio = {
        **small_encoders.SPEECH,
        **TINY,
        "hidden_size": 24,
        "conv_dim": [16] * 4,
        "conv_kernel": [160, 8, 4, 2],
        "conv_stride": [80, 4, 2, 2],
        "num_feat_extract_layers": 4,
    }
    (folder / "audio_config.json").write_text(json.dumps(audio))
    config = transformers.RobertaConfig(**json.loads((folder / "text_config.json").read_text()))
    torch.manual_seed(0)
    parts = {
        "audio_encoder": backbones.build(audio, "here").state_dict(),
        "text_encoder": transformers.RobertaModel(config, add_pooling_layer=False).state_dict(),
    }
    state = {
        f"model.{part}.{checkpoint.published(key)}": value.clone()
        for part, values in parts.items()
        for key, value in values.items()
    }
    for key, shape in PUBLISHED.items():
        state[f"model.{key}"] = torch.randn(shape)
    state["selection_head.weight"] = torch.randn(4, 24)
    save_file({key: value.contiguous() for key, value in state.items()},
              folder / "model.safetensors")  # fmt: skip
    return folder


def test_the_published_checkpoint_computes_what_its_own_code_would(published):
    """Encoders of transformers and a RoBERTa layer, joined by hand as the authors' code does."""
    import transformers
    from safetensors.torch import load_file
    from transformers.models.roberta.modeling_roberta import RobertaLayer

    start = multimodal.from_pretrained(str(published), "spectra")
    assert start.entries[0]["name"] == "pretrained spectra" and start.scale is None
    network = multimodal.build("spectra", start, dimensions=("valence",), scale=(0.0, 0.1)).eval()
    state = load_file(published / "model.safetensors")
    config = transformers.RobertaConfig(
        **json.loads((published / "text_config.json").read_text()), attn_implementation="eager"
    )
    layer = RobertaLayer(config).eval()
    prefix = "model.fused_encoder.0."
    layer.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if prefix in k})
    text = transformers.RobertaModel(config, add_pooling_layer=False).eval()
    prefix = "model.text_encoder."
    own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    own = {k: v for k, v in own.items() if "pooler" not in k and "position_ids" not in k}
    text.load_state_dict(own, strict=False)
    types = own["embeddings.token_type_embeddings.weight"]

    batch = network.collate([passages()[0]])
    with torch.no_grad():
        kinds = (batch.distance == 0).long()
        read = text(
            input_ids=batch.text.tokens,
            attention_mask=batch.text.mask.long(),
            token_type_ids=kinds,
        ).last_hidden_state
        model = network.speech.model
        hidden = model.feature_projection(network.features(batch.audio))[0]
        before, after = task_frames(network, batch.audio.lengths).tolist()
        cls, sep = (state[f"model.audio_encoder.audio_{name}"][None] for name in ("cls", "sep"))
        joined = torch.cat([cls, hidden[0, :before], sep, hidden[1, :after]])
        joined = joined + types[[0] * (before + 1) + [1] * (after + 1)]
        speech = model.encoder(joined[None]).last_hidden_state
        modality = state["model.token_type_embeddings.weight"]
        both = torch.cat([read + modality[0], speech + modality[1]], dim=1)
        expected = layer(both)
        expected = expected[0] if isinstance(expected, tuple) else expected
        joint = network.encode_joint(batch.audio, torch.tensor([[0, 1]]))
        fused = network.fuse(*network.encode_dialogue(batch), batch.distance, joint)
        found = torch.cat([fused.text, fused.speech], dim=1)
    torch.testing.assert_close(found, expected.view_as(found), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"drop": "model.audio_encoder.audio_sep"}, "lacks key audio_sep"),
        ({"drop": "model.fused_encoder.0.attention.self.key.bias"}, "lacks key fusion.self_attn"),
        ({"add": "model.fused_encoder.1.output.dense.bias"}, "unexpected key fused_encoder.1"),
        ({"text": {"num_fused_layers": 2}}, "2 fusion layers and 2 token types; SPECTRA-base has"),
        ({"text": {"type_vocab_size": 1}}, "1 fusion layers and 1 token types"),
    ],
)
def test_a_published_checkpoint_that_differs_is_one_clear_line(change, message, published):
    from safetensors.torch import load_file, save_file

    state = load_file(published / "model.safetensors")
    state.pop(change.get("drop"), None)
    if "add" in change:
        state[change["add"]] = torch.zeros(2)
    save_file(state, published / "model.safetensors")
    text = json.loads((published / "text_config.json").read_text()) | change.get("text", {})
    (published / "text_config.json").write_text(json.dumps(text))
    with pytest.raises(Wav2SmallError, match=message) as caught:
        multimodal.from_pretrained(str(published), "spectra")
    assert "\n" not in str(caught.value)


def test_a_folder_without_its_text_config_is_one_clear_line(network, tmp_path):
    multimodal.save(network, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["text_config"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(Wav2SmallError, match="config.json: no field `text_config`"):
        multimodal.from_pretrained(str(tmp_path), "spectra")
