"""Reading audio: what comes out is what was put in, and bad files are rejected in one line."""

import os
import struct

import numpy as np
import pytest
import soundfile

from wav2small import audio, wav
from wav2small.errors import AudioError


def tone(rate: int, seconds: float = 1.0, hz: float = 440.0) -> np.ndarray:
    return (0.4 * np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate)).astype("float32")


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 44100, 48000, 96000])
@pytest.mark.parametrize("ending", ["wav", "flac"])
def test_any_rate_gives_the_same_tone_at_16_khz(tmp_path, rate, ending):
    file = tmp_path / f"a.{ending}"
    soundfile.write(file, tone(rate), rate)
    signal = audio.read(file)
    expected = tone(16000)
    assert signal.dtype == np.float32
    assert abs(len(signal) - 16000) <= 1
    middle = slice(1000, 15000)  # resampling rings at the edges of a tone that starts abruptly
    np.testing.assert_allclose(signal[middle], expected[middle], atol=2e-3)


@pytest.mark.parametrize("ending", ["ogg", "mp3"])
def test_lossy_stereo_is_read_and_mixed(tmp_path, ending):
    file = tmp_path / f"a.{ending}"
    left, right = tone(44100, 2.0), tone(44100, 2.0, hz=700)
    soundfile.write(file, np.stack([left, right], axis=1), 44100)
    signal = audio.read(file)
    spectrum = np.abs(np.fft.rfft(signal[8000:24000]))
    assert set(np.argsort(spectrum)[-2:]) == {440, 700}
    assert abs(len(signal) / 16000 - 2.0) < 0.06


def test_channels_are_chosen_or_averaged(tmp_path):
    file = tmp_path / "six.wav"
    signals = np.stack([np.full(4000, level, "float32") for level in np.arange(6) / 10], axis=1)
    signals[0] += 0.1
    soundfile.write(file, signals, 16000, subtype="FLOAT")
    assert audio.read(file)[100] == pytest.approx(0.25)
    assert audio.read(file, channel=4)[100] == pytest.approx(0.4)
    with pytest.raises(AudioError, match="no channel 6"):
        audio.read(file, channel=6)


@pytest.mark.parametrize("ending", ["wav", "flac", "mp3", "ogg"])
def test_a_segment_is_the_slice_of_the_file(tmp_path, ending):
    file = tmp_path / f"a.{ending}"
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 32000).astype("float32")
    soundfile.write(file, noise, 16000)
    full = audio.read(file)
    part = audio.read(file, start_s=0.5, end_s=1.25)
    np.testing.assert_allclose(part, full[8000:20000], atol=1e-4)


def test_the_end_of_an_index_may_be_rounded(tmp_path):
    file = tmp_path / "a.wav"
    soundfile.write(file, tone(16000), 16000)
    assert len(audio.read(file, end_s=1.003)) == 16000
    with pytest.raises(AudioError, match="clip ends at 3.000 s but the file holds 1.000 s"):
        audio.read(file, end_s=3.0)


@pytest.mark.parametrize(
    ("reader", "subtype"), [(soundfile.SoundFile, "PCM_24"), (wav.PlainWav, "PCM_16")]
)
def test_a_segment_reads_only_its_part(tmp_path, monkeypatch, reader, subtype):
    file = tmp_path / "long.wav"
    soundfile.write(file, np.tile(tone(16000), 600), 16000, subtype)
    asked = []
    read = reader.read

    def spy(self, frames=-1, *args, **kwargs):
        asked.append(frames)
        return read(self, frames, *args, **kwargs)

    monkeypatch.setattr(reader, "read", spy)
    audio.read(file, start_s=599.0, end_s=600.0)
    assert asked == [16000]


def wave(coding=1, bits=16, channels=2, width=4, length=16, chunks=b"", size=None, after=b""):
    samples = np.random.default_rng(0).integers(-9000, 9000, 64000).astype("<i2").tobytes()
    layout = struct.pack("<HHIIHH", coding, channels, 16000, 16000 * width, width, bits)
    header = b"WAVEfmt " + struct.pack("<I", length) + layout.ljust(length, b"\0") + chunks
    data = b"data" + struct.pack("<I", len(samples) if size is None else size) + samples + after
    return b"RIFF" + struct.pack("<I", len(header + data)) + header + data


FACT = b"LIST" + struct.pack("<I", 5) + b"INFO5\0"
WAVES = [  # with and without a decoder
    ({}, True),
    ({"channels": 1, "width": 2}, True),
    ({"channels": 8, "width": 16}, True),
    ({"length": 18, "chunks": FACT}, True),
    ({"chunks": b"JUNK" + struct.pack("<I", 9000) + bytes(9000)}, False),
    ({"size": 0}, False),
    ({"size": 0xFFFFFFFF}, False),
    ({"size": 127997}, False),
    ({"after": FACT}, False),
    ({"length": 18, "chunks": FACT + b"id3 " + bytes(4)}, True),
    ({"bits": 12}, False),
    ({"coding": 6, "bits": 8, "width": 2}, False),
]


