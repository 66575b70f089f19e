"""nano against a float64 oracle with an FFT; streaming, causality, level, and its limits."""

import json

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from wav2small.students import registry
from wav2small.students.costs import count
from wav2small.students.frontend import mel_bands
from wav2small.students.nano import Causal, FactoredSpectrogram, Log2Mel, Nano


@pytest.fixture(scope="module")
def student() -> Nano:
    """Random weights, statistics gathered on noise, so that every layer is alive."""
    torch.set_num_threads(1)
    torch.manual_seed(3)
    nano = registry.create("nano")
    assert isinstance(nano, Nano)
    for module in nano.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.momentum = 1.0
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    with torch.no_grad():
        nano.train()(torch.randn(8, 24000) * torch.rand(8, 24000).cumsum(1) / 24000)
        nano.adv.weight.mul_(5)
    return nano.eval()


def close(got: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal to 1e-5 of the largest value, or of 1."""
    scale = max(1.0, float(expected.detach().abs().max()))
    torch.testing.assert_close(got, expected.to(got), atol=1e-5 * scale, rtol=0)


@pytest.fixture(scope="module")
def signals(speech) -> list[np.ndarray]:
    return [soundfile.read(path, dtype="float32")[0] for path in sorted(speech.glob("*.flac"))[:4]]


def layer(w: dict[str, np.ndarray], name: str, x: np.ndarray, dilation: int = 1) -> np.ndarray:
    """Causal convolution and BatchNorm, one frame at a time: (T, C) -> (T, D)."""
    kernel = w[f"{name}.conv.weight"]  # (D, C / groups, K)
    size = kernel.shape[2]
    grouped = kernel.shape[1] == 1 and x.shape[1] > 1
    result = np.zeros((len(x), kernel.shape[0]))
    for t in range(len(x)):
        for tap in range(size):
            past = t - (size - 1 - tap) * dilation
            if past >= 0:
                weight = kernel[:, :, tap]
                result[t] += weight[:, 0] * x[past] if grouped else weight @ x[past]
    mean, variance = w[f"{name}.norm.running_mean"], w[f"{name}.norm.running_var"]
    result = (result - mean) / np.sqrt(variance + 1e-5)
    return result * w[f"{name}.norm.weight"] + w[f"{name}.norm.bias"]


def oracle(signal: np.ndarray, student: Nano) -> tuple[np.ndarray, np.ndarray]:
    """Embedding and A/D/V after every frame, as the docstring of the module defines them."""
    w = {key: value.double().numpy() for key, value in student.state_dict().items()}
    x = signal.astype(np.float64)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
    frames = np.array([x[i : i + 512] * window for i in range(0, len(x) - 511, 256)])
    power = np.abs(np.fft.rfft(frames)) ** 2
    b = np.log2(np.maximum(power @ mel_bands(512, 40), 2.0**-33))
    e = b[:, 4:28].mean(axis=1)
    m = np.array([max(-16, e[max(0, t - 249) : t + 1].max()) for t in range(len(e))])
    y = np.clip(b - m[:, None] + 6, -6, 16) / 8
    y = np.maximum(0, layer(w, "stem", y))
    for number, dilation in enumerate((1, 2, 4, 8)):
        z = layer(w, f"blocks.{number}.depthwise", y, dilation)
        y = y + np.maximum(0, layer(w, f"blocks.{number}.pointwise", z))
    gate = 1 / (1 + np.exp(-layer(w, "gate", y)))
    value = np.maximum(0, layer(w, "value", y))
    pooled = np.cumsum(gate * value, 0) / (np.cumsum(gate, 0) + 1 / 256)
    return pooled, pooled @ w["adv.weight"].T + w["adv.bias"]


def test_equals_float64_oracle(student, signals):
    results = []
    for signal in signals[:3]:
        pooled, adv = oracle(signal, student)
        batch = torch.from_numpy(signal)[None]
        close(student.embed(batch)[0], torch.from_numpy(pooled[-1]))
        close(student(batch)[0], torch.from_numpy(adv[-1]))
        results.append(adv[-1])
    assert np.std(results, axis=0).min() > 1e-3  # clips differ


@pytest.mark.parametrize("block", [1, 7, 160, 256, 1000, 16000, "random"])
def test_streaming_equals_offline(student, signals, block):
    signal = torch.from_numpy(signals[0])[None]
    rng = np.random.default_rng(0)
    state, start, outputs = student.initial_state(), 0, []
    while start < signal.shape[1]:
        size = int(rng.integers(0, 3000)) if block == "random" else block
        embedding, state = student.push(signal[:, start : start + size], state)
        start += size
        if size >= 256 and start >= 1600:
            outputs.append((start, embedding))
    assert embedding is not None
    close(embedding, student.embed(signal))
    for end, output in outputs[:: len(outputs) // 4 + 1]:  # and so does every one on the way
        expected = student.embed(signal[:, : min(end, signal.shape[1])])
        close(output, expected)


def test_other_sizes_stream_too(signals):
    """Options are free: a pointwise stem needs no past, other frames another level window."""
    torch.manual_seed(0)
    nano = registry.create(
        "nano", n_fft=256, rows=16, mels=32, stem_kernel=1, dilations=[2, 4], level_frames=20
    ).eval()
    assert isinstance(nano, Nano)
    signal = torch.from_numpy(signals[3])[None]
    state = nano.initial_state()
    for block in signal.split(777, dim=1):
        embedding, state = nano.push(block, state)
    assert embedding is not None and state.past[0].shape == (1, 32, 0)
    close(embedding, nano.embed(signal))


def test_level_is_of_the_bands_that_a_telephone_keeps(student):
    librosa = pytest.importorskip("librosa")
    centres = librosa.mel_frequencies(42, fmax=8000)[1:-1]
    assert list(np.flatnonzero((centres >= 300) & (centres < 3100))) == list(range(4, 28))
    assert student.level_bands == slice(4, 28)


def test_runs_of_older_versions_keep_their_level(student, tmp_path):
    student.save_pretrained(tmp_path)
    assert (tmp_path / "config.json").read_text().count("depth") == 1
    config = json.loads((tmp_path / "config.json").read_text())
    for option in ("level_hz", "least_level", "depth"):
        del config[option]
    (tmp_path / "config.json").write_text(json.dumps(config))
    former = registry.load(tmp_path)
    assert (former.level_bands, former.least_level, former.softest) == (slice(0, 40), -1e4, -16)


def test_state_is_small_and_bounded(student):
    state = student.initial_state()
    for _ in range(30):
        _, state = student.push(torch.randn(1, 5000), state)
    assert state.signal.shape[1] < 512
    assert [tuple(p.shape[1:]) for p in state.past] == [
        (40, 2),
        *((48, 4 * d) for d in (1, 2, 4, 8)),
    ]
    assert state.level.shape == (1, 249)
    assert sum(p.numel() for p in state.past) + 2 * state.level.numel() < 4096  # bytes, int8/int16


def test_nothing_before_the_first_frame(student):
    embedding, state = student.push(torch.randn(1, 511), student.initial_state())
    assert embedding is None
    embedding, _ = student.push(torch.randn(1, 1), state)
    assert embedding is not None


def test_future_changes_nothing(student, signals):
    """Features and level of frame t depend on samples up to 256 t + 511 only."""
    signal = torch.from_numpy(signals[1])[None]
    changed = signal.clone()
    changed[:, 512 + 256 * 20 :] = torch.randn(1, signal.shape[1] - 512 - 256 * 20)
    before, after = student.features(signal)[0], student.features(changed)[0]
    torch.testing.assert_close(before[:, :, :21], after[:, :, :21], atol=0, rtol=0)
    assert not torch.allclose(before[:, :, 21], after[:, :, 21])


@pytest.mark.parametrize("gain_db", [-20.0, -6.0, 6.0])
def test_recording_level_cancels(student, signals, gain_db):
    generator = torch.Generator().manual_seed(0)
    signal = torch.from_numpy(signals[2])[None]
    noise = torch.randn(signal.shape, generator=generator)
    signal = signal + 3e-2 * noise  # above -60 dB throughout
    louder = signal * 10 ** (gain_db / 20)
    torch.testing.assert_close(student(louder), student(signal), atol=1e-4, rtol=0)


def test_faint_noise_before_the_first_word_is_soft(student, signals):
    noise = 1e-5 * torch.randn(1, 16000, generator=torch.Generator().manual_seed(0))
    signal = torch.cat((noise, torch.from_numpy(signals[2])[None]), dim=1)
    x, _ = student.features(signal)
    assert (x[:, :, :60] == -6 / 8).all()
    assert x.max() > 0


def test_silence_and_clipping_stay_finite(student):
    for signal in (torch.zeros(1, 16000), torch.ones(1, 16000), 1e4 * torch.randn(1, 16000)):
        assert torch.isfinite(student(signal)).all()


@pytest.mark.parametrize(("n_fft", "rows"), [(512, 32), (512, 16), (256, 16), (64, 8)])
def test_factored_spectrogram_is_the_dft(n_fft, rows):
    signal = np.random.default_rng(1).normal(0, 0.1, 3 * n_fft).astype(np.float32)
    spectrogram = FactoredSpectrogram(n_fft, n_fft // 2, rows)
    training = spectrogram(torch.from_numpy(signal)[None])[0].numpy()
    got = spectrogram.eval()(torch.from_numpy(signal)[None])[0].numpy()
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    frames = np.array(
        [signal[i : i + n_fft] * window for i in range(0, len(signal) - n_fft + 1, n_fft // 2)]
    )
    power = np.abs(np.fft.rfft(frames)) ** 2
    np.testing.assert_allclose(training, power, atol=1e-5 * power.max())
    np.testing.assert_allclose(got, power[:, spectrogram.bins], atol=1e-5 * power.max())
    assert sorted(spectrogram.bins[spectrogram.once]) == list(range(n_fft // 2 + 1))


def test_limits(student):
    """What a Cortex-M needs: parameters, arithmetic, widths and operators with an int8 form."""
    cost = count(student)
    assert cost.parameters <= 25_000
    assert cost.macs_per_second - cost.macs_frontend <= 5_000_000
    convolutions = [m for m in student.modules() if isinstance(m, nn.Conv1d)]
    assert all(m.out_channels % 8 == 0 and m.in_channels % 8 == 0 for m in convolutions)
    assert all(m.bias is None and m.padding == (0,) for m in convolutions)
    leaves = {type(m) for m in student.modules() if not list(m.children())}
    names = {leaf.__name__ for leaf in leaves}
    assert names == {"Conv1d", "BatchNorm1d", "Linear", "FactoredSpectrogram", "Log2Mel"}


def test_wrong_frame_is_rejected():
    with pytest.raises(ValueError, match="multiple of 24"):
        FactoredSpectrogram(512, 256, 24)


def test_training_takes_the_same_bands():
    """By an FFT where a gradient is wanted, by the products of the export elsewhere."""
    spectrogram = FactoredSpectrogram(512, 256, 32)
    bands = Log2Mel(spectrogram, 40)
    signal = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
    found, expected = bands(spectrogram(signal)), bands(spectrogram.eval()(signal))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dilation", [1, 4])
def test_depthwise_sums_are_the_convolution(dilation):
    """Outputs and gradients in training are those of torch's convolution."""
    torch.manual_seed(0)
    layer = Causal(6, 6, 5, dilation, groups=6).double()
    x = torch.randn(2, 6, 40, dtype=torch.float64, requires_grad=True)
    direct = layer.conv(nn.functional.pad(x, (layer.context, 0)))
    expected = nn.functional.batch_norm(direct, None, None, training=True, eps=layer.norm.eps)
    found = layer(x)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(found)
    inputs = (x, layer.conv.weight)
    gradients = [torch.autograd.grad((y * weights).sum(), inputs) for y in (found, expected)]
    torch.testing.assert_close(*gradients)
