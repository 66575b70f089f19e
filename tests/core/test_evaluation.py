"""Bundles, teachers and label tables against a truth, with scikit-learn as the oracle."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from labelling_cases import label
from sklearn import metrics as sklearn

from wav2small import ComputeOptions, TeacherOptions, evaluate, metrics
from wav2small.errors import Wav2SmallError

CLASSES = ["anger", "happiness", "neutral", "sadness"]


@pytest.mark.parametrize("seed", range(5))
def test_category_figures_equal_scikit_learns(seed):
    random = np.random.default_rng(seed)
    truth = random.choice(4, 60, p=[0.5, 0.3, 0.2, 0.0] if seed % 2 else [0.4, 0.3, 0.2, 0.1])
    guess = np.where(random.random(60) < 0.5, truth, random.choice(4, 60))
    expected = {
        "uar": sklearn.recall_score(truth, guess, labels=np.unique(truth), average="macro"),
        "wa": sklearn.accuracy_score(truth, guess),
        "weighted_f1": sklearn.f1_score(truth, guess, average="weighted", zero_division=0),
        "macro_f1": sklearn.f1_score(truth, guess, average="macro", zero_division=0),
    }
    for name, metric in metrics.CATEGORY_METRICS.items():
        assert metric(truth, guess) == pytest.approx(expected[name], abs=1e-12)
    matrix = sklearn.confusion_matrix(truth, guess, labels=range(4))
    np.testing.assert_array_equal(metrics.confusion(truth, guess, 4), matrix)


def test_spearman_equals_scipys():
    import scipy.stats

    random = np.random.default_rng(0)
    x = random.integers(1, 8, 80)
    y = x + random.integers(0, 5, 80)
    assert metrics.spearman(x, y) == pytest.approx(scipy.stats.spearmanr(x, y)[0], abs=1e-12)


def correlated(random, speakers, clips, tails="normal"):
    """Ratings and estimates on 0..1 whose errors share a part per speaker."""

    def noise(*shape):
        if tails == "normal":
            return random.normal(size=shape)
        return random.standard_t(3, size=shape) / np.sqrt(3)

    own, other = 0.7 * noise(2, speakers).repeat(clips, axis=1)
    rated = random.normal(size=speakers * clips) + own
    found = 0.8 * rated + 0.6 * (noise(speakers * clips) + other)
    return tuple((0.5 + 0.15 * values).clip(0, 1) for values in (rated, found))


def sums(x, y):
    """What the figures below are made of: (12,) or, of clips of one speaker each, (12, ...)."""
    truth, guess = np.digitize(x, [0.4, 0.6]), np.digitize(y, [0.4, 0.6])
    classes = [part for k in range(3) for part in (truth == k, (truth == k) & (guess == k))]
    return np.stack([x, y, x * x, y * y, x * y, np.abs(x - y), *(1.0 * part for part in classes)])


def moments(means):
    mean_x, mean_y, x_squared, y_squared, product = means[:5]
    return x_squared - mean_x**2, y_squared - mean_y**2, product - mean_x * mean_y


def ccc_of(means):
    of_x, of_y, both = moments(means)
    return 2 * both / (of_x + of_y + (means[0] - means[1]) ** 2)


def pcc_of(means):
    of_x, of_y, both = moments(means)
    with np.errstate(invalid="ignore"):  # NaN of a resample without variance is left out
        return both / np.sqrt(of_x * of_y)


def uar_of(means):
    count, right = means[6::2], means[7::2]
    recalls = np.divide(right, count, out=np.full_like(right, np.nan), where=count > 0)
    return np.nanmean(recalls, axis=0)


FIGURES = {
    "ccc": (ccc_of, metrics.CORRELATION),
    "pcc": (pcc_of, metrics.CORRELATION),
    "mae": (lambda means: means[5], metrics.ERROR),
    "uar": (uar_of, metrics.SHARE),
    "accuracy": (lambda means: means[7::2].sum(axis=0), metrics.SHARE),
}


def coverage(speakers, tails, trials=1000):
    """How often intervals that draw speakers hold the truth, by figure."""
    random = np.random.default_rng(speakers)
    true = sums(*correlated(random, 50_000, 8, tails)).mean(axis=1)
    inside = dict.fromkeys(FIGURES, 0)
    for trial in range(trials):
        own = sums(*correlated(random, speakers, 12, tails)).reshape(-1, speakers, 12).mean(axis=2)
        draws = np.stack(list(metrics.resamples(speakers, 100, seed=trial)))
        drawn = own[:, draws].mean(axis=2)
        for name, (figure, bounds) in FIGURES.items():
            value, low, high = metrics.interval(
                figure(own.mean(axis=1)), figure(drawn), count=speakers, bounds=bounds
            )
            inside[name] += low <= figure(true) <= high
    return {name: count / trials for name, count in inside.items()}


@pytest.mark.parametrize("speakers", [5, 6, 8, 12, 24])
def test_intervals_that_draw_speakers_cover_as_often_as_claimed(speakers):
    for name, share in coverage(speakers, "normal").items():
        assert 0.92 <= share <= 0.98, name


@pytest.mark.parametrize("speakers", [5, 12, 24])
def test_intervals_of_errors_with_heavy_tails_cover_nearly_as_often(speakers):
    """Student's t, three degrees of freedom: one error in 160 exceeds four standard deviations."""
    for name, share in coverage(speakers, "heavy").items():
        least = 0.92 if name in ("uar", "accuracy") else 0.90
        assert least <= share <= 0.98, name


