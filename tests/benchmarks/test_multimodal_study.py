"""The benchmark of multimodal teachers, on a corpus too small to learn from: runs and resumes."""

from wav2small.benchmarks.studies import dialogues
from wav2small.benchmarks.studies import multimodal as study


def test_it_measures_what_it_claims_and_does_nothing_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "DIALOGUES", 6)
    monkeypatch.setattr(study, "HELD_OUT_DIALOGUES", 2)
    monkeypatch.setattr(study, "UNRATED_DIALOGUES", 6)
    for options in (study.PRETRAINING, study.FINETUNING):
        monkeypatch.setitem(options, "epochs", 1)
    monkeypatch.setitem(study.FINETUNING, "batch_size", 12)
    result = study.run(tmp_path, ["spectra"])
    found = result["systems"]["spectra"]
    gain = found["ccc"]["valence"] - result["speech_only"]["valence"]
    assert found["valence_gain"] == gain
    assert {"position_mae_s", "response_accuracy"} <= set(found["pretraining"])
    assert result["processor_s"].keys() == {"speech_only", "spectra pretraining", "spectra"}
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.safetensors")}

    def never(*_, **__):
        raise AssertionError("synthesised again")

    monkeypatch.setattr(dialogues, "synthesise_dialogues", never)
    again = study.run(tmp_path, ["spectra"])
    assert again["systems"] == result["systems"]
    assert {path: path.stat().st_mtime_ns for path in written} == written
