"""Passages: the transcript and the dialogue around a clip, through the full labelling run."""

import numpy as np
import pandas as pd
import pytest
import soundfile
from labelling_cases import label

from wav2small import read_labels, transcripts
from wav2small.errors import Wav2SmallError
from wav2small.index import load_source
from wav2small.teachers import load_teacher
from wav2small.teachers.multimodal.dialogue import Context, Script, Turn
from wav2small.transcripts import Word


class Counting:
    """Says how many words and samples of which turn it was given."""

    name = id = "counting"
    revision, licence, sampling_rate = "1", "MIT", 16000
    dimensions, invariances = ("arousal", "dominance", "valence"), frozenset()
    context = Context(before=2, after=1, audio_before=1)
    in_workers = False

    def predict_columns(self, batch, lengths, passages):
        rows = []
        for length, passage in zip(lengths, passages, strict=True):
            turns = passage.turns
            rows.append(
                {
                    "own": len((passage.own.text or "").split()),
                    "read": sum(len((turn.text or "").split()) for turn in turns),
                    "seen": len(turns),
                    "others": sum(len(turn.signal) for turn in turns if turn.signal is not None),
                    "samples": length,
                }
            )
        columns = {name: np.array([row[name] for row in rows], float) for name in rows[0]}
        return columns | {name: np.full(len(rows), 0.5) for name in self.dimensions}

    def too_long(self, texts):
        return sum(len(text.split()) > 3 for text in texts)


class InWorkers(Counting):
    in_workers = True


def corpus(folder, **columns):
    """Five turns of .5, .6 ... s; turn 3 of dialogue "a" is missing."""
    frame = pd.DataFrame(
        {
            "file": [f"{n}.wav" for n in range(5)],
            "text": ["one", "one two", None, "one two three four", "one"],
            "dialogue": ["a", "a", "a", "a", "b"],
            "turn": [1, 2, 4, 5, 1],
        }
    ).assign(**columns)
    for n in range(5):
        noise = np.random.default_rng(n).normal(0, 0.1, 8000 + 1600 * n)
        soundfile.write(folder / f"{n}.wav", noise, 16000)
    frame.to_parquet(folder / "index.parquet")
    return folder / "index.parquet"


def test_passages_hold_the_turns_around(tmp_path):
    frame = transcripts.normalise(load_source(corpus(tmp_path)).frame, "index")
    script = Script(frame, Context(before=2, after=1))
    passage = script.passage(2)  # turn 4: turns 2, 3 (missing), 4, 5
    assert [turn.file for turn in passage.turns] == ["1.wav", None, "2.wav", "3.wav"]
    assert passage.at == 2 and passage.own.file == "2.wav" and passage.turns[1] == Turn()
    assert [turn.file for turn in script.passage(0).turns] == ["0.wav", "1.wav"]
    assert [turn.file for turn in script.passage(4).turns] == ["4.wav"]
    assert script.summary() == [
        "1 of 5 clips have no transcript; the teacher uses their audio only",
        "1 turns are missing in 1 dialogues; they have neither audio nor text",
    ]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("teacher", ["Counting", "InWorkers"])
def test_the_run_hands_passages_to_a_multimodal_teacher(teacher, workers, tmp_path, capsys):
    source = corpus(tmp_path)
    result = label(source, tmp_path / "l.parquet", teacher=f"{__name__}:{teacher}", workers=workers)
    assert result.errors == 0
    frame = read_labels(tmp_path / "l.parquet").frame
    assert list(frame["own"]) == [1, 2, 0, 4, 1]
    assert list(frame["read"]) == [3, 3, 6, 4, 1]
    assert list(frame["seen"]) == [2, 3, 4, 3, 1]
    assert list(frame["others"]) == [0, 8000, 0, 11200, 0]  # the turn before, if it is there
    assert list(frame["samples"]) == [8000, 9600, 11200, 12800, 14400]
    assert list(frame["text"])[:2] == ["one", "one two"]  # kept
    said = capsys.readouterr().err
    assert said.count("1 of 5 clips have no transcript") == 1
    assert said.count("1 transcripts are longer than the text encoder takes and are cut") == 1


