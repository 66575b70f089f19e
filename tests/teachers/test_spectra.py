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

from wav2small import metrics, read_labels
from wav2small.benchmarks.studies import small_encoders
from wav2small.errors import Wav2SmallError
from wav2small.teachers import load_teacher
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


@pytest.fixture
def network(encoders):
    torch.manual_seed(0)
    start = multimodal.from_encoders(str(encoders / "speech"), str(encoders / "text"))
    dimensions = ("arousal", "dominance", "valence")
    return multimodal.build(
        "spectra", start, dimensions=dimensions, categories=("x", "y"), scale=(0.0, 0.1)
    ).eval()


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
    limit = network.tokenizer.limit
    assert limit == 40  # 42 positions; RoBERTa's begin after the padding id
    history = [turn(n, text="cat " * 12) for n in range(3)]
    own = turn(9, text="mat " * 20)
    ids, distances = network.tokens(Passage((*history, own), 3))
    assert len(ids) == limit
    assert distances == [0] * 22 + [1] * 13 + [2] * (limit - 35)
    ids, distances = network.tokens(Passage((turn(1, text="mat " * 60),), 0))
    assert len(ids) == limit and ids[-1] == network.tokenizer.last
    network(network.collate([Passage((*history, own), 3)]))
    assert network.tokenizer.too_long(["mat " * 38, "mat " * 39]) == 1


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
        if (task.targets >= 0).sum() > 2 and task.response[0] == 0 and task.silent.any():
            return objectives, task
    raise AssertionError


def test_the_four_losses_are_what_numpy_computes(network):
    objectives, task = task_of(network)
    with torch.no_grad():
        sums, counts, rest = objectives(task)
        features = network.features(task.batch.audio)
        at = task.source[..., None].expand(-1, -1, features.shape[2])
        corrupted = features.gather(1, at)
        corrupted[task.silent] = 0
        fused = network.fuse(task.batch, corrupted)
        embeddings = network.text.model.get_input_embeddings().weight
        logits = (objectives.language(fused.text) @ embeddings.T + objectives.language_bias).numpy()
        frames = objectives.acoustic(fused.speech).numpy()
        placed = objectives.timing(fused, task.row, task.first, task.last).numpy()
        choice = objectives.response(fused).numpy()

    def entropy(row, target):
        row = row.astype(np.float64)
        return np.log(np.exp(row - row.max()).sum()) + row.max() - row[target]

    targets = task.targets.numpy()
    language = [entropy(logits[b, n], targets[b, n]) for b, n in np.argwhere(targets >= 0)]
    own = features[5:].numpy()
    acoustic = [
        np.abs(frames[b, n] - own[b, n]).mean() for b, n in np.argwhere(task.masked.numpy())
    ]
    position, away = [], []
    for seconds, times in zip(placed, task.times.numpy(), strict=True):
        error = seconds / 10 - times
        position.append((error**2).sum())
        away.append(10 * np.abs(error).mean())
    asked = zip(choice, task.response.tolist(), strict=True)
    response = [entropy(row, target) for row, target in asked if target >= 0]
    kinds = [language, acoustic, position, response]
    assert all(len(kind) >= 2 for kind in kinds)
    expected = sum(np.mean(kind) for kind in kinds)
    assert float(objectives.loss(sums, counts, rest)) == pytest.approx(expected, abs=1e-5)
    figures = objectives.figures(sums, counts, rest)
    for name, kind in zip(("language", "acoustic", "position", "response"), kinds, strict=True):
        assert figures[name] == pytest.approx(np.mean(kind), abs=1e-5)
    assert figures["position_mae_s"] == pytest.approx(np.mean(away), abs=1e-5)
    right = (choice.argmax(1) == task.response.numpy()).sum() / len(response)
    assert figures["response_accuracy"] == pytest.approx(right)


