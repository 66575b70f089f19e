"""The wheel in an environment of its own, without torch: it predicts and evaluates."""

import csv
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from test_predictor import model

ROOT = Path(__file__).parents[2]


def run(*words, **options):
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # building in place would leave build/ in the checkout
    listed = run("git", "-C", ROOT, "ls-files", "-co", "--exclude-standard").splitlines()
    for name in listed:
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    run(sys.executable, "-m", "build", "--wheel", "-o", folder, source)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("torch-free") / "venv"
    run(sys.executable, "-m", "venv", folder)
    run(folder / "bin" / "pip", "install", "--quiet", wheel)
    return folder / "bin" / "python"


def test_the_wheel_holds_one_package_and_what_it_needs(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"wav2small"}
    for room in (
        "teachers/acoustic/coefficients.json",
        "students/wav2small.py",
        "export/exporting.py",
    ):
        assert f"wav2small/{room}" in names
    missing = [
        path.relative_to(ROOT)
        for room in ("wav2small", "teachers", "students", "export", "benchmarks")
        for path in (ROOT / room).rglob("*")
        if path.is_file()
        and "__pycache__" not in path.parts
        and "studies" not in path.parts
        and f"wav2small/{str(path.relative_to(ROOT)).removeprefix('wav2small/')}" not in names
    ]
    assert not missing


def test_without_torch_it_predicts_and_evaluates(python, speech, tmp_path):
    for package in ("torch", "onnx", "librosa", "transformers"):
        done = subprocess.run([python, "-c", f"import {package}"], capture_output=True)
        assert done.returncode, f"{package} is installed in the torch-free environment"
    model(tmp_path / "model.onnx")
    command = python.parent / "wav2small"
    rows = list(csv.DictReader(run(command, "predict", tmp_path, speech).splitlines()))
    assert len(rows) == 24
    truth = tmp_path / "truth.csv"
    truth.write_text(
        "file,arousal,valence\n"
        + "".join(f"{row['file']},{row['arousal']},{row['valence']}\n" for row in rows)
    )
    told = run(command, "evaluate", tmp_path, truth, "--root", speech, "--json")
    figures = json.loads(told)["dimensions"]
    assert set(figures) == {"arousal", "valence"}
    assert figures["arousal"]["ccc"]["value"] > 0.999


@pytest.mark.parametrize("verb", ["label", "distill", "export", "demo"])
def test_without_torch_other_commands_say_what_to_install(python, verb, tmp_path, speech):
    arguments = {
        "label": [speech, "-o", tmp_path / "l.parquet", "--teacher", str(tmp_path)],
        "distill": [tmp_path / "l.parquet", "-o", tmp_path / "run"],
        "export": [tmp_path / "run", "-o", tmp_path / "bundle"],
        "demo": ["-o", tmp_path / "demo"],
    }[verb]
    done = subprocess.run(
        [python.parent / "wav2small", verb, *arguments], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "pip install 'wav2small[" in done.stderr or "wav2small label" in done.stderr
