"""`predict` on much audio: parts of long recordings, worker processes, resuming, flat memory."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from test_predictor import command, model

from wav2small import audio, prediction
from wav2small.errors import Wav2SmallError
from wav2small.prediction import predict
from wav2small.predictor import Predictor


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    model(folder / "model.onnx")
    return folder


@pytest.fixture(scope="module")
def long(speech, tmp_path_factory):
    """A folder with short files and one of 260 s, its second minute silent."""
    folder = tmp_path_factory.mktemp("long")
    clips = [audio.read(file) for file in sorted(speech.glob("*.flac"))]
    signal = np.resize(np.concatenate(clips), 260 * 16000)
    signal[60 * 16000 : 120 * 16000] = 0
    soundfile.write(folder / "m.flac", signal, 16000)
    for number, clip in enumerate(clips[:12]):
        soundfile.write(folder / f"{'az'[number % 2]}{number}.flac", clip, 16000)
    return folder


@pytest.fixture(scope="module")
def expected(toy, long):
    """Every window read by itself."""
    predictor, rows = Predictor(toy), []
    for file in sorted(os.listdir(long)):
        total = audio.duration(long / file)
        starts = [0.0] if total <= 2 else [*np.arange(0, total - 2 + 1e-9, 1.0)]
        if total > 2 and total - 2 - starts[-1] > 1e-3:
            starts.append(total - 2)
        for start in starts:
            try:
                signal = audio.read(long / file, start_s=start, end_s=min(total, start + 2))
            except audio.SilentError:
                continue
            rows.append((file, round(start, 3), *map(float, predictor.predict(signal))))
    return rows


def check(result, expected):
    assert [row[:2] for row in result.rows] == [row[:2] for row in expected]
    np.testing.assert_allclose(
        [row[3:6] for row in result.rows], [row[2:] for row in expected], atol=1e-6
    )


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("name", [None, "out.csv", "out.jsonl"])
def test_workers_and_parts_change_nothing(toy, long, expected, tmp_path, workers, name):
    output = tmp_path / name if name else None
    options = {"json_lines": bool(name) and name.endswith("l"), "workers": workers}
    result = predict(toy, long, output, window=2, hop=1, **options)
    check(result, expected)
    assert not result.rejected and result.count == len(expected)
    again = predict(toy, long, output, window=2, hop=1, collect=False, **options)
    assert again.rows == [] and again.count == len(expected)
    if name == "out.csv":
        assert [row[0] for row in csv.reader(output.open())][1:] == [row[0] for row in expected]
    if name:
        assert os.listdir(tmp_path) == [name]


def test_a_long_recording_is_taken_up_within(toy, long, expected, tmp_path, monkeypatch, capfd):
    """Of its 259 windows in parts of 50, the parts that are done are not estimated again."""
    calls, real = [], Predictor.predict_details

    def stop(self, signal, *words, **options):
        calls.append(1)
        if len(calls) == 150:
            raise KeyboardInterrupt
        return real(self, signal, *words, **options)

    monkeypatch.setattr(Predictor, "predict_details", stop)
    source, out = long / "m.flac", tmp_path / "out.csv"
    with pytest.raises(KeyboardInterrupt):
        predict(toy, source, out, window=2, hop=1)
    entries = [json.loads(line) for line in (tmp_path / "out.csv.part").open()][1:]
    assert len(entries) == 4  # 0..49, 50..99, 100..149, 150..199; 61 of these are silent
    result = predict(toy, source, out, window=2, hop=1)
    check(result, [row for row in expected if row[0] == "m.flac"])
    assert len(calls) == 150 + 59
    assert "4 clips or parts are done" in capfd.readouterr().err


def test_progress_counts_parts(toy, long, monkeypatch):
    seen = []

    class Bar:
        def __enter__(self):
            return self

        def __exit__(self, *exception):
            pass

        def update(self, count):
            seen.append(count)

    monkeypatch.setattr(prediction.progress, "bar", lambda *words, **named: Bar())
    predict(toy, long / "m.flac", window=2, hop=1)
    assert len(seen) == 6 and sum(seen) == pytest.approx(1)


def test_a_part_that_fails_is_one_rejection(toy, long, tmp_path, monkeypatch):
    """Something happens to the file while it is read: the other parts are kept."""
    real = audio.Recording.read

    def read(self, *, start_s=0.0, **named):
        if 130 <= start_s < 140:
            raise audio.AudioError("m.flac: damaged")
        return real(self, start_s=start_s, **named)

    monkeypatch.setattr(audio.Recording, "read", read)
    result = predict(toy, long / "m.flac", window=2, hop=1)
    assert result.rejected == [("m.flac", "m.flac: damaged")]
    assert len(result.rows) == 259 - 59 - 10


def test_a_process_that_dies_costs_one_file(toy, long, expected, tmp_path):
    """As a decoder that crashes does."""
    (tmp_path / "killer.py").write_text(
        "import os\nfrom wav2small import prediction_parts\n"
        "def estimator(*words):\n"
        "    run = prediction_parts.estimator(*words)\n"
        "    def safe(tasks):\n"
        "        if any(task.clip[0] == 'a4.flac' for task in tasks): os._exit(9)\n"
        "        return run(tasks)\n"
        "    return safe\n"
    )
    code = (
        "import sys; sys.path.insert(0, sys.argv[3])\n"
        "from wav2small import prediction_parts\n"
        "parts = prediction_parts; real = parts.start\n"
        "parts.start = lambda count, build, *rest: real(count, 'killer:estimator', *rest)\n"
        "from wav2small.prediction import predict\n"
        "found = predict(sys.argv[1], sys.argv[2], workers=2)\n"
        "print(len({row[0] for row in found.rows}), found.rejected)\n"
    )
    words = [sys.executable, "-c", code, toy, long, tmp_path]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=100)
    assert done.stdout.startswith("12 [('a4.flac'"), done.stderr
    assert "a4.flac: the process that read it crashed" in done.stdout


def test_no_guard_is_needed_around_workers(toy, long, tmp_path):
    """A script without `if __name__ == "__main__"` neither hangs nor runs twice."""
    script = tmp_path / "script.py"
    script.write_text(
        f"import wav2small\nprint(wav2small.predict({str(toy)!r}, {str(long)!r}, workers=2))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=100)
    assert done.stdout.count("<Predictions: 29 rows of 13 files, 0 rejected>") == 1, done.stderr


def test_rows_of_tables_are_named(toy, long, tmp_path):
    (tmp_path / "list.csv").write_text(
        "file,start,end\na0.flac,0,\na0.flac,.6,.3\na0.flac,-1,\na0.flac,500,\ngone.flac,,\n"
    )
    done = command("predict", toy, tmp_path / "list.csv", "--root", long, "--workers", "1")
    assert done.returncode == 1 and len(done.stdout.splitlines()) == 2
    lines = done.stderr.splitlines()
    assert [line.split(":")[1].strip() for line in lines[:4]] == [f"row {n}" for n in (2, 3, 4, 5)]
    parts = ["no such part", "no such part", "starts at 500.000 s but the file", "no such file"]
    for part, line in zip(parts, lines, strict=False):
        assert part in line


def test_workers_below_zero(toy, long):
    with pytest.raises(Wav2SmallError, match="--workers -1"):
        predict(toy, long, workers=-1)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_files(toy, speech, tmp_path):
    """2,000 files and 20,000 links to them: some hundred bytes for each name."""
    clip = audio.read(sorted(speech.glob("*.flac"))[0])[:8000]
    code = (
        "import resource, sys; from wav2small.cli.main import main\n"
        "code = main(['predict', *sys.argv[1:]])\n"
        "print(code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = []
    for count in (1000, 20000):
        folder = tmp_path / str(count)
        folder.mkdir()
        soundfile.write(folder / "00000.wav", clip, 16000)
        for number in range(1, count):
            os.link(folder / "00000.wav", folder / f"{number:05}.wav")
        words = [sys.executable, "-c", code, toy, folder, "-o", tmp_path / f"{count}.csv"]
        done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
        status, peak = done.stdout.split()
        assert status == "0", done.stderr
        peaks.append(int(peak) / 1024)
        with open(tmp_path / f"{count}.csv") as file:
            assert [row[0] for row in csv.reader(file)][1:] == sorted(os.listdir(folder))
    assert peaks[1] - peaks[0] < 19 * 0.5, peaks  # MB: 500 bytes a file
