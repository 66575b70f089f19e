"""The same bundle on another processor: ONNX Runtime for aarch64 under qemu.

    python -m wav2small.benchmarks.studies.parity BUNDLE --wheel onnxruntime-1.22.1-...-aarch64.whl

Cross-compiles `classify` of the C library in `export/c`, runs it with the aarch64 library
of ONNX Runtime on every recorded signal up to two seconds but the constant ones, and compares
with what the export recorded on its own machine. Needs (Debian) `qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross
libstdc++6-arm64-cross`, and the wheel:

    pip download --no-deps --only-binary :all: --platform manylinux_2_28_aarch64 \\
        --platform manylinux_2_27_aarch64 --python-version 311 onnxruntime==1.22.1
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import soundfile

from wav2small.audio import SAMPLING_RATE
from wav2small.benchmarks import studies
from wav2small.errors import Wav2SmallError
from wav2small.export import bundle, verification
from wav2small.export.c.emitter import ENGINE

COMPILER, EMULATOR, SYSROOT = "aarch64-linux-gnu-gcc", "qemu-aarch64", "/usr/aarch64-linux-gnu"
LONGEST = 32_000  # samples; emulation takes some hundred times as long
SOURCES = ("wav2small.c", "files.c", "options.c", "stream.c", "gate.c", "runtime.c")


def parity(path: str | os.PathLike[str], wheel: str | os.PathLike[str]) -> dict[str, float]:
    """Largest difference of every recorded signal between the export's machine and aarch64.

    Args:
        path: bundle folder
        wheel: ONNX Runtime for aarch64; 1.22.1 runs under qemu 7, newer ones crash there

    Raises:
        Wav2SmallError: a tool is missing, or the program fails
    """
    folder = Path(path)
    record = bundle.read_record(folder)
    if missing := [tool for tool in (COMPILER, EMULATOR) if not shutil.which(tool)]:
        raise Wav2SmallError(
            f"{' and '.join(missing)}: not installed; on Debian: apt install qemu-user "
            "gcc-aarch64-linux-gnu libc6-dev-arm64-cross libstdc++6-arm64-cross"
        )
    made = verification.signals()
    # The C library rejects constant signals, as `predict` does.
    signals = {name: x for name, x in made.items() if 0 < len(x) <= LONGEST and np.ptp(x) > 0}
    rows = [row for row in record["signals"] if row["name"] in signals]
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        library = _library(Path(wheel), place)
        program = _compile(place)
        files: list[Path] = []
        for number, row in enumerate(rows):
            files.append(place / f"{number}.wav")
            soundfile.write(files[-1], signals[row["name"]], SAMPLING_RATE, subtype="FLOAT")
        command = [EMULATOR, "-L", SYSROOT, str(program), str(folder.resolve() / bundle.MODEL)]
        text = _run([*command, *map(str, files)], W2S_ONNXRUNTIME=str(library))
    outputs = np.array([line.split()[1:] for line in text.splitlines()], dtype=np.float64)
    expected = np.array([row["file"] for row in rows])
    worst = np.abs(outputs - expected).max(axis=1)
    return {row["name"]: float(value) for row, value in zip(rows, worst, strict=True)}


def _library(wheel: Path, place: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if "capi/libonnxruntime.so." in name]
            return Path(archive.extract(names[0], place))
    except (OSError, zipfile.BadZipFile, IndexError) as error:
        raise Wav2SmallError(f"{wheel}: no wheel of ONNX Runtime for Linux ({error})") from error


def _compile(place: Path) -> Path:
    program, library = place / "classify", ENGINE.parent
    sources = [str(library / name) for name in ("examples/classify.c", "wav.c", *SOURCES)]
    command = [COMPILER, "-std=gnu99", "-O2", f"-I{library}", "-o", str(program), *sources]
    _run([*command, "-ldl", "-lm"])
    return program


def _run(command: list[str], **environment: str) -> str:
    environment = {**os.environ, **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise Wav2SmallError(f"{Path(command[0]).name}: {last}")
    return done.stdout


def main(arguments: list[str] | None = None) -> int:
    """The command: 0 if every signal agrees to 1e-3, 1 if one does not, 2 if it cannot run."""
    parser = studies.parser("parity")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--wheel", type=Path, required=True, help="onnxruntime for aarch64")
    args = parser.parse_args(arguments)
    try:
        differences = parity(args.bundle, args.wheel)
    except Wav2SmallError as error:
        print(f"parity: {error}", file=sys.stderr)
        return 2
    for name, difference in differences.items():
        print(f"{name:15} {difference:.2e}")
    # NaN must not pass.
    return 0 if all(value <= verification.PARITY for value in differences.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
