"""The labelling run: same rows however it is done, nothing lost when it is killed."""

import csv
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from labelling_cases import label

from wav2small import augmentation as variants
from wav2small import progress, read_labels
from wav2small import workers as pools
from wav2small.errors import AudioError, Wav2SmallError
from wav2small.teachers import load_teacher
from wav2small.teachers.labelling import batched, clips, plan
from wav2small.teachers.labelling import run as labelling

TESTS = str(Path(__file__).parents[1])
KEYS = ["file", "start", "end"]
MISMATCH = {"teacher": "ensemble", "teacher_members": ["acoustic"], "teacher_weights": [1, 2]}


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    monkeypatch.syspath_prepend(TESTS)


@pytest.fixture(scope="module")
def noise(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("noise")
    sound = 0.1 * np.random.default_rng(0).uniform(-1, 1, 20000)
    soundfile.write(folder / "hiss.wav", sound, 16000)
    return str(folder)


def frame(path) -> pd.DataFrame:
    return read_labels(path).frame


def run(*words: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "wav2small", "label", *words],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": TESTS},
        **options,
    )


def test_rows_are_the_teachers_in_the_order_of_the_index(speech, tmp_path):
    result = label(speech / "labels.csv", tmp_path / "l.parquet", workers=2)
    table = frame(tmp_path / "l.parquet")
    source = pd.read_csv(speech / "labels.csv", dtype={"speaker": str})
    assert list(table["file"]) == list(source["file"])
    assert list(table["speaker"]) == list(source["speaker"])
    assert result.rows == len(source) and result.errors == 0
    teacher = load_teacher("acoustic")
    for row in (0, 11, 23):
        clip, _ = soundfile.read(speech / table["file"][row], dtype="float32")
        expected = teacher.predict(clip[None], np.array([len(clip)]))[0]
        found = table.loc[row, ["arousal", "dominance", "valence"]].to_numpy(float)
        np.testing.assert_allclose(found, expected, atol=1e-6)
    hours = sum(soundfile.info(speech / file).duration for file in source["file"]) / 3600
    assert result.hours == pytest.approx(hours, rel=1e-4)
    assert not plan.parts(tmp_path / "l.parquet").exists()


@pytest.mark.parametrize("name", ["Loudness", "Batched"])
def test_any_number_of_workers_gives_the_same_table(name, speech, noise, tmp_path):
    tables = []
    for workers in (0, 1, 3):
        output = tmp_path / f"{workers}.parquet"
        options = {"teacher": f"toy_teachers:{name}", "window_s": 1.0, "hop_s": 0.7}
        label(speech, output, workers=workers, variants=2, noise=noise, batch_s=8.0, **options)
        tables.append(frame(output))
    for other in tables[1:]:
        pd.testing.assert_frame_equal(tables[0], other)
    table = tables[0]
    assert (table.groupby(KEYS[:2])["variant"].count() == 3).all()
    assert not table.duplicated([*KEYS, "variant"]).any()
    if name == "Batched":
        np.testing.assert_allclose(table["probability_calm"], 1 - table["arousal"], atol=1e-6)


def test_batches_of_a_neural_teacher_are_its_single_answers(speech, tmp_path):
    from test_teachers_neural import SER, write

    folder = str(write(tmp_path / "teacher", SER))
    output = tmp_path / "l.parquet"
    label(speech, output, teacher=folder, device="cpu", workers=1, batch_s=9.0)
    table, teacher = frame(output), load_teacher(folder, device="cpu")
    for row, file in enumerate(table["file"]):
        clip, _ = soundfile.read(speech / file, dtype="float32")
        expected = teacher.predict(clip[None], np.array([len(clip)]))[0].clip(0, 1)
        found = table.loc[row, ["arousal", "dominance", "valence"]].to_numpy(float)
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_variants_are_the_signals_of_the_student(speech, noise, tmp_path):
    label(speech, tmp_path / "v.parquet", teacher="toy_teachers:Loudness", variants=2, noise=noise)
    labels = read_labels(tmp_path / "v.parquet")
    settings = labels.provenance["variants"]
    for row in (1, 2, 40):
        entry = labels.frame.iloc[row]
        clip, _ = soundfile.read(labels.path(entry["file"]), dtype="float32")
        augmented = variants.variant(
            clip, int(entry["variant"]), variants.VariantSettings(**settings)
        )
        assert entry["arousal"] == np.float32(np.abs(augmented).mean())
    assert (labels.frame["variant"][::3] == 0).all() and (labels.frame["variant"][1::3] > 0).all()


