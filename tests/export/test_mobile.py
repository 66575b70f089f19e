"""Plain C for phones, as far as cross compilers and an emulator go."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from nanos import on_host, random_nano

from wav2small.benchmarks import microcontroller
from wav2small.export.c import emitter

STRING_H = Path(__file__).parents[2] / "web" / "wasm"  # phones have their own

pytestmark = pytest.mark.tools


@pytest.fixture(scope="module")
def clips(speech):
    return [soundfile.read(f, dtype="float32")[0] for f in sorted(speech.glob("*.flac"))[:12]]


@pytest.fixture(scope="module")
def source(clips, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mobile")
    return emitter.write_c(random_nano(clips), folder, clips, name="phone").source


@pytest.mark.skipif(
    not (shutil.which("aarch64-linux-gnu-gcc") and shutil.which("qemu-aarch64")),
    reason="no aarch64-linux-gnu-gcc or qemu-aarch64",
)
@pytest.mark.parametrize("flags", [["-O2"], ["-O3", "-mcpu=cortex-a76"], ["-O2", "-DW2S_PORTABLE"]])
def test_the_same_bits_on_aarch64(source, clips, tmp_path, flags):
    """Fused multiply-add is the processor's default; the file switches it off."""
    samples = np.round(np.concatenate(clips[:3]) * 32768).astype(np.int16)[:32000]
    microcontroller._write_clip(samples, tmp_path)
    command = ["aarch64-linux-gnu-gcc", "-std=gnu11", "-static", *flags, "-DW2S_HOST"]
    command += [f"-I{source.parent}", f'-DW2S_HEADER="{source.stem}.h"']
    command += [source, microcontroller.BOARD / "main.c", tmp_path / "clip.c"]
    subprocess.run([*command, "-o", tmp_path / "program"], check=True)
    done = subprocess.run(["qemu-aarch64", tmp_path / "program"], capture_output=True, text=True,
                          check=True)  # fmt: skip
    there, here = microcontroller._parse(done.stdout), on_host(source, samples)
    for key in ("checksum", "memory", "overall", "counted"):
        assert there[key] == here[key]


@pytest.mark.skipif(shutil.which("clang") is None, reason="no clang")
@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("arm64-apple-ios15", b"\xcf\xfa\xed\xfe"),
        ("arm64-apple-macos12", b"\xcf\xfa\xed\xfe"),
        ("aarch64-linux-android24", b"\x7fELF\x02"),
        ("armv7a-linux-androideabi24", b"\x7fELF\x01"),
    ],
)
def test_compiles_for(source, tmp_path, target, kind):
    program = tmp_path / "nano.o"
    command = ["clang", f"--target={target}", "-O2", "-ffreestanding", "-fPIC", "-Wall", "-Wextra"]
    command += ["-Werror", f"-I{STRING_H}", "-c", source, "-o", program]
    subprocess.run(command, check=True)
    assert program.read_bytes().startswith(kind)


def test_header_is_what_swift_imports(source):
    """Constants without arithmetic, functions without macros: others are not visible to Swift."""
    header = source.with_suffix(".h").read_text().partition("#ifdef NANO_SHORT_NAMES")[0]
    assert re.search(r"^#define NANO_PHONE_STATE_SIZE \d+ ", header, re.MULTILINE)
    assert re.search(r"^#define NANO_PHONE_HOP \d+ ", header, re.MULTILINE)
    declared = re.findall(r"^\w+ \*?(nano_phone_\w+)\(", header, re.MULTILINE)
    assert len(declared) == 10 and len(set(declared)) == 10
