"""`wav2small listen`: what a microphone records, through a stub of sounddevice."""

import io
import re
import sys
import types

import numpy as np
import pytest
import soundfile
import soxr

from wav2small import Stream, audio, listen
from wav2small.cli.main import main
from wav2small.dimensions import DIMENSIONS
from wav2small.errors import Wav2SmallError


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clip(speech):
    signals = [soundfile.read(f, dtype="float32")[0] for f in sorted(speech.glob("*.flac"))[:3]]
    return np.concatenate(signals)


def stub(monkeypatch, signal, rates):
    """A device with these rates that plays the signal, then Ctrl-C."""

    class PortAudioError(Exception):
        pass

    def check_input_settings(*, device, channels, dtype, samplerate):
        if samplerate not in rates:
            raise PortAudioError("Invalid sample rate")

    def query_devices(device, kind):
        if device == "nothing":
            raise ValueError("No input device matching 'nothing'")
        return {"default_samplerate": float(rates[0])}

    class InputStream:
        def __init__(self, *, samplerate, device, channels, dtype, blocksize):
            query_devices(device, "input")
            assert samplerate in rates and channels == 1 and dtype == "float32"
            self.place = 0

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def read(self, n):
            if self.place >= len(signal):
                raise KeyboardInterrupt
            block = signal[self.place : self.place + n, None]
            self.place += n
            return block, False

    module = types.SimpleNamespace(
        PortAudioError=PortAudioError, check_input_settings=check_input_settings,
        query_devices=query_devices, InputStream=InputStream,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "sounddevice", module)


def last_of(bundle, signal):
    estimates = Stream(bundle).push(signal)
    return np.array([getattr(estimates[-1], d) for d in DIMENSIONS])


@pytest.mark.parametrize("rate", [16000, 44100])
def test_equals_the_stream(bundle, clip, monkeypatch, rate):
    played = clip if rate == 16000 else soxr.resample(clip, 16000, rate, "VHQ")
    stub(monkeypatch, played.astype(np.float32), [rate])
    estimate = listen(bundle, output=io.StringIO())
    outputs = np.array([getattr(estimate, d) for d in DIMENSIONS])
    allowed = 1e-6 if rate == 16000 else 0.02  # the last hop may be another one
    np.testing.assert_allclose(outputs, last_of(bundle, clip), rtol=0, atol=allowed)


def test_bars_in_a_terminal_and_elsewhere(bundle, clip, monkeypatch):
    stub(monkeypatch, clip, [16000])
    terminal, pipe = Terminal(), io.StringIO()
    estimate = listen(bundle, output=terminal)
    listen(bundle, output=pipe)
    frames = terminal.getvalue().split("\x1b[3A")
    assert len(frames) > 3 and frames[0].count("\n") == 3 and frames[0].startswith("\x1b[2Karousal")
    for name, line in zip(DIMENSIONS, frames[-2].splitlines(), strict=True):
        value = float(re.search(rf"{name}\s+(-?\d\.\d\d)", line)[1])
        assert value == pytest.approx(getattr(estimate, name), abs=0.0051)
        assert line.count("#") == pytest.approx(40 * min(max(value, 0), 1), abs=1)
    assert "\x1b" not in pipe.getvalue()
    times = [float(line.split()[0]) for line in pipe.getvalue().splitlines()]
    assert times == sorted(times) and len(times) <= len(clip) / 16000 + 2


@pytest.mark.parametrize("box", [False, True])
def test_a_file(bundle, speech, capsys, box):
    file = max(speech.glob("*.flac"), key=lambda path: path.stat().st_size)
    given, bundle = ([], "nano") if box else ([str(bundle)], bundle)
    assert main(["listen", *given, "--file", str(file)]) == 0
    shown = capsys.readouterr().out.splitlines()[-1]
    values = [float(v) for v in re.findall(r"[a-z]+\s+(-?\d\.\d\d)", shown)]
    np.testing.assert_allclose(values, last_of(bundle, audio.read(file)), atol=0.0051)


def test_what_cannot_be(bundle, clip, monkeypatch, capsys):
    stub(monkeypatch, clip, [48000])
    with pytest.raises(
        Wav2SmallError, match="--device nothing cannot be opened.*lists the devices"
    ):
        listen(bundle, device="nothing", output=io.StringIO())
    stub(monkeypatch, np.zeros(1600, np.float32), [16000])
    assert main(["listen", str(bundle)]) == 2
    assert "is the microphone muted?" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert main(["listen", str(bundle)]) == 2
    assert "pip install 'wav2small[mic]'" in capsys.readouterr().err


def test_no_portaudio(bundle, monkeypatch, tmp_path):
    """What sounddevice does at import where its library is missing."""
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    with pytest.raises(Wav2SmallError, match="PortAudio library not found; .*libportaudio2"):
        listen(bundle, output=io.StringIO())
