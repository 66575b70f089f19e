"""The wheel in an environment of its own, without torch: it predicts and evaluates."""

import csv
import json
import re
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


@pytest.fixture(scope="module")
def python_with_data(python, wheel):
    """The same environment, later with the extra `data`."""
    run(python, "-m", "pip", "install", "--quiet", f"{wheel}[data]")
    return python


def test_the_wheel_holds_one_package_and_what_it_needs(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"wav2small"}
    for name in (
        "teachers/acoustic/coefficients.json",
        "students/wav2small.py",
        "export/export.py",
    ):
        assert f"wav2small/{name}" in names
    missing = [
        path.relative_to(ROOT)
        for name in ("wav2small", "teachers", "students", "export", "benchmarks")
        for path in (ROOT / name).rglob("*")
        if path.is_file()
        and "__pycache__" not in path.parts
        and "studies" not in path.parts
        and f"wav2small/{str(path.relative_to(ROOT)).removeprefix('wav2small/')}" not in names
    ]
    assert not missing


def test_the_wheel_declares_a_small_runtime(wheel):
    (name,) = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("/METADATA")]
    lines = zipfile.ZipFile(wheel).read(name).decode().splitlines()
    needs = [line.split(": ")[1] for line in lines if line.startswith("Requires-Dist: ")]
    base = {re.split(r"[^\w-]", need)[0] for need in needs if "extra ==" not in need}
    assert base == {"filelock", "numpy", "onnxruntime", "soundfile", "soxr", "tqdm"}


def test_the_runtime_is_small(python, speech, tmp_path):
    """At most 200 MB without pip and setuptools, 400 modules imported to predict one file."""
    packages = Path(run(python, "-c", "import numpy; print(numpy.__path__[0])").strip()).parent
    tools = ("pip", "setuptools", "pkg_resources", "_distutils_hack")
    size = sum(
        file.stat().st_size
        for file in packages.rglob("*")
        if file.is_file() and not file.relative_to(packages).parts[0].startswith(tools)
    )
    assert size <= 200e6
    model(tmp_path / "model.onnx")
    program = (
        "import sys; from wav2small.cli.main import main; main(sys.argv[1:]); "
        "print(len(sys.modules), file=sys.stderr)"
    )
    words = [python, "-c", program, "predict", tmp_path, next(speech.glob("*.flac"))]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
    assert len(done.stdout.splitlines()) == 2, done.stderr
    assert int(done.stderr.split()[-1]) <= 400


def test_without_torch_it_predicts_and_evaluates(python_with_data, speech, tmp_path):
    python = python_with_data
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
    output = run(command, "evaluate", tmp_path, truth, "--root", speech, "--json")
    figures = json.loads(output)["dimensions"]
    assert set(figures) == {"arousal", "valence"}
    assert figures["arousal"]["ccc"]["value"] > 0.999


@pytest.mark.parametrize("verb", ["label", "distill", "export", "demo"])
def test_without_torch_other_commands_name_what_to_install(
    python_with_data, verb, tmp_path, speech
):
    arguments = {
        "label": [speech, "-o", tmp_path / "l.parquet", "--teacher", str(tmp_path)],
        "distill": [tmp_path / "l.parquet", "-o", tmp_path / "run"],
        "export": [tmp_path / "run", "-o", tmp_path / "bundle"],
        "demo": ["-o", tmp_path / "demo"],
    }[verb]
    done = subprocess.run(
        [python_with_data.parent / "wav2small", verb, *arguments], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "pip install 'wav2small[" in done.stderr or "wav2small label" in done.stderr
