"""The runtime, with an ONNX whose answer is known: the mean square of the signal x 1, 2, 3."""

import csv
import io
import json
import os
import signal as signals
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
from onnx import TensorProto, helper

from wav2small import Predictor, audio, predict
from wav2small.errors import AudioError, Wav2SmallError


def model(path, *, name="signal", output="logits", shape=(1, None), kind=TensorProto.FLOAT):
    nodes = [
        helper.make_node("Mul", [name, name], ["square"]),
        helper.make_node("ReduceMean", ["square"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Mul", ["mean", "scale"], [output]),
    ]
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    scale = onnx.numpy_helper.from_array(np.array([[1, 2, 3]], dtype), "scale")
    graph = helper.make_graph(
        nodes,
        "known",
        [helper.make_tensor_value_info(name, kind, shape)],
        [helper.make_tensor_value_info(output, kind, [1, 3])],
        [scale],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    made.ir_version = 8
    onnx.save(made, path)
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    model(folder / "model.onnx")
    return folder


def known(signal):
    return np.mean(np.float64(signal) ** 2) * np.array([1, 2, 3])


def test_signals_and_files_agree(bundle, speech):
    predictor = Predictor(bundle)
    for file in sorted(speech.glob("*.flac"))[:5]:
        clip = audio.read(file)
        row = predictor.predict(clip)
        assert row.shape == (3,) and row.dtype == np.float32
        np.testing.assert_allclose(row, known(clip), rtol=1e-5)
        assert (predictor.predict_file(file) == row).all()
        assert (Predictor(bundle / "model.onnx").predict(clip) == row).all()


def test_other_rates_are_resampled(bundle, clip):
    import soxr

    slow = Predictor(bundle).predict(soxr.resample(clip, 16000, 44100), 44100)
    np.testing.assert_allclose(slow, known(clip), rtol=0.02)


def test_a_clip_of_minutes_is_averaged_over_windows(bundle, tmp_path):
    levels = np.repeat([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 12 * 16000).astype("float32")
    levels[::2] *= -1
    soundfile.write(tmp_path / "long.wav", levels, 16000, subtype="FLOAT")
    estimate = Predictor(bundle).predict_file(tmp_path / "long.wav")
    np.testing.assert_allclose(estimate, known(levels), rtol=1e-3)


@pytest.mark.parametrize(
    ("signal", "message"),
    [
        (np.zeros((2, 16000)), r"shape \(2, 16000\)"),
        (np.zeros(160), "0.010 s"),
        (np.full(16000, np.nan), "NaN"),
        (np.full(16000, np.inf), "infinite"),
    ],
)
def test_bad_signals_are_rejected(bundle, signal, message):
    with pytest.raises(Wav2SmallError, match=message):
        Predictor(bundle).predict(signal)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "audio"}, "inputs audio"),
        ({"output": "scores"}, "outputs scores"),
        ({"shape": (1, 16000)}, "needed: input signal float32"),
        ({"shape": (1, 1, None)}, "needed: input signal float32"),
        ({"kind": TensorProto.DOUBLE}, "needed: input signal float32"),
    ],
)
def test_other_models_are_rejected(tmp_path, options, message):
    path = model(tmp_path / "model.onnx", **options)
    with pytest.raises(Wav2SmallError, match=message) as rejection:
        Predictor(tmp_path)
    assert str(path) in str(rejection.value)


def test_folders_without_a_model_are_rejected(tmp_path):
    with pytest.raises(Wav2SmallError, match=r"no model.onnx in this folder.*export"):
        Predictor(tmp_path)
    with pytest.raises(Wav2SmallError, match="no such bundle"):
        Predictor(tmp_path / "none")
    (tmp_path / "model.onnx").write_text("nonsense")
    with pytest.raises(Wav2SmallError, match="cannot load it"):
        Predictor(tmp_path)


def test_rows_stream_and_long_files_have_windows(bundle, tmp_path):
    soundfile.write(tmp_path / 'a b,"c"\n.wav', np.resize([0.5, -0.5], 16000 * 30), 16000)
    soundfile.write(tmp_path / "short.wav", np.resize([0.5, -0.5], 16000), 16000)
    (tmp_path / "broken.flac").write_bytes(b"x")
    out = io.StringIO()
    result = predict(bundle, tmp_path, out)
    rows = list(csv.reader(io.StringIO(out.getvalue())))
    assert rows[0] == [
        "file", "start", "end", "arousal", "dominance", "valence", "band_limited",
    ]  # fmt: skip
    assert [row[:3] for row in rows[1:]] == [
        ['a b,"c"\n.wav', "0.000", "12.000"],
        ['a b,"c"\n.wav', "12.000", "24.000"],
        ['a b,"c"\n.wav', "18.000", "30.000"],
        ["short.wav", "0.000", "1.000"],
    ]
    assert [file for file, _ in result.rejected] == ["broken.flac"]
    assert rows[1][3:] == ["0.2500", "0.5000", "0.7500", "false"]
    assert len(result.frame) == 4


