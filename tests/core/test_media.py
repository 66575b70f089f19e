"""M4A, AAC, WMA, AMR and video through PyAV: all of the audio, or one line."""

import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from labelling_cases import label
from test_predictor import model

from wav2small import audio, evaluate, media, places, predict
from wav2small.errors import AudioError

av = pytest.importorskip("av")

#: Name of the file, codec, sampling rate, channels.
FORMATS = [
    ("a.m4a", "aac", 44100, "stereo"),
    ("a.aac", "aac", 16000, "mono"),
    ("a.wma", "wmav2", 44100, "mono"),
    ("a.amr", "libopencore_amrnb", 8000, "mono"),
    ("a.3gp", "libopencore_amrnb", 8000, "mono"),
    ("a.webm", "libopus", 48000, "stereo"),
    ("a.mkv", "libopus", 48000, "mono"),
    ("a.mp4", "aac", 48000, "mono"),
    ("a.mov", "aac", 48000, "mono"),
    ("a.flv", "aac", 44100, "mono"),
    ("a.avi", "mp3", 44100, "stereo"),
    ("a.3g2", "aac", 16000, "mono"),
    ("a.wv", "wavpack", 16000, "mono"),
    ("a.tta", "tta", 16000, "mono"),
]
VIDEO = ("a.mp4", "a.mkv", "a.mov", "a.avi")


@pytest.fixture(scope="module")
def signal(speech):
    return np.concatenate([audio.read(file) for file in sorted(speech.glob("*.flac"))[:3]])


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    model(folder / "model.onnx")
    return folder


