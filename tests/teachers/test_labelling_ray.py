"""Labelling on a real local Ray cluster, and to a local S3-compatible server."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from labelling_cases import label

from wav2small import read_labels

ray = pytest.importorskip("ray")
TESTS = str(Path(__file__).parents[1])


@pytest.fixture(scope="module")
def cluster():
    environment = {"env_vars": {"PYTHONPATH": TESTS, "OMP_NUM_THREADS": "1"}}
    ray.init(num_cpus=2, runtime_env=environment, log_to_driver=False, include_dashboard=False)
    yield ray
    ray.shutdown()


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    monkeypatch.syspath_prepend(TESTS)
    monkeypatch.setattr("wav2small.teachers.labelling.ray_cluster._ROWS_PER_TASK", 4)


@pytest.fixture(scope="module")
def bucket():
    """An S3-compatible server on this machine with one bucket; its fsspec URL."""
    s3fs = pytest.importorskip("s3fs")
    moto = Path(sys.prefix) / "peers" / "s3" / "bin" / "moto_server"
    if not moto.exists():
        pytest.skip("no S3 server here: make .venv/.peers")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [moto, "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    names = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "FSSPEC_S3_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert time.monotonic() < deadline and server.poll() is None
                time.sleep(0.1)
        s3fs.S3FileSystem().mkdir("labels")
        yield "s3://labels"
    finally:
        server.terminate()
        server.wait()
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def compare(one, other) -> None:
    first, second = read_labels(one).frame, read_labels(other).frame
    pd.testing.assert_frame_equal(first, second, atol=1e-6, rtol=0)


@pytest.mark.parametrize("teacher", ["acoustic", "toy_teachers:Batched"])
def test_same_rows_as_the_local_engine(teacher, cluster, speech, tmp_path):
    (tmp_path / "in").mkdir()
    for file in speech.glob("*"):
        (tmp_path / "in" / file.name).symlink_to(file)
    (tmp_path / "in" / "text.wav").write_text("no sound")
    options = {"teacher": teacher, "variants": 1}
    local = label(tmp_path / "in", tmp_path / "local" / "l.parquet", **options)
    spread = label(
        tmp_path / "in", tmp_path / "ray" / "l.parquet", engine="ray", workers=2, **options
    )
    compare(tmp_path / "local" / "l.parquet", tmp_path / "ray" / "l.parquet")
    assert spread.errors == local.errors == 1
    assert spread.hours == pytest.approx(local.hours)
    errors = [(tmp_path / name / "errors.csv").read_text() for name in ("local", "ray")]
    assert errors[0] == errors[1]


def test_a_clip_that_ends_its_worker_is_rejected(cluster, speech, tmp_path):
    from test_labelling import broken_folder

    broken_folder(tmp_path / "in")
    tables = []
    for engine in ("local", "ray"):
        output = tmp_path / engine / "l.parquet"
        result = label(
            tmp_path / "in", output, teacher="toy_teachers:Moody", engine=engine, workers=1
        )
        tables.append((result.rows, result.errors, (tmp_path / engine / "errors.csv").read_text()))
        assert result.rows == 2
    assert tables[0] == tables[1]


def test_a_worker_is_killed_in_the_middle(cluster, speech, tmp_path):
    import psutil

    options = {"teacher": "toy_teachers:Slow", "variants": 6}
    label(speech, tmp_path / "local.parquet", **options)
    killed = []

    def kill() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not killed:
            for process in psutil.process_iter(["cmdline"]):
                words = " ".join(process.info["cmdline"] or ())
                if "ray::" in words and "MapWorker" in words and ".submit" in words:
                    time.sleep(0.3)
                    os.kill(process.pid, signal.SIGKILL)
                    killed.append(process.pid)
                    return
            time.sleep(0.02)

    thread = threading.Thread(target=kill)
    thread.start()
    label(speech, tmp_path / "ray.parquet", engine="ray", workers=2, **options)
    thread.join()
    assert killed
    compare(tmp_path / "local.parquet", tmp_path / "ray.parquet")


def test_output_to_s3(cluster, bucket, speech, tmp_path):
    import fsspec

    options = {"teacher": "toy_teachers:Loudness"}
    label(speech, tmp_path / "l.parquet", **options)
    url = f"{bucket}/run/l.parquet"
    result = label(speech, url, engine="ray", workers=2, **options)
    compare(tmp_path / "l.parquet", url)
    assert result.output == url and label(speech, url, **options).already_complete
    system = fsspec.filesystem("s3")
    system.invalidate_cache()
    assert [name.rpartition("/")[2] for name in system.find("labels")] == ["l.parquet"]


def test_goes_on_on_s3(bucket, speech, tmp_path, monkeypatch):
    from wav2small.teachers.labelling import run as labelling

    shown = labelling._shown
    seen: list[int] = []

    def stop(outcomes, *_):
        for outcome in outcomes:
            seen.extend(outcome.rows)
            yield outcome
            if len(seen) > 8:
                raise KeyboardInterrupt

    options = {"teacher": "toy_teachers:Loudness", "workers": 0, "flush_s": 0.0}
    url = f"{bucket}/again/l.parquet"
    monkeypatch.setattr(labelling, "_shown", stop)
    with pytest.raises(KeyboardInterrupt):
        label(speech, url, **options)
    first = list(seen)
    monkeypatch.setattr(
        labelling,
        "_shown",
        lambda outcomes, *rest: (
            seen.extend(outcome.rows) or outcome for outcome in shown(outcomes, *rest)
        ),
    )
    label(speech, url, **options)
    assert 0 < len(first) < 24 and sorted(seen) == list(range(24))
    label(speech, tmp_path / "l.parquet", teacher="toy_teachers:Loudness")
    compare(tmp_path / "l.parquet", url)
    assert np.isfinite(read_labels(url).values).all()
