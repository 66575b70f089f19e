"""Every step, and what happens to it on a full disk or with Ctrl-C in the middle."""

import json
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from wav2small import Predictor, audio, evaluate, read_labels


def command(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "wav2small", *map(str, arguments)],
        capture_output=True,
        text=True,
        **options,
    )


def test_labels_run_and_bundle_agree(speech, labels, run, bundle):
    table = read_labels(labels)
    assert len(table.frame) == 24 and "speaker" in table.frame
    lineages = [table.provenance] + [
        json.loads((folder / "provenance.json").read_text()) for folder in (run, bundle)
    ]
    for lineage in lineages:
        assert [teacher["name"] for teacher in lineage["teachers"]] == ["acoustic"]
        assert [source["licence"] for source in lineage["audio"]] == ["CC0-1.0"]
    result = evaluate(bundle, labels, by=["speaker"], resamples=50)
    assert result.clips == 24 and not result.rejected
    assert set(result.dimensions) == {"arousal", "dominance", "valence"}


def test_the_bundle_is_the_student(run, bundle, speech):
    import torch

    from wav2small.students import registry

    student = registry.load(run).eval()
    predictor = Predictor(bundle)
    for file in sorted(speech.glob("*.flac"))[:6]:
        clip = audio.read(file)
        with torch.no_grad():
            expected = student(torch.from_numpy(clip)[None], None)[0].numpy()
        np.testing.assert_allclose(predictor.predict(clip), expected, atol=0.02)


def test_audonnx_loads_the_bundle(bundle, clip):
    import audonnx

    loaded = audonnx.load(str(bundle))
    logits = (
        loaded(clip, 16000)["logits"] if "hidden_states" in loaded.outputs else loaded(clip, 16000)
    )
    np.testing.assert_allclose(np.ravel(logits), Predictor(bundle).predict(clip), atol=1e-5)
    assert loaded.labels("logits") == ["arousal", "dominance", "valence"]


ODD = {
    "eight kHz.wav": (8000, 1),
    "ninety-six.flac": (96000, 1),
    "stéréo 'quoted'.mp3": (44100, 2),
    'six "channels"\nnewline.wav': (16000, 6),
    "漢字.ogg": (48000, 1),
}


@pytest.fixture(scope="module")
def mess(speech, tmp_path_factory):
    """A folder as users have them: odd formats that work, and every kind of broken file."""
    folder = tmp_path_factory.mktemp("mess")
    import soxr

    clip = audio.read(sorted(speech.glob("*.flac"))[0])
    for name, (rate, channels) in ODD.items():
        signal = np.repeat(soxr.resample(clip, 16000, rate)[:, None], channels, axis=1)
        soundfile.write(folder / name, 0.9 * signal / np.abs(signal).max(), rate)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_text("shopping list")
    (folder / "phone.m4a").write_bytes(b"\0\0\0 ftypM4A ")
    soundfile.write(folder / "zeros.wav", np.zeros(16000), 16000)
    soundfile.write(folder / "click.wav", np.full(160, 0.5), 16000)
    signal = clip.copy()
    signal[100] = np.nan
    soundfile.write(folder / "nan.wav", signal, 16000, subtype="FLOAT")
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 64000)
    soundfile.write(folder / "torn.flac", noise, 16000)
    (folder / "torn.flac").write_bytes((folder / "torn.flac").read_bytes()[:40000])
    return folder


BROKEN = {"empty.wav", "text.wav", "phone.m4a", "zeros.wav", "click.wav", "nan.wav", "torn.flac"}


def test_label_goes_on_past_broken_files_and_lists_them(mess, tmp_path):
    done = command("label", mess, "-o", tmp_path / "labels.parquet", "--workers", 1)
    assert done.returncode == 1, done.stderr
    assert set(read_labels(tmp_path / "labels.parquet").frame["file"]) == set(ODD)
    errors = pd.read_csv(next(tmp_path.glob("*errors.csv")))
    assert set(errors["file"]) == BROKEN
    assert all(len(reason.splitlines()) == 1 for reason in errors["reason"])


def test_predict_and_evaluate_go_on_past_broken_files(mess, bundle, tmp_path):
    done = command("predict", bundle, mess, "-o", tmp_path / "p.csv")
    assert done.returncode == 1
    predicted = pd.read_csv(tmp_path / "p.csv")
    assert set(predicted["file"]) == set(ODD)
    for name in BROKEN:
        assert name in done.stderr
    truth = tmp_path / "truth.csv"
    pd.DataFrame(
        {"file": [*ODD, *BROKEN], "arousal": np.linspace(0, 1, len(ODD) + len(BROKEN))}
    ).to_csv(truth, index=False)
    done = command("evaluate", bundle, truth, "--root", mess, "--resamples", 50)
    assert done.returncode == 1 and "5 clips" in done.stdout
    for name in BROKEN:
        assert name in done.stderr