def encode(path, codec, rate, layout, signal, pictures=False):
    """Write a file with PyAV: the signal, and moving pictures of the same length."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        if codec == "wmav2":
            stream.bit_rate = 64000
        if pictures:
            video = container.add_stream("mpeg4", rate=10, width=64, height=48)
        frame = av.AudioFrame.from_ndarray(
            (signal * 32767).astype(np.int16)[None], format="s16", layout="mono"
        )
        frame.sample_rate, frame.pts = 16000, 0
        resampler = av.AudioResampler(stream.codec_context.format, layout, rate)
        for part in resampler.resample(frame) + resampler.resample(None):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
        if pictures:
            picture = av.VideoFrame(64, 48, "yuv420p")
            for number in range(len(signal) // 1600):
                picture.pts = number
                container.mux(video.encode(picture))
            container.mux(video.encode(None))


@pytest.mark.parametrize(("name", "codec", "rate", "layout"), FORMATS)
@pytest.mark.parametrize("pictures", [False, True])
def test_all_of_it_or_a_rejection(toy, signal, tmp_path, name, codec, rate, layout, pictures):
    if pictures and name not in VIDEO:
        pytest.skip("a format without pictures")
    path = tmp_path / name
    encode(path, codec, rate, layout, signal, pictures)
    read = audio.read(path)
    assert len(read) / 16000 == pytest.approx(len(signal) / 16000, abs=0.12)
    assert audio.duration(path) == pytest.approx(len(read) / 16000, abs=1e-3)

    # The same sound, up to the delay of its codec.
    size = len(signal) + len(read)
    spectra = np.fft.rfft(read, size) * np.conj(np.fft.rfft(signal, size))
    alike = np.fft.irfft(spectra, size) / np.linalg.norm(read) / np.linalg.norm(signal)
    delay = int(np.argmax(alike))
    assert alike.max() > (0.8 if codec.startswith("lib") else 0.95)
    assert min(delay, size - delay) < 1700  # samples, .1 s
    assert np.std(read) == pytest.approx(np.std(signal), rel=0.35)  # stereo: 3 dB less in each
    part = audio.read(path, start_s=0.5, end_s=1.25)
    if rate == 16000:
        np.testing.assert_array_equal(part, read[8000:20000])
    result = predict(toy, tmp_path)
    assert [row[0] for row in result.rows] == [name] and not result.rejected
    data = path.read_bytes()
    for share in (0.3, 0.5, 0.8):
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(AudioError, match="truncated|no audio in it") as rejection:
            audio.read(path)
        assert str(path) in str(rejection.value) and "\n" not in str(rejection.value)


def test_windows_of_one_file_decode_it_once(toy, signal, tmp_path, monkeypatch):
    encode(tmp_path / "a.m4a", "aac", 16000, "mono", np.tile(signal, 8))
    calls, real = [], media._decode
    monkeypatch.setattr(media, "_decode", lambda *words: (calls.append(1), real(*words))[1])
    rows = predict(toy, tmp_path / "a.m4a", window=2).rows
    assert len(rows) > 10 and len(calls) == 1
    soundfile.write(tmp_path / "b.wav", audio.read(tmp_path / "a.m4a"), 16000)
    again = predict(toy, tmp_path / "b.wav", window=2).rows
    np.testing.assert_allclose([row[1:6] for row in again], [row[1:6] for row in rows], atol=1e-4)


def test_label_and_evaluate_read_them_too(toy, signal, tmp_path):
    encode(tmp_path / "a.m4a", "aac", 44100, "stereo", signal)
    assert label(tmp_path, tmp_path / "labels.parquet", workers=1).rows == 1
    (tmp_path / "truth.csv").write_text("file,arousal\na.m4a,.5\n")
    assert evaluate(toy, tmp_path / "truth.csv").clips == 1


@pytest.mark.parametrize("words", ["label a.m4a -o a.parquet", "predict nano a.m4a -o a.csv"])
def test_no_copy_of_the_audio_stays_behind(words, signal, tmp_path):
    """Workers are ended as soon as their work is done; what they decoded must go with them."""
    encode(tmp_path / "a.m4a", "aac", 44100, "mono", signal)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    subprocess.run(
        [sys.executable, "-m", "wav2small", *words.split(), "--workers", "2"],
        env={**os.environ, "TMPDIR": str(temporary)},
        cwd=tmp_path,
        check=True,
    )
    assert (tmp_path / words.split()[-1]).exists() and not list(temporary.glob("wav2small-*"))


def test_another_ending_than_the_format(signal, tmp_path):
    """Telephones record M4A, and people call it .wav."""
    encode(tmp_path / "a.m4a", "aac", 44100, "mono", signal)
    os.rename(tmp_path / "a.m4a", tmp_path / "voice.wav")
    assert len(audio.read(tmp_path / "voice.wav")) / 16000 == pytest.approx(
        len(signal) / 16000, abs=0.1
    )


def test_pictures_alone(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        video = container.add_stream("mpeg4", rate=10, width=64, height=48)
        container.mux(video.encode(av.VideoFrame(64, 48, "yuv420p")))
        container.mux(video.encode(None))
    with pytest.raises(AudioError, match="no audio in it"):
        audio.read(tmp_path / "a.mp4")


def test_without_pyav_the_extra_is_named(toy, signal, tmp_path, monkeypatch):
    encode(tmp_path / "a.m4a", "aac", 44100, "mono", signal)
    monkeypatch.setitem(sys.modules, "av", None)
    result = predict(toy, tmp_path)
    assert not result.rows and len(result.rejected) == 1
    assert "M4A" in result.rejected[0][1] and "pip install 'wav2small[av]'" in result.rejected[0][1]
    os.rename(tmp_path / "a.m4a", tmp_path / "voice.wav")
    reason = predict(toy, tmp_path).rejected[0][1]
    assert "MPEG-4 is read with PyAV" in reason and f'"{tmp_path}/voice.flac"' in reason


def test_copies_of_files_with_one_name_stay_apart(tmp_path):
    """Of the fifth, the fourth was overwritten."""
    made = {}
    for number in range(9):
        name = f"memory://{number}/clip.wav"

        def write(name, target, number=number):
            with open(target, "w") as file:
                file.write(str(number))

        made[name] = places.copied(name, write)
        last = list(made.items())[-4:]
        assert [open(path).read() for _, path in last] == [name.split("/")[2] for name, _ in last]
