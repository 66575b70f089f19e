"""The embedded teacher: what it measures, what it must ignore, and how it was fitted."""

import json

import numpy as np
import pytest
import soundfile

from wav2small import metrics
from wav2small.errors import Wav2SmallError
from wav2small.teachers import load_teacher
from wav2small.teachers.acoustic import features as features
from wav2small.teachers.acoustic import fit as fit_acoustic
from wav2small.teachers.acoustic.placement import WORDS, placed, placements
from wav2small.teachers.acoustic.rooms import disturbed
from wav2small.teachers.acoustic.teacher import COEFFICIENTS, Acoustic, squashed

RATE = 16000


@pytest.fixture(scope="module")
def teacher():
    return load_teacher("acoustic")


def predict(teacher, signal):
    signal = np.asarray(signal, dtype=np.float32)
    return teacher.predict(signal[None], np.array([len(signal)]))[0]


def statistic(signal):
    return dict(zip(features.FEATURES, features.statistics(signal), strict=True))


def tone(hertz, seconds=1.0, harmonics=1):
    time = np.arange(int(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(np.broadcast_to(hertz, time.shape)) / RATE
    return sum(np.sin(k * phase) / k for k in range(1, harmonics + 1))


def noise(exponent, seconds=4.0, seed=0):
    """Noise whose power falls with frequency ** -exponent, by definition."""
    samples = int(seconds * RATE)
    hertz = np.fft.rfftfreq(samples, 1 / RATE)
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(samples))
    return np.fft.irfft(spectrum * np.maximum(hertz, 20) ** (-exponent / 2), samples)


@pytest.mark.parametrize("harmonics", [1, 8])
@pytest.mark.parametrize("hertz", [75, 110, 163, 220, 330, 450])
def test_f0_of_a_steady_tone(hertz, harmonics):
    found = statistic(tone(hertz, harmonics=harmonics))
    # 3 frames of an average voice, 8 semitones, stand in for unvoiced clips.
    semitones = (97 * 12 * np.log2(hertz / 100) + 3 * 8) / (97 + 3)
    assert found["f0_mean"] == pytest.approx(semitones, abs=0.15)
    assert found["f0_speed"] < 2 and found["f0_jitter"] < 0.05
    assert found["periodicity_mean"] > 0.95


def test_f0_follows_a_glide():
    seconds = 2.0
    glide = 150 * 2 ** np.linspace(0, 1, int(seconds * RATE))  # an octave up
    found = statistic(tone(glide, seconds, harmonics=6))
    assert found["f0_trend"] == pytest.approx(12 / seconds, rel=0.1)
    assert found["f0_speed"] == pytest.approx(12 / seconds, rel=0.1)
    assert found["f0_high"] - found["f0_low"] == pytest.approx(0.8 * 12, rel=0.1)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0, 3.0])
def test_spectral_slope_of_coloured_noise(exponent):
    found = statistic(noise(exponent))
    decibel_per_octave = -10 * np.log10(2) * exponent
    assert found["slope_mid_mean"] == pytest.approx(decibel_per_octave, abs=0.3)
    low = np.arange(60, 1000, 1.0) ** -exponent
    high = np.arange(1000, 5000, 1.0) ** -exponent
    alpha = 10 * np.log10(low.sum() / high.sum())
    assert found["alpha_ratio_mean"] == pytest.approx(alpha, abs=1.5)


def test_noise_is_not_voiced():
    assert statistic(noise(0.0))["voiced_share"] < 0.1


@pytest.mark.parametrize("rate", [2.0, 4.0, 8.0])
def test_modulation_of_a_beating_tone(rate):
    time = np.arange(3 * RATE) / RATE
    beating = tone(200, 3.0, harmonics=8) * (1.1 + np.sin(2 * np.pi * rate * time))
    found = statistic(beating)
    band = {2.0: "modulation_slow", 4.0: "modulation_syllable", 8.0: "modulation_fast"}[rate]
    assert found[band] == max(
        found[name]
        for name in found
        if name.startswith("modulation_") and name != "modulation_centre"
    )


@pytest.mark.parametrize("decibel", [-40, -20, -6, 6, 20])
def test_recording_level_has_no_effect(teacher, clip, decibel):
    louder = clip.astype(np.float64) * 10 ** (decibel / 20)
    np.testing.assert_allclose(predict(teacher, louder), predict(teacher, clip), atol=1e-5)


def test_silence_around_has_next_to_no_effect(teacher, clip):
    quiet = 1e-4 * np.random.default_rng(0).standard_normal(RATE)
    around = np.concatenate([quiet, clip, quiet])
    np.testing.assert_allclose(predict(teacher, around), predict(teacher, clip), atol=0.05)


