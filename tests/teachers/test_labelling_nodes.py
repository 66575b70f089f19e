"""Labelling on a Ray cluster of two simulated nodes, one of which is lost."""

import threading
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
from labelling_cases import label

from wav2small import read_labels

ray = pytest.importorskip("ray")
TESTS = str(Path(__file__).parents[1])
#: A node that does not answer is lost after 5 s; one that is slow has 10 s for every answer.
QUICK = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000}


@pytest.fixture
def cluster(monkeypatch, tmp_path):
    from ray.cluster_utils import Cluster

    monkeypatch.syspath_prepend(TESTS)
    monkeypatch.setattr("wav2small.teachers.labelling.ray_cluster._ROWS_PER_TASK", 4)
    variables = {"PYTHONPATH": TESTS, "OMP_NUM_THREADS": "1", "TOY_LOG": str(tmp_path / "log")}
    ray.shutdown()
    cluster = Cluster()
    try:
        cluster.add_node(num_cpus=1, include_dashboard=False, _system_config=QUICK)
        ray.init(cluster.address, runtime_env={"env_vars": variables}, log_to_driver=False)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.mark.slow
def test_a_node_is_lost_in_the_middle(cluster, speech, tmp_path):
    options = {"teacher": "toy_teachers:Logged", "variants": 2}
    label(speech, tmp_path / "local.parquet", **options)
    node = cluster.add_node(num_cpus=1)
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    lost = set()

    def begun() -> list[list[str]]:
        log = tmp_path / "log"
        return [line.split() for line in log.read_text().splitlines()] if log.exists() else []

    def lose() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not lost:
            there = {str(child.pid) for child in raylet.children(recursive=True)}
            lost.update(there & {process for process, _ in begun()})
            time.sleep(0.02)
        cluster.remove_node(node, allow_graceful=False)

    thread = threading.Thread(target=lose)
    thread.start()
    result = label(speech, tmp_path / "ray.parquet", engine="ray", **options)
    thread.join()
    assert len(lost) == 1 and (result.rows, result.errors) == (72, 0)
    clips = {length for process, length in begun() if process in lost}
    assert clips and clips <= {length for process, length in begun() if process not in lost}
    tables = [read_labels(tmp_path / name).frame for name in ("local.parquet", "ray.parquet")]
    pd.testing.assert_frame_equal(*tables)
