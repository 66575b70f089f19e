"""The installed C library: what a project of somebody else finds, links and runs."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import soundfile
import torch

import wav2small

SOURCE = Path(__file__).parents[2] / "export" / "c"
RUNTIME = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so*"))
HEADER = (SOURCE / "wav2small.h").read_text()

pytestmark = [
    pytest.mark.tools,
    pytest.mark.skipif(
        shutil.which("cmake") is None or shutil.which("cc") is None, reason="no cmake or C compiler"
    ),
]

PROGRAM = r"""
#include <stdio.h>
#include <string.h>
#include <wav2small.h>
#include "clip.h"
#if W2S_VERSION_MAJOR * 10000 + W2S_VERSION_MINOR * 100 + W2S_VERSION_PATCH < 100
#error "too old"
#endif
int main(int argc, char **argv) {
    char message[W2S_MESSAGE_SIZE];
    w2s_model *model;
    w2s_estimate e;
    if (argc != 2 || strcmp(w2s_version(), W2S_VERSION) != 0) { return 2; }
    if (w2s_open(argv[1], NULL, &model, message) != W2S_OK) { puts(message); return 1; }
    if (w2s_predict(model, clip, sizeof clip / sizeof *clip, 16000, &e) != W2S_OK) { return 1; }
    printf("%.9g %.9g %.9g\n", (double)e.arousal, (double)e.dominance, (double)e.valence);
    w2s_close(model);
    return 0;
}
"""
PROJECT = """
cmake_minimum_required(VERSION 3.13)
project(consumer C CXX)
find_package(wav2small {version} REQUIRED)
add_executable(shared main.c)
target_link_libraries(shared wav2small::wav2small)
add_executable(static main.c)
target_link_libraries(static wav2small::static)
add_executable(plusplus main.cpp)
target_link_libraries(plusplus wav2small::shared)
"""


def call(*command, **options):
    done = subprocess.run(
        [os.fspath(word) for word in command],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    folder = tmp_path_factory.mktemp("install")
    call("cmake", "-S", SOURCE, "-B", folder / "build", "-DCMAKE_INSTALL_LIBDIR=lib")
    call("cmake", "--build", folder / "build", "-t", "wav2small", "wav2small_shared")
    # The examples are not installed, and need not be built.
    call("cmake", "--install", folder / "build", "--prefix", folder / "first")
    shutil.move(folder / "first", folder / "moved")  # nothing may remember the prefix
    return folder / "moved"


@pytest.fixture(scope="module")
def consumer(speech, tmp_path_factory):
    """A project, a bundle, and Python's estimate of the clip."""
    from wav2small.export.onnx import models
    from wav2small.students import registry

    folder = tmp_path_factory.mktemp("consumer")
    clip = soundfile.read(sorted(speech.glob("*.flac"))[0], dtype="float32")[0]
    numbers = ",".join(f"{sample:.9e}f" for sample in clip)
    (folder / "clip.h").write_text(f"static const float clip[] = {{{numbers}}};\n")
    for name in ("main.c", "main.cpp"):
        (folder / name).write_text(PROGRAM)
    torch.manual_seed(2)
    onnx.save(models.build(registry.create("wav2small2").eval(), "int8")[0], folder / "model.onnx")
    return folder, wav2small.Predictor(folder).predict(clip)


def check(program, consumer, **settings):
    env = {**os.environ, "W2S_ONNXRUNTIME": str(RUNTIME), **settings}
    outputs = call(program, consumer[0], env=env).split()
    np.testing.assert_allclose(np.array(outputs, float), consumer[1], rtol=0, atol=1e-6)


def configure(folder, prefix, version, build):
    (folder / "CMakeLists.txt").write_text(PROJECT.format(version=version))
    command = ["cmake", "-S", folder, "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_find_package(prefix, consumer, tmp_path):
    done = configure(consumer[0], prefix, "0.1", tmp_path)
    assert done.returncode == 0, done.stderr
    call("cmake", "--build", tmp_path)
    for program in ("shared", "static", "plusplus"):
        check(tmp_path / program, consumer)
    needed = {name: call("readelf", "-d", tmp_path / name) for name in ("shared", "static")}
    assert "libwav2small.so.0" in needed["shared"] and "libwav2small" not in needed["static"]


@pytest.mark.parametrize("version", ["0.9", "2"])
def test_find_package_rejects_other_versions(prefix, consumer, tmp_path, version):
    done = configure(consumer[0], prefix, version, tmp_path)
    assert done.returncode != 0 and "compatible" in done.stderr


@pytest.mark.skipif(shutil.which("pkg-config") is None, reason="no pkg-config")
def test_pkg_config(prefix, consumer, tmp_path):
    env = {**os.environ, "PKG_CONFIG_PATH": str(prefix / "lib/pkgconfig")}
    assert call("pkg-config", "--modversion", "wav2small", env=env).strip() == wav2small.__version__
    flags = call("pkg-config", "--cflags", "--libs", "wav2small", env=env).split()
    call("cc", "main.c", *flags, "-o", tmp_path / "program", cwd=consumer[0])
    check(tmp_path / "program", consumer, LD_LIBRARY_PATH=str(prefix / "lib"))


def test_exports_what_the_header_declares(prefix):
    declared = set(re.findall(r"W2S_API [^;(]*?(w2s_\w+)\(", HEADER))
    listed = call("nm", "-D", "--defined-only", prefix / "lib/libwav2small.so")
    assert {line.split()[-1] for line in listed.splitlines()} == declared
    assert len(declared) == 11


def test_versions_agree():
    numbers = [
        re.search(rf"W2S_VERSION_{part} (\d+)", HEADER)[1] for part in ("MAJOR", "MINOR", "PATCH")
    ]
    assert ".".join(numbers) == wav2small.__version__
    assert f'W2S_VERSION "{wav2small.__version__}"' in HEADER
