"""The other forms of a bundle's model, and quieter recordings, against its `model.onnx`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wav2small.errors import Wav2SmallError
from wav2small.predictor import STREAMING as FILE
from wav2small.session import SignalFunction, file_run, open_session
from wav2small.stream import Stream

from . import bundle
from .signals import signals

#: Largest difference between a stream and the file: the same weights, added in another order.
STREAMING = 1e-5
HALF = 0.5  # probability of speech from which a frame counts for the share, as in onnx/nano.py
PLAIN_C = 0.1  # likewise, as of int8-static: both round activations
PLAIN_C_SPEECH = 0.2  # a frame near a threshold falls to its other side by rounding
OTHER_CLIPS = 24  # clips that a stream, plain C and other levels are compared on
LEVELS_DB = (20, 40, 60)


def prove_streaming(folder: Path, clips: Sequence[np.ndarray] = ()) -> dict[str, Any]:
    """Compare the stream of a bundle with its `model.onnx`, clip by clip, nothing gated.

    The clips are real audio besides the signals of `signals.py`. Where the model detects speech,
    the share of frames that hold speech and the estimates of those frames alone are compared, too.

    Returns:
        `count` of clips and signals, `max_difference`; and the same as `speech`, if detected

    Raises:
        Wav2SmallError: they differ by more than `STREAMING`
    """
    stream = Stream(folder, gate=False)

    def run(signal: np.ndarray) -> np.ndarray | None:
        stream.reset()
        estimates = stream.push(signal)
        return np.array(estimates[-1].overall) if estimates else None

    record = _prove_other(folder, file_run(folder / bundle.MODEL), run, clips, STREAMING, FILE)
    if detected := speech_run(folder / bundle.MODEL):
        engine = Stream(folder, gate="voice")._engine

        def spoken(signal: np.ndarray) -> np.ndarray:
            engine.reset()
            hops = len(signal) // engine.hop
            weights = np.ones(hops, np.float32)
            estimates, _, probabilities = engine.run(signal[: hops * engine.hop], weights, 0.0)
            assert probabilities is not None
            # The first hop is no frame yet.
            return np.array([np.mean(probabilities[1:] >= HALF), *estimates[-1][3:]])  # type: ignore[index]

        name = f"speech of {FILE}"
        record["speech"] = _prove_other(folder, detected, spoken, clips, STREAMING, name)
    return record


def prove_plain_c(
    run: SignalFunction,
    folder: Path,
    clips: Sequence[np.ndarray],
    spoken: SignalFunction | None = None,
) -> dict[str, Any]:
    """Compare the integers of the plain C, `run`, with `model.onnx`; see `prove_streaming`.

    `spoken` gives the share of speech and estimates of it by the integers, if they detect it.
    """
    model, name = folder / bundle.MODEL, "the plain C"
    record = _prove_other(folder, file_run(model), run, clips, PLAIN_C, name)
    if spoken and (detected := speech_run(model)):
        name = f"speech of {name}"
        record["speech"] = _prove_other(folder, detected, spoken, clips, PLAIN_C_SPEECH, name)
    return record


def speech_run(model: Path) -> SignalFunction | None:
    """A file as a function of one signal: share of speech, estimates of speech alone (1 + 3,).

    Without any speech the estimates are NaN. None = the file does not detect speech.

    Example:
        >>> speech_run(Path("bundle/model.onnx")) is None
        True
    """
    session = open_session(model)
    names = ["speech", "speech_logits"]
    if not {*names} <= {node.name for node in session.get_outputs()}:
        return None
    return lambda signal: np.concatenate(session.run(names, {"signal": signal[None]}), axis=1)[0]


def _prove_other(
    folder: Path,
    model: SignalFunction,
    run: Callable[[np.ndarray], np.ndarray | None],
    clips: Sequence[np.ndarray],
    allowed: float,
    name: str,
) -> dict[str, Any]:
    """Compare another form of a model with its `model.onnx`; None = nothing to compare."""
    made = [*signals().values(), *_spread(clips)]
    pairs = [(model(clip), other) for clip in made if (other := run(clip)) is not None]
    largest = max(
        # Where the model has no estimate, as of speech where there is none, the other has none.
        float(relative([one[known]], [other[known]]).max())
        for one, other in pairs
        for known in [np.isfinite(one[: len(other)]).nonzero()]
    )
    if not largest <= allowed:  # NaN fails too
        raise Wav2SmallError(
            f"{folder}: {name} differs from {bundle.MODEL} by {largest:.2g} (allowed "
            f"{allowed:g}); export the bundle again"
        )
    return {"count": len(pairs), "max_difference": rounded(largest)}


def _spread(clips: Sequence[np.ndarray]) -> list[np.ndarray]:
    chosen = np.linspace(0, len(clips) - 1, min(OTHER_CLIPS, len(clips))).astype(int)
    return [clips[number] for number in np.unique(chosen)]


def level_changes(folder: Path, clips: Sequence[np.ndarray]) -> dict[str, float | None]:
    """How far quieter recordings of the same clips move an output: {dB: largest change, ...}.

    Of many clips, 24 spread ones are taken.
    """
    model, chosen = file_run(folder / bundle.MODEL), _spread(clips)
    full = [model(clip) for clip in chosen]
    changes = {}
    for quieter in LEVELS_DB:
        gain = np.float32(10 ** (-quieter / 20))
        changed = [model(gain * clip) for clip in chosen]
        changes[str(quieter)] = rounded(np.abs(np.subtract(full, changed)).max())
    return changes


def relative(expected: Sequence[np.ndarray], actual: Sequence[np.ndarray]) -> np.ndarray:
    """Differences; of values above 1 in relation to the expected value."""
    left, right = np.array(expected, np.float64), np.array(actual, np.float64)
    return np.abs(left - right) / np.maximum(1, np.abs(left))


def rounded(value: Any) -> float | None:
    """Eight digits: more are noise, and JSON knows no NaN."""
    return float(f"{value:.8g}") if np.isfinite(value) else None
