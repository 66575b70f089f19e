"""Teachers of categories alone, their placement in arousal, dominance and valence; licences."""

import json

import numpy as np
import pandas as pd
import pytest
import soundfile
import test_onnx
import torch
from labelling_cases import label
from safetensors.torch import load_file
from test_teachers_neural import DAWN, SER, oracle_ser, signals, write

from wav2small import Predictor, Stream, distill, evaluate, predict, read_labels
from wav2small.benchmarks.audit.audit import audit
from wav2small.benchmarks.audit.corpus import ClipOptions
from wav2small.benchmarks.report.report import PageOptions, report
from wav2small.errors import Wav2SmallError
from wav2small.export import licences
from wav2small.export.export import export_bundle
from wav2small.export.verification import verify_bundle
from wav2small.students import registry
from wav2small.teachers import load_teacher
from wav2small.teachers.acoustic.placement import placements
from wav2small.teachers.base import columns
from wav2small.teachers.speech.wavlm import PUBLISHED_CATEGORIES

EIGHT = SER | {"num_classes": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("eight"), EIGHT)


def softmax(logits):
    shares = np.exp(logits - logits.max())
    return shares / shares.sum()


def test_the_published_layout_gives_probabilities(folder):
    teacher = load_teacher(str(folder), device="cpu")
    assert teacher.dimensions == ()
    batch, lengths = signals()
    found = columns(teacher, batch, lengths)
    assert list(found) == [f"probability_{name}" for name in PUBLISHED_CATEGORIES]
    weights = load_file(folder / "model.safetensors")
    from wav2small.teachers.speech import checkpoint

    weights = {checkpoint.modern(key): value for key, value in weights.items()}
    for row, length in enumerate(lengths):
        expected = softmax(oracle_ser(EIGHT, weights, batch[row, :length]))
        np.testing.assert_allclose([v[row] for v in found.values()], expected, atol=1e-5)


@pytest.mark.parametrize("family", ["Wav2Vec2", "Hubert", "WavLM"])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_layout_of_transformers_gives_what_transformers_gives(family, weighted, tmp_path):
    import transformers

    torch.manual_seed(0)
    names = dict(enumerate(["neu", "hap", "ang", "sad"]))
    group = {"feat_extract_norm": "layer", "do_stable_layer_norm": True} if weighted else {}
    config = getattr(transformers, f"{family}Config")(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        conv_dim=[16] * 7, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
        classifier_proj_size=8, use_weighted_layer_sum=weighted, id2label=names,
        label2id={name: number for number, name in names.items()}, **group,
    )  # fmt: skip
    network = getattr(transformers, f"{family}ForSequenceClassification")(config).eval()
    if weighted:
        torch.nn.init.normal_(network.layer_weights)
    network.save_pretrained(tmp_path)
    batch, lengths = signals()
    found = columns(load_teacher(str(tmp_path), device="cpu"), batch, lengths)
    assert list(found) == [f"probability_{n}" for n in ("neutral", "happiness", "anger", "sadness")]
    for row, length in enumerate(lengths):
        signal = batch[row : row + 1, :length]
        signal = (signal - signal.mean()) / np.sqrt(signal.var() + 1e-7)
        expected = network(torch.from_numpy(signal)).logits[0].softmax(dim=0).detach()
        np.testing.assert_allclose([v[row] for v in found.values()], expected, atol=1e-5)


def test_outputs_without_names_are_no_categories(tmp_path):
    labels = {str(n): f"LABEL_{n}" for n in range(8)}
    write(tmp_path, EIGHT | {"id2label": labels})
    with pytest.raises(Wav2SmallError, match="names an output 'label_0'"):
        load_teacher(str(tmp_path))


@pytest.mark.parametrize("content", ['{"teachers": null}', '{"teachers": [3]}', '{"audio": {}}'])
def test_a_damaged_provenance_is_named(content, folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "provenance.json").write_text(content)
    with pytest.raises(Wav2SmallError, match=r"provenance.json: .*copy it again"):
        load_teacher(str(tmp_path))


