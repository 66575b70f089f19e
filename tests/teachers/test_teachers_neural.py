"""Neural teachers against an independent computation in numpy float64, and bad checkpoints."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from wav2small.dimensions import DIMENSIONS
from wav2small.errors import Wav2SmallError
from wav2small.tables import read_labels
from wav2small.teachers import load_teacher
from wav2small.teachers.speech import backbones, checkpoint, inference, int8, wav2vec2, wavlm

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "do_stable_layer_norm": True,
    "feat_extract_norm": "layer",
}
SER = {
    "model_type": "ser",
    "mean": -8.278621631819787e-05,
    "std": 0.08485510250851999,
    "hidden_size": 32,
    "num_classes": 3,
    "classifier_hidden_layers": 1,
    "classifier_dropout_prob": 0.5,
    "sampling_rate": 16000,
    "ssl_type": "microsoft/wavlm-large",
    "ssl_config": {"model_type": "wavlm", **SMALL},
}
DAWN = {
    "model_type": "wav2vec2",
    "id2label": {"0": "arousal", "1": "dominance", "2": "valence"},
    **SMALL,
}
GROUP = {"feat_extract_norm": "group", "do_stable_layer_norm": False}


def write(folder: Path, config: dict, *, seed: int = 0) -> Path:
    """A checkpoint with random weights and the key names of the published ones."""
    torch.manual_seed(seed)
    is_wavlm = config["model_type"] == "ser"
    kind = wavlm.WavlmNetwork if is_wavlm else wav2vec2.Wav2vec2Network
    network = kind(config).eval()
    for parameter in network.parameters():  # biases and norms, which begin at 0 and 1, count too
        parameter.data += 0.05 * torch.randn_like(parameter)
    state = {
        checkpoint.published(key): value.contiguous() for key, value in network.state_dict().items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def signals(lengths=(16000, 9377, 23456, 1700)) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    batch = np.zeros((len(lengths), max(lengths)), np.float32)
    for row, length in enumerate(lengths):
        batch[row, :length] = 0.1 * random.normal(size=length) + 0.02
    return batch, np.array(lengths)


CONFIGS = {
    "wavlm": SER,
    "wavlm-two-layers": SER | {"classifier_hidden_layers": 2},
    "wavlm-group": SER | {"ssl_config": {"model_type": "wavlm", **SMALL, **GROUP}},
    "wav2vec2": DAWN,
    "wav2vec2-group": DAWN | GROUP,
    "hubert": DAWN | {"model_type": "hubert"},
    "hubert-group": DAWN | {"model_type": "hubert", **GROUP},
    "wavlm-mean": DAWN | {"model_type": "wavlm"},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_padded_batch_equals_single_clips(name, tmp_path):
    teacher = load_teacher(str(write(tmp_path, CONFIGS[name])), device="cpu")
    batch, lengths = signals()
    together = teacher.predict(batch, lengths)
    apart = [
        teacher.predict(batch[row : row + 1, :length], lengths[row : row + 1])[0]
        for row, length in enumerate(lengths)
    ]
    np.testing.assert_allclose(together, apart, atol=1e-5)
    assert np.ptp(together, axis=0).min() > 1e-3  # the clips do differ


def oracle_ser(config: dict, weights: dict, signal: np.ndarray) -> np.ndarray:
    """float64, from transformers' own forward pass over one clip."""
    from transformers import WavLMConfig, WavLMModel

    x = (signal.astype(np.float64) - config["mean"]) / (config["std"] + 1e-6)
    with torch.device("meta"):
        model = WavLMModel(WavLMConfig.from_dict(config["ssl_config"]))
    h = hidden_of(model, weights, "ssl_model.", x)
    w = {key: value.numpy().astype(np.float64) for key, value in weights.items()}
    linear, bias = w["pool_model.sap_linear.weight"], w["pool_model.sap_linear.bias"]
    score = np.tanh(h @ linear.T + bias) @ w["pool_model.attention"]
    weight = np.exp(score - score.max()) / np.exp(score - score.max()).sum()
    mean = (weight * h).sum(axis=0)
    sd = np.sqrt(np.maximum((weight * h**2).sum(axis=0) - mean**2, 1e-5))
    z = np.concatenate([mean, sd])
    for layer in range(config["classifier_hidden_layers"]):
        name = f"ser_model.fc.{layer}"
        z = w[f"{name}.0.weight"] @ z + w[f"{name}.0.bias"]
        z = (z - z.mean()) / np.sqrt(z.var() + 1e-5) * w[f"{name}.1.weight"] + w[f"{name}.1.bias"]
        z = np.maximum(z, 0)
    return w["ser_model.out.0.weight"] @ z + w["ser_model.out.0.bias"]


