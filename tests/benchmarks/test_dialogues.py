"""Spoken dialogues: words carry valence, voices the rest, and word times are when they are said."""

import numpy as np
import pytest

from wav2small import audio, transcripts
from wav2small.benchmarks.studies.dialogues import (
    ADJECTIVES,
    PLACES,
    background,
    held_out_pair,
    script,
    synthesise_dialogues,
)
from wav2small.demo.speaker import Speaker, Utterance
from wav2small.index import load_source
from wav2small.transcripts import Word, fault


def adjectives(spoken):
    return [word for word in spoken.utterance.text.split() if word in ADJECTIVES]


def test_held_out_sentences_are_never_learned_from():
    learned, judged = list(script(40)), list(script(40, held_out=True))
    assert {held_out_pair(*adjectives(turn)) for turn in learned} == {False}
    assert {held_out_pair(*adjectives(turn)) for turn in judged} == {True}
    assert not {t.utterance.text for t in learned} & {t.utterance.text for t in judged}
    assert {word for t in judged for word in adjectives(t)} <= {
        word for t in learned for word in adjectives(t)
    }


def test_what_carries_what():
    turns = list(script(60, seed=3))
    valence = np.array([np.mean([ADJECTIVES[a] for a in adjectives(turn)]) for turn in turns])
    np.testing.assert_allclose([turn.valence for turn in turns], valence, atol=1e-4)
    said = {
        name: np.array([getattr(turn.utterance, name) for turn in turns], float)
        for name in ("pitch", "rate_wpm", "volume", "tilt", "size")
    }
    arousal = np.array([turn.arousal for turn in turns])
    dominance = np.array([turn.dominance for turn in turns])
    assert np.corrcoef(arousal, said["rate_wpm"])[0, 1] > 0.99
    assert np.corrcoef(dominance, said["tilt"])[0, 1] > 0.99
    for name, values in said.items():
        assert abs(np.corrcoef(valence, values)[0, 1]) < 0.15, name
    for turn in turns:
        assert any(noun in turn.utterance.text.split() for noun in PLACES[turn.place][0])


def test_the_same_seed_is_the_same_script():
    assert list(script(3, seed=5)) == list(script(3, seed=5))
    assert list(script(3, seed=5)) != list(script(3, seed=6))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return synthesise_dialogues(tmp_path_factory.mktemp("dialogues"), dialogues=2, turns=3)


def test_a_corpus_is_an_index_with_words(corpus):
    index = load_source(corpus)
    assert len(index.frame) == 6 and list(index.frame["turn"]) == [0, 1, 2] * 2
    assert index.frame["dialogue"].nunique() == 2
    for _, row in transcripts.normalise(index.frame, "corpus").iterrows():
        signal = audio.read(index.path(row["file"]))
        words = [Word(**word) for word in row["words"]]
        assert " ".join(word.word for word in words) == row["text"]
        assert fault(words, 0.0, len(signal) / 16000) is None
        assert words[-1].end == pytest.approx(len(signal) / 16000, abs=0.1)


@pytest.mark.parametrize("size", [1.0, 1.2])
def test_words_are_where_they_are_spoken(size):
    """The longest pause, found in the signal alone, ends where the second clause begins."""
    text = "papa, papa"
    signal, words = Speaker().synthesise_timed(
        Utterance(text, "en-us", "m1", 50, 50, 120, 80, size)
    )
    assert [word.word for word in words] == ["papa", "papa"]
    loud = np.flatnonzero(np.convolve(np.abs(signal), np.ones(160) / 160, "same") > 0.003)
    longest = np.diff(loud).argmax()
    begins, ends = loud[longest] / 16000, loud[longest + 1] / 16000
    assert ends - begins > 0.15
    assert words[1].start == pytest.approx(ends, abs=0.08)
    assert words[0].end <= words[1].start


def test_a_place_sounds_at_its_frequency():
    voice = np.random.default_rng(0).normal(0, 0.1, 32000)
    for place, (_, frequency) in PLACES.items():
        sound = background(place, voice, seed=1)
        peak = np.abs(np.fft.rfft(sound)).argmax() / 2
        assert abs(np.log2(peak / frequency)) < 0.5, place
        ratio = 20 * np.log10(np.std(sound) / np.std(voice))
        assert ratio == pytest.approx(-12, abs=0.1)