@pytest.mark.parametrize("speakers", [5, 6, 8, 12, 24])
def test_intervals_of_mean_errors_with_heavy_tails(speakers):
    """As many resamples as one likes: their deviation is that of the speakers, by sqrt(n)."""
    random = np.random.default_rng(speakers + 100)
    rated, found = correlated(random, 200_000, 8, "heavy")
    true, inside, trials = np.abs(rated - found).mean(), 0, 20_000
    rated, found = correlated(random, trials * speakers, 12, "heavy")
    own = np.abs(rated - found).reshape(trials, speakers, 12).mean(axis=2)
    for value, half in zip(own.mean(axis=1), own.std(axis=1) / np.sqrt(2 * speakers), strict=True):
        drawn = np.array([value - half, value + half])
        _, low, high = metrics.interval(value, drawn, count=speakers, bounds=metrics.ERROR)
        inside += low <= true <= high
    assert 0.92 <= inside / trials <= 0.98


def test_a_bootstrap_draws_speakers():
    x, y = correlated(np.random.default_rng(0), 6, 4)
    found = metrics.bootstrap(x, y, groups=np.arange(6).repeat(4), n=40, seed=3)
    rows = np.arange(24).reshape(6, 4)
    taken = [rows[draw].ravel() for draw in metrics.resamples(6, 40, seed=3)]
    drawn = np.array([metrics.ccc(x[draw], y[draw]) for draw in taken])
    value = metrics.ccc(x, y)
    assert found == metrics.interval(value, drawn, count=6, bounds=(-1, 1))
    # Student's interval of Fisher's z, by hand: 2.571 is the quantile of five degrees of freedom.
    half = 2.5706 * np.sqrt(6 / 5) * drawn.std(ddof=1) / (1 - value**2)
    assert found[1:] == pytest.approx(np.tanh(np.arctanh(value) + [-half, half]), abs=1e-4)


def test_intervals_that_draw_clips_are_too_narrow():
    random = np.random.default_rng(1)
    true = ccc_of(sums(*correlated(random, 50_000, 8)).mean(axis=1))
    found = [metrics.bootstrap(*correlated(random, 24, 12), n=30) for _ in range(100)]
    assert np.mean([low <= true <= high for _, low, high in found]) < 0.90


@pytest.mark.parametrize("name", [*metrics.METRICS, *metrics.CATEGORY_METRICS])
def test_intervals_stay_within_the_bounds_of_a_metric(name):
    metric = {**metrics.METRICS, **metrics.CATEGORY_METRICS}[name]
    random = np.random.default_rng(0)
    truth = random.integers(0, 3, 12)
    for guess in (truth, (truth + (random.random(12) < 0.2)) % 3, random.integers(0, 3, 12)):
        value, low, high = metrics.bootstrap(truth, guess, metric, n=50)
        lowest, highest = metrics.BOUNDS[metric]
        assert lowest <= low <= value <= high <= highest