def test_an_actor_of_ray_hands_passages_on(tmp_path):
    import pickle

    from wav2small import augmentation as variants
    from wav2small.teachers.labelling import plan
    from wav2small.teachers.labelling.clips import Reader
    from wav2small.teachers.labelling.ray_cluster import Labeller

    index = load_source(corpus(tmp_path))
    script = Script(transcripts.normalise(index.frame, "index"), Counting.context)
    rows = plan.rows(index.frame, np.zeros(5, bool))
    sent = [tuple(row._replace(passage=script.passage(row.row))) for row in rows]
    reader = Reader(index.root, 16000, 12.0, None, 0, variants.VariantSettings(), Counting.context)
    actor = Labeller(Counting(), {}, pickle.loads(pickle.dumps(reader)), 2.0)
    outcomes = [pickle.loads(one) for one in actor({"rows": [pickle.dumps(sent)]})["outcome"]]
    found = {
        item.row: (outcome.columns["read"][n], outcome.columns["others"][n])
        for outcome in outcomes
        for n, item in enumerate(outcome.items)
    }
    assert found == {0: (3, 0), 1: (3, 8000), 2: (6, 0), 3: (4, 11200), 4: (1, 0)}


def test_another_transcript_is_another_run(tmp_path):
    teacher = f"{__name__}:Counting"
    label(corpus(tmp_path), tmp_path / "l.parquet", teacher=teacher, workers=0)
    label(corpus(tmp_path), tmp_path / "l.parquet", teacher=teacher, workers=0)
    with pytest.raises(Wav2SmallError, match="other transcripts"):
        label(corpus(tmp_path, text="new"), tmp_path / "l.parquet", teacher=teacher, workers=0)


def test_windows_read_their_own_words(tmp_path):
    words = [[{"word": f"w{n}", "start": n / 10, "end": (n + 1) / 10} for n in range(5)]] * 5
    source = corpus(tmp_path, words=words)
    label(source, tmp_path / "l.parquet", teacher=f"{__name__}:Counting", workers=0, window_s=0.25)
    frame = read_labels(tmp_path / "l.parquet").frame
    first = frame[frame["file"] == "0.wav"]
    assert len(first) == 2 and list(first["own"]) == [2, 3]  # a middle on the edge counts later
    assert first["read"].min() > first["own"].min()  # the next turn is complete


@pytest.mark.parametrize(
    "words, reason",
    [
        ([("a", 0.1, 0.9)], "the word 'a' is outside the clip"),
        ([("a", 0.3, 0.4), ("b", 0.1, 0.2)], "the word 'b' is out of order"),
    ],
)
def test_word_times_that_cannot_be_are_listed(words, reason, tmp_path):
    column = [[Word(*word)._asdict() for word in words], None, None, None, None]
    source = corpus(tmp_path, words=column)
    result = label(source, tmp_path / "l.parquet", teacher=f"{__name__}:Counting", workers=0)
    assert result.rows == 4 and result.errors == 1
    listed = pd.read_csv(tmp_path / "errors.csv")
    assert list(listed["file"]) == ["0.wav"] and reason in listed["reason"][0]


def test_text_without_audio_is_listed_and_not_in_the_audio_of_its_neighbour(tmp_path):
    source = corpus(tmp_path)
    (tmp_path / "0.wav").write_text("no sound")
    result = label(source, tmp_path / "l.parquet", teacher=f"{__name__}:Counting", workers=0)
    assert result.rows == 4 and result.errors == 1
    frame = read_labels(tmp_path / "l.parquet").frame
    assert frame["others"][0] == 0 and frame["read"][0] == 3  # its text, not its audio


def test_an_ensemble_does_not_read():
    with pytest.raises(Wav2SmallError, match="counting uses text"):
        load_teacher("ensemble", members=[Counting()])
