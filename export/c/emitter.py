"""Plain C99 for a microcontroller: `nano_<name>.h` and `.c` from a trained nano.

The code is `export/c/nano/`; this file writes the model's tables before it. `integer.py` describes
what the numbers mean.
"""

from __future__ import annotations

import hashlib
import os
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import wav2small
from wav2small import files
from wav2small.audio import SAMPLING_RATE
from wav2small.errors import Wav2SmallError
from wav2small.students.base import Student
from wav2small.students.frontend import hz_to_mel, mel_bands, mel_to_hz
from wav2small.students.nano import SCALE, Nano

from . import integer
from .integer import FEATURE_SCALE, Integer, Layer

ENGINE = Path(__file__).parent / "nano"
#: One file when emitted.
ENGINE_PARTS = (
    "kernels.h kernels_portable.c kernels_dsp.c kernels_mve.c state.c transform.c "
    "transform_mve.c frontend.c network.c stream.c"
).split()
#: Bytes of instructions, arm-none-eabi-gcc 12.2 -O2 for Cortex-M4 and M33; M55 has less.
_CODE = 7_500
_VOICE_CODE = 600  # likewise, of the head for voice activity
_LOG2_TERMS = 8
_CLIPS = 48  # of calibration; more find no larger peaks
_BYTES = {"int8_t": 1, "uint8_t": 1, "int32_t": 4, "uint16_t": 2, "float": 4}
_WIDTHS = {"int8_t": 24, "uint8_t": 24, "int32_t": 8, "uint16_t": 12, "float": 6}


@dataclass(frozen=True)
class COptions:
    """The C of a bundle.

    Attributes:
        name: of its files and symbols, see `write_c`; None = after the bundle's folder
        arduino: also `firmware/`, a library for Arduino, PlatformIO, Zephyr and ESP-IDF
    """

    name: str | None = None
    arduino: bool = False


@dataclass(frozen=True)
class PlainC:
    """What `write_c` made.

    Attributes:
        source: the .c file; the .h file has the same name
        flash: bytes of tables and code on a Cortex-M, estimated to 3 %
        ram: bytes that the caller gives for one stream; the stack is another 1.2 KB
        integers: the numbers in it
    """

    source: Path
    flash: int
    ram: int
    integers: Integer


def write_c(
    student: Student,
    folder: str | os.PathLike[str],
    calibration: Sequence[np.ndarray],
    *,
    name: str = "speech",
    licence: str = "",
) -> PlainC:
    """Write `nano_<name>.h` and `nano_<name>.c`.

    Args:
        student: trained nano in evaluation mode
        folder: where to; made if missing (`c/` of a bundle)
        calibration: speech to find ranges on, float32 signals at 16 kHz
        name: lower-case letters, digits and _; every symbol starts with `nano_<name>_`
        licence: a line of the bundle's lineage, for both files

    Raises:
        Wav2SmallError: not a nano, one the engine cannot run, or no calibration audio

    Example:
        >>> from wav2small.students import registry
        >>> write_c(registry.create("wav2small").eval(), "c/", [], name="my-model")
        Traceback (most recent call last):
        wav2small.errors.Wav2SmallError: a C name of 'my-model': a to z, digits and _ only
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise Wav2SmallError(f"a C name of {name!r}: a to z, digits and _ only")
    some = calibration[:: max(1, len(calibration) // _CLIPS)]
    model = integer.quantise(student, some)  # type: ignore[arg-type]
    header, source, made = emit(student, model, name=name, licence=licence)  # type: ignore[arg-type]
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, text in (("h", header), ("c", source)):
        with files.atomic(folder / f"nano_{name}.{suffix}") as path:
            path.write_text(text, encoding="ascii", errors="replace")
    return replace(made, source=folder / made.source)


def c_name(text: str) -> str:
    """A name for `write_c` from any text, such as a bundle's folder.

    Example:
        >>> c_name("My Bundle-2"), c_name("4th")
        ('my_bundle_2', 'model_4th')
    """
    name = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    return name if re.match("[a-z]", name) else f"model_{name}".rstrip("_")


def emit(
    student: Nano, model: Integer, *, name: str = "speech", licence: str = ""
) -> tuple[str, str, PlainC]:
    """Text of the header and of the source, and their size.

    Raises:
        Wav2SmallError: sizes that the engine does not take
    """
    config, hop, taps = student.config, student.hop, student.config["kernel"]
    if hop & (hop - 1) or hop.bit_length() % 2 == 0:
        raise Wav2SmallError(f"a hop of {hop}: the engine's transform needs a power of 4")
    features = config["stem_kernel"] * config["mels"]
    for key, size in (("channels", config["channels"]), ("features", features)):
        if size % 8:
            raise Wav2SmallError(f"{key} {size}: the engine computes eight at a time")
    if config["pooled"] % 4:
        raise Wav2SmallError(f"pooled {config['pooled']}: the engine computes four at a time")
    sizes = {
        "HOP": hop,
        "MELS": config["mels"],
        "LEVELS": student.level_frames - 1,
        "LEVEL_FROM": student.level_bands.start,
        "LEVEL_TO": student.level_bands.stop,
        "LOWEST": max(-128, round(student.softest / SCALE / FEATURE_SCALE)),
        "CHANNELS": config["channels"],
        "STEM_TAPS": config["stem_kernel"],
        "TAPS": taps,
        "BLOCKS": len(model.dilations),
        "PAST": (taps - 1) * sum(model.dilations) * config["channels"],
        "POOLED": student.embedding,
        "LOG2_TERMS": _LOG2_TERMS,
    }
    if model.voice:
        width, row = model.voice[1].weight.shape
        if width % 8:
            raise Wav2SmallError(f"a voice head of {width}: the engine computes eight at a time")
        sizes |= {"VOICE": width, "VOICE_TAPS": row // width, "VOICE_LAYERS": len(model.voice) - 2}
        sizes["VOICE_PAST"] = (row - width) * sum(model.voice_dilations)
    tables = "\n".join([*_frontend(student), *_network(model)])
    sizes_of_tables = re.findall(r"^static const (\w+) \w+\[(\d+)\]", tables, re.MULTILINE)
    size_of_tables = sum(_BYTES[kind] * int(count) for kind, count in sizes_of_tables)
    code = _CODE + (_VOICE_CODE if model.voice else 0)
    made = PlainC(Path(f"nano_{name}.c"), size_of_tables + code, _state_size(sizes), model)
    line = " ".join(licence.replace("*/", "").replace("/*", "").split())
    line = line or "Licence: see the bundle."
    lines = textwrap.wrap(line, 97, initial_indent=" * ", subsequent_indent=" * ")
    marks = {
        "NAME": f"nano_{name}",
        "UPPER": f"NANO_{name.upper()}",
        "VERSION": wav2small.__version__,
        "HOP": str(hop),
        "STATE_SIZE": str(made.ram),
        "FLASH": str(made.flash),
        "TABLES": str(size_of_tables),
        "LICENCE": "\n".join(lines),
    }
    header = (ENGINE / "engine.h").read_text()
    for key, text in marks.items():
        header = header.replace(f"@{key}@", text)
    engine = "\n".join((ENGINE / part).read_text() for part in ENGINE_PARTS)
    # Another model's state, or one of another size, has another number.
    magic = hashlib.sha256((tables + str(sizes)).encode()).hexdigest()[:8]
    licences = "\n".join(lines)
    defines = "\n".join(f"#define {key} {size}" for key, size in sizes.items())
    source = f"""\
