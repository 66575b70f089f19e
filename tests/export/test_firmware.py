"""The library for Arduino, PlatformIO, Zephyr and ESP-IDF: what builds without a network."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from nanos import random_nano

from wav2small.export.c import emitter, firmware

STUBS = Path(__file__).parent / "arduino"
WARNINGS = ["-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Werror"]
#: As arduino:mbed_nano's platform.txt compiles for a Nano 33 BLE.
MBED = [
    "-mcpu=cortex-m4", "-mfloat-abi=softfp", "-mfpu=fpv4-sp-d16", "-mthumb", "-Os",
    "-fmessage-length=0", "-fno-exceptions", "-ffunction-sections", "-fdata-sections",
    "-funsigned-char", "-fno-delete-null-pointer-checks", "-fomit-frame-pointer",
    "-DARDUINO_ARCH_MBED", "-DARDUINO=10810", "-DMBED_NO_GLOBAL_USING_DIRECTIVE",
]  # fmt: skip

pytestmark = [
    pytest.mark.tools,
    pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler"),
]
NEEDS_ARM = pytest.mark.skipif(
    shutil.which("arm-none-eabi-g++") is None, reason="no arm-none-eabi-g++"
)


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
def clips(speech):
    return [soundfile.read(f, dtype="int16")[0] for f in sorted(speech.glob("*.flac"))[:12]]


@pytest.fixture(scope="module")
def nano(clips):
    return random_nano([clip.astype(np.float32) / 32768 for clip in clips])


@pytest.fixture(scope="module")
def library(nano, clips, tmp_path_factory):
    folder = tmp_path_factory.mktemp("firmware")
    calibration = [clip.astype(np.float32) / 32768 for clip in clips]
    plain = emitter.write_c(nano, folder / "c", calibration, name="desk", licence="MIT")
    return firmware.write_firmware(plain, folder, licence="MIT")


def expected(nano, clip):
    with torch.no_grad():
        return nano(torch.tensor(clip.astype(np.float32) / 32768)[None])[0].numpy()


def sketch(library, name, folder, compilers=("c++", "cc"), flags=(), main=True):
    """As the builder does: the .ino after Arduino.h, every source of the library."""
    text = f'#include <Arduino.h>\n#line 1 "{name}.ino"\n'
    text += (library / "examples" / name / f"{name}.ino").read_text()
    if main:
        text += "\nint main() { for (setup();; loop()) { if (NO_LOOP) { return 0; } } }\n"
    (folder / "sketch.cpp").write_text(text)
    includes = [f"-I{STUBS}", f"-I{library / 'src'}"]
    objects = []
    for compiler, standard, source in (
        (compilers[0], "-std=gnu++14", folder / "sketch.cpp"),
        (compilers[1], "-std=gnu11", library / "src/nano_desk.c"),
    ):
        objects.append(folder / f"{source.stem}.o")
        call(compiler, standard, *WARNINGS, *flags, *includes, "-c", source, "-o", objects[-1])
    return objects


@pytest.mark.parametrize("header", ["good", "chunks", "rate", "stereo", "none", "card"])
def test_file_demo(library, nano, clips, tmp_path, header):
    flags = ["-g", "-fsanitize=address,undefined", "-DNO_LOOP=1"]
    objects = sketch(library, "FileDemo", tmp_path, flags=flags)
    call("c++", "-fsanitize=address,undefined", *objects, "-o", tmp_path / "program")
    clip = np.concatenate(clips[:4])
    wav = tmp_path / "speech.wav"
    rate, samples = (8000 if header == "rate" else 16000), clip
    samples = np.stack([clip, clip], axis=1) if header == "stereo" else clip
    if header != "none":
        soundfile.write(wav, samples, rate, subtype="PCM_16")
    if header == "chunks":
        data = wav.read_bytes()
        wav.write_bytes(data[:12] + b"LIST" + (5).to_bytes(4, "little") + b"12345\0" + data[12:])
    env = {**os.environ, **({"NO_CARD": "1"} if header == "card" else {})}
    lines = call(tmp_path / "program", cwd=tmp_path, env=env).splitlines()
    if header in ("good", "chunks"):
        assert 1 <= len(lines) - 1 <= len(clip) // 16000 + 1  # once a second
        values = [float(word) for word in lines[-1].split()[2::2]]
        # The demo's gate is on: what silence there is does not count.
        np.testing.assert_allclose(values, expected(nano, clip), atol=0.03)
    else:
        assert len(lines) == 1 and lines[0].startswith(("speech.wav is not", "no SD card"))


def test_i2s_microphone(library, nano, clips, tmp_path):
    flags = ["-g", "-fsanitize=address,undefined", "-DNO_LOOP=0"]
    objects = sketch(library, "I2SMicrophone", tmp_path, flags=flags)
    call("c++", "-fsanitize=address,undefined", *objects, "-o", tmp_path / "program")
    words = np.stack([clips[0].astype(np.int32) << 16, np.zeros(len(clips[0]), np.int32)], axis=1)
    words.astype("<i4").tofile(tmp_path / "microphone.raw")
    lines = call(tmp_path / "program", cwd=tmp_path).splitlines()
    assert len(clips[0]) / 16000 * 3 < len(lines) <= len(clips[0]) / 16000 * 4.2
    for line in lines:
        assert re.fullmatch(r"arousal:-?\d\.\d{3} dominance:-?\d\.\d{3} valence:-?\d\.\d{3}", line)


@NEEDS_ARM
@pytest.mark.parametrize("name", ["FileDemo", "I2SMicrophone"])
def test_compiles_as_arduino_mbed_does(library, tmp_path, name):
    tools = ("arm-none-eabi-g++", "arm-none-eabi-gcc")
    flags = MBED
    objects = sketch(library, name, tmp_path, tools, flags, main=False)
    names = call("arm-none-eabi-nm", "-C", objects[0])
    assert " T setup" in names and "nano_desk_push" in names
    # No fused multiply-add, whatever the core's flags are: the same bits as everywhere.
    assert not re.search(r"\bvfn?m[as]", call("arm-none-eabi-objdump", "-d", objects[1]))
    size = call("arm-none-eabi-size", "-A", objects[1])
    flash = sum(int(n) for n in re.findall(r"^\.(?:text|rodata)\S*\s+(\d+)", size, re.MULTILINE))
    assert flash <= 40_000


def test_no_fused_multiply_add_in_the_default_mode(library, tmp_path):
    """gcc contracts by default (-std=gnu11): not here."""
    flags = ["-O2", "-march=haswell"] if os.uname().machine == "x86_64" else ["-O2"]
    for compiler in ("cc", "clang"):
        if shutil.which(compiler):
            call(
                compiler,
                "-std=gnu11",
                *flags,
                "-c",
                library / "src/nano_desk.c",
                "-o",
                tmp_path / "a.o",
            )
            assert not re.search(
                r"\bv?fn?m(add|sub|la|ls)", call("objdump", "-d", tmp_path / "a.o")
            )


def test_properties(library):
    """What Arduino's specification demands."""
    lines = (library / "library.properties").read_text().splitlines()
    properties = dict(line.split("=", 1) for line in lines)
    required = {
        "name",
        "version",
        "author",
        "maintainer",
        "sentence",
        "paragraph",
        "category",
        "url",
    }
    assert required <= set(properties) and all(properties.values())
    assert re.fullmatch(r"[A-Za-z0-9][\w .-]{0,62}", properties["name"])
    assert re.fullmatch(r"\d+\.\d+\.\d+", properties["version"])
    assert properties["category"] in ("Signal Input/Output",)
    assert (library / "src" / properties["includes"]).is_file()
    assert library.name == properties["name"]
    for line in (library / "keywords.txt").read_text().splitlines():
        assert re.fullmatch(r"\w+\tKEYWORD[12]", line)
    assert not any(
        "@" in p.read_text().replace("@0x", "") for p in library.rglob("*") if p.is_file()
    )


