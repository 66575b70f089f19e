"""Every kind of source becomes the same index."""

import numpy as np
import pandas as pd
import pytest
import soundfile

from wav2small.errors import Wav2SmallError
from wav2small.index import load_source, spans

NAMES = ["a.wav", "b c.flac", "sub/é漢.wav", 'sub/quote\'s "x".wav', "sub/new\nline.wav"]


@pytest.fixture
def folder(tmp_path):
    for name in NAMES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / name, np.resize([0.1, -0.1], 16000), 16000)
    (tmp_path / "notes.txt").write_text("no audio")
    (tmp_path / "._a.wav").write_bytes(b"macOS leaves such files")
    (tmp_path / "old.m4a").write_bytes(b"x")
    return tmp_path


def test_a_folder_lists_all_audio_below_it(folder):
    index = load_source(folder)
    assert sorted(index.frame["file"]) == sorted([*NAMES, "old.m4a"])
    assert index.frame["end"].isna().all()
    assert (index.frame["start"] == pd.Timedelta(0)).all()


def test_one_file(folder):
    index = load_source(folder / "b c.flac")
    assert list(index.frame["file"]) == ["b c.flac"]
    assert index.path("b c.flac") == str(folder / "b c.flac")


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_tables_keep_names_times_and_columns(folder, ending):
    table = pd.DataFrame(
        {"file": NAMES, "start": 0.25, "end": [0.75] * 4 + [None], "speaker": "07"}
    )
    path = folder / f"table.{ending}"
    table.to_csv(path, index=False) if ending == "csv" else table.to_parquet(path)
    frame = load_source(path).frame
    assert list(frame["file"]) == NAMES
    assert frame["start"].tolist() == [pd.Timedelta("250ms")] * 5
    assert frame["end"].tolist()[:4] == [pd.Timedelta("750ms")] * 4
    assert pd.isna(frame["end"][4])
    assert set(frame["speaker"]) == {"07"}


def end_s(end):
    return None if pd.isna(end) else end.total_seconds()


@pytest.mark.parametrize("storage", ["csv", "parquet"])
def test_an_audformat_database_gives_the_index_that_audformat_has(tmp_path, storage):
    import audformat.testing

    database = audformat.testing.create_db(minimal=True)
    database.schemes["arousal"] = audformat.Scheme(float, minimum=0, maximum=1)
    segments = audformat.segmented_index(
        ["audio/1.wav", "audio/1.wav", "audio/2.wav"], ["0s", "1.5s", "0s"], ["1.5s", None, "2s"]
    )
    database["segments"] = audformat.Table(segments)
    database["segments"]["arousal"] = audformat.Column(scheme_id="arousal")
    database["segments"]["arousal"].set([0.1, 0.5, 0.9])
    database["files"] = audformat.Table(audformat.filewise_index(["audio/3.wav"]))
    database.save(str(tmp_path), storage_format=storage)
    frame = load_source(tmp_path).frame
    expected = {(file, start.total_seconds(), end_s(end)) for file, start, end in segments}
    columns = zip(frame["file"], frame["start"], frame["end"], strict=True)
    found = {(file, start.total_seconds(), end_s(end)) for file, start, end in columns}
    assert found == expected | {("audio/3.wav", 0.0, None)}
    assert sorted(frame["arousal"].dropna()) == [0.1, 0.5, 0.9]


def test_an_audformat_pickle_is_never_opened(tmp_path):
    (tmp_path / "db.yaml").write_text("name: x\n")
    (tmp_path / "db.files.pkl").write_bytes(b"cos\nsystem\n(S'touch /tmp/owned'\ntR.")
    with pytest.raises(Wav2SmallError, match="storage_format='csv'"):
        load_source(tmp_path)


def write(text):
    return lambda path: path.write_text(text)


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("nowhere", lambda path: None, "no such file or folder"),
        ("empty", lambda path: path.mkdir(), "no audio in this folder"),
        ("a.csv", write("path,x\na.wav,1\n"), "no column `file` .its columns: path, x"),
        ("a.csv", write(""), "not a CSV table"),
        ("a.csv", write("file\n"), "no rows"),
        ("a.csv", write("file,start\na.wav,soon\n"), "column `start`"),
        ("a.csv", write("file,start\n,1\n"), "row 1: names no file"),
        ("a.csv", lambda path: path.write_bytes(b"file\n\xff\xfe.wav\n"), "UTF-8"),
        ("a.parquet", write("no parquet"), "not a parquet table"),
        ("none.parquet", lambda path: None, "no such table"),
        ("folder.csv", lambda path: path.mkdir(), "a folder, not a table"),
    ],
)
def test_bad_sources_are_rejected_by_name(tmp_path, name, make, message):
    make(tmp_path / name)
    with pytest.raises(Wav2SmallError, match=message) as rejection:
        load_source(tmp_path / name)
    assert name in str(rejection.value)


@pytest.mark.parametrize(
    ("duration", "window", "hop", "expected"),
    [
        (10, 12, 12, [(0, 10)]),
        (12, 12, 12, [(0, 12)]),
        (24, 12, 12, [(0, 12), (12, 24)]),
        (30, 12, 12, [(0, 12), (12, 24), (18, 30)]),
        (5, 2, 1, [(0, 2), (1, 3), (2, 4), (3, 5)]),
        (12.0004, 12, 12, [(0, 12)]),
    ],
)
def test_spans_cover_everything(duration, window, hop, expected):
    found = spans(duration, window_s=window, hop_s=hop)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_numbers_with_leading_zeros_stay_text(tmp_path):
    (tmp_path / "t.csv").write_text("file,session,take,score\na.wav,01,1,0.5\nb.wav,12,2,0\n")
    frame = load_source(tmp_path / "t.csv").frame
    assert frame["session"].tolist() == ["01", "12"]
    assert frame["take"].tolist() == [1, 2] and frame["score"].tolist() == [0.5, 0.0]