def test_losses_of_parts_are_those_of_the_whole(network):
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
        ("text", (0, 1), True, True),  # of the own turn
        ("text", (0, 3), False, True),  # of the history
        ("text", (0, 5), False, False),  # padding
        ("speech", (0, 2), True, True),
        ("speech", (0, 6), False, False),
        ("previous", (0, 4), False, True),
        ("previous", (0, 6), False, False),
    ],
)
def test_heads_look_where_documented(part, place, times, answers):
    """Which of the two change when one position does; 7 frames, 6 tokens."""
    torch.manual_seed(0)
    timing, response = Timing(8, 2).eval(), Response(8).eval()
    spans = {
        "own": (0, 3, 6),
        "history": (3, 5, 6),
        "speech_mask": (0, 4, 7),
        "previous_mask": (0, 5, 7),
    }
    masks = {
        name: ((torch.arange(count) >= begin) & (torch.arange(count) < end))[None]
        for name, (begin, end, count) in spans.items()
    }
    states = {
        name: torch.randn(1, n, 8) for name, n in (("text", 6), ("speech", 7), ("previous", 7))
    }
    at = torch.tensor([0]), torch.tensor([2]), torch.tensor([2])
    before = Fused(**states, **masks)
    states[part] = states[part].clone()
    states[part][place] += torch.randn(8)
    after = Fused(**states, **masks)
    assert torch.equal(timing(before, *at), timing(after, *at)) != times
    assert torch.equal(response(before), response(after)) != answers


def test_words_are_timed_at_their_tokens(network):
    """Only where text and audio are the turn's own; times over 10 s."""
    _, task = task_of(network)
    kinds = task.response.tolist()
    rows = task.row.numpy()
    assert {kinds[row] for row in rows} <= {0, -100}  # -100: a first turn responds to nothing
    words = passages()[0].own.timed()
    mine = np.flatnonzero(rows == 0)
    ids, distances = network.tokens(passages()[0])
    assert len(mine) == len(words)
    for place, word in zip(mine, words, strict=True):
        token = int(task.first[place])
        assert distances[token] == 0 and ids[token] == network.tokenizer.ids(word.word)[0]
        expected = [word.start / 10, word.end / 10]
        np.testing.assert_allclose(task.times[place].numpy(), expected, atol=1e-6)


def test_responses_are_wrong_as_documented(network):
    objectives = Objectives(network)
    own = Passage((turn(1), passages()[1].own), 1)
    text, sound = turn(40, 0.5, "good today"), turn(41, 0.8)
    seen = set()
    for seed in range(30):
        task = objectives.collate([own], [[text, sound]], np.random.default_rng(seed))
        kind = int(task.response[0])
        seen.add(kind)
        expected = sound.signal if kind & 1 else own.own.signal
        assert int(task.batch.audio.lengths[1]) == len(expected)
        read = network.tokenizer.ids("good today" if kind & 2 else "the cat sat")
        tokens = torch.where(task.targets >= 0, task.targets, task.batch.text.tokens)
        assert tokens[0, 1 : 1 + len(read)].tolist() == read
        assert (len(task.row) == 3) == (kind == 0)
    assert seen == {0, 1, 2, 3}


def test_gradients_reach_every_part_that_learns(network):
    objectives, task = task_of(network)
    network.speech.model.feature_extractor._freeze_parameters()
    objectives.loss(*objectives(task)).backward()
    for name, parameter in objectives.named_parameters():
        fine_tuned = name.startswith(("network.outputs", "network.categories"))
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


def test_spans_of_frames_are_masked_as_promised():
    frames = np.full(2000, 300)
    masked, silent, source = mask_frames(frames, 0.02, np.random.default_rng(0))
    own = slice(1000, None)
    assert not masked[:1000].any() and not silent[:1000].any()
    assert masked[own].mean() == pytest.approx(0.13, abs=0.025)  # spans may overlap
    lengths = []
    for row in masked[own]:
        edges = np.flatnonzero(np.diff(np.r_[0, row, 0]))
        lengths += list(edges[1::2] - edges[::2])
    assert min(lengths) >= 20 and max(lengths) <= 50
    moved = (source[own] != np.arange(300)) & masked[own]
    assert not (source != np.arange(300))[~masked].any()
    assert silent[own].sum() / masked[own].sum() == pytest.approx(0.8, abs=0.06)
    assert moved.sum() / masked[own].sum() == pytest.approx(0.1, abs=0.05)
    short, _, _ = mask_frames(np.array([5, 3]), 0.02, np.random.default_rng(0))
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
