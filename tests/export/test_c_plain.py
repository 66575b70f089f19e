"""Plain C: bit by bit the integer reference, and close to the float model."""

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from nanos import on_host, random_nano

from wav2small import audio, stream
from wav2small.benchmarks import microcontroller
from wav2small.errors import Wav2SmallError
from wav2small.gate import Gate

pytestmark = [
    pytest.mark.tools,
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler"),
]
NEEDS_BOARDS = pytest.mark.skipif(
    bool(microcontroller.missing_tools()),
    reason=f"not found: {' '.join(microcontroller.missing_tools())}",
)
OK, NOT_YET, NULL, STATE, SIGNAL, ARGUMENT, ALIGNMENT, SIZE = 0, 1, -1, -2, -3, -4, -5, -6


class Estimate(ctypes.Structure):
    _fields_ = [
        ("arousal", ctypes.c_float),
        ("dominance", ctypes.c_float),
        ("valence", ctypes.c_float),
        ("samples", ctypes.c_uint64),
        ("counted", ctypes.c_uint64),
    ]

    @property
    def values(self):
        return np.array([self.arousal, self.dominance, self.valence], np.float32)


class Engine:
    """The emitted library in this process."""

    def __init__(self, path):
        self.library = ctypes.CDLL(str(path))
        self.name = path.stem
        self.call("test_features").restype = ctypes.c_void_p
        self.call("state_size").restype = ctypes.c_size_t
        self.call("test_sum").restype = ctypes.c_int64
        self.call("test_forward").argtypes = [ctypes.c_void_p, ctypes.c_uint64]
        self.memory = (ctypes.c_uint64 * (self.call("state_size")() // 8 + 1))()
        self.init()

    def call(self, name):
        prefix = "" if name.startswith("test_") else f"{self.name.removeprefix('nano_')}_"
        return getattr(self.library, f"nano_{prefix}{name}")

    def init(self, gate=0):
        self.state = ctypes.c_void_p()
        assert self.begin(self.memory, ctypes.sizeof(self.memory), self.state) == OK
        self.call("set_gate")(self.state, gate)

    def begin(self, memory, size, state):
        target = None if state is None else ctypes.byref(state)
        return self.call("init")(memory, ctypes.c_size_t(size), target)

    def push(self, samples):
        samples = np.ascontiguousarray(samples)
        name = "push" if samples.dtype == np.int16 else "push_float"
        pointer = samples.ctypes.data_as(ctypes.c_void_p)
        return self.call(name)(self.state, pointer, ctypes.c_size_t(len(samples)))

    def read(self, overall=True):
        estimate = Estimate()
        return self.call("read_overall" if overall else "read")(
            self.state, ctypes.byref(estimate)
        ), estimate

    def features(self):
        address = self.call("test_features")(self.state)
        return np.ctypeslib.as_array((ctypes.c_int8 * 40).from_address(address)).copy()

    def sums(self):
        read = self.call("test_sum")
        return [np.array([read(self.state, i, c) for c in range(64)]) for i in range(4)]


@pytest.fixture(scope="module")
def clips(speech):
    return [soundfile.read(f, dtype="int16")[0] for f in sorted(speech.glob("*.flac"))]


@pytest.fixture(scope="module")
def nano(clips):
    return random_nano([clip.astype(np.float32) / 32768 for clip in clips])


@pytest.fixture(scope="module")
def calibration(clips):
    return [clip.astype(np.float32) / 32768 for clip in clips[:12]]


@pytest.fixture(scope="module")
def source(nano, calibration, tmp_path_factory):
    from wav2small.export.c import emitter as c_emitter

    folder = tmp_path_factory.mktemp("plain") / "c"
    made = c_emitter.write_c(nano, folder, calibration, name="test", licence="MIT */ x")
    assert made.ram <= 11_600 and 37_000 < made.flash <= 38_000
    return made.source


def build(source, path, *options):
    flags = ["-std=c99", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Wconversion"]
    flags += ["-Wshadow", "-pedantic", "-Werror", "-DW2S_TEST", "-shared", "-fPIC"]
    subprocess.run(["cc", *flags, *options, source, "-o", path], check=True)
    return path


@pytest.fixture(scope="module")
def library(source):
    return build(source, source.with_suffix(".so"))


@pytest.fixture
def engine(library):
    return Engine(library)


def test_bit_exact_with_integer_reference(nano, calibration, clips, engine):
    from wav2small.export.c import integer

    model = integer.quantise(nano, calibration)
    for clip in clips[12:16]:
        engine.init()
        features = []
        for start in range(0, len(clip) - 255, 256):
            assert engine.push(clip[start : start + 256]) == OK
            if start:  # the first hop alone is no frame
                features.append(engine.features())
        x = np.array(features)
        expected = integer.features(nano, clip.astype(np.float32) / 32768)
        assert np.abs(x - expected).max() <= 1 and (x != expected).mean() < 1e-3
        gate, value = integer.network(model, x.astype(np.int8))
        overall = integer.pool(gate, value)
        memory = integer.pool(gate, value, fade=integer.fade(4.0, 256 / 16000))
        for outputs, sums in zip(engine.sums(), (*memory, *overall), strict=True):
            np.testing.assert_array_equal(outputs, sums[-1])
        _, estimate = engine.read()
        head = integer.head(model, overall[0][-1], overall[1][-1])
        np.testing.assert_array_equal(estimate.values, head)
        assert estimate.samples == len(clip) // 256 * 256


@pytest.mark.parametrize("corpus", ["speech", "emodb"])
def test_close_to_float(nano, engine, request, corpus):
    folder = request.getfixturevalue(corpus)
    files = sorted(folder.rglob("*.flac"))
    for file in files[:: max(1, len(files) // 12)]:
        clip = soundfile.read(file, dtype="int16")[0]
        engine.init()
        engine.push(clip)
        with torch.no_grad():
            expected = nano(torch.tensor(clip.astype(np.float32) / 32768)[None])[0].numpy()
        np.testing.assert_allclose(engine.read()[1].values, expected, atol=0.005)


@pytest.mark.parametrize("size", [1, 7, 160, 1000])
def test_block_sizes_change_nothing(engine, clips, size):
    engine.push(clips[0])
    at_once = engine.sums()
    engine.init()
    for start in range(0, len(clips[0]), size):
        engine.push(clips[0][start : start + size])
    for one, other in zip(engine.sums(), at_once, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_block_longer_than_the_memory(engine, clips):
    signal = np.concatenate(clips[:4])
    assert len(signal) > 5 * 16000
    engine.push(signal)
    status, at_once = engine.read(overall=False)
    engine.init()
    for start in range(0, len(signal), 160):
        engine.push(signal[start : start + 160])
    np.testing.assert_array_equal(engine.read(overall=False)[1].values, at_once.values)
    assert status == OK and at_once.samples == len(signal) // 256 * 256


def test_float_blocks_are_the_same(engine, clips):
    engine.push(clips[0])
    at_once = engine.sums()
    engine.init()
    assert engine.push(clips[0].astype(np.float32) / 32768) == OK
    for one, other in zip(engine.sums(), at_once, strict=True):
        np.testing.assert_array_equal(one, other)


def test_silence_and_voice(engine, clips):
    engine.init(gate=1)
    engine.push(clips[0])
    engine.push(np.zeros(16000, np.int16))
    held, before = engine.sums(), engine.read()[1]
    engine.push(np.zeros(16000, np.int16))
    after = engine.read()[1]
    for one, other in zip(engine.sums(), held, strict=True):
        np.testing.assert_array_equal(one, other)
    assert after.counted == before.counted and after.samples > before.samples
    assert engine.call("set_voice")(engine.state, 0) == OK
    engine.push(np.zeros(256, np.int16))  # the hop that began with voice
    held = engine.sums()
    engine.push(clips[1])
    for one, other in zip(engine.sums(), held, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_gate_of_stream(engine, clips):
    """Pauses 38 dB below, silence, noise below the threshold: the same hops count."""
    rng = np.random.default_rng(0)
    noise = np.round(rng.normal(0, 60, 40000)).astype(np.int16)  # -54.7 dBFS
    parts = [noise[:8000] // 3, clips[0], clips[0] // 80, clips[1], np.zeros(9000, np.int16), noise]
    signal = np.concatenate(parts)
    gate = Gate(256, True, stream.OPEN_DB, stream.CLOSE_DB, stream.HOLD_S, stream.RANGE_DB)
    gate.push(signal.astype(np.float32) / 32768, 1.0)
    expected = gate.take(len(signal) // 256)
    assert 0.2 < expected.mean() < 0.9
    engine.init(gate=1)
    for count in range(len(expected)):
        engine.push(signal[256 * count : 256 * (count + 1)])
        status, estimate = engine.read()
        if status == OK:
            assert estimate.counted == 256 * expected[: count + 1].sum()


def test_bad_input(engine, clips):
    zeros = (ctypes.c_uint64 * len(engine.memory))()
    block = clips[0][:512].ctypes.data_as(ctypes.c_void_p)
    size = ctypes.c_size_t(512)
    assert engine.call("push")(zeros, block, size) == STATE  # before w2s_init
    assert engine.call("push")(None, block, size) == NULL
    assert engine.call("push")(engine.state, None, size) == NULL
    assert engine.call("push")(engine.state, None, ctypes.c_size_t(0)) == OK
    assert engine.call("read")(engine.state, None) == NULL
    misaligned = ctypes.byref(engine.memory, 4)
    assert engine.call("push")(misaligned, block, size) == STATE
    for function in ("set_gate", "set_voice", "estimate_every"):
        assert engine.call(function)(zeros, 0) == STATE
        assert engine.call(function)(None, 0) == NULL
    for function in ("read", "read_overall"):
        assert engine.call(function)(None, ctypes.byref(Estimate())) == NULL
        assert engine.call(function)(zeros, ctypes.byref(Estimate())) == STATE
    assert engine.call("set_voice")(engine.state, 32769) == ARGUMENT
    assert engine.push(clips[0][:3999]) == OK
    assert engine.read()[0] == NOT_YET
    before = engine.sums()
    for bad in (np.nan, np.inf, -np.inf, 1e18, -1e7):
        block = np.zeros(600, np.float32)
        block[-1] = bad
        assert engine.push(block) == SIGNAL
    for one, other in zip(engine.sums(), before, strict=True):
        np.testing.assert_array_equal(one, other)
    assert engine.push(clips[0][3999:4400]) == OK
    assert engine.read()[0] == OK


def test_a_day_of_audio(engine, clips):
    """Sums as after 24 hours: no overflow, and another clip adds what it should."""
    engine.push(clips[0])
    first, alone = engine.read()[1], engine.sums()
    times = 24 * 3600 * 16000 // first.samples
    engine.call("test_forward")(engine.state, times)
    assert np.abs(engine.read()[1].values - first.values).max() < 1e-3
    big = engine.sums()
    assert (big[2] < 2**60).all() and (big[3] < 2**60).all()
    engine.push(clips[0])
    for which in (2, 3):
        gained = engine.sums()[which] - big[which]
        assert (gained > 0).any() and (gained <= 4 * alone[which].max()).all()
    after = engine.read()[1]
    assert after.samples > 24 * 3600 * 16000
    assert np.abs(after.values - first.values).max() < 1e-3


def test_loud_and_odd_signals_stay_in_range(engine):
    rng = np.random.default_rng(0)
    for signal in (
        np.full(20000, 32767), np.full(20000, -32768), rng.integers(-32768, 32768, 20000),
        np.where(np.arange(20000) % 2, 32767, -32768), np.eye(1, 20000, 9000)[0] * 32767,
    ):  # fmt: skip
        engine.init()
        assert engine.push(signal.astype(np.int16)) == OK
        status, estimate = engine.read()
        assert status == OK and np.abs(estimate.values).max() < 10


def test_no_heap_no_libm(source):
    """Everything that the engine takes from outside."""
    path = source.with_suffix(".o")
    subprocess.run(["cc", "-std=c99", "-O2", "-c", source, "-o", path], check=True)
    names = subprocess.run(["nm", "-u", path], capture_output=True, text=True, check=True)
    outside = {line.split()[-1] for line in names.stdout.splitlines()}
    assert outside <= {"memset", "memcpy", "memmove", "_GLOBAL_OFFSET_TABLE_", "__stack_chk_fail"}
    written = subprocess.run(["size", "-A", path], capture_output=True, text=True, check=True)
    sizes = {words[0]: int(words[1]) for words in map(str.split, written.stdout.splitlines())
             if len(words) == 3 and words[1].isdigit()}  # fmt: skip
    assert sizes.get(".data", 0) == 0 and sizes.get(".bss", 0) == 0


def test_sanitizers(source, clips, tmp_path):
    from wav2small.benchmarks.microcontroller import BOARD, _write_clip

    _write_clip(clips[0], tmp_path)
    flags = ["-std=c99", "-g", "-O1", "-fsanitize=address,undefined", "-DW2S_HOST"]
    flags += ["-fno-sanitize-recover=all", f"-I{source.parent}"]
    flags += [f'-DW2S_HEADER="{source.stem}.h"']
    command = ["cc", *flags, source, BOARD / "main.c", tmp_path / "clip.c", "-o", tmp_path / "p"]
    subprocess.run(command, check=True)
    subprocess.run([tmp_path / "p"], check=True, capture_output=True)


@pytest.mark.skipif(shutil.which("clang") is None, reason="no clang")
def test_fuzz_briefly(source, tmp_path):
    from wav2small.export.c import emitter as c_emitter

    program = c_emitter.ENGINE.parent / "fuzz" / "fuzz_plain.c"
    flags = ["-std=c99", "-O2", "-fsanitize=fuzzer,address,undefined"]
    flags += ["-fno-sanitize-recover=all", f"-I{source.parent}"]
    flags += [f'-DW2S_HEADER="{source.stem}.h"']
    command = ["clang", *flags, source, program, "-o", tmp_path / "fuzz"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "clang_rt" in done.stderr:
        pytest.skip("no libFuzzer: apt-get install libclang-rt-dev")
    assert done.returncode == 0, done.stderr
    command = [tmp_path / "fuzz", "-runs=5000", "-max_len=16", "-seed=1"]
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.parametrize(
    ("memory", "offset", "size", "status"),
    [
        ("own", 0, 0, OK), ("own", 4, -4, ALIGNMENT), ("own", 1, -1, ALIGNMENT),
        ("own", 0, -8, SIZE), ("null", 0, 0, NULL),
    ],
)  # fmt: skip
def test_memory_of_the_caller(engine, memory, offset, size, status):
    """A status, *state NULL, and not a byte written."""
    room = (ctypes.c_uint64 * len(engine.memory))(*[7] * len(engine.memory))
    place = ctypes.byref(room, offset) if memory == "own" else None
    state = ctypes.c_void_p(1)
    size += engine.call("state_size")()
    assert engine.begin(place, size, state) == status
    assert (state.value is None) == (status != OK)
    assert (set(room) == {7}) == (status != OK)
    assert engine.begin(room, size, None) == NULL


def test_estimates_only_when_asked_for(engine, clips):
    engine.push(clips[0])
    assert [engine.read(overall=False)[0] for _ in range(3)] == [OK] * 3  # 0: whenever
    engine.init()
    engine.push(np.zeros(8192, np.int16))
    engine.call("estimate_every")(engine.state, 10)
    statuses = []
    for start in range(0, 256 * 40, 128):  # read twice per hop
        engine.push(clips[0][start : start + 128])
        statuses.append(engine.read(overall=False)[0])
    assert statuses == [OK if i % 20 == 0 and i else NOT_YET for i in range(1, 81)]
    assert engine.read()[0] == OK  # overall is another matter


def test_several_models_in_one_program(nano, calibration, clips, tmp_path):
    """Two nanos and the header of the C library, C and C++; one's state is not the other's."""
    from nanos import random_nano as other_nano

    from wav2small.export.c import emitter as c_emitter

    other = other_nano(calibration, seed=1)
    c_emitter.write_c(nano, tmp_path, calibration, name="speech", licence="MIT")
    c_emitter.write_c(other, tmp_path, calibration, name="c2", licence="CC0")
    (tmp_path / "clip.h").write_text(
        f"static const short clip[] = {{{','.join(map(str, clips[0]))}}};\n"
    )
    program = tmp_path / "program.c"
    program.write_text(TWO_MODELS)
    flags = ["-Wall", "-Wextra", "-Wshadow", "-pedantic", "-Werror", "-ffp-contract=off", "-g"]
    flags += ["-fsanitize=address,undefined", f"-I{c_emitter.ENGINE.parent}", f"-I{tmp_path}"]
    objects = []
    for source in (tmp_path / "nano_speech.c", tmp_path / "nano_c2.c"):
        objects.append(source.with_suffix(".o"))
        subprocess.run(["cc", "-std=c99", *flags, "-c", source, "-o", objects[-1]], check=True)
    outputs = set()
    for compiler, language in (("cc", ["-std=c99"]), ("c++", ["-std=c++11", "-x", "c++"])):
        command = [compiler, *language, *flags, program, "-x", "none", *objects]
        subprocess.run([*command, "-o", tmp_path / "program"], check=True)
        outputs.add(subprocess.check_output([tmp_path / "program"], text=True))
    values = np.array(outputs.pop().split(), float).reshape(2, 3)
    assert not outputs
    for student, row in zip((nano, other), values, strict=True):
        with torch.no_grad():
            expected = student(torch.tensor(clips[0].astype(np.float32) / 32768)[None])[0]
        np.testing.assert_allclose(row, expected.numpy(), atol=0.005)
    text = (tmp_path / "nano_c2.c").read_text() + (tmp_path / "nano_c2.h").read_text()
    assert text.count(" * CC0\n") == 2


TWO_MODELS = """
#include <stdio.h>
#include "nano_speech.h"
#include "wav2small.h"
#include "nano_c2.h"
#include "clip.h"
int main(void) {
    static NANO_SPEECH_MEMORY(one);
    static NANO_C2_MEMORY(two);
    nano_speech_state *a;
    nano_c2_state *b;
    nano_estimate e;
    w2s_estimate unused;
    (void)unused;
    if (nano_speech_init(one, sizeof one, &a) != NANO_OK || W2S_OK != 0 ||
        nano_c2_init(two, sizeof two, &b) != NANO_OK) {
        return 1;
    }
    if (nano_speech_push((nano_speech_state *)(void *)b, clip, 1) != NANO_ERROR_STATE ||
        nano_c2_read((nano_c2_state *)(void *)a, &e) != NANO_ERROR_STATE) {
        return 2; /* the other model's state */
    }
    nano_speech_set_gate(a, 0);
    nano_c2_set_gate(b, 0);
    if (nano_speech_push(a, clip, sizeof clip / sizeof *clip) != NANO_OK ||
        nano_c2_push(b, clip, sizeof clip / sizeof *clip) != NANO_OK) {
        return 3;
    }
    if (nano_speech_read_overall(a, &e) != NANO_OK) {
        return 4;
    }
    printf("%.7f %.7f %.7f\\n", (double)e.arousal, (double)e.dominance, (double)e.valence);
    if (nano_c2_read_overall(b, &e) != NANO_OK) {
        return 5;
    }
    printf("%.7f %.7f %.7f\\n", (double)e.arousal, (double)e.dominance, (double)e.valence);
    return 0;
}
"""


@pytest.mark.parametrize("name", ["", "1a", "a-b", "../x", "A", "aé"])
def test_bad_names(nano, calibration, tmp_path, name):
    from wav2small.export.c import emitter as c_emitter

    with pytest.raises(Wav2SmallError, match="name"):
        c_emitter.write_c(nano, tmp_path, calibration, name=name)


def test_rejections(nano, tmp_path):
    from wav2small.export.c import emitter as c_emitter
    from wav2small.students import registry

    with pytest.raises(Wav2SmallError, match="calibration"):
        c_emitter.write_c(nano, tmp_path, [])
    with pytest.raises(Wav2SmallError, match="nano"):
        c_emitter.write_c(registry.create("wav2small2"), tmp_path, [np.zeros(16000)])


@NEEDS_BOARDS
def test_same_on_every_processor(source, emodb):
    clip = sorted(emodb.rglob("*.flac"))[3]
    here = on_host(source, clip)
    header = source.with_suffix(".h").read_text()
    runs = [microcontroller.microcontroller(source, target=t, clip=clip)
            for t in microcontroller.TARGETS]  # fmt: skip
    for run in runs:
        assert (run.checksum, run.memory, run.overall) == tuple(
            here[key] for key in ("checksum", "memory", "overall")
        )
        assert run.flash <= 39_500 and run.engine_flash <= 37_800
        estimated = int(re.search(r"Flash about (\d+) bytes", header)[1])
        assert estimated == pytest.approx(run.engine_flash, rel=0.03)
        assert run.state <= 11_600
        assert run.total <= MOST[run.target]
        assert 0 < run.stack < 2048 and 0 < run.duty < 1
        assert sum(one.instructions for one in run.kernels) == pytest.approx(run.total, rel=0.01)
        for stage, number in run.instructions.items():
            kernels = sum(one.instructions for one in run.kernels if one.stage == stage)
            assert kernels == pytest.approx(number, abs=90_000), stage
        if run.cycles:
            assert 1.1 < sum(run.cycles.values()) / run.total < 1.6
    text = microcontroller.table(runs)
    assert "1.3 (assumed)" in text and "(estimated)" in text and "gate and value" in text


#: Instructions per second of audio at the most; they do not vary from run to run.
MOST = {"cortex-m4": 4.98e6, "cortex-m33": 4.91e6, "cortex-m55": 2.24e6}


#: What a product may switch on, beside what `build` asks of this machine's compiler.
WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Wsign-conversion", "-Wshadow", "-pedantic"]


@NEEDS_BOARDS
@pytest.mark.parametrize("standard", ["c99", "c17"])
@pytest.mark.parametrize("optimise", ["-Os", "-O3"])
@pytest.mark.parametrize(
    "options",
    [
        *(board.flags[:-1] for board in microcontroller.TARGETS.values()),
        ("-mcpu=cortex-m7", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv5-d16"),
        ("-mcpu=cortex-m0", "-mthumb"),
        ("-mcpu=cortex-m33", "-mthumb", "-mfloat-abi=soft"),
    ],
    ids=" ".join,
)
def test_no_warnings(source, options, optimise, standard, tmp_path):
    command = ["arm-none-eabi-gcc", *options, optimise, f"-std={standard}", *WARNINGS, "-Werror"]
    subprocess.run([*command, "-c", source, "-o", tmp_path / "engine.o"], check=True)


@NEEDS_BOARDS
def test_estimates_once_a_second_cost_little(source, emodb):
    clip = sorted(emodb.rglob("*.flac"))[3]
    every, seldom = (
        microcontroller.microcontroller(source, clip=clip, estimate_every=hops) for hops in (0, 62)
    )
    assert seldom.instructions["estimate"] < every.instructions["estimate"] / 10
    assert seldom.memory == every.memory and seldom.checksum != every.checksum


@pytest.mark.parametrize(
    ("text", "cycles"),
    [  # DDI 0439D: tables 3-1 and 7-1, section 3.3.2
        ("ldr r0, [r1]; ldr r1, [r2]", 3),
        ("ldr r0, [r1, r2]; str r0, [r3, #20]", 3),
        ("ldr r0, [r1, r5]; ldr r1, [r2]; ldr r2, [r3, #4]", 4),
        ("ldr r0, [r1]; ldr r2, [r0]", 4),
        ("ldrd r0, r1, [r2]", 3),
        ("ldm r0, {r1, r2, r3}", 4),
        ("push {r4-r11, lr}", 10),
        ("add r0, r1; ldr r2, [r0]", 4),
        ("vmul.f32 s0, s1, s2; vadd.f32 s3, s4, s5", 2),
        ("vmul.f32 s0, s1, s2; vadd.f32 s3, s0, s5", 3),
        ("vldr s0, [r0]; vdiv.f32 s2, s1, s0", 16),
        ("smlad r0, r1, r2, r0; mla r0, r1, r2, r3", 2),
        ("vmov s0, r1", 2),
    ],
)
def test_cycles_of_the_manual(text, cycles):
    from wav2small.benchmarks import instructions

    block = [
        instructions.Instruction(4 * i, *part.strip().split(" ", 1))
        for i, part in enumerate(text.split(";"))
    ]
    assert sum(instructions._cycles(block)) == cycles


def mixture(rng):
    """Noise, tones, constants and clicks of random lengths and levels, int16, 4 s."""
    parts, time = [], np.arange(6000)
    while sum(map(len, parts)) < 64000:
        n = rng.integers(1, 6000)
        part = [
            rng.uniform(-1, 1, n),
            np.sin(time[:n] * rng.uniform(0, np.pi)),
            np.full(n, rng.choice([-1.0, 1.0])),
            (time[:n] % rng.integers(2, 900) == 0) * 2.0 - 1,
        ][rng.integers(4)]
        parts.append(part * 2.0 ** rng.uniform(-1, 15.1))
    return np.concatenate(parts)[:64000].clip(-32768, 32767).astype(np.int16)


@NEEDS_BOARDS
@pytest.mark.parametrize("target", MOST)
@pytest.mark.parametrize("kind", ["speech", "loud noise", "clicks", "silence", "mixture"])
def test_kernels_of_a_processor_equal_portable_ones(source, emodb, target, kind):
    """The packed and the vector kernels give the bits that portable C gives on this machine."""
    rng = np.random.default_rng(1)
    clip = {
        "speech": audio.read(sorted(emodb.rglob("*.flac"))[9]),
        "loud noise": rng.integers(-32768, 32768, 20000).astype(np.int16),
        "clicks": np.where(np.arange(20000) % 701, 0, -32768).astype(np.int16),
        "silence": rng.integers(-2, 3, 20000).astype(np.int16),
        "mixture": mixture(rng),
    }[kind]
    if kind == "silence":
        clip[:8000] = rng.integers(-9000, 9000, 8000)
    here = on_host(source, clip)
    there = microcontroller.microcontroller(source, target=target, clip=clip)
    assert (there.checksum, there.memory, there.overall) == tuple(
        here[key] for key in ("checksum", "memory", "overall")
    )


@NEEDS_BOARDS
def test_portable_kernels_on_a_processor(source, emodb, monkeypatch):
    """-DW2S_PORTABLE: the same bits, in more instructions."""
    clip = sorted(emodb.rglob("*.flac"))[3]
    fast = microcontroller.microcontroller(source, target="cortex-m4", clip=clip)
    flags = [*microcontroller._FLAGS, "-DW2S_PORTABLE"]
    monkeypatch.setattr(microcontroller, "_FLAGS", flags)
    slow = microcontroller.microcontroller(source, target="cortex-m4", clip=clip)
    assert slow.checksum == fast.checksum
    assert slow.total > 1.2 * fast.total


@NEEDS_BOARDS
@pytest.mark.parametrize("target", ["cortex-m4", "cortex-m55"])
def test_a_compiler_without_intrinsics(source, target, tmp_path):
    """It prints one message and takes portable C."""
    board = microcontroller.TARGETS[target]
    command = ["arm-none-eabi-gcc", *board.flags, *microcontroller._FLAGS]
    places = subprocess.run(
        [*command, "-E", "-v", "-xc", "/dev/null"], capture_output=True, text=True
    )
    folders = re.findall(r"^ (/\S+)$", places.stderr, re.MULTILINE)
    own = next(folder for folder in folders if Path(folder, "arm_acle.h").exists())
    (tmp_path / "include").mkdir()
    for header in Path(own).iterdir():
        if header.name not in ("arm_acle.h", "arm_mve.h"):
            (tmp_path / "include" / header.name).symlink_to(header)
    command += ["-nostdinc", "-isystem", tmp_path / "include"]
    command += [word for f in folders if f != own for word in ("-isystem", f)]
    command += ["-c", source, "-o", tmp_path / "engine.o"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("#pragma message: portable kernels") == 1
    names = subprocess.check_output(
        ["arm-none-eabi-objdump", "-d", tmp_path / "engine.o"], text=True
    )
    assert "smlad" not in names and "vmladav" not in names
    quiet = subprocess.run([*command, "-DW2S_PORTABLE"], capture_output=True, text=True, check=True)
    assert quiet.stderr == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [({"target": "z80"}, "cortex-m33")],
)
def test_bad_options(source, options, message):
    if microcontroller.missing_tools() and "target" not in options:
        pytest.skip("no tools")
    with pytest.raises(Wav2SmallError, match=message):
        microcontroller.microcontroller(source, **options)