/* nano_{name}.c: tables of the model, then the engine. Generated; do not edit.
{licences}
 */
#if defined(__clang__) /* no fused multiply-add: the same bits on every processor */
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

#include <string.h>
#define NANO_SHORT_NAMES
#include "nano_{name}.h"

#define MAGIC 0x{magic}u
{defines}
#define LEAST_LEVEL {_float(np.float32(student.least_level))}

{tables}
{engine}"""
    return header, source, made


def _state_size(sizes: dict[str, int]) -> int:
    """An upper bound of `sizeof(struct w2s_state)`, checked by the compiler."""
    words = sizes["POOLED"] + 2 * sizes["HOP"] + sizes["BLOCKS"] + 12  # and padding
    halves = 2 * sizes["HOP"] + sizes["PAST"] + sizes["LEVELS"]
    size = 8 * 3 * sizes["POOLED"] + 8 * 5 + 4 * words + 2 * halves
    size += sizes["LEVELS"] + sizes["STEM_TAPS"] * sizes["MELS"]
    size += sizes.get("VOICE_PAST", 0) + 4 * sizes.get("VOICE_LAYERS", 0)
    return -(-size // 8) * 8


def _frontend(student: Nano) -> Iterable[str]:
    n_fft = 2 * student.hop
    yield "/* cos(pi i / HOP), half a period: the other half mirrors it */"
    quarter = np.cos(2 * np.pi * np.arange(student.hop // 2) / n_fft)
    yield _array("float", "cosine", np.concatenate([quarter, [0.0], -quarter[::-1]]))
    yield "#define sine(i) cosine[(i) < HOP / 2u ? HOP / 2u - (i) : (i) - HOP / 2u]"
    yield "/* base-4 digits of 0..HOP / 4 - 1 in reverse order */"
    yield _array("uint8_t", "reversed", _digits_reversed(student.hop // 4))
    fraction, count, norm = _mel_fractions(n_fft, student.config["mels"])
    yield _array("float", "mel_fraction", fraction)
    yield _array("uint8_t", "mel_count", count)
    yield _array("float", "mel_norm", norm)
    m = np.linspace(1, 2, 4001)
    fit = np.polynomial.chebyshev.Chebyshev.interpolate(
        lambda x: np.log2(x + 1.5), _LOG2_TERMS - 1, domain=[-0.5, 0.5]
    )
    terms = fit.convert(kind=np.polynomial.Polynomial, domain=[-1, 1], window=[-1, 1]).coef
    assert np.abs(np.polynomial.polynomial.polyval(m - 1.5, terms) - np.log2(m)).max() < 4e-6
    yield "/* log2(1.5 + m), -.5 <= m < .5 */"
    yield _array("float", "log2_terms", terms)


def _digits_reversed(size: int) -> np.ndarray:
    """Base-4 digits of 0..size - 1 in reverse order, size a power of 4."""
    numbers = np.zeros(1, dtype=np.int64)
    while len(numbers) < size:
        numbers = np.concatenate([4 * numbers + digit for digit in range(4)])
    return numbers


def _mel_fractions(n_fft: int, mels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The triangles of `mel_bands` in fewer numbers: every bin lies between two centres.

    Returns:
        share of each bin (n_fft / 2 + 1,) that the band above takes, the band below takes the
        rest; number of bins below the first centre, between the first two ... (mels + 1,); height
        of each triangle (mels,)
    """
    edges = mel_to_hz(np.linspace(hz_to_mel(0.0), hz_to_mel(8000.0), mels + 2))
    bins = np.arange(n_fft // 2 + 1) * SAMPLING_RATE / n_fft
    place = np.clip(np.searchsorted(edges, bins, side="right") - 1, 0, mels)
    fraction = (bins - edges[place]) / (edges[place + 1] - edges[place])
    height = 2 / (edges[2:] - edges[:-2])
    rebuilt = np.zeros((len(bins), mels + 2))
    rebuilt[np.arange(len(bins)), place + 1] = fraction
    rebuilt[np.arange(len(bins)), place] += 1 - fraction
    assert np.allclose(rebuilt[:, 1:-1] * height, mel_bands(n_fft, mels), atol=1e-9)
    return fraction, np.bincount(place, minlength=mels + 1), height


def _network(model: Integer) -> Iterable[str]:
    yield from _layers("stem", [model.stem])
    yield _array("uint8_t", "dilations", np.array(model.dilations))
    # taps first, so that neighbours in memory are neighbouring channels
    turned = [replace(layer, weight=layer.weight.T) for layer in model.depthwise]
    yield from _layers("depthwise", turned, each=True)
    yield from _layers("pointwise", model.pointwise, each=True)
    narrow = model.narrow
    yield f"#define NARROW_WEIGHT {narrow.weight[0, 0]}"
    yield f"#define NARROW_LEFT {narrow.left}"
    yield f"#define NARROW_MULTIPLIER {narrow.multiplier[0]}"
    yield from _layers("gate", [_signed(model.gate)])
    yield from _layers("value", [_signed(model.value)])
    if model.voice:
        yield _array("uint8_t", "voice_dilations", np.array(model.voice_dilations))
        yield from _layers("voice_first", [_signed(model.voice[0])])
        yield from _layers("voice_inner", model.voice[1:-1], each=True)
        yield from _layers("voice_last", model.voice[-1:])
    yield _array("uint16_t", "sigmoid_table", model.sigmoid)
    yield _array("float", "head", model.head)
    yield _array("float", "head_bias", model.head_bias)


def _signed(layer: Layer) -> Layer:
    """The same sums from inputs that are 128 less, so that uint8 becomes int8."""
    return replace(layer, bias=layer.bias + 128 * layer.weight.astype(np.int32).sum(axis=1))


def _layers(name: str, layers: Sequence[Layer], *, each: bool = False) -> Iterable[str]:
    def joined(key: str) -> np.ndarray:
        return np.concatenate([getattr(layer, key).ravel() for layer in layers])

    yield _array("int8_t", f"{name}_weight", joined("weight"))
    yield _array("int32_t", f"{name}_bias", joined("bias"))
    yield _array("int32_t", f"{name}_multiplier", joined("multiplier"))
    lefts = [layer.left for layer in layers]
    if each:
        yield _array("uint8_t", f"{name}_left", np.array(lefts))
    else:
        yield f"#define {name.upper()}_LEFT {lefts[0]}"


def _array(kind: str, name: str, numbers: np.ndarray) -> str:
    flat, width = np.ravel(numbers), _WIDTHS[kind]
    if kind == "float":
        texts = [_float(value) for value in flat.astype(np.float32)]
    else:
        texts = [str(int(value)) for value in flat]
    rows = [", ".join(texts[i : i + width]) for i in range(0, len(texts), width)]
    return f"static const {kind} {name}[{len(flat)}] = {{\n    " + ",\n    ".join(rows) + "};\n"


def _float(value: np.float32) -> str:
    text = f"{float(value):.9g}"  # 9 digits give back every float32
    return (text if "." in text or "e" in text else text + ".0") + "f"


def write_library(folder: str | os.PathLike[str]) -> Path:
    """Write the C library over ONNX Runtime and `make c` into a bundle.

    It gets `c/` with sources, examples and CMakeLists.txt, which is returned, and a Makefile.
    """
    source, target = ENGINE.parent, Path(folder) / "c"
    for pattern in ("*.[ch]", "examples/*.c", "cmake/*", "CMakeLists.txt"):
        for path in sorted(source.glob(pattern)):
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    target.with_name("Makefile").write_bytes((source / "bundle.mk").read_bytes())
    return target
