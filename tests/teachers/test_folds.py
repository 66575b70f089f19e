"""Cross-validation: no speaker on both sides, and figures of what was held out."""

import json

import numpy as np
import pandas as pd
import pytest
import soundfile
from labelling_cases import label
from safetensors.torch import load_file
from test_finetune import pretrain

from wav2small import Wav2SmallError, metrics, read_labels
from wav2small.cli.main import main
from wav2small.tables import Labels
from wav2small.teachers.finetuning.finetune import choose_recipe, finetune
from wav2small.teachers.finetuning.folds import assign, finetune_folds
from wav2small.teachers.finetuning.options import DeviceOptions, TrainingOptions

DIMENSIONS = ["arousal", "dominance", "valence"]
HOW = {
    "training": TrainingOptions(epochs=1, batch_size=8, crop_s=0.5),
    "compute": DeviceOptions(device="cpu"),
}


@pytest.fixture(scope="module")
def ratings(speech, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ratings")
    label(speech / "labels.csv", folder / "labels.parquet", workers=0)
    labels = read_labels(folder / "labels.parquet")
    frame = labels.frame[["file", *DIMENSIONS, "speaker"]].copy()
    frame["file"] = [labels.path(file) for file in frame["file"]]
    frame.to_csv(folder / "ratings.csv", index=False)
    return folder / "ratings.csv"


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return str(pretrain(tmp_path_factory.mktemp("backbone"), "wavlm", num_hidden_layers=1))


def test_every_clip_is_held_out_once(ratings, backbone, tmp_path):
    result = finetune_folds(
        ratings, tmp_path / "out", choose_recipe(backbone=backbone), folds="2", **HOW
    )
    assert result.folds == {"1": 12, "2": 12}
    table = read_labels(ratings)
    folds = assign(table.frame, "2")
    assert all(len(set(folds[table.frame["speaker"] == s])) == 1 for s in table.frame["speaker"])
    found = pd.read_parquet(tmp_path / "out/predictions.parquet").set_index("file")
    assert sorted(found.index) == sorted(table.frame["file"])
    estimates = found.loc[table.frame["file"], DIMENSIONS].to_numpy()
    for number, name in enumerate(DIMENSIONS):
        expected = metrics.ccc(table.values[:, number], estimates[:, number])
        assert result.evaluation.dimensions[name]["ccc"].value == pytest.approx(expected)
        each = [
            metrics.ccc(table.values[folds == fold, number], estimates[folds == fold, number])
            for fold in ("1", "2")
        ]
        assert result.spread[name] == pytest.approx((np.mean(each), np.std(each)))
    written = json.loads((tmp_path / "out/figures.json").read_text())
    assert written["clips"] == 24 and set(written["groups"]["fold"]) == {"1", "2"}
    # The second fold's teacher is the one that a run of its own would have made.
    rest = table.frame[folds != "2"].reset_index(drop=True)
    alone = Labels(rest, table.root)
    finetune(alone, tmp_path / "alone", choose_recipe(backbone=backbone), **HOW)
    ours = load_file(tmp_path / "out/fold-2/model.safetensors")
    for key, value in load_file(tmp_path / "alone/model.safetensors").items():
        np.testing.assert_array_equal(ours[key], value)


def test_command(ratings, backbone, tmp_path, capsys):
    words = ["finetune", str(ratings), "--backbone", backbone, "--folds", "speaker"]
    words += ["-o", str(tmp_path / "out"), "--epochs", "1", "--crop", "0.5", "--device", "cpu"]
    assert main([*words, "--batch-size", "8"]) == 0
    shown = capsys.readouterr()
    assert "24 clips" in shown.out and "arousal: CCC over folds" in shown.out
    assert len(list((tmp_path / "out").glob("fold-*.parquet"))) == 4


def test_probes(ratings, backbone, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("wav2small.teachers.finetuning.probe.FEWEST", 10)
    words = ["finetune", str(ratings), "--freeze", "--encoder", backbone, "--copies", "0"]
    words += ["-o", str(tmp_path / "out"), "--device", "cpu", "--audio-licence", "CC-BY-NC-4.0"]
    assert main([*words, "--folds", "mood"]) == 2
    assert "--folds mood: no such column" in capsys.readouterr().err
    assert main([*words, "--folds", "2"]) == main([*words, "--folds", "2"]) == 0
    shown = capsys.readouterr()
    assert "24 clips" in shown.out and "arousal: CCC over folds" in shown.out
    assert len(pd.read_parquet(tmp_path / "out/predictions.parquet")) == 24
    lineage = json.loads((tmp_path / "out/fold-1/provenance.json").read_text())
    assert lineage["audio"][0]["licence"] == "CC-BY-NC-4.0"


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        ("mood", "no such column; give a number, or one of file"),
        ("1", "give 2 to 4"),
        ("9", "give 2 to 4"),
        ("same", "all clips are of same x"),
    ],
)
def test_folds_that_cannot_be(folds, message, ratings):
    frame = read_labels(ratings).frame.assign(same="x")
    with pytest.raises(Wav2SmallError, match=message):
        assign(frame, folds)