@pytest.mark.parametrize("config", [EIGHT, DAWN])
def test_names_come_from_the_configuration(config, tmp_path):
    names = ["Sad", "happy", "NEUTRAL", "calm", "fear", "disgust", "surprise", "anger"]
    named = config | {"id2label": {str(n): name for n, name in enumerate(names)}}
    teacher = load_teacher(str(write(tmp_path, named)), device="cpu")
    assert teacher.categories[:3] == ("sadness", "happiness", "neutral")
    found = columns(teacher, *signals())
    np.testing.assert_allclose(np.sum(list(found.values()), axis=0), 1, atol=1e-5)


def test_placement(folder):
    batch, lengths = signals()
    plain = columns(load_teacher(str(folder), device="cpu"), batch, lengths)
    teacher = load_teacher(str(folder), device="cpu", placement=True)
    found = columns(teacher, batch, lengths)
    known = [name for name in PUBLISHED_CATEGORIES if name != "contempt"]  # nobody placed it
    shares = np.stack([plain[f"probability_{name}"] for name in known], axis=1)
    places = np.stack([placements()[name] for name in known])
    expected = (shares / shares.sum(axis=1, keepdims=True) @ places + 1) / 2
    got = np.stack([found[name] for name in ("arousal", "dominance", "valence")], axis=1)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    entry = teacher.provenance()[0]
    assert set(entry["placement"]) == set(known) and entry["revision"].endswith(";placement")
    with pytest.raises(Wav2SmallError, match="for teachers of categories alone"):
        load_teacher("acoustic", placement=True)


def test_an_onnx_model_of_categories_is_placed_too(tmp_path, clip):
    test_onnx.graph(tmp_path / "model.onnx", width=2)
    (tmp_path / "model.yaml").write_text(test_onnx.YAML.format("Angry, Sad"))
    teacher = load_teacher(str(tmp_path), placement=True)
    found = columns(teacher, clip[None], np.array([len(clip)]))
    shares = softmax(np.mean(clip.astype(float) ** 2) * np.array([1, 2]))
    places = [placements()[name][0] for name in ("anger", "sadness")]
    assert found["arousal"][0] == pytest.approx((shares @ places + 1) / 2, abs=1e-6)


def test_a_table_of_categories_is_no_training_material_until_placed(folder, speech, tmp_path):
    options = {"teacher": str(folder), "workers": 0, "device": "cpu"}
    source = speech / "labels.csv"
    assert label(source, tmp_path / "c.parquet", **options).rows == 24
    frame = read_labels(tmp_path / "c.parquet", partial=True, instead="probability_").frame
    assert "arousal" not in frame and "probability_anger" in frame
    with pytest.raises(Wav2SmallError, match="no column arousal"):
        distill(tmp_path / "c.parquet", tmp_path / "run")
    placed = {**options, "teacher_placement": True}
    label(source, tmp_path / "p.parquet", **placed)
    table = read_labels(tmp_path / "p.parquet")
    assert table.dimensions == ("arousal", "dominance", "valence")
    assert "placement" in table.provenance["teachers"][0]


@pytest.fixture(scope="module")
def alone(folder, speech, tmp_path_factory):
    """Label table, run and bundle of the eight categories without a dimension."""
    path = tmp_path_factory.mktemp("alone")
    options = {"teacher": str(folder), "workers": 0, "device": "cpu", "audio_licence": "CC0-1.0"}
    label(speech / "labels.csv", path / "l.parquet", **options)
    result = distill(
        path / "l.parquet", path / "run", student="nano", categories=True, epochs=2, batch_size=8
    )
    assert result.ccc == {} and 0 <= result.category_agreement <= 1
    exported = export_bundle(path / "run", path / "bundle")
    assert set(exported.record["clips"]["max_difference_by_dimension"]) == {*PUBLISHED_CATEGORIES}
    return path