@pytest.fixture
def corpus(tmp_path):
    """120 clips of 12 speakers: ratings, categories, and a table of estimates."""
    random = np.random.default_rng(5)
    clips = 120
    frame = pd.DataFrame(
        {
            "file": [f"{n:03}.wav" for n in range(clips)],
            "arousal": random.random(clips),
            "valence": random.random(clips),
            "emotion": random.choice(["Angry", "happy", "neutral", "sad"], clips),
            "speaker": np.arange(clips) % 12,
            "split": np.where(np.arange(clips) < 80, "train", "Test"),
        }
    )
    frame.to_csv(tmp_path / "truth.csv", index=False)
    shares = random.dirichlet(np.ones(4), clips)
    found = pd.DataFrame({"file": frame["file"]})
    for name in ("arousal", "valence"):
        found[name] = (frame[name] + 0.2 * random.normal(size=clips)).clip(0, 1)
    found["dominance"] = 0.5
    for number, name in enumerate(CLASSES):
        found[f"probability_{name}"] = shares[:, number]
    found.sample(frac=1, random_state=0).to_csv(tmp_path / "found.csv", index=False)
    return tmp_path, frame, found


def test_a_table_against_a_truth(corpus):
    folder, frame, found = corpus
    result = evaluate(folder / "found.csv", folder / "truth.csv", by=["speaker"], resamples=50)
    assert (result.clips, result.drawn) == (120, "12 speakers")
    for name in ("arousal", "valence"):
        figures = result.dimensions[name]
        assert figures["ccc"].value == pytest.approx(metrics.ccc(frame[name], found[name]))
        assert figures["ccc"].low < figures["ccc"].value < figures["ccc"].high
    common = {"Angry": "anger", "happy": "happiness", "neutral": "neutral", "sad": "sadness"}
    truth = frame["emotion"].map(common)
    columns = [f"probability_{name}" for name in CLASSES]
    guess = found[columns].idxmax(axis=1).str.removeprefix("probability_")
    categories = result.categories
    assert categories["figures"]["uar"].value == pytest.approx(
        sklearn.balanced_accuracy_score(truth, guess)
    )
    matrix = sklearn.confusion_matrix(truth, guess, labels=categories["names"])
    np.testing.assert_array_equal(categories["confusion"], matrix)
    assert len(result.groups["speaker"]) == 12
    json.dumps(result.to_json(), allow_nan=False)
    assert "UAR" in repr(result) and "<table" in result._repr_html_()


def test_split_and_classes_the_subject_does_not_know(corpus):
    folder, frame, found = corpus
    found.drop(columns="probability_sadness").to_csv(folder / "found.csv", index=False)
    result = evaluate(folder / "found.csv", folder / "truth.csv", split="test", resamples=10)
    assert result.clips == 40
    sad = int((frame["emotion"][80:] == "sad").sum())
    assert result.categories["unknown"] == {"sadness": sad}
    assert result.categories["clips"] == 40 - sad
    with pytest.raises(Wav2SmallError, match="there are Test, train"):
        evaluate(folder / "found.csv", folder / "truth.csv", split="dev")


def test_emotions_take_their_places_where_nobody_rated(corpus):
    folder, frame, found = corpus
    emotions = frame["emotion"].to_numpy().copy()
    emotions[:3] = "contempt"  # which has no place
    frame.assign(emotion=emotions)[["file", "emotion"]].to_csv(folder / "acted.csv", index=False)
    result = evaluate(folder / "found.csv", folder / "acted.csv", place_truth=True, resamples=5)
    assert result.clips == 117
    # Sadness: the mean of the rating of the word and of the expected range, as documented.
    sad = {"arousal": (-0.27 - 0.5) / 2, "valence": (-0.63 - 0.5) / 2}
    alone = frame.assign(emotion=emotions)[emotions == "sad"]
    alone[["file", "emotion"]].to_csv(folder / "sad.csv", index=False)
    result = evaluate(folder / "found.csv", folder / "sad.csv", place_truth=True, resamples=5)
    for name, place in sad.items():
        errors = np.abs(found[name][emotions == "sad"] - (place + 1) / 2)
        assert result.dimensions[name]["mae"].value == pytest.approx(errors.mean())


