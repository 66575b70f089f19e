"""Every student in every precision is still the student; bundles are complete or absent."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from nanos import random_nano
from onnx import numpy_helper

from wav2small import audio, provenance
from wav2small.errors import Wav2SmallError
from wav2small.export import bundle as bundle_module
from wav2small.export import forms, licences
from wav2small.export.export import VerificationError, build, export_bundle
from wav2small.export.onnx import frontend, layers, models, streaming, wav2small
from wav2small.export.onnx.graph import Graph
from wav2small.export.onnx.weights import PRECISIONS, Weights
from wav2small.export.signals import signals
from wav2small.export.verification import VerificationOptions, student_run, verify_bundle
from wav2small.session import (
    SESSION_ENTRIES,
    check_self_contained,
    check_version,
    file_run,
    open_session,
)
from wav2small.stream import Stream
from wav2small.students import quantisation, registry
from wav2small.students.frontend import dft, mel_bands

SIZES = {  # bytes of model.onnx without a lineage
    ("wav2small", "int4"): 60_000,
    ("wav2small", "int8"): 80_000,
    ("wav2small2", "int8"): 26_000,
    ("nano", "int8"): 34_000,
    ("mobilenetv4_conv_small", "int8"): 2_800_000,
}


def student(name, **config):
    """A student with random weights and BatchNorm statistics, as if trained."""
    torch.manual_seed(3)
    made = registry.create(name, **config)
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.7, 1.4)
            torch.nn.init.uniform_(module.weight, 0.7, 1.3)
            torch.nn.init.normal_(module.bias, 0, 0.1)
    return made.eval()


def difference(made, model, signals):
    file = file_run(model.SerializeToString())
    torch_run = student_run(made)
    return max(np.abs(torch_run(signal) - file(signal)).max() for signal in signals)


@pytest.fixture(scope="module")
def clips(speech):
    return [audio.read(file) for file in sorted(speech.glob("*.flac"))[:8]]


@pytest.fixture(scope="module")
def nano_run(speech, tmp_path_factory):
    """Folder of an untrained nano: no validation set in it."""
    folder = tmp_path_factory.mktemp("nano") / "run"
    student("nano").save_pretrained(folder)
    lineage = provenance.new(
        teachers=[{"name": "acoustic", "id": "acoustic", "revision": "1", "licence": "MIT"}],
        audio=[{"source": "/home/me/recordings", "licence": "CC0-1.0"}],
    )
    (folder / "provenance.json").write_text(json.dumps(lineage))
    return folder


@pytest.mark.parametrize("name", registry.names())
def test_every_student_exports_in_every_precision(name, clips):
    made = student(name)
    heavy = name.startswith("mobilenetv4_conv_medium") or name.endswith("large")
    signals = clips[:1] if heavy else [*clips[:2], clips[0][:1600], np.tile(clips[0], 5)]
    for precision, allowed in zip(PRECISIONS, (1e-4, 0.1, 0.3, 0.3), strict=True):
        if heavy and precision != "int8":
            continue
        model = build(made, precision, calibration=clips)
        size = len(model.SerializeToString())
        assert size <= SIZES.get((name, precision), 40e6)
        assert [opset.version for opset in model.opset_import if not opset.domain] == [17]
        scale = max(1, np.abs(student_run(made)(signals[0])).max())
        if not name.startswith("mobilenet") or precision == "fp32":  # random ones are chaotic
            assert difference(made, model, signals) <= allowed * scale, precision


def test_loop_equals_the_full_clip_at_every_length(clips):
    made = student("wav2small")
    unrolled, _ = models.build(made, "fp32", unrolled=True)
    stepped, _ = models.build(made, "fp32")
    assert "Loop" in {node.op_type for node in stepped.graph.node}
    assert "Loop" not in {node.op_type for node in unrolled.graph.node}
    a, b = (file_run(model.SerializeToString()) for model in (unrolled, stepped))
    long = np.concatenate(clips)
    step = wav2small.STEP * 64  # samples of one turn
    for length in (1600, step - 1, step, step + 33, step + 64 * 6, 2 * step + 95, len(long)):
        np.testing.assert_allclose(a(long[:length]), b(long[:length]), atol=2e-6)


def test_hidden_states_are_the_embedding_and_categories_a_third_output(clips):
    made = student("wav2small2", categories=["anger", "joy"])
    session = open_session(build(made, "fp32").SerializeToString())
    logits, hidden, categories = session.run(None, {"signal": clips[0][None]})
    signal = torch.from_numpy(clips[0])[None]
    with torch.no_grad():
        expected = made.embed(signal)
        _, head = made.forward_categories(signal)
    np.testing.assert_allclose(hidden, expected, atol=1e-4)
    np.testing.assert_allclose(categories, head, atol=1e-4)
    assert logits.shape == (1, 3) and hidden.shape == (1, made.embedding)


@pytest.mark.parametrize("precision, levels", [("int8", 127), ("int4", 7)])
def test_stored_weights_are_the_grid_of_the_training(precision, levels):
    made = student("wav2small")
    graph = Graph()
    tensor = Weights(made, precision).store(graph, "vgg7.lin.weight")
    found = _evaluate(graph, tensor)
    weight = made.vgg7.lin.weight.detach().numpy().astype(np.float64)
    scale = np.abs(weight).max(axis=1, keepdims=True) / levels
    oracle = np.round(weight / scale) * scale
    np.testing.assert_allclose(found, oracle, rtol=6e-4, atol=1e-7)
    np.testing.assert_allclose(
        found, quantisation.fake_quantise(made.vgg7.lin.weight, levels).detach(), rtol=6e-4
    )


def test_odd_outputs_unpack_and_padding_is_zero():
    made = student("nano")
    weights = Weights(made, "fp32")
    weights.levels = {"adv.weight": 7}
    graph = Graph()
    found = _evaluate(graph, weights.store(graph, "adv.weight", pad={0: 5}))
    assert found.shape == (5, 64) and not found[3:].any()
    expected = quantisation.fake_quantise(made.adv.weight, 7).detach()
    np.testing.assert_allclose(found[:3], expected, rtol=1e-6)


@pytest.mark.parametrize("n_fft, mels", [(64, 26), (144, 26), (512, 40)])
def test_tables_computed_at_load(n_fft, mels):
    real, imag = dft(n_fft)
    graph = Graph()
    kernel = _evaluate(graph, frontend.dft_kernel(graph, real, imag))
    np.testing.assert_allclose(kernel[:, 0], np.concatenate([real, imag]), atol=5e-7)
    graph = Graph()
    found = _evaluate(graph, frontend.mel_matrix(graph, mel_bands(n_fft, mels)))
    np.testing.assert_allclose(found, np.tile(mel_bands(n_fft, mels).T, 2), rtol=1e-6, atol=1e-12)


def test_a_checkpoint_with_other_tables_keeps_them(clips):
    made = student("wav2small")
    with torch.no_grad():
        made.vgg7.spectrogram_extractor.conv_real.weight.mul_(1.01)
        made.vgg7.logmel_extractor.melW.mul_(0.9)
    assert difference(made, build(made, "fp32"), clips[:1]) < 1e-4


def _evaluate(graph, tensor):
    """Value of a tensor that depends on constants only."""
    graph.add("Identity", tensor, name="value")
    body = graph.body([], [onnx.helper.make_empty_tensor_value_info("value")])
    body.output[0].CopyFrom(onnx.helper.make_tensor_value_info("value", 1, None))
    model = onnx.helper.make_model(
        body, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8
    )
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {})[0]


def test_bundle_is_the_same_bytes_twice(nano_run, speech, tmp_path):
    for precision in ("int8", "int8-static"):
        for number in "12":
            export_bundle(
                nano_run,
                tmp_path / (precision + number),
                precision=precision,
                verification=VerificationOptions(calibration=speech, clips=4),
            )
        first, second = tmp_path / (precision + "1"), tmp_path / (precision + "2")
        names = sorted(path.name for path in first.iterdir())
        assert names == ["README.md", "model.onnx", "model.yaml", "provenance.json",
                         "verification.json"]  # fmt: skip
        for name in names:
            assert (first / name).read_bytes() == (second / name).read_bytes(), name


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_stream_and_plain_c_are_the_file(nano_run, speech, tmp_path, precision, capfd):
    """Also its last bias, which makes up for the rounding of the weights."""
    options = VerificationOptions(calibration=speech, tolerance=10.0)
    made = export_bundle(
        nano_run,
        tmp_path / "bundle",
        precision=precision,
        verification=options,
        streaming=True,
        c=True,
    )
    assert ("the int8 one" in capfd.readouterr().err) == (precision == "int4")
    assert made.record["streaming"]["max_difference"] <= 1e-5
    assert made.record["plain_c"]["max_difference"] <= 0.1
    card = (made.bundle / "README.md").read_text()
    assert f"at most {made.record['level']['20']:.2g} at 20 dB" in card
    shared = [path.read_bytes() for path in made.bundle.rglob("*") if path.is_file()]
    assert not any(b"/home/me" in data for data in shared)
    assert any(b"recordings: CC0-1.0" in data for data in shared)
    stream, offline = Stream(made.bundle, gate=False), file_run(made.bundle / "model.onnx")
    for file in sorted(speech.glob("*.flac"))[:6]:
        signal = audio.read(file)
        stream.reset()
        np.testing.assert_allclose(stream.push(signal)[-1].overall, offline(signal), atol=1e-5)
    verify_bundle(made.bundle)


def test_speech_of_stream_and_plain_c_is_the_files(speech, tmp_path, monkeypatch):
    clips = [audio.read(file) for file in sorted(speech.glob("*.flac"))[:12]]
    random_nano(clips, voice=True).save_pretrained(tmp_path / "run")
    options = VerificationOptions(calibration=speech, tolerance=10.0)
    made = export_bundle(
        tmp_path / "run", tmp_path / "bundle", verification=options, streaming=True, c=True
    )
    for form, allowed in (("streaming", 1e-5), ("plain_c", 0.2)):
        found = made.record[form]["speech"]
        assert found["count"] > len(signals()) and found["max_difference"] <= allowed
    verify_bundle(made.bundle)
    monkeypatch.setattr(forms, "HALF", 0.6)  # other frames count in the stream
    with pytest.raises(Wav2SmallError, match=r"speech of streaming\.onnx differs"):
        verify_bundle(made.bundle)


def test_a_stream_that_is_another_model_is_found(nano_run, speech, tmp_path):
    options = VerificationOptions(calibration=speech)
    with pytest.raises(Wav2SmallError, match="float activations"):
        export_bundle(nano_run, tmp_path / "no", precision="int8-static", streaming=True)
    made = export_bundle(nano_run, tmp_path / "bundle", verification=options, streaming=True)
    other = registry.load(nano_run)
    with torch.no_grad():
        other.adv.bias += 1e-3
    streaming.write_streaming(other, made.bundle)
    bundle_module.seal(made.bundle, made.record)
    with pytest.raises(Wav2SmallError, match=r"streaming\.onnx differs"):
        verify_bundle(made.bundle)


def test_lineage_reaches_card_and_file(bundle):
    metadata = open_session(bundle / "model.onnx").get_modelmeta().custom_metadata_map
    lineage = json.loads((bundle / "provenance.json").read_text())
    assert metadata["licence"] == provenance.licence_line(lineage)
    assert json.loads(metadata["wav2small.provenance"])["teachers"] == lineage["teachers"]
    card = (bundle / "README.md").read_text()
    assert provenance.licence_line(lineage) in card
    for word in ("Predictor", "onnxruntime", "audonnx", "InferenceSession.create", "ort->Run"):
        assert word in card
    record = json.loads((bundle / "verification.json").read_text())
    assert record["passed"] and record["session"] == {"session.x64quantprecision": "1"}
    assert {"silence", "clipping", "constant", "short (0.1 s)", "long (60 s)"} <= {
        row["name"] for row in record["signals"]
    }
    assert record["clips"]["count"] >= 4 and set(record["ccc"]["drop"]) == {
        "arousal", "dominance", "valence",
    }  # fmt: skip


def test_oldest_runtime(nano_run, clips, tmp_path):
    old = str(Path(sys.prefix, "peers", "ort120"))
    if not Path(old, "onnxruntime").is_dir():
        pytest.skip("no ONNX Runtime 1.20 here: make .venv/.peers")
    code = (
        f"import sys; sys.path.insert(0, {old!r})\n"
        "import onnxruntime, numpy, sys\n"
        "assert onnxruntime.__version__.startswith('1.20'), onnxruntime.__version__\n"
        "options = onnxruntime.SessionOptions()\n"
        f"for entry in {SESSION_ENTRIES}.items():\n"  # else int8-static saturates without VNNI
        "    options.add_session_config_entry(*entry)\n"
        "session = onnxruntime.InferenceSession(sys.argv[1], options)\n"
        "signal = numpy.load(sys.argv[2])[None]\n"
        "print(session.run(['logits'], {'signal': signal})[0][0].tolist())"
    )
    np.save(tmp_path / "clip.npy", clips[0])
    for name in ("wav2small", "wav2small2", "nano"):
        for precision in PRECISIONS:
            model = build(student(name), precision, calibration=clips)
            path = tmp_path / "model.onnx"
            path.write_bytes(model.SerializeToString())
            run = subprocess.run(
                [sys.executable, "-c", code, path, tmp_path / "clip.npy"],
                capture_output=True,
                text=True,
                check=True,
            )
            expected = file_run(path)(clips[0])
            np.testing.assert_allclose(json.loads(run.stdout), expected, atol=1e-4)


def _external(tmp_path, location):
    tensor = numpy_helper.from_array(np.zeros((1, 3), np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    node = onnx.helper.make_node("Identity", ["w"], ["logits"])
    graph = onnx.helper.make_graph(
        [node], "g", [], [onnx.helper.make_tensor_value_info("logits", 1, [1, 3])], [tensor]
    )
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    return path


@pytest.mark.parametrize("location", ["/etc/passwd", "../../secret", "weights.bin"])
def test_external_data_is_rejected(tmp_path, location):
    with pytest.raises(Wav2SmallError, match=location):
        check_self_contained(_external(tmp_path, location))


def test_a_failed_export_names_the_layer_and_leaves_the_old_bundle(nano_run, speech, tmp_path):
    output = tmp_path / "bundle"
    options = VerificationOptions(calibration=speech, clips=4)
    export_bundle(nano_run, output, verification=options)
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    with pytest.raises(Wav2SmallError, match="exists.*--overwrite"):
        export_bundle(nano_run, output, verification=options)
    with pytest.raises(VerificationError, match="worst layer: ") as caught:
        strict = replace(options, tolerance=1e-9)
        export_bundle(nano_run, output, overwrite=True, verification=strict)
    assert "blocks.3" in layers.table(caught.value.layers)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_changed_layer_is_found(clips):
    made = student("wav2small")
    model, graph = models.build(made, "fp32", unrolled=True)
    with torch.no_grad():
        made.vgg7.l5.conv.weight[0] += 0.2
    assert layers.worst(layers.compare(made, model, graph.layers, clips[0])).name == "vgg7.l5"


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda run: (run / "model.safetensors").unlink(), "no such file"),
        (lambda run: (run / "config.json").write_text('{"student": "giant"}'), "no student"),
        (
            lambda run: (run / "config.json").write_text(
                '{"student": "nano", "wav2small_version": "99"}'
            ),
            "written by wav2small 99",
        ),
        (lambda run: None, "--calibration FOLDER"),
    ],
)
def test_bad_runs(nano_run, tmp_path, spoil, message):
    import shutil

    run = tmp_path / "run"
    shutil.copytree(nano_run, run)
    spoil(run)
    with pytest.raises(Wav2SmallError, match=message) as caught:
        export_bundle(run, tmp_path / "bundle")
    assert str(caught.value).count("\n") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_bad_places_and_audio(nano_run, speech, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("")
    short = tmp_path / "short"
    short.mkdir()
    os.symlink(sorted(speech.glob("*.flac"))[0], short / "one.flac")
    for output, source, options, message in [
        (file, speech, {}, "a file"),
        (file / "bundle", speech, {}, "cannot write"),
        (other, speech, {"overwrite": True}, "replaces bundles only"),
        (tmp_path / "b", short, {}, "too few"),
        (tmp_path / "b", tmp_path / "gone", {}, "no such"),
        (tmp_path / "b", speech, {"precision": "int2"}, "fp32, int8, int4"),
    ]:
        with pytest.raises(Wav2SmallError, match=message):
            audio_options = VerificationOptions(calibration=source, clips=4)
            export_bundle(nano_run, output, verification=audio_options, **options)
    assert (other / "thesis.tex").exists() and not (tmp_path / "b").exists()


def test_audio_that_moved_asks_for_root(run, speech, tmp_path):
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    with pytest.raises(Wav2SmallError, match="--root FOLDER .* or --calibration"):
        options = VerificationOptions(root=str(tmp_path), clips=4)
        export_bundle(copy, tmp_path / "b", verification=options)
    options = VerificationOptions(root=str(speech), clips=4)
    export_bundle(copy, tmp_path / "b", verification=options)


def test_old_runtime_and_unknown_student():
    with pytest.raises(Wav2SmallError, match="1.19.2 is too old"):
        check_version("1.19.2")
    check_version("1.20.0")
    made = student("nano")
    type(made).name, name = "stranger", type(made).name
    try:
        with pytest.raises(Wav2SmallError, match="register_builder"):
            models.build(made, "fp32")
    finally:
        type(made).name = name


@pytest.mark.parametrize(
    "licence, allowed",
    [
        ("MIT", True),
        ("Apache-2.0", True),
        ("CC0-1.0", True),
        ("CC-BY-4.0", True),
        ("MIT; Apache-2.0", True),
        ("CC-BY-NC-SA-4.0", False),
        ("CC BY-NC 4.0", False),
        ("MIT; CC-BY-NC-4.0", False),
        ("unknown", False),
        ("research only", False),
        ("MIT but ask first", False),
    ],
)
def test_licences(licence, allowed):
    assert licences.allows_commercial(licence) is allowed


def test_check_licence_names_what_forbids(nano_run, speech, tmp_path):
    import shutil

    options = VerificationOptions(calibration=speech, clips=4)
    export_bundle(nano_run, tmp_path / "free", verification=options, check_licence="commercial")
    run = tmp_path / "run"
    shutil.copytree(nano_run, run)
    lineage = json.loads((run / "provenance.json").read_text())
    lineage["teachers"].append({"name": "wav2vec2", "licence": "CC-BY-NC-SA-4.0"})
    lineage["audio"].append({"source": "mine/"})
    (run / "provenance.json").write_text(json.dumps(lineage))
    with pytest.raises(Wav2SmallError) as caught:
        export_bundle(run, tmp_path / "b", verification=options, check_licence="commercial")
    assert "wav2vec2 (CC-BY-NC-SA-4.0)" in str(caught.value)
    assert "audio mine/ (unknown)" in str(caught.value)
    assert "acoustic" not in str(caught.value).split("not allowed by")[1]
    assert licences.forbidding({"code": {"name": "wav2small", "licence": "MIT"}})  # nothing named


def test_replace_folder_swaps_complete_folders(tmp_path):
    output = tmp_path / "b"
    for text in "12":
        with bundle_folder(output) as folder:
            (folder / "model.onnx").write_text(text)
        assert (output / "model.onnx").read_text() == text
    with pytest.raises(KeyError), bundle_folder(output) as folder:
        (folder / "model.onnx").write_text("3")
        raise KeyError
    assert (output / "model.onnx").read_text() == "2"
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def bundle_folder(output):
    return bundle_module.replace_folder(output, overwrite=True)
