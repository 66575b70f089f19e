"""Tables and names as people have them: read, or named in one line."""

import gzip
import json
import os
import subprocess
import sys
import unicodedata

import numpy as np
import pandas as pd
import pytest
import soundfile
import soxr
from labelling_cases import label
from test_predictor import model

import wav2small
from wav2small import audio, evaluate, predict
from wav2small.errors import AudioError, Wav2SmallError
from wav2small.index import load_source
from wav2small.predictor import Predictor

CSV = "file,start,end\na.wav,0.5,1.5\nb.wav,1,\n"
FRAME = pd.DataFrame(
    {
        "file": ["a.wav", "b.wav"],
        "start": pd.to_timedelta([0.5, 1], unit="s"),
        "end": pd.to_timedelta([1.5, None], unit="s"),
    }
)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    model(folder / "model.onnx")
    return folder


def parquet_folder(path):
    path.mkdir()
    for number in range(2):
        FRAME[number : number + 1].to_parquet(path / f"part-{number}.parquet")


def indexed(path):
    FRAME.set_index(["file", "start", "end"]).assign(speaker="x").to_parquet(path)


def lines(path):
    rows = [dict(file="a.wav", start=0.5, end=1.5), dict(file="b.wav", start="0:00:01", end=None)]
    pd.DataFrame(rows).to_json(path, orient="records", lines=True)


TABLES = {
    "t.tsv": lambda path: path.write_text(CSV.replace(",", "\t")),
    "t.csv.gz": lambda path: path.write_bytes(gzip.compress(CSV.encode())),
    "t.tsv.xz": lambda path: pd.read_csv(path.parent / "t.csv").to_csv(path, sep="\t", index=False),
    "utf16.csv": lambda path: path.write_text(CSV.replace(",", "\t"), encoding="utf-16"),
    "nat.csv": lambda path: path.write_text(CSV.replace("1,\n", "1,NaT\n")),
    "t.jsonl": lines,
    "t.ndjson.gz": lines,
    "t.feather": FRAME.to_feather,
    "t.arrow": FRAME.to_feather,
    "t.pq": FRAME.to_parquet,
    "indexed.parquet": indexed,
    "folder.parquet": parquet_folder,
}


