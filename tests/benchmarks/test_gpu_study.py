"""The study of a GPU, tried on a CPU with small shapes."""

import json

import pytest

from wav2small.benchmarks.studies import gpu


def run(sections, tmp_path):
    words = ["--device", "cpu", "--tiny", "--only", sections, "--output", str(tmp_path)]
    code = gpu.main(words)
    return code, json.loads((tmp_path / "gpu.json").read_text())


@pytest.mark.slow
def test_figures_of_labelling_and_distillation(tmp_path):
    code, found = run("label,distil,forward,closeness", tmp_path)
    assert code == 0
    label = found["label"]
    assert label["clips"] == gpu.TINY.clips and label["rejected"] == 0
    assert 0 < label["x_real_time"] and 0 <= label["padding_percent"] < 50
    for one in found["distil"]:
        assert one["steps_per_second"] > 0 and 0 <= one["waiting_percent"] <= 100
    assert found["closeness"]["largest_difference"]["ours, float32"] < 1e-5
    assert "| label: clips | 24 |" in (tmp_path / "gpu.md").read_text()


def test_a_section_that_fails_loses_no_other(tmp_path, monkeypatch):
    def fail(study):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(gpu, "label", fail)
    code, found = run("label,forward", tmp_path)
    assert code == 1 and "no such kernel" in found["label"]["error"]
    assert all(rate > 0 for rate in found["forward"]["x_real_time"].values())
