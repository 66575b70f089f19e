"""ONNX models as teachers, against the same networks in torch."""

import json
import pickle
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from labelling_cases import label
from onnx import TensorProto, helper, numpy_helper
from test_teachers_neural import DAWN, signals, write
from torch import nn

from wav2small.errors import Wav2SmallError
from wav2small.session import open_session
from wav2small.tables import read_labels
from wav2small.teachers import load_teacher
from wav2small.teachers.base import columns
from wav2small.teachers.speech import checkpoint, wav2vec2
from wav2small.teachers.speech.onnx import OnnxTeacher

YAML = "$audonnx.core.model.Model==0.5.1:\n  path: model.onnx\n  labels:\n    logits: [{}]\n"


class Single(nn.Module):
    """The wav2vec2 teacher for one clip without padding, as its published ONNX file computes it."""

    def __init__(self, folder: Path):
        super().__init__()
        self.network = wav2vec2.Wav2vec2Network(
            json.loads((folder / "config.json").read_text())
        ).eval()
        checkpoint.load_weights(self.network, checkpoint.local(folder))

    def forward(self, signal):
        signal = signal - signal.mean(dim=1, keepdim=True)
        signal = signal / torch.sqrt((signal**2).mean(dim=1, keepdim=True) + 1e-7)
        hidden = self.network.backbone(signal).last_hidden_state.mean(dim=1)
        return hidden, self.network.head(hidden)[0]


