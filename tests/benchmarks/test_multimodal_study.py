"""The benchmark of multimodal teachers, on a corpus too small to learn from: runs and resumes."""

import json

from wav2small.benchmarks.studies import dialogues
from wav2small.benchmarks.studies import multimodal as study


def test_it_measures_what_it_claims_and_does_nothing_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "DIALOGUES", 6)
    monkeypatch.setattr(study, "HELD_OUT_DIALOGUES", 2)
    monkeypatch.setattr(study, "UNRATED_DIALOGUES", 6)
    for options in (study.ALONE, study.STARTED, study.PRETRAINING, study.FINETUNING):
        monkeypatch.setitem(options, "epochs", 1)
    monkeypatch.setitem(study.FINETUNING, "batch_size", 12)
    for options in (study.SMALL_PRETRAINING, study.SMALL_FINETUNING):
        monkeypatch.setitem(options["spectra"], "epochs", 1)
    monkeypatch.setitem(study.LANGUAGE_STEPS, "spectra", 2)
    study.run(tmp_path, ["spectra"], small=True)
    (found,) = study.results(tmp_path)
    alone = json.loads((tmp_path / "seed-0/speech_only.json").read_text())
    assert found["valence_gain"] == found["ccc"]["valence"] - alone["ccc"]["valence"]
    gaps = [found["ccc_without_text"][name] - alone["ccc"][name] for name in alone["ccc"]]
    assert found["masked"] == min(gaps)
    assert {"position_mae_s", "response_accuracy"} <= set(found["pretraining"])
    assert found["processor_s"] > 0
    lineage = json.loads((tmp_path / "seed-0/spectra-small/provenance.json").read_text())[
        "teachers"
    ]
    started = {str(tmp_path / "seed-0" / name) for name in ("speech_started", "text_started-2")}
    assert started <= {entry["id"] for entry in lineage}
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.safetensors")}

    def never(*_, **__):
        raise AssertionError("synthesised again")

    monkeypatch.setattr(dialogues, "synthesise_dialogues", never)
    study.run(tmp_path, ["spectra"], small=True)
    assert study.results(tmp_path) == [found]
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_students_learn_from_turns_that_no_teacher_learned_from(tmp_path, monkeypatch):
    bench, labelled = study.Bench(tmp_path), []
    monkeypatch.setattr(bench, "label", lambda teacher, source, name: labelled.append(source))
    monkeypatch.setattr(bench, "ccc", lambda *_, **__: {"valence": 0.5})
    monkeypatch.setattr("wav2small.students.distillation.distill", lambda *_, **__: None)
    assert bench.student(tmp_path / "teacher", "teacher") == {"valence": 0.5}
    assert labelled == [bench.unrated]


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
