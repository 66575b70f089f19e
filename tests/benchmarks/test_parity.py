"""A bundle gives the same numbers on aarch64; needs a cross compiler, qemu and the wheel."""

import shutil
import sys
from pathlib import Path

import pytest

from wav2small.benchmarks.studies import parity
from wav2small.errors import Wav2SmallError
from wav2small.export import verification


def test_bundle_on_aarch64(bundle):
    wheel = next(Path(sys.prefix, "peers").glob("onnxruntime*aarch64.whl"), None)
    if wheel is None:
        pytest.skip("no aarch64 runtime here: make .venv/.peers")
    if not (shutil.which(parity.COMPILER) and shutil.which(parity.EMULATOR)):
        pytest.skip("no aarch64 compiler or emulator")
    differences = parity.parity(bundle, wheel)
    assert len(differences) == len(verification.signals()) - 3  # the minute, silence, the constant
    assert max(differences.values()) <= verification.PARITY


def test_missing_tools_and_wheels_are_named(bundle, tmp_path, monkeypatch):
    wheel = tmp_path / "no.whl"
    wheel.write_text("no archive")
    monkeypatch.setattr(parity, "EMULATOR", "qemu-nowhere")
    with pytest.raises(Wav2SmallError, match="qemu-nowhere.*apt install"):
        parity.parity(bundle, wheel)
    with pytest.raises(Wav2SmallError, match="no.whl"):
        parity._library(wheel, tmp_path)