@pytest.mark.parametrize("filling", [0.0, 0.5, np.nan])
def test_padding_has_no_effect(teacher, speech, filling):
    signals = [soundfile.read(file, dtype="float32")[0] for file in sorted(speech.glob("*.flac"))]
    signals = [signals[0], signals[1][: RATE // 2], signals[2]]
    lengths = np.array([len(signal) for signal in signals])
    batch = np.full((len(signals), lengths.max() + 777), filling, dtype=np.float32)
    for row, signal in zip(batch, signals, strict=True):
        row[: len(signal)] = signal
    alone = np.stack([predict(teacher, signal) for signal in signals])
    np.testing.assert_array_equal(teacher.predict(batch, lengths), alone)


ODD = {
    "a tenth of a second": lambda: tone(150, 0.1, 8),
    "one sample": lambda: np.ones(1),
    "sine": lambda: tone(440),
    "high sine": lambda: tone(7000),
    "white noise": lambda: noise(0.0),
    "click": lambda: np.eye(1, RATE, 5000)[0],
    "constant": lambda: np.ones(RATE),
    "zeros": lambda: np.zeros(RATE),
    "square": lambda: np.sign(tone(100)),
    "very loud": lambda: 1e6 * tone(200, 1.0, 8),
    "very quiet": lambda: 1e-6 * tone(200, 1.0, 8),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("what", ODD)
def test_any_sound_gets_finite_numbers(teacher, what):
    signal = ODD[what]()
    assert np.isfinite(features.statistics(signal)).all()
    output = predict(teacher, signal)
    assert ((output > 0) & (output < 1)).all()


def test_small_changes_change_little(teacher, emodb):
    """White noise 40 dB below moves 95 % of the outputs by less than .05, as ser-tests ask."""
    draw = np.random.default_rng(0)
    moved = []
    for file in sorted(emodb.glob("*.flac"))[::12]:
        signal = soundfile.read(file)[0]
        hiss = draw.standard_normal(len(signal)) * signal.std() / 100
        moved.append(np.abs(predict(teacher, signal + hiss) - predict(teacher, signal)))
    assert np.mean(np.array(moved) < 0.05) > 0.95


def test_squashed_is_smooth_and_keeps_the_middle():
    scores = np.linspace(-2, 2, 4001)
    outputs = squashed(scores)
    assert ((outputs > 0) & (outputs < 1)).all() and (np.diff(outputs) > 0).all()
    assert squashed(np.zeros(1))[0] == 0.5
    assert np.gradient(outputs, scores)[2000] == pytest.approx(1, abs=1e-3)


def test_disturbed_copies_repeat_and_differ(clip):
    first, again, other = (disturbed(clip, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert len(first) != len(other) or not np.allclose(first, other)


def test_its_description(teacher):
    assert (teacher.name, teacher.licence, teacher.sampling_rate) == ("acoustic", "MIT", RATE)
    assert teacher.dimensions == ("arousal", "dominance", "valence")
    assert teacher.invariances == {"gain"} and teacher.in_workers
    assert "CC0" in teacher.note and len(teacher.revision) == 16
    document = json.loads(COEFFICIENTS.read_text(encoding="utf-8"))
    assert document["corpus"]["licence"] == "CC0-1.0" and "acoustic.fit" in document["command"]
    assert list(document["statistics"]) == list(features.FEATURES)


@pytest.mark.parametrize("content", ["", "{}", '{"statistics": {"loudness": {}}}', "[1]"])
def test_bad_coefficients_are_one_clear_line(tmp_path, content):
    path = tmp_path / "mine.json"
    path.write_text(content)
    with pytest.raises(Wav2SmallError, match="mine.json.*acoustic.fit") as error:
        Acoustic(coefficients=path)
    assert "\n" not in str(error.value)


def test_missing_corpus_is_named(tmp_path, capsys):
    assert fit_acoustic.main(["--corpus", str(tmp_path)]) == 2
    assert "labels.csv" in capsys.readouterr().err


def test_placements_against_the_sources(emodb):
    places = placements(fit_acoustic.read_table(emodb))
    # Neutral, arousal: 0 (words), 0 (ranges), the mean of its five ratings.
    ratings = [-0.1, 0.2, 0.1, 0.15, 0.2]
    assert places["neutral"][0] == pytest.approx(np.mean([0, 0, np.mean(ratings)]))
    # Disgust, valence: words and ranges only; nobody rated it.
    assert places["disgust"][2] == pytest.approx(np.mean([WORDS["disgust"][2], -0.5]))


def test_a_rating_replaces_the_placement(emodb):
    table = fit_acoustic.read_table(emodb)
    truth = placed(table, placements(table))
    row = table.index[table.file == "03a07Wc.flac"][0]
    assert truth[row, 0] == 0.7 and truth[row, 2] == -0.7
    assert table.arousal.notna().sum() == 47


def test_committed_coefficients_are_what_the_command_writes(emodb, tmp_path):
    found = fit_acoustic.fit(emodb, tmp_path / "acoustic.json")
    committed = json.loads(COEFFICIENTS.read_text(encoding="utf-8"))
    for name, row in committed["statistics"].items():
        assert found["statistics"][name] == pytest.approx(row, rel=1e-3, abs=1e-4), name
    assert found["intercept"] == pytest.approx(committed["intercept"], abs=1e-3)
    assert found["placements"] == committed["placements"]
    # Spread like listeners' ratings: the outputs on Emo-DB have the promised moments.
    table = fit_acoustic.read_table(emodb)
    outputs = Acoustic()._regression(fit_acoustic.measure(emodb, table.file[::5])[:, 0])
    np.testing.assert_allclose(outputs.mean(0), fit_acoustic.MEAN, atol=0.06)
    np.testing.assert_allclose(outputs.std(0), fit_acoustic.SPREAD, atol=0.05)


def test_agreement_on_a_corpus_it_was_not_fitted_on(teacher, emodb, ravdess):
    """Lower bounds, on every fourth clip of RAVDESS; docs/acoustic.md has the figures."""
    places = placements(fit_acoustic.read_table(emodb))
    table = fit_acoustic.read_table(ravdess).iloc[::4]
    truth = (placed(table, places) + 1) / 2
    outputs = teacher._regression(fit_acoustic.measure(ravdess, table.file)[:, 0])
    for column, bound in enumerate((0.45, 0.22, 0.15)):
        assert metrics.ccc(truth[:, column], outputs[:, column]) > bound
    strong = (table.intensity == "strong").to_numpy()
    assert outputs[strong, 0].mean() > outputs[~strong, 0].mean() + 0.05