def test_windows_of_a_clip_are_averaged_and_what_is_missing_is_listed(tmp_path):
    rows = [("a.wav", s, s + 12, v) for s, v in ((0, 0.2), (12, 0.4))]
    rows += [("b.wav", 0, 4, 0.6), ("b.wav", 5, 9, 0.1)]
    pd.DataFrame(rows, columns=["file", "start", "end", "arousal"]).to_csv(
        tmp_path / "found.csv", index=False
    )
    truth = pd.DataFrame(
        {"file": ["a.wav", "b.wav", "c.wav"], "start": 0, "end": [24, 4, 3], "arousal": 0.5}
    )
    truth.to_csv(tmp_path / "truth.csv", index=False)
    result = evaluate(tmp_path / "found.csv", tmp_path / "truth.csv", resamples=5)
    assert result.dimensions["arousal"]["mae"].value == pytest.approx((0.2 + 0.1) / 2)
    assert [file for file, _ in result.rejected] == ["c.wav"]


def test_several_raters(tmp_path):
    random = np.random.default_rng(3)
    rating = random.normal(0.5, 0.15, (50, 1)) + random.normal(0, 0.1, (50, 4))
    rating = rating.clip(0, 1)
    rows = [
        {"file": f"{clip}.wav", "rater": rater, "arousal": rating[clip, rater]}
        for rater in range(4)
        for clip in range(50)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "truth.csv", index=False)
    mean = pd.DataFrame({"file": [f"{n}.wav" for n in range(50)], "arousal": rating.mean(axis=1)})
    mean.to_csv(tmp_path / "found.csv", index=False)
    result = evaluate(tmp_path / "found.csv", tmp_path / "truth.csv", resamples=50)
    assert result.clips == 50
    assert result.dimensions["arousal"]["ccc"].value == pytest.approx(1)
    others = (rating.sum(axis=1, keepdims=True) - rating) / 3
    expected = metrics.ccc(rating.ravel(), others.ravel())
    assert result.raters["arousal"].value == pytest.approx(expected)
    assert result.raters["arousal"].low < expected < result.raters["arousal"].high


def test_rows_of_the_same_clip_are_noted(corpus, capsys):
    folder, frame, _ = corpus
    pd.concat([frame, frame[:3]]).to_csv(folder / "truth.csv", index=False)
    result = evaluate(folder / "found.csv", folder / "truth.csv", resamples=5)
    assert result.clips == 123
    assert "3 rows are of clips that stand there before" in capsys.readouterr().err


def test_clips_without_a_rating_are_left_out(corpus, capsys):
    folder, frame, found = corpus
    frame.loc[[3, 5], ["arousal", "valence"]] = np.nan
    frame.loc[7, "valence"] = np.nan  # but arousal
    frame.drop(columns="emotion").to_csv(folder / "truth.csv", index=False)
    result = evaluate(folder / "found.csv", folder / "truth.csv", resamples=5)
    assert result.clips == 118 and "2 clips without a rating" in capsys.readouterr().err
    for name in ("arousal", "valence"):
        expected = (frame[name] - found[name]).abs().mean()
        assert result.dimensions[name]["mae"].value == pytest.approx(expected)


def test_a_teacher_is_evaluated_as_its_label_table_is(speech, tmp_path):
    truth = pd.read_csv(speech / "labels.csv")
    random = np.random.default_rng(0)
    for name in ("arousal", "dominance", "valence"):
        truth[name] = random.random(len(truth))
    truth.to_csv(tmp_path / "truth.csv", index=False)
    options = {"root": str(speech), "resamples": 5}
    here = {"compute": ComputeOptions(workers=0)}
    label(tmp_path / "truth.csv", tmp_path / "l.parquet", root=str(speech), workers=0)
    found = [
        evaluate(subject, tmp_path / "truth.csv", labelling=here, **options)
        for subject in ("acoustic", tmp_path / "l.parquet")
    ]
    assert found[0].to_json() == found[1].to_json()


