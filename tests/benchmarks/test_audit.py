"""The trust suite: figures against slow oracles, thresholds, groups, bad input."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
import scipy.spatial.distance
import scipy.stats
import soundfile
from onnx import TensorProto, helper, numpy_helper

from wav2small import metrics
from wav2small.benchmarks.audit import (
    corpus,
    outputs,
    perturbations,
    pitch,
    statistics,
    thresholds,
    trust,
)
from wav2small.benchmarks.audit import tables as audit_tables
from wav2small.benchmarks.audit.audit import CompareOptions, SuiteOptions, audit
from wav2small.benchmarks.audit.corpus import ClipOptions
from wav2small.errors import Wav2SmallError

GAIN = SuiteOptions(only=["robustness:gain-unchanged"], resamples=50)


def write_model(path, *, gain_invariant=False):
    """Arousal = level (or a shape that no gain moves), dominance = that shape, valence = .5."""
    constant = {
        "eps": np.array(1e-6, np.float32),
        "scale": np.array([8.0], np.float32),
        "half": np.array([[0.5]], np.float32),
        "one": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("ReduceMean", ["signal", "one"], ["mean"], keepdims=1),
        helper.make_node("Sub", ["signal", "mean"], ["centred"]),
        helper.make_node("Mul", ["centred", "centred"], ["power"]),
        helper.make_node("ReduceMean", ["power", "one"], ["variance"], keepdims=1),
        helper.make_node("Add", ["variance", "eps"], ["safe"]),
        helper.make_node("Sqrt", ["safe"], ["rms"]),
        helper.make_node("Abs", ["centred"], ["abs"]),
        helper.make_node("ReduceMean", ["abs", "one"], ["loud"], keepdims=1),
        helper.make_node("Div", ["loud", "rms"], ["shape"]),
        helper.make_node("Mul", ["rms", "scale"], ["level"]),
        helper.make_node(
            "Concat", ["shape" if gain_invariant else "level", "shape", "half"], ["logits"], axis=1
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("signal", TensorProto.FLOAT, [1, None])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(value, name) for name, value in constant.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path
    )
    return path


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("toy") / "toy.onnx")


@pytest.fixture(scope="module")
def level_free(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("toy") / "free.onnx", gain_invariant=True)


@pytest.fixture(scope="module")
def table(speech, tmp_path_factory):
    """The spoken clips with ratings, two sexes, emotions and a column of the user's own."""
    files = sorted(str(path) for path in speech.glob("*.flac"))
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"file": files})
    frame["arousal"] = rng.uniform(0.1, 0.9, len(files)).round(3)
    frame["dominance"] = rng.uniform(0.1, 0.9, len(files)).round(3)
    frame["valence"] = rng.uniform(0.1, 0.9, len(files)).round(3)
    frame["sex"] = ["f", "m"] * (len(files) // 2)
    frame["emotion"] = ["Angry", "neutral"] * (len(files) // 2)
    frame["device"] = ["a"] * 11 + ["b"] * 11 + ["c"] * (len(files) - 22)
    path = tmp_path_factory.mktemp("table") / "clips.csv"
    frame.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def result(toy, table):
    only = ["correctness:*", "fairness:*", "robustness:gain*", "robustness:level*"]
    return audit(
        toy,
        table,
        clips=ClipOptions(by=["device"]),
        suite=SuiteOptions(only=only, resamples=400),
        processes=1,
    )


def find(result, test, dimension="arousal", case=""):
    group, name = test.split(":")
    (figure,) = [
        one
        for one in result["figures"]
        if (one["group"], one["test"], one["dimension"], one["case"])
        == (group, name, dimension, case)
    ]
    return figure


def clean(result, name="toy"):
    return np.array([clip["estimates"][name] for clip in result["clips"]])


# statistics -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def series():
    rng = np.random.default_rng(0)
    truth = rng.uniform(0, 1, 200)
    return 0.6 * truth + 0.4 * rng.uniform(0, 1, 200), truth


@pytest.mark.parametrize("name", ["ccc", "pcc", "mae"])
def test_weighted_metrics_are_the_metrics_of_the_resample(series, name):
    estimate, truth = series
    slow, fast = getattr(metrics, name), getattr(statistics, name)
    weights = statistics.weights(200, 5, seed=1)
    assert weights.sum(1).tolist() == [200] * 5
    expected = [slow(np.repeat(truth, w.astype(int)), np.repeat(estimate, w.astype(int)))
                for w in weights]  # fmt: skip
    assert fast(estimate, truth, weights) == pytest.approx(expected, abs=1e-12)
    once = np.ones(200)
    models = np.stack([estimate, truth, estimate[::-1]])
    expected = [slow(truth, one) for one in models]
    assert fast(models, truth, once) == pytest.approx(expected, abs=1e-12)


def test_jensen_shannon_against_scipy(series):
    estimate, truth = series
    p, q = (np.histogram(x, 10, (0, 1))[0] for x in (estimate, truth))
    expected = scipy.spatial.distance.jensenshannon(p, q, base=2)
    assert statistics.jensen_shannon(estimate, truth, np.ones(200)) == pytest.approx(expected)
    assert statistics.jensen_shannon(truth, truth, np.ones(200)) == 0


@pytest.mark.parametrize("levels", [2, 3, 5, 7, 9, 13, 25])
def test_distribution_of_a_perfect_model_on_a_scale_of_few_levels(levels):
    latent = np.random.default_rng(levels).beta(3, 3, 500)
    rated = np.round(latent * (levels - 1)) / (levels - 1)
    once = np.ones(500)
    assert statistics.rating_step(rated) == pytest.approx(1 / (levels - 1))
    assert statistics.jensen_shannon(latent, rated, once) < 0.01
    assert statistics.jensen_shannon(rated, rated, once) == 0
    # A model that always gives the same stays far from the truth.
    assert statistics.jensen_shannon(np.full(500, 0.5), rated, once) > 0.3


def test_continuous_ratings_have_no_step(series):
    assert statistics.rating_step(series[1]) == statistics.rating_step(series[1].round(3)) == 0


def test_spearman_and_group_means_against_scipy(series):
    estimate, truth = series
    groups = np.arange(200) % 8
    fast = [statistics.group_means(x, groups, np.ones(200)) for x in series]
    slow = [[x[groups == g].mean() for g in range(8)] for x in series]
    assert fast[0] == pytest.approx(slow[0]) and fast[1] == pytest.approx(slow[1])
    expected = scipy.stats.spearmanr(*slow).statistic
    assert statistics.spearman(*fast) == pytest.approx(expected)


@pytest.mark.parametrize("f0_hz", [90, 160, 240, 330])
def test_pitch_of_a_pulse_train(f0_hz):
    time = np.arange(32000) / 16000
    voice = sum(np.cos(2 * np.pi * k * f0_hz * time) / k for k in range(1, int(4000 / f0_hz)))
    noisy = (voice / 10 + np.random.default_rng(0).normal(0, 0.01, 32000)).astype(np.float32)
    assert pitch.mean_f0(noisy) == pytest.approx(f0_hz, rel=0.01)


def test_pitch_of_noise_is_none():
    noise = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    f0_hz = pd.Series([pitch.mean_f0(noise), 49.0, 145.0, 146.0, 191.0, 351.0])
    assert pitch.groups(f0_hz).tolist() == ["", "", "low", "medium", "high", ""]
    by_speaker = pitch.groups(f0_hz, pd.Series(["", "", "a", "a", "", "a"]))
    assert by_speaker.tolist() == ["", "", "medium", "medium", "high", "medium"]


# the table --------------------------------------------------------------------------------------


def test_thresholds_of_the_reference():
    tests = {test.id: test for test in trust.table()}
    expected = {
        "correctness:ccc": ("above", 0.5),
        "correctness:mae": ("below", 0.1),
        "correctness:distribution": ("below", 0.2),
        "correctness:consistency": ("above", 0.75),
        "correctness:speaker-ranking": ("above", 0.7),
        "fairness:sex-ccc": ("within", 0.075),
        "fairness:pitch-ccc": ("within", 0.10),
        "fairness:language-mean": ("within", 0.03),
        "robustness:tone-unchanged": ("above", 0.95),
        "robustness:babble-20dB-unchanged": ("above", 0.90),
        "robustness:babble-20dB-ccc": ("above", -0.05),
        "robustness:phone-unchanged": ("above", 0.50),
        "robustness:room-unchanged": ("above", 0.80),
    }
    assert {name: (tests[name].better, tests[name].threshold) for name in expected} == expected
    assert len({test.id for test in tests.values()}) == len(tests)
    shown = audit_tables.listing(list(tests.values()))
    assert all(test.name in shown for test in tests.values())


def test_correctness_against_slow_metrics(result, table):
    truth = pd.read_csv(table).sort_values("file")
    estimate = clean(result)
    for column, dimension in enumerate(("arousal", "dominance", "valence")):
        for name in ("ccc", "mae"):
            slow = getattr(metrics, name)(truth[dimension].to_numpy(), estimate[:, column])
            figure = find(result, f"correctness:{name}", dimension)
            assert figure["value"] == pytest.approx(slow, abs=1e-3)  # estimates are rounded
            assert figure["low"] <= figure["value"] <= figure["high"]


def test_consistency_counts_clips_in_range(result):
    angry = [clip["estimates"]["toy"] for clip in result["clips"] if clip["emotion"] == "anger"]
    values = np.array(angry)
    high = find(result, "correctness:consistency", "arousal", "anger high")
    assert high["value"] == pytest.approx((values[:, 0] >= 0.55).mean())
    low = find(result, "correctness:consistency", "valence", "anger low")
    assert low["value"] == 0 and not low["passed"]  # valence is always .5
    neutral = find(result, "correctness:consistency", "valence", "neutral neutral")
    assert neutral["value"] == 1 and neutral["passed"]


def test_fairness_is_the_difference_of_mean_errors(result):
    rows = pd.DataFrame(
        {
            "error": [clip["estimates"]["toy"][0] - clip["truth"][0] for clip in result["clips"]],
            "sex": [clip["sex"] for clip in result["clips"]],
        }
    )
    expected = rows[rows.sex == "f"].error.mean() - rows.error.mean()
    figure = find(result, "fairness:sex-mean", "arousal", "f")
    assert figure["value"] == pytest.approx(expected, abs=2e-4)
    assert figure["low"] < figure["value"] < figure["high"]


def test_small_groups_are_skipped_and_said(result):
    assert {"column": "device", "group": "c", "clips": 2} in result["small_groups"]
    cases = {one["case"] for one in result["figures"] if one["test"] == "device-mean"}
    assert cases == {"a", "b"}
    skipped = audit_tables.outcome(result)["Skipped: groups of fewer than 10 clips"]
    assert ["device", "c", "2"] in skipped.to_numpy().tolist()


def test_many_groups_widen_the_intervals():
    from wav2small.benchmarks.audit.figures import _interval

    test = next(test for test in trust.table() if test.id == "fairness:sex-mean")
    drawn = np.random.default_rng(0).normal(0, 0.01, 1000)
    few, many = (_interval(test, drawn, value=0.0, groups=groups, count=100) for groups in (1, 24))
    assert few[1] == pytest.approx(1.96 * 0.01, rel=0.06)
    assert many[1] / few[1] == pytest.approx(3.078 / 1.96, rel=0.01)  # normal quantile, .05 / 24


def test_gain_moves_a_level_meter_but_not_a_level_free_model(result, level_free, table):
    gain = find(result, "robustness:gain-unchanged", "arousal")
    assert not find(result, "robustness:level-unchanged", "arousal")["passed"]
    other = audit(level_free, table, suite=GAIN, processes=1)
    assert find(other, "robustness:gain-unchanged", "arousal")["value"] == 1
    assert find(other, "robustness:gain-unchanged", "arousal")["passed"]
    assert gain["value"] < 1


def test_failed_figures_name_their_worst_clips(result):
    figure = find(result, "robustness:level-unchanged", "arousal")
    by = [clip["by"] for clip in figure["worst"]]
    assert len(by) == 10 and by == sorted(by, reverse=True)
    first = figure["worst"][0]
    assert first["by"] == pytest.approx(abs(first["changed"] - first["clean"]))
    assert first["file"] in audit_tables.audit(result)
    assert all(("worst" in one) == (not one["passed"]) for one in result["figures"])


def test_each_figure_has_that_of_a_random_model(result):
    ccc = find(result, "correctness:ccc", "arousal")["random"]
    assert abs(ccc["value"]) < 0.1 and ccc["passes"] == 0
    # A shuffled model has the bundle's own distribution.
    own = find(result, "correctness:distribution", "arousal")
    assert own["random"]["value"] == pytest.approx(own["value"])
    for row in result["summary"]:
        assert 0 <= row["random_passes"] <= 1
    assert {row["group"] for row in result["summary"]} == {
        "correctness", "fairness", "robustness",
    }  # fmt: skip


def test_result_is_strict_json(result):
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_processes_and_order_change_nothing(toy, table):
    suite = SuiteOptions(only=["robustness:white-noise-unchanged"], resamples=50)
    one = audit(toy, table, processes=1, suite=suite)
    two = audit(toy, table, processes=2, suite=suite)
    assert one["figures"] == two["figures"]


def test_compared_with_itself(toy, table):
    outcome = audit(toy, table, compare=CompareOptions([toy]), suite=GAIN, processes=1)
    figure = find(outcome, "robustness:gain-unchanged")
    assert figure["others"]["toy #2"]["value"] == figure["value"]
    assert audit_tables.summary(outcome).columns[-1] == "toy #2"


def test_categorical_corpus(emodb, toy):
    outcome = audit(
        toy,
        emodb / "labels.csv",
        clips=ClipOptions(limit=120),
        suite=SuiteOptions(only=["correctness:*", "fairness:*"], resamples=100),
        processes=1,
    )
    cases = {one["case"] for one in outcome["figures"] if one["test"] == "consistency"}
    assert {"anger high", "neutral neutral", "boredom low"} <= cases
    assert {one["test"] for one in outcome["figures"]} >= {"sex-mean", "pitch-mean"}
    low = {clip["sex"] for clip in outcome["clips"]}
    assert low == {"f", "m"}
    reasons = {entry["test"]: entry["reason"] for entry in outcome["cannot_run"]}
    assert "--truth" in reasons["correctness:ccc"]
    assert "column language" in reasons["fairness:language-mean"]


@pytest.mark.parametrize("levels, impossible", [(3, {"mae"}), (7, set())])
def test_a_perfect_model_fails_nothing(toy, table, tmp_path, levels, impossible):
    """The model's own answers, rounded to a scale of few levels, are the truth."""
    suite = SuiteOptions(only=["correctness:*", "fairness:sex*"], resamples=50)
    frame = pd.read_csv(table).sort_values("file", ignore_index=True)
    answers = clean(audit(toy, table, suite=GAIN, processes=1)).clip(0, 1)
    for column, name in enumerate(("arousal", "dominance")):
        spread = (answers[:, column] * (levels - 1)).round() + 1
        frame[name] = spread.astype(int)
    frame = frame.drop(columns=["valence", "emotion"])  # the model always answers .5
    frame.to_csv(tmp_path / "rated.csv", index=False)
    clips = ClipOptions(scale=(1, levels))
    outcome = audit(toy, tmp_path / "rated.csv", clips=clips, suite=suite, processes=1)
    reasons = {one["test"]: one["reason"] for one in outcome["cannot_run"]}
    assert all("perfect model" in reasons[f"correctness:{name}"] for name in impossible)
    failed = {(one["test"], one["dimension"]) for one in outcome["figures"] if not one["passed"]}
    assert failed == set()


# thresholds -------------------------------------------------------------------------------------


def test_require(result, toy, table):
    asked = ["correctness:distribution:valence", "robustness:gain-unchanged"]
    verdict = thresholds.judge(result, require=asked, former=None)
    assert verdict["checked"]
    assert any("distribution:valence" in line for line in verdict["failures"])
    passing = next(one for one in result["figures"] if one["passed"] and one["test"] == "mae"
                   or one["passed"])  # fmt: skip
    name = f"{passing['group']}:{passing['test']}:{passing['dimension']}"
    verdict = thresholds.judge({**result, "figures": [passing]}, require=[name], former=None)
    assert verdict["failures"] == []
    with pytest.raises(Wav2SmallError, match="no such test"):
        audit(toy, table, suite=SuiteOptions(require=["robustness:earthquake"]))


@pytest.mark.parametrize(
    "better, old, new, fails",
    [
        ("above", (0.5, 0.4, 0.6), 0.41, False),
        ("above", (0.5, 0.4, 0.6), 0.39, True),
        ("below", (0.1, 0.05, 0.15), 0.16, True),
        ("below", (0.1, 0.05, 0.15), 0.01, False),
        ("within", (-0.02, -0.05, 0.01), 0.04, False),
        ("within", (-0.02, -0.05, 0.01), 0.06, True),
        ("above", (0.5, 0.4, 0.6), None, True),
        ("above", (None, None, None), 0.1, False),
    ],
)
def test_baseline_fails_beyond_the_interval(better, old, new, fails):
    figure = {"group": "g", "test": "t", "case": "", "dimension": "arousal", "better": better,
              "threshold": 0}  # fmt: skip
    value, low, high = old
    former = {"figures": [{**figure, "value": value, "low": low, "high": high}]}
    now = {"figures": [{**figure, "value": new}]}
    assert bool(thresholds.judge(now, require=[], former=former)["failures"]) == fails


def test_baseline_of_another_corpus(toy, table, speech, tmp_path):
    output = tmp_path / "audit.json"
    audit(toy, table, output, suite=GAIN, processes=1)
    assert not (tmp_path / "audit.json.part").exists()
    suite = replace(GAIN, baseline=output)
    again = audit(toy, table, suite=suite, processes=1)
    assert again["thresholds"] == {"checked": True, "failures": []}
    with pytest.raises(Wav2SmallError, match="other clips"):
        audit(toy, speech, suite=suite, processes=1)
    with pytest.raises(Wav2SmallError, match="--seed"):
        audit(toy, table, suite=suite, seed=1, processes=1)
    (tmp_path / "text.json").write_text("[]")
    with pytest.raises(Wav2SmallError, match="not an audit"):
        audit(toy, table, suite=replace(GAIN, baseline=tmp_path / "text.json"), processes=1)


# bad input --------------------------------------------------------------------------------------


def test_truth_in_another_scale(toy, table, tmp_path):
    frame = pd.read_csv(table)
    frame[["arousal", "dominance", "valence"]] = 1 + 6 * frame[["arousal", "dominance", "valence"]]
    frame.to_csv(tmp_path / "seven.csv", index=False)
    options = {"suite": SuiteOptions(only=["correctness:ccc"], resamples=50), "processes": 1}
    with pytest.raises(Wav2SmallError, match="--scale"):
        audit(toy, table, clips=ClipOptions(truth=tmp_path / "seven.csv"), **options)
    outcome = audit(
        toy, table, clips=ClipOptions(truth=tmp_path / "seven.csv", scale=(1, 7)), **options
    )
    own = audit(toy, table, **options)
    assert find(outcome, "correctness:ccc")["value"] == pytest.approx(
        find(own, "correctness:ccc")["value"], abs=1e-3
    )


def test_truth_of_other_files(toy, speech, tmp_path):
    pd.DataFrame(
        {"file": ["elsewhere.wav"], "arousal": [0.5], "dominance": [0.5], "valence": [0.5]}
    ).to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(Wav2SmallError, match="rates none of the 24 clips"):
        audit(toy, speech, clips=ClipOptions(truth=tmp_path / "other.csv"))


def test_partial_truth_is_said(toy, speech, table, tmp_path):
    pd.read_csv(table).head(15).to_csv(tmp_path / "some.csv", index=False)
    clips, _ = corpus.gather(speech, ClipOptions(truth=tmp_path / "some.csv"))
    assert np.isfinite(clips.truth).all(1).sum() == 15
    assert "15 of 24 clips are rated" in clips.notes[0]


@pytest.mark.parametrize("output", ["folder", os.devnull])
def test_an_output_that_is_no_file(toy, table, tmp_path, output):
    (tmp_path / "folder").mkdir()
    if output == "folder":
        with pytest.raises(Wav2SmallError, match="a folder; name a file in it"):
            audit(toy, table, tmp_path / output, suite=GAIN, processes=1)
    else:
        audit(toy, table, output, suite=GAIN, processes=1)
    assert not Path(f"{tmp_path / output}.part").exists()


def test_folder_without_columns(toy, speech, tmp_path):
    shutil.copytree(speech, tmp_path / "bare", ignore=lambda *_: ["labels.csv"])
    suite = SuiteOptions(only=["correctness:*", "fairness:*"])
    outcome = audit(toy, tmp_path / "bare", suite=suite, processes=1)
    assert {entry["test"] for entry in outcome["cannot_run"]} >= {
        "correctness:ccc", "correctness:consistency", "fairness:sex-ccc", "fairness:speaker-mean",
    }  # fmt: skip
    assert {one["test"] for one in outcome["figures"]} <= {"pitch-mean"}
    assert "Could not run" in audit_tables.audit(outcome)


def test_unusable_clips_are_listed_and_the_others_go_on(toy, speech, tmp_path):
    folder = tmp_path / "mixed"
    shutil.copytree(speech, folder)
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("no audio")
    outcome = audit(toy, folder, suite=GAIN, processes=1)
    assert outcome["corpus"]["used"] == 24
    assert sorted(entry["file"] for entry in outcome["rejected"]) == ["empty.wav", "text.wav"]


def test_model_that_fails_on_some_clips(speech, tmp_path):
    """Needs exactly 16000 samples to reshape: fails on nearly every clip."""
    nodes = [
        helper.make_node("Reshape", ["signal", "shape"], ["x"]),
        helper.make_node("ReduceMean", ["x", "axes"], ["m"], keepdims=0),
        helper.make_node("Slice", ["m", "zero", "three", "axis"], ["logits"]),
    ]
    constants = {"shape": [-1, 100, 160], "axes": [0, 2], "zero": [0], "three": [3], "axis": [0]}
    nodes.append(helper.make_node("Unsqueeze", ["logits", "zero"], ["out"]))
    nodes[2].output[0], nodes[3].input[0], nodes[3].output[0] = "flat", "flat", "logits"
    graph = helper.make_graph(
        nodes,
        "fussy",
        [helper.make_tensor_value_info("signal", TensorProto.FLOAT, [1, None])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(np.array(v, np.int64), name) for name, v in constants.items()],
    )
    path = tmp_path / "fussy.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path
    )
    folder = tmp_path / "clips"
    shutil.copytree(speech, folder)
    import soundfile

    for number in range(12):
        noise = np.random.default_rng(number).normal(0, 0.1, 16000)
        soundfile.write(folder / f"exact_{number}.wav", noise, 16000)
    outcome = audit(path, folder, suite=GAIN, processes=1)
    assert outcome["corpus"]["used"] >= 12
    assert outcome["rejected"] and all("fails" in entry["reason"] for entry in outcome["rejected"])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"clips": ClipOptions(by=["hat"])}, "no such column"),
        ({"suite": SuiteOptions(only=["fairness:shoes"])}, "no such test"),
        ({"suite": SuiteOptions(noise="absent/")}, "--noise absent/"),
        ({"compare": CompareOptions(teacher="acustic")}, "acoustic"),
    ],
)
def test_bad_settings(toy, table, options, message):
    with pytest.raises(Wav2SmallError, match=message):
        audit(toy, table, processes=1, **options)