def iemocap(folder):
    """A miniature in the layout of IEMOCAP: two sessions of two speakers, four turns each."""
    random = np.random.default_rng(0)
    for session in (1, 2):
        name = f"Ses0{session}F_impro01"
        root = folder / f"Session{session}"
        sounds = root / "sentences/wav" / name
        for part in (sounds, root / "dialog/EmoEvaluation", root / "dialog/transcriptions"):
            part.mkdir(parents=True)
        ratings, texts = [], []
        for turn in range(8):
            said = f"{name}_{'FM'[turn % 2]}{turn:03d}"
            emotion = ("ang", "neu")[turn // 2 % 2]
            v, a, d = random.uniform(1, 5, 3)
            ratings.append(f"[{turn}.0 - {turn}.5]\t{said}\t{emotion}\t[{v:.4f}, {a:.4f}, {d:.4f}]")
            texts.append(f"{said} [00{turn}.0000-00{turn}.5000]: the cat sat")
            soundfile.write(sounds / f"{said}.wav", random.normal(0, 0.02 * a, 8000), 16000)
        (root / f"dialog/EmoEvaluation/{name}.txt").write_text("\n".join(ratings))
        (root / f"dialog/transcriptions/{name}.txt").write_text("\n".join(texts))
    return f"iemocap:{folder}"


def test_a_system_that_leaves_each_speaker_out_in_the_terms_of_its_paper(
    encoders, tmp_path, capsys
):
    """BRIDGE on IEMOCAP: accuracy and weighted F1 of categories, CCC, over held-out speakers."""
    words = ["finetune", iemocap(tmp_path / "corpus"), "--teacher", "bridge", "--folds", "speaker"]
    words += ["--speech", encoders["speech"], "--text", encoders["text"], "--categories", "emotion"]
    words += ["--set", "fusion_size=16", "fusion_heads=2", "--device", "cpu"]
    words += ["--epochs", "1", "--batch-size", "6", "-o", str(tmp_path / "out")]
    assert main(words) == 0
    assert "weighted F1" in capsys.readouterr().out
    found = pd.read_parquet(tmp_path / "out/predictions.parquet")
    assert len(found) == 16 and found["valence"].notna().all()
    config = json.loads(next((tmp_path / "out").glob("fold-*/config.json")).read_text())
    assert config["fusion_size"] == 16
    figures = json.loads((tmp_path / "out/figures.json").read_text())
    assert len(list((tmp_path / "out").glob("fold-*.parquet"))) == 4
    truth = ["anger" if int(f[-7:-4]) // 2 % 2 == 0 else "neutral" for f in found["file"]]
    said = found[["probability_anger", "probability_neutral"]].to_numpy().argmax(axis=1)
    said = np.array(["anger", "neutral"])[said]
    right = [np.array(truth) == name for name in ("anger", "neutral")]
    taken = [said == name for name in ("anger", "neutral")]
    f1 = [2 * (r & t).sum() / (r.sum() + t.sum()) for r, t in zip(right, taken, strict=True)]
    shown = figures["categories"]["figures"]
    assert shown["wa"]["value"] == pytest.approx(np.mean(said == np.array(truth)))
    assert shown["weighted_f1"]["value"] == pytest.approx(np.mean(f1))  # eight of each
