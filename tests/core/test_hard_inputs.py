"""Faults that hard users found: nothing silently wrong, nothing destroyed."""

import csv
import io
import json
import os
import re
import subprocess
import sys
import threading
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import soundfile
from labelling_cases import label
from test_predictor import model
from toy_teachers import Loudness

from wav2small import audio, evaluate, predict
from wav2small.errors import Wav2SmallError
from wav2small.follow import follow
from wav2small.index import load_source
from wav2small.predictor import Predictor
from wav2small.stream import Stream
from wav2small.teachers.labelling.options import ComputeOptions


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    model(folder / "model.onnx")
    return folder


def stopped(toy, source, out, monkeypatch, after):
    """Leave what a run that was stopped after so many estimates leaves."""
    real, calls = Predictor.predict_details, []

    def stop(self, signal, *args, **options):
        calls.append(1)
        if len(calls) > after:
            raise KeyboardInterrupt
        return real(self, signal, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "predict_details", stop)
        with pytest.raises(KeyboardInterrupt):
            predict(toy, source, out)


@pytest.mark.parametrize("change", ["deleted", "added", "rewritten", "times", "other list"])
def test_a_source_that_changed_between_two_runs(toy, speech, tmp_path, monkeypatch, change, capfd):
    names = sorted(path.name for path in speech.glob("*.flac"))[:8]
    folder, table, out = tmp_path / "audio", tmp_path / "list.csv", tmp_path / "out.csv"
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes((speech / name).read_bytes())

    def write(rows):
        table.write_text("file,start,end\n" + "".join(f"audio/{n},{s},\n" for n, s in rows))

    write([(name, 0.2) for name in names])
    source = table if change in ("times", "other list") else folder
    stopped(toy, source, out, monkeypatch, after=5)
    if change == "deleted":
        (folder / names[1]).unlink()
    elif change == "added":
        (folder / "0000-a.flac").write_bytes((speech / names[3]).read_bytes())
    elif change == "rewritten":
        (folder / names[2]).write_bytes((speech / names[7]).read_bytes())
    elif change == "times":
        write([(name, 0.1) for name in names])
    else:
        write([(name, 0.2) for name in reversed(names)])
    predict(toy, source, out)
    assert "resuming from" in capfd.readouterr().err
    found = list(csv.reader(out.open()))
    predict(toy, source, tmp_path / "fresh.csv")
    assert found == list(csv.reader((tmp_path / "fresh.csv").open()))


def test_a_row_that_stands_twice_is_kept_twice(toy, speech, tmp_path):
    name = sorted(speech.glob("*.flac"))[0].name
    table = tmp_path / "list.csv"
    table.write_text(f"file\n{name}\n{name}\n")
    assert len(predict(toy, table, tmp_path / "out.csv", root=str(speech)).rows) == 2


def test_an_output_that_is_no_file_stays_what_it_is(toy, speech, tmp_path):
    clip = sorted(speech.glob("*.flac"))[0]
    target, link, pipe = tmp_path / "target.csv", tmp_path / "link.csv", tmp_path / "pipe"
    target.write_text("old")
    link.symlink_to(target)
    predict(toy, clip, link)
    assert link.is_symlink() and target.read_text().startswith("file,start")
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    predict(toy, clip, pipe)
    reader.join(10)
    assert pipe.is_fifo() and read[0] == target.read_text()
    with pytest.raises(Wav2SmallError, match="a folder"):
        predict(toy, clip, tmp_path)
    if os.path.isdir("/proc/self/fd"):
        for output in ("/proc/none.csv", "/dev/fd/99"):
            with pytest.raises(Wav2SmallError, match="choose another -o"):
                predict(toy, clip, output)
    before = os.stat(os.devnull).st_rdev
    predict(toy, clip, os.devnull)
    assert os.stat(os.devnull).st_rdev == before
    shell = f"{sys.executable} -m wav2small predict {toy} {clip} -o >(cat)"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True)
    assert done.stdout == target.read_text()
    log = tmp_path / "log.txt"
    log.write_text("before\n")
    for output in ("/dev/stdout", tmp_path / "stdout"):
        (tmp_path / "stdout").unlink(missing_ok=True)
        (tmp_path / "stdout").symlink_to("/dev/stdout")
        with log.open("a") as file:
            command = [sys.executable, "-m", "wav2small", "predict", toy, clip, "-o", output]
            subprocess.run(command, stdout=file, check=True)
    assert log.read_text() == "before\n" + 2 * target.read_text()