def test_windows_cover_long_audio(speech, tmp_path):
    clips = [soundfile.read(file)[0] for file in sorted(speech.glob("*.flac"))[:6]]
    (tmp_path / "long").mkdir()
    sound = np.concatenate(clips)
    soundfile.write(tmp_path / "long" / "talk.flac", sound, 16000)
    label(tmp_path / "long", tmp_path / "w.parquet", window_s=2.0, teacher="toy_teachers:Loudness")
    table = frame(tmp_path / "w.parquet")
    start, end = table["start"].dt.total_seconds(), table["end"].dt.total_seconds()
    np.testing.assert_allclose(end - start, 2.0, atol=1e-6)
    assert start[0] == 0 and end.iloc[-1] == pytest.approx(len(sound) / 16000, abs=1e-4)
    assert (start.iloc[1:].to_numpy() <= end.iloc[:-1].to_numpy() + 1e-6).all()


def broken_folder(folder: Path) -> None:
    folder.mkdir()
    voice = 0.1 * np.random.default_rng(1).normal(size=16000)
    for name, length in (("good", 16000), ("fatal", 3333), ("raises", 4444), ("nan", 5555)):
        soundfile.write(folder / f"{name}.flac", voice[:length], 16000)
    soundfile.write(folder / "silent.flac", np.zeros(16000), 16000)
    soundfile.write(folder / "a 'b' \"ü\"\n.flac", voice, 16000)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_text("hello")
    (folder / "torn.flac").write_bytes((folder / "good.flac").read_bytes()[:9000])


def test_broken_files_are_listed(tmp_path):
    broken_folder(tmp_path / "in")
    pd.DataFrame({"file": [*sorted(os.listdir(tmp_path / "in")), "gone.wav"], "mood": "x"}).to_csv(
        tmp_path / "in" / "index.csv", index=False
    )
    result = label(
        tmp_path / "in" / "index.csv",
        tmp_path / "out" / "l.parquet",
        teacher="toy_teachers:Moody",
        workers=2,
    )
    assert sorted(frame(tmp_path / "out" / "l.parquet")["file"]) == [
        "a 'b' \"ü\"\n.flac",
        "good.flac",
    ]
    with open(result.errors_file, newline="") as file:
        reasons = {line["file"]: line["reason"] for line in csv.DictReader(file)}
    expected = {
        "empty.wav": "0 bytes",
        "fatal.flac": "crashed",
        "gone.wav": "no such file",
        "nan.flac": "is no number",
        "raises.flac": "ValueError: a bad day",
        "silent.flac": "only zeros",
        "text.wav": "not audio",
        "torn.flac": "truncated",
    }
    assert set(reasons) == set(expected)
    for name, text in expected.items():
        assert text in reasons[name]
    assert result.errors == len(expected) and Path(result.errors_file).name == "errors.csv"


def test_broken_files_before_a_batched_teacher(tmp_path):
    broken_folder(tmp_path / "in")
    for workers in (0, 2):
        result = label(
            tmp_path / "in",
            tmp_path / f"{workers}.parquet",
            teacher="toy_teachers:Batched",
            workers=workers,
        )
        assert (result.rows, result.errors) == (5, 4)


def test_errors_of_other_tables_stay_and_repaired_ones_go(tmp_path):
    broken_folder(tmp_path / "in")
    for name in ("a", "b"):
        label(tmp_path / "in", tmp_path / f"{name}.parquet", teacher="toy_teachers:Batched")
    for bad in ("empty.wav", "text.wav", "torn.flac", "silent.flac"):
        (tmp_path / "in" / bad).unlink()
    label(tmp_path / "in", tmp_path / "b.parquet", teacher="toy_teachers:Batched", overwrite=True)
    listed = pd.read_csv(tmp_path / "errors.csv")
    assert set(listed["table"]) == {"a.parquet"} and len(listed) == 4


