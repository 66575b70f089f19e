"""What was said: the same from CSV, parquet and audformat; faults are named."""

import json

import numpy as np
import pandas as pd
import pytest
import soundfile

from wav2small import transcripts
from wav2small.errors import Wav2SmallError
from wav2small.index import load_source
from wav2small.transcripts import Word

WORDS = [{"word": "None", "start": 0.1, "end": 0.4}, {"word": "left", "start": 0.4, "end": 0.8}]
TABLE = pd.DataFrame(
    {
        "file": ["a.wav", "b.wav", "c.wav"],
        "text": ["None left", "  two\n lines ", None],
        "words": [WORDS, None, None],
        "dialogue": ["007", "007", None],
        "turn": [4, 5, None],
    }
)


def write(folder, kind):
    for name in TABLE["file"]:
        soundfile.write(folder / name, np.resize([0.1, -0.1], 16000), 16000)
    if kind == "parquet":
        TABLE.to_parquet(folder / "t.parquet")
        return folder / "t.parquet"
    flat = TABLE.assign(words=[json.dumps(w) if w else None for w in TABLE["words"]])
    if kind == "csv":
        flat.to_csv(folder / "t.csv", index=False)
        return folder / "t.csv"
    import audformat

    database = audformat.Database("said")
    database["turns"] = audformat.Table(audformat.filewise_index(list(TABLE["file"])))
    for name in ("text", "words", "dialogue", "turn"):
        kind = "int" if name == "turn" else "str"
        database.schemes[name] = audformat.Scheme(kind)
        database["turns"][name] = audformat.Column(scheme_id=name)
        database["turns"][name].set(flat[name].to_numpy())
    database.save(folder, storage_format="csv")
    return folder


@pytest.mark.parametrize("kind", ["csv", "parquet", "audformat"])
def test_every_source_gives_the_same(kind, tmp_path):
    frame = transcripts.normalise(load_source(write(tmp_path, kind)).frame, kind)
    assert list(frame["text"]) == ["None left", "two lines", None]
    assert transcripts.parse(frame["words"][0], "") == tuple(Word(**word) for word in WORDS)
    assert frame["words"][1] is None
    assert list(frame["dialogue"]) == ["007", "007", None]
    assert list(frame["turn"][:2]) == [4, 5]


def test_words_are_a_transcript():
    frame = transcripts.normalise(TABLE.drop(columns="text"), "table")
    assert list(frame["text"]) == ["None left", None, None]


def test_turns_without_numbers_are_in_order(tmp_path):
    pd.DataFrame({"file": list("abcd"), "dialogue": ["x", "y", "x", "y"]}).to_csv(
        tmp_path / "t.csv", index=False
    )
    frame = transcripts.normalise(load_source(tmp_path / "t.csv").frame, "t.csv")
    assert list(frame["turn"]) == [0, 0, 1, 1]


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"words": "[1, 2"}, r"row 1: `words` is not JSON"),
        ({"words": '[{"word": "x"}]'}, r"row 1: `words` is no list of words"),
        ({"dialogue": "x", "turn": ["1", "1.5"]}, r"row 2: turn 1.5 is no integer"),
        ({"dialogue": "x", "turn": 3}, r"row 2: turn 3 of dialogue 'x' is there already"),
    ],
)
def test_what_cannot_be_read_is_named(columns, message, tmp_path):
    pd.DataFrame({"file": ["a", "b"], **columns}).to_csv(tmp_path / "t.csv", index=False)
    index = load_source(tmp_path / "t.csv")  # whoever does not read is not stopped
    with pytest.raises(Wav2SmallError, match=message):
        transcripts.normalise(index.frame, "t.csv")


@pytest.mark.parametrize(
    "words, end, fault",
    [
        ([("a", 1.0, 1.5), ("b", 1.5, 2.0)], 2.0, None),
        ([("a", 1.0, 1.5), ("b", 1.5, 9.0)], None, None),
        ([("a", 0.5, 1.5)], 2.0, "outside"),
        ([("a", 1.0, 2.5)], 2.0, "outside"),
        ([("a", 1.5, 1.6), ("b", 1.1, 1.4)], 2.0, "out of order"),
        ([("a", 1.5, 1.2)], 2.0, "ends before"),
        ([("a", float("nan"), 1.2)], 2.0, "no time"),
    ],
)
def test_faults_of_word_times(words, end, fault):
    found = transcripts.fault([Word(*word) for word in words], 1.0, end)
    assert (found is None) if fault is None else (fault in found)


def test_the_digest_is_of_all_columns():
    digests = {transcripts.digest(TABLE)}
    for name, value in (("text", "x"), ("words", None), ("dialogue", "8"), ("turn", 9)):
        changed = TABLE.copy()
        changed.at[0, name] = value
        digests.add(transcripts.digest(changed))
    assert len(digests) == 5
