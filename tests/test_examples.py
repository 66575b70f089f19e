"""The examples run as they are."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name, *words):
    command = [sys.executable, EXAMPLES / name, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_minimal_distillation(speech, tmp_path):
    shown = run("minimal_distill.py", speech, tmp_path, "--epochs", 2, "--batch-size", 4)
    found = re.findall(r"CCC with the teacher (\S+) (\S+) (\S+)", shown)
    assert len(found) == 3
    # The file says what the student said after its last epoch.
    for file, student in zip(found[2], found[1], strict=True):
        assert float(file) == pytest.approx(float(student), abs=0.02)
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert (
        "acoustic" in card
        and len((EXAMPLES / "minimal_distill.py").read_text().splitlines()) <= 150
    )


def test_microphone_from_a_file(bundle, speech):
    shown = run("microphone.py", bundle, "--file", sorted(speech.glob("*.flac"))[0])
    times = [float(line.split()[0]) for line in shown.splitlines()]
    assert times and all(
        after - before >= 0.5 for before, after in zip(times, times[1:], strict=False)
    )