@pytest.mark.parametrize(("options", "plain"), WAVES)
def test_plain_wav_files_are_what_libsndfile_reads(tmp_path, monkeypatch, options, plain):
    file = tmp_path / "a.wav"
    file.write_bytes(wave(**options))
    found = wav.open_plain(str(file), file.stat().st_size)
    assert (found is not None) == plain
    parts = [{}, {"start_s": 0.25, "end_s": 0.5}, {"channel": 0}]
    signals = [audio.read(file, **part) for part in parts]
    monkeypatch.setattr(wav, "open_plain", lambda path, size: None)
    for part, signal in zip(parts, signals, strict=True):
        np.testing.assert_array_equal(audio.read(file, **part), signal)
    if plain:
        found.close()


def empty(file):
    file.write_bytes(b"")


def text(file):
    file.write_text("this is a shopping list, not a recording")


def no_samples(file):
    soundfile.write(file, np.zeros(0, "float32"), 16000)


def not_a_number(file):
    signal = tone(16000)
    signal[50] = np.nan
    soundfile.write(file, signal, 16000, subtype="FLOAT")


def infinite(file):
    signal = tone(16000)
    signal[50] = np.inf
    soundfile.write(file, signal, 16000, subtype="FLOAT")


def zeros(file):
    soundfile.write(file, np.zeros(16000, "float32"), 16000)


def ten_ms(file):
    soundfile.write(file, tone(16000, 0.01), 16000)


def truncated_flac(file):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 64000)
    soundfile.write(file, noise, 16000, format="FLAC")
    file.write_bytes(file.read_bytes()[:40000])


def pointer(file):
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n")


def missing(file):
    pass


def folder(file):
    file.mkdir()


@pytest.mark.parametrize(
    ("make", "name", "message"),
    [
        (empty, "a.wav", "is empty"),
        (text, "a.wav", "not audio, or damaged.*ffmpeg"),
        (pointer, "a.wav", "git lfs pull"),
        (text, "a.m4a", "not audio, damaged or truncated|pip install"),
        (no_samples, "a.wav", "no audio in it"),
        (not_a_number, "a.wav", "NaN or infinite"),
        (infinite, "a.wav", "NaN or infinite"),
        (zeros, "a.wav", "only zeros"),
        (ten_ms, "a.wav", "0.010 s of audio is too short"),
        (truncated_flac, "a.flac", "truncated"),
        (missing, "a.wav", "no such file"),
        (folder, "a.wav", "a folder, not"),
        (empty, "with space, 'quotes' \"two\"\nand newline é漢.wav", "is empty"),
    ],
)
def test_bad_files_are_rejected_by_name(tmp_path, make, name, message):
    file = tmp_path / name
    make(file)
    with pytest.raises(AudioError, match=message) as rejection:
        audio.read(file)
    assert str(rejection.value).startswith(str(file))


def test_a_file_without_permission_is_rejected(tmp_path):
    file = tmp_path / "secret.wav"
    soundfile.write(file, tone(16000), 16000)
    audio.read(file)  # imports what reading needs while it still may
    file.chmod(0)
    root = os.geteuid() == 0
    if root:  # root may read everything: be nobody for a moment
        os.seteuid(65534)
    try:
        with pytest.raises(AudioError, match="no permission"):
            audio.read(file)
    finally:
        if root:
            os.seteuid(0)


def test_real_speech_has_its_level(emodb):
    file = emodb / "03a01Fa.flac"
    expected, rate = soundfile.read(file)
    assert rate == 16000
    np.testing.assert_allclose(audio.read(file), expected, atol=1e-6)


@pytest.mark.parametrize(
    "subtype", sorted({*soundfile.available_subtypes("WAV")} - {"MPEG_LAYER_III"})
)
def test_every_encoding_of_wav(tmp_path, emodb, subtype):
    """Against the samples that were written; libsndfile writes no MP3 in WAV."""
    file = tmp_path / "clip.wav"
    expected, rate = soundfile.read(emodb / "03a01Fa.flac")
    if "NMS" in subtype or subtype.startswith("G72"):
        rate = 8000  # of which these are
    soundfile.write(file, expected, rate, format="WAV", subtype=subtype)
    signal = audio.read(file, sampling_rate=rate)
    size = min(len(signal), len(expected))
    assert size >= len(expected) - 0.1 * rate
    likeness = np.correlate(signal[:size], expected[1200 : size - 1200], "valid").max()
    assert likeness > 0.8 * np.square(expected[1200 : size - 1200]).sum()
