"""Decoded clips on disk: the same samples, shared, within their limit, whatever happens."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from wav2small.training.cache import Cache, default_folder, key
from wav2small.training.clips import Clips

RANDOM = np.random.default_rng(0)
FULL = np.arange(-32768, 32768, dtype=np.float32) / 32768
#: Signal -> bytes per sample on disk.
SIGNALS = {
    "16 bits": (FULL, 2),
    "24 bits": (np.float32([1 / (1 << 23), 0.25, -1.0]).repeat(1000), 4),
    "resampled": (RANDOM.normal(size=5000).astype(np.float32), 4),
    "beyond full scale": (np.float32([1.0, -1.5, 3e4]).repeat(1000), 4),
}


@pytest.mark.parametrize("name", SIGNALS)
def test_samples_come_back_bit_by_bit(name, tmp_path):
    signal, width = SIGNALS[name]
    Cache(tmp_path).store("key", signal)
    back = Cache(tmp_path).load("key")
    assert back.dtype == np.float32 and back.tobytes() == signal.tobytes()
    (file,) = tmp_path.rglob("*.safetensors")
    assert file.stat().st_size <= len(signal) * width + 128


def frame(*names, **columns):
    zero = pd.to_timedelta([0.0] * len(names), unit="s").astype("timedelta64[ns]")
    return pd.DataFrame({"file": names, "start": zero, "end": zero + pd.NaT, **columns})


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "audio"
    folder.mkdir()
    for number in range(6):
        noise = RANDOM.integers(-9000, 9000, 16000).astype(np.int16)
        soundfile.write(folder / f"{number}.wav", noise, 16000)
    return folder


def test_another_process_finds_what_one_decoded(files, tmp_path):
    cache = Cache(tmp_path / "decoded")
    own = Clips(frame("0.wav"), str(files), cache=cache)
    signal = own.signal(0)
    program = (
        "import sys; from test_cache import *; "
        "clips = Clips(frame('0.wav'), sys.argv[1], cache=Cache(sys.argv[2])); "
        "sys.stdout.buffer.write(clips.signal(0).tobytes()); assert not clips.decoded"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, files, cache.folder],
        cwd=Path(__file__).parent,
        capture_output=True,
        check=True,
    )
    assert found.stdout == signal.tobytes() and own.decoded == 1


def test_what_a_clip_was_made_of_decides(files, tmp_path):
    """A file that changed, another part or another variant is decoded anew."""
    part = pd.to_timedelta([0.5], unit="s").astype("timedelta64[ns]")
    tables = [frame("0.wav"), frame("0.wav", variant=[7]), frame("0.wav").assign(end=part)]
    read = [Clips(table, str(files), cache=Cache(tmp_path / "d")).signal(0) for table in tables]
    assert len({signal.tobytes() for signal in read}) == 3
    plain = [Clips(table, str(files)).signal(0) for table in tables]
    for one, other in zip(read, plain, strict=True):
        np.testing.assert_array_equal(one, other)
    soundfile.write(files / "0.wav", FULL[::4], 16000)
    np.testing.assert_array_equal(
        Clips(tables[0], str(files), cache=Cache(tmp_path / "d")).signal(0), FULL[::4]
    )
    assert key(str(files / "missing.wav")) is None


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"no array"])
def test_a_torn_file_is_decoded_again(damage, files, tmp_path):
    expected = Clips(frame("0.wav"), str(files), cache=Cache(tmp_path / "d")).signal(0)
    (file,) = (tmp_path / "d").rglob("*.safetensors")
    for content in (damage, file.read_bytes()[:-100]):
        file.write_bytes(content)
        clips = Clips(frame("0.wav"), str(files), cache=Cache(tmp_path / "d"))
        np.testing.assert_array_equal(clips.signal(0), expected)
        assert clips.decoded == 1 and len(file.read_bytes()) <= 32128


def test_within_the_limit_other_runs_make_room_and_the_own_clips_stay(tmp_path):
    earlier = Cache(tmp_path, 100_000)
    for number in range(3):
        earlier.store(f"earlier {number}", FULL[:16000])
        os.utime(earlier._path(f"earlier {number}"), (1000 + number, 1000 + number))
    own = Cache(tmp_path, 100_000)
    assert own.load("earlier 0") is not None  # is used, so it stays
    for number in range(6):
        own.store(f"own {number}", FULL[:16000])
    left = {name for name in ("earlier 0", "earlier 1", "earlier 2") if own.load(name) is not None}
    kept = [number for number in range(6) if own.load(f"own {number}") is not None]
    assert left == {"earlier 0"} and kept == [0, 1]
    assert sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors")) <= 100_000


def test_threads_fill_one_folder(tmp_path):
    cache = Cache(tmp_path, 3_000_000)
    signals = [RANDOM.normal(size=5000).astype(np.float32) for _ in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(cache.store, [f"{n % 40}" for n in range(160)], signals * 4))
        found = list(pool.map(cache.load, map(str, range(40))))
    for one, other in zip(found, signals, strict=True):
        np.testing.assert_array_equal(one, other)
    assert all(file.suffix == ".safetensors" for file in tmp_path.rglob("*") if file.is_file())


def test_reading_parses_no_python(tmp_path, monkeypatch):
    # CPython 3.11 fails at random where threads parse Python source at the same time (gh-106905).
    Cache(tmp_path).store("key", FULL)
    monkeypatch.setattr("ast.parse", None)
    assert Cache(tmp_path).load("key") is not None


def test_a_folder_that_cannot_be_written_is_noted_once(tmp_path, files, capsys):
    (tmp_path / "file").write_text("")
    clips = Clips(frame("0.wav", "1.wav"), str(files), cache=Cache(tmp_path / "file" / "decoded"))
    for _ in range(2):
        assert len(clips.signal(0)) == len(clips.signal(1)) == 16000
    assert clips.decoded == 4
    assert capsys.readouterr().err.count("decoded audio is not kept") == 1


def test_the_folder_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("WAV2SMALL_CACHE", str(tmp_path))
    assert default_folder() == tmp_path
    monkeypatch.delenv("WAV2SMALL_CACHE")
    monkeypatch.setenv("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "wav2small" / "clips"
