"""The proof travels with the bundle and notices what was touched."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from wav2small.errors import Wav2SmallError
from wav2small.export import verification
from wav2small.export.verification import verify_bundle


@pytest.fixture
def copy(bundle, tmp_path):
    return shutil.copytree(bundle, tmp_path / "copy")


def test_verify_repeats_signals_and_clips(bundle, run):
    result = verify_bundle(bundle)
    assert set(result.files) == {
        "README.md", "model.onnx", "model.yaml", "provenance.json", "verification.json",
    }  # fmt: skip
    assert result.signals == len(verification.signals()) and result.clips is None
    again = verify_bundle(bundle, run=run)
    record = json.loads((bundle / "verification.json").read_text())
    assert again.clips["max_difference"] == pytest.approx(record["clips"]["max_difference"])


@pytest.mark.parametrize(
    "name", ["README.md", "model.onnx", "model.yaml", "provenance.json", "verification.json"]
)
def test_a_tampered_file_is_named(copy, name):
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(Wav2SmallError, match=name):
        verify_bundle(copy)
    (copy / name).unlink()
    with pytest.raises(Wav2SmallError, match=name):
        verify_bundle(copy)


def test_exit_codes(copy):
    def code():
        command = [sys.executable, "-m", "wav2small", "verify", str(copy)]
        done = subprocess.run(command, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    assert code()[0] == 0
    (copy / "notes.txt").write_text("mine")
    status, out, _ = code()
    assert status == 0 and "notes.txt was added" in out
    with open(copy / "README.md", "a") as file:
        file.write("Allows commercial use.")
    status, _, err = code()
    assert status == 2 and "README.md was changed" in err and err.count("\n") == 1


def test_another_run_is_rejected(copy, run, tmp_path):
    from wav2small.students import registry

    other = shutil.copytree(run, tmp_path / "other")
    registry.create("wav2small").save_pretrained(other)
    with pytest.raises(Wav2SmallError, match="not exported from"):
        verify_bundle(copy, run=other)


def test_other_outputs_than_recorded_are_rejected(bundle):
    record = json.loads((bundle / "verification.json").read_text())
    rows = {row["name"]: np.array(row["file"]) for row in record["signals"]}
    by_bytes = {signal.tobytes(): rows[name] for name, signal in verification.signals().items()}

    def same(signal):
        return by_bytes[signal.tobytes()]

    assert verification.repeat(record, same) == []
    off = verification.repeat(record, lambda signal: same(signal) + 0.002)
    assert len(off) == len(rows) and "silence" in off[0]
    assert verification.repeat(record, lambda signal: same(signal) * np.nan)


def test_tolerances_catch_differences_and_lost_agreement():
    rng = np.random.default_rng(0)
    clips = [rng.normal(size=2000).astype(np.float32) for _ in range(30)]
    truth = rng.uniform(size=(30, 3))
    known = {clip.tobytes(): value for clip, value in zip(clips, truth, strict=True)}

    def student(signal):
        return known.get(signal.tobytes(), np.full(3, 0.5))

    def check(file, **tolerance):
        return verification.compare(
            student,
            file,
            clips=clips,
            teacher=truth,
            tolerance=verification.Tolerance(**{"difference": 0.2, "drop": 0.01, **tolerance}),
        )

    assert check(student)["passed"]
    assert check(student)["ccc"]["after"]["arousal"]["value"] == pytest.approx(1)

    def shrunk(signal):
        return 0.5 + 0.7 * (student(signal) - 0.5)

    failures = check(shrunk)["failures"]
    assert any("CCC" in failure for failure in failures)
    # CCC of a + b x with itself, by hand: 2 b var / (var + b^2 var + shift^2)
    column, b = truth[:, 0], 0.7
    shift = column.mean() * (1 - b) - 0.5 * (1 - b)
    expected = 2 * b * column.var() / (column.var() * (1 + b * b) + shift**2)
    found = check(shrunk)["ccc"]["after"]["arousal"]["value"]
    assert found == pytest.approx(expected, rel=1e-6)
    assert check(shrunk, difference=0.01)["failures"][0].startswith("clip")
    broken = check(lambda signal: student(signal) * np.nan)
    assert not broken["passed"]


def test_signals_are_the_same_everywhere():
    made = verification.signals()
    assert all(np.isfinite(signal).all() for signal in made.values())
    assert len(made["short (0.1 s)"]) == 1600 and len(made["long (60 s)"]) == 960_000
    assert not made["silence"].any() and np.ptp(made["constant"]) == 0
    assert np.mean(np.abs(made["clipping"]) == 1) > 0.1
    noise = made["noise"].astype(np.float64)
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1 / np.sqrt(3)) < 0.02
    assert abs(np.corrcoef(noise[1:], noise[:-1])[0, 1]) < 0.03
