"""The C library over ONNX Runtime: the same numbers as Python, and no bad input that hurts."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import soundfile
from nanos import random_nano

import wav2small

SOURCE = Path(__file__).parents[2] / "export" / "c"
RUNTIME = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so*"))

pytestmark = pytest.mark.skipif(
    shutil.which("cmake") is None or shutil.which("cc") is None, reason="no cmake or C compiler"
)


def build(folder, *flags, target=None):
    subprocess.run(["cmake", "-S", SOURCE, "-B", folder, *flags], check=True, capture_output=True)
    command = ["cmake", "--build", folder]
    for name in target or []:
        command += ["-t", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    return folder


def run(command, *, data=b"", env=None, check=True):
    settings = {**os.environ, "W2S_ONNXRUNTIME": str(RUNTIME), **(env or {})}
    done = subprocess.run(
        [os.fspath(word) for word in command],
        input=data, capture_output=True, env=settings, check=False,
    )  # fmt: skip
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    return build(tmp_path_factory.mktemp("c"))


@pytest.fixture(scope="module")
def clips(speech, tmp_path_factory):
    """The spoken clips as 16-bit WAV."""
    folder = tmp_path_factory.mktemp("wav")
    for file in sorted(speech.glob("*.flac"))[:6]:
        signal, rate = soundfile.read(file, dtype="int16")
        soundfile.write(folder / f"{file.stem}.wav", signal, rate)
    return sorted(folder.glob("*.wav"))


@pytest.fixture(scope="module")
def bundles(clips, tmp_path_factory):
    """A causal bundle and one that is not."""
    import torch

    from wav2small.export.onnx import models, streaming
    from wav2small.students import registry

    folder = tmp_path_factory.mktemp("bundles")
    nano = random_nano([soundfile.read(file, dtype="float32")[0] for file in clips])
    (folder / "nano").mkdir()
    onnx.save(models.build(nano, "int8")[0], folder / "nano" / "model.onnx")
    streaming.write_streaming(nano, folder / "nano")
    voice = random_nano([soundfile.read(file, dtype="float32")[0] for file in clips], voice=True)
    (folder / "voice").mkdir()
    onnx.save(models.build(voice, "int8")[0], folder / "voice" / "model.onnx")
    streaming.write_streaming(voice, folder / "voice")
    torch.manual_seed(2)
    (folder / "window").mkdir()
    window = registry.create("wav2small2").eval()
    onnx.save(models.build(window, "int8")[0], folder / "window" / "model.onnx")
    return folder


@pytest.fixture(scope="module")
def damaged(bundles):
    path = bundles / "damaged.onnx"
    path.write_bytes((bundles / "window" / "model.onnx").read_bytes()[:3000])
    return path


@pytest.mark.parametrize("kind", ["nano", "window"])
def test_classify_equals_python(programs, bundles, clips, kind):
    lines = run([programs / "classify", bundles / kind, *clips]).stdout.decode().splitlines()
    predictor = wav2small.Predictor(bundles / kind)
    for line, file in zip(lines, clips, strict=True):
        name, *outputs = line.split()
        assert name == str(file)
        np.testing.assert_allclose(
            np.array(outputs, float), predictor.predict_file(file), rtol=0, atol=1e-6
        )


@pytest.mark.parametrize("kind", ["nano", "window", "voice"])
@pytest.mark.parametrize("gate", [True, False])
def test_listen_equals_python(programs, bundles, clips, kind, gate):
    signal = np.concatenate([soundfile.read(file, dtype="int16")[0] for file in clips[:2]])
    silence = np.zeros(16000, np.int16)
    signal = np.concatenate((signal, silence, signal[:20000], signal[:20000] // 90, signal[:9000]))
    command = [programs / "listen", bundles / kind, *([] if gate else ["--no-gate"])]
    lines = run(command, data=signal.astype("<i2").tobytes()).stdout.splitlines()
    stream = wav2small.Stream(bundles / kind, gate=gate)
    estimates = stream.push(signal)
    assert len(lines) == len(estimates) > 3
    for line, estimate in zip(lines, estimates, strict=True):
        row = json.loads(line)
        for key in ("arousal", "dominance", "valence", "time", "heard"):
            tolerance = 1e-6 if key in ("arousal", "dominance", "valence") else 1e-3
            assert row[key] == pytest.approx(getattr(estimate, key), abs=tolerance)
        assert row["overall"] == pytest.approx(estimate.overall, abs=1e-6)


def test_an_old_runtime(programs, bundles, clips):
    """ONNX Runtime 1.20 fuses float64 products into an operator that it lacks; see streaming.py."""
    old = next(Path(sys.prefix, "peers").glob("ort120/onnxruntime/capi/libonnxruntime.so*"), None)
    if old is None:
        pytest.skip("no ONNX Runtime 1.20 here: make .venv/.peers")
    pcm = soundfile.read(clips[0], dtype="int16")[0].astype("<i2").tobytes()
    command = [programs / "listen", bundles / "nano", "--no-gate"]
    new, other = (
        json.loads(run(command, data=pcm, env=env).stdout.splitlines()[-1])
        for env in ({}, {"W2S_ONNXRUNTIME": str(old)})
    )
    assert other["overall"] == pytest.approx(new["overall"], abs=1e-6)


def test_the_runtimes_own_header(programs, bundles, clips, tmp_path):
    """Compiled against it: the same numbers, and our own declarations name the same places."""
    folder = os.environ.get("WAV2SMALL_ORT_HEADERS")
    if not folder:
        pytest.skip("no onnxruntime_c_api.h; set WAV2SMALL_ORT_HEADERS to its folder")
    other = build(tmp_path / "build", f"-DORT_INCLUDE_DIR={folder}")
    for kind in ("nano", "window"):
        command = ["classify", bundles / kind, *clips]
        expected, outputs = (run([made / command[0], *command[1:]]) for made in (programs, other))
        assert outputs.stdout == expected.stdout
    places = re.findall(r"X\([^,]+,\s*(\w+),\s*(\d+),", (SOURCE / "ort.h").read_text())
    assert len(places) > 30
    program = tmp_path / "places.c"
    lines = [
        f"typedef char at_{name}[offsetof(OrtApi, {name}) == {place} * sizeof(void (*)(void))"
        " ? 1 : -1];"
        for name, place in places
    ]
    program.write_text("\n".join(["#include <stddef.h>", "#include <onnxruntime_c_api.h>", *lines]))
    run(["cc", "-std=c11", "-fsyntax-only", f"-I{folder}", program])


@pytest.mark.parametrize("kind", ["nano", "window"])
def test_bad_input(programs, bundles, damaged, kind):
    build(programs, target=["check_library"])
    other = next(Path("/").glob("lib*/*/libm.so.6"))
    done = run([programs / "check_library", bundles / kind, other, damaged])
    assert done.stdout == b"0 failures\n"


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory):
    flags = ["-DW2S_SANITIZE=address,undefined", "-DCMAKE_BUILD_TYPE=Debug"]
    targets = ["check_library", "check_stream", "classify"]
    return build(tmp_path_factory.mktemp("sanitized"), *flags, target=targets)


@pytest.mark.parametrize("kind", ["nano", "window"])
def test_sanitizers(sanitized, bundles, damaged, clips, kind):
    other = next(Path("/").glob("lib*/*/libm.so.6"))
    env = {"UBSAN_OPTIONS": "halt_on_error=1"}
    done = run([sanitized / "check_library", bundles / kind, other, damaged], env=env)
    assert done.stdout == b"0 failures\n" and b"ERROR" not in done.stderr
    run([sanitized / "classify", bundles / kind, clips[0]], env=env)


def test_a_day_of_audio(sanitized):
    done = run([sanitized / "check_stream"], env={"UBSAN_OPTIONS": "halt_on_error=1"})
    assert done.stdout == b"0 failures\n"


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="no valgrind")
def test_valgrind(programs, bundles):
    """Both sessions, the gate, silence; ONNX Runtime takes most of the time."""
    command = ["valgrind", "--quiet", "--error-exitcode=9", "--leak-check=full"]
    command += ["--errors-for-leak-kinds=definite"]
    command += [f"--suppressions={SOURCE / 'tests' / 'valgrind.supp'}"]
    signal = np.random.default_rng(0).integers(-9000, 9000, 8000).astype("<i2")
    signal[5000:] = 0
    assert run([*command, programs / "listen", bundles / "nano"], data=signal.tobytes()).stdout


@pytest.mark.skipif(shutil.which("clang") is None, reason="no clang")
def test_fuzz_briefly(tmp_path):
    targets = ["fuzz_wav", "fuzz_stream"]
    try:
        build(tmp_path, "-DCMAKE_C_COMPILER=clang", "-DW2S_FUZZ=ON", target=targets)
    except AssertionError as error:
        if "clang_rt" in str(error):
            pytest.skip("no libFuzzer: apt-get install libclang-rt-dev")
        raise
    # Linux counts the peak of pytest as that of a program it starts: single blocks are bounded.
    memory = ["-rss_limit_mb=0", "-malloc_limit_mb=64"]
    for target in targets:
        run([tmp_path / target, "-runs=20000", "-max_len=64", "-seed=1", *memory])


def test_from_c_plus_plus(tmp_path):
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler")
    program = tmp_path / "t.cpp"
    program.write_text('#include "wav2small.h"\nint main() { return w2s_close(nullptr), 0; }\n')
    flags = ["-std=c++11", "-Wall", "-Werror", "-pedantic", "-fsyntax-only"]
    run(["c++", *flags, f"-I{SOURCE}", program])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a WAV file"),
        (b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0", "too short"),
        (b"RIFF\0\0\0\0WAVE", "without a data chunk"),
        ("stereo", "more than one channel"),
        ("8000", "8000 Hz"),
        ("short", "at least 1600"),
    ],
)
def test_bad_files(programs, bundles, tmp_path, content, message):
    path = tmp_path / "bad.wav"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        shape = (16000, 2) if content == "stereo" else (500 if content == "short" else 16000,)
        soundfile.write(path, np.zeros(shape), 8000 if content == "8000" else 16000)
    done = run([programs / "classify", bundles / "window", path], check=False)
    assert done.returncode == 1 and message.encode() in done.stderr and done.stdout == b""


def test_listen_rejects(programs, bundles, clips, damaged):
    wav = clips[0].read_bytes()
    for bundle, data, message in (
        (bundles / "nano", wav, "is a WAV file"),
        (damaged, b"", "damaged.onnx: ONNX Runtime: "),
        (bundles / "nowhere", b"", "nowhere: cannot be read"),
    ):
        done = run([programs / "listen", bundle], data=data, check=False)
        assert done.returncode == 2 and done.stdout == b""
        assert message in done.stderr.decode() and done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT"])
def test_wav_formats(programs, bundles, clips, tmp_path, subtype):
    signal = soundfile.read(clips[0], dtype="float64")[0]
    path = tmp_path / "clip.wav"
    soundfile.write(path, signal, 16000, subtype=subtype)
    _, *outputs = run([programs / "classify", bundles / "window", path]).stdout.decode().split()
    expected = wav2small.Predictor(bundles / "window").predict(soundfile.read(path)[0])
    np.testing.assert_allclose(np.array(outputs, float), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        *[(size, "") for size in (0, 0xFFFFFFFF, 0x7FFFF000, 0x80000000, -1, 2)],
        (1000, "holds more"),
        (1 << 22, "was cut"),
        ("half", "was cut"),
    ],
)
def test_wav_sizes(programs, bundles, clips, tmp_path, size, message):
    """The same files are read, and rejected, as in Python."""
    soundfile.write(tmp_path / "clip.wav", soundfile.read(clips[0])[0], 16000, subtype="PCM_16")
    data = bytearray((tmp_path / "clip.wav").read_bytes())
    if size == "half":
        del data[len(data) // 2 :]
    else:
        number = size if size == 0 or size >= 1000 else len(data) - 44 + size
        data[40:44] = number.to_bytes(4, "little")
    (tmp_path / "clip.wav").write_bytes(data)
    command = [programs / "classify", bundles / "window", tmp_path / "clip.wav"]
    done = run(command, check=False)
    if message:
        assert done.returncode == 1 and message in done.stderr.decode()
        with pytest.raises(wav2small.errors.AudioError):
            wav2small.audio.read(tmp_path / "clip.wav")
        return
    _, *outputs = done.stdout.decode().split()
    expected = wav2small.Predictor(bundles / "window").predict_file(tmp_path / "clip.wav")
    np.testing.assert_allclose(np.array(outputs, float), expected, rtol=0, atol=1e-5)


def test_make_c_in_an_exported_bundle(speech, clips, tmp_path, capsys):
    from wav2small.cli.main import main
    from wav2small.export.verification import verify_bundle

    student = random_nano([soundfile.read(file, dtype="float32")[0] for file in clips])
    student.save_pretrained(tmp_path / "run")
    bundle = tmp_path / "bundle"
    command = ["export", tmp_path / "run", "-o", bundle, "--calibration", speech, "--clips", 6]
    command += ["--streaming", "--c", "--arduino"]
    assert main([str(word) for word in command]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"bundle/c/nano_bundle\.c: flash about 37\.\d KB, RAM 11\.6 KB", shown)
    assert (bundle / "firmware/wav2small_bundle/src/nano_bundle.hpp").is_file()
    card = (bundle / "README.md").read_text()
    for name in ("streaming.onnx", "c/wav2small.h", "c/nano_bundle.h"):
        assert name in card and (bundle / name).is_file()
    subprocess.run(["make", "-C", bundle, "c"], check=True, capture_output=True)
    _, *outputs = run([bundle / "c/build/classify", bundle, clips[0]]).stdout.decode().split()
    assert verify_bundle(bundle).extra == []
    expected = wav2small.Predictor(bundle).predict_file(clips[0])
    np.testing.assert_allclose(np.array(outputs, float), expected, rtol=0, atol=1e-6)
