"""Fine-tuning: exact gradients over the full batch, the published layout, resume."""

import json
from pathlib import Path

import finetuning_cases
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from finetuning_cases import finetune
from labelling_cases import label
from safetensors.torch import load_file, save_file

from wav2small import Wav2SmallError, read_labels
from wav2small.teachers import load_teacher
from wav2small.teachers.finetuning.finetune import build
from wav2small.teachers.speech import backbones, checkpoint, pretrained
from wav2small.training import gradient_cache as accumulation
from wav2small.training.losses import ccc

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "do_stable_layer_norm": True,
    "feat_extract_norm": "layer",
    "mask_time_prob": 0.05,
}

#: Twenty clips teach little; without masks and dropout it can be seen.
CALM = {
    "mask_time_prob": 0.0,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "final_dropout": 0.0,
}


def pretrain(folder: Path, family: str, prefix: str = "", **config) -> Path:
    """A folder as pretraining leaves it: bare keys or prefixed ones, and heads besides them."""
    torch.manual_seed(0)
    config = {"model_type": family, **SMALL, **config}
    model = backbones.build(config, "test")
    state = {
        prefix + checkpoint.published(key): value.contiguous()
        for key, value in model.state_dict().items()
    }
    state["lm_head.weight"] = torch.zeros(3, 3)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def ratings(speech, tmp_path_factory) -> Path:
    """Labels of the acoustic teacher and a category, for 24 spoken clips."""
    folder = tmp_path_factory.mktemp("ratings")
    label(speech / "labels.csv", folder / "labels.parquet", workers=0)
    labels = read_labels(folder / "labels.parquet")
    frame = labels.frame[["file", "arousal", "dominance", "valence", "speaker"]].copy()
    frame["emotion"] = np.where(frame["arousal"] > frame["arousal"].median(), "high", "low")
    frame.loc[3, "emotion"] = None
    frame["file"] = [str(Path(labels.root) / file) for file in frame["file"]]
    frame.to_csv(folder / "ratings.csv", index=False)
    return folder / "ratings.csv"


@pytest.fixture(scope="module")
def hissing(ratings, tmp_path_factory) -> Path:
    """The same clips with hiss, more of it the higher the rating: a few steps must learn that."""
    folder = tmp_path_factory.mktemp("hissing")
    table = pd.read_csv(ratings, dtype={"speaker": str})
    random = np.random.default_rng(0)
    table["arousal"] = random.permutation(np.linspace(0.05, 0.95, len(table)))
    table["dominance"], table["valence"] = 1 - table["arousal"], table["arousal"] ** 2
    table["emotion"] = np.where(table["arousal"] > 0.5, "high", "low")
    for row, file in enumerate(table["file"]):
        clip, rate = soundfile.read(file)
        hiss = np.diff(random.normal(size=len(clip) + 1)) * 0.2 * table["arousal"][row] ** 2
        soundfile.write(folder / f"{row}.flac", np.clip(0.3 * clip + hiss, -1, 1), rate)
        table.loc[row, "file"] = str(folder / f"{row}.flac")
    table.to_csv(folder / "ratings.csv", index=False)
    return folder / "ratings.csv"


