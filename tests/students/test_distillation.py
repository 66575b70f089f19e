"""Distillation on spoken clips: what a run leaves, kills and stops, splits, bad input."""

import csv
import dataclasses
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.signal
import torch
from safetensors.torch import load_file, safe_open, save_file

from wav2small import Predictor, audio, metrics, predict, provenance, tables
from wav2small import augmentation as variants
from wav2small.errors import Wav2SmallError
from wav2small.export.export import export_bundle
from wav2small.students import config, quantisation, registry
from wav2small.students.data import DISTURBANCES, Batcher, full_clips
from wav2small.students.distillation import Distiller, distill
from wav2small.training import checkpoint, losses
from wav2small.training.cache import Cache
from wav2small.training.clips import Clips
from wav2small.training.split import split

QUICK = {
    "student": "wav2small2",
    "epochs": 2,
    "batch_size": 4,
    "crop_s": 0.5,
    "validation": "speaker=0",
    "workers": 1,
}


@pytest.fixture(scope="module")
def table(speech):
    """Labels that a student can learn: loudness contour and pitch-like statistics of each clip."""
    listing = pd.read_csv(speech / "labels.csv", dtype={"speaker": str})
    speakers = sorted(listing["speaker"].unique())
    rows = []
    for file in listing["file"]:
        sound = audio.read(speech / file)
        frames = sound[: len(sound) // 400 * 400].reshape(-1, 400)
        level = np.log(np.mean(frames**2, axis=1) + 1e-7)
        crossings = np.mean(np.diff(np.sign(frames), axis=1) != 0)
        rows.append([level.std(), crossings, np.mean(level > level.max() - 4)])
    values = np.array(rows)
    values = np.clip(0.5 + 0.15 * (values - values.mean(0)) / values.std(0), 0, 1)
    frame = pd.DataFrame(
        {
            "file": listing["file"],
            "start": pd.Series(pd.Timedelta(0), index=listing.index),
            "end": pd.Series(pd.NaT, index=listing.index, dtype="timedelta64[ns]"),
            "arousal": values[:, 0],
            "dominance": values[:, 1],
            "valence": values[:, 2],
            "speaker": [str(speakers.index(speaker)) for speaker in listing["speaker"]],
        }
    )
    teacher = {"name": "t", "id": "t", "revision": "1", "licence": "CC0", "invariances": ["gain"]}
    return tables.Labels(
        frame,
        str(speech),
        provenance.new(teachers=[teacher], audio=[{"source": "speech", "licence": "MIT"}]),
    )


@pytest.fixture(scope="module")
def file(table, tmp_path_factory):
    path = tmp_path_factory.mktemp("labels") / "labels.parquet"
    tables.write_labels(path, table)
    return path


@pytest.fixture(scope="module")
def run(file, tmp_path_factory):
    """An undisturbed run, and its result."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    return folder, distill(file, folder, **QUICK)


def command(file, folder, *more):
    """The words of the same run on the command line."""
    words = [sys.executable, "-m", "wav2small", "distill", str(file), "-o", str(folder)]
    for name, value in QUICK.items():
        words += ["--" + name.replace("_", "-"), str(value)]
    return [*words, *map(str, more)]


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1"}


# --- what a run leaves ---------------------------------------------------------------------


def test_run_folder_is_complete(run, table):
    folder, result = run
    held_out = (table.frame["speaker"] == "0").sum()
    assert result.validation_clips == held_out
    assert result.clips == len(table.frame) - held_out
    assert result.epochs == 2 and result.parameters == 10806 and not result.rejected
    with open(folder / "metrics.csv") as rows:
        rows = list(csv.DictReader(rows))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    best = max(float(row["ccc_mean"]) for row in rows)
    assert result.ccc["mean"] == pytest.approx(best, abs=1e-5)
    lineage = json.loads((folder / "provenance.json").read_text())
    assert provenance.licences(lineage) == ["CC0", "MIT"]
    assert (folder / "training.png").read_bytes()[:4] == b"\x89PNG"
    assert (folder / "last" / "config.json").exists()


def test_saved_student_gives_the_predictions_of_its_run(run):
    folder, _ = run
    table = tables.read_labels(folder / "validation.parquet")
    student = registry.load(folder)
    for _, row in table.frame.iterrows():
        sound = torch.from_numpy(audio.read(table.path(row["file"])))
        with torch.no_grad():
            output = student(sound[None])[0]
        expected = [row[f"{name}_student"] for name in ("arousal", "dominance", "valence")]
        np.testing.assert_allclose(output.numpy(), expected, atol=2e-4)


def test_effective_configuration_repeats_the_run(run, tmp_path):
    folder, _ = run
    distill(
        config.read(folder / "distill.toml")["labels"],
        tmp_path / "again",
        config=folder / "distill.toml",
    )
    assert (tmp_path / "again" / "distill.toml").read_text() == (
        folder / "distill.toml"
    ).read_text()
    assert_same_weights(folder, tmp_path / "again")


def test_finished_run_is_left_alone(run, file):
    folder, result = run
    before = (folder / "model.safetensors").stat().st_mtime_ns
    again = distill(file, folder, **QUICK)
    assert again.ccc == pytest.approx(result.ccc)
    assert again.epochs == result.epochs
    assert load_file(folder / "model.safetensors").keys()
    assert before <= (folder / "model.safetensors").stat().st_mtime_ns


def test_student_learns(table, tmp_path):
    settings = QUICK | {"epochs": 10, "validation": "0.2", "crop_s": 0, "learning_rate": 0.01}
    distill(table, tmp_path / "run", **settings)
    with open(tmp_path / "run" / "metrics.csv") as rows:
        losses = [float(row["loss"]) for row in csv.DictReader(rows)]
    assert losses[-1] < 0.6 * losses[0]


# --- kills, stops, resumes -----------------------------------------------------------------


def assert_same_weights(one, other):
    for name in ("model.safetensors", "last/model.safetensors"):
        first, second = load_file(one / name), load_file(other / name)
        assert first.keys() == second.keys()
        for key in first:
            assert torch.equal(first[key], second[key]), (name, key)


def test_killed_at_any_moment_the_weights_stay_the_same(run, file, tmp_path):
    folder = tmp_path / "killed"
    generator = np.random.default_rng(0)
    kills = 0
    for _ in range(12):
        process = subprocess.Popen(
            command(file, folder, "--checkpoint-s", 0), env=environment(), stdout=subprocess.PIPE
        )
        there = folder / checkpoint.NAME
        age = there.stat().st_mtime_ns if there.exists() else 0
        # Once a new checkpoint is there, at a random moment within the next steps.
        while process.poll() is None and kills < 4:
            if there.exists() and there.stat().st_mtime_ns > age:
                time.sleep(generator.uniform(0, 0.05))
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.01)
        if process.wait() == 0:
            break
    assert process.returncode == 0
    assert kills >= 2
    assert_same_weights(run[0], folder)


def test_ctrl_c_saves_and_the_same_command_goes_on(run, file, tmp_path):
    folder = tmp_path / "stopped"
    words = command(file, folder, "--checkpoint-s", 0)
    process = subprocess.Popen(words, env=environment(), stderr=subprocess.PIPE, text=True)
    while not (folder / checkpoint.NAME).exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    message = process.communicate(timeout=60)[1]
    assert process.returncode == 130, message
    assert "the same command goes on" in message and "Traceback" not in message
    subprocess.run(words, env=environment(), check=True, capture_output=True)
    assert_same_weights(run[0], folder)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"student": "wav2small"}, "student = 'wav2small2' (now 'wav2small')"),
        ({"student_options": {"half_mel": 8}}, "another student_options"),
        ({"learning_rate": 0.02}, "learning_rate = 0.005 (now 0.02)"),
        ({"validation": "speaker=1"}, "another labels or split"),
    ],
)
def test_resume_of_another_run_is_rejected(run, file, changed, message):
    with pytest.raises(Wav2SmallError) as caught:
        distill(file, run[0], **(QUICK | changed))
    assert message in str(caught.value) and "--overwrite" in str(caught.value)


def test_newer_or_damaged_checkpoints_are_rejected(tmp_path):
    path = tmp_path / checkpoint.NAME
    path.parent.mkdir()
    state = json.dumps({"format": checkpoint.FORMAT + 1})
    save_file({"x": torch.zeros(1)}, path, metadata={"wav2small.run": state})
    with pytest.raises(Wav2SmallError, match="newer wav2small"):
        checkpoint.load(tmp_path)
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(Wav2SmallError, match="damaged"):
        checkpoint.load(tmp_path)


# --- bad input -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"epoch": 3}, "unknown setting 'epoch'; did you mean 'epochs'?"),
        ({"epochs": -1}, "must not be negative"),
        ({"epochs": "many"}, "epochs = 'many': give int"),
        ({"ema": 1.0}, "must be below 1"),
        ({"freeze_bn_fraction": 1.5}, "a share, at most 1"),
        ({"freeze_bn_fraction": -0.1}, "must not be negative"),
        ({"schedule": "linear"}, "give onecycle or cosine or constant"),
        ({"crop_s": 0.01}, "at least 0.25 s"),
        ({"validation": "1.5"}, "a share between 0 and 1"),
        ({"validation": "actor=3"}, "no column 'actor'"),
        ({"validation": "speaker=0,77"}, "no clip with speaker 77"),
        ({"validation": "speaker=0,1,2,3"}, "0 clips to train on"),
        ({"student": "wav2smal"}, "did you mean 'wav2small'?"),
        ({"device": "cuda:7"}, "no CUDA"),
    ],
)
def test_bad_settings_are_rejected_in_one_line(file, tmp_path, settings, message):
    if settings.get("device") and torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(Wav2SmallError) as caught:
        distill(file, tmp_path / "run", **(QUICK | settings))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text, message",
    [
        ("learning_rat = 1", "did you mean 'learning_rate'?"),
        ("epochs 3", "not TOML"),
        ("compile = 1", "compile = 1: give bool"),
    ],
)
def test_bad_config_files_are_rejected(file, tmp_path, text, message):
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(Wav2SmallError) as caught:
        distill(file, tmp_path / "run", config=tmp_path / "bad.toml")
    assert message in str(caught.value) and "bad.toml" in str(caught.value)


def test_constant_dimension_is_said_and_the_others_train(table, tmp_path):
    frame = table.frame.assign(dominance=0.25)
    labels = tables.Labels(frame, table.root, table.provenance)
    result = distill(labels, tmp_path / "run", **(QUICK | {"epochs": 1}))
    assert len(result.warnings) == 1 and result.warnings[0].startswith("dominance: every label")
    frame = frame.assign(arousal=0.5, valence=0.5)
    with pytest.raises(Wav2SmallError, match="same in every dimension"):
        distill(tables.Labels(frame, table.root), tmp_path / "other", **QUICK)


def test_fewer_clips_than_a_batch_train(table, tmp_path):
    frame = table.frame.iloc[:5].drop(columns="speaker")
    labels = tables.Labels(frame, table.root, table.provenance)
    settings = QUICK | {"batch_size": 64, "validation": "0.2", "epochs": 1}
    result = distill(labels, tmp_path / "run", **settings)
    assert (result.clips, result.validation_clips) == (4, 1)
    assert "batch_size = 4" in (tmp_path / "run" / "distill.toml").read_text()


def test_missing_audio_is_listed_and_the_rest_trains(table, tmp_path):
    frame = table.frame.copy()
    (tmp_path / "empty.flac").write_bytes(b"")
    (tmp_path / "torn.flac").write_bytes(
        open(os.path.join(table.root, frame["file"][9]), "rb").read()[:9000]
    )
    frame.loc[7, "file"] = "not there.flac"
    frame.loc[8, "file"] = str(tmp_path / "empty.flac")
    frame.loc[9, "file"] = str(tmp_path / "torn.flac")
    path = tmp_path / "labels.parquet"
    tables.write_labels(path, tables.Labels(frame, table.root, table.provenance))
    done = subprocess.run(
        command(path, tmp_path / "run"), env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    assert "3 files could not be used" in done.stderr
    for name in ("not there.flac", "empty.flac", "torn.flac"):
        assert name in done.stderr
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_nan_loss_stops_at_the_last_good_checkpoint(file, tmp_path):
    folder = tmp_path / "run"
    settings = QUICK | {"learning_rate": 1e30, "clip_norm": 0.0, "checkpoint_s": 0}
    with pytest.raises(Wav2SmallError, match="diverged: loss (nan|inf)"):
        distill(file, folder, **settings)
    batch = load_file(folder / "bad_batch.safetensors")
    assert batch["signal"].shape[0] == len(batch["labels"]) == len(batch["rows"]) == 4
    with safe_open(folder / "bad_batch.safetensors", "pt") as stored:
        assert len(stored.metadata()["files"].splitlines()) == 4
    found = checkpoint.load(folder)
    assert found is not None
    assert all(tensor.isfinite().all() for tensor in found[0].values())


def test_foreign_folders_stay_untouched(file, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(Wav2SmallError, match="holds other files"):
        distill(file, tmp_path, overwrite=True, **QUICK)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_overwrite_replaces_a_run(run, file, tmp_path):
    folder = shutil.copytree(run[0], tmp_path / "run")
    assert distill(file, folder, overwrite=True, **QUICK | {"epochs": 1}).epochs == 1


@pytest.mark.parametrize(
    "settings", [{"calibrate": True}, {"validation": "speaker=none"}, {"quantise": "int3"}]
)
def test_overwrite_keeps_a_run_when_settings_are_refused(settings, run, file, tmp_path):
    folder = shutil.copytree(run[0], tmp_path / "run")
    former = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(Wav2SmallError):
        distill(file, folder, overwrite=True, **QUICK | settings)
    assert former == {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert (folder / "last").is_dir()


# --- split, batches, cache -----------------------------------------------------------------


@pytest.mark.parametrize("column", ["speaker", "file"])
def test_split_keeps_groups_apart_and_validates_on_unaltered_clips(column):
    generator = np.random.default_rng(0)
    speakers = generator.integers(0, 12, 300).astype(str)
    frame = pd.DataFrame(
        {
            "file": [f"{n // 3}.wav" for n in range(300)],
            "variant": np.arange(300) % 3,
            "speaker": speakers if column == "speaker" else "unknown",
        }
    )
    for seed in range(5):
        train, valid = split(frame, "0.2", seed=seed)
        assert set(frame[column][train]).isdisjoint(frame[column][valid])
        assert (frame["variant"][valid] == 0).all() and (frame["variant"][train] > 0).any()
        assert 0.05 < len(valid) / 100 < 0.25


def test_a_long_recording_is_not_held_out_for_a_short_one():
    frame = pd.DataFrame({"file": ["hour.wav"] * 300 + ["short.wav"] * 2})
    for seed in range(5):
        train, valid = split(frame, "0.15", seed=seed)
        assert list(valid) == [300, 301] and len(train) == 300
    with pytest.raises(Wav2SmallError, match="all clips are of hour.wav; label a second recording"):
        split(frame[:300], "0.15", seed=0)


@pytest.fixture(scope="module")
def clips(table):
    return Clips(table.frame, table.root)


def batcher(table, clips, rank=0, size=1, teacher=None, **changes):
    values = {"batch_size": 5, "crop_s": 0.5, "gain_db": 6.0, "seed": 3, "workers": 2}
    rows, settings = np.arange(len(clips)), config.Config(**values | changes)
    return Batcher(clips, table.values, rows, settings, rank, size, teacher)


def test_every_epoch_takes_every_clip(table, clips):
    own = batcher(table, clips)
    for epoch in range(3):
        plan = own.plan(epoch)
        assert [len(rows) for rows in plan] == [5] * own.steps
        assert set(np.concatenate(plan)) == set(range(len(clips)))
    assert not np.array_equal(np.concatenate(own.plan(0)), np.concatenate(own.plan(1)))


@pytest.mark.parametrize("options", [{}, {"noise_probability": 0.5, "room_probability": 0.5}])
def test_batches_depend_on_seed_and_epoch_alone(options, table, clips):
    one = list(batcher(table, clips, **options).epoch(1))
    rest = list(batcher(table, clips, workers=0, **options).epoch(1, first=2))
    shares = [list(batcher(table, clips, rank=r, size=2, **options).epoch(1)) for r in (0, 1)]
    for step, batch in enumerate(one):
        if step >= 2:
            assert torch.equal(batch.signal, rest[step - 2].signal)
        for rank in (0, 1):
            share = shares[rank][step]
            np.testing.assert_array_equal(share.rows, batch.rows[rank::2])
            for mine, its in zip(share.signal, batch.signal[rank::2], strict=True):
                length = min(len(mine), len(its))
                assert torch.equal(mine[:length], its[:length])


def test_crops_come_from_the_clip_and_labels_belong_to_it(table, clips):
    for batch in batcher(table, clips, gain_db=0.0).epoch(0):
        for place, row in enumerate(batch.rows):
            length = int(batch.lengths[place])
            assert length == min(8000, clips.lengths[row])
            inputs = batch.signal[place, :length].numpy()
            windows = np.lib.stride_tricks.sliding_window_view(clips.signal(row), length)
            assert (windows[:, ::500] == inputs[::500]).all(axis=1).any()
            np.testing.assert_allclose(batch.labels[place], table.values[row], atol=1e-6)


def full_batches(table, clips, epochs=3, **changes):
    """(Row, epoch), clip, and what a batch holds of it, under the label of the clip."""
    own = batcher(table, clips, **{"crop_s": 0, "gain_db": 0.0, **changes})
    for epoch in range(epochs):
        for batch in own.epoch(epoch):
            for row, inputs, label in zip(batch.rows, batch.signal, batch.labels, strict=True):
                np.testing.assert_allclose(label, table.values[row], atol=1e-6)
                yield (row, epoch), clips.signal(row), inputs[: clips.lengths[row]].numpy()


def assert_another_one_in_every_epoch(added):
    """`added`: (row, epoch) -> what was added to the clip."""
    for ((row, _), one), ((same, _), other) in itertools.combinations(added.items(), 2):
        assert row != same or not np.array_equal(one, other) or not one.any()


def test_noise_is_another_one_in_every_epoch(table, clips):
    ratios, noises = [], {}
    for place, clean, noisy in full_batches(table, clips, epochs=4, noise_probability=0.6):
        noises[place] = noise = noisy - clean
        ratios.append(10 * np.log10(np.mean(clean**2) / max(np.mean(noise**2), 1e-20)))
    noisy = [ratio for ratio in ratios if ratio < 100]
    assert 4.9 < min(noisy) < 13 and max(noisy) > 35
    assert 0.45 < len(noisy) / len(ratios) < 0.75
    added = [noise for noise in noises.values() if noise.any()]
    spread = [np.abs(noise).mean() / np.sqrt(np.mean(noise**2)) for noise in added]
    assert 0.1 < np.mean(np.array(spread) < 0.5) < 0.45  # single events; else .6 (babble) to .87
    assert_another_one_in_every_epoch(noises)


def test_rooms_colour_and_smear_a_share_of_the_clips(table, clips):
    changes, colours = {}, []
    for place, dry, wet in full_batches(table, clips, room_probability=0.6):
        assert np.mean(wet**2) == pytest.approx(np.mean(dry**2), rel=1e-3)
        changes[place] = wet - dry
        if not np.array_equal(wet, dry):
            _, before = scipy.signal.welch(dry, 16000, nperseg=256)
            _, after = scipy.signal.welch(wet, 16000, nperseg=256)
            colours.append(np.ptp(10 * np.log10(after / before)[2:100]))
    assert 0.45 < len(colours) / len(changes) < 0.75
    assert 3 < np.median(colours) < 20
    assert_another_one_in_every_epoch(changes)


def test_speakers_become_smaller_and_larger(table, clips):
    changes, moved = {}, []
    for place, own, other in full_batches(table, clips, epochs=4, size_probability=0.6):
        changes[place] = other - own
        if not np.array_equal(own, other):
            frequency, before = scipy.signal.welch(own, 16000)
            _, after = scipy.signal.welch(other, 16000)
            moved.append(frequency @ after / after.sum() / (frequency @ before / before.sum()))
    assert 0.45 < len(moved) / len(changes) < 0.75
    assert 2 ** (-5 / 12) < min(moved) < 0.9 and 1.1 < max(moved) < 2 ** (5 / 12)
    assert_another_one_in_every_epoch(changes)


def test_bands_leave_what_a_telephone_or_a_low_rate_leaves(table, clips):
    changes, lows, highs = {}, [], []
    for place, wide, narrow in full_batches(table, clips, epochs=4, band_probability=0.6):
        changes[place] = narrow - wide
        if not np.array_equal(narrow, wide):
            frequency, before = scipy.signal.welch(wide, 16000, nperseg=1024)
            _, after = scipy.signal.welch(narrow, 16000, nperseg=1024)
            kept = frequency[(after > before / 4) & (frequency > 60)]
            lows.append(kept.min())
            highs.append(kept.max())
    assert 0.45 < len(highs) / len(changes) < 0.75
    assert 3100 < min(highs) < 4000 and 6500 < max(highs) < 8000
    assert 0.4 < np.mean(np.array(lows) > 80) < 0.8 and max(lows) < 360
    assert_another_one_in_every_epoch(changes)


def test_copies_follow_their_clips(table, clips):
    changes = {"noise_probability": 0.9, "room_probability": 0.5, "consistency_weight": 1.0}
    for batch in batcher(table, clips, crop_s=0, gain_db=0.0, **changes).epoch(1):
        np.testing.assert_array_equal(batch.rows[::2], batch.rows[1::2])
        np.testing.assert_allclose(batch.labels, table.values[batch.rows], atol=1e-6)
        for row, own in zip(batch.rows[::2], batch.signal[::2], strict=True):
            assert np.array_equal(own[: clips.lengths[row]], clips.signal(row))
    assert not torch.equal(batch.signal[::2], batch.signal[1::2])


@pytest.mark.parametrize("distance, expected", [(0.0, 0.0), (0.2, 0.5 / 3)])
def test_consistency_is_what_copies_disagree(distance, expected):
    """Of two clips at 0 and .4 whose copies are .2 off, CCC is 2 x .04 / (.04 + .04 + .04)."""
    settings = config.Config(consistency_weight=0.5, regression="none")
    first = torch.tensor([[1.0, 0, 0]])
    own = SimpleNamespace(config=settings, ccc_weights=first, regression_weights=0 * first,
                          categories=0, device="cpu")  # fmt: skip
    outputs = torch.zeros(4, 3)
    outputs[:, 0] = torch.tensor([0.0, distance, 0.4, 0.4 + distance])
    part = SimpleNamespace(labels=outputs.clone())
    both = Distiller.loss(own, [part], outputs)
    assert float(both) == pytest.approx(expected, abs=1e-5)


CALIBRATED = {"validation": "speaker=0,1,2", "epochs": 1, "quantise": "int8", "quantise_epochs": 1}


def test_calibration_restores_mean_and_deviation(table, tmp_path):
    """Of the estimates for validation clips; the weights stay on their grid."""
    runs = tmp_path / "plain", tmp_path / "calibrated"
    results = [distill(table, run, calibrate=run == runs[1], **QUICK | CALIBRATED) for run in runs]
    before, after = (pd.read_parquet(run / "validation.parquet") for run in runs)
    for name in ("arousal", "dominance", "valence"):
        truth, own, new = after[name], before[f"{name}_student"], after[f"{name}_student"]
        gain = np.clip(truth.std() / own.std(), 0.5, 2)
        np.testing.assert_allclose(new, truth.mean() + gain * (own - own.mean()), atol=1e-4)
    own, new = (
        quantisation.quantise(load_file(run / "model.safetensors")["adv.weight"], 127)
        for run in runs
    )
    assert torch.equal(own[0], new[0]) and not torch.equal(own[1], new[1])
    assert results[1].ccc["mean"] > results[0].ccc["mean"]


@pytest.mark.parametrize(
    "settings, problem",
    [
        ({"calibrate": True}, "--calibrate: 6 validation clips.*give 15 "),
        ({"consistency_weight": 1.0}, "--consistency-weight: .*--band-probability"),
    ],
)
def test_what_cannot_be_done_is_said_before_training(settings, problem, table, tmp_path):
    with pytest.raises(Wav2SmallError, match=problem):
        distill(table, tmp_path / "run", **QUICK | settings)


@pytest.mark.parametrize("name", DISTURBANCES)
def test_noise_is_rejected_under_labels_of_what_was_heard(name, table, tmp_path):
    heard = dataclasses.replace(table, provenance={"variants": {"targets": "heard"}})
    with pytest.raises(Wav2SmallError, match=f"{name}.*--targets clean"):
        distill(heard, tmp_path / "run", **{name: 0.5})
    assert not (tmp_path / "run").exists()


def test_gain_stays_within_its_limit(table, clips):
    pairs = full_batches(table, clips, epochs=1, gain_db=6.0)
    gains = [20 * np.log10(np.abs(x).max() / np.abs(clip).max()) for _, clip, x in pairs]
    assert max(np.abs(gains)) <= 6.01 and np.std(gains) > 1


@pytest.mark.parametrize("limit_s, decoded", [(1000, 24), (0, 3 * 24)])
def test_cache_decodes_once_or_stays_within_its_bytes(table, limit_s, decoded, tmp_path):
    cache = Cache(tmp_path, limit_s * 32000)
    clips = Clips(table.frame, table.root, cache=cache)
    own = batcher(table, clips, batch_size=4, crop_s=0)
    for epoch in range(3):
        list(own.epoch(epoch))
    assert clips.decoded == decoded
    assert 0 < own.loading_s < 1
    assert cache.stored <= limit_s * 32000


def test_full_clips_in_order_of_length(table, clips):
    rows = np.arange(3, 20)
    batches = list(full_clips(clips, table.values, rows, batch_samples=200_000))
    assert sorted(np.concatenate([batch.rows for batch in batches])) == list(rows)
    for batch in batches:
        assert batch.signal.numel() <= 200_000 or len(batch.rows) == 1
        np.testing.assert_array_equal(batch.lengths, clips.lengths[batch.rows])


# --- quantisation --------------------------------------------------------------------------


@pytest.mark.parametrize("precision, levels", [("int8", 127), ("int4", 7)])
def test_last_phase_leaves_weights_on_the_grid(file, tmp_path, precision, levels):
    folder = tmp_path / "run"
    settings = QUICK | {"student": "wav2small", "epochs": 1, "quantise": precision}
    result = distill(file, folder, **settings, quantise_epochs=1)
    assert result.best_epoch == 2
    weights = load_file(folder / "model.safetensors")
    plan = quantisation.plan(registry.create("wav2small"), precision)
    assert {level for level in plan.values()} == ({127} if levels == 127 else {7, 127})
    for name, level in plan.items():
        rows = weights[name].flatten(1).double().numpy()
        steps = rows / (np.abs(rows).max(axis=1, keepdims=True) / level)
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-3, err_msg=name)


def test_fake_quantisation_rounds_forward_and_passes_backward():
    weight = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)
    result = quantisation.fake_quantise(weight, 7)
    result.square().sum().backward()
    scale = weight.detach().abs().amax(dim=(1, 2), keepdim=True) / 7
    expected = np.round(weight.detach().numpy() / scale.numpy()) * scale.numpy()
    np.testing.assert_allclose(result.detach().numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(weight.grad.numpy(), 2 * expected, atol=1e-12)


# --- several processes, variants, an online teacher ----------------------------------------


def processes(*words, count=2):
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(count)]
    launch += ["--standalone", *map(str, words)]
    return subprocess.run(launch, env=environment(), check=True, capture_output=True, timeout=300)


def test_two_processes_compute_the_loss_of_one(file, tmp_path):
    # One step per epoch: the first row of metrics.csv holds the loss of one global batch.
    settings = ["--batch-size", 64, "--epochs", 1]
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    done = processes(*command(file, shared, *settings)[1:])
    assert done.stdout.decode().count(" parameters, ") == 2  # of both
    subprocess.run(command(file, alone, *settings), env=environment(), check=True)
    rows = [pd.read_csv(folder / "metrics.csv").iloc[0] for folder in (alone, shared)]
    assert rows[1]["loss"] == pytest.approx(rows[0]["loss"], rel=1e-6)  # float32
    for name in ("ccc_arousal", "ccc_dominance", "ccc_valence"):
        assert rows[1][name] == pytest.approx(rows[0][name], abs=1e-4)


GRADIENTS = """
import sys, numpy as np, torch
from wav2small.students.masking import masked_batch_norm
from wav2small.training import distributed
_, rank, size = distributed.start("cpu")
torch.manual_seed(0)
x = torch.randn(6, 4, 5, 3).to(memory_format=torch.channels_last)
mask = torch.arange(5) < torch.tensor([5, 3, 4, 5, 1, 2])[:, None]
pull = torch.randn(6, 4, 5, 3)
norm = torch.nn.BatchNorm2d(4).train()
torch.nn.init.normal_(norm.weight)
share = x[rank::size].clone(memory_format=torch.channels_last).requires_grad_()
found = masked_batch_norm(norm, share, mask[rank::size])
valid = mask[rank::size, None, :, None]
(found * pull[rank::size] * valid).sum().backward()
distributed.sum_gradients(norm.parameters())
whole = torch.zeros_like(x)
whole[rank::size] = share.grad
distributed.sum_everywhere(whole)
if rank == 0:
    parts = (whole, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var)
    np.savez(sys.argv[1], *[part.numpy() for part in parts])
"""


def test_two_processes_share_statistics_and_their_gradients(tmp_path):
    script = tmp_path / "gradients.py"
    script.write_text(GRADIENTS)
    subprocess.run([sys.executable, script, tmp_path / "alone.npz"], env=environment(), check=True)
    processes(script, tmp_path / "shared.npz")
    alone, shared = np.load(tmp_path / "alone.npz"), np.load(tmp_path / "shared.npz")
    for name in alone.files:
        np.testing.assert_allclose(shared[name], alone[name], rtol=1e-5, atol=1e-6)
    assert np.abs(alone["arr_0"]).max() > 0.1


EXCHANGE = """
import torch
from wav2small.training import distributed
_, rank, size = distributed.start("cpu")
for shape in ((), (0,), (3, 1), (2, 25_000)):  # the last takes several pieces
    own = (torch.arange(float(torch.Size(shape).numel())).reshape(shape).T + rank).requires_grad_()
    every = distributed.gather(own.reshape(-1))
    whole = torch.cat([(own.detach() - rank + other).reshape(-1) for other in range(size)])
    assert torch.equal(every, whole)
    every.sum().backward()
    assert torch.equal(own.grad, torch.ones_like(own))
    assert torch.equal(distributed.sum_everywhere(own.detach().clone()), size * (own - rank) + 3)
"""


def test_three_processes_exchange_tensors_of_any_size(tmp_path):
    script = tmp_path / "exchange.py"
    script.write_text(EXCHANGE)
    processes(script, count=3)


def test_variants_are_the_samples_the_teacher_labelled(table):
    frame = table.frame.assign(variant=np.arange(len(table.frame)) * 12345)
    clips = Clips(frame, table.root)
    for row in range(4):
        sound = audio.read(table.path(frame["file"][row]))
        expected = variants.variant(sound, int(frame["variant"][row]))
        np.testing.assert_array_equal(clips.signal(row), expected)
    assert not np.array_equal(clips.signal(1), audio.read(table.path(frame["file"][1])))


class Loud:
    """A teacher of one rule: the share of samples above a level, gain included."""

    def __init__(self):
        self.asked = 0

    def predict(self, batch, lengths):
        self.asked += len(batch)
        share = [np.mean(np.abs(x[:n]) > 0.02) for x, n in zip(batch, lengths, strict=True)]
        return np.repeat(np.array(share)[:, None], 3, axis=1)


def test_online_teacher_labels_what_the_student_gets(table, clips, tmp_path):
    own = batcher(table, clips, teacher=Loud(), augment_probability=0.5)
    unaltered = 0
    for batch in own.epoch(0):
        expected = Loud().predict(batch.signal.numpy(), batch.lengths.numpy())
        np.testing.assert_allclose(batch.labels.numpy(), expected, atol=1e-6)
        for inputs, row in zip(batch.signal.numpy(), batch.rows, strict=True):
            places = np.lib.stride_tricks.sliding_window_view(clips.signal(row), 8000)[:, ::500]
            gains = (places @ inputs[::500]) / (places**2).sum(1)  # least squares
            rest = np.abs(gains[:, None] * places - inputs[::500]).max(1)
            unaltered += rest.min() < 1e-6
    assert 0.2 < unaltered / (own.steps * own.config.batch_size) < 0.8
    teacher = Loud()
    result = distill(table, tmp_path / "run", online=teacher, **QUICK)
    assert teacher.asked >= result.epochs * result.clips


def test_bf16_trains_on_an_exact_front_end(file, tmp_path):
    """Half precision stays out of the log-mel: the run is close to the one in full precision."""
    settings = QUICK | {"epochs": 1, "batch_size": 64}
    losses = []
    for precision in ("fp32", "bf16"):
        folder = tmp_path / precision
        distill(file, folder, **settings, precision=precision)
        losses.append(pd.read_csv(folder / "metrics.csv")["loss"][0])
        assert all(
            t.dtype != torch.bfloat16 for t in load_file(folder / "model.safetensors").values()
        )
    assert losses[1] == pytest.approx(losses[0], abs=0.02)
    assert losses[1] != losses[0]


def test_patience_ends_the_run_early(table, tmp_path):
    # Labels in random order: nothing to learn about other voices.
    order = np.random.default_rng(0).permutation(len(table.frame))
    values = {name: table.frame[name].to_numpy()[order] for name in ("arousal", "valence")}
    labels = tables.Labels(table.frame.assign(**values), table.root, table.provenance)
    result = distill(labels, tmp_path / "run", **(QUICK | {"epochs": 40, "patience": 2}))
    assert result.epochs == result.best_epoch + 2 < 40


def test_init_starts_from_the_weights_of_a_run(run, table, tmp_path):
    settings = QUICK | {"epochs": 1, "learning_rate": 1e-12, "ema": 0.0}
    result = distill(table, tmp_path / "run", init=str(run[0]), **settings)
    before, after = (
        load_file(run[0] / "model.safetensors"),
        load_file(result.output + "/model.safetensors"),
    )
    for name, weight in before.items():
        if "running" not in name and "batches" not in name:
            torch.testing.assert_close(after[name], weight, atol=1e-6, rtol=0)


@pytest.mark.parametrize("freeze_bn_fraction, moves", [(1.0, False), (0.5, True), (0.0, True)])
def test_frozen_statistics_stay_while_weights_learn(table, tmp_path, freeze_bn_fraction, moves):
    distill(table, tmp_path / "run", freeze_bn_fraction=freeze_bn_fraction, **QUICK)
    state = load_file(tmp_path / "run" / "last" / "checkpoint.safetensors")
    fresh = registry.create("wav2small2").state_dict()
    statistics = [name for name in fresh if name.endswith(("running_mean", "running_var"))]
    moved = [not torch.equal(state[f"model.{name}"], fresh[name]) for name in statistics]
    assert len(moved) == 14 and all(moved) == any(moved) == moves
    assert (state["model.vgg7.lin.weight"] - state["best.vgg7.lin.weight"]).abs().max() > 0
    if freeze_bn_fraction == 0.5:  # those that the best weights so far were validated with
        for name in statistics:
            torch.testing.assert_close(state[f"model.{name}"], state[f"average.{name}"])


# --- categories --------------------------------------------------------------------------------


def with_categories(table):
    """Three probabilities that follow the ratings; of one clip nothing is known."""
    scores = np.exp(8 * table.values)
    probabilities = scores / scores.sum(axis=1, keepdims=True)
    probabilities[5] = np.nan
    names = ("probability_high", "probability_strong", "probability_glad")
    frame = table.frame.assign(**dict(zip(names, probabilities.T, strict=True)))
    return tables.Labels(frame, table.root, table.provenance)


def test_category_loss_equals_numpy():
    random = np.random.default_rng(0)
    truth, logits = random.dirichlet(np.ones(4), 6), random.normal(size=(6, 4))
    truth[2] = np.nan
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -(truth * logs)[[0, 1, 3, 4, 5]].sum(axis=1).mean()
    found = losses.category_loss(torch.tensor(truth), torch.tensor(logits))
    assert float(found) == pytest.approx(expected, abs=1e-12)
    assert float(losses.category_loss(torch.tensor(truth[2:3]), torch.tensor(logits[2:3]))) == 0
    right = truth[[0, 1, 3, 4, 5]].argmax(1) == logits[[0, 1, 3, 4, 5]].argmax(1)
    assert metrics.agreement(truth, logits) == pytest.approx(right.mean())
    assert np.isnan(metrics.agreement(truth[2:3], logits[2:3]))


def test_categories_are_learned_and_exported(table, tmp_path):
    labels = with_categories(table)
    settings = {"epochs": 20, "crop_s": 0, "learning_rate": 0.02, "validation": "0.2"}
    result = distill(
        labels,
        tmp_path / "run",
        categories=True,
        category_weight=3.0,
        quantise="int8",
        **QUICK | settings,
    )
    student = registry.load(tmp_path / "run")
    assert student.config["categories"] == ["high", "strong", "glad"]
    found = tables.read_labels(tmp_path / "run/validation.parquet")
    columns = [f"probability_{name}" for name in student.config["categories"]]
    probabilities = found.frame[[f"student_{name}" for name in columns]].to_numpy()
    for row, shares in zip(found.frame["file"], probabilities, strict=True):
        sound = torch.from_numpy(audio.read(found.path(row)))[None]
        with torch.no_grad():
            _, logits = student.forward_categories(sound)
        np.testing.assert_allclose(logits.softmax(1)[0], shares, atol=2e-4)
    truth = found.frame[columns].to_numpy()
    assert result.category_agreement == pytest.approx(metrics.agreement(truth, probabilities))
    rows = pd.read_csv(tmp_path / "run/metrics.csv")
    assert rows["category_agreement"].between(0, 1).all()
    # On all clips better than telling each category's share, which takes no learning.
    truth = labels.frame[columns].to_numpy()
    clips = Clips(labels.frame, labels.root)
    logits = np.full((len(truth), 3), np.nan)
    for batch in full_clips(clips, labels.values, np.arange(len(truth))):
        with torch.no_grad():
            logits[batch.rows] = student.forward_categories(batch.signal, batch.lengths)[1]
    entropy = losses.category_loss(torch.tensor(truth), torch.tensor(logits))
    alike = np.log(labels.frame[columns].mean().to_numpy())[None].repeat(len(truth), axis=0)
    assert entropy < losses.category_loss(torch.tensor(truth), torch.tensor(alike))
    export_bundle(tmp_path / "run", tmp_path / "bundle", precision="int8")
    assert "categories" in (tmp_path / "bundle/model.yaml").read_text()
    predictions = predict(tmp_path / "bundle", found.path(found.frame["file"].iloc[0]))
    assert predictions.categories == student.config["categories"]
    row = predictions.frame.iloc[0]
    np.testing.assert_allclose(row[columns].astype(float), probabilities[0], atol=0.02)
    assert row[columns].sum() == pytest.approx(1, abs=1e-5)
    alone = Predictor(tmp_path / "bundle").predict_file(found.path(found.frame["file"].iloc[0]))
    np.testing.assert_allclose(row[["arousal", "dominance", "valence"]].astype(float), alone)


def test_a_start_may_have_other_categories(table, run, tmp_path):
    """The body is taken; the second head only where it means the same."""
    quick = QUICK | {"epochs": 1, "learning_rate": 1e-9, "ema": 0.0}
    labels = with_categories(table)
    heads = {}
    for name, init, options in (
        ("with", run[0], {"categories": True}),
        ("same", tmp_path / "with", {"categories": True}),
        ("without", tmp_path / "with", {}),
    ):
        distill(labels, tmp_path / name, **quick, init=str(init), **options)
        state = load_file(tmp_path / name / "model.safetensors")
        heads[name] = state.get("category.weight")
        began = load_file(init / "model.safetensors")
        torch.testing.assert_close(state["adv.weight"], began["adv.weight"], atol=1e-5, rtol=0)
    torch.testing.assert_close(heads["same"], heads["with"], atol=1e-5, rtol=0)
    assert heads["without"] is None
    with pytest.raises(Wav2SmallError, match="does not fit Nano"):
        distill(table, tmp_path / "other", **quick | {"student": "nano", "init": str(run[0])})


@pytest.mark.parametrize(
    "options, message",
    [
        ({"categories": True}, "no columns probability_NAME"),
        ({"categories": True, "online": object()}, "leave out --online"),
        ({"student_options": {"categories": ["a", "b"]}}, "learned with --categories"),
    ],
)
def test_categories_that_nothing_teaches(options, message, table, tmp_path):
    with pytest.raises(Wav2SmallError, match=message):
        distill(table, tmp_path / "run", **QUICK, **options)
