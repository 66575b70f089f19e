"""The speech synthesiser: its speech is audible, varied and the same for the same seed."""

import subprocess
import sys

import numpy as np
import pandas as pd

from wav2small import audio
from wav2small.demo.speaker import Speaker, utterances


def test_a_corpus_is_speech_in_the_promised_voices(speech):
    table = pd.read_csv(speech / "labels.csv")
    assert len(table) == 24 and table["speaker"].nunique() == 4
    for file in table["file"]:
        signal = audio.read(speech / file)
        assert 0.5 < len(signal) / 16000 < 8
        assert 0.005 < np.sqrt(np.mean(signal**2)) < 0.5
        assert (np.abs(signal) >= 0.999).mean() < 1e-3  # not clipped


def test_a_seed_is_the_same_samples_in_every_process_and_after_other_speech(tmp_path):
    code = "import sys; from wav2small.demo import speaker as s\n"
    code += "for folder in sys.argv[1:]: s.speak_corpus(folder, clips=8, voices=4)"
    folders = [[tmp_path / "first"], [tmp_path / "second", tmp_path / "third"]]
    for names in folders:
        subprocess.run([sys.executable, "-c", code, *names], check=True)
    files = sorted((tmp_path / "first").iterdir())
    assert len(files) == 9
    for file in files:
        for other in ("second", "third"):
            assert file.read_bytes() == (tmp_path / other / file.name).read_bytes()


def test_pitch_is_what_was_asked_for():
    speaker = Speaker()
    script = next(utterances(1, voices=1))
    f0 = []
    for pitch in (10, 90):
        signal = speaker.synthesise(
            type(script)(**{**vars(script), "pitch": pitch, "pitch_range": 0})
        )
        loud = signal[len(signal) // 3 :][:8000]
        lags = np.correlate(loud, loud, "full")[len(loud) :]
        f0.append(16000 / (1 + 40 + np.argmax(lags[40:320])))
    assert f0[1] > 1.4 * f0[0]


def test_held_out_voices_are_other_voices():
    learned = {u.speaker for u in utterances(100, voices=[0, 1, 2])}
    judged = {u.speaker for u in utterances(100, voices=[3, 4], seed=1)}
    assert len(learned) == 3 and not learned & judged