@pytest.mark.parametrize("pooling", ["attentive", "mean"])
def test_accumulated_gradients_are_those_of_the_full_batch(pooling, tmp_path):
    start = pretrained.load(str(pretrain(tmp_path, "wavlm", mask_time_prob=0.0)))
    network = build(start, pooling, ("arousal", "dominance", "valence"), ("a", "b")).double()
    network.eval()  # dropout draws by the shape of a part; without it both ways are one function
    random = torch.Generator().manual_seed(1)
    signal = 0.1 * torch.randn(6, 6000, generator=random, dtype=torch.float64)
    lengths = torch.tensor([6000, 5000, 6000, 4000, 3500, 6000])
    for row, length in enumerate(lengths):
        signal[row, length:] = 0
    truth = torch.rand(6, 3, generator=random, dtype=torch.float64)
    classes = torch.tensor([0, 1, -1, 1, 0, 0])

    def loss(outputs, logits):
        entropy = torch.nn.functional.cross_entropy(logits, classes, ignore_index=-1)
        return (1 - ccc(truth, outputs.double())).sum() + entropy

    def forward(rows):
        longest = int(lengths[rows].max())
        return network(signal[rows, :longest], lengths[rows])

    def gradients(parts):
        network.zero_grad()
        value = accumulation.backward(forward, parts, loss)
        found = {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
        return value, found

    full_value, full = gradients([slice(0, 6)])
    parts_value, parts = gradients([slice(0, 2), slice(2, 3), slice(3, 6)])
    assert parts_value == pytest.approx(full_value, abs=1e-6)
    assert full.keys() == parts.keys() and len(full) > 40
    for name in full:
        torch.testing.assert_close(parts[name], full[name], atol=1e-6, rtol=0)
    assert not any("feature_extractor" in name for name in full)  # the CNN is frozen
    outputs = forward(slice(0, 6))[0].detach()
    halves = [(1 - ccc(truth[rows], outputs[rows])).sum() for rows in (slice(0, 3), slice(3, 6))]
    naive, exact = float(sum(halves)) / 2, float((1 - ccc(truth, outputs)).sum())
    assert abs(naive - exact) > 1e-3  # the mean over parts is another loss


@pytest.mark.parametrize("pooling", ["attentive", "mean"])
def test_steps_lower_the_loss(pooling, tmp_path):
    start = pretrained.load(str(pretrain(tmp_path, "wavlm", mask_time_prob=0.0)))
    network = build(start, pooling, ("arousal", "dominance", "valence")).eval()
    random = torch.Generator().manual_seed(1)
    signal = 0.1 * torch.randn(6, 6000, generator=random) * torch.linspace(0.2, 2, 6)[:, None]
    signal[::2] = signal[::2].cumsum(dim=1) * 0.05
    truth = torch.rand(6, 3, generator=random)
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        losses.append(
            accumulation.backward(
                lambda rows: network(signal[rows], torch.full((3,), 6000)),
                [slice(0, 3), slice(3, 6)],
                lambda outputs, _: (1 - ccc(truth, outputs)).sum(),
            )
        )
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]


def test_both_passes_draw_the_same_dropout(tmp_path):
    start = pretrained.load(str(pretrain(tmp_path, "wav2vec2")))
    network = build(start, "mean", ("arousal", "dominance", "valence")).train()
    signal = 0.1 * torch.randn(4, 6000, generator=torch.Generator().manual_seed(1))
    outputs_ = []

    def forward(rows):
        outputs = network(signal[rows], torch.full((2,), 6000))
        outputs_.append(outputs[0].detach())
        return outputs

    truth = torch.rand(4, 3, generator=torch.Generator().manual_seed(2))
    accumulation.backward(
        forward, [slice(0, 2), slice(2, 4)], lambda out, _: (1 - ccc(truth, out)).sum(), seed=3
    )
    torch.testing.assert_close(outputs_[0], outputs_[2], atol=0, rtol=0)
    torch.testing.assert_close(outputs_[1], outputs_[3], atol=0, rtol=0)
    network.eval()
    assert (network(signal[:2], torch.full((2,), 6000))[0] - outputs_[0]).abs().max() > 1e-4