class Masked(nn.Module):
    """Mean and deviation of what the mask leaves, mixed: takes clips in batches."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(2, 3)

    def forward(self, input_values, attention_mask):
        mask = attention_mask.float()
        count = mask.sum(dim=1, keepdim=True)
        mean = (input_values * mask).sum(dim=1, keepdim=True) / count
        power = (input_values**2 * mask).sum(dim=1, keepdim=True) / count
        return self.mix(torch.cat([10 * mean, 10 * power], dim=1))


def save(model, arguments, path, inputs, outputs, axes):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        model.eval(),
        arguments,
        path,
        input_names=inputs,
        output_names=outputs,
        dynamic_axes=axes,
        opset_version=17,
        dynamo=False,
    )


@pytest.fixture(scope="module")
def dawn(tmp_path_factory):
    """A checkpoint of torch, and the same network as an audonnx folder."""
    folder = tmp_path_factory.mktemp("dawn")
    write(folder / "torch", DAWN)
    names = ["hidden_states", "logits"]
    example = (torch.randn(1, 16000),)
    model = Single(folder / "torch")
    save(model, example, folder / "onnx/model.onnx", ["signal"], names, {"signal": {1: "time"}})
    (folder / "onnx/model.yaml").write_text(YAML.format("arousal, dominance, valence"))
    return folder


def graph(
    path: Path,
    *,
    inputs=(("signal", [1, None]),),
    width=3,
    outputs=("logits",),
    metadata=None,
    kind=TensorProto.FLOAT,
) -> Path:
    """Mean square of the waveform times 1, 2, 3 ...; every output the same."""
    name = inputs[0][0]
    nodes = [
        helper.make_node("Mul", [name, name], ["square"]),
        helper.make_node("ReduceMean", ["square"], ["mean"], axes=[-1], keepdims=1),
    ]
    nodes += [helper.make_node("Mul", ["mean", "scale"], [output]) for output in outputs]
    scale = np.arange(1, width + 1, dtype=np.float32)[None]
    values = [helper.make_tensor_value_info(n, kind, shape) for n, shape in inputs]
    found = [helper.make_tensor_value_info(o, TensorProto.FLOAT, [1, width]) for o in outputs]
    made = helper.make_graph(nodes, "g", values, found, [numpy_helper.from_array(scale, "scale")])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    if metadata:
        helper.set_model_props(model, metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def apart(teacher, batch, lengths):
    """Labels of a batch, clip by clip."""
    rows = range(len(lengths))
    return np.concatenate(
        [teacher.predict(batch[n : n + 1, : lengths[n]], lengths[n : n + 1]) for n in rows]
    )


def test_an_audonnx_folder_labels_as_the_network_in_torch(dawn):
    batch, lengths = signals()
    expected = load_teacher(str(dawn / "torch"), device="cpu").predict(batch, lengths)
    teacher = load_teacher(str(dawn / "onnx"))
    assert teacher.dimensions == ("arousal", "dominance", "valence")
    np.testing.assert_allclose(teacher.predict(batch, lengths), expected, atol=1e-5)
    np.testing.assert_allclose(apart(teacher, batch, lengths), expected, atol=1e-5)
    again = pickle.loads(pickle.dumps(teacher))
    assert again.revision == teacher.revision
    np.testing.assert_array_equal(again.predict(batch, lengths), teacher.predict(batch, lengths))


@pytest.mark.parametrize("name", ["attention_mask", "lengths"])
def test_a_batch_with_a_mask_or_lengths_equals_single_clips(name, tmp_path):
    class ByLength(Masked):
        def forward(self, signal, lengths):
            mask = torch.arange(signal.shape[1])[None] < lengths[:, None]
            return super().forward(signal, mask)

    torch.manual_seed(1)
    network = Masked() if name == "attention_mask" else ByLength()
    second = torch.ones(2, 8000).long() if name == "attention_mask" else torch.tensor([8000, 8000])
    axes = {"input_values": {0: "n", 1: "t"}, name: {0: "n", 1: "t"}, "logits": {0: "n"}}
    if name == "lengths":
        axes[name] = {0: "n"}
    example = (torch.randn(2, 8000), second)
    save(network, example, tmp_path / "m.onnx", ["input_values", name], ["logits"], axes)
    teacher = OnnxTeacher(tmp_path / "m.onnx", dimensions=["valence", "arousal", "dominance"])
    batch, lengths = signals()
    found = teacher.predict(batch, lengths)
    np.testing.assert_allclose(found, apart(teacher, batch, lengths), atol=1e-5)
    mask = torch.arange(batch.shape[1])[None] < torch.from_numpy(lengths)[:, None]
    expected = Masked.forward(network, torch.from_numpy(batch), mask).detach().numpy()
    np.testing.assert_allclose(found, expected[:, [1, 2, 0]], atol=1e-5)  # A, D, V


def test_a_bundle_labels_as_its_student_and_keeps_its_lineage(run, tmp_path, clip):
    from wav2small.export.export import export_bundle

    export_bundle(run, tmp_path / "bundle", precision="fp32")
    teacher, student = load_teacher(str(tmp_path / "bundle")), load_teacher(str(run))
    one = clip[None], np.array([len(clip)])
    np.testing.assert_allclose(teacher.predict(*one), student.predict(*one), atol=1e-5)
    assert teacher.licence == student.licence
    bare = load_teacher(str(tmp_path / "bundle" / "model.onnx"))
    assert [entry["name"] for entry in bare.provenance()] == ["wav2small", "acoustic"]


def test_columns_are_ordered_by_name_and_scaled(tmp_path, clip):
    path = graph(tmp_path / "m.onnx")
    given = {"dimensions": ["Valence", "arousal", "dominance"], "scale": (-1.0, 1.0)}
    teacher = load_teacher(str(path), **given)
    power = np.mean(clip.astype(np.float64) ** 2)
    expected = (power * np.array([2, 3, 1]) + 1) / 2
    found = teacher.predict(clip[None], np.array([len(clip)]))[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert teacher.revision != load_teacher(str(path), dimensions=given["dimensions"]).revision


def test_hidden_states_become_a_column_on_request(dawn, speech, tmp_path, clip):
    one = clip[None], np.array([len(clip)])
    teacher = load_teacher(str(dawn / "onnx"), embedding="hidden_states")
    hidden, expected = Single(dawn / "torch")(torch.from_numpy(clip[None]))
    found = teacher.predict_columns(*one)
    np.testing.assert_allclose(found["embedding"], hidden.detach(), atol=1e-5)
    np.testing.assert_allclose(teacher.predict(*one), expected.detach(), atol=1e-5)
    options = {"teacher": str(dawn / "onnx"), "teacher_embedding": "hidden_states"}
    for workers in (0, 1):
        output = tmp_path / f"{workers}.parquet"
        label(speech / "labels.csv", output, workers=workers, **options)
        column = read_labels(output).frame["embedding"]
        assert len(column) == 24 and column[0].shape == (32,)
    with pytest.raises(Wav2SmallError, match=r"no output middle.*hidden_states"):
        load_teacher(str(dawn / "onnx"), embedding="middle")


def test_categories_become_probabilities(tmp_path, clip):
    graph(tmp_path / "model.onnx", width=4)
    (tmp_path / "model.yaml").write_text(YAML.format("Angry, sad, happiness, neutral"))
    teacher = load_teacher(str(tmp_path))
    assert teacher.dimensions == ()
    found = teacher.predict_columns(clip[None], np.array([len(clip)]))
    logits = np.mean(clip.astype(np.float64) ** 2) * np.arange(1, 5)
    expected = np.exp(logits) / np.exp(logits).sum()
    assert list(found) == [f"probability_{n}" for n in ("anger", "sadness", "happiness", "neutral")]
    np.testing.assert_allclose([values[0] for values in found.values()], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("files", "metadata", "licence"),
    [
        ({}, None, "unknown"),
        ({}, {"licence": "Apache-2.0"}, "Apache-2.0"),
        ({}, {"license": "MIT"}, "MIT"),
        ({"README.md": "---\nlicense: cc-by-nc-4.0\n---\n"}, None, "CC-BY-NC-4.0"),
        ({"README.md": "\ufeff---\r\nlicense: mit\r\n---\r\n"}, None, "MIT"),
        (
            {"README.md": "---\nlicense:\n- mit\n- cc-by-nc-4.0\n---\n"},
            None,
            "MIT AND CC-BY-NC-4.0",
        ),
        ({"README.md": "---\nlicense: other\nlicense_name: my-nc\n---\n"}, None, "MY-NC"),
        ({"README.md": "---\nlicense: unknown\n---\n"}, None, "unknown"),
        ({"README.md": "---\ntags: [a]\n---\nIts data have\nlicense: mit\n"}, None, "unknown"),
        ({"README.md": "---\nlicense: mit\n---\n"}, {"license": "X-NC"}, "MIT AND X-NC"),
        (
            {"model.yaml": YAML.format("arousal, dominance, valence") + "  licence: X-1\n"},
            None,
            "X-1",
        ),
    ],
)
def test_licence(files, metadata, licence, tmp_path):
    path = graph(tmp_path / "m" / "model.onnx", metadata=metadata)
    for name, text in files.items():
        (tmp_path / "m" / name).write_text(text)
    options = {"dimensions": ["arousal", "dominance", "valence"]}
    assert load_teacher(str(path.parent), **options).licence == licence
    if licence == "unknown":
        teacher = load_teacher(str(path), licence="CC0-1.0", **options)
        assert teacher.licence == teacher.provenance()[0]["licence"] == "CC0-1.0"
    else:
        with pytest.raises(Wav2SmallError, match=f"is {licence}"):
            load_teacher(str(path.parent), licence="CC0-1.0", **options)


def test_the_folder_that_audeering_publishes_is_known(tmp_path):
    """Its layout, with other numbers: hidden_states [1, 1024] and logits [1, 3]."""
    path = graph(tmp_path / "w2v2" / "model.onnx", outputs=("hidden_states", "logits"))
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1024
    model.graph.initializer.append(numpy_helper.from_array(np.ones((1, 1024), np.float32), "wide"))
    model.graph.node[2].input[1] = "wide"
    onnx.save(model, path)
    (path.parent / "model.yaml").write_text(YAML.format("arousal, dominance, valence"))
    teacher = load_teacher(str(path.parent))
    assert (teacher.name, teacher.licence) == ("wav2vec2", "CC-BY-NC-SA-4.0")
    with pytest.raises(Wav2SmallError, match="CC-BY-NC-SA-4.0"):
        load_teacher(str(path.parent), licence="MIT")


ADV = {"dimensions": ["arousal", "dominance", "valence"]}


@pytest.mark.parametrize(
    ("made", "options", "message"),
    [
        ({}, {}, "--teacher-dimensions arousal dominance valence"),
        ({"width": 4}, ADV, "has 4 columns, and 3 names"),
        ({}, {"dimensions": ["arousal", "arousal", "valence"]}, "each once"),
        ({}, {"dimensions": ["arousal", "age", "valence"]}, "mixes dimensions"),
        ({"outputs": ("a", "b")}, ADV, "name one of a, b with --teacher-output"),
        ({}, ADV | {"output": "nothing"}, "no output nothing; name one of logits"),
        ({"inputs": (("signal", [1, 48000]),)}, ADV, "of any length"),
        ({"inputs": (("mel", [1, 80, None]),)}, ADV, "needed is a waveform"),
        ({"inputs": (("x", [1, None]), ("y", [1, None]))}, ADV, "needed is a waveform"),
        ({}, ADV | {"device": "tpu"}, "--device tpu"),
        ({}, ADV | {"scale": (1.0, 1.0)}, "lowest first"),
        ({}, ADV | {"scale": (0.0, float("inf"))}, "two numbers"),
        ({"inputs": (("signal", [4, None]),)}, ADV, "needed is a waveform"),
        ({"inputs": (("x", ["n", "t"]), ("wav_lens", ["n"]))}, ADV, "whole numbers of samples"),
        ({"metadata": {"sampling_rate": "16 kHz"}}, ADV, "sampling_rate is '16 kHz'"),
        ({"metadata": {"sampling_rate": "0"}}, ADV, "sampling_rate is '0'"),
        ({}, {"dimensions": ["activation", "dominance", "valence"]}, "with --teacher-dimensions"),
    ],
)
def test_what_is_no_teacher_is_rejected_in_one_line(made, options, message, tmp_path):
    path = graph(tmp_path / "m.onnx", **made)
    with pytest.raises(Wav2SmallError, match=message) as caught:
        load_teacher(str(path), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            YAML.format("arousal") + "  transform:\n    $opensmile.core.smile.Smile==2.4: {}\n",
            "transform",
        ),
        ("a: [", "not YAML"),
        (YAML.format("arousal").replace("model.onnx", "other.onnx"), "no such file"),
        ("labels: arousal\n", "3 columns, and 1 names"),
        ("", "nothing names the 3 columns"),
        (YAML.format("arousal, dominance, valence") + "  sampling_rate: high\n", "is 'high'"),
    ],
)
def test_a_description_that_cannot_be_followed(text, message, tmp_path):
    graph(tmp_path / "model.onnx")
    (tmp_path / "model.yaml").write_text(text)
    with pytest.raises(Wav2SmallError, match=message):
        load_teacher(str(tmp_path))


def test_no_model_at_all(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(Wav2SmallError, match="cannot load it"):
        load_teacher(str(tmp_path))


def test_clips_go_one_by_one_where_padding_changes_the_output(tmp_path, capsys):
    """A mask that the model does not obey, as of wav2vec2-base, whose first layer normalises."""
    inputs = (("signal", ["n", None]), ("attention_mask", ["n", None]))
    teacher = OnnxTeacher(graph(tmp_path / "m.onnx", inputs=inputs), **ADV)
    batch, lengths = signals()
    expected = apart(teacher, batch, lengths)
    np.testing.assert_allclose(teacher.predict(batch, lengths), expected, rtol=1e-5)
    assert "one by one" in capsys.readouterr().err


def test_a_sampling_rate_of_the_description(tmp_path):
    graph(tmp_path / "model.onnx", metadata={"sampling_rate": "44100.0"})
    names = YAML.format("arousal, dominance, valence")
    (tmp_path / "model.yaml").write_text(names)
    assert load_teacher(str(tmp_path)).sampling_rate == 44100
    (tmp_path / "model.yaml").write_text(names + "  sampling_rate: 8000\n")
    assert load_teacher(str(tmp_path)).sampling_rate == 8000


def test_labels_of_another_scale_are_noted(speech, tmp_path, capsys):
    graph(tmp_path / "model.onnx", metadata=None)
    model = onnx.load(tmp_path / "model.onnx")
    model.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(np.array([[1e9, 0.1, 0.1]], np.float32), "scale")
    )
    onnx.save(model, tmp_path / "model.onnx")
    (tmp_path / "model.yaml").write_text(YAML.format("arousal, dominance, valence"))
    label(speech / "labels.csv", tmp_path / "l.parquet", teacher=str(tmp_path), workers=0)
    said = capsys.readouterr().err
    assert "24 of 24 labels of arousal are cut off" in said and "--teacher-scale" in said


def test_an_infinite_output_is_no_label(tmp_path, clip):
    path = graph(tmp_path / "m.onnx")
    teacher = OnnxTeacher(path, **ADV, scale=(0.0, 1e-45))
    with np.errstate(over="ignore"):
        found = columns(teacher, clip[None], np.array([len(clip)]))
    assert all(np.isnan(found[name]).all() for name in teacher.dimensions)


def test_options_of_onnx_models_are_for_them_alone():
    with pytest.raises(Wav2SmallError, match="--teacher-dimensions: Acoustic states itself"):
        load_teacher("acoustic", **ADV)


def test_label_in_worker_processes(speech, tmp_path, dawn):
    for workers in (0, 2):
        output = tmp_path / f"{workers}.parquet"
        result = label(speech / "labels.csv", output, teacher=str(dawn / "onnx"), workers=workers)
        assert result.rows == 24 and not result.errors
    apart, together = read_labels(tmp_path / "0.parquet"), read_labels(tmp_path / "2.parquet")
    np.testing.assert_array_equal(apart.values, together.values)
    assert apart.provenance["teachers"][0]["revision"].startswith("sha256:")


def test_sessions_of_a_teacher_have_one_thread(dawn):
    options = OnnxTeacher(dawn / "onnx").session.get_session_options()
    assert options.intra_op_num_threads == 1
    assert open_session(dawn / "onnx/model.onnx").get_providers() == ["CPUExecutionProvider"]
