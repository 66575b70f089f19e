"""Each corpus in a miniature of its published layout: scale, order, split, and what is missing."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import soundfile
from labelling_cases import label

from wav2small import evaluate, metrics, read_labels
from wav2small.corpora.registry import CORPORA, index_corpus, read_corpus
from wav2small.errors import Wav2SmallError
from wav2small.index import load_source


def sound(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    signal = 0.1 * np.random.default_rng(len(str(path))).normal(size=8000)
    soundfile.write(path, signal, 16000, format="FLAC" if path.suffix == ".flac" else "WAV")


def text(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


#: Clip, worker, activation, valence, dominance.
MSP_RATINGS = [
    (1, "WORKER00000325", "7.0,1.0,3.0"),
    (1, "WORKER00000002", "7.0,1.0,5.0"),
    (2, "WORKER00000325", "4.0,5.5,2.5"),
]


def msp_podcast(folder):
    text(
        folder / "Labels/labels_consensus.csv",
        "FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set\n"
        "MSP-PODCAST_0001_0001.wav,A,7.0,1.0,4.0,12,Female,Train\n"
        "MSP-PODCAST_0001_0002.wav,N,4.0,5.5,2.5,Unknown,Male,Test1\n",
    )
    for number in (1, 2):
        sound(folder / f"Audios/MSP-PODCAST_0001_000{number}.wav")
    text(folder / "Transcripts/MSP-PODCAST_0001_0001.txt", "Not again.\n")
    text(
        folder / "Labels/labels_detailed.csv",
        "FileName,WorkerID,EmoClass_Major,EmoClass_Second,EmoAct,EmoVal,EmoDom\n"
        + "".join(
            f'MSP-PODCAST_0001_000{clip}.wav,{worker},Angry,"Angry,Sad",{ratings}\n'
            for clip, worker, ratings in MSP_RATINGS
        ),
    )
    return "Labels/labels_consensus.csv"


def iemocap(folder):
    head = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
    text(
        folder / "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt",
        head + "[14.8872 - 18.0175]\tSes01F_impro01_M000\texc\t[2.0000, 5.0000, 3.0000]\n"
        "C-E2:\tExcited; Happiness;\t()\nC-M1:\tExcited;\t(glad)\n"
        "A-E2:\tval 2; act 5; dom 3;\t()\nA-M1:\tval 1; act 1; dom 1;\t(of himself)\n"
        "[6.2901 - 8.2357]\tSes01F_impro01_F000\tneu\t[2.5000, 1.0000, 4.0000]\n"
        "A-E3:\tval 3; act 1; dom  ;\t()\nA-E4:\tval 2; act 1; dom  4;\t(calm; almost bored)\n",
    )
    text(
        folder / "Session1/dialog/transcriptions/Ses01F_impro01.txt",
        "Ses01F_impro01_F000 [006.2901-008.2357]: Excuse me.\n"
        "Ses01F_impro01_M000 [014.8872-018.0175]: Do you have your forms?\n",
    )
    for name in ("F000", "M000"):
        sound(folder / f"Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_{name}.wav")
    return "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt"


def meld(folder):
    head = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season\n"
    text(folder / "train_sent_emo.csv", head + '1,"Well, no!",Ross,joy,positive,0,0,8\n')
    text(folder / "test_sent_emo.csv", head + "1,Why?,Monica,anger,negative,0,0,3\n")
    sound(folder / "train_splits/dia0_utt0.wav")
    sound(folder / "wav/output_repeated_splits_test/dia0_utt0.wav")
    text(folder / "output_repeated_splits_test/dia0_utt0.mp4", "a film")
    return "train_sent_emo.csv", "test_sent_emo.csv"


def mosi(folder):
    text(
        folder / "label.csv",
        "video_id,clip_id,text,label,annotation,mode\n"
        "03bSnISJMiM,1,ANYHOW IT WAS REALLY GOOD,3.0,Positive,train\n"
        "0h-zjBukYpk,0002,so so,-1.5,Negative,valid\n",
    )
    sound(folder / "wav/03bSnISJMiM/1.wav")
    sound(folder / "wav/0h-zjBukYpk/2.wav")
    return "label.csv"


def cremad(folder):
    text(
        folder / "processedResults/summaryTable.csv",
        '"","FileName","VoiceVote","VoiceLevel","FaceVote","FaceLevel"\n'
        '"1","1001_DFA_ANG_XX","A","60.5","A","70"\n"2","1002_IEO_SAD_HI","N:S","50:70","S","1"\n',
    )
    text(folder / "VideoDemographics.csv", "ActorID,Age,Sex\n1001,51,Male\n1002,21,Female\n")
    sound(folder / "AudioWAV/1001_DFA_ANG_XX.wav")
    sound(folder / "AudioWAV/1002_IEO_SAD_HI.wav")
    return "processedResults/summaryTable.csv"


def ravdess(folder):
    sound(folder / "Actor_01/03-01-05-02-01-01-01.wav")
    sound(folder / "Actor_12/03-01-03-01-02-02-12.flac")
    sound(folder / "Actor_12/03-02-03-01-02-02-12.wav")  # a song
    return "Actor_01/03-01-05-02-01-01-01.wav", "Actor_12/03-01-03-01-02-02-12.flac"


def emodb(folder):
    sound(folder / "wav/03a01Wa.wav")
    sound(folder / "wav/16b10Td.wav")
    return "wav/03a01Wa.wav", "wav/16b10Td.wav"


def audformat_database(folder):
    import audformat

    folder.mkdir(parents=True, exist_ok=True)
    for name in ("a", "b"):
        sound(folder / f"{name}.wav")
    database = audformat.Database("small")
    database.splits["test"] = audformat.Split("test")
    people = {"7": {"gender": "female"}, "8": {"gender": "male"}}
    database.schemes["speaker"] = audformat.Scheme("str", labels=people)
    database.schemes["activation"] = audformat.Scheme("float", minimum=-1, maximum=1)
    database.schemes["emotion"] = audformat.Scheme("str", labels=["angry", "neutral"])
    files = audformat.filewise_index(["a.wav", "b.wav"])
    database["files"] = audformat.Table(files)
    database["files"]["speaker"] = audformat.Column(scheme_id="speaker")
    database["files"]["speaker"].set(["7", "8"])
    parts = audformat.segmented_index(["a.wav", "b.wav"], [0.0, 0.1], [0.25, 0.4])
    database["gold"] = audformat.Table(parts, split_id="test")
    for column, values in (("activation", [-1.0, 0.5]), ("emotion", ["angry", "neutral"])):
        database["gold"][column] = audformat.Column(scheme_id=column)
        database["gold"][column].set(values)
    database.save(str(folder), storage_format="csv")
    return "db.yaml"


def hf(folder):
    """As `Dataset.save_to_disk` writes it, with files of its own."""
    features = {
        "audio": {"sampling_rate": 16000, "_type": "Audio"},
        "label": {"names": ["angry", "neutral"], "_type": "ClassLabel"},
        "speaker_id": {"dtype": "int64", "_type": "Value"},
    }
    for split, rows in (("train", [(0, 7)]), ("test", [(1, 8)])):
        (folder / split).mkdir(parents=True)
        sound(folder / f"{split}.wav")
        paths = [{"bytes": None, "path": str(folder / f"{split}.wav")} for _ in rows]
        table = pa.table(
            {
                "audio": pa.array(
                    paths, pa.struct([("bytes", pa.binary()), ("path", pa.string())])
                ),
                "label": [row[0] for row in rows],
                "speaker_id": [row[1] for row in rows],
            }
        )
        about = {"huggingface": json.dumps({"info": {"features": features}})}
        table = table.replace_schema_metadata(about)
        with pa.OSFile(str(folder / split / "data-00000-of-00001.arrow"), "wb") as sink:
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
        state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": split}
        text(folder / split / "state.json", json.dumps(state))
    text(folder / "dataset_dict.json", '{"splits": ["train", "test"]}')
    return "train/state.json", "test/state.json"


#: Corpus -> what makes its miniature, and what the index holds of its two clips.
CASES = {
    "msp-podcast": (
        msp_podcast,
        {
            "arousal": [1, 0.5],
            "dominance": [0.5, 0.25],
            "valence": [0, 0.75],
            "emotion": ["anger", "neutral"],
            "speaker": ["12", ""],
            "sex": ["female", "male"],
            "split": ["train", "test1"],
        },
    ),
    "iemocap": (
        iemocap,  # in order of time: F000 before M000
        {
            "arousal": [0, 1],
            "dominance": [0.75, 0.5],
            "valence": [0.375, 0.25],
            "emotion": ["neutral", "excitement"],
            "speaker": ["Ses01F", "Ses01M"],
            "sex": ["female", "male"],
            "text": ["Excuse me.", "Do you have your forms?"],
            "dialogue": ["Ses01F_impro01"] * 2,
            "turn": [0, 1],
            "session": [1, 1],
        },
    ),
    "meld": (
        meld,
        {
            "file": [
                "wav/output_repeated_splits_test/dia0_utt0.wav",
                "train_splits/dia0_utt0.wav",
            ],
            "emotion": ["anger", "happiness"],
            "sentiment": ["negative", "positive"],
            "split": ["test", "train"],
            "dialogue": ["test_dia0", "train_dia0"],
            "text": ["Why?", "Well, no!"],
        },
    ),
    "mosi": (
        mosi,
        {
            "valence": [1, 0.25],
            "sentiment": [3, -1.5],
            "split": ["train", "valid"],
            "file": ["wav/03bSnISJMiM/1.wav", "wav/0h-zjBukYpk/2.wav"],
        },
    ),
    "cremad": (
        cremad,
        {
            "emotion": ["anger", "sadness"],
            "perceived": ["anger", "unknown"],
            "perceived_level": [0.605, 0.6],
            "intensity": ["", "high"],
            "speaker": ["1001", "1002"],
            "sex": ["male", "female"],
        },
    ),
    "ravdess": (
        ravdess,
        {
            "emotion": ["anger", "happiness"],
            "intensity": ["strong", "normal"],
            "speaker": ["01", "12"],
            "sex": ["male", "female"],
        },
    ),
    "emodb": (
        emodb,
        {
            "emotion": ["anger", "sadness"],
            "speaker": ["03", "16"],
            "sex": ["male", "female"],
            "language": ["de", "de"],
        },
    ),
    "audformat": (
        audformat_database,
        {
            "arousal": [0, 0.75],
            "emotion": ["anger", "neutral"],
            "speaker": ["7", "8"],
            "sex": ["female", "male"],
            "split": ["test", "test"],
            "start": [0, 0.1],
            "end": [0.25, 0.4],
        },
    ),
    "hf": (
        hf,
        {
            "emotion": ["neutral", "anger"],
            "speaker": ["8", "7"],
            "split": ["test", "train"],
        },
    ),
}
CASES["mosei"] = CASES["mosi"]


@pytest.mark.parametrize("name", CORPORA)
def test_a_miniature_is_read_as_it_is_meant(name, tmp_path):
    make, expected = CASES[name]
    make(tmp_path / "corpus")
    clips, missing = index_corpus(name, tmp_path / "corpus", tmp_path / "out/index.csv")
    assert (clips, missing) == (2, [])
    written = load_source(tmp_path / "out/index.csv").frame
    for file in written["file"]:
        assert (tmp_path / "out" / file).is_file()
    frame, _ = read_corpus(name, tmp_path / "corpus")
    for column, values in expected.items():
        found = frame[column]
        if column in ("start", "end"):
            found = found.dt.total_seconds()
        assert list(found) == pytest.approx(values), column
    index = load_source(f"{name}:{tmp_path / 'corpus'}")
    assert list(index.frame["file"]) == list(frame["file"])


@pytest.mark.parametrize("name", CORPORA)
def test_a_folder_above_and_suffixes_in_capitals(name, tmp_path):
    make, expected = CASES[name]
    inner = tmp_path / "above" / "Corpus_v1" / "Corpus"
    make(inner)
    (tmp_path / "above" / "notes").mkdir()
    if name not in ("audformat", "hf"):  # which name their files themselves
        for path in [*inner.rglob("*.wav"), *inner.rglob("*.flac")]:
            path.rename(path.with_suffix(path.suffix.upper()))
    frame, missing = read_corpus(name, tmp_path / "above")
    assert (len(frame), missing) == (2, [])
    for file in frame["file"]:
        assert (tmp_path / "above" / file).is_file()
    for column in set(expected) - {"file", "start", "end"}:
        assert list(frame[column]) == pytest.approx(expected[column]), column


NAN = float("nan")
#: Rater, arousal, dominance, valence: by clip.
RATERS = {
    "iemocap": [("E3", 0, NAN, 0.5), ("E4", 0, 0.75, 0.25), ("E2", 1, 0.5, 0.25)],
    "msp-podcast": [
        ("WORKER00000325", 1, 1 / 3, 0),
        ("WORKER00000002", 1, 2 / 3, 0),
        ("WORKER00000325", 0.5, 0.25, 0.75),
    ],
}


@pytest.mark.parametrize("name", RATERS)
def test_ratings_of_every_rater(name, tmp_path):
    make, expected = CASES[name]
    make(tmp_path / "above" / "corpus")
    assert index_corpus(name, tmp_path / "above", tmp_path / "r.csv", raters=True) == (3, [])
    rows = load_source(tmp_path / "r.csv").frame
    columns = ["rater", "arousal", "dominance", "valence"]
    for found, row in zip(rows[columns].values.tolist(), RATERS[name], strict=True):
        assert found[0] == row[0] and found[1:] == pytest.approx(row[1:], nan_ok=True)
    # Their means are the ratings of the corpus, whose other columns stay.
    means = rows.groupby("file", sort=False)[columns[1:]].mean()
    one = read_corpus(name, tmp_path / "above")[0]
    assert "rater" not in one and len(one) == 2
    assert means.to_numpy() == pytest.approx(one[columns[1:]].to_numpy())
    shared = ["emotion", "speaker", "sex", "language"]
    first = rows.drop_duplicates("file")[shared].fillna("")
    assert first.values.tolist() == one[shared].values.tolist()


def test_the_ceiling_of_a_corpus_with_raters(tmp_path):
    folder = tmp_path / "Session1/dialog/EmoEvaluation"
    ratings = np.random.default_rng(0).integers(1, 6, (12, 3, 3))  # clips, raters, V A D
    lines, estimates = [], []
    for clip, each in enumerate(ratings):
        mean = ", ".join(f"{value:.4f}" for value in each.mean(axis=0))
        lines.append(f"[{clip} - {clip + 1}]\tSes01F_impro01_F{clip:03}\tneu\t[{mean}]")
        for rater, (v, a, d) in enumerate(each, start=1):
            lines.append(f"A-E{rater}:\tval {v}; act {a}; dom  {d};\t()")
        file = f"Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F{clip:03}.wav"
        sound(tmp_path / file)
        estimates.append({"file": file, "valence": (each.mean(axis=0)[0] - 1) / 4})
    text(folder / "Ses01F_impro01.txt", "\r\n".join(lines) + "\r\n")
    pd.DataFrame(estimates).to_csv(tmp_path / "found.csv", index=False)
    result = evaluate(tmp_path / "found.csv", f"iemocap:{tmp_path}", resamples=20)
    assert result.clips == 12
    assert result.dimensions["valence"]["mae"].value == pytest.approx(0, abs=1e-6)
    for column, dimension in enumerate(("valence", "arousal", "dominance")):
        own = ratings[:, :, column]
        others = (own.sum(axis=1, keepdims=True) - own) / 2
        expected = metrics.ccc(own.ravel() / 4, others.ravel() / 4)
        assert result.raters[dimension].value == pytest.approx(expected)


def test_forms_of_msp_podcast_in_other_releases(tmp_path):
    """Folder and file are spelled otherwise; workers in one cell, or all of it in JSON."""
    expected = []
    for release in ("2.0", "1.7", "1.3"):
        folder = tmp_path / release
        table = folder / msp_podcast(folder)
        detailed = table.with_name("labels_detailed.csv")
        if release != "2.0":
            table = table.rename(table.with_name("labels_concensus.csv"))
        if release == "1.7":
            lines = []
            for clip, worker, ratings in MSP_RATINGS:
                a, v, d = ratings.split(",")
                cell = f'"{worker}; Other-Weird A:1; Angry,Sad; A:{a}; V:{v}; D:{d};"'
                lines.append(f"MSP-PODCAST_0001_000{clip}.wav,{cell}\n")
            text(detailed, "FileName,EmoDetail\n" + "".join(lines))
        if release == "1.3":
            rows = pd.read_csv(table, dtype=str).set_index("FileName")
            text(table.with_suffix(".json"), json.dumps(rows.to_dict("index")))
            workers = {file: {} for file in rows.index}
            for row in pd.read_csv(detailed, dtype=str).to_dict("records"):
                workers[row["FileName"]][row["WorkerID"]] = row
            text(detailed.with_suffix(".json"), json.dumps(workers))
            table.unlink()
            detailed.unlink()
            (folder / "Labels").rename(folder / "label")
            (folder / "Audios").rename(folder / "Audio")
        frame = read_corpus("msp-podcast", folder, raters=True)[0]
        expected.append(frame.drop(columns="file"))
    assert len(expected[0]) == 3
    assert expected[0].equals(expected[1]) and expected[0].equals(expected[2])


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("emodb", None, "the corpus does not publish them"),
        ("msp-podcast", None, "Labels/labels_detailed.csv"),
        ("msp-podcast", "FileName,EmoDetail\na.wav,nobody\n", "line 2: 'nobody' is no rating"),
        ("msp-podcast", "FileName,Worker,Class\na.wav,1,N\n", "no column EmoAct"),
    ],
)
def test_raters_that_are_not_there(name, change, message, tmp_path):
    CASES[name][0](tmp_path)
    if name == "msp-podcast":
        (tmp_path / "Labels/labels_detailed.csv").unlink()
    if change:
        text(tmp_path / "Labels/labels_detailed.csv", change)
    with pytest.raises(Wav2SmallError, match=message):
        index_corpus(name, tmp_path, tmp_path / "i.csv", raters=True)


@pytest.mark.parametrize("path", ["{}", "clips/{}", "/of/another/machine/clips/{}", "D:\\c\\{}"])
def test_audio_of_a_dataset_that_is_in_another_folder(path, tmp_path):
    sounds = [path.format(name) for name in ("a.wav", "b.wav")]
    for name in ("a.wav", "b.wav"):
        sound(tmp_path / "moved" / name)
    (tmp_path / "data").mkdir()
    table = pa.table({"audio": sounds, "emotion": ["sad", "happy"]})
    pa.parquet.write_table(table, tmp_path / "data/train-00000-of-00001.parquet")
    with pytest.raises(Wav2SmallError, match="another folder, name that as --root"):
        read_corpus("hf", tmp_path / "data")
    index_corpus("hf", tmp_path / "data", tmp_path / "i.csv", root=tmp_path / "moved")
    assert list(pd.read_csv(tmp_path / "i.csv")["file"]) == ["moved/a.wav", "moved/b.wav"]
    index = load_source(f"hf:{tmp_path / 'data'}", root=str(tmp_path / "moved"))
    assert [index.path(file) for file in index.frame["file"]] == [
        str(tmp_path / "moved" / name) for name in ("a.wav", "b.wav")
    ]


def test_one_file_for_two_clips_is_rejected(tmp_path):
    for name in ("1.wav", "b/2.wav"):
        sound(tmp_path / name)
    table = pa.table({"audio": ["/x/a/1.wav", "/x/b/1.wav", "/x/b/2.wav"]})
    pa.parquet.write_table(table, tmp_path / "train.parquet")
    frame, missing = read_corpus("hf", tmp_path)
    assert list(frame["file"]) == ["b/2.wav"] and "may be it" in missing[0][1]
    assert [file for file, _ in missing] == ["/x/a/1.wav", "/x/b/1.wav"]


def test_a_split_that_is_not_there(tmp_path):
    _, table = meld(tmp_path)
    (tmp_path / table).unlink()
    frame, missing = read_corpus("meld", tmp_path)
    assert (list(frame["split"]), missing) == (["train"], [])


def test_the_innermost_folder_names_the_split(tmp_path):
    meld(tmp_path / "tests" / "training" / "x")
    frame, _ = read_corpus("meld", tmp_path / "tests")
    assert [file.split("/")[2] for file in frame["file"]] == ["wav", "train_splits"]


@pytest.mark.parametrize("name", ["ravdess", "emodb"])
def test_a_corpus_that_holds_all_of_itself_twice(name, tmp_path):
    for copy in ("a", "a/again"):
        CASES[name][0](tmp_path / copy)
    assert len(read_corpus(name, tmp_path)[0]) == 2


@pytest.mark.parametrize(("rating", "valence"), [("5.5000", 1.0), ("0.9000", 0.0)])
def test_a_mean_of_iemocap_that_exceeds_its_scale_a_little(rating, valence, tmp_path):
    path = tmp_path / iemocap(tmp_path)
    path.write_text(path.read_text().replace("[2.5000, 1.0000", f"[{rating}, 1.0000"))
    assert read_corpus("iemocap", tmp_path)[0]["valence"][0] == valence
    path.write_text(path.read_text().replace(rating, "6.0000"))
    with pytest.raises(Wav2SmallError, match=r"6 is outside the corpus's scale 1..5"):
        read_corpus("iemocap", tmp_path)


def test_parquet_in_folders_of_splits_with_paths(tmp_path):
    sound(tmp_path / "clips/x.wav")
    table = pa.table({"audio": ["clips/x.wav"], "emotion": ["sad"], "arousal": [3.0]})
    (tmp_path / "default/validation").mkdir(parents=True)
    pa.parquet.write_table(table, tmp_path / "default/validation/0000.parquet")
    frame, _ = read_corpus("hf", tmp_path)
    assert frame[["file", "emotion", "arousal", "split"]].values.tolist() == [
        ["clips/x.wav", "sadness", 3.0, "validation"]
    ]


@pytest.mark.parametrize("name", CORPORA)
def test_another_layout_is_rejected_with_the_file_it_lacks(name, tmp_path):
    folder = tmp_path / "corpus"
    needed = CASES[name][0](folder)
    needed = [needed] if isinstance(needed, str) else needed
    for file in needed:
        (folder / file).unlink()
    with pytest.raises(Wav2SmallError) as caught:
        read_corpus(name, folder)
    message = str(caught.value)
    assert str(folder) in message and "no " in message and "\n" not in message
    if name not in ("ravdess", "emodb", "hf", "iemocap", "meld"):
        assert needed[0] in message


def test_missing_audio_is_listed_and_none_at_all_is_rejected(tmp_path):
    msp_podcast(tmp_path)
    (tmp_path / "Audios/MSP-PODCAST_0001_0002.wav").unlink()
    frame, missing = read_corpus("msp-podcast", tmp_path)
    assert len(frame) == 1 and missing[0][0] == "Audios/MSP-PODCAST_0001_0002.wav"
    (tmp_path / "Audios/MSP-PODCAST_0001_0001.wav").unlink()
    with pytest.raises(Wav2SmallError, match="no Audios/MSP-PODCAST_0001_0001.wav"):
        read_corpus("msp-podcast", tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("EmoAct", "Act"), "no column EmoAct"),
        (("7.0", "9.0"), "9 is outside the corpus's scale 1..7"),
        (("7.0", "high"), "'high' is not a rating"),
    ],
)
def test_a_table_of_another_kind(change, message, tmp_path):
    path = tmp_path / msp_podcast(tmp_path)
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(Wav2SmallError, match=message):
        read_corpus("msp-podcast", tmp_path)


#: Corpus, one of its tables, what somebody's program made of it, what is said.
DAMAGED = [
    ("audformat", "db.yaml", lambda text: "", "header of a database without tables"),
    ("audformat", "db.yaml", lambda text: text.replace("type: seg", "kind: seg"), "has no type"),
    ("audformat", "db.yaml", lambda text: text.replace("minimum", "least"), "without minimum"),
    ("hf", "train/state.json", lambda text: text[:-9], "not the state.json of a dataset"),
    ("hf", "test/state.json", lambda text: text.upper(), "not the state.json of a dataset"),
    ("iemocap", None, lambda text: text.partition("\n")[0], "no line .START - END."),
    ("meld", "test_sent_emo.csv", lambda text: text.partition("\n")[0], "without rows"),
    ("meld", "test_sent_emo.csv", lambda text: text.replace(",0,0,", ",0,x,"), "is no Utterance"),
    ("meld", "train_sent_emo.csv", lambda text: text.replace('"', ""), "9 cells, but 8 columns"),
    ("mosi", "label.csv", lambda text: text + "0h-zjBukYpk,2\n", "line 4: 2 cells"),
    ("mosi", "label.csv", lambda text: text.replace("so", "s\0"), "not a CSV table"),
    ("msp-podcast", None, lambda text: text.replace("7.0", "7,0"), "9 cells, but 8 columns"),
    ("cremad", "VideoDemographics.csv", lambda text: "", "no column ActorID"),
]


@pytest.mark.parametrize(("name", "file", "damage", "message"), DAMAGED)
def test_a_damaged_table_is_one_line(name, file, damage, message, tmp_path):
    path = tmp_path / (CASES[name][0](tmp_path) if file is None else file)
    if file is not None:
        CASES[name][0](tmp_path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(Wav2SmallError, match=message) as caught:
        read_corpus(name, tmp_path)
    assert path.name.partition(".")[0] in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "write",
    [
        lambda text: text.replace("\n", "\r\n").encode("utf-8-sig"),
        lambda text: text.encode("utf-16"),
        lambda text: text.replace('"Well, no!"', "Well no!").replace(",", ";").encode(),
        lambda text: text.replace(",", "\t").replace("\n", "\t\t\n").encode("cp1252"),
    ],
)
@pytest.mark.parametrize("name", ["meld", "mosi", "cremad", "msp-podcast"])
def test_tables_as_other_programs_save_them(name, write, tmp_path):
    CASES[name][0](tmp_path)
    expected = read_corpus(name, tmp_path)[0].drop(columns="text", errors="ignore")
    for path in tmp_path.rglob("*.csv"):
        path.write_bytes(write(path.read_text()))
    found = read_corpus(name, tmp_path)[0].drop(columns="text", errors="ignore")
    pd.testing.assert_frame_equal(found, expected)


def test_text_in_the_coding_of_windows(tmp_path):
    path = tmp_path / meld(tmp_path)[0]
    path.write_bytes(path.read_text().replace("no!", "it\u2019s \u2026").encode("cp1252"))
    frame, _ = read_corpus("meld", tmp_path)
    assert list(frame["text"]) == ["Why?", "Well, it\u2019s \u2026"]


@pytest.mark.parametrize("storage", ["csv", "parquet"])
def test_a_database_whose_speakers_have_a_table(storage, tmp_path):
    import audformat

    folder = tmp_path / "db"
    files = [f"wav/{name}.wav" for name in ("03a01Fa", "08a02Na")]
    for file in files:
        sound(folder / file)
    database = audformat.Database("emodb")
    database["people"] = audformat.MiscTable(pd.Index([3, 8], dtype="Int64", name="speaker"))
    text = {"a01": {"de": "Der Lappen"}, "a02": {"de": "Das will sie"}}
    for name, scheme in {
        "gender": audformat.Scheme(labels=["male", "female"]),
        "speaker": audformat.Scheme("int", labels="people"),
        "transcription": audformat.Scheme("str", labels=text),
        "emotion": audformat.Scheme(labels={"happiness": {}, "neutral": {}}),
    }.items():
        database.schemes[name] = scheme
    database["people"]["gender"] = audformat.Column(scheme_id="gender")
    database["people"]["gender"].set(["male", "female"])
    database["files"] = audformat.Table(audformat.filewise_index(files))
    for name, values in (("speaker", [3, 8]), ("transcription", ["a01", "a02"])):
        database["files"][name] = audformat.Column(scheme_id=name)
        database["files"][name].set(values)
    for number, split in enumerate(("train", "test")):
        database.splits[split] = audformat.Split(split)
        table = audformat.Table(
            audformat.filewise_index(files[number : number + 1]), split_id=split
        )
        database[f"emotion.{split}.gold_standard"] = table
        table["emotion"] = audformat.Column(scheme_id="emotion")
        table["emotion"].set([["happiness", "neutral"][number]])
    database.save(str(folder), storage_format=storage)
    frame = read_corpus("audformat", folder)[0].sort_values("file")
    assert frame[["speaker", "sex", "text", "emotion", "split"]].values.tolist() == [
        ["3", "male", "Der Lappen", "happiness", "train"],
        ["8", "female", "Das will sie", "neutral", "test"],
    ]


def test_a_dataset_in_the_cache_of_its_library(tmp_path):
    hf(tmp_path / "hf")
    cache = tmp_path / "cache/default/0.0.0/abc"
    cache.mkdir(parents=True)
    for split in ("train", "test"):
        path = tmp_path / "hf" / split / "data-00000-of-00001.arrow"
        path.rename(cache / f"speech-{split}.arrow")
    (cache / "cache-0123.arrow").write_bytes(b"")
    frame, missing = read_corpus("hf", tmp_path / "cache")
    assert (list(frame["split"]), missing) == (["test", "train"], [])


def test_audio_inside_of_a_dataset_is_written_out(tmp_path):
    hf(tmp_path / "hf")
    features = {"audio": {"_type": "Audio"}, "emotion": {"dtype": "string", "_type": "Value"}}
    sounds = [{"bytes": (tmp_path / "hf/train.wav").read_bytes(), "path": "x.wav"}]
    table = pa.table({"audio": sounds, "emotion": ["happy"]}).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    (tmp_path / "repo/data").mkdir(parents=True)
    pa.parquet.write_table(table, tmp_path / "repo/data/validation-00000-of-00001.parquet")
    with pytest.raises(Wav2SmallError, match="wav2small index hf"):
        read_corpus("hf", tmp_path / "repo")
    index_corpus("hf", tmp_path / "repo", tmp_path / "index.csv")
    found = pd.read_csv(tmp_path / "index.csv")
    assert found[["emotion", "split"]].values.tolist() == [["happiness", "validation"]]
    assert (tmp_path / found["file"][0]).read_bytes() == sounds[0]["bytes"]


def test_from_corpus_to_figures(tmp_path):
    msp_podcast(tmp_path / "msp")
    source = f"msp-podcast:{tmp_path / 'msp'}"
    assert label(source, tmp_path / "l.parquet", workers=0).rows == 2
    labels = read_labels(tmp_path / "l.parquet")
    assert list(labels.frame["split"]) == ["train", "test1"]
    result = evaluate(tmp_path / "l.parquet", source, split="test1", resamples=5)
    assert result.clips == 1
    mae = abs(labels.frame["valence"][1] - 0.75)
    assert result.dimensions["valence"]["mae"].value == pytest.approx(mae, abs=1e-6)


@pytest.mark.parametrize(("name", "clips", "speakers"), [("emodb", 535, 10), ("ravdess", 1440, 24)])
def test_real_corpora_agree_with_their_tables(name, clips, speakers, corpora):
    frame, missing = read_corpus(name, corpora / name)
    truth = load_source(corpora / name / "labels.csv").frame.set_index("file")
    frame = frame.set_index("file")
    assert (len(frame), frame["speaker"].nunique(), missing) == (clips, speakers, [])
    synonyms = {"happy": "happiness", "sad": "sadness", "angry": "anger"}
    synonyms |= {"fearful": "fear", "surprised": "surprise"}
    expected = truth["emotion"].replace(synonyms).loc[frame.index]
    assert (frame["emotion"] == expected).all()
    assert (frame.groupby("speaker")["sex"].first() == "female").sum() == speakers / 2


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 0, "iemocap"),
        (["iemocap", "nowhere", "-o", "x.csv"], 2, "nowhere: no such folder"),
        (["iemocup", ".", "-o", "x.csv"], 2, "did you mean iemocap?"),
        (["iemocap", "."], 2, "-o index.csv"),
        (["iemocap", ".", "-o", "x.txt"], 2, "CSV or parquet"),
    ],
)
def test_command(words, code, message, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "wav2small", "index", *words],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == code and message in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_name_that_is_nearly_one(tmp_path):
    with pytest.raises(Wav2SmallError, match=f"did you mean emodb:{tmp_path}"):
        load_source(f"emobd:{tmp_path}")


def test_training_takes_a_split(tmp_path):
    from wav2small import distill, finetune
    from wav2small.teachers.finetuning.options import RatingOptions

    rows = [{"file": "a.wav", "arousal": 0, "dominance": 0, "valence": 0, "split": "Train"}]
    pd.DataFrame(rows).to_csv(tmp_path / "l.csv", index=False)
    ratings = RatingOptions(split="dev")
    for train, options in (
        (distill, {"split": "dev"}),
        (finetune, {"recipe": None, "ratings": ratings}),
    ):
        with pytest.raises(Wav2SmallError, match="no row of split dev; there are Train"):
            train(tmp_path / "l.csv", tmp_path / "run", **options)
