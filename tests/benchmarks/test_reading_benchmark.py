"""The benchmark of teachers that read, on a corpus too small to learn from: runs and resumes."""

from wav2small.benchmarks.studies import dialogues
from wav2small.benchmarks.studies import multimodal as reading


def test_it_measures_what_it_says_and_does_nothing_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "DIALOGUES", 6)
    monkeypatch.setattr(reading, "HELD_OUT_DIALOGUES", 2)
    monkeypatch.setattr(reading, "UNRATED_DIALOGUES", 6)
    for options in (reading.PRETRAINING, reading.FINETUNING):
        monkeypatch.setitem(options, "epochs", 1)
    monkeypatch.setitem(reading.FINETUNING, "batch_size", 12)
    result = reading.run(tmp_path, ["spectra"])
    found = result["systems"]["spectra"]
    gain = found["ccc"]["valence"] - result["listening"]["valence"]
    assert found["valence_gain"] == gain
    assert {"position_mae_s", "response_accuracy"} <= set(found["pretraining"])
    assert result["processor_s"].keys() == {"listening", "spectra pretraining", "spectra"}
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.safetensors")}

    def never(*_, **__):
        raise AssertionError("spoken again")

    monkeypatch.setattr(dialogues, "speak_dialogues", never)
    again = reading.run(tmp_path, ["spectra"])
    assert again["systems"] == result["systems"]
    assert {path: path.stat().st_mtime_ns for path in written} == written
