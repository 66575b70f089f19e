"""What a type checker sees of the public names: an installed package, a strict user script."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")

ROOT = Path(__file__).parents[2]
PACKAGES = [path for path in sys.path if path.endswith("-packages")]  # where numpy is

RIGHT = """
import wav2small
from wav2small import Predictor, Stream, predict

p = Predictor("bundle")
arousal: float = float(p.predict_file("a.wav", start_s=1.5)[0])
for estimate in Stream("bundle", memory=2.0).push(p.predict_file("a.wav")):
    seen: float = estimate.heard
rows: int = len(predict("bundle", "audio").rows)
figures: int = wav2small.evaluate("bundle", "truth.csv").clips
wav2small.export_bundle("run", "bundle", precision="int8")
labels: str = wav2small.read_labels("labels.parquet").root
rate: int = wav2small.teachers.load_teacher("acoustic").sampling_rate
parameters: int = sum(p.numel() for p in wav2small.students.create("nano").parameters())
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """An environment whose site-packages see the package as a strict editable install lays it out.

    `pip install --config-settings editable_mode=strict -e .` makes such a folder of links and names
    it in a `.pth` file, which type checkers follow; they cannot follow the import hook of a plain
    editable install.
    """
    folder = tmp_path_factory.mktemp("types")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    package = folder / "tree" / "wav2small"
    package.mkdir(parents=True)
    for path in (ROOT / "wav2small").iterdir():
        (package / path.name).symlink_to(path)
    for name in ("teachers", "students", "export", "benchmarks"):
        (package / name).symlink_to(ROOT / name)
    python = folder / "venv" / "bin" / "python"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout
    Path(site.strip(), "paths.pth").write_text("\n".join([str(package.parent), *PACKAGES]))
    return python


@pytest.fixture(scope="module")
def check(python, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scripts")

    def run(text):
        (folder / "script.py").write_text(text)
        done = subprocess.run(
            [sys.executable, "-m", "mypy", "--strict", "--python-executable", python, "script.py"],
            cwd=folder,
            capture_output=True,
            text=True,
        )
        return done.stdout + done.stderr

    return run


def test_right_usage_passes(check):
    assert "Success" in (found := check(RIGHT)), found


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('p.predict("hello", rate=3)', 'Unexpected keyword argument "rate"'),
        ('p.predict("hello")', "incompatible type"),
        ('predict("bundle", "audio", windw=3)', "windw"),
        ("wav2small.nothing", 'no attribute "nothing"'),
    ],
)
def test_wrong_usage_is_an_error(check, line, message):
    found = check(f"{RIGHT}\n{line}\n")
    assert message in found and "Found" in found, found


def test_every_public_name_is_there():
    import wav2small

    assert set(wav2small.__all__) <= set(dir(wav2small))
    for name in wav2small.__all__:
        assert getattr(wav2small, name) is not None
    assert {"export_bundle", "verify_bundle", "students", "teachers"} <= set(dir(wav2small))
    for package in (wav2small.students, wav2small.teachers):
        assert all(hasattr(package, name) for name in dir(package))
