"""The benchmark of multimodal teachers, on a corpus too small to learn from: runs and resumes."""

import json

from wav2small.benchmarks.studies import dialogues
from wav2small.benchmarks.studies import multimodal as study


def test_it_measures_what_it_claims_and_does_nothing_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "DIALOGUES", 6)
    monkeypatch.setattr(study, "HELD_OUT_DIALOGUES", 2)
    monkeypatch.setattr(study, "UNRATED_DIALOGUES", 6)
    for options in (study.PRETRAINING, study.FINETUNING):
        monkeypatch.setitem(options, "epochs", 1)
    monkeypatch.setitem(study.FINETUNING, "batch_size", 12)
    study.run(tmp_path, ["spectra"])
    (found,) = study.results(tmp_path)
    alone = json.loads((tmp_path / "seed-0/speech_only.json").read_text())
    assert found["valence_gain"] == found["ccc"]["valence"] - alone["ccc"]["valence"]
    gaps = [found["ccc_without_text"][name] - alone["ccc"][name] for name in alone["ccc"]]
    assert found["masked"] == min(gaps)
    assert {"position_mae_s", "response_accuracy"} <= set(found["pretraining"])
    assert found["processor_s"] > 0
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.safetensors")}

    def never(*_, **__):
        raise AssertionError("synthesised again")

    monkeypatch.setattr(dialogues, "synthesise_dialogues", never)
    study.run(tmp_path, ["spectra"])
    assert study.results(tmp_path) == [found]
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_the_table_has_means_and_ranges():
    results = [
        {"system": "bridge", "seed": seed, "valence_gain": gain, "masked": -0.04}
        for seed, gain in enumerate((0.4, 0.5, 0.6))
    ]
    results.append({"system": "calm", "seed": 0, "pretraining": {"retrieval_top1": 0.75}})
    rows = {
        row.split("|")[1].strip(): row.split("|")[3:5] for row in study.table(results).split("\n")
    }
    assert [cell.strip() for cell in rows["figure"]] == ["bridge", "calm"]
    gains = rows["valence gain over the speech encoder alone"]
    assert [cell.strip() for cell in gains] == ["0.5 (0.4 to 0.6)", "-"]
    retrieval = rows["retrieval of text, top-1 of 32"]
    assert [cell.strip() for cell in retrieval] == ["-", "0.75"]
    assert [cell.strip() for cell in rows["seeds"]] == ["3", "1"]