@pytest.mark.parametrize(
    "family, pooling, prefix",
    [
        ("wavlm", "attentive", ""),
        ("wav2vec2", "mean", "wav2vec2."),
        ("hubert", "mean", "hubert."),
    ],
)
def test_learns_and_becomes_a_teacher(family, pooling, prefix, hissing, tmp_path):
    backbone = pretrain(tmp_path / "backbone", family, prefix, **CALM)
    result = finetune(
        hissing,
        tmp_path / "teacher",
        backbone=str(backbone),
        pooling=pooling,
        layers=2,
        epochs=20 if pooling == "mean" else 3,
        batch_size=20,
        micro_batch=12,
        learning_rate=2e-3,
        crop_s=1.0,
        categories="emotion",
        device="cpu",
    )
    if pooling == "mean":  # half of the other head drops out: its loss is noise on twenty clips
        assert np.mean(result.losses[-3:]) < 0.9 * np.mean(result.losses[:2])
    teacher = load_teacher(str(tmp_path / "teacher"), device="cpu")
    assert teacher.dimensions == ("arousal", "dominance", "valence")
    keys = set(load_file(tmp_path / "teacher" / "model.safetensors"))
    prefix = "ssl_model." if pooling == "attentive" else f"{family}."
    assert f"{prefix}encoder.pos_conv_embed.conv.weight_g" in keys
    assert f"{prefix}encoder.layers.1.final_layer_norm.bias" in keys
    assert not any("encoder.layers.2." in key for key in keys)
    last = "ser_model.out.0.weight" if pooling == "attentive" else "classifier.out_proj.weight"
    assert last in keys
    frozen = load_file(backbone / "model.safetensors")
    name = "feature_extractor.conv_layers.3.conv.weight"
    own = next(key for key in frozen if key.endswith(name))
    tuned = load_file(tmp_path / "teacher" / "model.safetensors")
    assert torch.equal(tuned[prefix + name], frozen[own])
    moved = "encoder.layers.0.attention.v_proj.weight"
    own = next(key for key in frozen if key.endswith(moved))
    assert not torch.equal(tuned[prefix + moved], frozen[own])
    table = tmp_path / "again.parquet"
    label(hissing, table, teacher=str(tmp_path / "teacher"), workers=0, device="cpu")
    frame = read_labels(table).frame
    shares = frame[["probability_high", "probability_low"]].sum(axis=1)
    np.testing.assert_allclose(shares, 1, atol=1e-5)
    best = pd.read_csv(tmp_path / "teacher" / "metrics.csv")["mean"].max()
    assert best == pytest.approx(np.mean(list(result.ccc.values())), abs=1e-9)
    licences = json.loads((tmp_path / "teacher" / "provenance.json").read_text())
    assert licences["teachers"][-1]["name"] == "backbone"


def test_goes_on_where_it_was(ratings, tmp_path, monkeypatch):
    backbone = str(pretrain(tmp_path / "backbone", "wavlm"))
    options = {
        "backbone": backbone,
        "batch_size": 10,
        "learning_rate": 1e-3,
        "crop_s": 0.5,
        "epochs": 3,
        "device": "cpu",
    }
    full = finetune(ratings, tmp_path / "full", **options)
    for step in (1, 2, 1):  # stops after 1, 3 and 4 steps; an epoch has two
        with finetuning_cases.stop_after(monkeypatch, step), pytest.raises(KeyboardInterrupt):
            finetune(ratings, tmp_path / "parts", **options)
    with pytest.raises(Wav2SmallError, match=r"learning_rate = 0.001 \(now 0.002\)"):
        finetune(ratings, tmp_path / "parts", **(options | {"learning_rate": 2e-3}))
    parts = finetune(ratings, tmp_path / "parts", **options)
    assert parts.losses == full.losses and parts.ccc == full.ccc
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("full", "parts"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_broken_clips_are_left_out(ratings, tmp_path):
    table = pd.read_csv(ratings, dtype={"speaker": str})
    (tmp_path / "text.wav").write_text("no sound")
    table.loc[5, "file"] = str(tmp_path / "text.wav")
    table.to_csv(tmp_path / "ratings.csv", index=False)
    result = finetune(
        tmp_path / "ratings.csv",
        tmp_path / "teacher",
        backbone=str(pretrain(tmp_path / "backbone", "wavlm")),
        epochs=1,
        crop_s=0.5,
        device="cpu",
    )
    assert len(result.rejected) == 1 and "text.wav" in result.rejected[0]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"layers": 4}, "--layers 4: .* has 3"),
        ({"categories": "mood"}, "--categories mood: no such column"),
        ({"pooling": "max"}, "--pooling max"),
        ({"validation": "speaker=nobody"}, "nobody"),
    ],
)
def test_wrong_usage(options, message, ratings, tmp_path):
    backbone = pretrain(tmp_path / "backbone", "wavlm")
    with pytest.raises(Wav2SmallError, match=message):
        finetune(ratings, tmp_path / "out", backbone=str(backbone), device="cpu", **options)


def test_bad_backbone(ratings, tmp_path):
    folder = pretrain(tmp_path, "wavlm")
    weights = load_file(folder / "model.safetensors")
    weights["encoder.surprise"] = torch.ones(1)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(Wav2SmallError, match="unexpected key encoder.surprise"):
        pretrained.load(str(folder))