def limited(size):
    """Files of this process cannot grow beyond `size` bytes: a full disk without a disk."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


@pytest.mark.parametrize(
    ("verb", "size"), [("label", 1000), ("distill", 20000), ("export", 20000), ("predict", 500)]
)
def test_a_disk_that_fills_up_is_one_line_and_the_next_run_goes_on(
    verb, size, speech, labels, run, bundle, tmp_path
):
    arguments = {
        "label": [speech / "labels.csv", "-o", tmp_path / "labels.parquet", "--workers", 1],
        "distill": [labels, "-o", tmp_path / "run", "--epochs", 1, "--batch-size", 8],
        "export": [run, "-o", tmp_path / "bundle"],
        "predict": [bundle, speech, "-o", tmp_path / "predictions.csv"],
    }[verb]
    done = command(verb, *arguments, preexec_fn=limited(size))
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert re.search(
        "free some space|make room|choose another", done.stderr.strip().splitlines()[-1]
    )
    done = command(verb, *arguments)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("verb", ["label", "distill", "export", "evaluate", "benchmark"])
def test_ctrl_c_is_one_line_and_the_next_run_goes_on(verb, speech, labels, run, bundle, tmp_path):
    arguments = {
        "label": [speech / "labels.csv", "-o", tmp_path / "labels.parquet"],
        "distill": [labels, "-o", tmp_path / "run", "--epochs", 3, "--batch-size", 8],
        "export": [run, "-o", tmp_path / "bundle", "--overwrite"],
        "evaluate": [bundle, labels, "--resamples", 200],
        "benchmark": [bundle, "--durations", 1, "--runs", 5, "--no-memory"],
    }[verb]
    words = [sys.executable, "-m", "wav2small", verb, *map(str, arguments)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    # However slow the machine is: a command has begun once it has loaded numpy.
    maps = Path(f"/proc/{process.pid}/maps")
    while "numpy" not in maps.read_text() and process.poll() is None:
        time.sleep(0.02)
    time.sleep({"evaluate": 0.5, "label": 0.6}.get(verb, 2.2))
    process.send_signal(signal.SIGINT)
    _, output = process.communicate(timeout=60)
    assert "Traceback" not in output
    # A fast machine may have finished; before and after its main part Python dies of the signal.
    assert process.returncode in (0, 130, -signal.SIGINT), output
    if process.returncode == 130:
        assert f"wav2small {verb}: stopped" in output
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["label", "{tmp}/none", "-o", "{tmp}/l.parquet"], "no such file or folder"),
        (["label", "{tmp}/empty", "-o", "{tmp}/l.parquet"], "no audio in this folder"),
        (["label", "{tmp}/plain.csv", "-o", "{tmp}/l.parquet"], "no column `file`"),
        (["label", "{speech}", "-o", "{tmp}/l.parquet", "--teacher", "acustic"], "acoustic"),
        (["distill", "{tmp}/none.parquet", "-o", "{tmp}/r"], "no such table"),
        (["distill", "{tmp}/ratings.csv", "-o", "{tmp}/r"], "outside 0..1"),
        (["distill", "{tmp}/some.csv", "-o", "{tmp}/r"], "no column dominance"),
        (["distill", "{labels}", "-o", "{tmp}/r", "--student", "wav2smal"], "wav2small"),
        (["export", "{tmp}/empty", "-o", "{tmp}/b"], "empty"),
        (["export", "{tmp}/none", "-o", "{tmp}/b"], "none"),
        (["evaluate", "{bundle}", "{tmp}/nan.csv"], "none of its clips has a rating"),
        (["evaluate", "{bundle}", "{tmp}/gone.csv"], "none of its clips can be read"),
        (["evaluate", "{tmp}/empty", "{labels}"], "no model.onnx"),
        (["evaluate", "{bundle}", "{labels}", "--by", "mood"], "no column mood"),
        (["benchmark", "{tmp}/empty"], "no model.onnx"),
        (["predict", "{tmp}/empty", "{speech}"], "no audio in this folder"),
        (["predict", "{bundle}", "{tmp}/none.wav"], "no such file"),
        (["predict", "{bundle}"], "name the audio"),
        (["predict", "{bundle}", "{speech}", "--window", "0"], "--window 0"),
    ],
)
def test_bad_input_is_one_line(arguments, message, speech, labels, bundle, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "plain.csv").write_text("path\na.wav\n")
    (tmp_path / "ratings.csv").write_text("file,arousal,dominance,valence\na.wav,4,5,6\n")
    (tmp_path / "some.csv").write_text("file,arousal\na.wav,.5\n")
    (tmp_path / "nan.csv").write_text("file,arousal\na.wav,\n")
    (tmp_path / "gone.csv").write_text("file,arousal\na.wav,.5\n")
    places = {"tmp": tmp_path, "speech": speech, "labels": labels, "bundle": bundle}
    done = command(*(str(word).format(**places) for word in arguments))
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
