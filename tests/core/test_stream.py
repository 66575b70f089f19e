"""Streaming: blocks of any size give what the offline model gives."""

import io
import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
import soundfile
import torch
from nanos import random_nano

import wav2small
from wav2small.errors import Wav2SmallError
from wav2small.follow import follow

RATE = 16000


@pytest.fixture(scope="module")
def signals(speech):
    return [soundfile.read(f, dtype="float32")[0] for f in sorted(speech.glob("*.flac"))]


@pytest.fixture(scope="module")
def nano(signals):
    return random_nano(signals)


@pytest.fixture(scope="module")
def bundle(nano, tmp_path_factory):
    """Streaming and offline nano, both in float weights."""
    from wav2small.export.onnx import models, streaming

    folder = tmp_path_factory.mktemp("bundle")
    onnx.save(models.build(nano, "fp32")[0], folder / "model.onnx")
    streaming.write_streaming(nano, folder, precision="fp32")
    return folder


@pytest.fixture(scope="module")
def windowed(tmp_path_factory):
    """A student that is not causal."""
    from wav2small.export.onnx import models
    from wav2small.students import registry

    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("windowed")
    onnx.save(models.build(registry.create("wav2small2").eval(), "int8")[0], folder / "model.onnx")
    return folder


def push_blocks(stream, signal, size):
    """All estimates; `size` 0 = random sizes."""
    rng = np.random.default_rng(0)
    estimates, start = [], 0
    while start < len(signal):
        stop = start + (size or int(rng.integers(0, 4000)))
        estimates += stream.push(signal[start:stop])
        start = stop
    return estimates


def offline(nano, signal):
    with torch.no_grad():
        return nano(torch.tensor(signal)[None])[0].numpy()


@pytest.mark.parametrize("size", [1, 7, 160, 1000, 16000, 0])
def test_blocks_equal_offline(bundle, nano, signals, size):
    stream = wav2small.Stream(bundle, gate=False)
    chosen = signals[:1] if size == 1 else signals[:4]
    for signal in chosen:
        stream.reset()
        estimates = push_blocks(stream, signal, size)
        np.testing.assert_allclose(estimates[-1].overall, offline(nano, signal), atol=1e-5)
        assert estimates[-1].time == pytest.approx(len(signal) // 256 * 256 / RATE)


def test_blocks_equal_offline_on_recordings(bundle, nano, emodb):
    stream = wav2small.Stream(bundle, gate=False)
    for file in sorted(emodb.rglob("*.flac"))[::90]:
        signal = soundfile.read(file, dtype="float32")[0]
        stream.reset()
        last = push_blocks(stream, signal, 0)[-1]
        np.testing.assert_allclose(last.overall, offline(nano, signal), atol=1e-5)


def test_every_estimate_is_the_offline_model_so_far(bundle, nano, signals):
    stream = wav2small.Stream(bundle, gate=False)
    for estimate in push_blocks(stream, signals[0], 300)[::25]:
        so_far = signals[0][: round(estimate.time * RATE)]
        np.testing.assert_allclose(estimate.overall, offline(nano, so_far), atol=1e-5)


def test_memory_against_float64(bundle, nano, signals):
    """The fading estimate, pooled again in numpy from each frame's gate and value."""
    signal, memory = signals[1], 0.8
    with torch.no_grad():
        x, _ = nano.features(torch.tensor(signal)[None])
        x = torch.relu(nano.stem(x))
        for block in nano.blocks:
            x = block(x)
        gate = torch.sigmoid(nano.gate(x))[0].double().numpy()
        value = torch.relu(nano.value(x))[0].double().numpy()
    age = np.arange(gate.shape[1])[::-1] * 256 / RATE
    keep = np.exp(-age / memory)
    embedding = (keep * gate * value).sum(1) / ((keep * gate).sum(1) + 1 / 256)
    weight, bias = (p.detach().double().numpy() for p in (nano.adv.weight, nano.adv.bias))
    last = push_blocks(wav2small.Stream(bundle, gate=False, memory=memory), signal, 500)[-1]
    found = [last.arousal, last.dominance, last.valence]
    np.testing.assert_allclose(found, weight @ embedding + bias, atol=1e-5)
    assert np.abs(np.array(found) - last.overall).max() > 1e-4


@pytest.mark.parametrize("size", [160, 5000])
def test_silence_moves_nothing(bundle, signals, size):
    stream = wav2small.Stream(bundle)
    before = push_blocks(stream, signals[0], size)[-1]
    counted = stream.heard
    noise = np.random.default_rng(0).normal(0, 10 ** (-70 / 20), 3 * RATE).astype(np.float32)
    push_blocks(stream, noise[:RATE], size)  # the gate holds for .2 s
    held = push_blocks(stream, noise[RATE : 2 * RATE], size)[-1]
    after = push_blocks(stream, noise[2 * RATE :], size)[-1]
    assert after.arousal == held.arousal and after.overall == held.overall
    assert abs(after.arousal - before.arousal) < 0.05
    assert after.heard == held.heard and stream.heard - counted < 0.3
    assert after.time > before.time + 2.9


def test_gate_thresholds(bundle):
    """A tone counts from -55 dBFS on, keeps counting at -58, and .2 s after it fell to -62."""
    tone = np.sqrt(2) * np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE).astype(np.float32)

    def counted(*levels, **options):
        stream = wav2small.Stream(bundle, **options)
        for level in levels:
            stream.push(tone * 10 ** (level / 20))
        return stream.heard

    assert counted(-55.5) == 0
    assert counted(-54.5) == pytest.approx(1, abs=0.02)
    assert counted(-54.5, -58) == pytest.approx(2, abs=0.02)
    assert counted(-54.5, -62) == pytest.approx(1.2, abs=0.03)
    # 40 dB below the loudest counts once that has faded by 10 dB, 36 dB below after 6 s
    assert counted(-10, -50) == pytest.approx(1.2, abs=0.03)
    assert counted(-10, *[-50] * 11) == pytest.approx(1.2 + 1, abs=0.15)
    assert counted(-10, *[-100] * 5, -46) == pytest.approx(1.2, abs=0.05)
    assert counted(-10, *[-100] * 7, -46) == pytest.approx(2.2, abs=0.05)
    assert counted(-10, -50, range_db=200) == pytest.approx(2, abs=0.02)


