"""Students against independent float64 oracles; masks; folders; the registry."""

import json
import shutil

import numpy as np
import pytest
import soundfile
import torch
from safetensors.numpy import load_file, save_file
from torch import nn

from wav2small import provenance as provenances
from wav2small.cli.main import main
from wav2small.errors import Wav2SmallError
from wav2small.students import masking, registry
from wav2small.students.base import Student
from wav2small.students.costs import count
from wav2small.students.frontend import mel_bands

STUDENTS = registry.names()
SMALL = ["wav2small", "wav2small2", "nano"]  # quick to build, for tests of the base class


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def clips(speech) -> list[np.ndarray]:
    """Spoken clips of different lengths, the shortest that is allowed among them."""
    read = [soundfile.read(path, dtype="float32")[0] for path in sorted(speech.glob("*.flac"))[:4]]
    return [read[0][:32001], read[1][5000:6600], read[2][:23456] * 0.01, read[3][:20000]]


def trained(name: str, clips: list[np.ndarray], **config) -> Student:
    """A student whose running statistics fit speech and whose weights are none of the initial.

    With them every layer's output varies as in a trained one; random weights alone damp it.
    """
    torch.manual_seed(1)
    student = registry.create(name, **config)
    norms = [m for m in student.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    generator = torch.Generator().manual_seed(2)
    for norm in norms:
        norm.momentum = 1.0
        with torch.no_grad():
            norm.weight.mul_(torch.rand(norm.weight.shape, generator=generator) + 0.5)
            norm.bias.add_(torch.randn(norm.bias.shape, generator=generator) * 0.1)
    with torch.no_grad():
        student.train()(*batch(clips))
        for norm in norms:  # four clips are few: a variance near nothing would amplify rounding
            norm.running_var.clamp_(min=0.01)
    return student.eval()


def batch(clips: list[np.ndarray], *, extra: int = 700) -> tuple[torch.Tensor, torch.Tensor]:
    """Clips in one batch, padded with loud noise: what is beyond the end must change nothing."""
    rng = np.random.default_rng(0)
    size = max(map(len, clips)) + extra
    signal = rng.normal(0, 0.5, (len(clips), size)).astype(np.float32)
    for row, clip in zip(signal, clips, strict=True):
        row[: len(clip)] = clip
    return torch.from_numpy(signal), torch.tensor([len(clip) for clip in clips])


# --- Independent implementation of the reference, numpy float64, loops over taps ---------------


def conv3x3(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(C, T, F), (D, C, 3, 3) -> (D, T, F), zero padding."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    result = np.zeros((weight.shape[0], *x.shape[1:]))
    for i in range(3):
        for j in range(3):
            window = padded[:, i : i + x.shape[1], j : j + x.shape[2]]
            result += np.einsum("dc,ctf->dtf", weight[:, :, i, j], window)
    return result


def maxpool(x: np.ndarray) -> np.ndarray:
    size = [(length - 1) // 2 + 1 for length in x.shape[1:]]
    padded = np.full((x.shape[0], 2 * size[0] + 1, 2 * size[1] + 1), -np.inf)
    padded[:, 1 : x.shape[1] + 1, 1 : x.shape[2] + 1] = x
    taps = [
        padded[:, i : i + 2 * size[0] : 2, j : j + 2 * size[1] : 2]
        for i in range(3)
        for j in range(3)
    ]
    return np.max(taps, axis=0)


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    x = np.exp(x - x.max(axis=axis, keepdims=True))
    return x / x.sum(axis=axis, keepdims=True)


def oracle(signal: np.ndarray, state: dict[str, np.ndarray], *, hop: int, gram: bool) -> np.ndarray:
    """A/D/V of one clip, from a state dict in the published layout."""
    w = {key: value.astype(np.float64) for key, value in state.items()}
    x = signal.astype(np.float64)
    x = (x - x.mean()) / np.sqrt(x.var() + 1e-7)
    real = w["vgg7.spectrogram_extractor.conv_real.weight"].reshape(33, 64)
    imag = w["vgg7.spectrogram_extractor.conv_imag.weight"].reshape(33, 64)
    frames = np.array([x[i : i + 64] for i in range(0, len(x) - 63, hop)])
    power = (frames @ real.T) ** 2 + (frames @ imag.T) ** 2
    mel = w["vgg7.logmel_extractor.melW"]
    mel = mel if mel.shape[0] == 33 else mel.T
    x = 10 * np.log10(np.maximum(power @ mel, 1e-10))[None]
    for number in range(1, 8):
        if number == 4:
            x = maxpool(x)
        norm = {
            key: w[f"vgg7.l{number}.norm.{key}"][:, None, None]
            for key in ("weight", "bias", "running_mean", "running_var")
        }
        x = conv3x3(x, w[f"vgg7.l{number}.conv.weight"])
        x = (x - norm["running_mean"]) / np.sqrt(norm["running_var"] + 1e-5)
        x = np.maximum(0, x * norm["weight"] + norm["bias"])
    lin, sof = w["vgg7.lin.weight"], w["vgg7.sof.weight"]
    lin_bias, sof_bias = w["vgg7.lin.bias"], w["vgg7.sof.bias"]
    if gram:
        values = np.einsum("dc,ctf->dtf", lin[:, :, 0, 0], x) + lin_bias[:, None, None]
        logits = np.einsum("dc,ctf->dtf", sof[:, :, 0, 0], x) + sof_bias[:, None, None]
        pooled = (values * softmax(logits, 1)).sum(1)  # (C, F)
        pooled = np.concatenate([pooled, pooled @ pooled.T], axis=1).reshape(-1)
    else:
        tokens = x.transpose(1, 0, 2).reshape(x.shape[1], -1)  # (T, C * F)
        pooled = ((tokens @ lin.T + lin_bias) * softmax(tokens @ sof.T + sof_bias, 0)).sum(0)
    return w["adv.weight"] @ pooled + w["adv.bias"]


@pytest.mark.parametrize(("name", "gram"), [("wav2small", False), ("wav2small2", True)])
def test_equals_float64_oracle(name, gram, clips):
    student = trained(name, clips)
    state = {key: value.numpy() for key, value in student.state_dict().items()}
    for clip in clips:
        expected = oracle(clip, state, hop=32, gram=gram)
        got = student(torch.from_numpy(clip)[None])[0].detach().numpy()
        np.testing.assert_allclose(got, expected, atol=2e-5 * max(1, np.abs(expected).max()))


def test_mel_bands_equal_librosa():
    librosa = pytest.importorskip("librosa")
    for n_fft, n_mels in [(64, 26), (144, 26), (512, 40)]:
        expected = librosa.filters.mel(sr=16000, n_fft=n_fft, n_mels=n_mels).T
        np.testing.assert_allclose(mel_bands(n_fft, n_mels), expected, atol=1e-7)


# --- The published layout ----------------------------------------------------------------------


@pytest.fixture
def published(tmp_path, clips):
    """A folder as audeering publishes it, with random weights and its own DFT constants."""
    student = trained("wav2small2", clips)
    state = {key: value.numpy().copy() for key, value in student.state_dict().items()}
    # Constants of its own: they must be used, not recomputed.
    state["vgg7.logmel_extractor.melW"] *= 1.25
    folder = tmp_path / "published"
    folder.mkdir()
    save_file(state, folder / "model.safetensors")
    config = {"half_mel": 13, "n_fft": 64, "n_time": 64, "hidden": 338, "hop": 32}
    (folder / "config.json").write_text(json.dumps(config))
    return folder, state


def test_published_layout_loads(published, clips):
    folder, state = published
    keys = {f"vgg7.l{n}.conv.weight" for n in range(1, 8)}
    keys |= {
        f"vgg7.l{n}.norm.{key}"
        for n in range(1, 8)
        for key in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }
    keys |= {
        f"{layer}.{key}" for layer in ("vgg7.lin", "vgg7.sof", "adv") for key in ("weight", "bias")
    }
    keys |= {f"vgg7.spectrogram_extractor.conv_{part}.weight" for part in ("real", "imag")}
    keys |= {"vgg7.logmel_extractor.melW"}
    assert set(state) == keys
    student = registry.load(folder)
    assert student.name == "wav2small2" and not student.training
    got = student(torch.from_numpy(clips[0])[None])[0].detach().numpy()
    expected = oracle(clips[0], state, hop=32, gram=True)
    np.testing.assert_allclose(got, expected, atol=2e-5 * max(1, np.abs(expected).max()))
    assert "CC-BY-NC-SA-4.0" in provenances.licences(registry.provenance(folder))


def test_published_layout_transposed_constants(published, clips):
    folder, state = published
    expected = registry.load(folder)(torch.from_numpy(clips[0])[None])
    state["vgg7.logmel_extractor.melW"] = state["vgg7.logmel_extractor.melW"].T.copy()
    for part in ("real", "imag"):
        key = f"vgg7.spectrogram_extractor.conv_{part}.weight"
        state[key] = state[key].reshape(33, 64)
    save_file(state, folder / "model.safetensors")
    torch.testing.assert_close(registry.load(folder)(torch.from_numpy(clips[0])[None]), expected)


# --- Every student -----------------------------------------------------------------------------


# Float32's rounding through a deep MobileNet differs by processor; float64 shows the masks right.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
@pytest.mark.parametrize("name", STUDENTS)
def test_padding_changes_nothing(name, dtype, tolerance, clips):
    student = trained(name, clips).to(dtype)
    signal, lengths = batch(clips)
    signal = signal.to(dtype)
    with torch.no_grad():
        together = student(signal, lengths), student.embed(signal, lengths)
        alone = [torch.from_numpy(clip)[None].to(dtype) for clip in clips]
        for index, clip in enumerate(alone):
            expected = student(clip)
            torch.testing.assert_close(together[0][index], expected[0], atol=tolerance, rtol=0)
            if dtype == torch.float64:  # embeddings are larger, so is their rounding in float32
                expected = student.embed(clip)
                torch.testing.assert_close(together[1][index], expected[0], atol=1e-8, rtol=0)
    # The clips differ, so that equal outputs would show.
    assert together[0].std(dim=0).min() > 2e-4


@pytest.mark.parametrize("name", STUDENTS)
def test_trains_on_padded_batches(name, clips):
    """A gradient reaches every trainable weight, and padding stays out of the statistics."""
    student = registry.create(name).train()
    signal, lengths = batch(clips)
    student(signal, lengths).square().sum().backward()
    without = [key for key, value in student.named_parameters() if value.grad is None]
    assert without == []
    torch.manual_seed(0)
    first = registry.create(name).train()
    second = registry.create(name).train()
    second.load_state_dict(first.state_dict())
    _no_dropout(first), _no_dropout(second)
    louder, _ = batch(clips, extra=3000)
    torch.testing.assert_close(
        first(signal, lengths), second(louder, lengths), atol=1e-4, rtol=1e-4
    )
    for (key, a), (_, b) in zip(first.named_buffers(), second.named_buffers(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3, msg=key)


def _no_dropout(student):
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


@pytest.mark.parametrize("name", STUDENTS)
def test_save_and_load(name, clips, tmp_path):
    student = trained(name, clips, categories=["anger", "joy"])
    student.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    loaded = type(student).from_pretrained(tmp_path)
    assert type(loaded) is type(student) and loaded.config == student.config
    signal = torch.from_numpy(clips[0])[None]
    with torch.no_grad():
        adv, logits = student.forward_categories(signal)
        torch.testing.assert_close(loaded.forward_categories(signal), (adv, logits))
        torch.testing.assert_close(loaded(signal), adv)
        torch.testing.assert_close(loaded.head(loaded.embed(signal)), adv)
    assert adv.shape == (1, 3) and logits.shape == (1, 2)


@pytest.mark.parametrize(
    ("name", "parameters", "constants"), [("wav2small", 67395, 5082), ("wav2small2", 10806, 5082)]
)
def test_counts(name, parameters, constants):
    cost = count(registry.create(name))
    assert (cost.parameters, cost.constants) == (parameters, constants)
    if name == "wav2small":  # 388 MMAC for 5 s, published as 0.4 GMAC
        assert 387e6 < 5 * cost.macs_per_second < 389e6


@pytest.mark.parametrize("name", SMALL)
def test_accepts_any_length(name, clips):
    student = trained(name, clips)
    for samples in (1600, 1601, 1663, 4801, 16000):
        assert student(torch.randn(1, samples)).shape == (1, 3)


@pytest.mark.parametrize(
    ("signal", "lengths", "message"),
    [
        (torch.zeros(1, 1599), None, "1599 samples is too short"),
        (torch.zeros(2, 3200), torch.tensor([3200, 160]), "160 samples is too short"),
        (torch.zeros(3200), None, r"batch \(clips, samples\)"),
        (torch.zeros(2, 3200), torch.tensor([3200]), "one number per clip"),
        (torch.zeros(1, 3200), torch.tensor([3201]), "a length of 3201"),
    ],
)
def test_rejects_wrong_input(signal, lengths, message):
    with pytest.raises(Wav2SmallError, match=message):
        registry.create("wav2small2")(signal, lengths)


def test_no_category_head():
    with pytest.raises(Wav2SmallError, match="no category head"):
        registry.create("wav2small2").forward_categories(torch.zeros(1, 3200))


# --- Folders and names that do not fit ---------------------------------------------------------


def _edit(folder, **changes):
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def _reshape(folder, key, value):
    state = load_file(folder / "model.safetensors")
    if value is None:
        del state[key]
    else:
        state[key] = value
    save_file(state, folder / "model.safetensors")


BROKEN = {
    "missing folder": (shutil.rmtree, "no such folder"),
    "no config": (lambda f: (f / "config.json").unlink(), r"config\.json: no such file"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"model\.safetensors: no such"),
    "text for JSON": (lambda f: (f / "config.json").write_text("{"), "not JSON"),
    "list for JSON": (lambda f: (f / "config.json").write_text("[]"), "JSON object"),
    "no student": (lambda f: _edit(f, student=None), "no `student`"),
    "unknown student": (lambda f: _edit(f, student="wav2smal"), "mean 'wav2small'"),
    "unknown option": (lambda f: _edit(f, n_fff=64), "mean 'n_fft'"),
    "newer": (lambda f: _edit(f, wav2small_version="99.1"), "written by wav2small 99.1"),
    "truncated": (
        lambda f: (f / "model.safetensors").write_bytes(
            (f / "model.safetensors").read_bytes()[:-100]
        ),
        "damaged, truncated",
    ),
    "not safetensors": (lambda f: (f / "model.safetensors").write_bytes(b"x" * 50), "damaged"),
    "missing tensor": (lambda f: _reshape(f, "adv.weight", None), r"lacks key adv\.weight"),
    "extra tensor": (
        lambda f: _reshape(f, "other.weight", np.zeros(3, np.float32)),
        r"unexpected key other\.weight",
    ),
    "other shape": (
        lambda f: _reshape(f, "adv.bias", np.zeros(4, np.float32)),
        r"adv\.bias has shape \(4,\) instead of \(3,\)",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_folder(case, tmp_path):
    breaks, message = BROKEN[case]
    folder = tmp_path / "run"
    registry.create("wav2small2").save_pretrained(folder)
    breaks(folder)
    with pytest.raises(Wav2SmallError, match=message) as error:
        registry.load(folder)
    assert (
        "\n" not in str(error.value)
        and str(folder) in str(error.value)
        or case.startswith("unknown")
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": 337}, "hidden 337"),
        ({"n_time": 32}, "n_time 32"),
        ({"hop": None}, "no `student`"),
    ],
)
def test_broken_published_config(published, changes, message):
    folder, _ = published
    _edit(folder, **changes)
    with pytest.raises(Wav2SmallError, match=message):
        registry.load(folder)


def test_from_pretrained_of_another_class(tmp_path):
    registry.create("wav2small2").save_pretrained(tmp_path)
    other = type(registry.create("wav2small"))
    with pytest.raises(Wav2SmallError, match="holds a wav2small2, not a wav2small"):
        other.from_pretrained(tmp_path)


def test_register_a_student_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_STUDENTS", dict(registry._STUDENTS))
    monkeypatch.setattr(registry, "_DESCRIPTIONS", dict(registry._DESCRIPTIONS))

    @registry.register_student("loudness", description="one number")
    class Loudness(Student):
        def __init__(self, *, scale: float = 1.0, **options):
            super().__init__(1, scale=scale, **options)

        def _embed(self, signal, lengths):
            return signal.square().mean(dim=1, keepdim=True) * self.config["scale"]

    registry.create("loudness", scale=2.0).save_pretrained(tmp_path)
    assert registry.load(tmp_path).config["scale"] == 2.0
    assert "loudness" in registry.names()


def test_command_lists_students(capsys):
    assert main(["students", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == STUDENTS
    by_name = {row["name"]: row for row in rows}
    assert by_name["wav2small"]["parameters"] == 67395
    for row in rows:
        assert row["macs_per_second"] > row["macs_frontend"] > 0
        assert row["description"] and row["licence"]
    assert main(["students"]) == 0
    table = capsys.readouterr().out
    assert all(name in table for name in STUDENTS)


@pytest.mark.parametrize("layout", ["channels_last", "contiguous_format"])
@pytest.mark.parametrize("size", [1, 5])
def test_masked_norm_is_that_of_the_valid_positions(layout, size):
    """Against torch's own, over the valid positions alone, in float64; with gradients."""
    torch.manual_seed(0)
    x = 3 + torch.randn(3, 4, 7, size, dtype=torch.float64)
    x = x.to(memory_format=getattr(torch, layout)).requires_grad_()
    mask = masking.time_mask(torch.tensor([7, 4, 1]), 7)
    ours, theirs = (nn.BatchNorm2d(4).double() for _ in range(2))
    with torch.no_grad():
        ours.weight.copy_(torch.tensor([0.5, 1.0, 1.5, -2.0]))
        ours.bias.copy_(torch.tensor([0.1, -0.2, 0.0, 1.0]))
    theirs.load_state_dict(ours.state_dict())
    weights = torch.randn(int(mask.sum()), 4, size, dtype=torch.float64)

    found = masking.masked_batch_norm(ours, x, mask)
    assert (found.transpose(1, 2)[~mask] == 0).all()
    (found.transpose(1, 2)[mask] * weights).sum().backward()
    gradient, x.grad = x.grad, None
    # Contiguous: torch 2.14's own gradient is wrong for strides such as (20, 1, 4, 1).
    expected = theirs(x.transpose(1, 2)[mask][..., None].contiguous())[..., 0]
    (expected * weights).sum().backward()

    torch.testing.assert_close(found.transpose(1, 2)[mask], expected)
    torch.testing.assert_close(gradient, x.grad)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    for name, value in theirs.state_dict().items():
        if name.startswith("running"):
            torch.testing.assert_close(ours.state_dict()[name], value)
