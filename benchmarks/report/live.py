"""The live demo: a bundle in the browser, through ONNX Runtime Web, all on the device.

Everything it needs lies in one folder beside the page, as scripts: pages opened from a disk may
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

from wav2small.errors import Wav2SmallError
from wav2small.predictor import model_path

PACKAGE = "onnxruntime-web"
#: The files of the package that run on the CPU: the API, the glue, the runtime.
SCRIPT = "ort.wasm.min.js"
GLUE = "ort-wasm-simd-threaded.mjs"
WASM = "ort-wasm-simd-threaded.wasm"


def package(folder: str | os.PathLike[str] | None) -> dict[str, Any]:
    """ONNX Runtime Web, from a folder or through npm.

    Args:
        folder: of the unpacked npm package (with `dist/`), or that `dist/` itself, or a
            `node_modules/`; None = fetched with `npm pack`

    Returns:
        file name -> bytes of the three files, and `version`

    Raises:
        Wav2SmallError: not there, and npm cannot fetch it
    """
    if folder is None:
        return _fetch()
    for place in (Path(folder), Path(folder) / PACKAGE):
        dist = place / "dist" if (place / "dist").is_dir() else place
        if (dist / SCRIPT).is_file():
            break
    else:
        raise Wav2SmallError(
            f"--onnxruntime-web {folder}: no dist/{SCRIPT} there; name the folder that "
            f"`npm install {PACKAGE}` made, node_modules/{PACKAGE}"
        )
    return _read(dist)


def write(page: Path, bundle: Path, package: dict[str, Any]) -> dict[str, Any]:
    """Write the folder beside the page.

    Returns:
        what the page says of it: `name`, `kilobytes`, `version`, `folder`
    """
    folder = page.with_name(f"{page.stem}_live")
    folder.mkdir(parents=True, exist_ok=True)
    model = model_path(bundle)
    (folder / "ort.js").write_bytes(package[SCRIPT])
    assets = {
        "glue": _encoded(package[GLUE]),
        "wasm": _encoded(package[WASM]),
        "model": _encoded(model.read_bytes()),
    }
    (folder / "assets.js").write_text(f"window.wav2smallAssets = {json.dumps(assets)};\n")
    shutil.copyfile(Path(__file__).with_name("live.js"), folder / "live.js")
    place = bundle.resolve()
    return {
        "name": place.stem if place.suffix == ".onnx" else place.name,
        "kilobytes": round(model.stat().st_size / 1000),
        "version": package["version"],
        "folder": folder.name,
    }


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _read(dist: Path) -> dict[str, Any]:
    try:
        manifest = dist.parent / "package.json"
        version = json.loads(manifest.read_text())["version"] if manifest.exists() else ""
        found = {name: (dist / name).read_bytes() for name in (SCRIPT, GLUE, WASM)}
    except (OSError, ValueError, KeyError) as error:
        raise Wav2SmallError(f"{dist}: not the npm package {PACKAGE} ({error})") from error
    return {**found, "version": version}


def _fetch() -> dict[str, Any]:
    npm = shutil.which("npm")
    if npm is None:
        raise Wav2SmallError(
            f"--live needs the npm package {PACKAGE}, and npm is not installed; unpack the package "
            "yourself and name its folder with --onnxruntime-web"
        )
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [npm, "pack", PACKAGE, "--pack-destination", folder, "--silent"],
            capture_output=True,
            text=True,
            cwd=folder,
        )
        archives = list(Path(folder).glob("*.tgz"))
        if done.returncode != 0 or not archives:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise Wav2SmallError(
                f"npm could not fetch {PACKAGE} ({reason}); unpack the package yourself and name "
                "its folder with --onnxruntime-web"
            )
        shutil.unpack_archive(archives[0], folder)
        return _read(Path(folder) / "package" / "dist")