@pytest.mark.parametrize("name", TABLES)
def test_what_is_a_table_is_read_as_one(tmp_path, name):
    (tmp_path / "t.csv").write_text(CSV)
    TABLES[name](tmp_path / name)
    index = load_source(tmp_path / name)
    assert index.frame["file"].tolist() == ["a.wav", "b.wav"]
    assert index.frame["start"].dt.total_seconds().tolist() == [0.5, 1.0]
    assert index.frame["end"][0].total_seconds() == 1.5 and pd.isna(index.frame["end"][1])
    assert index.root == str(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.xlsx", b"PK\3\4", "a table in a format"),
        ("t.json", b"{}", "a table in a format"),
        ("t.txt", b"a.wav", "a table in a format.*column `file`"),
        ("t.csv.zip", b"PK\3\4", "a table in a format"),
        ("t.csv", "file,start\nä.wav,1\n".encode("latin-1"), "not in UTF-8.*0xe4.*iconv"),
        ("t.csv.gz", b"no gzip", "not a .* table, or damaged"),
        ("t.jsonl", b"file: a.wav", "not a .* table, or damaged"),
        ("t.feather", b"feathers", "not a .* table, or damaged"),
        ("t.parquet", b"PAR1", "not a .* table, or damaged"),
        ("t.tsv", b"", "not a .* table, or damaged"),
    ],
)
def test_what_is_no_table_is_named(toy, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    for read in (load_source, lambda path: predict(toy, path)):
        with pytest.raises(Wav2SmallError, match=message) as rejection:
            read(tmp_path / name)
        assert "\n" not in str(rejection.value) and str(tmp_path) in str(rejection.value)


def test_a_folder_of_parquet_without_audio_names_it(toy, tmp_path):
    FRAME.to_parquet(tmp_path / "part-0.parquet")
    with pytest.raises(Wav2SmallError, match=r"parquet files \(part-0\.parquet\)"):
        predict(toy, tmp_path)


@pytest.mark.parametrize(("on_disk", "named"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_letters_composed_or_not(toy, speech, tmp_path, on_disk, named):
    """macOS decomposes names, tables are written with composed letters."""
    clip = sorted(speech.glob("*.flac"))[0].read_bytes()
    folder = tmp_path / unicodedata.normalize(on_disk, "Büro")
    folder.mkdir()
    (folder / unicodedata.normalize(on_disk, "Grüße é.flac")).write_bytes(clip)
    name = unicodedata.normalize(named, "Büro/Grüße é.flac")
    (tmp_path / "list.csv").write_text(f"file\n{name}\n")
    assert len(predict(toy, tmp_path / "list.csv").rows) == 1
    assert len(predict(toy, tmp_path / name).rows) == 1
    assert len(predict(toy, tmp_path / unicodedata.normalize(named, "Büro")).rows) == 1


def test_a_folder_may_be_called_like_a_database(toy, speech, tmp_path):
    clip = sorted(speech.glob("*.flac"))[0]
    (tmp_path / "corpus.db").mkdir()
    (tmp_path / "corpus.db" / "a.flac").write_bytes(clip.read_bytes())
    assert len(predict(toy, tmp_path / "corpus.db").rows) == 1
    assert load_source(tmp_path / "corpus.db").frame["file"].tolist() == ["a.flac"]


def test_names_of_other_kinds(toy, speech, tmp_path, monkeypatch):
    import fsspec

    clip = sorted(speech.glob("*.flac"))[0]
    (tmp_path / "a b.flac").write_bytes(clip.read_bytes())
    monkeypatch.setenv("HOME", str(tmp_path))
    with fsspec.open("memory://corpus/a.flac", "wb") as file:
        file.write(clip.read_bytes())
    (tmp_path / "list.csv").write_text(
        f"file\n~/a b.flac\n{(tmp_path / 'a b.flac').as_uri()}\nmemory://corpus/a.flac\n"
        "memory://corpus/gone.flac\nnowhere://a.flac\n"
    )
    for source in (tmp_path / "list.csv", "~/list.csv", (tmp_path / "list.csv").as_uri()):
        result = predict(toy, source)
        assert len(result.rows) == 3 and len({row[3:6] for row in result.rows}) == 1
        assert [file for file, _ in result.rejected] == [
            "memory://corpus/gone.flac",
            "nowhere://a.flac",
        ]
        assert all("cannot be fetched" in reason for _, reason in result.rejected)
    assert len(predict(toy, [tmp_path / "list.csv", tmp_path / "a b.flac"]).rows) == 4
    assert len(predict(toy, "memory://corpus/a.flac").rows) == 1
    with fsspec.open("memory://corpus/list.csv", "w") as file:
        file.write("file\na.flac\n")
    assert len(predict(toy, "memory://corpus/list.csv").rows) == 1
    signed = "memory://corpus/a.flac?signature=secret"
    with fsspec.open(signed, "wb") as file:
        file.write(clip.read_bytes())
    assert len(predict(toy, signed).rows) == 1
    assert label(signed, tmp_path / "signed.parquet", workers=0).rows == 1
    history = str(wav2small.read_labels(tmp_path / "signed.parquet").provenance)
    assert "memory://corpus/a.flac" in history and "secret" not in history
    labelled = label(tmp_path / "list.csv", tmp_path / "labels.parquet", workers=1)
    assert labelled.rows == 2  # URLs are fetched in the worker: memory:// is empty there


@pytest.mark.parametrize(
    "name",
    ["voice", "voice.wav", "VOICE.FLAC", "folder\\voice.flac", "C:\\a\\voice.flac", "voise.flac"],
)
def test_the_nearest_name_is_suggested(toy, speech, tmp_path, name):
    (tmp_path / "folder").mkdir()
    for place in ("voice.flac", "folder/voice.flac"):
        (tmp_path / place).write_bytes(sorted(speech.glob("*.flac"))[0].read_bytes())
    (tmp_path / "list.csv").write_text(f"file\n{name}\n")
    reason = predict(toy, tmp_path / "list.csv").rejected[0][1]
    assert f"did you mean {tmp_path}" in reason and "voice.flac?" in reason
    if "\\" not in name:
        with pytest.raises(Wav2SmallError, match="did you mean"):
            predict(toy, tmp_path / name)


def test_a_root_that_is_no_folder_ends_the_run(toy, speech, tmp_path):
    """Or each row would be rejected for it."""
    clip = sorted(speech.glob("*.flac"))[0]
    (tmp_path / "list.csv").write_text(f"file,arousal\n{clip.name},.5\n")
    wrong = f"{speech}x"
    for verb in (
        lambda: predict(toy, tmp_path / "list.csv", root=wrong),
        lambda: evaluate(toy, tmp_path / "list.csv", root=wrong),
        lambda: label(tmp_path / "list.csv", tmp_path / "l.parquet", root=wrong, workers=0),
    ):
        with pytest.raises(Wav2SmallError, match=f"--root {wrong}: no such folder; did you mean"):
            verb()
    for root in (speech, speech.as_uri()):
        assert predict(toy, tmp_path / "list.csv", root=root).count == 1


def test_names_that_are_not_utf8_are_named(toy, speech, tmp_path):
    raw = os.fsencode(tmp_path) + b"/caf\xe9.flac"
    with open(raw, "wb") as file:
        file.write(sorted(speech.glob("*.flac"))[0].read_bytes())
    with pytest.raises(Wav2SmallError, match=r"caf\\xe9.flac: the name is not UTF-8"):
        predict(toy, os.fsdecode(raw), tmp_path / "out.csv")
    with pytest.raises(Wav2SmallError, match="no audio"):
        predict(toy, tmp_path)


def command(*words, **environment):
    words = [sys.executable, "-m", "wav2small", *map(str, words)]
    return subprocess.run(words, capture_output=True, env=os.environ | environment)


def test_standard_output_of_another_encoding(toy, speech, tmp_path):
    path = tmp_path / "Grüße.flac"
    path.write_bytes(sorted(speech.glob("*.flac"))[0].read_bytes())
    done = command("predict", toy, path, PYTHONIOENCODING="ascii")
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1
    assert b"PYTHONIOENCODING=utf-8" in done.stderr
    done = command("predict", toy, path, "-o", tmp_path / "out.csv", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and "Grüße" in (tmp_path / "out.csv").read_text("utf-8")


@pytest.mark.parametrize("make", [Predictor, wav2small.Stream])
def test_threads_below_zero(toy, make):
    with pytest.raises(Wav2SmallError, match="--threads -1"):
        make(toy, threads=-1)


def test_silent_windows_are_passed_over_alike(toy, speech, tmp_path):
    clip = np.concatenate([audio.read(file) for file in sorted(speech.glob("*.flac"))])
    signal = np.concatenate([clip[: 24 * 16000], np.zeros(36 * 16000), clip[: 24 * 16000]])
    soundfile.write(tmp_path / "gaps.wav", signal, 16000, subtype="PCM_16")
    soundfile.write(tmp_path / "zeros.wav", np.zeros(84 * 16000), 16000)
    soundfile.write(tmp_path / "offset.wav", np.full(84 * 16000, 0.25), 16000)
    result = predict(toy, tmp_path)
    assert [row[1:3] for row in result.rows] == [(0, 12), (12, 24), (60, 72), (72, 84)]
    assert [file for file, _ in result.rejected] == ["offset.wav", "zeros.wav"]
    predictor = Predictor(toy)
    windows = np.array([row[3:6] for row in result.rows])
    estimate = predictor.predict_file(tmp_path / "gaps.wav")
    np.testing.assert_allclose(estimate, windows.mean(axis=0), atol=1e-5)
    truth = "file,arousal\n" + "".join(f"{n}.wav,.5\n" for n in ("gaps", "zeros", "offset"))
    (tmp_path / "truth.csv").write_text(truth)
    figures = evaluate(toy, tmp_path / "truth.csv")
    assert figures.clips == 1 and len(figures.rejected) == 2
    done = label(tmp_path / "gaps.wav", tmp_path / "labels.parquet", workers=1)
    assert (done.rows, done.errors) == (4, 0)
    for name in ("zeros.wav", "offset.wav"):
        with pytest.raises(AudioError, match="digital silence"):
            predictor.predict_file(tmp_path / name)
    with pytest.raises(Wav2SmallError, match="digital silence"):
        predictor.predict(np.full(16000, 0.25))


def test_band_limited_audio_is_marked(toy, speech, tmp_path, capfd):
    """By its spectrum, whatever rate the file has."""
    for number, file in enumerate(sorted(speech.glob("*.flac"))[:8]):
        signal = audio.read(file)
        for rate in (8000, 11025, 22050):
            narrow = soxr.resample(signal, 16000, rate)
            soundfile.write(tmp_path / f"{number}-{rate}.wav", narrow, rate)
            again = soxr.resample(narrow, rate, 16000)
            soundfile.write(tmp_path / f"{number}-{rate}-again.wav", again, 16000)
        soundfile.write(tmp_path / f"{number}.wav", signal, 16000)
    frame = predict(toy, tmp_path, tmp_path / "out.csv").to_frame()
    for file, limited in zip(frame["file"], frame["band_limited"], strict=True):
        assert limited == ("-8000" in file or "-11025" in file), file
    assert "32 of 56 rows" in capfd.readouterr().err
    assert pd.read_csv(tmp_path / "out.csv")["band_limited"].sum() == 32


def test_columns_are_kept_and_times_in_milliseconds(toy, speech, tmp_path):
    clip = sorted(speech.glob("*.flac"))[0]
    (tmp_path / "a.flac").write_bytes(clip.read_bytes())
    (tmp_path / "list.csv").write_text(
        "file,start,end,speaker,valence,note\na.flac,100,600,01,.3,\n"
        'a.flac,"250",750,02,.4,"b, c"\n'
    )
    options = {"time_unit": "ms", "keep": True}
    for name, json_lines in (("out.csv", False), ("out.jsonl", True)):
        frame = predict(
            toy, tmp_path / "list.csv", tmp_path / name, json_lines=json_lines, **options
        ).to_frame()
        assert frame[["start", "end"]].to_numpy().tolist() == [[0.1, 0.6], [0.25, 0.75]]
        assert list(frame)[-3:] == ["speaker", "source_valence", "note"]
        assert list(frame["source_valence"]) == [0.3, 0.4]
        assert list(frame["speaker"]) == ["01", "02"]
        written = load_source(tmp_path / name).frame
        assert list(written["speaker"]) == ["01", "02"] and written["note"][1] == "b, c"
        assert pd.isna(written["note"][0])
    with pytest.raises(Wav2SmallError, match="--time-unit h"):
        predict(toy, tmp_path / "list.csv", time_unit="h")
    reason = predict(toy, tmp_path / "list.csv").rejected[0][1]
    assert "600.000 s" in reason and "--time-unit ms" in reason
    done = command("predict", toy, tmp_path / "list.csv", "--time-unit", "ms", "--keep")
    assert b"source_valence,note" in done.stdout and done.stdout.count(b"\n") == 3


KEPT = [  # name, values, cells
    ("embedding", [np.arange(2.0), np.ones(2)], ["[0.0, 1.0]", "[1.0, 1.0]"]),
    ("count", pd.array([2**60 + 1, None], dtype="Int64"), ["1152921504606846977", ""]),
    ("missing", pd.array([True, None], dtype="boolean"), ["true", ""]),
    ("when", pd.to_datetime(["2020-01-02", None]), ["2020-01-02 00:00:00", ""]),
    ("small", np.float32([0.1, np.nan]), ["0.1", ""]),
    ("digits", [1e-9, 123456.789], ["1e-09", "123456.789"]),
    ("far", [np.inf, 3.0], ["inf", "3"]),
    ("words", [[{"w": "a"}], None], ["[{'w': 'a'}]", ""]),
]


@pytest.mark.parametrize(("name", "values", "cells"), KEPT)
def test_columns_of_every_kind_are_kept(toy, speech, tmp_path, name, values, cells):
    clip = sorted(speech.glob("*.flac"))[0]
    pd.DataFrame({"file": str(clip), name: values}).to_parquet(tmp_path / "list.parquet")
    predict(toy, tmp_path / "list.parquet", tmp_path / "out.csv", keep=True)
    written = pd.read_csv(tmp_path / "out.csv", dtype=str, keep_default_na=False)
    assert written[name].tolist() == cells
    predict(toy, tmp_path / "list.parquet", tmp_path / "out.jsonl", keep=True, json_lines=True)
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    found = [json.loads(line, parse_constant=pytest.fail)[name] for line in lines]
    assert [one is None for one in found] == [cell == "" for cell in cells]


def test_cells_of_a_csv_are_kept(toy, speech, tmp_path):
    clip = sorted(speech.glob("*.flac"))[0]
    text = "land,take,gap,valence,source_valence\nNA,01,1,.123456,a\n,2,,3,None\nNone,3,3,1,\n"
    header, *rows = text.splitlines()
    lines = [f"file,{header}", *(f"{clip},{row}" for row in rows)]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    predict(toy, tmp_path / "list.csv", tmp_path / "out.csv", keep=True)
    written = pd.read_csv(tmp_path / "out.csv", dtype=str, keep_default_na=False)
    names = ["land", "take", "gap", "source_valence", "source_source_valence"]
    assert written[names].to_numpy().tolist() == [
        ["NA", "01", "1", "0.123456", "a"],
        ["", "2", "", "3", "None"],
        ["None", "3", "3", "1", ""],
    ]


@pytest.mark.parametrize("name", ["Activation", "Arousal", " arousal_", "act"])
def test_near_names_of_ratings_are_suggested(toy, speech, tmp_path, name, capfd):
    clips = sorted(speech.glob("*.flac"))[:3]
    rows = "".join(f"{clip},.{n}\n" for n, clip in enumerate(clips, start=1))
    (tmp_path / "only.csv").write_text(f"file,{name}\n{rows}")
    hint = f"column `{name.strip()}` is not read; if it rates arousal, name it `arousal`"
    for read in (lambda path: evaluate(toy, path), wav2small.read_labels):
        with pytest.raises(Wav2SmallError) as rejection:
            read(tmp_path / "only.csv")
        assert hint in str(rejection.value)
    rows = "".join(f"{clip},.{n},.{n}\n" for n, clip in enumerate(clips, start=1))
    (tmp_path / "both.csv").write_text(f"file,{name},valence\n{rows}")
    capfd.readouterr()
    assert list(evaluate(toy, tmp_path / "both.csv", resamples=10).dimensions) == ["valence"]
    assert any(line.endswith(hint) for line in capfd.readouterr().err.splitlines())


def test_the_unit_of_mae_is_printed(toy, speech, tmp_path):
    rows = "".join(f"{clip},{n % 7 + 1}\n" for n, clip in enumerate(speech.glob("*.flac")))
    (tmp_path / "truth.csv").write_text("file,arousal\n" + rows)
    done = command("evaluate", toy, tmp_path / "truth.csv", "--scale", "1", "7")
    assert b"MAE is in units of 0..1; times 6 for ratings 1..7" in done.stdout, done.stderr
    found = evaluate(toy, tmp_path / "truth.csv", scale=(1, 7), resamples=10)
    assert found.to_json()["scale"] == (1, 7)
    rated = np.array([n % 7 / 6 for n in range(24)])
    values = [Predictor(toy).predict_file(clip)[0] for clip in speech.glob("*.flac")]
    assert found.dimensions["arousal"]["mae"].value == pytest.approx(np.abs(values - rated).mean())


def test_milliseconds_everywhere(toy, speech, tmp_path):
    clip = sorted(speech.glob("*.flac"))[0]
    for name, scale in (("ms", 1000), ("s", 1)):
        rows = "".join(
            f"{clip},{a * scale:g},{b * scale:g},.5\n" for a, b in ((0, 0.4), (0.2, 0.6))
        )
        (tmp_path / f"{name}.csv").write_text("file,start,end,arousal\n" + rows)
    figures, tables = [], []
    for unit in ("ms", "s"):
        source = tmp_path / f"{unit}.csv"
        found = evaluate(toy, source, time_unit=unit, resamples=10)
        assert found.clips == 2
        figures.append(found.dimensions["arousal"]["mae"].value)
        output = tmp_path / f"{unit}.parquet"
        assert label(source, output, time_unit=unit, workers=0).rows == 2
        tables.append(wav2small.read_labels(output).frame)
    assert figures[0] == figures[1]
    pd.testing.assert_frame_equal(*tables)
    words = ("--time-unit", "ms", "--workers", "0")
    assert command("evaluate", toy, tmp_path / "ms.csv", *words).returncode == 0
    done = command("label", tmp_path / "ms.csv", "-o", tmp_path / "l.parquet", *words)
    assert done.returncode == 0 and b"2 labels" in done.stderr
    with pytest.raises(Wav2SmallError, match="400.000 s but.*--time-unit ms"):
        label(tmp_path / "ms.csv", tmp_path / "bad.parquet", workers=0)
