"""The head for voice activity in plain C: bit by bit the integer reference, and what it costs."""

import ctypes
import re

import numpy as np
import pytest
import soundfile
import torch
from nanos import random_nano
from test_c_plain import (  # noqa: F401
    NEEDS_BOARDS,
    NOT_YET,
    OK,
    Engine,
    build,
    mixture,
    on_host,
    pytestmark,
)

from wav2small.benchmarks import microcontroller
from wav2small.export.c import emitter, integer
from wav2small.students import registry

#: What the head may cost on a Cortex-M, and the engine with it: bytes, 1 KB = 1,000.
MORE_INSTRUCTIONS, MORE_FLASH, MORE_RAM = 0.08, 2048, 512
FLASH, RAM = 40_000, 12_000
MOST = {"cortex-m4": 5.23e6, "cortex-m33": 5.16e6, "cortex-m55": 2.31e6}  # instructions/s of audio


@pytest.fixture(scope="module")
def clips(speech):
    """Speech with pauses, int16."""
    read = [soundfile.read(f, dtype="int16")[0] for f in sorted(speech.glob("*.flac"))[:12]]
    pause = np.random.default_rng(0).integers(-9, 10, 8000).astype(np.int16)
    return [np.concatenate((clip[:16000], pause, clip[16000:])) for clip in read]


@pytest.fixture(scope="module")
def calibration(clips):
    return [clip.astype(np.float32) / 32768 for clip in clips[:8]]


@pytest.fixture(scope="module")
def nano(calibration):
    return random_nano(calibration, voice=True)


@pytest.fixture(scope="module")
def source(nano, calibration, tmp_path_factory):
    folder = tmp_path_factory.mktemp("voice") / "c"
    return emitter.write_c(nano, folder, calibration, name="test").source


@pytest.fixture(scope="module")
def bare(nano, calibration, tmp_path_factory):
    """The same nano without the head."""
    student = registry.create("nano").eval()
    student.load_state_dict({k: v for k, v in nano.state_dict().items() if "voice" not in k})
    folder = tmp_path_factory.mktemp("bare") / "c"
    return emitter.write_c(student, folder, calibration, name="test").source


@pytest.fixture(scope="module")
def engine(source):
    return Engine(build(source, source.with_suffix(".so")))


def speech(engine):
    probability = ctypes.c_int32(-1)
    status = engine.call("speech")(engine.state, ctypes.byref(probability))
    return status, probability.value


def test_bit_exact_with_integer_reference(nano, calibration, clips, engine):
    model = integer.quantise(nano, calibration)
    for clip in clips[8:]:
        engine.init(gate=1)
        features, probabilities, counted = [], [], []
        for start in range(0, len(clip) - 255, 256):
            assert engine.push(clip[start : start + 256]) == OK
            status, probability = speech(engine)
            assert status == (OK if start else NOT_YET)
            if start:  # the first hop alone is no frame
                features.append(engine.features())
                probabilities.append(probability)
                counted.append(engine.read()[1].counted if engine.read()[0] == OK else 0)
        x = np.array(features).astype(np.int8)
        expected = integer.speech(model, x)
        np.testing.assert_array_equal(probabilities, expected)
        weight = np.where(expected >= 26214, 32768, 0)
        assert 0.1 < (weight > 0).mean() < 0.95
        gate, value = integer.network(model, x)
        overall = integer.pool(gate, value, weight)
        memory = integer.pool(gate, value, weight, fade=integer.fade(4.0, 256 / 16000))
        for outputs, sums in zip(engine.sums(), (*memory, *overall), strict=True):
            np.testing.assert_array_equal(outputs, sums[-1])
        assert counted[-1] == 256 * (weight > 0).sum()
        with torch.no_grad():
            signal = torch.tensor(clip.astype(np.float32) / 32768)[None]
            logits = nano.voice(nano.frames(signal))[0]
        difference = np.abs(expected / 32768 - torch.sigmoid(logits).numpy()[: len(expected)])
        assert difference.mean() < 0.02


def test_gates(engine, bare, clips):
    engine.init(gate=0)
    engine.push(clips[0])
    assert engine.read()[1].counted == len(clips[0]) // 256 * 256
    energy = []
    for one, gate in ((engine, 2), (Engine(build(bare, bare.with_suffix(".so"))), 1)):
        one.init(gate=gate)
        one.push(clips[0])
        energy.append(one.sums())
    np.testing.assert_array_equal(*energy)
    assert speech(one)[0] == NOT_YET  # has no head


@NEEDS_BOARDS
@pytest.mark.parametrize("target", microcontroller.TARGETS)
@pytest.mark.parametrize("seed", [1, 2])
def test_same_bits_of_anything(source, target, seed):
    clip = mixture(np.random.default_rng(seed))
    here = on_host(source, clip)
    there = microcontroller.microcontroller(source, target=target, clip=clip)
    assert (there.checksum, there.overall) == (here["checksum"], here["overall"])


@NEEDS_BOARDS
@pytest.mark.parametrize("target", microcontroller.TARGETS)
def test_processors(source, bare, clips, target, tmp_path, monkeypatch):
    """The same bits as here, and what the head costs where every hop counts."""
    clip = tmp_path / "clip.wav"
    soundfile.write(clip, clips[1], 16000)
    here = on_host(source, clip)
    there = microcontroller.microcontroller(source, target=target, clip=clip)
    assert (there.checksum, there.overall) == (here["checksum"], here["overall"])
    monkeypatch.setattr(microcontroller, "_FLAGS", [*microcontroller._FLAGS, "-DW2S_SPOKEN=0"])
    noise = np.random.default_rng(1).integers(-9000, 9000, 20000).astype(np.int16)
    head, without = (
        microcontroller.microcontroller(one, target=target, clip=noise) for one in (source, bare)
    )
    assert head.total <= MOST[target]
    assert head.total < (1 + MORE_INSTRUCTIONS) * without.total
    assert head.engine_flash - without.engine_flash <= MORE_FLASH
    assert head.state - without.state <= MORE_RAM
    for stage, number in head.instructions.items():
        kernels = sum(one.instructions for one in head.kernels if one.stage == stage)
        assert kernels == pytest.approx(number, abs=90_000), stage
    assert sum(one.instructions for one in head.kernels) == pytest.approx(head.total, rel=0.01)
    assert head.engine_flash <= FLASH and head.state <= RAM
    estimated = int(re.search(r"Flash about (\d+) bytes", source.with_suffix(".h").read_text())[1])
    assert estimated == pytest.approx(head.engine_flash, rel=0.03)
    flash, state = head.engine_flash - without.engine_flash, head.state - without.state
    more = head.total / without.total - 1
    print(f"{target}: {head.total / 1e6:.3f} M, {more:.2%}, flash {flash}, RAM {state}")
