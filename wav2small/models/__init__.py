"""The models in the box: bundles inside the package, taken by name wherever a bundle is taken.

`nano` (int8) streams and runs on microcontrollers, `wav2small` (int4) is the 72K student. `make
model` makes them from CC0 speech and permissive parts only; README.md here is their model card.
"""

from __future__ import annotations

import os
from pathlib import Path

NAMES = ("nano", "wav2small")
DEFAULT = "nano"


def locate(bundle: str | os.PathLike[str]) -> Path:
    """Where a bundle is: a model in the box by its name, else the path as it is given.

    A bundle of yours in a folder of the same name is preferred; name a folder as `./nano` to be
    clear.

    Example:
        >>> locate("nano").joinpath("model.onnx").is_file()
        True
        >>> locate("bundle").name
        'bundle'
    """
    path = Path(bundle)
    if os.fspath(bundle) in NAMES and not (path / "model.onnx").is_file():
        return Path(__file__).parent / os.fspath(bundle)
    return path


def is_bundle(spec: str | os.PathLike[str]) -> bool:
    """Whether a word of a command line names a bundle rather than audio.

    Example:
        >>> is_bundle("nano"), is_bundle("bundle"), is_bundle("speech.wav")
        (True, True, False)
    """
    path = Path(spec)
    return (
        os.fspath(spec) in NAMES
        or path.suffix.lower() == ".onnx"
        or (path / "model.onnx").is_file()
    )