TIMES = [
    ("file, start ,end\na.wav, 1.5, 2\n", 1.5),
    ("file;start;end\na.wav;1,5;2\n", 1.5),
    ("file\tstart\tend\na.wav\t1.5\t2\n", 1.5),
    ("file|start|end\na.wav|1.5|2\n", 1.5),
    ('file,start,end\na.wav,"1.5",2\nb.wav,00:00:01,3\n', 1.5),
    ("file,start,end\na.wav,00:00:01.5,2\n", 1.5),
    ("file,start,end\na.wav,0 days 00:00:01.500,2\n", 1.5),
    ("file,start,end\na.wav,1500ms,2\n", 1.5),
    ("file,start,end\na.wav,1.5,2,\n", 1.5),
    ("file,start,end\na.wav,,2\n", 0.0),
    ("file,start,end\na.wav,1.5,2,,\nb.wav,1,2\n", 1.5),
    ("sep=;\nfile;start;end\na.wav;1,5;2\n", 1.5),  # Excel
    ("file;start;end;note\na.wav;1,5;2;x\n;;;\n;;;\n", 1.5),
    ("file,start,end,text\na.wav,1.5,2,\n,,,\n", 1.5),
]


@pytest.mark.parametrize(("text", "start"), TIMES)
def test_times_of_a_csv(tmp_path, text, start):
    table = tmp_path / "list.csv"
    table.write_text(text)
    frame = load_source(table).frame
    assert frame["file"].isin(["a.wav", "b.wav"]).all() and frame["file"][0] == "a.wav"
    assert frame["start"][0].total_seconds() == start
    assert frame["end"][0].total_seconds() == 2


@pytest.mark.parametrize(
    ("values", "start"),
    [(["1.5"], 1.5), ([Decimal("1.5")], 1.5), ([pd.Timedelta(1500, "ms")], 1.5), ([1], 1.0)],
)
def test_times_of_a_parquet_table(tmp_path, values, start):
    table = tmp_path / "list.parquet"
    pd.DataFrame({"file": ["a.wav"], "start": values}).to_parquet(table)
    assert load_source(table).frame["start"][0].total_seconds() == start


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('file,start,end\na.wav,"0,5",2\n', "row 1.*0,5"),
        ("file,start,end\na.wav,1,2\nb.wav,soon,2\n", "row 2.*soon"),
        ("file,Start,End\na.wav,1,2\n", "`Start`"),
        ("file,start_s\na.wav,1\n", "`start_s`"),
        ("file,start (s),end (s)\na.wav,1,2\n", r"`start \(s\)`"),
        ("file,startTime\na.wav,1\n", "`startTime`"),
        ("file,start,end_sec\na.wav,1,2\n", "`end_sec`"),
        ("file,start,duration\na.wav,1,2\n", "`duration`"),
        ("file,start,end\na.wav,1e30,2\n", "row 1"),
        ("# a remark\nfile,start\na.wav,1\n", r"row 1 has more values.*\(# a remark\)"),
        # Decimal commas without quotes shift what follows.
        ("file,start,end\na.wav,0,5,1,5\n", "row 1 has more values"),
        ("file,start,end\na.wav,0,1\nb.wav,0,5,1,5\n", "row 2 has more values"),
        ("file,start,end\na.wav,0,1,\n\nb.wav,0,5,1\n", "row 2 has more values"),
        ("file,start,start\na.wav,1,2\n", "two columns `start`"),
        ("f\0i\0l\0e\0\n\0", "UTF-16"),
    ],
)
def test_times_that_are_rejected_by_name(tmp_path, text, message):
    table = tmp_path / "list.csv"
    table.write_text(text)
    with pytest.raises(Wav2SmallError, match=message):
        load_source(table)
    pd.DataFrame({"file": ["a.wav"], "start": [True]}).to_parquet(tmp_path / "list.parquet")
    with pytest.raises(Wav2SmallError, match="row 1"):
        load_source(tmp_path / "list.parquet")