def test_stopped_run_is_resumed(toy, table, tmp_path, monkeypatch):
    real, tasks = outputs._ClipPredictor.__call__, []

    def stops(predictor, task):
        if len(tasks) == 10:
            raise KeyboardInterrupt
        tasks.append(task)
        return real(predictor, task)

    monkeypatch.setattr(outputs._ClipPredictor, "__call__", stops)
    with pytest.raises(KeyboardInterrupt):
        audit(toy, table, tmp_path / "a.json", suite=GAIN, processes=1)
    assert (tmp_path / "a.json.part").exists()
    calls = []
    monkeypatch.setattr(
        outputs._ClipPredictor,
        "__call__",
        lambda self, task: calls.append(task) or real(self, task),
    )
    outcome = audit(toy, table, tmp_path / "a.json", suite=GAIN, processes=1)
    assert len(calls) == 14
    assert outcome["figures"] == audit(toy, table, suite=GAIN, processes=1)["figures"]


def test_command_and_exit_codes(toy, table, tmp_path):
    base = [sys.executable, "-m", "wav2small", "audit"]
    listed = subprocess.run([*base, "--list"], capture_output=True, text=True)
    assert listed.returncode == 0 and "tone-unchanged" in listed.stdout
    words = [*base, str(toy), str(table), "--only", "robustness:level*", "--processes", "1"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr  # tests fail, the audit does not
    assert "random model" in done.stdout
    done = subprocess.run(
        [*words, "--require", "robustness:level-unchanged"], capture_output=True, text=True
    )
    assert done.returncode == 1 and "failed: required" in done.stderr
    done = subprocess.run([*base, str(toy)], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1


def test_a_script_without_a_main_guard_does_not_hang(bundle, speech, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import wav2small\n"
        "from wav2small.benchmarks.audit.audit import SuiteOptions\n"
        "suite = SuiteOptions(only=['robustness:gain-unchanged'])\n"
        f"result = wav2small.audit({str(bundle)!r}, {str(speech)!r}, suite=suite, processes=2)\n"
        "print(result['corpus']['used'])\n"
    )
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0 and done.stdout.split() == ["24"], done.stderr


def test_a_clip_whose_process_died_is_tried_again(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(6):
        size = 3333 if number == 2 else 8000
        soundfile.write(tmp_path / f"{number}.wav", 0.1 * rng.standard_normal(size), 16000)
    clips, _ = corpus.gather(tmp_path)
    kept = tmp_path / "journal"
    model = outputs.ModelSpec("toy", "teacher", "toy_teachers:Moody")
    options = {"processes": 2, "journal": kept}
    outcome = outputs.predict(clips, [model], [], perturbations.Sounds(), **options)
    assert len(outcome.rows) == 5 and len(outcome.rejected) == 1
    assert "2.wav" in outcome.rejected[0][0] and "died" in outcome.rejected[0][1]
    rows = [json.loads(line)[0] for line in kept.read_text().splitlines()[1:]]
    assert sorted(rows) == ["0", "1", "3", "4", "5"]


@pytest.mark.parametrize(("test", "named"), [("gain-unchanged", False), ("room-unchanged", True)])
def test_rooms_are_named_where_a_test_needs_them(toy, table, test, named):
    suite = SuiteOptions(only=[f"robustness:{test}"], resamples=20)
    notes = audit(toy, table, clips=ClipOptions(limit=12), suite=suite)["corpus"]["notes"]
    assert any("synthetic impulse responses" in note for note in notes) == named
