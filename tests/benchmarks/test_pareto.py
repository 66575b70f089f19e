"""The document of the students is made from run folders, and only between its marks."""

import json

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from wav2small import provenance
from wav2small.benchmarks.studies import pareto
from wav2small.errors import Wav2SmallError
from wav2small.metrics import Interval
from wav2small.students import registry
from wav2small.tables import Labels, write_labels


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder whose student repeats arousal exactly, dominance half, valence not."""
    folder = tmp_path_factory.mktemp("run")
    registry.create("wav2small2").save_pretrained(folder)
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.2, 0.8, (50, 3))
    frame = pd.DataFrame({"file": [f"{i}.flac" for i in range(50)]})
    frame["start"] = pd.to_timedelta(0)
    frame["end"] = pd.to_timedelta([pd.NaT] * 50)
    frame[["arousal", "dominance", "valence"]] = truth
    frame["arousal_student"] = truth[:, 0]
    frame["dominance_student"] = 0.5 + 0.5 * (truth[:, 1] - 0.5)
    frame["valence_student"] = rng.uniform(0.2, 0.8, 50)
    write_labels(
        folder / "validation.parquet", Labels(frame, root=str(folder), provenance=provenance.new())
    )
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    (folder / "model.onnx").write_bytes(b"x" * 21_000)
    facts = {"export": {"student": "wav2small2", "precision": "int8"}}
    (folder / "provenance.json").write_text(json.dumps(facts))
    return folder


def test_document(run, bundle, tmp_path):
    document = tmp_path / "students.md"
    document.write_text(f"# Title\n\n{pareto.BEGIN}\nold figures\n{pareto.END}\n\nThe end.\n")
    assert pareto.main([str(run), "--bundle", str(bundle), "-o", str(document)]) == 0
    text = document.read_text()
    assert text.startswith("# Title\n") and text.endswith("\n\nThe end.\n")
    assert "old figures" not in text
    line = next(line for line in text.splitlines() if "`wav2small2`" in line)
    cells = [cell.strip() for cell in line.split("|")]
    assert cells[2] == "10,806" and cells[4] == "21 int8" and cells[5] == "1.000"
    assert 0.7 < float(cells[6]) < 0.9 and abs(float(cells[7])) < 0.4
    assert all(f"`{name}`" in text for name in registry.names())
    assert (tmp_path / "students.png").stat().st_size > 5000
    again = text
    assert pareto.main([str(run), "--bundle", str(bundle), "-o", str(document)]) == 0
    assert document.read_text() == again


def test_front_leaves_out_what_is_beaten():
    def row(name, macs, value):
        return pareto.Row(name, 1, macs, 0, ccc={"mean": Interval(value, value, value)})

    found = [row("big", 100, 0.9), row("worse", 50, 0.7), row("small", 10, 0.8)]
    assert [r.name for r in pareto.front([*found, pareto.Row("new", 1, 1, 0)])] == ["small", "big"]


def test_document_without_marks(tmp_path):
    document = tmp_path / "students.md"
    document.write_text("# Title\n")
    with pytest.raises(Wav2SmallError, match="no lines"):
        pareto.update(document, [])
    assert document.read_text() == "# Title\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [("model.onnx", None, "no model.onnx"), ("provenance.json", "{}", "does not name")],
)
def test_bundle_that_is_none(bundle, tmp_path, name, content, message):
    for path in bundle.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(content)
    with pytest.raises(Wav2SmallError, match=message):
        pareto.rows([], [tmp_path])


def test_fidelity_on_other_labels(run, speech):
    """Labels that are the student's own answers, arousal reversed."""
    files = sorted(speech.glob("*.flac"))[:4]
    frame = pd.DataFrame({"file": [file.name for file in files]})
    frame["start"], frame["end"] = pd.to_timedelta(0), pd.to_timedelta([pd.NaT] * 4)
    student = registry.load(run)
    signals = [torch.from_numpy(soundfile.read(file, dtype="float32")[0]) for file in files]
    with torch.no_grad():
        answers = torch.cat([student(signal[None]) for signal in signals]).double().numpy()
    frame[["arousal", "dominance", "valence"]] = answers * [-1, 1, 1]
    row = next(r for r in pareto.rows([run], labels=Labels(frame, str(speech), {})) if r.ccc)
    assert row.clips == 4 and row.ccc["arousal"].value < 0
    assert min(row.ccc[name].value for name in ("dominance", "valence")) > 0.999
