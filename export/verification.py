"""Proof that a file still is the student: the same audio through torch and through the file.

Two kinds of audio are used: clips of the run's validation set, which also give the agreement
with the teacher before and after, and signals computed here, whose outputs are recorded so that
`wav2small verify` can repeat them anywhere, without torch and without the clips.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wav2small import metrics
from wav2small.audio import SAMPLING_RATE
from wav2small.dimensions import DIMENSIONS
from wav2small.session import SESSION_ENTRIES, Run

#: Between processors and versions of the runtime only the order of additions differs.
PARITY = 1e-3


@dataclass(frozen=True)
class Tolerance:
    """How far a file may be from torch.

    Attributes:
        difference: largest absolute difference of an output; above 1 relative to the output
        drop: largest loss of CCC with the teacher per dimension
    """

    difference: float
    drop: float


TOLERANCES = {
    "fp32": Tolerance(1e-4, 0.001),
    "int8": Tolerance(0.05, 0.01),
    "int4": Tolerance(0.15, 0.01),
    "int8-static": Tolerance(0.1, 0.01),
}


def signals() -> dict[str, np.ndarray]:
    """Signals that break careless arithmetic, computed, the same everywhere."""
    second = np.arange(SAMPLING_RATE) / SAMPLING_RATE
    voice = np.tile(_voice(2 * SAMPLING_RATE), 30)
    made = {
        "silence": np.zeros(SAMPLING_RATE),
        "constant": np.full(SAMPLING_RATE, 0.25),
        "offset": 0.5 + 0.1 * voice[:SAMPLING_RATE],
        "clipping": np.clip(20 * voice[: 2 * SAMPLING_RATE], -1, 1),
        "quiet": 1e-4 * voice[: 2 * SAMPLING_RATE],
        "tone": 0.5 * np.sin(2 * np.pi * 440 * second),
        "click": np.eye(1, SAMPLING_RATE, 4000)[0],
        "noise": _noise(SAMPLING_RATE),
        "voice": voice[: 2 * SAMPLING_RATE],
        "short (0.1 s)": voice[3000:4600],
        "long (60 s)": voice,
    }
    return {name: signal.astype(np.float32) for name, signal in made.items()}


def verify(
    torch_run: Run,
    file_run: Run,
    *,
    clips: Sequence[np.ndarray],
    teacher: np.ndarray | None,
    tolerance: Tolerance,
    progress: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Compare a student in torch with its file.

    Args:
        torch_run: the student
        file_run: the file
        clips: real audio, each (n,) float32 at 16 kHz
        teacher: what the teacher says of the clips, (clips, 3), None = not known
        tolerance: see `Tolerance`
        progress: called after each clip

    Returns:
        JSON values: `passed`, `failures` (sentences), `clips`, `ccc`, `signals`, `tolerance`
    """
    failures = []
    before, after = [], []
    for clip in clips:
        before.append(torch_run(clip))
        after.append(file_run(clip))
        progress()
    result: dict[str, Any] = {
        "tolerance": {"difference": tolerance.difference, "ccc_drop": tolerance.drop},
        "session": SESSION_ENTRIES,
    }
    if clips:
        difference = np.abs(np.array(before, np.float64) - np.array(after, np.float64))
        worst = int(_relative(before, after).max(axis=1).argmax())
        result["clips"] = {
            "count": len(clips),
            "seconds": round(sum(map(len, clips)) / SAMPLING_RATE, 1),
            "max_difference": _number(difference.max()),
            "mean_difference": _number(difference.mean()),
            "max_difference_by_dimension": _by_dimension(difference.max(axis=0)),
        }
        if _relative(before, after).max() > tolerance.difference:
            failures.append(
                f"clip {worst + 1} differs by {difference[worst].max():.2g} "
                f"(allowed {tolerance.difference:g})"
            )
    if teacher is not None and len(clips) > 1:
        result["ccc"] = agreement(teacher, np.array(before), np.array(after))
        for dimension, drop in result["ccc"]["drop"].items():
            if drop is not None and drop > tolerance.drop:
                failures.append(
                    f"CCC with the teacher drops by {drop:.4f} in {dimension} "
                    f"(allowed {tolerance.drop:g})"
                )
    rows = []
    for name, signal in signals().items():
        expected, found = torch_run(signal), file_run(signal)
        relative = float(_relative([expected], [found]).max())
        rows.append(
            {
                "name": name,
                "torch": [_number(value) for value in expected],
                "file": [_number(value) for value in found],
                "difference": _number(np.abs(expected - found).max()),
            }
        )
        if not relative <= tolerance.difference:  # NaN fails too
            failures.append(
                f"signal {name!r} differs by {relative:.2g} (allowed {tolerance.difference:g})"
            )
    result["signals"] = rows
    return {"passed": not failures, "failures": failures, **result}


def agreement(teacher: np.ndarray, before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """CCC with the teacher of the student and of its file, with 95 % intervals over clips."""
    result: dict[str, Any] = {"before": {}, "after": {}, "drop": {}}
    for column, dimension in enumerate(DIMENSIONS):
        values = []
        for key, estimate in (("before", before), ("after", after)):
            interval = metrics.bootstrap(teacher[:, column], estimate[:, column])
            values.append(interval[0])
            result[key][dimension] = dict(
                zip(("value", "low", "high"), map(_number, interval), strict=True)
            )
        result["drop"][dimension] = _number(values[0] - values[1])
    return result


def repeat(recorded: Mapping[str, Any], file_run: Run) -> list[str]:
    """Run the recorded signals again; sentences about those that come out differently."""
    failures = []
    made = signals()
    for row in recorded["signals"]:
        if row["name"] not in made:
            failures.append(f"signal {row['name']!r} is not known to this version")
            continue
        difference = float(_relative([np.array(row["file"])], [file_run(made[row["name"]])]).max())
        if not difference <= PARITY:
            failures.append(
                f"signal {row['name']!r} differs by {difference:.2g} from the record "
                f"(allowed {PARITY:g})"
            )
    return failures


def _relative(expected: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> np.ndarray:
    left, right = np.array(expected, np.float64), np.array(found, np.float64)
    return np.abs(left - right) / np.maximum(1, np.abs(left))


def _by_dimension(values: np.ndarray) -> dict[str, float | None]:
    return {name: _number(value) for name, value in zip(DIMENSIONS, values, strict=True)}


def _number(value: Any) -> float | None:
    """Eight digits: more are noise, and JSON knows no NaN."""
    return float(f"{value:.8g}") if np.isfinite(value) else None


def _voice(samples: int) -> np.ndarray:
    """A buzzing vowel in syllables, in -.5...5."""
    time = np.arange(samples) / SAMPLING_RATE
    phase = 2 * np.pi * (140 * time + 3 * np.sin(2 * np.pi * 2.5 * time))
    buzz = sum(np.sin(order * phase) / order for order in range(1, 25))
    syllables = np.sin(np.pi * 3.5 * time) ** 2
    return 0.3 * buzz * syllables + 0.005 * _noise(samples)


def _noise(samples: int) -> np.ndarray:
    """Uniform noise in -1..1 from a counter; numpy's generators may change between versions."""
    counter = np.arange(1, samples + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    counter ^= counter >> np.uint64(31)
    counter *= np.uint64(0xBF58476D1CE4E5B9)
    counter ^= counter >> np.uint64(29)
    return (counter >> np.uint64(11)).astype(np.float64) / 2**52 - 1
