"""How many threads compute on a CPU: chosen by timing steps, on the cores that are really there.

Small networks spend their time in short parallel regions that wait for the slowest thread. Where
another program keeps a core busy, two threads can be ten times slower than one, and threads that
spin while they wait make it worse. Where nothing else runs, all cores are the fastest. Which of
the two it is, a few timed steps show. Nothing here imports torch before it is needed.
"""

from __future__ import annotations

import math
import os
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wav2small import progress

_POLICIES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
#: Rounds that a waiting thread of GNU's OpenMP looks before it sleeps, some 10 us: waking one costs
#: more than most parallel regions of `nano` take, and what spins longer starves its neighbours.
_SPINS = "3000"
_STEPS = 5  # timed per number of threads ...
_TRIAL_S = 0.5  # ... or as many as fit into this
_GAIN = 1.1  # more threads must be so much faster: they take cores from others
_COLLAPSE = 3.0  # times the usual step at which the number is chosen again ...
_WINDOW = 32  # ... if the median of so many steps takes as long
_LEAST_S = 30.0  # between two choices


def wait_quietly() -> None:
    """Let threads of OpenMP sleep where they wait for more than some microseconds.

    Their runtime reads this when torch loads it.
    """
    if "torch" not in sys.modules and not any(name in os.environ for name in _POLICIES):
        os.environ |= {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": _SPINS}


def available(root: str | os.PathLike[str] = "/") -> int:
    """Number of cores this process may use: its affinity, within the quota of its container.

    Args:
        root: where `/proc` and `/sys` are

    Example:
        >>> available() >= 1
        True
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, math.ceil(min(cores or 1, _quota(Path(root)))))


def _quota(root: Path) -> float:
    """Cores that control groups grant, of this process and of all around it; inf = no limit."""
    least = math.inf
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return least  # no Linux
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        # Inside a container the path can be the host's: then only the top is there.
        inner = base / path.strip("/")
        around = [folder for folder in inner.parents if folder.is_relative_to(base)]
        least = min(least, *map(_limit, [inner, *around]))
    return least


def _limit(folder: Path) -> float:
    try:
        if (folder / "cpu.max").exists():  # version 2: "200000 100000" or "max 100000"
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        cores = float(quota) / float(period)
    except (OSError, ValueError, ZeroDivisionError):  # of "max", for one
        return math.inf
    return cores if cores > 0 else math.inf  # version 1 has -1 for no limit


def asked() -> int:
    """Number of threads that OMP_NUM_THREADS asks for, 0 = none."""
    number = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return int(number) if number.isdigit() else 0


def choose(
    step: Callable[[], Any], cores: int, *, apply: Callable[[int], None]
) -> dict[int, float]:
    """Time a step with as many threads as cores, with half of them, and with one.

    Args:
        step: does the work once; called some times
        cores: most threads
        apply: sets the number of threads

    Returns:
        {threads: seconds per step}; the `fastest` number is the first and stays applied
    """
    found: dict[int, float] = {}
    for number in sorted({1, max(1, cores // 2), cores}):
        apply(number)
        took_s = _timed(step)  # the first step also allocates and starts threads
        if took_s < _TRIAL_S:
            several: list[float] = []
            while len(several) < _STEPS and (len(several) < 2 or sum(several) < _TRIAL_S):
                several.append(_timed(step))
            took_s = statistics.median(several)
        found[number] = took_s
    best = fastest(found, cores)
    apply(best)
    return {best: found[best]} | found


def fastest(found: Mapping[int, float], cores: int, loading_s: float = 0.0) -> int:
    """The least number of threads whose steps take at most a tenth longer than the shortest.

    Args:
        found: {threads: seconds per step} with nothing else on the cores
        cores: that there are
        loading_s: processor time per step of threads that load the data meanwhile

    Example:
        >>> fastest({1: 0.033, 2: 0.024}, 2), fastest({1: 0.033, 2: 0.024}, 2, loading_s=0.024)
        (2, 1)
    """
    took_s = {n: max(alone_s, (n * alone_s + loading_s) / cores) for n, alone_s in found.items()}
    return min(n for n in found if took_s[n] <= min(took_s.values()) * _GAIN)


def _timed(step: Callable[[], Any]) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


class Pace:
    """The compute threads of a run on a CPU: chosen before its first step, watched in the others.

    Args:
        wanted: number the user asked for, 0 = choose
        recorded: number an earlier session of the run had, kept so that it goes on bit by bit
        on_cpu: False where a GPU computes: nothing is chosen
        processes: that share the machine and step together: the cores are divided
        cores: most threads; None = all that are available, divided by `processes`
        apply: sets the number; None = torch's, of the calling thread

    Attributes:
        number: threads in use, None = not chosen yet
    """

    def __init__(
        self,
        wanted: int = 0,
        recorded: int | None = None,
        *,
        on_cpu: bool = True,
        processes: int = 1,
        cores: int | None = None,
        apply: Callable[[int], None] | None = None,
    ):
        self.cores = cores or max(1, available() // processes)
        self.number = wanted or recorded or asked() or None
        self._apply = apply or _apply
        self._fixed = bool(wanted) or not on_cpu or (recorded is None and self.number is not None)
        if not self._fixed and self.number is None and (self.cores == 1 or processes > 1):
            self.number = self.cores  # alone, or in step with others: nothing to compare
            self._fixed = True
        self._found: dict[int, float] = {}
        self._loading_s = 0.0
        self._recent: deque[float] = deque(maxlen=_WINDOW)
        self._usual_s: float | None = None
        self._since = time.monotonic()
        if self.number is not None and on_cpu:
            self._apply(self.number)

    @contextmanager
    def step(self, trial: Callable[[], Any]) -> Iterator[None]:
        """Around a step of the run: `ready` before it, `took` after it."""
        self.ready(trial)
        began = time.perf_counter()
        yield
        self.took(time.perf_counter() - began)

    def ready(self, trial: Callable[[], Any]) -> None:
        """Choose a number if none is chosen yet, or if steps have become far slower.

        Args:
            trial: does the same work as a step and changes nothing; it is timed
        """
        if not self._fixed and (self.number is None or self._collapsed()):
            self._choose(trial)

    def loading(self, seconds: float) -> None:
        """Take into account what threads that prepare batches need: processor seconds per step."""
        self._loading_s = seconds
        if self._found and fastest(self._found, self.cores, seconds) != self.number:
            self._set()

    def took(self, seconds: float) -> None:
        """Note the time of a step."""
        self._recent.append(seconds)

    def _choose(self, trial: Callable[[], Any]) -> None:
        self._found = choose(trial, self.cores, apply=self._apply)
        self._set()

    def _set(self) -> None:
        again = " from now on" if self.number is not None else ""
        self.number = number = fastest(self._found, self.cores, self._loading_s)
        self._apply(number)
        self._recent.clear()
        self._usual_s, self._since = None, time.monotonic()
        decoding = " while decoding" if number != fastest(self._found, self.cores) else ""
        rates = ", ".join(f"{one}: {1 / took_s:.3g}" for one, took_s in sorted(self._found.items()))
        progress.note(
            f"threads: {number}{decoding}{again} (steps per second with {rates}); "
            "--threads N for another number"
        )

    def _collapsed(self) -> bool:
        if len(self._recent) < _WINDOW:
            return False
        now_s = statistics.median(self._recent)
        if self._usual_s is None:
            self._usual_s = now_s
        slow = now_s > _COLLAPSE * self._usual_s
        return slow and time.monotonic() - self._since > _LEAST_S


def _apply(number: int) -> None:
    import torch

    torch.set_num_threads(number)