def oracle_dawn(config: dict, weights: dict, signal: np.ndarray) -> np.ndarray:
    import transformers

    family = {"wav2vec2": "Wav2Vec2", "hubert": "Hubert", "wavlm": "WavLM"}[config["model_type"]]
    own = getattr(transformers, f"{family}Config").from_dict(
        {key: value for key, value in config.items() if key != "id2label"}
    )
    x = signal.astype(np.float64)
    x = (x - x.mean()) / np.sqrt(x.var() + 1e-7)
    with torch.device("meta"):
        model = getattr(transformers, f"{family}Model")(own)
    h = hidden_of(model, weights, config["model_type"] + ".", x)
    w = {key: value.numpy().astype(np.float64) for key, value in weights.items()}
    z = np.tanh(w["classifier.dense.weight"] @ h.mean(axis=0) + w["classifier.dense.bias"])
    return w["classifier.out_proj.weight"] @ z + w["classifier.out_proj.bias"]


def hidden_of(model, weights: dict, prefix: str, x: np.ndarray) -> np.ndarray:
    own = {
        checkpoint.modern(key.removeprefix(prefix)): value
        for key, value in weights.items()
        if key.startswith(prefix)
    }
    model.load_state_dict(own, strict=True, assign=True)
    with torch.no_grad():
        states = model.eval()(torch.tensor(x, dtype=torch.float32)[None]).last_hidden_state
    return states[0].double().numpy()


@pytest.mark.parametrize("name", CONFIGS)
def test_against_float64(name, tmp_path):
    config = CONFIGS[name]
    teacher = load_teacher(str(write(tmp_path, config)), device="cpu")
    weights = load_file(tmp_path / "model.safetensors")
    oracle = oracle_ser if config["model_type"] == "ser" else oracle_dawn
    batch, lengths = signals()
    found = teacher.predict(batch, lengths)
    for row, length in enumerate(lengths):
        expected = oracle(config, weights, batch[row, :length])
        np.testing.assert_allclose(found[row], expected, atol=2e-5)


def test_full_size_wavlm_has_the_published_keys_and_shapes():
    config = {key: value for key, value in SER.items() if key != "ssl_config"}
    with torch.device("meta"):
        network = wavlm.WavlmNetwork(config | {"hidden_size": 1024})
    state = {checkpoint.published(key): value for key, value in network.state_dict().items()}
    encoder = "ssl_model.encoder"
    expected = {
        f"{encoder}.pos_conv_embed.conv.weight_g": (1, 1, 128),
        f"{encoder}.pos_conv_embed.conv.weight_v": (1024, 64, 128),
        f"{encoder}.layers.0.attention.rel_attn_embed.weight": (320, 16),
        f"{encoder}.layers.23.attention.gru_rel_pos_const": (1, 16, 1, 1),
        f"{encoder}.layers.23.feed_forward.output_dense.weight": (1024, 4096),
        "ssl_model.feature_extractor.conv_layers.6.conv.weight": (512, 512, 2),
        "ssl_model.feature_extractor.conv_layers.6.layer_norm.weight": (512,),
        "pool_model.sap_linear.weight": (1024, 1024),
        "pool_model.attention": (1024, 1),
        "ser_model.fc.0.0.weight": (1024, 2048),
        "ser_model.fc.0.1.weight": (1024,),
        "ser_model.out.0.weight": (3, 1024),
    }
    assert {key: tuple(state[key].shape) for key in expected} == expected
    # microsoft/wavlm-large has 315.45 million parameters [its model card: 316.62 M with heads].
    assert sum(p.numel() for p in network.ssl_model.parameters()) == pytest.approx(
        3.155e8, rel=2e-3
    )


