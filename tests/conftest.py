"""Real speech for the tests: spoken here by espeak-ng, and the corpora where they are at hand."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile

#: A number that is chosen by timing rounds differently from run to run; bitwise tests compare runs.
os.environ.setdefault("OMP_NUM_THREADS", "1")

CORPORA = Path(
    os.environ.get("WAV2SMALL_CORPORA", Path(__file__).parents[2] / "shared" / "corpora")
)


@pytest.fixture(scope="session", autouse=True)
def interruptible():
    """Let Ctrl-C reach what tests start: in the background a shell has it ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def decoded(tmp_path_factory):
    """Keep decoded audio of the tests out of the user's cache."""
    os.environ["WAV2SMALL_CACHE"] = str(tmp_path_factory.mktemp("decoded"))


@pytest.fixture(scope="session")
def corpora() -> Path:
    """Folder with emodb/, ravdess/ and noise/; tests that need them are skipped without."""
    if not CORPORA.is_dir():
        pytest.skip(f"no corpora at {CORPORA}; set WAV2SMALL_CORPORA")
    return CORPORA


@pytest.fixture(scope="session")
def emodb(corpora) -> Path:
    return corpora / "emodb"


@pytest.fixture(scope="session")
def ravdess(corpora) -> Path:
    return corpora / "ravdess"


@pytest.fixture(scope="session")
def speech(tmp_path_factory) -> Path:
    """24 spoken clips of 1 to 4 s, 16 kHz FLAC, in four voices; `labels.csv` with `speaker`."""
    from wav2small.demo.speaker import speak_corpus

    folder = tmp_path_factory.mktemp("speech")
    speak_corpus(folder, clips=24, voices=4, seed=7)
    return folder


@pytest.fixture(scope="session")
def clip(speech) -> np.ndarray:
    """One spoken clip, float32 at 16 kHz."""
    signal, rate = soundfile.read(sorted(speech.glob("*.flac"))[0], dtype="float32")
    assert rate == 16000
    return signal


@pytest.fixture(scope="session")
def labels(speech, tmp_path_factory) -> Path:
    """Label table of `speech` by the teacher `acoustic`."""
    from labelling_cases import label

    path = tmp_path_factory.mktemp("labels") / "labels.parquet"
    label(speech / "labels.csv", path, workers=1, audio_licence="CC0-1.0")
    return path


@pytest.fixture(scope="session")
def run(labels, tmp_path_factory) -> Path:
    """Run of a `wav2small` student that has barely begun to learn."""
    from wav2small import distill

    folder = tmp_path_factory.mktemp("distill") / "run"
    distill(labels, folder, epochs=2, batch_size=8)
    return folder


@pytest.fixture(scope="session")
def bundle(run, tmp_path_factory) -> Path:
    """Its int8 bundle."""
    from wav2small.export.export import export_bundle

    folder = tmp_path_factory.mktemp("export") / "bundle"
    export_bundle(run, folder, precision="int8")
    return folder