def test_a_student_of_categories_alone_in_every_form(alone, clip):
    predictor = Predictor(alone / "bundle")
    assert (predictor.dimensions, len(predictor.categories)) == ((), 8)
    values, shares = predictor.predict_categories(clip)
    assert np.isnan(values).all() and shares.sum() == pytest.approx(1, abs=1e-6)
    with torch.no_grad():
        _, logits = registry.load(alone / "run").forward_categories(torch.from_numpy(clip)[None])
    np.testing.assert_allclose(shares, softmax(logits[0].numpy()), atol=0.01)
    for what in ("run", "bundle"):
        teacher = load_teacher(str(alone / what), device="cpu")
        found = columns(teacher, clip[None], np.array([len(clip)]))
        assert teacher.dimensions == ()
        np.testing.assert_allclose(np.stack([*found.values()])[:, 0], shares, atol=0.01)
    assert verify_bundle(alone / "bundle", run=alone / "run").clips["max_difference"] < 0.01
    truth = pd.read_parquet(alone / "l.parquet").iloc[:, :3].assign(emotion="Angry")
    truth.loc[::2, "emotion"] = "sad"
    truth.to_csv(alone / "truth.csv", index=False)
    root = read_labels(alone / "l.parquet", instead="probability_").root
    figures = [
        evaluate(alone / what, alone / "truth.csv", root=root, resamples=5).categories
        for what in ("run", "bundle")
    ]
    assert figures[0]["confusion"] == figures[1]["confusion"]
    page = report([alone / "run", alone / "bundle"], alone / "r.html", page=PageOptions(runs=0))
    text = page.read_text()
    assert "Categories of student and teacher" in text and ">contempt</text>" in text


def test_what_needs_dimensions_rejects_a_student_of_categories(alone, clip, speech):
    for call in (
        lambda: Predictor(alone / "bundle").predict(clip),
        lambda: Stream(alone / "bundle"),
        lambda: export_bundle(alone / "run", alone / "b2", streaming=True),
        lambda: audit(alone / "bundle", speech, clips=ClipOptions(limit=2)),
    ):
        with pytest.raises(Wav2SmallError, match="estimates categories alone") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_predict_writes_categories_and_leaves_dimensions_empty(alone, speech, tmp_path):
    predict(alone / "bundle", speech, tmp_path / "p.csv")
    found = pd.read_csv(tmp_path / "p.csv")
    assert found[["arousal", "dominance", "valence"]].isna().all(axis=None)
    shares = found[[f"probability_{name}" for name in PUBLISHED_CATEGORIES]]
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-3)


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    path = tmp_path_factory.mktemp("noise")
    sound = 0.1 * np.random.default_rng(0).normal(size=32000)
    soundfile.write(path / "hum.wav", sound, 16000)
    return str(path)


@pytest.mark.parametrize("licence", ["unknown", "CC-BY-NC-4.0", "Apache-2.0"])
def test_what_is_mixed_into_variants_binds_the_labels(licence, noise, speech, tmp_path):
    label(
        speech / "labels.csv",
        tmp_path / "l.parquet",
        variants=1,
        noise=noise,
        noise_licence=licence,
        audio_licence="CC0-1.0",
        workers=0,
    )
    forbidding = licences.forbidding(read_labels(tmp_path / "l.parquet").provenance)
    if licence == "Apache-2.0":
        assert forbidding == []
    else:
        assert forbidding == [f"audio {noise} ({licence})"]


def test_a_licence_of_no_folder_is_rejected(speech, tmp_path):
    with pytest.raises(Wav2SmallError, match="--rooms-licence MIT: it is for --rooms FOLDER"):
        label(speech, tmp_path / "l.parquet", variants=1, rooms_licence="MIT")


class NonCommercial:
    name = id = "nc"
    revision, licence, sampling_rate = "1", "CC-BY-NC-SA-4.0", 16000
    dimensions, invariances = ("arousal", "dominance", "valence"), frozenset()

    def predict(self, batch, lengths):
        return np.clip(np.tile(np.abs(batch).mean(axis=1), (3, 1)).T, 0, 1)


def test_a_teacher_online_and_its_noise_bind_the_student(labels, noise, tmp_path):
    settings = {"epochs": 1, "batch_size": 8, "crop_s": 0.5, "noise": noise}
    distill(labels, tmp_path / "run", online=NonCommercial(), **settings)
    lineage = json.loads((tmp_path / "run/provenance.json").read_text())
    assert licences.forbidding(lineage) == [
        "teacher nc (CC-BY-NC-SA-4.0)",
        f"audio {noise} (unknown)",
    ]
