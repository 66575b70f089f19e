"""The host benchmark: counts against independent ones, percentiles, fair ratios, bad input."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from wav2small.benchmarks import cost, host, latency, machine, memory, models, tables
from wav2small.errors import Wav2SmallError

FLOAT = TensorProto.FLOAT


def write(path, nodes, weights, *, inputs=None, outputs=None, opset=18):
    """Write an ONNX file; weights: name -> array."""
    graph = helper.make_graph(
        nodes,
        "net",
        inputs or [helper.make_tensor_value_info("signal", FLOAT, [1, None])],
        outputs or [helper.make_tensor_value_info("logits", FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9),
        path,
    )
    return path


def conv_net(path, *, channels=8, scale=1.0, fixed=None):
    """Waveform -> two convolutions -> 3 numbers, with a Reshape and an epsilon on the way."""
    rng = np.random.default_rng(0)
    weights = {
        "one": np.array([1], np.int64),
        "epsilon": np.array(1e-7, np.float32),
        "w1": rng.standard_normal((channels, 1, 64)).astype(np.float32) * scale,
        "w2": rng.standard_normal((channels, channels // 2, 3)).astype(np.float32),
        "b2": np.zeros(channels, np.float32),
        "w3": rng.standard_normal((3, channels)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Unsqueeze", ["signal", "one"], ["x"]),
        helper.make_node("Add", ["x", "epsilon"], ["x1"]),
        helper.make_node("Conv", ["x1", "w1"], ["c1"], strides=[32], name="first"),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], group=2, pads=[1, 1], name="second"),
        helper.make_node("GlobalAveragePool", ["c2"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "w3"], ["logits"], transB=1, name="last"),
    ]
    return write(
        path,
        nodes,
        weights,
        inputs=[helper.make_tensor_value_info("signal", FLOAT, [1, fixed])],
        outputs=[helper.make_tensor_value_info("logits", FLOAT, [1, 3])],
    )


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    return conv_net(tmp_path_factory.mktemp("net") / "net.onnx")


@pytest.fixture(scope="module")
def result(net):
    return host.benchmark([net, net], durations=[0.25, 0.5, 1], runs=101, warm_up=5)


def test_counts_of_a_convolution_stack(net):
    measured = cost.cost(net, 1.0)
    frames = (16000 - 64) // 32 + 1
    assert measured["parameters"] == 8 * 64 + 8 * 4 * 3 + 8 + 3 * 8
    assert measured["macs"] == frames * 8 * 64 + frames * 8 * 4 * 3 + 3 * 8
    assert measured["weight_bytes"] == 4 * measured["parameters"]
    assert [layer["name"] for layer in measured["layers"]] == ["first", "second", "last"]
    assert measured["layers"][1]["output"] == [1, 8, frames]
    assert measured["operators"]["FusedConv"] + measured["operators"]["Conv"] == 2
    assert measured["uncounted"] == []


def test_activation_peak_is_the_two_largest_neighbours(tmp_path):
    # 1000 samples -> Relu -> Reshape (a view) -> Neg: while Neg runs, its input and output live.
    nodes = [
        helper.make_node("Exp", ["signal"], ["a"]),
        helper.make_node("Reshape", ["a", "shape"], ["b"]),
        helper.make_node("Concat", ["b", "b", "b"], ["c"], axis=0),
        helper.make_node("ReduceSum", ["c"], ["logits"], keepdims=0),
    ]
    path = write(tmp_path / "peak.onnx", nodes, {"shape": np.array([10, -1], np.int64)})
    feed = {"signal": np.zeros((1, 1000), np.float32)}
    assert cost.activation_peak(path, feed) == 4 * (1000 + 3000)


@pytest.mark.parametrize(
    "node, shapes, weights, macs",
    [
        (("MatMul", ["x", "w"], {}), (2, 5, 7), {"w": (7, 11)}, 2 * 5 * 7 * 11),
        (("Gemm", ["x", "w"], {"transA": 1}), (7, 5), {"w": (7, 11)}, 5 * 7 * 11),
        (("Gemm", ["x", "w"], {"transB": 1}), (5, 7), {"w": (11, 7)}, 5 * 7 * 11),
        (("ConvTranspose", ["x", "w"], {"strides": [2]}), (1, 4, 10), {"w": (4, 6, 3)}, 720),
        (("Einsum", ["x", "w"], {"equation": "bij,jk->bik"}), (2, 3, 4), {"w": (4, 5)}, 120),
        (
            ("GRU", ["x", "w", "r"], {"hidden_size": 6}),
            (20, 1, 4),
            {"w": (1, 18, 4), "r": (1, 18, 6)},
            20 * 18 * 10,
        ),
        (
            ("LSTM", ["x", "w", "r"], {"hidden_size": 6, "direction": "bidirectional"}),
            (20, 1, 4),
            {"w": (2, 24, 4), "r": (2, 24, 6)},
            20 * 2 * 24 * 10,
        ),
        (("Conv", ["x", "w"], {"group": 4}), (1, 4, 8, 8), {"w": (4, 1, 3, 3)}, 36 * 4 * 9),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) and isinstance(value[0], str) else "",
)
def test_operator_rules(tmp_path, node, shapes, weights, macs):
    operator, inputs, attributes = node
    path = write(
        tmp_path / "one.onnx",
        [helper.make_node(operator, inputs, ["logits"], **attributes)],
        {name: np.ones(shape, np.float32) for name, shape in weights.items()},
        inputs=[helper.make_tensor_value_info("x", FLOAT, shapes)],
    )
    measured = cost.count(path, {"x": np.ones(shapes, np.float32)})
    assert measured["macs"] == macs
    assert measured["parameters"] == sum(int(np.prod(shape)) for shape in weights.values())


def test_what_a_loop_does_counts_every_turn(tmp_path):
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "w"], ["next"], name="inside"),
            helper.make_node("Identity", ["go"], ["again"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", FLOAT, [1, 6]),
        ],
        [
            helper.make_tensor_value_info("again", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", FLOAT, [1, 6]),
        ],
    )
    nodes = [helper.make_node("Loop", ["seven", "", "x"], ["logits"], body=body)]
    weights = {"w": np.ones((6, 6), np.float32) / 6, "seven": np.array(7, np.int64)}
    path = write(
        tmp_path / "loop.onnx",
        nodes,
        weights,
        inputs=[helper.make_tensor_value_info("x", FLOAT, [1, 6])],
    )
    feed = {"x": np.ones((1, 6), np.float32)}
    measured = cost.count(path, feed)
    assert measured["macs"] == 7 * 36
    assert measured["parameters"] == 36
    assert measured["uncounted"] == []
    assert measured["layers"][0]["operator"] == "MatMul x 7"
    assert cost.activation_peak(path, feed) >= 4 * 18


def test_weights_behind_dequantisation_count_once(tmp_path):
    rng = np.random.default_rng(0)
    weight = rng.integers(-7, 8, (4, 6)).astype(np.int8)
    int4 = helper.make_tensor(
        "packed", TensorProto.INT4, [6, 3], rng.integers(-7, 8, 18).astype(np.int8)
    )
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "scale"], ["dw"], axis=0),
        helper.make_node("DequantizeLinear", ["packed", "scale4"], ["d4"], axis=1),
        helper.make_node("MatMul", ["x", "dw"], ["a"], name="once"),
        helper.make_node("Transpose", ["dw"], ["dt"], perm=[1, 0]),
        helper.make_node("MatMul", ["a", "dt"], ["b"], name="again"),
        helper.make_node("Cast", ["w8"], ["f8"], to=FLOAT),
        helper.make_node("Mul", ["f8", "scale8"], ["d8"]),
        helper.make_node("MatMul", ["a", "d8"], ["c8"], name="int8 by hand"),
        helper.make_node("MatMul", ["c8", "d4"], ["c"], name="int4"),
        helper.make_node("ReduceSum", ["b"], ["s"], keepdims=0),
        helper.make_node("Add", ["c", "s"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", FLOAT, [1, 4])],
        [helper.make_tensor_value_info("logits", FLOAT, None)],
        [
            numpy_helper.from_array(weight, "w"),
            numpy_helper.from_array(np.full(4, 0.1, np.float32), "scale"),
            int4,
            numpy_helper.from_array(np.ones((6, 6), np.int8), "w8"),
            numpy_helper.from_array(np.ones((6, 1), np.float32), "scale8"),
            numpy_helper.from_array(np.full(3, 0.1, np.float32), "scale4"),
        ],
    )
    path = tmp_path / "quantised.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path
    )
    measured = cost.count(path, {"x": np.ones((1, 4), np.float32)})
    assert measured["parameters"] == 24 + 36 + 18
    assert measured["weight_bytes"] == 24 + 36 + 9
    assert measured["macs"] == 24 + 24 + 36 + 18
    assert [layer["parameters"] for layer in measured["layers"]] == [24, 0, 36, 18]


def test_two_numbers_in_one_byte(tmp_path):
    nodes = [
        helper.make_node("BitShift", ["packed", "four"], ["high"], direction="RIGHT"),
        helper.make_node("BitwiseAnd", ["packed", "fifteen"], ["low"]),
        helper.make_node("Concat", ["high", "low"], ["all"], axis=0),
        helper.make_node("Cast", ["all"], ["real"], to=FLOAT),
        helper.make_node("Mul", ["real", "scale"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["logits"]),
    ]
    weights = {
        "packed": np.full((4, 5), 0x12, np.uint8),
        "four": np.array(4, np.uint8),
        "fifteen": np.array(15, np.uint8),
        "scale": np.ones((8, 1), np.float32),
    }
    path = write(
        tmp_path / "packed.onnx",
        nodes,
        weights,
        inputs=[helper.make_tensor_value_info("x", FLOAT, [1, 8])],
    )
    measured = cost.count(path, {"x": np.ones((1, 8), np.float32)})
    assert (measured["parameters"], measured["weight_bytes"], measured["macs"]) == (40, 20, 40)


@pytest.mark.parametrize(
    "name, parameters_m, gmacs",  # the papers' figures at 224 x 224
    [("mobilenetv3_small_100", 2.5, 0.056), ("mobilenetv4_conv_small", 3.8, 0.2)],
)
def test_published_mobilenets(tmp_path, name, parameters_m, gmacs):
    torch = pytest.importorskip("torch")
    timm = pytest.importorskip("timm")
    from torch.utils.flop_counter import FlopCounterMode

    model = timm.create_model(name, pretrained=False, exportable=True).eval()
    image = torch.zeros(1, 3, 224, 224)
    path = tmp_path / "net.onnx"
    torch.onnx.export(model, (image,), path, dynamo=False, input_names=["image"])
    measured = cost.count(path, {"image": image.numpy()})
    # The export folds BatchNorm's two factors into one bias, so .5 % of the parameters go.
    assert measured["parameters"] == pytest.approx(
        sum(weight.numel() for weight in model.parameters()), rel=0.006
    )
    assert measured["parameters"] / 1e6 == pytest.approx(parameters_m, rel=0.02)
    with FlopCounterMode(display=False) as counter:
        model(image)
    assert measured["macs"] == counter.get_total_flops() / 2
    assert measured["macs"] / 1e9 == pytest.approx(gmacs, rel=0.08)


def test_percentiles_and_ratios_against_numpy():
    times = np.abs(np.random.default_rng(0).normal(10, 1, (1000, 2)))
    times[:, 1] = times[:, 0] * 2
    described = latency.describe(times[:, 0], 5.0)
    ordered = np.sort(times[:, 0])
    assert described["min_ms"] == ordered[0]
    assert described["p50_ms"] == pytest.approx((ordered[499] + ordered[500]) / 2)
    assert ordered[988] <= described["p99_ms"] <= ordered[991]
    assert described["real_time_factor"] == pytest.approx(described["p50_ms"] / 5000)
    assert latency.ratio(times[:, 0], times[:, 1]) == pytest.approx(
        {"ratio_of_medians": 2.0, "p10": 2.0, "p50": 2.0, "p90": 2.0}
    )


def test_rounds_are_interleaved(net):
    order = []

    class Spy:
        def __init__(self, name):
            self.name = name

        def feed(self, signal):
            return {}

        def run(self, feed):
            order.append(self.name)

    times = latency.measure([Spy("a"), Spy("b"), Spy("c")], 0.1, runs=4, warm_up=2)
    assert times.shape == (4, 3)
    assert ["".join(order[i : i + 3]) for i in range(0, 18, 3)] == ["abc", "bca", "cab"] * 2


@pytest.mark.parametrize(
    "exponent, verdict",
    [(1.0, "linear"), (2.0, "more than linear"), (0.5, "less than linear")],
)
def test_growth_exponent(exponent, verdict):
    durations = [0.5, 1, 5, 10, 30]
    costs = [3 * duration**exponent for duration in durations]
    measured = latency.growth(durations[::-1], costs[::-1])
    assert measured["exponent"] == pytest.approx(exponent)
    assert measured["over_s"] == [5, 10, 30]
    assert measured["verdict"] == verdict


def test_growth_of_a_constant_part_does_not_hide_the_square():
    durations = [0.5, 1, 5, 10, 30]
    measured = latency.growth(durations, [1 + 0.1 * duration**2 for duration in durations])
    assert measured["verdict"] == "more than linear"


@pytest.mark.parametrize("durations, costs", [([1], [1]), ([1, 2], [0, 1]), ([1, 1], [1, 1])])
def test_growth_needs_two_lengths(durations, costs):
    assert latency.growth(durations, costs) is None


@pytest.mark.parametrize(
    "load, cores, warned", [(None, 2, False), (1.0, 2, False), (2.5, 2, True), (2.5, 8, False)]
)
def test_busy_machine_is_reported(load, cores, warned):
    measured = {"load": load, "affinity": list(range(cores)), "cores": 64}
    assert bool(machine.busy(measured)) == warned


def test_same_bundle_twice_takes_the_same_time(result):
    ratios = [pair["ratio_of_medians"] for pair in result["pairs"]]
    assert len(ratios) == 3
    # .95 to 1.05 on a quiet machine; other tests may run at the same time.
    assert np.median(ratios) == pytest.approx(1, abs=0.1)
    assert [model["name"] for model in result["models"]] == ["net", "net #2"]


def test_result_is_json_and_tables_show_it(result):
    assert json.loads(json.dumps(result)) == result
    text, mark = tables.benchmark(result, layers=True), tables.benchmark(result, style="markdown")
    for needle in ("net #2", "p99", "0.25 s", "Conv", "ONNX Runtime", "1 thread(s)", "first call"):
        assert needle in text
    assert re.search(r"\| net +\| +0.25 s \|", mark)
    point = result["models"][0]["latency"][1]
    assert point["min_ms"] <= point["p10_ms"] <= point["p50_ms"] <= point["p99_ms"]
    assert point["runs"] == 101


@pytest.mark.skipif(not memory.supported(), reason="memory is measured on Linux only")
def test_memory_parts_of_known_sizes(tmp_path):
    # 4096 x 4096 float32 = 67 MB of weights; one activation of 64 MB from 1 s of audio.
    nodes = [
        helper.make_node("Expand", ["signal", "rows"], ["wide"]),
        helper.make_node("Exp", ["wide"], ["big"]),
        helper.make_node("ReduceSum", ["big"], ["total"], keepdims=0),
        helper.make_node("Gather", ["weights", "row"], ["some"]),
        helper.make_node("ReduceSum", ["some"], ["part"], keepdims=0),
        helper.make_node("Cast", ["total"], ["integer"], to=TensorProto.INT64),
        helper.make_node("Mod", ["integer", "sixteen"], ["row"]),
        helper.make_node("Add", ["total", "part"], ["logits"]),
    ]
    weights = {
        "rows": np.array([1000, 16000], np.int64),
        "sixteen": np.array(16, np.int64),
        "weights": np.random.default_rng(0).standard_normal((4096, 4096)).astype(np.float32),
    }
    path = write(tmp_path / "large.onnx", nodes, weights)
    measured = memory.measure(path, 1.0)
    assert measured["model_bytes"] == pytest.approx(4096 * 4096 * 4, rel=0.1)
    assert measured["activations_bytes"] == pytest.approx(2 * 64e6, rel=0.15)
    assert (
        measured["above_runtime_bytes"] == measured["model_bytes"] + measured["activations_bytes"]
    )
    assert 20e6 < measured["runtime_bytes"] < 200e6
    assert measured["load_ms"] > 0 and measured["first_call_ms"] > 0


def test_runtime_probe_is_the_identity():
    model = onnx.load_from_string(memory._NOTHING)
    onnx.checker.check_model(model)
    assert [node.op_type for node in model.graph.node] == ["Identity"]


@pytest.mark.parametrize("shape", [[None], [1, None], [None, None], [1, 1, None]])
def test_usual_waveform_inputs(tmp_path, shape):
    path = write(
        tmp_path / "net.onnx",
        [helper.make_node("ReduceMean", ["signal"], ["logits"], keepdims=1)],
        {},
        inputs=[helper.make_tensor_value_info("signal", FLOAT, shape)],
    )
    model = models.WaveformModel(path)
    assert float(model.run(model.feed(np.ones(100, np.float32)))[0].squeeze()) == 1


def test_a_length_that_fails_is_listed_and_the_others_go_on(tmp_path, net):
    fixed = conv_net(tmp_path / "fixed.onnx", fixed=16000)
    measured = host.benchmark(
        [net], against=[fixed], durations=[0.5, 1], runs=3, memory=False, cost=False
    )
    assert [rejected["duration_s"] for rejected in measured["models"][1]["rejected"]] == [0.5]
    assert [point["duration_s"] for point in measured["models"][1]["latency"]] == [1.0]
    assert measured["models"][1]["yardstick"] and not measured["models"][0]["yardstick"]
    assert "rejected 0.5 s" in tables.benchmark(measured)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda folder: folder / "absent", "no such bundle"),
        (lambda folder: folder, "no model.onnx"),
        (lambda folder: _text(folder / "text.onnx"), "cannot load it"),
        (lambda folder: _two_inputs(folder / "two.onnx"), "exactly one waveform input"),
    ],
    ids=["absent", "empty folder", "text", "two inputs"],
)
def test_bad_models(tmp_path, make, message):
    with pytest.raises(Wav2SmallError, match=message) as error:
        host.benchmark([make(tmp_path)])
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"bundles": []}, "nothing to benchmark"),
        ({"durations": [0]}, "--durations"),
        ({"runs": 0}, "--runs"),
        ({"threads": 0}, "--threads"),
    ],
)
def test_bad_settings(net, options, message):
    with pytest.raises(Wav2SmallError, match=message):
        host.benchmark(**{"bundles": [net], **options})


def test_command(net):
    command = [sys.executable, "-m", "wav2small", "benchmark", str(net), "--durations", "0.5"]
    command += ["--runs", "5", "--no-memory"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["settings"]["runs"] == 5
    done = subprocess.run([*command[:4], "absent/"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def _text(path):
    path.write_text("not a model")
    return path


def _two_inputs(path):
    names = ["signal", "state"]
    return write(
        path,
        [helper.make_node("Add", names, ["logits"])],
        {},
        inputs=[helper.make_tensor_value_info(name, FLOAT, [1, None]) for name in names],
    )