BAD_ROWS = [
    ("bad.csv", 'file,start,end\n{0},0,.5\n{0},"0,1",.5\n{0},.1,.6\n', "`start` holds '0,1'"),
    ("bad.tsv", "file\tstart\tend\n{0}\t0\t.5\n{0}\t.1\t0,5\n{0}\t.1\t.6\n", "`end` holds '0,5'"),
    ("bad.csv", "file;start;end\n{0};0;,5\n{0};1.000,5;2\n{0};,1;0,6\n", "`start` holds '1.000.5'"),
    ("bad.csv", "file,start,end\n{0},0,.5\n{0},0:01,.5\n{0},.1,.6\n", "`start` holds '0:01'"),
    ("bad.csv", "file,start,end\n{0},0,.5\n{0},0,inf\n{0},.1,.6\n", "`end` holds 'inf'"),
    ("bad.csv", "file,start,end\n{0},0,.5\n,0,.5\n{0},.1,.6\n", "names no file"),
    ("bad.csv", "file,start,end\n{0},0,.5\n{0},.4,.1\n{0},.1,.6\n", "no such part"),
]


@pytest.mark.parametrize(("name", "text", "reason"), BAD_ROWS)
def test_a_row_that_cannot_be_read_is_rejected_alone(toy, speech, tmp_path, name, text, reason):
    """By `predict`, `label` and `evaluate`, with its number; the others keep theirs."""
    clip = sorted(speech.glob("*.flac"))[0]
    rows = text.format(clip.name).splitlines()
    rows += [rows[1].replace(clip.name, "gone.flac")]
    table = tmp_path / name
    table.write_text("\n".join(rows))
    result = predict(toy, table, root=speech)
    assert [row[1:3] for row in result.rows] == [(0, 0.5), (0.1, 0.6)]
    (tmp_path / "labels").mkdir()
    labels = tmp_path / "labels" / "labels.parquet"
    assert (label(table, labels, root=str(speech), workers=0).rows) == 2
    times = pd.read_parquet(labels)["start"].dt.total_seconds()
    assert times.tolist() == [0, 0.1]
    errors = list(csv.DictReader((tmp_path / "labels" / "errors.csv").open()))
    assert [line["row"] for line in errors] == ["2", "4"]
    separator = re.search(r"file(.)", rows[0])[1]
    ratings = ["arousal", ".2", ".3", ".4", ".5"]
    rated = map(separator.join, zip(rows, ratings, strict=True))
    table.write_text("\n".join(rated))
    found = evaluate(toy, table, root=speech, resamples=10)
    assert found.clips == 2
    for reasons in (
        [why for _, why in result.rejected],
        [f"row {line['row']}: {line['reason']}" for line in errors],
        [why for _, why in found.rejected],
    ):
        assert len(reasons) == 2
        assert reasons[0].startswith("row 2: ") and reason in reasons[0]
        assert reasons[1].startswith("row 4: ") and "gone.flac: no such file" in reasons[1]
    # What is listed is rejected again, not read from the beginning.
    with pytest.raises(Wav2SmallError):
        label(tmp_path / "labels" / "errors.csv", labels.with_name("again.parquet"), workers=0,
              root=str(speech))  # fmt: skip


