"""The live demo: a bundle in the browser, through ONNX Runtime Web, all on the device.

All that it needs is in one folder next to the page, as scripts: pages opened from a disk may
load scripts, but may not fetch files. So the demo works by double click as well as from a server.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from wav2small.benchmarks.models import short_names
from wav2small.errors import Wav2SmallError
from wav2small.predictor import model_path

PACKAGE = "onnxruntime-web"
#: The files of the package that run on the CPU: the API, the glue, the runtime.
SCRIPT = "ort.wasm.min.js"
GLUE = "ort-wasm-simd-threaded.mjs"
WASM = "ort-wasm-simd-threaded.wasm"


def package(folder: str | os.PathLike[str] | None) -> dict[str, Any]:
    """ONNX Runtime Web: file name -> bytes of the three files, and `version`.

    The folder is that of the unpacked npm package (with `dist/`), or that `dist/` itself, or a
    `node_modules/`; None = fetched with `npm pack`.

    Raises:
        Wav2SmallError: not there, and npm cannot fetch it
    """
    if folder is None:
        with tempfile.TemporaryDirectory() as temporary:
            return package(_fetch(temporary))
    places = [Path(folder), Path(folder) / "dist", Path(folder) / PACKAGE / "dist"]
    dist = next((place for place in places if (place / SCRIPT).is_file()), None)
    if dist is None:
        raise Wav2SmallError(
            f"--onnxruntime-web {folder}: no dist/{SCRIPT} there; name the folder that "
            f"`npm install {PACKAGE}` made, node_modules/{PACKAGE}"
        )
    try:
        manifest = dist.parent / "package.json"
        version = json.loads(manifest.read_text())["version"] if manifest.exists() else ""
        contents = {name: (dist / name).read_bytes() for name in (SCRIPT, GLUE, WASM)}
        return {**contents, "version": version}
    except (OSError, ValueError, KeyError) as error:
        raise Wav2SmallError(f"{dist}: not the npm package {PACKAGE} ({error})") from error


def write(page: Path, bundle: Path, package: dict[str, Any]) -> dict[str, Any]:
    """Write the folder next to the page, which need not exist yet, with files of `package`.

    Returns:
        what the page shows of it: `name`, `kilobytes`, `version`, `folder`
    """
    folder = page.with_name(f"{page.stem}_live")
    folder.mkdir(parents=True, exist_ok=True)
    model = model_path(bundle).read_bytes()
    (folder / "ort.js").write_bytes(package[SCRIPT])
    contents = {"glue": package[GLUE], "wasm": package[WASM], "model": model}
    assets = {name: base64.b64encode(content).decode() for name, content in contents.items()}
    (folder / "assets.js").write_text(f"window.wav2smallAssets = {json.dumps(assets)};\n")
    shutil.copyfile(Path(__file__).with_name("live.js"), folder / "live.js")
    return {
        "name": short_names([bundle])[0],
        "kilobytes": round(len(model) / 1000),
        "version": package["version"],
        "folder": folder.name,
    }


def _fetch(folder: str) -> Path:
    npm = shutil.which("npm")
    reason = "npm is not installed"
    if npm is not None:
        command = [npm, "pack", PACKAGE, "--pack-destination", folder, "--silent"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
        archives = list(Path(folder).glob("*.tgz"))
        if done.returncode == 0 and archives:
            shutil.unpack_archive(archives[0], folder)
            return Path(folder) / "package"
        reason = (done.stderr.strip().splitlines() or ["npm could not fetch it"])[-1]
    raise Wav2SmallError(
        f"--live needs the npm package {PACKAGE} ({reason}); unpack the package yourself and name "
        "its folder with --onnxruntime-web"
    )
