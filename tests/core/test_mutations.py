"""Seeded mutations of audio, tables and bundles: one line each, and no audio left out silently.

The full set of 300 runs with `-m slow`; every tenth in the normal run.
"""

import io
import json
import shutil
import warnings

import numpy as np
import pandas as pd
import pytest
import soundfile
from test_containers import FORMATS
from test_predictor import model

from wav2small import audio, evaluate, label, predict
from wav2small.errors import Wav2SmallError
from wav2small.index import load_source
from wav2small.teachers.labelling.options import ComputeOptions

SLACK_S = 0.15


def mutated(data: bytes, random: np.random.Generator) -> bytes:
    """One of the things that happen to files: cut, bits flipped, zeroed, doubled, filled."""
    kind, size = random.integers(7), len(data)
    changed = bytearray(data)
    place = int(random.integers(size if random.random() < 0.5 else min(size, 128)))
    length = int(random.integers(1, 1 + min(4096, size)))
    if kind == 0:
        return data[: max(1, place)]
    if kind == 1:
        for at in random.integers(max(1, place), size=5):
            changed[int(at)] ^= 1 << int(random.integers(8))
    elif kind == 2:
        changed[place : place + length] = bytes(len(changed[place : place + length]))
    elif kind == 3:
        del changed[place : place + length]
    elif kind == 4:
        changed[place:place] = random.bytes(length)
    elif kind == 5:
        changed[place : place + 4] = random.choice([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f" * 4])
    else:
        return data + data[place : place + length]
    return bytes(changed)


def seeds(count: int):
    return [
        pytest.param(n, marks=() if n % 10 == 0 else pytest.mark.slow, id=str(n))
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def signal(speech):
    clips = [audio.read(file) for file in sorted(speech.glob("*.flac"))[:2]]
    return np.concatenate(clips)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    model(folder / "model.onnx")
    return folder


def allowed(call):
    """Call; an error must be one line of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return call()
        except Wav2SmallError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000
            return None


@pytest.mark.parametrize("seed", seeds(150))
def test_audio(toy, signal, tmp_path, seed):
    random = np.random.default_rng(seed)
    kind, subtype = FORMATS[seed % len(FORMATS)]
    path = tmp_path / "clip.wav"
    file = io.BytesIO()
    soundfile.write(file, signal, 16000, format=kind, subtype=subtype)
    before = soundfile.info(io.BytesIO(file.getvalue()))
    path.write_bytes(mutated(file.getvalue(), random))
    read = allowed(lambda: audio.read(path))
    if read is not None:
        # A header can name another rate, width or number of channels; no audio is left out then.
        after, named = soundfile.info(path), ("samplerate", "channels", "subtype")
        if all(getattr(after, name) == getattr(before, name) for name in named):
            assert len(read) >= len(signal) - SLACK_S * 16000, (kind, subtype)
    allowed(lambda: predict(toy, path))
    allowed(lambda: labels(path, tmp_path))


def labels(source, folder):
    compute = ComputeOptions(workers=0)
    return label(source, folder / "labels.parquet", teacher="acoustic", compute=compute)


def table_of(kind: str, path):
    frame = pd.DataFrame(
        {
            "file": [f"{name}.flac" for name in "abcd"],
            "start": [0.0, 0.25, 0.5, 0.75],
            "end": [1.0, 1.25, 1.5, 1.75],
            "arousal": [0.1, 0.2, 0.3, 0.4],
        }
    )
    writers = {
        "csv": lambda: frame.to_csv(path, index=False),
        "csv.gz": lambda: frame.to_csv(path, index=False),
        "jsonl": lambda: frame.to_json(path, orient="records", lines=True),
        "feather": lambda: frame.to_feather(path),
        "parquet": lambda: frame.to_parquet(path),
    }
    writers[kind]()


@pytest.mark.parametrize("seed", seeds(100))
def test_tables(toy, signal, tmp_path, seed):
    kind = ("csv", "csv.gz", "jsonl", "feather", "parquet")[seed % 5]
    path = tmp_path / f"list.{kind}"
    table_of(kind, path)
    path.write_bytes(mutated(path.read_bytes(), np.random.default_rng(seed)))
    for name in "abcd":
        soundfile.write(tmp_path / f"{name}.flac", signal, 16000)
    index = allowed(lambda: load_source(path))
    result = allowed(lambda: predict(toy, path))
    if index is not None and result is not None:
        assert len({row[0] for row in result.rows} | {file for file, _ in result.rejected}) == len(
            set(index.frame["file"])
        )
    allowed(lambda: labels(path, tmp_path))
    allowed(lambda: evaluate(toy, path, resamples=10))


@pytest.mark.parametrize("seed", seeds(50))
def test_bundles(bundle, signal, tmp_path, seed):
    """`verify` finds every change; `predict` reads what is left or reports why not."""
    from wav2small.export.verification import verify_bundle

    random = np.random.default_rng(seed)
    copy = shutil.copytree(bundle, tmp_path / "bundle")
    names = sorted(json.loads((copy / "verification.json").read_text())["files"])
    chosen = copy / [*names, "verification.json"][seed % (len(names) + 1)]
    before = chosen.read_bytes()
    chosen.write_bytes(mutated(before, random))
    soundfile.write(tmp_path / "a.wav", signal, 16000)
    if chosen.read_bytes() != before:
        with pytest.raises(Wav2SmallError) as rejection:
            verify_bundle(copy)
        assert "\n" not in str(rejection.value)
    allowed(lambda: predict(copy, tmp_path / "a.wav"))