def test_all_broken_or_strict(tmp_path):
    broken_folder(tmp_path / "in")
    with pytest.raises(Wav2SmallError, match="none of the clips.*text.wav: .*not audio"):
        label(tmp_path / "in" / "text.wav", tmp_path / "l.parquet", teacher="toy_teachers:Loudness")
    assert not (tmp_path / "l.parquet").exists()
    with pytest.raises(AudioError, match="empty.wav|text.wav|torn.flac|silent.flac"):
        label(tmp_path / "in", tmp_path / "l.parquet", teacher="toy_teachers:Loudness", strict=True)


def test_only_the_first_clips(speech, tmp_path):
    options = {"teacher": "toy_teachers:Loudness", "workers": 0, "variants": 1}
    label(speech, tmp_path / "all.parquet", **options)
    result = label(speech, tmp_path / "some.parquet", limit=3, **options)
    assert result.rows == 6
    pd.testing.assert_frame_equal(
        frame(tmp_path / "some.parquet"), frame(tmp_path / "all.parquet")[:6]
    )
    with pytest.raises(Wav2SmallError, match="--limit 0: give 1 or more"):
        label(speech, tmp_path / "none.parquet", limit=0, **options)


def test_exit_codes_and_what_is_said(speech, tmp_path):
    words = [str(speech), "-o", "l.parquet", "--teacher", "toy_teachers:Loudness"]
    first = run(*words, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    again = run(*words, cwd=tmp_path)
    assert again.returncode == 0 and "complete already" in again.stderr
    for change, message in (
        (["--window", "3"], "other window_s"),
        (["--teacher", "toy_teachers:Other"], "other teacher"),
        (["--variants", "1"], "other variants"),
    ):
        other = run(*words, *change, cwd=tmp_path)
        assert other.returncode == 2 and message in other.stderr.replace("folders, ", "")
        assert "--overwrite" in other.stderr and other.stderr.count("\n") == 1
    other = run(*words, "--window", "3", "--overwrite", cwd=tmp_path)
    assert other.returncode == 0, other.stderr
    (tmp_path / "text.wav").write_text("no sound")
    shutil.copy(sorted(speech.glob("*.flac"))[0], tmp_path)
    partly = run(str(tmp_path), "-o", "p.parquet", cwd=tmp_path)
    assert partly.returncode == 1 and "errors.csv" in partly.stderr
    strict = run(str(tmp_path), "-o", "q.parquet", "--strict", cwd=tmp_path)
    assert strict.returncode == 2 and "text.wav" in strict.stderr


@pytest.mark.parametrize(
    "options, message",
    [
        ({"teacher": "acustic"}, "did you mean acoustic"),
        ({"teacher": "nowhere.at:All"}, "No module named 'nowhere'"),
        ({"teacher": "ensemble:acoustic=x"}, "is no number"),
        (MISMATCH, "2 weights for 1"),
        ({"variants": -1}, "--variants -1"),
        ({"noise": "somewhere"}, "--variants K"),
        ({"variants": 1, "rooms": "/nowhere"}, "/nowhere: no audio"),
        ({"window_s": 0.01}, "--window"),
    ],
)
def test_wrong_usage(options, message, speech, tmp_path):
    with pytest.raises(Wav2SmallError, match=message):
        label(speech, tmp_path / "l.parquet", **options)
    assert list(tmp_path.iterdir()) == []


def test_output_must_be_parquet_and_not_the_source(speech, tmp_path):
    with pytest.raises(Wav2SmallError, match="name it labels.csv.parquet"):
        label(speech, "labels.csv")
    label(speech, tmp_path / "l.parquet", teacher="toy_teachers:Loudness")
    with pytest.raises(Wav2SmallError, match="replace its own source"):
        label(tmp_path / "l.parquet", tmp_path / "l.parquet", overwrite=True)


def test_a_label_table_is_a_source(speech, tmp_path):
    label(speech / "labels.csv", tmp_path / "a.parquet", teacher="toy_teachers:Loudness")
    label(tmp_path / "a.parquet", tmp_path / "b.parquet", teacher="toy_teachers:Other")
    pd.testing.assert_frame_equal(frame(tmp_path / "a.parquet"), frame(tmp_path / "b.parquet"))


def test_provenance(speech, tmp_path):
    label(
        speech,
        tmp_path / "l.parquet",
        teacher="ensemble:acoustic=3,toy_teachers:Loudness=1",
        audio_licence="CC0-1.0",
    )
    found = read_labels(tmp_path / "l.parquet").provenance
    assert [entry["name"] for entry in found["teachers"]] == ["acoustic", "loudness"]
    assert [entry["weight"] for entry in found["teachers"]] == [0.75, 0.25]
    assert all(
        {"id", "revision", "licence", "invariances"} <= entry.keys() for entry in found["teachers"]
    )
    assert found["audio"] == [{"source": str(speech), "licence": "CC0-1.0"}]


@pytest.mark.parametrize(
    "weights, share",
    [(("3", "1"), 0.75), (("3/0/1", "1/2/1"), np.array([0.75, 0, 0.5]))],
)
def test_ensemble_is_the_weighted_mean(clip, weights, share):
    lengths = np.array([len(clip)])
    mean = load_teacher("ensemble:acoustic={},toy_teachers:Loudness={}".format(*weights))
    one, other = load_teacher("acoustic"), load_teacher("toy_teachers:Loudness")
    pair = one.predict(clip[None], lengths), other.predict(clip[None], lengths)
    expected = share * pair[0] + (1 - share) * pair[1]
    np.testing.assert_allclose(mean.predict(clip[None], lengths), expected, atol=1e-6)
    assert mean.in_workers and mean.licence == "MIT"


def test_second_run_at_once_is_rejected(speech, tmp_path):
    words = [str(speech), "-o", "l.parquet", "--teacher", "toy_teachers:Slow", "--workers", "1"]
    command = [sys.executable, "-m", "wav2small", "label", *words]
    environment = os.environ | {"PYTHONPATH": TESTS}
    first = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while not (tmp_path / "l.parquet.parts" / "plan.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    second = run(*words, cwd=tmp_path)
    assert first.wait() == 0, first.stderr.read()
    if "complete already" not in second.stderr:  # the first was faster
        assert second.returncode == 2 and "another run is writing" in second.stderr
    first.stderr.close()


def _labelled(source, output, workers) -> None:
    """In a forked child, which SIGKILL may hit at any moment."""
    os.setsid()
    label(source, output, teacher="toy_teachers:Slow", workers=workers, flush_s=0.0, variants=1)


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_at_random_moments(workers, speech, tmp_path):
    broken_folder(tmp_path / "in")
    for file in speech.glob("*.flac"):
        shutil.copy(file, tmp_path / "in")
    (tmp_path / "in" / "fatal.flac").unlink()
    full = tmp_path / "full.parquet"
    began = time.monotonic()
    expected = label(
        tmp_path / "in", full, teacher="toy_teachers:Slow", workers=workers, variants=1
    )
    takes_s = time.monotonic() - began
    context = multiprocessing.get_context("fork")
    draw = random.Random(5)
    output, kills, finished = tmp_path / "killed.parquet", 0, 0
    while kills < 10:
        child = context.Process(target=_labelled, args=(tmp_path / "in", output, workers))
        child.start()
        child.join(draw.uniform(0.02, 0.9) * takes_s)
        if child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
            child.join()
            kills += 1
        else:
            assert child.exitcode == 0
        if output.exists() and not plan.parts(output).exists():
            finished += 1
            pd.testing.assert_frame_equal(frame(output), frame(full))
            output.unlink()
    result = label(
        tmp_path / "in", output, teacher="toy_teachers:Slow", workers=workers, variants=1
    )
    pd.testing.assert_frame_equal(frame(output), frame(full))
    assert result.errors == expected.errors
    lines = pd.read_csv(tmp_path / "errors.csv")
    columns = ["file", "start", "end", "reason"]
    ours, theirs = (
        lines[lines["table"] == name][columns].reset_index(drop=True)
        for name in ("killed.parquet", "full.parquet")
    )
    pd.testing.assert_frame_equal(ours, theirs)


def test_goes_on_and_does_not_begin_again(speech, tmp_path, monkeypatch):
    seen = []

    def stop(outcomes, *arguments):
        for number, outcome in enumerate(outcomes):
            seen.append(outcome.rows)
            yield outcome
            if number == 9:
                raise KeyboardInterrupt

    monkeypatch.setattr(labelling, "_shown", stop)
    options = {"teacher": "toy_teachers:Batched", "workers": 0, "batch_s": 1.0}
    full = tmp_path / "l.parquet"
    with pytest.raises(KeyboardInterrupt):
        label(speech, full, **options)
    first = sum(seen, [])
    seen.clear()
    monkeypatch.setattr(
        labelling, "_shown", lambda outcomes, *_: (seen.append(o.rows) or o for o in outcomes)
    )
    label(speech, full, **options)
    assert first and not set(first) & set(sum(seen, []))
    assert sorted(first + sum(seen, [])) == list(range(24))


def test_full_disk(speech, tmp_path):
    def little() -> None:  # a limit on the size of a file stands for a full disk
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))

    words = [str(speech), "-o", "l.parquet", "--teacher", "toy_teachers:Loudness"]
    full = run(*words, cwd=tmp_path, preexec_fn=little)
    assert full.returncode == 2, full.stderr
    assert "run the same command again" in full.stderr and full.stderr.count("\n") == 1
    assert run(*words, cwd=tmp_path).returncode == 0