@pytest.mark.parametrize("kind", [object, "str", "category"])
def test_rows_of_a_parquet_table_without_a_file(tmp_path, kind):
    files = pd.Series(["a.wav", None, "b.wav"], dtype=kind)
    starts = pd.Series(["1", "2", "soon"], dtype=kind)
    pd.DataFrame({"file": files, "start": starts}).to_parquet(tmp_path / "list.parquet")
    index = load_source(tmp_path / "list.parquet", reject_rows=True)
    assert index.frame["file"].tolist() == ["a.wav"] and list(index.numbers) == [1]
    assert [row[:2] for row in index.rejected_rows] == [(2, ""), (3, "b.wav")]


def test_rows_without_a_start_are_counted_aloud(tmp_path, capfd):
    table = tmp_path / "list.csv"
    table.write_text("file,start,end\na.wav,1,2\na.wav,,2\na.wav,,\na.wav,nan,2\n")
    assert load_source(table).frame["start"].dt.total_seconds().tolist() == [1, 0, 0, 0]
    assert f"{table}: 2 rows without `start` (such as row 2)" in capfd.readouterr().err
    table.write_text("file,start,end\na.wav,,2\na.wav,,3\n")
    load_source(table)
    assert capfd.readouterr().err == ""


def test_one_bad_row_does_not_end_the_job(toy, speech, tmp_path):
    clip = sorted(speech.glob("*.flac"))[0].read_bytes()
    (tmp_path / "good.flac").write_bytes(clip)
    (tmp_path / "samples.raw").write_bytes(b"\0" * 40000)
    (tmp_path / "loop.flac").symlink_to(tmp_path / "loop.flac")
    (tmp_path / "folder.wav").mkdir()
    bad = [
        "samples.raw",
        "loop.flac",
        "x" * 300 + ".wav",
        "good.flac/x.wav",
        "folder.wav",
        "gone.wav",
    ]
    frame = pd.DataFrame({"file": [*bad, "a\0b.wav", "good.flac", "good.flac", "good.flac"]})
    frame["start"] = [0.0] * 7 + [0.0, -1.0, 0.9]
    frame["end"] = [None] * 9 + [0.5]
    frame.to_parquet(tmp_path / "list.parquet")
    result = predict(toy, tmp_path / "list.parquet", tmp_path / "out.csv")
    assert [row[0] for row in result.rows] == ["good.flac"]
    reasons = [reason for _, reason in result.rejected]
    assert len(reasons) == 9 and all("\n" not in reason for reason in reasons)
    parts = [
        "ffmpeg",
        *["no such file"] * 3,
        "folder",
        *["no such file"] * 2,
        *["no such part"] * 2,
    ]
    for reason, part in zip(reasons, parts, strict=True):
        assert part in reason


def test_channels_that_cancel(tmp_path):
    tone = np.sin(np.arange(16000) / 9).astype(np.float32)
    soundfile.write(tmp_path / "cancel.wav", np.stack([tone, -tone], 1), 16000, subtype="FLOAT")
    with pytest.raises(Wav2SmallError, match="--channel"):
        audio.read(tmp_path / "cancel.wav")
    assert audio.read(tmp_path / "cancel.wav", channel=1).std() > 0.5


@pytest.mark.parametrize(
    ("signal", "rate", "message"),
    [
        (np.zeros(16000), 16000, "only zeros"),
        (np.ones(16000, np.int32), 16000, "int32"),
        (np.ones(16000, bool), 16000, "bool"),
        *[(np.sin(np.arange(16000.0)), rate, "sampling rate") for rate in (1, 0, -5, float("nan"))],
        *[(np.sin(np.arange(16000.0)), rate, "sampling rate") for rate in (None, "16k", 1e6)],
    ],
)
def test_signals_that_are_no_speech(toy, signal, rate, message):
    with pytest.raises(Wav2SmallError, match=message):
        Predictor(toy).predict(signal, rate)


