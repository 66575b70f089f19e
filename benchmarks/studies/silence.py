"""What the energy gate of `Stream` lets pass: speech, and silence before and after it.

    python -m wav2small.benchmarks.studies.silence BUNDLE SPEECH NOISE [--open-db DB --close-db DB]

SPEECH is a label table or folder, NOISE a folder of recordings without speech. Prints JSON:

- `speech`: frames within 30 dB of their clip's loudest, and how many of them counted
- `after`, `before`: seconds of noise at a level below the clip's speech ("digital" = zeros) after
  and before each clip. `counted` is the share of the noise that passed the gate, `moved` how far
  the estimate over everything went in any dimension, in a file that was processed to its end.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from wav2small import audio
from wav2small.benchmarks import studies
from wav2small.errors import Wav2SmallError
from wav2small.index import load_source
from wav2small.stream import CLOSE_DB, OPEN_DB, Estimate, Stream

ACTIVE_DB = 30.0  # below the loudest frame of a clip; quieter frames are pauses
SILENCE_S = 4.0
LEVELS = ("digital", 60.0, 50.0, 40.0, 30.0, 20.0)  # dB below the speech of the clip
_FRAME = 256


def silence(
    bundle: str | os.PathLike[str],
    speech: str | os.PathLike[str],
    noise: str | os.PathLike[str],
    *,
    open_db: float = OPEN_DB,
    close_db: float = CLOSE_DB,
    clips: int = 60,
) -> dict[str, Any]:
    """See the module and `Stream`; at most `clips` of the speech, evenly spaced.

    Raises:
        Wav2SmallError: a source cannot be read or is empty
    """
    source = load_source(speech)
    files = list(dict.fromkeys(source.path(file) for file in source.frame["file"]))
    files = files[:: max(1, len(files) // clips)]
    paths = sorted(Path(noise).glob("*.*"))
    recordings = [audio.read(path) for path in paths if path.suffix.lower() in (".flac", ".wav")]
    if not files or not recordings:
        raise Wav2SmallError(f"{noise if files else speech}: no audio in it")
    noises = np.concatenate([recording / _rms(recording) for recording in recordings])
    stream = Stream(bundle, open_db=open_db, close_db=close_db)
    rng = np.random.default_rng(0)
    passed, unheard, alone = [], 0, []
    found: dict[str, dict[str, list[tuple[float, float]]]] = {"before": {}, "after": {}}
    for file in files:
        signal = audio.read(file)
        active, level = _active(signal)
        counted = _counted(stream, signal)
        passed.append(float(np.mean(counted[active[: len(counted)]])))
        wanted = _push(stream, signal)
        counted_s = stream.heard
        if wanted is None:
            unheard += 1
            continue
        alone.append(counted_s)
        for name in LEVELS:
            quiet = _noise(noises, level, name, rng)
            for place in found:
                parts = [quiet, signal] if place == "before" else [signal, quiet]
                estimate = _push(stream, np.concatenate(parts))
                assert estimate is not None
                moved = np.abs(np.subtract(estimate.overall, wanted.overall)).max()
                share = (stream.heard - counted_s) / SILENCE_S
                found[place].setdefault(str(name), []).append((share, float(moved)))
    return {
        "clips": len(files),
        "gate_db": [open_db, close_db],
        "speech": {
            "frames_counted": _round(np.mean(passed)),
            "frames_counted_worst_clip": _round(np.min(passed)),
            "clips_never_heard": unheard,
        },
        **{place: {n: _summary(rows) for n, rows in found[place].items()} for place in found},
    }


def _push(stream: Stream, signal: np.ndarray) -> Estimate | None:
    stream.reset()
    estimates = stream.push(signal)
    return estimates[-1] if estimates else None


def _counted(stream: Stream, signal: np.ndarray) -> np.ndarray:
    """Share of each frame that counted; of students that are not causal, per hop."""
    stream.reset()
    counts, before = [], 0.0
    for start in range(0, len(signal) - _FRAME + 1, _FRAME):
        stream.push(signal[start : start + _FRAME])
        counts.append((stream.heard - before) * audio.SAMPLING_RATE / _FRAME)
        before = stream.heard
    return np.array(counts)


def _active(signal: np.ndarray) -> tuple[np.ndarray, float]:
    """Frames of speech, and their level (RMS, 1 = full scale)."""
    frames = signal[: len(signal) // _FRAME * _FRAME].reshape(-1, _FRAME).astype(np.float64)
    power = np.square(frames).mean(axis=1)
    active = power >= power.max() * 10 ** (-ACTIVE_DB / 10)
    return active, float(np.sqrt(power[active].mean()))


def _noise(noises: np.ndarray, level: float, name: Any, rng: np.random.Generator) -> np.ndarray:
    size = round(SILENCE_S * audio.SAMPLING_RATE)
    if name == "digital":
        return np.zeros(size, np.float32)
    start = int(rng.integers(0, len(noises) - size))
    part = noises[start : start + size]
    return (part / _rms(part) * level * 10 ** (-name / 20)).astype(np.float32)


def _rms(signal: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(signal, dtype=np.float64)))) + 1e-12


def _summary(rows: list[tuple[float, float]]) -> dict[str, float]:
    shares, moves = np.array(rows).T
    return {
        "counted": _round(shares.mean()),
        "moved_median": _round(np.median(moves)),
        "moved_worst": _round(moves.max()),
    }


def _round(number: Any) -> float:
    return round(float(number), 4)


def main(arguments: Iterable[str] | None = None) -> None:
    parser = studies.parser("silence")
    for name in ("bundle", "speech", "noise"):
        parser.add_argument(name)
    parser.add_argument("--open-db", type=float, default=OPEN_DB)
    parser.add_argument("--close-db", type=float, default=CLOSE_DB)
    parser.add_argument("--clips", type=int, default=60)
    args = parser.parse_args(None if arguments is None else list(arguments))
    print(json.dumps(silence(**vars(args)), indent=2))


if __name__ == "__main__":
    main()