def test_platformio(library, tmp_path):
    """Every file that the manifest names is there; `pio` packs it, where there is one."""
    manifest = json.loads((library / "library.json").read_text())
    assert (library / "src" / manifest["headers"]).is_file()
    for example in manifest["examples"]:
        assert all((library / example["base"] / name).is_file() for name in example["files"])
    if shutil.which("pio"):
        call("pio", "pkg", "pack", library, "-o", tmp_path / "library.tar.gz")
        assert (tmp_path / "library.tar.gz").stat().st_size > 10_000


CMAKE = """
cmake_minimum_required(VERSION 3.13)
project(check C)
set(COMPONENT_LIB engine)
function(idf_component_register)
  cmake_parse_arguments(A "" "" "SRCS;INCLUDE_DIRS;REQUIRES" ${ARGN})
  if(A_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "${A_UNPARSED_ARGUMENTS}")
  endif()
  list(TRANSFORM A_SRCS PREPEND ${CMAKE_CURRENT_LIST_DIR}/)
  list(TRANSFORM A_INCLUDE_DIRS PREPEND ${CMAKE_CURRENT_LIST_DIR}/)
  add_library(engine STATIC ${A_SRCS})
  target_include_directories(engine PUBLIC ${A_INCLUDE_DIRS})
endfunction()
macro(zephyr_library)
  add_library(engine STATIC)
endmacro()
function(zephyr_library_sources)
  foreach(source ${ARGN})
    target_sources(engine PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/${source})
  endforeach()
endfunction()
function(zephyr_library_compile_options)
  target_compile_options(engine PRIVATE ${ARGN})
endfunction()
function(zephyr_include_directories)
  foreach(folder ${ARGN})
    target_include_directories(engine PUBLIC ${CMAKE_CURRENT_SOURCE_DIR}/${folder})
  endforeach()
endfunction()
add_subdirectory(%s engine)
add_library(app OBJECT app.c)
target_link_libraries(app engine)
"""


