"""Label tables survive the disk; what is no label table is rejected by row and column."""

import os
from pathlib import Path

import filelock
import numpy as np
import pandas as pd
import pytest

from wav2small import files, provenance
from wav2small.errors import Wav2SmallError
from wav2small.index import load_source
from wav2small.tables import Labels, read_labels, write_labels


@pytest.fixture
def labels():
    frame = pd.DataFrame(
        {
            "valence": [0.1, 0.5, 1.0],
            "file": ["a.wav", "é 漢\n.wav", "b/c.wav"],
            "start": pd.to_timedelta([0, 0.1234567, 3], unit="s").astype("timedelta64[ns]"),
            "end": pd.to_timedelta([None, 2, 4], unit="s").astype("timedelta64[ns]"),
            "arousal": [0.0, 0.25, 0.75],
            "dominance": [0.3, 0.6, 0.9],
            "variant": [0, 1, 2],
            "speaker": ["07", "08", "09"],
        }
    )
    lineage = provenance.new(
        teachers=[{"name": "acoustic", "id": "acoustic", "revision": "1", "licence": "MIT"}],
        audio=[{"source": "speech", "licence": "CC0-1.0"}],
    )
    return Labels(frame=frame, root="/some/where", provenance=lineage)


@pytest.mark.parametrize("url", [False, True])
def test_what_is_written_is_read(tmp_path, labels, url):
    path = f"file://{tmp_path}/labels.parquet" if url else tmp_path / "labels.parquet"
    write_labels(path, labels)
    read = read_labels(path)
    pd.testing.assert_frame_equal(
        read.frame, labels.frame[read.frame.columns], check_dtype=False, check_index_type=False
    )
    assert list(read.frame)[:6] == ["file", "start", "end", "arousal", "dominance", "valence"]
    assert read.provenance == labels.provenance
    assert read.root == "/some/where"
    for root in ("/moved", Path("/moved")):
        assert read_labels(path, root=root).path("b/c.wav") == "/moved/b/c.wav"
        assert read_labels(path, root=root).root == "/moved"
    assert read.values.shape == (3, 3) and read.values[2].tolist() == [0.75, 0.9, 1.0]


def test_a_label_table_is_a_source(tmp_path, labels):
    write_labels(tmp_path / "labels.parquet", labels)
    assert load_source(tmp_path / "labels.parquet").root == "/some/where"


HEAD = "file,arousal,dominance,valence\n"


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("file,happy\na.wav,1\n", {}, "no column arousal, dominance, valence"),
        ("file,arousal\na.wav,1\n", {}, "no column dominance, valence"),
        ("file,happy\na.wav,1\n", {"partial": True}, "no column arousal"),
        (HEAD + "a.wav,.5,.5,.5\nb.wav,.5,1.5,.5\n", {}, "dominance, row 2: 1.5 is outside 0..1"),
        (HEAD + "a.wav,.5,,.5\n", {}, "dominance, row 1: 'nan' is not a rating"),
        (HEAD + "a.wav,.5,high,.5\n", {}, "row 1: 'high' is not a rating"),
        (HEAD + "a.wav,.5,inf,.5\n", {}, "row 1: 'inf' is not a rating"),
        (HEAD + "a.wav,1,8,7\n", {"scale": (1, 7)}, "8 is outside 1..7"),
        (HEAD + "a.wav,1,2,7\n", {"scale": (7, 1)}, "--scale 7 1"),
        ("path,arousal,dominance,valence\nx,1,1,1\n", {}, "no column `file`"),
    ],
)
def test_bad_tables_are_rejected(tmp_path, text, options, message):
    path = tmp_path / "truth.csv"
    path.write_text(text)
    with pytest.raises(Wav2SmallError, match=message) as rejection:
        read_labels(path, **options)
    assert str(path) in str(rejection.value) or "--scale" in message


def test_other_scales_are_mapped(tmp_path):
    path = tmp_path / "truth.csv"
    path.write_text(HEAD + "a.wav,1,4,7\n")
    assert read_labels(path, scale=(1, 7)).values.tolist() == [[0, 0.5, 1]]


def test_one_dimension_will_do_for_evaluation(tmp_path):
    path = tmp_path / "truth.csv"
    path.write_text("file,valence\na.wav,.5\n")
    assert read_labels(path, partial=True).dimensions == ("valence",)


def test_a_failed_write_leaves_the_old_table(tmp_path, labels):
    path = tmp_path / "labels.parquet"
    write_labels(path, labels)
    before = path.read_bytes()
    broken = Labels(labels.frame.assign(extra=[object()] * 3), labels.root)
    with pytest.raises(Exception, match="object"):
        write_labels(path, broken)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["labels.parquet"]


def test_a_second_run_is_kept_away(tmp_path):
    with files.Lock(tmp_path / "lock"), pytest.raises(Wav2SmallError, match="another run"):
        files.Lock(tmp_path / "lock").__enter__()
    with files.Lock(tmp_path / "new" / "lock"):
        pass
    assert os.listdir(tmp_path) == []


def test_a_lock_of_a_file_that_was_removed_is_none(tmp_path, monkeypatch):
    """Between opening and locking it, a run that is ready removes it and another makes one."""
    path, real, calls = tmp_path / "lock", filelock.FileLock.acquire, []

    def acquire(self, **options):
        taken = real(self, **options)
        calls.append(1)
        if len(calls) == 1:
            path.unlink()
            path.touch()
        return taken

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    with files.Lock(path):
        assert len(calls) == 2
        with pytest.raises(Wav2SmallError, match="another run"):
            files.Lock(path).__enter__()


def test_licences_are_never_dropped():
    lineage = provenance.new(
        teachers=[
            {"name": "a", "id": "a", "revision": "1", "licence": "MIT"},
            {"name": "b", "id": "b", "revision": "1", "licence": "CC-BY-NC-SA-4.0"},
        ],
        audio=[{"source": "s", "licence": "CC0-1.0"}, {"source": "t", "licence": ""}],
    )
    assert provenance.licences(lineage) == ["MIT", "CC-BY-NC-SA-4.0", "CC0-1.0", "unknown"]
    line = provenance.licence_line(lineage)
    for part in ("teacher a: MIT", "teacher b: CC-BY-NC-SA-4.0", "audio t: unknown", "code wav2"):
        assert part in line


def test_values_are_float64_in_dimension_order(labels):
    assert labels.values.dtype == np.float64
    assert labels.values[0].tolist() == [0.0, 0.3, 0.1]


def test_a_table_shows_itself_shortly(labels):
    assert repr(labels).startswith("<Labels: 3 clips, arousal, dominance, valence; root ")
    assert labels._repr_html_().count("<tr") == 4
