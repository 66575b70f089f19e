"""The runtime alone: only the base dependencies, and nothing that only POSIX has."""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from test_predictor import model

POSIX = ["fcntl", "resource", "pwd", "grp", "termios"]
EXTRAS = """pandas pyarrow scipy audmetric fsspec audeer torch onnx timm transformers safetensors
librosa matplotlib jinja2 accelerate huggingface_hub""".split()

BLOCK = f"""
import sys
for name in {POSIX + EXTRAS}:
    sys.modules[name] = None
"""


@pytest.fixture
def audio_folder(tmp_path):
    model(tmp_path / "model.onnx")
    folder = tmp_path / "audio"
    folder.mkdir()
    for name in ("a.wav", "b.wav"):
        soundfile.write(folder / name, np.resize([0.5, -0.5], 16000), 16000)
    return folder


def blocked(*arguments, code="", stdin=b"", cwd=None):
    """Run the command line, or code, where the modules above cannot be imported."""
    code = code or "from wav2small.cli.main import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", BLOCK + code, *map(str, arguments)],
        capture_output=True,
        input=stdin,
        cwd=cwd,
    )


def test_files_and_folders_are_predicted(audio_folder, tmp_path):
    bundle = audio_folder.parent
    for source in (audio_folder, audio_folder / "a.wav"):
        done = blocked("predict", bundle, source)
        assert done.returncode == 0, done.stderr
        line = done.stdout.decode().splitlines()[1]
        assert line == "a.wav,0.000,1.000,0.2500,0.5000,0.7500,false"
    done = blocked("predict", bundle, audio_folder, "-o", tmp_path / "p.csv")
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 3


def test_a_pipe_is_followed(audio_folder):
    samples = np.full(32000, 8000, "<i2").tobytes()
    done = blocked("predict", audio_folder.parent, "--follow", "-", stdin=samples)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["time"] == 2.0


def test_predictor_and_stream_work(audio_folder):
    code = (
        "import numpy, wav2small\n"
        "signal = numpy.resize(numpy.float32([.5, -.5]), 16000)\n"
        "print(wav2small.Predictor(sys.argv[1]).predict(signal))\n"
        "print(wav2small.Stream(sys.argv[1]).push(signal)[-1].arousal)"
    )
    done = blocked(audio_folder.parent, code=code)
    assert done.returncode == 0 and done.stdout.split()[-1] == b"0.25", done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        "predict . table.csv",
        "evaluate . table.csv",
        "label audio -o l.parquet",
        "audit . table.csv -o out",
    ],
)
def test_other_commands_name_the_extra_in_one_line(audio_folder, arguments, tmp_path):
    (tmp_path / "table.csv").write_text("file,arousal\na.wav,.5\n")
    done = blocked(*arguments.split(), cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1 and b"pip install 'wav2small[data]'" in done.stderr


def test_public_names_name_the_extra(audio_folder):
    code = (
        "import wav2small\n"
        "try: wav2small.read_labels('labels.parquet')\n"
        "except wav2small.Wav2SmallError as error: print(error)\n"
        "try: wav2small.audit\n"
        "except wav2small.Wav2SmallError as error: print(error)"
    )
    done = blocked(code=code)
    assert done.stdout.count(b"pip install 'wav2small[data]'") == 2, done.stderr