@NEEDS_ARM
@pytest.mark.skipif(shutil.which("cmake") is None, reason="no cmake")
@pytest.mark.parametrize("system", ["zephyr", "esp-idf"])
def test_cmake_of_a_build_system(library, tmp_path, system):
    """Its CMakeLists.txt builds with functions of the build system's names, for a Cortex-M."""
    folder = library / "zephyr" if system == "zephyr" else library
    (tmp_path / "CMakeLists.txt").write_text(CMAKE % folder)
    (tmp_path / "app.c").write_text("""
        #include <nano_desk.h>
        static NANO_DESK_MEMORY(memory);
        int app(void);
        int app(void) { nano_desk_state *s; return nano_desk_init(memory, sizeof memory, &s); }
    """)
    flags = "-mcpu=cortex-m33 -mthumb -mfloat-abi=hard -mfpu=fpv5-sp-d16 -Wall -Wextra -Werror"
    call("cmake", "-S", tmp_path, "-B", tmp_path / "build", f"-DCMAKE_C_FLAGS={flags}",
         "-DCMAKE_SYSTEM_NAME=Generic", "-DCMAKE_C_COMPILER=arm-none-eabi-gcc",
         "-DCMAKE_TRY_COMPILE_TARGET_TYPE=STATIC_LIBRARY", "-DCONFIG_WAV2SMALL_DESK=y")  # fmt: skip
    call("cmake", "--build", tmp_path / "build")
    assert list(tmp_path.glob("build/**/libengine.a"))


def test_zephyr_kconfig_and_manifests(library, tmp_path):
    yaml = pytest.importorskip("yaml")
    module = yaml.safe_load((library / "zephyr/module.yml").read_text())
    assert module == {
        "name": library.name,
        "build": {"cmake": "zephyr", "kconfig": "zephyr/Kconfig"},
    }
    assert all((library / place).exists() for place in module["build"].values())
    component = yaml.safe_load((library / "idf_component.yml").read_text())
    assert set(component) == {"version", "description", "dependencies"}
    kconfiglib = pytest.importorskip("kconfiglib")
    (tmp_path / "Kconfig").write_text(
        f'config FPU\n\tbool "FPU"\nsource "{library / "zephyr/Kconfig"}"\n'
    )
    config = kconfiglib.Kconfig(str(tmp_path / "Kconfig"), warn_to_stderr=False)
    config.syms["WAV2SMALL_DESK"].set_value(2)
    assert config.syms["FPU"].str_value == "y" and not config.warnings
