"""Put a model into the box of the npm package: `python web/build.py [BUNDLE]`.

BUNDLE was exported with `--c`; by default it is the `nano` that wav2small brings. Writes
`web/model/`: `model.onnx`, its `LICENCE.txt` (the bundle's lineage), and `nano.wasm` from the plain
C, which needs clang with wasm-ld (Debian: clang lld).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import wav2small
from wav2small import provenance
from wav2small.errors import Wav2SmallError

WEB = Path(__file__).parent
BUNDLE = Path(wav2small.__file__).parent / "models" / "nano"


def compile_wasm(source: Path, target: Path) -> None:
    """Compile `nano_<name>.c` to WebAssembly without any runtime.

    Raises:
        Wav2SmallError: no clang with wasm-ld, or it failed
    """
    if not shutil.which("clang"):
        raise Wav2SmallError("no clang; on Debian: apt-get install clang lld")
    command = ["clang", "--target=wasm32", "-O2", "-mbulk-memory", "-ffreestanding", "-nostdlib"]
    command += ["-std=c11", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"]
    command += [f"-I{WEB / 'wasm'}", f"-I{source.parent}"]
    command += [f'-DW2S_HEADER="{source.stem}.h"', f'-DW2S_SOURCE="{source.name}"']
    command += ["-Wl,--no-entry", "-Wl,--strip-all", "-Wl,-z,stack-size=16384"]
    command += [str(WEB / "wasm" / "nano.c"), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Wav2SmallError(f"clang failed: {done.stderr.strip()[:500]}")


def build(bundle: str | Path, target: Path = WEB / "model") -> Path:
    """Write the model's files.

    Raises:
        Wav2SmallError: no bundle with plain C, or it cannot be compiled
    """
    bundle = Path(bundle)
    sources = sorted(bundle.glob("c/nano_*.c"))
    if not sources or not (bundle / "model.onnx").is_file():
        raise Wav2SmallError(f"{bundle}: no model.onnx or no c/nano_*.c; export a nano with --c")
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(bundle / "model.onnx", target / "model.onnx")
    lineage = json.loads((bundle / "provenance.json").read_text())
    (target / "LICENCE.txt").write_text(provenance.licence_line(lineage) + "\n")
    compile_wasm(sources[0], target / "nano.wasm")
    return target


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit(__doc__)
    try:
        made = build(sys.argv[1] if len(sys.argv) == 2 else BUNDLE)
    except Wav2SmallError as error:
        sys.exit(f"build: {error}")
    for file in sorted(made.iterdir()):
        print(f"{file}: {file.stat().st_size:,} bytes")
