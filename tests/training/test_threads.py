"""The number of compute threads: what is there, what is chosen, and when it is chosen again."""

import os
import subprocess
import sys
import time

import pytest
import torch

from wav2small.training import threads

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()

#: Files of control groups -> cores they grant.
QUOTAS = {
    "version 2": ({"cgroup": "0::/a/b", "a/b/cpu.max": "150000 100000"}, 1.5),
    "of the group around": (
        {"cgroup": "0::/a/b", "a/b/cpu.max": "max 100000", "a/cpu.max": "50000 100000"},
        0.5,
    ),
    "container": ({"cgroup": "0::/of/the/host", "cpu.max": "300000 100000"}, 3),
    "none": ({"cgroup": "0::/", "cpu.max": "max 100000"}, float("inf")),
    "version 1": (
        {"cgroup": "4:cpu,cpuacct:/a\n3:memory:/b", "cpu/a/cpu.cfs_quota_us": "200000"}
        | {"cpu/a/cpu.cfs_period_us": "100000"},
        2,
    ),
    "version 1 without": (
        {"cgroup": "4:cpu:/", "cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
        float("inf"),
    ),
    "damaged": ({"cgroup": "0::/", "cpu.max": "many"}, float("inf")),
    "no Linux": ({}, float("inf")),
}


@pytest.mark.parametrize("name", QUOTAS)
def test_quota(name, tmp_path):
    written, expected = QUOTAS[name]
    for file, text in written.items():
        path = tmp_path / ("proc/self/cgroup" if file == "cgroup" else f"sys/fs/cgroup/{file}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    assert threads._quota(tmp_path) == expected
    full = CORES if expected > CORES else max(1, -(-expected // 1))
    assert threads.available(tmp_path) == full


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        ({1: 0.03, 2: 0.02, 4: 0.01}, 4),  # an idle machine
        ({1: 0.01, 2: 0.05, 4: 0.2}, 1),  # a neighbour
        ({1: 0.02, 2: 0.01, 4: 0.03}, 2),
        ({1: 0.0102, 2: 0.01, 4: 0.01}, 1),  # hardly faster: the cores are left to others
    ],
)
def test_the_fastest_number_is_chosen(seconds, best):
    applied = []
    found = threads.choose(lambda: time.sleep(seconds[applied[-1]]), 4, apply=applied.append)
    assert next(iter(found)) == best == applied[-1]
    assert sorted(found) == [1, 2, 4]


@pytest.fixture
def applied(monkeypatch):
    """What would be set; four cores, no choice of the user's."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "available", lambda: 4)
    numbers: list[int] = []
    monkeypatch.setattr(threads, "_apply", numbers.append)
    return numbers


def run(pace, steps=1, trial=lambda: None):
    for _ in range(steps):
        with pace.step(trial):
            pass


@pytest.mark.parametrize(
    ("options", "environment", "number"),
    [
        ({"wanted": 3}, None, 3),
        ({"wanted": 3, "recorded": 2}, "1", 3),
        ({"recorded": 2}, "1", 2),  # bit by bit what it would have been
        ({}, "1", 1),
        ({"processes": 2}, None, 2),  # in step with others: a share of the cores
        ({"processes": 8}, None, 1),
    ],
)
def test_what_is_not_chosen(options, environment, number, applied, monkeypatch):
    if environment:
        monkeypatch.setenv("OMP_NUM_THREADS", environment)
    pace = threads.Pace(**options)
    run(pace, 3, lambda: pytest.fail("timed"))
    assert pace.number == number and set(applied) == {number}


def test_chosen_once_and_said(applied, capsys):
    trials = []
    pace = threads.Pace()
    run(pace, 5, lambda: trials.append(applied[-1]))
    assert sorted(set(trials)) == [1, 2, 4] and pace.number in (1, 2, 4)
    line = capsys.readouterr().err
    assert line.startswith(f"threads: {pace.number} (") and line.count("\n") == 1


@pytest.mark.parametrize(
    ("found", "cores", "loading_s", "expected"),
    [
        ({1: 0.033, 2: 0.024}, 2, 0.0, 2),
        ({1: 0.033, 2: 0.024}, 2, 0.024, 1),  # nano decodes as long as it computes
        ({1: 0.72, 2: 0.46}, 2, 0.024, 2),  # a larger student hardly notices
        ({1: 0.1, 2: 0.095}, 2, 0.0, 1),  # a core for a twentieth is not worth it
        ({1: 0.1, 4: 0.03, 8: 0.02}, 8, 0.02, 8),
        ({1: 0.1, 4: 0.03, 8: 0.02}, 8, 0.2, 4),
    ],
)
def test_the_fastest_number_while_data_are_loaded(found, cores, loading_s, expected):
    assert threads.fastest(found, cores, loading_s) == expected


def test_the_number_follows_what_loading_takes(applied, monkeypatch, capsys):
    """Timed once; an epoch that decodes leaves cores to that, the next one takes them."""
    monkeypatch.setattr(threads, "choose", lambda *words, **options: {4: 0.01, 1: 0.03, 2: 0.02})
    pace = threads.Pace()
    numbers = []
    for loading_s in (0.1, 0.1, 0.0, 0.0):
        pace.loading(loading_s)
        run(pace, 2, lambda: pytest.fail("timed"))
        numbers.append(pace.number)
    assert numbers == [1, 1, 4, 4] and applied == [1, 4]
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("threads: 1 while decoding (steps per second with 1: 33.3, 2: 50, 4:")
    assert second.startswith("threads: 4 from now on (")


@pytest.mark.parametrize("options", [{"wanted": 3}, {"recorded": 3}, {"processes": 2}])
def test_a_number_that_is_not_chosen_stays_when_audio_is_decoded(options, applied):
    pace = threads.Pace(**options)
    before = pace.number
    pace.loading(10.0)
    run(pace, 2, lambda: pytest.fail("timed"))
    assert pace.number == before


def test_chosen_again_when_steps_take_longer(applied, monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(threads.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(threads.time, "perf_counter", lambda: now[0])
    took_s = {1: 1.0, 2: 0.7, 4: 0.4}

    def step():
        now[0] += took_s[applied[-1]]

    pace = threads.Pace()

    def steps(count):
        for _ in range(count):
            with pace.step(step):
                step()

    steps(200)
    assert pace.number == 4
    took_s |= {2: 3.0, 4: 5.0}  # a neighbour comes
    steps(200)
    assert pace.number == 1
    assert "1 from now on" in capsys.readouterr().err


def test_a_gpu_is_left_alone(applied):
    run(threads.Pace(on_cpu=False), 3, lambda: pytest.fail("timed"))
    assert applied == []


def test_threads_wait_without_spinning_by_default():
    program = "import os, wav2small.students.{0}; print(os.environ.get('OMP_WAIT_POLICY'))"
    clean = {name: v for name, v in os.environ.items() if name not in threads._POLICIES}
    for given, expected in (({}, "passive"), ({"GOMP_SPINCOUNT": "100"}, "None")):
        words = [sys.executable, "-c", program.format("config")]
        done = subprocess.run(words, env=clean | given, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected


def test_number_is_set_in_torch():
    before = torch.get_num_threads()
    try:
        threads.Pace(2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
