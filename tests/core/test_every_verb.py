"""Each fault of an input on `predict`, `label` and `evaluate`: the same answer from all of them."""

import io
import json
import os
import threading
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from labelling_cases import label
from test_predictor import model

from wav2small import audio, containers, evaluate, files, predict
from wav2small.errors import Wav2SmallError
from wav2small.index import load_source


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    model(folder / "model.onnx")
    return folder


@pytest.fixture(scope="module")
def signal(speech):
    return np.concatenate([audio.read(file) for file in sorted(speech.glob("*.flac"))[:3]])


def encoded(signal, kind, subtype=None, rate=16000, **options):
    file = io.BytesIO()
    soundfile.write(file, signal, rate, format=kind, subtype=subtype, **options)
    return file.getvalue()


def sized(data, size):
    """A WAV file with another data size in its header."""
    assert data[36:40] == b"data"
    return data[:40] + size.to_bytes(4, "little") + data[44:]


def half(data):
    return data[: len(data) // 2]


def bare_mp3(signal):
    loud = np.concatenate([signal * 0.01, signal, np.zeros_like(signal)])
    data = encoded(loud, "MP3", bitrate_mode="VARIABLE", compression_level=0.5)
    return data[containers.frames.mp3_frame(data, 0)[0] :]


def cancelling(signal):
    return np.stack([signal, -signal], axis=1)


def loud(signal):
    changed = signal.copy()
    changed[50] = 1e18
    return changed


COMPOSED = unicodedata.normalize("NFC", "Grüße.flac")

#: Name, contents made of a signal, what of the rejection must be there; "" = it is read.
AUDIO = [
    ("good.flac", lambda x: encoded(x, "FLAC"), ""),
    ("pipe0.wav", lambda x: sized(encoded(x, "WAV", "PCM_16"), 0), ""),
    ("pipeF.wav", lambda x: sized(encoded(x, "WAV", "PCM_16"), 0xFFFFFFFF), ""),
    ("offset.wav", lambda x: encoded(x + 0.003, "WAV", "FLOAT"), ""),
    (COMPOSED, lambda x: encoded(x, "FLAC"), ""),
    ("telephone.wav", lambda x: encoded(x[::2], "WAV", "PCM_16", 8000), ""),
    ("stereo.mp3", lambda x: encoded(np.stack([x, x], 1), "MP3"), ""),
    *[
        (f"cut.{ending}", lambda x, kind=kind: half(encoded(x, *kind)), "truncated")
        for ending, kind in {
            "wav": ("WAV", "PCM_16"), "aiff": ("AIFF", "PCM_16"), "au": ("AU", "PCM_16"),
            "w64": ("W64", "PCM_16"), "rf64": ("RF64", "PCM_16"), "ogg": ("OGG", "VORBIS"),
            "opus": ("OGG", "OPUS"), "flac": ("FLAC", "PCM_16"), "caf": ("CAF", "PCM_16"),
        }.items()
    ],
    ("cut.mp3", lambda x: half(encoded(x, "MP3")), "cut or joined"),
    ("chained.opus", lambda x: encoded(x, "OGG", "OPUS") * 2, "several Ogg streams"),
    ("chained.ogg", lambda x: encoded(x, "OGG", "VORBIS") * 2, "several Ogg streams"),
    ("joined.flac", lambda x: encoded(x, "FLAC") * 2, "several FLAC"),
    ("joined.mp3", lambda x: encoded(x, "MP3") * 2, "joined"),
    ("joined.wav", lambda x: encoded(x, "WAV", "PCM_16") * 2, "more may follow"),
    ("bare.mp3", bare_mp3, "joined from several, or without a table"),
    ("zeros.wav", lambda x: encoded(np.zeros_like(x), "WAV"), "digital silence"),
    ("constant.wav", lambda x: encoded(np.full_like(x, 0.25), "WAV"), "digital silence"),
    ("cancel.wav", lambda x: encoded(cancelling(x), "WAV", "FLOAT"), "--channel"),
    ("loud.wav", lambda x: encoded(loud(x), "WAV", "FLOAT"), r"1e+18"),
    ("nan.wav", lambda x: encoded(x * np.nan, "WAV", "FLOAT"), "NaN"),
    ("empty.wav", lambda x: b"", "empty"),
    ("none.wav", lambda x: encoded(x[:0], "WAV"), "0 samples"),
    ("short.wav", lambda x: encoded(x[:160], "WAV"), "too short"),
    ("text.wav", lambda x: b"a shopping list", "not audio"),
    ("headless.raw", lambda x: encoded(x, "WAV")[44:], "without a header"),
]  # fmt: skip

#: Rows of a table besides these: file, start, end, rejection.
ROWS = [
    ("good.flac", 0.2, 0.5, ""),
    (unicodedata.normalize("NFD", COMPOSED), 0.0, None, ""),
    ("good.flac", 0.5, 0.2, "no such part"),
    ("good.flac", -1.0, None, "no such part"),
    ("good.flac", 900.0, None, "starts at 900.000 s but the file holds"),
    ("good.flac", 0.0, 900.0, "ends at 900.000 s but the file holds"),
    ("gone.flac", 0.0, None, "no such file"),
    ("goood.flac", 0.0, None, "did you mean"),
    ("loop.flac", 0.0, None, "no such file"),
    ("folder.wav", 0.0, None, "a folder"),
    ("good.flac/x.wav", 0.0, None, "no such file"),
    ("x" * 300 + ".wav", 0.0, None, "no such file"),
    ("nul\0.wav", 0.0, None, "no such file"),
    ("nowhere://a.wav", 0.0, None, "cannot be fetched"),
]


@pytest.fixture(scope="module")
def everything(signal, tmp_path_factory):
    """A table of all these clips and what must become of them."""
    folder = tmp_path_factory.mktemp("everything")
    for name, make, _ in AUDIO:
        (folder / name).write_bytes(make(signal))
    (folder / "loop.flac").symlink_to(folder / "loop.flac")
    (folder / "folder.wav").mkdir()
    rows = [(name, 0.0, None, message) for name, _, message in AUDIO] + ROWS
    rows.append(((folder / "good.flac").as_uri(), 0.0, None, ""))
    frame = pd.DataFrame(rows, columns=["file", "start", "end", "message"])
    frame["arousal"] = np.linspace(0, 1, len(frame))
    frame.to_parquet(folder / "list.parquet")
    return (
        folder / "list.parquet",
        [row for row in rows if not row[3]],
        [row for row in rows if row[3]],
    )


def check(rejected, bad):
    assert len(rejected) == len(bad)
    left = [f"{file} {reason}" for file, reason in rejected]
    for file, _, _, message in bad:
        found = [line for line in left if line.startswith(file) and message in line]
        assert found and "\n" not in found[0], (file, message, [x for x in left if file in x])
        left.remove(found[0])


def test_predict(toy, everything, tmp_path):
    source, good, bad = everything
    for workers in (0, 2):
        result = predict(toy, source, tmp_path / f"{workers}.csv", workers=workers)
        assert [row[0] for row in result.rows] == [row[0] for row in good]
        check(result.rejected, bad)
    assert (tmp_path / "0.csv").read_text() == (tmp_path / "2.csv").read_text()


@pytest.mark.parametrize("workers", [0, 2])
def test_label(everything, tmp_path, workers):
    source, good, bad = everything
    result = label(source, tmp_path / "l.parquet", workers=workers)
    assert (result.rows, result.errors) == (len(good), len(bad))
    errors = pd.read_csv(result.errors_file)
    check(list(zip(errors["file"], errors["reason"], strict=True)), bad)
    table = pd.read_parquet(source)
    assert [table["message"][row - 1] for row in errors["row"]] == [row[3] for row in bad]


def test_evaluate(toy, everything):
    source, good, bad = everything
    figures = evaluate(toy, source, resamples=10)
    assert figures.clips == len(good)
    check(figures.rejected, bad)


#: A table, and the error that ends the run, or the start of its first row in seconds.
TABLES = [
    ("file;start;end;arousal\ngood.flac;0,25;0,75;0,5\n", 0.25),
    ("file\tstart\tend\tarousal\ngood.flac\t0.25\t0.75\t.5\n", 0.25),
    ("file, start ,end, arousal\ngood.flac, 0.25, 0.75,.5\n", 0.25),
    ("file,start,end,arousal\ngood.flac,0.25,0.75,.5,\n", 0.25),
    ('file,start,end,arousal\ngood.flac,"0.25",00:00:00.75,.5\n', 0.25),
    ("\ufefffile,start,end,arousal\r\ngood.flac,0.25,0.75,.5\r\n", 0.25),
    ("file,start,end,arousal\rgood.flac,0.25,0.75,.5\r", 0.25),
    ('file,start,end,arousal\ngood.flac,"0,25",0.75,.5\n', "row 1.*'0,25'.*seconds"),
    ("file,Start,end,arousal\ngood.flac,0.25,0.75,.5\n", "`Start`"),
    ("path,arousal\ngood.flac,.5\n", "no column `file`"),
    ("file,arousal\n", "no rows"),
    ("file,arousal\n,.5\n", "row 1: names no file"),
    ("", "not a CSV table|No columns"),
]


@pytest.mark.parametrize(("text", "outcome"), TABLES)
def test_tables(toy, everything, tmp_path, text, outcome):
    root = str(everything[0].parent)
    (tmp_path / "list.csv").write_text(text)
    verbs = {
        "predict": lambda path: predict(toy, path, root=root).rows[0][1:3],
        "label": lambda path: label(path, tmp_path / "l.parquet", root=root, workers=0).rows,
        "evaluate": lambda path: evaluate(toy, path, root=root, resamples=10).clips,
    }
    for name, verb in verbs.items():
        if isinstance(outcome, str):
            with pytest.raises(Wav2SmallError, match=outcome) as rejection:
                verb(tmp_path / "list.csv")
            assert str(tmp_path) in str(rejection.value) and "\n" not in str(rejection.value)
        else:
            assert verb(tmp_path / "list.csv") == ((outcome, 0.75) if name == "predict" else 1)
    if not isinstance(outcome, str):
        assert load_source(tmp_path / "l.parquet").frame["start"][0].total_seconds() == outcome


WRITERS = {
    "tsv": lambda frame, path: frame.to_csv(path, sep="\t", index=False),
    "csv.gz": lambda frame, path: frame.to_csv(path, index=False),
    "jsonl": lambda frame, path: frame.to_json(path, orient="records", lines=True),
    "feather": lambda frame, path: frame.to_feather(path),
    "parquet": lambda frame, path: frame.set_index(["file", "start", "end"]).to_parquet(path),
}


@pytest.mark.parametrize("ending", WRITERS)
def test_kinds_of_tables(toy, everything, tmp_path, ending):
    """Times as text are seconds in all of them; parquet has an index of pandas."""
    columns = {"file": ["good.flac"], "start": ["0.25"], "end": ["0.75"], "arousal": [0.5]}
    path, root = tmp_path / f"list.{ending}", str(everything[0].parent)
    WRITERS[ending](pd.DataFrame(columns), path)
    assert predict(toy, path, root=root).rows[0][1:3] == (0.25, 0.75)
    assert label(path, tmp_path / "l.parquet", root=root, workers=0).rows == 1
    assert load_source(tmp_path / "l.parquet").frame["end"][0].total_seconds() == 0.75
    assert evaluate(toy, path, root=root, resamples=10).clips == 1


@pytest.mark.parametrize(
    ("start", "message"),
    [(True, "row 1.*'True'"), (1e30, "row 1"), ("soon", "row 1.*soon"), (-0.5, "no such part")],
)
def test_times_that_are_none(toy, everything, tmp_path, start, message):
    root = str(everything[0].parent)
    frame = pd.DataFrame({"file": ["good.flac"], "start": [start], "arousal": [0.5]})
    frame.astype({"start": object}).to_parquet(tmp_path / "list.parquet")
    verbs = (
        lambda: predict(toy, tmp_path / "list.parquet", root=root).rejected[0][1],
        lambda: label(tmp_path / "list.parquet", tmp_path / "l.parquet", root=root, workers=0),
        lambda: evaluate(toy, tmp_path / "list.parquet", root=root).rejected[0][1],
    )
    for verb in verbs:
        with pytest.raises(Wav2SmallError, match=message) as rejection:  # noqa: PT012
            raise Wav2SmallError(verb())
        assert "\n" not in str(rejection.value)


def test_outputs_that_are_no_files(everything, tmp_path):
    """`label` goes on with its table, so that must be a file; others write into what is there."""
    source = everything[0].parent / "good.flac"
    target, link, pipe = (tmp_path / f"{name}.parquet" for name in ("target", "link", "pipe"))
    link.symlink_to(target)
    assert label(source, link, workers=0).rows == 1
    assert link.is_symlink() and load_source(target).frame["file"][0] == "good.flac"
    os.mkfifo(pipe)
    (tmp_path / "folder.parquet").mkdir()
    for name, message in ((pipe, "no regular file"), (tmp_path / "folder.parquet", "a folder")):
        with pytest.raises(Wav2SmallError, match=message):
            label(source, name, workers=0)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    files.write_json(pipe, [1])
    reader.join(10)
    assert pipe.is_fifo() and json.loads(read[0]) == [1]
    device = Path(os.devnull)
    files.write_json(device, [1])
    assert device.is_char_device()
    with pytest.raises(Wav2SmallError, match="a folder"):
        files.write_json(tmp_path, [1])


def test_rows_that_stand_twice(toy, everything, tmp_path, capfd):
    (tmp_path / "list.csv").write_text("file,start,arousal\n" + "good.flac,0.2,.5\n" * 3)
    root = str(everything[0].parent)
    assert predict(toy, tmp_path / "list.csv", root=root).count == 3
    assert evaluate(toy, tmp_path / "list.csv", root=root, resamples=10).clips == 3
    capfd.readouterr()
    done = label(tmp_path / "list.csv", tmp_path / "l.parquet", root=root, workers=0)
    assert done.rows == 3
    assert capfd.readouterr().err.count("2 rows stand more than once") == 1