def test_a_stopped_run_goes_on(bundle, speech, tmp_path, monkeypatch):
    out = tmp_path / "p.csv"
    expected = predict(bundle, speech).rows
    calls = []
    real = Predictor.predict_details

    def stop(self, signal, *args, **options):
        calls.append(1)
        if len(calls) == 10:
            raise KeyboardInterrupt
        return real(self, signal, *args, **options)

    monkeypatch.setattr(Predictor, "predict_details", stop)
    with pytest.raises(KeyboardInterrupt):
        predict(bundle, speech, out)
    assert not out.exists()
    with open(tmp_path / "p.csv.part", "a") as file:
        file.write('[9, [["torn')  # what a crash in the middle of a line leaves
    calls.append(1)
    assert predict(bundle, speech, out).rows == expected
    assert len(calls) == 11 + 15  # nine of 24 were kept
    assert len(out.read_text().splitlines()) == 25
    assert not (tmp_path / "p.csv.part").exists()


def test_what_another_bundle_left_is_not_used(bundle, speech, tmp_path):
    out = tmp_path / "p.csv"
    part = tmp_path / "p.csv.part"
    part.write_text(json.dumps({"bundle": "other"}) + '\n[0, [["x", 0, 1, 9, 9, 9]], ""]\n')
    rows = predict(bundle, speech, out).rows
    assert all(row[3] < 9 for row in rows) and len(rows) == 24


def command(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "wav2small", *map(str, arguments)],
        capture_output=True,
        text=True,
        **options,
    )


def test_the_command_lists_what_it_rejects(bundle, tmp_path):
    soundfile.write(tmp_path / "good.wav", np.resize([0.5, -0.5], 16000), 16000)
    (tmp_path / "bad.wav").write_bytes(b"")
    done = command("predict", bundle, tmp_path)
    assert done.returncode == 1
    assert done.stdout.splitlines()[1].startswith("good.wav,0.000,1.000,0.25")
    assert "bad.wav: the file is empty" in done.stderr and "1 rejected" in done.stderr


def test_the_command_rejects_a_source_without_any_audio(bundle, tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"")
    done = command("predict", bundle, tmp_path)
    assert done.returncode == 2 and "none of its audio can be used" in done.stderr


def test_ctrl_c_keeps_what_was_done(bundle, speech, tmp_path):
    out = tmp_path / "p.csv"
    code = (
        "import sys, time; from wav2small import predictor; from wav2small.cli import main as cli\n"
        "real = predictor.Predictor.predict_details\n"
        "def slow(self, *a, **b): time.sleep(.5); return real(self, *a, **b)\n"
        "predictor.Predictor.predict_details = slow\n"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "predict", str(bundle), str(speech), "-o", str(out)],
        stderr=subprocess.PIPE,
        text=True,
    )
    part = tmp_path / "p.csv.part"
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not (
        part.exists() and len(part.read_text().splitlines()) > 4
    ):
        time.sleep(0.05)
    process.send_signal(signals.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "stopped; what was finished is kept" in errors and "Traceback" not in errors
    assert len(part.read_text().splitlines()) > 4
    assert command("predict", bundle, speech, "-o", out).returncode == 0
    assert len(out.read_text().splitlines()) == 25


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_one_line(bundle, speech):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "wav2small", "predict", str(bundle), str(speech)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1 and "No space left" in done.stderr


def test_rejected_clips_name_the_file(bundle, tmp_path):
    with pytest.raises(AudioError, match="gone.wav: no such file"):
        Predictor(bundle).predict_file(tmp_path / "gone.wav")


def test_several_sources_and_json(bundle, tmp_path):
    for name in ("a.wav", "b.wav"):
        soundfile.write(tmp_path / name, np.resize([0.5, -0.5], 16000), 16000)
    done = command("predict", bundle, tmp_path / "a.wav", tmp_path / "b.wav", "--json")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["file"] for row in rows] == [str(tmp_path / name) for name in ("a.wav", "b.wav")]
    assert rows[0] | {"file": ""} == {
        "file": "", "start": 0.0, "end": 1.0, "arousal": 0.25, "dominance": 0.5, "valence": 0.75,
        "band_limited": False,
    }  # fmt: skip
    result = predict(bundle, [tmp_path / "a.wav"], tmp_path / "p.jsonl", json_lines=True)
    assert [json.loads(line) for line in open(tmp_path / "p.jsonl")] == rows[:1]
    assert repr(result) == "<Predictions: 1 rows of 1 files, 0 rejected>"
    assert "<td>0.7500</td>" in result._repr_html_()
    assert list(result.to_frame()) == list(rows[0])


def test_memory_does_not_grow_with_other_lengths(emodb):
    """3,000 lengths: ONNX Runtime keeps no memory for each."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("no /proc here")
    predictor = Predictor("nano")
    signal = audio.read(emodb / "03a01Fa.flac")
    sizes = []
    for number in range(3000):
        predictor.predict(signal[: 1600 + 7 * number])
        sizes.append(int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20)
    assert max(sizes[500:]) - sizes[500] < 10, (sizes[500], max(sizes))  # MB