def test_ctrl_c(speech, tmp_path):
    words = [str(speech), "-o", "l.parquet", "--teacher", "toy_teachers:Slow", "--variants", "99"]
    command = [sys.executable, "-m", "wav2small", "label", *words, "--workers", "1"]
    environment = os.environ | {"PYTHONPATH": TESTS}
    child = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "l.parquet.parts" / "plan.json").exists():
        assert child.poll() is None
        time.sleep(0.005)
    time.sleep(0.5)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=30)
    assert child.returncode == 130, said
    assert "goes on" in said and "Traceback" not in said


def test_benchmark_of_many_rows(capsys):
    """The million-row measurement, with fewer: begun, broken off, filled up and finished."""
    import json

    from wav2small.benchmarks.studies import labelling as benchmark

    assert benchmark.main(["million", "--rows", "3000"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["begin"]["rows"] is None and found["end"]["rows"] == 3000
    assert found["begin"]["first_label_s"] < 60 and found["end"]["resident_mb"] < 1500


def test_more_audio_than_expected_ends_well(monkeypatch):
    """Hours are judged by some files: the rest may be far longer."""
    rows = [clips.SourceRow(row, "a.flac", 0, None) for row in range(3)]
    items = [clips.Item(row.row, row.file, 0, None, 0, 3600.0) for row in rows]
    outcomes = [clips.Outcome([item.row], [item], {}, []) for item in items]
    monkeypatch.setattr(plan, "expected_hours", lambda index: 0.5)
    monkeypatch.setattr(progress, "DELAY_S", 0.0)
    assert list(labelling._shown(outcomes, None, 0)) == outcomes


def double(room):
    """Function of a worker: arrays twice as large as numbers in them."""
    return lambda number: {"number": number, "array": np.full((number, 1000), room + number)}


def test_arrays_of_workers_arrive_complete():
    """Large ones, which a pipe takes in many parts, next to empty ones."""
    with pools.Pool(2, "test_labelling:double", 0.5) as pool:
        for number in (3000, 0, 1, 700):
            pool.submit(number)
        found = {}
        while pool.busy:
            for task, result in pool.receive(one=True):
                found[task] = result
    for number in (3000, 0, 1, 700):
        assert found[number]["array"].shape == (number, 1000)
        assert (found[number]["array"] == 0.5 + number).all()
        found[number]["array"][:] = 0  # they can be written


@pytest.mark.parametrize("number, batches", [(1, 1), (2, 2), (5, 2)])
def test_threads_of_a_neural_teacher(number, batches):
    """The number asked for is divided among the batches at once."""

    class Model:
        device = torch.device("cpu")
        dimensions = ("arousal",)

        def predict(self, batch, lengths):
            seen.append((threading.get_ident(), torch.get_num_threads()))
            time.sleep(0.05)  # both batches are at work
            return batch[:, :1]

    seen: list[tuple[int, int]] = []
    before = torch.get_num_threads()
    with batched.launching(Model(), number) as launch:
        waits = [launch(np.full((1, 1), 0.5), np.ones(1), None) for _ in range(4)]
        assert all(wait()["arousal"] == 0.5 for wait in waits)
    assert {threads for _, threads in seen} == {number // batches}
    assert len({thread for thread, _ in seen}) == batches
    assert torch.get_num_threads() == before
