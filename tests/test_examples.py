"""The examples run as they are."""

import json
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent / "core"))
from test_predictor import model  # noqa: E402

from wav2small import Predictor, Stream, audio  # noqa: E402

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name, *words):
    command = [sys.executable, EXAMPLES / name, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_minimal_distillation(speech, tmp_path):
    shown = run("minimal_distill.py", speech, tmp_path, "--epochs", 2, "--batch-size", 4)
    found = re.findall(r"CCC with the teacher (\S+) (\S+) (\S+)", shown)
    assert len(found) == 3
    # The file predicts what the student predicted after its last epoch.
    for file, student in zip(found[2], found[1], strict=True):
        assert float(file) == pytest.approx(float(student), abs=0.02)
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert (
        "acoustic" in card
        and len((EXAMPLES / "minimal_distill.py").read_text().splitlines()) <= 150
    )


def test_microphone_from_a_file(bundle, speech):
    shown = run("microphone.py", bundle, "--file", sorted(speech.glob("*.flac"))[0])
    times = [float(line.split()[0]) for line in shown.splitlines()]
    assert times and all(
        after - before >= 0.5 for before, after in zip(times, times[1:], strict=False)
    )


def test_server_on_loopback(tmp_path, speech):
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    client = pytest.importorskip("websockets.sync.client")
    model(tmp_path / "model.onnx")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, EXAMPLES / "server.py", tmp_path, "--port", str(port)]
    server = subprocess.Popen(list(map(str, command)))
    address = f"127.0.0.1:{port}"
    try:
        for _ in range(300):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.1)
        clips = sorted(speech.glob("*.flac"))[:4]
        predictor = Predictor(tmp_path)
        for clip in clips:
            request = urllib.request.Request(f"http://{address}/predict", clip.read_bytes())
            found = json.load(urllib.request.urlopen(request, timeout=30))
            expected = predictor.predict_file(clip)
            assert list(found) == ["arousal", "dominance", "valence"]
            assert list(found.values()) == pytest.approx(list(map(float, expected)), rel=1e-5)
        with pytest.raises(urllib.error.HTTPError) as rejected:
            urllib.request.urlopen(f"http://{address}/predict", b"no audio", timeout=30)
        assert rejected.value.code == 422 and "the file: " in rejected.value.read().decode()

        def talk(clip, rate=16000):
            """The last estimate of a clip in blocks of 50 ms, each sent when it was spoken."""
            samples = (audio.read(clip, sampling_rate=rate) * 32767).astype("<i2")
            last = None
            with client.connect(f"ws://{address}/stream?rate={rate}", open_timeout=30) as there:
                for block in np.array_split(samples, len(samples) * 20 // rate):
                    there.send(block.tobytes())
                with suppress(TimeoutError):
                    while True:
                        last = json.loads(there.recv(timeout=2))
            return last

        with ThreadPoolExecutor(len(clips)) as pool:
            ends = list(pool.map(talk, clips))
        for clip, end in zip(clips, ends, strict=True):
            samples = (audio.read(clip) * 32767).astype("<i2").astype("int16")
            expected = Stream(tmp_path).push(samples)[-1]
            assert end["time"] == expected.time
            assert end["arousal"] == pytest.approx(expected.arousal, rel=1e-4)
        assert talk(clips[0], 48000)["time"] == pytest.approx(ends[0]["time"], abs=0.6)
        for rate, block, reason in (
            (1, b"\0\0", "sampling rate of 1"),
            (16000, b"\0", "multiple of element size"),
            (16000, "text", "give 16-bit mono PCM"),
        ):
            with (
                client.connect(f"ws://{address}/stream?rate={rate}", open_timeout=30) as there,
                pytest.raises(Exception, match=reason),
            ):
                there.send(block)
                there.recv(timeout=10)
    finally:
        server.terminate()
        server.wait(10)