def test_samples_out_of_range(toy, speech, tmp_path):
    """1e18 is finite, but its square is not: the estimate was NaN, and a stream stayed NaN."""
    signal = np.tile(audio.read(sorted(speech.glob("*.flac"))[0]), 2)
    loud = signal.copy()
    loud[5000] = 1e18
    soundfile.write(tmp_path / "loud.wav", loud, 16000, subtype="FLOAT")
    predictor, stream = Predictor(toy), Stream(toy, gate=False)
    for reject in (predictor.predict, stream.push, lambda _: audio.read(tmp_path / "loud.wav")):
        with pytest.raises(Wav2SmallError, match=r"1e\+18"):
            reject(loud)
    assert all(np.isfinite(estimate.overall).all() for estimate in stream.push(signal))
    for take in (predictor.predict, stream.push):
        with pytest.warns(UserWarning, match="not scaled"):
            take(signal * 32768)


@pytest.mark.parametrize("words", [["predict"], ["predict", "--workers", "1"], ["label"]])
def test_integers_that_were_not_scaled_are_named(toy, speech, tmp_path, words):
    """On one line each, without the line of code."""
    signal = audio.read(sorted(speech.glob("*.flac"))[0])
    for name in ("a\nb.wav", "c.wav"):
        soundfile.write(tmp_path / name, signal * 32768, 16000, subtype="FLOAT")
    extra = [str(toy)] if words[0] == "predict" else []
    extra += [str(tmp_path), "-o", str(tmp_path / "out.parquet")]
    command = [sys.executable, "-m", "wav2small", words[0], *extra, *words[1:]]
    command += ["--workers", "0"] if words[0] == "label" else []
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert len(lines) == 2 and "UserWarning" not in done.stderr
    for line, name in zip(lines, (r"a\nb.wav", "c.wav"), strict=True):
        assert name in line and "not scaled?" in line


def test_int16_is_scaled(toy, speech):
    signal = audio.read(sorted(speech.glob("*.flac"))[0])
    rounded = np.clip(np.round(signal * 32768), -32768, 32767).astype(np.int16)
    predictor = Predictor(toy)
    other = predictor.predict(rounded / np.float32(32768))
    np.testing.assert_array_equal(predictor.predict(rounded), other)
    np.testing.assert_array_equal(predictor.predict(rounded.astype(">i2")), other)
    one, other = (Stream(toy).push(rounded.astype(kind)) for kind in ("<i2", ">i2"))
    assert one == other


@pytest.mark.parametrize(
    "options", [{"window": float("nan")}, {"window": 0.5, "hop": 1e-7}, {"hop": float("inf")}]
)
def test_windows_that_cannot_be(toy, speech, options):
    with pytest.raises(Wav2SmallError, match="--window|--hop"):
        predict(toy, sorted(speech.glob("*.flac"))[0], **options)


@pytest.mark.parametrize("clips", [1, 2, 6])
def test_evaluation_without_a_figure(toy, speech, tmp_path, clips):
    """One clip, or ratings that do not vary."""
    names = [file.name for file in sorted(speech.glob("*.flac"))[:clips]]
    truth = tmp_path / "truth.csv"
    truth.write_text("file,arousal\n" + "".join(f"{name},.5\n" for name in names))
    for options in ({"resamples": -5}, {"resamples": 0}, {"scale": (1, float("inf"))}):
        with pytest.raises(Wav2SmallError, match="--"):
            evaluate(toy, truth, root=str(speech), **options)
    figures = evaluate(toy, truth, root=str(speech)).to_json()["dimensions"]["arousal"]
    text = json.dumps(figures, allow_nan=False)
    assert figures["ccc"]["value"] is None and "reason" in figures["ccc"] and "NaN" not in text
    assert (figures["mae"]["high"] or 0) < 1  # no interval of what two clips tell


