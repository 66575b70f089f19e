"""Teachers by name, folder, hub id and class; students as teachers; nothing loaded too early."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from wav2small import Wav2SmallError
from wav2small.teachers import list_teachers, load_teacher, register_teacher
from wav2small.teachers.base import Teacher, columns, licensed

TESTS = str(Path(__file__).parents[1])


def cli(*words: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "wav2small", *words], capture_output=True, text=True, **options
    )


def test_list():
    rows = {row["name"]: row for row in list_teachers()}
    assert list(rows)[:4] == ["acoustic", "wavlm", "wav2vec2", "ensemble"]
    assert rows["wavlm"]["licence"] == "MIT" and "NC" in rows["wav2vec2"]["licence"]
    done = cli("teachers", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)[0]["name"] == "acoustic"
    assert "318.6M" in cli("teachers").stdout


def test_parameters_in_the_list_are_counted():
    import torch

    from wav2small.teachers.speech import backbones, wav2vec2, wavlm

    rows = {row["name"]: row["parameters"] for row in list_teachers()}
    ser = {"mean": 0, "std": 1, "hidden_size": 1024, "num_classes": 3}
    ser |= {"classifier_hidden_layers": 1, "ssl_type": "microsoft/wavlm-large"}
    dawn = backbones.WAVLM_LARGE | {"model_type": "wav2vec2", "num_hidden_layers": 12}
    dawn |= {"conv_bias": True, "id2label": {"0": "a", "1": "b", "2": "c"}}
    with torch.device("meta"):
        networks = {"wavlm": wavlm.WavlmNetwork(ser), "wav2vec2": wav2vec2.Wav2vec2Network(dawn)}
    for name, network in networks.items():
        assert sum(value.numel() for value in network.parameters()) == rows[name]


def test_register(clip):
    @register_teacher("constant")
    class Constant:
        """Says the same of everything, and more than may be."""

        name = id = "constant"
        revision, licence, sampling_rate = "1", "MIT", 16000
        dimensions, invariances = ("arousal", "dominance", "valence"), frozenset({"gain"})

        def predict(self, batch, lengths):
            return np.tile([-0.5, 0.5, 1.5], (len(batch), 1))

    teacher = load_teacher("constant", device="cpu", dtype="float32")
    assert isinstance(teacher, Teacher) and load_teacher(teacher) is teacher
    found = columns(teacher, clip[None], np.array([len(clip)]))
    assert [float(found[name][0]) for name in teacher.dimensions] == [0.0, 0.5, 1.0]
    assert licensed(teacher)[0]["invariances"] == ["gain"]
    row = next(row for row in list_teachers() if row["name"] == "constant")
    assert row["what"].startswith("Says the same")


@pytest.mark.parametrize("name", ["wav2small", "wav2small2"])
def test_a_student_is_a_teacher(name, clip, tmp_path):
    import torch

    from wav2small import provenance
    from wav2small.students import registry

    torch.manual_seed(0)
    student = registry.create(name).eval()
    student.save_pretrained(tmp_path)
    history = provenance.new(
        teachers=[{"name": "x", "id": "x", "revision": "1", "licence": "CC-BY-NC-SA-4.0"}]
    )
    (tmp_path / "provenance.json").write_text(json.dumps(history))
    teacher = load_teacher(str(tmp_path), device="cpu")
    clip = np.tile(clip, 3)
    batch = np.stack([clip[:16000], np.concatenate([clip[:9000], np.zeros(7000, np.float32)])])
    found = teacher.predict(batch, np.array([16000, 9000]))
    with torch.no_grad():
        for row, length in enumerate((16000, 9000)):
            alone = student(torch.from_numpy(clip[None, :length]))[0].numpy()
            np.testing.assert_allclose(found[row], alone, atol=1e-4)
    assert "CC-BY-NC-SA-4.0" in teacher.licence
    assert [entry["licence"] for entry in licensed(teacher)][1] == "CC-BY-NC-SA-4.0"


def test_non_commercial_is_said_once(speech, tmp_path):
    (tmp_path / "nc.py").write_text(
        "from toy_teachers import Loudness\n"
        "class Bound(Loudness):\n    licence = 'CC-BY-NC-SA-4.0'\n"
    )
    import os

    environment = os.environ | {"PYTHONPATH": TESTS}
    words = ["label", str(speech), "-o", "l.parquet", "--teacher", "nc:Bound"]
    done = cli(*words, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("non-commercial") == 1


def test_acoustic_labelling_loads_no_torch(speech, tmp_path):
    program = (
        "import sys; from wav2small.teachers.labelling.run import label\n"
        "from wav2small.teachers.labelling.options import ComputeOptions\n"
        f"label({str(speech)!r}, {str(tmp_path / 'l.parquet')!r}, "
        "compute=ComputeOptions(workers=0))\n"
        "print([name for name in ('torch', 'transformers', 'ray') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.parametrize(
    "spec, message",
    [
        ("wavml", "did you mean wavlm"),
        ("./nowhere", "no such folder"),
        ("toy_teachers:Missing", "Missing"),
        ("ensemble:,", "name members as"),
        ("ensemble:acoustic=0", "above 0"),
    ],
)
def test_no_such_teacher(spec, message, monkeypatch):
    monkeypatch.syspath_prepend(TESTS)
    with pytest.raises(Wav2SmallError, match=message):
        load_teacher(spec)


def test_options_of_other_teachers_are_rejected(speech, tmp_path):
    from labelling_cases import label

    for name, value in {"members": ["acoustic"], "revision": "abc"}.items():
        with pytest.raises(Wav2SmallError, match=f"--{name} is for --teacher"):
            label(speech, tmp_path / "l.parquet", **{f"teacher_{name}": value})


def test_the_bar_on_a_terminal(speech, tmp_path):
    """On a terminal, a run of more than two seconds shows hours done and to do."""
    import fcntl
    import os
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    words = ["label", str(speech), "-o", "l.parquet", "--teacher", "toy_teachers:Slow"]
    child = subprocess.Popen(
        [sys.executable, "-m", "wav2small", *words, "--variants", "12", "--workers", "1"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": TESTS},
        stderr=theirs,
    )
    os.close(theirs)
    said = b""
    while True:
        try:
            said += os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
    assert child.wait() == 0, said
    os.close(ours)
    assert b"label: " in said and b"/0." in said and b" h [" in said, said