def test_voice_probability_weighs(bundle, signals):
    stream = wav2small.Stream(bundle, gate=False)
    stream.push(signals[0][:12800], voice_probability=0.5)
    assert stream.heard == pytest.approx(0.4)
    one = push_blocks(stream, signals[1][:12800], 160)[-1]
    held = stream.push(signals[2], voice_probability=0.0)[-1]
    assert held.overall == pytest.approx(one.overall, abs=1e-6) and held.heard == one.heard


@pytest.mark.parametrize("kind", ["bundle", "windowed"])
def test_first_estimate_after_a_quarter_of_a_second(request, kind, signals):
    stream = wav2small.Stream(request.getfixturevalue(kind), gate=False, hop=0.05)
    assert stream.push(signals[0][:3990]) == []
    estimates = stream.push(signals[0][3990:5000])
    assert estimates and estimates[0].time >= 0.25 and estimates[0].heard >= 0.25


@pytest.mark.parametrize("size", [7, 1000, 0])
def test_windows_of_a_student_that_is_not_causal(windowed, signals, size):
    signal = np.concatenate(signals[:3])
    stream = wav2small.Stream(windowed, gate=False, memory=2.0, hop=0.5)
    estimates = push_blocks(stream, signal, size)
    assert [e.time for e in estimates] == pytest.approx(np.arange(1, len(signal) // 8000 + 1) / 2)
    predictor = wav2small.Predictor(windowed)
    values = []
    for estimate in estimates:
        stop = round(estimate.time * RATE)
        values.append(predictor.predict(signal[max(0, stop - 32000) : stop]))
        found = [estimate.arousal, estimate.dominance, estimate.valence]
        np.testing.assert_allclose(found, values[-1], atol=1e-6)
    np.testing.assert_allclose(estimates[-1].overall, np.mean(values, axis=0), atol=1e-6)


@pytest.mark.parametrize("kind", ["bundle", "windowed"])
def test_a_block_longer_than_the_memory(request, kind, signals):
    signal = np.concatenate(signals[:4])
    stream = wav2small.Stream(request.getfixturevalue(kind), memory=0.5, hop=0.5)
    at_once, blocks = stream.push(signal), []
    stream.reset()
    for start in range(0, len(signal), 160):
        blocks += stream.push(signal[start : start + 160])
    assert len(at_once) == len(blocks) > 8
    for one, other in zip(at_once, blocks, strict=True):
        assert (one.time, one.heard) == (other.time, other.heard)
        np.testing.assert_allclose(one.overall, other.overall, atol=1e-5)
        assert one.arousal == pytest.approx(other.arousal, abs=1e-5)


def test_a_day_of_audio(bundle, nano, signals):
    """The sums fast-forwarded to 24 hours: a clip then moves the overall estimate by as much as
    it should, and the times count on."""
    stream = wav2small.Stream(bundle, gate=False)
    push_blocks(stream, signals[0], 1000)
    times = 24 * 3600 * RATE // stream.samples
    pool = stream._engine.pool.copy()
    half = pool.shape[1] // 2
    pool[:, half:] *= times
    stream._engine.pool = pool
    stream.samples *= times
    stream._heard *= times
    before = push_blocks(stream, signals[0], 1000)[-1]
    top, bottom = np.split(stream._engine.pool[0, half:], 2)
    old_top, old_bottom = np.split(pool[0, half:], 2)
    assert (bottom > old_bottom).all() and (top - old_top).max() > 0
    gained = (bottom - old_bottom) * times / old_bottom
    np.testing.assert_allclose(gained, 1, rtol=0.2)  # nothing is lost next to the large sum
    assert before.time > 24 * 3600 and np.isfinite(before.overall).all()
    stream.reset()
    assert stream.push(signals[0][:2000]) == []


@pytest.mark.parametrize(
    ("block", "options", "message"),
    [
        (np.array([0.0, np.nan]), {}, "NaN"),
        (np.array([0.0, np.inf]), {}, "infinite"),
        (np.array([0.0, 1e39]), {}, "infinite"),
        (np.zeros((2, 100)), {}, "one channel"),
        (np.zeros(100, np.int32), {}, "int32"),
        (np.zeros(100, np.uint8), {}, "uint8"),
        (np.zeros(100, complex), {}, "complex"),
        (np.zeros(10), {"sampling_rate": 44100}, "44100 Hz after blocks at 16000"),
        (np.zeros(10), {"voice_probability": 1.5}, "1.5"),
        (np.zeros(10), {"voice_probability": float("nan")}, "nan"),
    ],
)
def test_bad_blocks_leave_the_state(bundle, signals, block, options, message):
    stream, other = (wav2small.Stream(bundle) for _ in range(2))
    for one in (stream, other):
        one.push(signals[0][:10001])
    with pytest.raises(Wav2SmallError, match=message):
        stream.push(block, **options)
    assert stream.push(np.zeros(0)) == []
    assert stream.push(signals[0][10001:]) == other.push(signals[0][10001:])


@pytest.mark.parametrize(
    "options",
    [
        {"memory": 0.1},
        {"hop": 0.0},
        {"memory": float("nan")},
        {"memory": "4"},
        {"hop": None},
        {"open_db": -70.0},
        {"range_db": -1.0},
    ],
)
def test_bad_options(bundle, options):
    with pytest.raises(Wav2SmallError):
        wav2small.Stream(bundle, **options)


def test_not_a_streaming_model(tmp_path, bundle):
    (tmp_path / "model.onnx").write_bytes((bundle / "model.onnx").read_bytes())
    (tmp_path / "streaming.onnx").write_bytes((bundle / "model.onnx").read_bytes())
    with pytest.raises(Wav2SmallError, match="--streaming"):
        wav2small.Stream(tmp_path)


def test_a_damaged_model(tmp_path, bundle):
    for name in ("model.onnx", "streaming.onnx"):
        (tmp_path / name).write_bytes((bundle / name).read_bytes()[:3000])
    with pytest.raises(Wav2SmallError, match=r"streaming\.onnx: .*export it again"):
        wav2small.Stream(tmp_path)
    (tmp_path / "streaming.onnx").unlink()
    with pytest.raises(Wav2SmallError, match=r"model\.onnx: .*export it again"):
        wav2small.Stream(tmp_path)


def test_only_nano_streams_causally():
    from wav2small.export.onnx import streaming
    from wav2small.students import registry

    with pytest.raises(Wav2SmallError, match="sliding windows"):
        streaming.build(registry.create("wav2small2").eval())


def test_follow_reads_odd_parts(bundle, signals):
    """A pipe may cut a sample in two."""
    pcm = np.round(signals[0] * 32767).astype("<i2")

    class Pipe(io.BytesIO):
        def read1(self, size=-1):
            return self.read(min(size, 333))

    out = io.StringIO()
    assert follow(bundle, Pipe(pcm.tobytes()), out, gate=False) == 0
    rows = [json.loads(line) for line in out.getvalue().splitlines()]
    stream = wav2small.Stream(bundle, gate=False)
    estimates = push_blocks(stream, pcm, 1000)
    assert len(rows) == len(estimates)
    assert rows[-1]["overall"] == pytest.approx(estimates[-1].overall, abs=1e-5)
    assert rows[0]["time"] == pytest.approx(0.256)


@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_follow_rejects_files_with_a_header(bundle, signals, kind):
    file, out = io.BytesIO(), io.StringIO()
    soundfile.write(file, signals[0], RATE, format=kind)
    with pytest.raises(Wav2SmallError, match=f"{kind}.*ffmpeg"):
        follow(bundle, io.BytesIO(file.getvalue()), out)
    assert out.getvalue() == ""


def test_follow_in_a_pipe(bundle, signals):
    """The command, and a reader that goes away."""
    pcm = np.round(signals[0] * 32767).astype("<i2").tobytes()
    command = [sys.executable, "-m", "wav2small", "predict", str(bundle), "--follow", "-"]
    done = subprocess.run(command, input=pcm, capture_output=True, check=True)
    assert {"time", "arousal", "dominance", "valence"} <= json.loads(
        done.stdout.splitlines()[-1]
    ).keys()
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdout.close()
        try:
            process.stdin.write(pcm * 5)
            process.stdin.close()
        except BrokenPipeError:
            pass
        errors = process.stderr.read()
        assert process.wait() == 0 and errors == b""