def test_a_name_with_a_carriage_return(toy, speech, tmp_path):
    clip = sorted(speech.glob("*.flac"))[0].read_bytes()
    (tmp_path / "a\rb.flac").write_bytes(clip)
    predict(toy, tmp_path, tmp_path / "out.csv")
    assert list(pd.read_csv(tmp_path / "out.csv")["file"]) == ["a\rb.flac"]


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [("WAV", None), ("RF64", None), ("AIFF", None), ("CAF", None), ("AU", None), ("W64", None),
     ("NIST", None), ("FLAC", None), ("MP3", None), ("OGG", None), ("OGG", "OPUS"),
     ("AVR", None), ("VOC", None), ("PVF", None), ("PAF", None), ("SVX", None)],
)  # fmt: skip
def test_follow_rejects_every_file_format(toy, speech, kind, subtype):
    signal = audio.read(sorted(speech.glob("*.flac"))[0])
    file, out = io.BytesIO(), io.StringIO()
    soundfile.write(file, signal, 16000, format=kind, subtype=subtype)
    with pytest.raises(Wav2SmallError, match="ffmpeg"):
        follow(toy, io.BytesIO(file.getvalue()), out)
    big = io.BytesIO(b"RIFX" + file.getvalue()[4:])
    with pytest.raises(Wav2SmallError, match="ffmpeg"):
        follow(toy, big, out)
    with pytest.raises(Wav2SmallError, match="empty"):
        follow(toy, io.BytesIO(b""), out)
    assert out.getvalue() == ""


def test_follow_takes_loud_samples_that_begin_like_no_file(toy):
    """Samples near -1 have the bytes of an MP3's first half word now and then."""
    samples = np.tile(np.array([-1, 0x0F7B, -300, 1], "<i2"), 4000)
    assert follow(toy, io.BytesIO(samples.tobytes()), io.StringIO()) == 0


@pytest.mark.parametrize(
    ("samples", "gate", "message"),
    [
        (np.zeros(32000, "<i2"), True, "2.00 s came, 0.00 s of it louder than silence .--no-gate"),
        (np.full(1600, 9000, "<i2"), None, "0.25 s are needed; 0.10 s came$"),
    ],
)
def test_follow_without_an_estimate_says_so(toy, samples, gate, message):
    out = io.StringIO()
    with pytest.raises(Wav2SmallError, match=message):
        follow(toy, io.BytesIO(samples.tobytes()), out, gate=gate)
    assert out.getvalue() == ""


class Faster(Loudness):
    """Hears at another rate."""

    sampling_rate = 24000


def test_recordings_of_a_low_rate_are_counted_aloud(toy, speech, tmp_path, capfd):
    """By `predict`, `label` and `evaluate`; the label table marks them."""
    signal = audio.read(sorted(speech.glob("*.flac"))[0])
    soundfile.write(tmp_path / "telephone.wav", signal[::2], 8000)
    soundfile.write(tmp_path / "full.wav", signal, 16000)
    assert len(predict(toy, tmp_path).rows) == 2
    assert "1 of 2 rows" in capfd.readouterr().err
    labels = tmp_path / "labels" / "l.parquet"
    labels.parent.mkdir()
    for teacher in ("toy_teachers:Batched", Faster(), "acoustic"):
        label(tmp_path, labels, workers=0, variants=1, teacher=teacher, overwrite=True)
        assert "1 of 2 labels have nothing above 6 kHz (`band_limited`)" in capfd.readouterr().err
        frame = pd.read_parquet(labels)
        clean = frame[frame["variant"] == 0]
        assert dict(zip(clean["file"], clean["band_limited"], strict=True)) == {
            "full.wav": False,
            "telephone.wav": True,
        }
    table = tmp_path / "truth.csv"
    table.write_text("file,arousal\nfull.wav,.2\ntelephone.wav,.4\ngone.wav,.4\n")
    for subject in (toy, labels, "acoustic"):
        evaluate(subject, table, resamples=10, labelling={"compute": ComputeOptions(workers=0)})
        found = capfd.readouterr().err
        assert found.count("nothing above 6 kHz") == 1 and "1 of 2 " in found, subject
    predict(toy, tmp_path / "full.wav")
    assert capfd.readouterr().err == ""
