"""Files that were cut, joined or written to a pipe: all of their audio, or a rejection."""

import io
import os
import struct

import numpy as np
import pytest
import soundfile

from wav2small import audio, containers, predict
from wav2small.errors import AudioError

FORMATS = [
    *[("WAV", kind) for kind in ("PCM_16", "FLOAT", "IMA_ADPCM", "ULAW", "GSM610", "MS_ADPCM")],
    ("WAVEX", "PCM_24"),
    *[("AIFF", kind) for kind in ("PCM_16", "ULAW", "IMA_ADPCM")],
    *[("AU", kind) for kind in ("PCM_16", "ULAW", "G721_32")],
    *[("CAF", kind) for kind in ("PCM_16", "ALAC_16")],
    *[("NIST", kind) for kind in ("PCM_16", "ULAW")],
    ("W64", "PCM_16"),
    *[(kind, "PCM_16") for kind in ("AVR", "SVX", "VOC")],
    ("RF64", "PCM_16"),
    ("FLAC", "PCM_16"),
    ("FLAC", "PCM_24"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", None),
]


@pytest.fixture(scope="module")
def signal(speech):
    clips = [audio.read(file) for file in sorted(speech.glob("*.flac"))[:3]]
    return np.concatenate(clips)


def encoded(signal, kind, subtype=None, **options):
    file = io.BytesIO()
    soundfile.write(file, signal, 16000, format=kind, subtype=subtype, **options)
    return file.getvalue()


def seconds(folder, data, name="clip.wav"):
    """Duration by the header and by decoding, which must agree; None = rejected."""
    path = folder / name
    path.write_bytes(data)
    try:
        read = len(audio.read(path)) / 16000
    except AudioError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return None
    assert audio.duration(path) == pytest.approx(read, abs=1e-3)
    return read


@pytest.mark.parametrize(("kind", "subtype"), FORMATS)
def test_files_that_were_cut_or_joined(tmp_path, signal, kind, subtype):
    data, duration = encoded(signal, kind, subtype), len(signal) / 16000
    assert seconds(tmp_path, data) == pytest.approx(duration, abs=0.1)
    for share in (0.3, 0.5, 0.9):
        assert seconds(tmp_path, data[: int(share * len(data))]) is None
    assert seconds(tmp_path, data + data) is None
    tagged = data + b"TAG" + b"a song".ljust(125, b"\0")
    assert seconds(tmp_path, tagged) == pytest.approx(duration, abs=0.1)


@pytest.mark.parametrize(
    "size", [0, 0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFF000, 0x7FFFFFFF, 0x7FFFF000, 0x80000000]
)
def test_a_wav_from_a_pipe(tmp_path, signal, size):
    """Programs that cannot go back leave one of these sizes in the header."""
    data = bytearray(encoded(signal, "WAV", "PCM_16"))
    assert data[36:40] == b"data"
    data[40:44] = size.to_bytes(4, "little")
    assert seconds(tmp_path, bytes(data)) == len(signal) / 16000
    np.testing.assert_allclose(audio.read(tmp_path / "clip.wav"), signal, atol=1e-4)
    part = audio.read(tmp_path / "clip.wav", start_s=0.5, end_s=1.0)
    np.testing.assert_allclose(part, signal[8000:16000], atol=1e-4)


@pytest.mark.parametrize(
    ("size", "reads"), [(1000, False), (-1, True), (2, True), (1 << 20, False)]
)
def test_a_wav_with_another_size_than_it_has(tmp_path, signal, size, reads):
    data = bytearray(encoded(signal, "WAV", "PCM_16"))
    size = size if size >= 1000 else len(data) - 44 + size
    data[40:44] = size.to_bytes(4, "little")
    assert (seconds(tmp_path, bytes(data)) is not None) == reads


def test_chunks_after_the_samples_are_no_audio(tmp_path, signal):
    data = encoded(signal, "WAV", "PCM_16")
    listed = b"LIST" + (40000).to_bytes(4, "little") + b"INFO" + b"\0" * 39996
    assert seconds(tmp_path, data + listed) == len(signal) / 16000
    empty = bytearray(data[:44] + listed)
    empty[40:44] = bytes(4)
    (tmp_path / "empty.wav").write_bytes(empty)
    with pytest.raises(AudioError, match="no audio in it"):
        audio.read(tmp_path / "empty.wav")


def rf64(signal, mark, size):
    """RF64 or BW64 (ITU-R BS.2088), with a size of its samples in the chunk `ds64`."""
    samples = encoded(signal, "RAW", "PCM_16")
    sizes = struct.pack("<QQQI", len(samples) + 124, size(len(samples)), len(signal), 0)
    layout = struct.pack("<HHIIHH", 1, 1, 16000, 32000, 2, 16)
    chunks = {b"ds64": sizes, b"fmt ": layout, b"chna": bytes(44)}
    header = b"".join(name + struct.pack("<I", len(part)) + part for name, part in chunks.items())
    return mark + b"\xff" * 4 + b"WAVE" + header + b"data" + b"\xff" * 4 + samples


SIZES = {
    "right": (lambda n: n, True),
    "piped": (lambda n: 0, True),
    "unknown": (lambda n: 2**64 - 1, True),
    "cut": (lambda n: 2 * n, False),
    "joined": (lambda n: n // 2 & ~1, False),
}


@pytest.mark.parametrize("mark", [b"RF64", b"BW64"])
@pytest.mark.parametrize("case", SIZES)
def test_wav_files_with_64_bits(tmp_path, signal, mark, case):
    size, reads = SIZES[case]
    found = seconds(tmp_path, rf64(signal, mark, size))
    assert found == (len(signal) / 16000 if reads else None)
    if reads:
        np.testing.assert_allclose(audio.read(tmp_path / "clip.wav"), signal, atol=1e-4)


def test_a_caf_whose_size_is_not_known(tmp_path, signal):
    data = encoded(signal, "CAF", "PCM_16")
    at = data.index(b"data") + 4
    data = data[:at] + b"\xff" * 8 + data[at + 8 :]
    assert seconds(tmp_path, data, "clip.caf") == len(signal) / 16000


@pytest.mark.parametrize("kind", ["FLAC", "WAV", "AIFF"])
def test_a_tag_before_the_file_hides_nothing(tmp_path, signal, kind):
    data, tag = bytearray(encoded(signal, kind, "PCM_16")), b"ID3\4\0\0\0\0\2\0" + bytes(256)
    assert seconds(tmp_path, 2 * tag + data) in (None, len(signal) / 16000)
    assert seconds(tmp_path, tag + data[: len(data) // 2]) is None
    assert seconds(tmp_path, tag + data + data) is None
    if kind == "FLAC":
        fields = int.from_bytes(data[18:26], "big")
        data[18:26] = (fields >> 36 << 36 | 16000).to_bytes(8, "big")
        assert seconds(tmp_path, tag + data) is None


@pytest.mark.parametrize("rate", [1, 2000, 1_000_000, 2_000_000_000])
def test_rates_that_no_recording_has(tmp_path, signal, rate):
    data = bytearray(encoded(signal, "WAV", "PCM_16"))
    data[24:32] = struct.pack("<II", rate, min(2 * rate, 2**32 - 1))
    (tmp_path / "clip.wav").write_bytes(data)
    with pytest.raises(AudioError, match=f"a sampling rate of {rate} Hz"):
        audio.read(tmp_path / "clip.wav")


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "link.wav").symlink_to("gone.wav")
    with pytest.raises(AudioError, match="a pipe"):
        audio.read(tmp_path / "pipe.wav")
    with pytest.raises(AudioError, match="no such file; correct"):  # itself is not suggested
        audio.read(tmp_path / "link.wav")


def test_mp3_of_variable_and_constant_rate(tmp_path, signal):
    loud = np.concatenate([signal * 0.01, signal, np.zeros_like(signal)])
    duration = len(loud) / 16000
    for mode in ("VARIABLE", "CONSTANT"):
        data = encoded(loud, "MP3", bitrate_mode=mode, compression_level=0.5)
        first = containers.frames.mp3_frame(data, 0)[0]
        assert b"Xing" in data[:first] or b"Info" in data[:first]
        cover = b"ID3\4\0\0\0\0\2\0" + b"\xff\xfb\x90\x64" * 64  # a picture like frames
        assert seconds(tmp_path, cover + data) == pytest.approx(duration, abs=0.1)
        # Without the table its length can only be guessed from its first frames.
        bare = seconds(tmp_path, data[first:])
        assert bare is None if mode == "VARIABLE" else bare == pytest.approx(duration, abs=0.3)


@pytest.mark.parametrize(("total", "message"), [(0, "without its length"), (16000, "it holds")])
def test_flac_of_another_length(tmp_path, signal, total, message):
    for subtype in ("PCM_16", "PCM_24"):
        data = bytearray(encoded(signal, "FLAC", subtype))
        fields = int.from_bytes(data[18:26], "big")
        data[18:26] = (fields >> 36 << 36 | total).to_bytes(8, "big")
        (tmp_path / "clip.flac").write_bytes(data)
        with pytest.raises(AudioError, match=message):
            audio.read(tmp_path / "clip.flac")


def test_windows_of_a_long_file_count_its_frames_once(tmp_path, signal, monkeypatch):
    (tmp_path / "clip.mp3").write_bytes(encoded(np.tile(signal, 20), "MP3"))
    calls, real = [], containers.parse
    monkeypatch.setattr(containers, "parse", lambda data: (calls.append(1), real(data))[1])
    for start in range(10):
        audio.read(tmp_path / "clip.mp3", start_s=start, end_s=start + 1)
    assert len(calls) == 1


def test_a_folder_names_what_was_cut(tmp_path, signal):
    from test_predictor import model

    model(tmp_path / "model.onnx")
    folder = tmp_path / "audio"
    folder.mkdir()
    data = encoded(signal, "OGG", "OPUS")
    (folder / "a.opus").write_bytes(data)
    (folder / "b.opus").write_bytes(data[: len(data) // 2])
    result = predict(tmp_path, folder)
    assert {row[0] for row in result.rows} == {"a.opus"}
    assert [file for file, _ in result.rejected] == ["b.opus"]
    assert "truncated" in result.rejected[0][1]