def test_full_size_against_float64(tmp_path):
    """317.6 million random weights, through the file."""
    config = {key: value for key, value in SER.items() if key != "ssl_config"}
    config["hidden_size"] = 1024
    torch.manual_seed(0)
    block = 0.03 * torch.randn(
        1_000_003
    )  # repeated: drawing all of them takes longer than the rest
    with torch.device("meta"):
        network = wavlm.WavlmNetwork(config)
    weights = {
        checkpoint.published(key): block.repeat(-(-value.numel() // len(block)))[: value.numel()]
        .reshape(value.shape)
        .contiguous()
        for key, value in network.state_dict().items()
    }
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    teacher = load_teacher(str(tmp_path), device="cpu")
    (tmp_path / "model.safetensors").unlink()  # 1.3 GB
    batch, lengths = signals((8000, 5000))
    found = teacher.predict(batch, lengths)
    config["ssl_config"] = {**backbones.WAVLM_LARGE, "mask_time_prob": 0.05}
    for row, length in enumerate(lengths):
        expected = oracle_ser(config, weights, batch[row, :length])
        np.testing.assert_allclose(found[row], expected, atol=1e-4)


@pytest.mark.parametrize("family", ["ser", "wav2vec2"])
def test_masked_spec_embed_may_be_there_or_not(family, tmp_path):
    base = SER if family == "ser" else DAWN
    folder = write(tmp_path, base)
    before = load_teacher(str(folder), device="cpu").predict(*signals())
    weights = load_file(folder / "model.safetensors")
    key = ("ssl_model" if family == "ser" else "wav2vec2") + ".masked_spec_embed"
    if key in weights:
        del weights[key]
    else:
        weights[key] = torch.ones(32)
    save_file(weights, folder / "model.safetensors")
    after = load_teacher(str(folder), device="cpu").predict(*signals())
    np.testing.assert_array_equal(before, after)


def test_outputs_are_ordered_by_name(tmp_path):
    usual = write(tmp_path / "usual", DAWN)
    other = write(tmp_path / "other", DAWN)
    swapped = DAWN | {"id2label": {"0": "Valence", "1": "arousal", "2": "dominance"}}
    (other / "config.json").write_text(json.dumps(swapped))
    first = load_teacher(str(usual), device="cpu").predict(*signals())
    second = load_teacher(str(other), device="cpu")
    assert second.dimensions == DIMENSIONS
    np.testing.assert_array_equal(second.predict(*signals()), first[:, [1, 2, 0]])


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_single_dimension_siblings(dimension, tmp_path):
    config = SER | {"num_classes": 1}
    name = f"SER-Odyssey-Baseline-WavLM-{dimension.title()}"
    teacher = load_teacher(str(write(tmp_path / name, config)), device="cpu")
    assert teacher.dimensions == (dimension,) and teacher.licence == "MIT"
    assert teacher.predict(*signals()).shape == (4, 1)


def edit_config(**changes):
    def edit(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        for name, value in changes.items():
            config.pop(name) if value is None else config.update({name: value})
        (folder / "config.json").write_text(json.dumps(config))

    return edit


def edit_weights(change):
    def edit(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors")

    return edit


def truncate(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


BAD = {
    "extra key": (
        edit_weights(lambda w: w.update({"ser_model.extra": torch.ones(1)})),
        "unexpected key ser_model.extra",
    ),
    "missing key": (
        edit_weights(lambda w: w.pop("pool_model.attention")),
        "lacks key pool_model.attention",
    ),
    "wrong shape": (
        edit_weights(lambda w: w.update({"pool_model.attention": torch.ones(31, 1)})),
        r"pool_model.attention has shape \(31, 1\).*\(32, 1\)",
    ),
    "truncated": (truncate, "model.safetensors: damaged, truncated"),
    "pickle": (pickle_only, "pytorch_model.bin: a pickle.*--teacher .*wav2small convert "),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no model.safetensors"),
    "no config": (lambda f: (f / "config.json").unlink(), "no config.json"),
    "broken config": (lambda f: (f / "config.json").write_text("{"), "config.json: not JSON"),
    "no mean": (edit_config(mean=None), "no field `mean`"),
    "no backbone": (edit_config(ssl_config=None, ssl_type=None), "no field `ssl_type`"),
    "unknown backbone": (edit_config(ssl_config=None, ssl_type="a/b"), "'a/b' is not built in"),
    "no backbone size": (
        edit_config(ssl_config={"num_hidden_layers": 2, "num_attention_heads": 2}),
        "no field `hidden_size`",
    ),
    "impossible backbone": (
        edit_config(ssl_config={"model_type": "wavlm", **SMALL, "num_attention_heads": 5}),
        "no backbone can be built",
    ),
    "unknown dimension": (
        edit_config(id2label={"0": "arousal", "1": "anger", "2": "valence"}),
        "an output 'anger'",
    ),
    "dimension twice": (
        edit_config(id2label={"0": "arousal", "1": "arousal", "2": "valence"}),
        "each dimension once",
    ),
    "unknown type": (edit_config(model_type="bert"), "'bert' is no teacher"),
    "other rate": (edit_config(sampling_rate=8000), "sampling_rate"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_checkpoint(name, tmp_path):
    edit, message = BAD[name]
    edit(write(tmp_path, SER))
    with pytest.raises(Wav2SmallError, match=message) as caught:
        load_teacher(str(tmp_path), device="cpu")
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["hidden_size", "id2label", "do_stable_layer_norm"])
def test_missing_field_of_wav2vec2(field, tmp_path):
    edit_config(**{field: None})(write(tmp_path, DAWN))
    with pytest.raises(Wav2SmallError, match=f"no field `{field}`"):
        load_teacher(str(tmp_path), device="cpu")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"device": "cuda:7"}, "--device cuda:7"),
        ({"device": "gpu"}, "--device gpu"),
        ({"device": "cpu", "dtype": "float8"}, "--dtype float8"),
    ],
)
def test_bad_device_and_dtype(options, message, tmp_path):
    with pytest.raises(Wav2SmallError, match=message):
        load_teacher(str(write(tmp_path, DAWN)), **options)


def test_without_network(monkeypatch, tmp_path):
    import huggingface_hub
    from huggingface_hub import errors

    def offline(*arguments, **options):
        raise errors.LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    for spec in ("wavlm", "wav2vec2", "somebody/something@main"):
        with pytest.raises(Wav2SmallError) as caught:
            load_teacher(spec)
        assert "into a folder and name the folder instead" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_bfloat16_stays_close(tmp_path):
    folder = str(write(tmp_path, SER))
    exact = load_teacher(folder, device="cpu").predict(*signals())
    rough = load_teacher(folder, device="cpu", dtype="bfloat16").predict(*signals())
    assert 0 < np.abs(exact - rough).max() < 0.05


@pytest.mark.parametrize("name", CONFIGS)
def test_int8_stays_close(name, tmp_path):
    folder = str(write(tmp_path, CONFIGS[name]))
    exact = load_teacher(folder, device="cpu").predict(*signals())
    rough = load_teacher(folder, device="cpu", dtype="int8").predict(*signals())
    assert 0 < np.abs(exact - rough).max() < 0.1


def test_int8_products_are_those_of_integers():
    random = np.random.default_rng(0)
    weight, bias = random.normal(size=(24, 64)), random.normal(size=24)
    inputs = random.uniform(-3, 5, (7, 64))
    tensors = [torch.from_numpy(values).float() for values in (weight, bias, inputs)]
    found = int8.Int8Linear(*tensors[:2])(tensors[2]).numpy()
    steps = np.abs(weight).max(1) / 127
    scale = np.ptp(inputs, axis=1, keepdims=True) / 255
    levels = np.rint(inputs / scale).astype(int) @ np.rint(weight / steps[:, None]).astype(int).T
    np.testing.assert_allclose(found, levels * scale * steps + bias, atol=0.05)  # some roundings
    np.testing.assert_allclose(found, inputs @ weight.T + bias, atol=0.6)  # outputs up to 60


def test_int8_of_a_network_without_a_backbone():
    with pytest.raises(Wav2SmallError, match="mine has no WavLM, wav2vec2 or HuBERT encoder"):
        int8.quantise(torch.nn.Linear(2, 2), "mine")


def test_labels_in_int8_come_with_their_ccc(speech, tmp_path, capsys):
    from wav2small import label
    from wav2small.teachers.labelling.options import ComputeOptions

    teacher = str(write(tmp_path / "teacher", SER))
    compute = ComputeOptions(workers=0, device="cpu", dtype="int8")
    label(speech, tmp_path / "labels.parquet", teacher=teacher, compute=compute)
    assert "int8: CCC with float32 on 24 clips: " in capsys.readouterr().err
    labelling = read_labels(tmp_path / "labels.parquet").provenance["labelling"]
    assert labelling["dtype"] == "int8" and labelling["ccc_with_float32"]["valence"] > 0.9
    with pytest.raises(Wav2SmallError, match="a table of other dtype"):
        label(speech, tmp_path / "labels.parquet", teacher=teacher, compute=ComputeOptions())


def test_out_of_memory_halves_the_batch(tmp_path, capsys):
    teacher = load_teacher(str(write(tmp_path, DAWN)), device="cpu")
    batch, lengths = signals((16000, 9377, 23456, 1700, 8000))
    expected = teacher.predict(batch, lengths)
    network, sizes = teacher.network, []

    def small(signal, counts):
        sizes.append(len(signal))
        if len(signal) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return network(signal, counts)

    teacher.network = small
    np.testing.assert_allclose(teacher.predict(batch, lengths), expected, atol=1e-5)
    assert sizes == [5, 2, 1, 2]  # the half that would not fit either is not tried
    assert "out of memory on cpu with 5 clips" in capsys.readouterr().err


# The reference, WavLM of transformers, gives torch two kinds of masks.
@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")
def test_fused_attention_is_the_same():
    """With gradients, as finetuning computes."""
    torch.manual_seed(0)
    model = backbones.build({"model_type": "wavlm", **SMALL}, "here").eval()
    signal, lengths = map(torch.from_numpy, signals())
    ours, mask = backbones.hidden_states(model, signal, lengths)
    for module in model.modules():
        module.__dict__.pop("torch_multi_head_self_attention", None)
    theirs, _ = backbones.hidden_states(model, signal, lengths)
    torch.testing.assert_close(ours[mask], theirs[mask], atol=1e-5, rtol=0)


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("stable", [False, True])
@pytest.mark.parametrize("family", ["wavlm", "wav2vec2", "hubert"])
def test_inference_is_what_transformers_computes(family, stable, gpu, monkeypatch):
    """The ways of a GPU run on a CPU too, only slower."""
    torch.manual_seed(0)
    config = {"model_type": family, **SMALL, "conv_bias": True, "do_stable_layer_norm": stable}
    model = backbones.build(config, "here").eval()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    signal, lengths = map(torch.from_numpy, signals((16000, 9377, 23456, 1700, 400)))
    theirs, mask = backbones.hidden_states(model, signal, lengths)
    monkeypatch.setattr(inference, "on_gpu", lambda states: gpu)
    with torch.inference_mode():
        ours, own_mask = backbones.hidden_states(model, signal, lengths)
        with torch.autocast("cpu", torch.bfloat16):
            rough, _ = backbones.hidden_states(model, signal, lengths)
    assert (own_mask[:, : mask.shape[1]] == mask).all() and ours.dtype == rough.dtype
    torch.testing.assert_close(ours[mask], theirs[mask].detach(), atol=2e-5, rtol=0)
    torch.testing.assert_close(rough[mask], theirs[mask].detach(), atol=0.2, rtol=0)
    assert (rough[mask] - theirs[mask]).square().mean().sqrt() < 0.03


def test_adapters_are_not_passed_over():
    """A wrapped layer computes more than its weight."""
    model = backbones.build({"model_type": "wavlm", **SMALL}, "here").eval()
    with torch.no_grad():
        assert inference.fits(model)
        attention = model.encoder.layers[1].attention
        attention.q_proj = torch.nn.Sequential(attention.q_proj)
        assert not inference.fits(model)
    assert not inference.fits(model.train())
