"""How far plain C is from the student it was made of, and what that costs.

    python -m wav2small.benchmarks.studies.plain_c RUN LABELS CALIBRATION

RUN is a trained nano, LABELS a label table of clips to compare on, CALIBRATION a label table or
folder to take ranges from. Prints JSON: per dimension the difference of plain C from torch, and
the CCC with the labels of torch, of the int8 ONNX file and of plain C.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wav2small import audio, metrics
from wav2small.benchmarks import studies
from wav2small.dimensions import DIMENSIONS
from wav2small.export.c import emitter
from wav2small.export.onnx import models
from wav2small.index import load_source
from wav2small.predictor import Predictor
from wav2small.students import registry
from wav2small.tables import read_labels

_CALIBRATION_CLIPS = 48


class _Estimate(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_float) for name in DIMENSIONS),
        *((name, ctypes.c_uint64) for name in ("samples", "counted")),
    ]


class PlainC:
    """An emitted `nano_<name>.c`, built for this machine and called from Python."""

    def __init__(self, source: Path, optimise: str = "-O2"):
        flags = ["-std=c99", optimise, "-ffp-contract=off", "-shared", "-fPIC"]
        with tempfile.TemporaryDirectory(prefix="wav2small-") as folder:
            library = Path(folder) / f"{source.stem}.so"
            subprocess.run(["cc", *flags, str(source), "-o", str(library)], check=True)
            self.c = ctypes.CDLL(str(library))
        self.name = source.stem
        size = self.function("state_size")
        size.restype = ctypes.c_size_t
        self.memory = (ctypes.c_uint64 * (size() // 8 + 1))()

    def function(self, name: str) -> Any:
        """`nano_<model>_<name>`."""
        return getattr(self.c, f"{self.name}_{name}")

    def begin(self) -> ctypes.c_void_p:
        """A new state."""
        state, size = ctypes.c_void_p(), ctypes.c_size_t(ctypes.sizeof(self.memory))
        assert self.function("init")(self.memory, size, ctypes.byref(state)) == 0
        return state

    def predict(self, samples: np.ndarray) -> np.ndarray:
        """int16 samples of a full clip, gate off -> float32 (3,)."""
        state = self.begin()
        self.function("set_gate")(state, 0)
        samples = np.ascontiguousarray(samples)
        pointer = samples.ctypes.data_as(ctypes.c_void_p)
        self.function("push")(state, pointer, ctypes.c_size_t(len(samples)))
        estimate = _Estimate()
        self.function("read_overall")(state, ctypes.byref(estimate))
        return np.array([getattr(estimate, name) for name in DIMENSIONS], np.float32)


def compare(run: str, labels: str, calibration: str) -> dict[str, Any]:
    """See the module.

    Raises:
        Wav2SmallError: a source cannot be read, or the run is no nano
    """
    student = registry.load(run)
    table = read_labels(labels)
    some = load_source(calibration)
    files = list(dict.fromkeys(some.path(file) for file in some.frame["file"]))
    files = files[:: max(1, len(files) // _CALIBRATION_CLIPS)]
    found: dict[str, list[np.ndarray]] = {"torch": [], "onnx": [], "c": []}
    with tempfile.TemporaryDirectory(prefix="wav2small-") as name:
        folder = Path(name)
        proto, _ = models.build(student, "int8")
        (folder / "model.onnx").write_bytes(proto.SerializeToString())
        engine = PlainC(emitter.write_c(student, folder, [audio.read(f) for f in files]).source)
        predictor = Predictor(folder)
        for file in table.frame["file"]:
            samples = np.round(audio.read(Path(table.root) / file) * 32768)
            samples = np.clip(samples, -32768, 32767).astype(np.int16)
            signal = samples.astype(np.float32) / 32768
            found["c"].append(engine.predict(samples))
            found["onnx"].append(predictor.predict(signal))
            with torch.no_grad():
                found["torch"].append(student(torch.tensor(signal)[None])[0].numpy())
    truth = table.frame[list(DIMENSIONS)].to_numpy()
    values = {name: np.array(rows) for name, rows in found.items()}
    difference = np.abs(values["c"] - values["torch"])
    return {
        "clips": len(truth),
        "difference_from_torch": {
            name: _round(getattr(difference, name)(axis=0)) for name in ("max", "mean")
        },
        "ccc": {
            name: _round([metrics.ccc(truth[:, i], rows[:, i]) for i in range(3)])
            for name, rows in values.items()
        },
    }


def _round(numbers: Any) -> dict[str, float]:
    return {name: round(float(x), 5) for name, x in zip(DIMENSIONS, numbers, strict=True)}


def main() -> None:
    parser = studies.parser("plain_c", __doc__)
    parser.add_argument("run", help="folder of a trained nano")
    parser.add_argument("labels", help="label table of the clips to compare on")
    parser.add_argument("calibration", help="label table or folder to take ranges from")
    args = parser.parse_args()
    print(json.dumps(compare(args.run, args.labels, args.calibration), indent=2))


if __name__ == "__main__":
    main()