def test_a_bundle_that_has_nothing_in_common_with_a_truth_computes_nothing(corpus):
    folder, frame, _ = corpus
    frame[["file", "emotion"]].to_csv(folder / "acted.csv", index=False)  # and no audio is there
    with pytest.raises(Wav2SmallError, match="nothing to compare.*add --place-truth"):
        evaluate("nano", folder / "acted.csv")


@pytest.mark.parametrize(
    ("subject", "truth", "message"),
    [
        ("nowhere", "truth.csv", "nowhere: no such bundle, label table or teacher"),
        ("truth.csv", "only.csv", "nothing to compare"),
        ("other.csv", "truth.csv", "other.csv: no label table"),
    ],
)
def test_one_line_for_what_cannot_be_compared(subject, truth, message, corpus):
    folder, frame, _ = corpus
    frame[["file", "emotion"]].to_csv(folder / "only.csv", index=False)
    frame[["file"]].to_csv(folder / "other.csv", index=False)
    done = subprocess.run(
        [sys.executable, "-m", "wav2small", "evaluate", subject, truth],
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1


def test_an_onnx_model_of_others_is_compared_as_it_describes_itself(speech, tmp_path, capsys):
    """Valence first; predict, which knows one order, rejects it."""
    from test_onnx import YAML, graph

    from wav2small import load

    path = graph(tmp_path / "a" / "model.onnx")
    path.with_name("model.yaml").write_text(YAML.format("valence, arousal, dominance"))
    table = tmp_path / "labels.parquet"
    label(speech / "labels.csv", table, teacher=str(path.parent), workers=0)
    options = {"resamples": 2, "labelling": {"compute": ComputeOptions(workers=0)}}
    for subject in (path.parent, path):
        found = evaluate(subject, table, **options).dimensions
        assert all(of["mae"].value < 1e-6 for of in found.values())
        with pytest.raises(Wav2SmallError, match=r"other columns; .*label SOURCE --teacher"):
            load(subject)
    bare = graph(tmp_path / "b.onnx")
    assert evaluate(bare, table, **options).dimensions["valence"]["mae"].value > 1e-3
    assert "nothing names its outputs; taken for arousal" in capsys.readouterr().err
    named = TeacherOptions(dimensions=["valence", "arousal", "dominance"])
    options["labelling"]["teacher_options"] = named
    assert evaluate(bare, table, **options).dimensions["valence"]["mae"].value < 1e-6
    with pytest.raises(Wav2SmallError, match="--teacher-dimensions: .* is a label table"):
        evaluate(table, table, **options)


@pytest.mark.parametrize("kind", ["str", object, "category"])
def test_columns_of_names_with_gaps(kind, speech, tmp_path):
    """Grouping, splits and folds by a column where a name is missing; pandas 3 keeps it as NaN."""
    from wav2small.teachers.finetuning.folds import assign
    from wav2small.training.split import split

    clips = sorted(speech.glob("*.flac"))[:6]
    names = pd.Series(["a", None, "b", "b", None, "c"], dtype=kind)
    frame = pd.DataFrame({"file": list(map(str, clips)), "arousal": np.linspace(0, 1, 6)})
    frame = frame.assign(speaker=names, split=names, emotion=names, rater="x")
    frame.to_parquet(tmp_path / "truth.parquet")
    found = evaluate("nano", tmp_path / "truth.parquet", by=["speaker"], resamples=2)
    assert found.clips == 6 and found.skipped["speaker"] == ["a", "b", "c", "nan"]
    with pytest.raises(Wav2SmallError, match="no row of split d; there are a, b, c, nan"):
        evaluate("nano", tmp_path / "truth.parquet", split="d")
    train, valid = (set(frame["file"][rows]) for rows in split(frame, "0.3", seed=0))
    assert len(train) + len(valid) == 6 and not train & valid
    with pytest.raises(Wav2SmallError, match="there are a, b, c, nan"):
        split(frame, "speaker=d", seed=0)
    assert len(set(assign(frame, "2"))) == 2
    assert sorted(set(assign(frame, "speaker"))) == ["a", "b", "c", "nan"]
