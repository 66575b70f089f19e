"""Estimates from audio that comes in blocks; needs ONNX Runtime, not torch.

A bundle with `streaming.onnx` (student `nano`, `wav2small export --streaming`) is causal: each hop
of 16 ms is processed once and the past is a state. Every other bundle runs its model again on
the last seconds, once per hop: with 4 s of memory and a hop of .5 s that is 8 times the work of
one pass over the audio.

Only speech moves an estimate. A model with a head for voice activity (nano) detects which hops hold
speech, and the others weigh nothing (`gate="voice"`).

Of other models silence does not move an estimate (`gate="energy"`): a frame counts from an RMS
level of -55 dBFS on, if it is within 30 dB of the loudest frame lately (which fades by 1 dB per
second), until the level was 6 dB below that for more than .2 s.

Frames that do not count are processed (the model's context goes on) but weigh nothing, and the
memory does not fade meanwhile: it is a memory of speech, not of time. The probability of a voice
activity detector of your own multiplies the weight.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wav2small.errors import Wav2SmallError
from wav2small.gate import Gate
from wav2small.predictor import STREAMING, Predictor, check_rate, check_signature, model_path
from wav2small.session import Model

from . import audio, models

FIRST_S = 0.25  # no estimate before so much audio counted
MEMORY_S = 4.0
HOP_S = 0.5  # of students that are not causal
OPEN_DB, CLOSE_DB, HOLD_S = -55.0, -61.0, 0.2
RANGE_DB = 30.0
SPOKEN = 0.8  # probability of speech from which a hop counts, see students.nano
_GATE_FRAME = 160  # samples, of students that are not causal
_MAX_HOPS = 32  # per run of a causal student: bounds memory

#: Estimates, weights and probabilities of speech of each hop.
_Hops = tuple[Any, np.ndarray, np.ndarray | None]


@dataclass(frozen=True)
class Estimate:
    """What a stream knows at `time`.

    Attributes:
        arousal: over the memory, 0..1 on the teacher's scale; so are `dominance` and `valence`
        time: end of the audio that it knows, in seconds since the last reset
        heard: seconds of it that counted (see the module)
        overall: arousal, dominance, valence over everything since the last reset
        speech: probability that the last hop holds speech; None = the model does not detect it
    """

    arousal: float
    dominance: float
    valence: float
    time: float
    heard: float
    overall: tuple[float, float, float]
    speech: float | None = None


class Stream:
    """A student that takes audio in blocks.

    A deep copy goes on from the same past and shares the session; a pickle opens the file again.

    Args:
        bundle: bundle folder, or an `.onnx` file; or a `Predictor`, whose session its streams share
        memory: seconds of audio that an estimate remembers. Causal students fade: audio
            from `memory` seconds ago weighs 1/e. Others use a window of that length.
        hop: seconds between estimates of a student that is not causal; at most `memory`. A causal
            one gives an estimate per 16 ms, whatever this is.
        gate: what moves the estimate: "voice", hops that hold speech (models with a head for voice
            activity); "energy", what is not silence; None, everything. True = "voice" where the
            model has the head, else "energy"
        open_db: RMS level in dBFS from which a frame counts
        close_db: level below which it stops to, after `hold` seconds
        hold: see `close_db`
        range_db: frames so far below the loudest lately do not count either
        threads: threads of ONNX Runtime

    Attributes:
        causal: processes each sample once
        hop_samples: samples between estimates
        gate: "voice", "energy" or None, see above
        samples: in complete hops since the last reset, in samples

    Raises:
        Wav2SmallError: no such bundle, not a model, or an option out of its range

    Example:
        >>> stream = Stream("bundle/", hop=1.0)
        >>> blocks = np.split(audio.read("speech.wav"), 10)  # from a microphone, of any size
        >>> for block in blocks:
        ...     for estimate in stream.push(block):
        ...         print(estimate.time, round(estimate.arousal, 2))
        1.0 0.25
        2.0 0.25
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str] | Predictor = models.DEFAULT,
        *,
        memory: float = MEMORY_S,
        hop: float = HOP_S,
        gate: bool | str | None = True,
        open_db: float = OPEN_DB,
        close_db: float = CLOSE_DB,
        hold: float = HOLD_S,
        range_db: float = RANGE_DB,
        threads: int = 1,
    ):
        _check("memory", memory, FIRST_S, 600.0)
        _check("hop", hop, 0.05, 60.0)
        _check("open_db", open_db, close_db, 0.0)
        _check("close_db", close_db, -200.0, open_db)
        _check("hold", hold, 0.0, 60.0)
        _check("range_db", range_db, 0.0, 200.0)
        model = _model(bundle, threads)
        inputs = {node.name for node in model.session.get_inputs()}
        named = os.path.basename(model.path) == STREAMING
        self.causal = named or {"block", "state", "pool"} <= inputs
        if self.causal:
            self._engine: _Causal | _Window = _Causal(model, memory)
        else:
            if hop > memory:
                raise Wav2SmallError(f"hop {hop:g} s is longer than memory {memory:g} s")
            self._engine = _Window(model, memory, hop)
        self.hop_samples = self._engine.hop
        self.gate = _gate(gate, self._engine.voice, model.path)
        self._engine.threshold = SPOKEN if self.gate == "voice" else 0.0
        energy = self.gate == "energy"
        self._gate = Gate(self._engine.frame, energy, open_db, close_db, hold, range_db)
        self.reset()

    def __repr__(self) -> str:
        kind = "causal" if self.causal else "windows"
        every_s = self.hop_samples / audio.SAMPLING_RATE
        return f"<Stream: {kind}, an estimate every {every_s:g} s, gate {self.gate}>"

    @property
    def heard(self) -> float:
        """Seconds of audio since the last reset that counted."""
        return self._heard * self._gate.frame / audio.SAMPLING_RATE

    def reset(self) -> None:
        """Forget all audio."""
        self._engine.reset()
        self._gate.reset()
        self._pending = np.zeros(0, np.float32)
        self._resampler: _Resampler | None = None
        self._heard = 0.0
        self.samples = 0

    def push(
        self,
        block: np.ndarray,
        *,
        voice_probability: float | None = None,
        sampling_rate: int = audio.SAMPLING_RATE,
    ) -> list[Estimate]:
        """Process a block.

        Args:
            block: samples (n,), floats of -1..1 or int16; any n, 0 included
            voice_probability: 0..1 from a voice activity detector of yours; weighs the block
            sampling_rate: of the block in Hz, the same until the next reset; blocks of another rate
                than 16000 are resampled, which holds back the last milliseconds until the next one

        Returns:
            one estimate per hop that the block completed, none before .25 s counted

        Raises:
            Wav2SmallError: another sampling rate than before, more than one channel, another type,
                impossible samples, a probability out of 0..1; the stream is as it was before
        """
        check_rate(sampling_rate)
        samples = _samples(block)
        if voice_probability is not None:
            _check("voice_probability", voice_probability, 0.0, 1.0)
        samples = self._resampled(samples, sampling_rate)
        estimates: list[Estimate] = []
        step = _MAX_HOPS * self.hop_samples
        for start in range(0, len(samples), step):
            estimates += self._process(samples[start : start + step], voice_probability)
        return estimates

    def _resampled(self, samples: np.ndarray, sampling_rate: int) -> np.ndarray:
        before = self._resampler.rate if self._resampler else audio.SAMPLING_RATE
        begun = self._resampler is not None or self.samples + len(self._pending) > 0
        if begun and sampling_rate != before:
            wrong = f"a block at {sampling_rate} Hz after blocks at {before} Hz"
            raise Wav2SmallError(f"{wrong}; reset the stream first")
        if sampling_rate == audio.SAMPLING_RATE:
            return samples
        if self._resampler is None:
            self._resampler = _Resampler(sampling_rate)
        return self._resampler.take(samples)

    def _process(self, samples: np.ndarray, probability: float | None) -> list[Estimate]:
        self._gate.push(samples, 1.0 if probability is None else probability)
        pending = np.concatenate((self._pending, samples))
        hops = len(pending) // self.hop_samples
        now, self._pending = pending[: hops * self.hop_samples], pending[hops * self.hop_samples :]
        if not hops:
            return []
        per_hop = self.hop_samples // self._gate.frame
        sums = self._gate.take(hops * per_hop).reshape(hops, per_hop).sum(axis=1)
        scale = self._gate.frame / audio.SAMPLING_RATE
        results, sums, speech = self._engine.run(now, sums, self._heard)
        heard = self._heard + np.cumsum(sums)
        estimates = []
        for number, result in enumerate(results):
            heard_s = float(heard[number] * scale)
            if heard_s >= FIRST_S and result is not None:
                time = (self.samples + (number + 1) * self.hop_samples) / audio.SAMPLING_RATE
                a, d, v, *overall = map(float, result)
                spoken = None if speech is None else float(speech[number])
                estimates.append(Estimate(a, d, v, time, heard_s, tuple(overall), spoken))  # type: ignore[arg-type]
        self._heard = float(heard[-1])
        self.samples += hops * self.hop_samples
        return estimates


class _Resampler:
    """From blocks of another rate to 16 kHz; a copy begins anew, with silence before it."""

    def __init__(self, rate: int):
        import soxr

        self.rate = rate
        self._stream = soxr.ResampleStream(rate, audio.SAMPLING_RATE, 1, dtype="float32")

    def take(self, samples: np.ndarray) -> np.ndarray:
        return self._stream.resample_chunk(samples) if len(samples) else samples

    def __reduce__(self) -> Any:
        return _Resampler, (self.rate,)


class _Causal:
    """`streaming.onnx`; its tensors are described where it is made, export/onnx/streaming.py."""

    def __init__(self, model: Model, memory: float):
        self.model = model
        self.voice = any(node.name == "speech" for node in model.session.get_outputs())
        self.threshold = 0.0
        metadata = model.session.get_modelmeta().custom_metadata_map
        inputs = {node.name: node.shape for node in model.session.get_inputs()}
        try:
            self.hop = self.frame = int(metadata["stream_hop"])
            state, pool = int(inputs["state"][1]), int(inputs["pool"][1])
            self._initial = np.zeros((1, state), np.float32)
            for entry in metadata["stream_initial"].split():
                offset, count, number = entry.split(":")
                self._initial[0, int(offset) : int(offset) + int(count)] = float(number)
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise Wav2SmallError(
                f"{model.path}: not a streaming model of wav2small; export with --streaming"
            ) from error
        self._empty = np.zeros((1, pool), np.float64)
        self._log_keep = np.array([-self.hop / (memory * audio.SAMPLING_RATE)])
        self.reset()

    def reset(self) -> None:
        self.state, self.pool = self._initial, self._empty

    def run(self, signal: np.ndarray, weights: np.ndarray, heard: float) -> _Hops:
        """Process complete hops, weighed by the gate, after frames of a sum of weights.

        Returns:
            estimates over the memory and over everything (hops, 6), the weights that counted, and
            the probabilities of speech, None without a head for voice activity
        """
        inputs = {
            "block": signal[None],
            "weight": weights[None].astype(np.float32),
            "log_keep": self._log_keep,
            "state": self.state,
            "pool": self.pool,
        }
        threshold = np.float32(self.threshold)
        if self.voice:
            inputs["threshold"] = np.array([threshold])
        estimates, self.state, self.pool, *speech = self.model.session.run(None, inputs)
        if not self.voice:
            return estimates[0], weights, None
        return estimates[0], weights * (speech[0][0] >= threshold), speech[0][0]


class _Window:
    """`model.onnx` on the last seconds, once per hop that counts."""

    voice, threshold = False, 0.0

    def __init__(self, model: Model, memory: float, hop: float):
        self.model = model
        check_signature(model.session, Path(model.path))
        self.frame = _GATE_FRAME
        self.hop = self.frame * max(1, round(hop * audio.SAMPLING_RATE / self.frame))
        self.window = max(self.hop, round(memory * audio.SAMPLING_RATE))
        self.reset()

    def reset(self) -> None:
        self._buffer = np.zeros(0, np.float32)
        self._last: np.ndarray | None = None
        self._sum = np.zeros(3)
        self._weight = 0.0

    def run(self, signal: np.ndarray, weights: np.ndarray, heard: float) -> _Hops:
        """As `_Causal.run`; None in place of an estimate while there is none."""
        results: list[np.ndarray | None] = []
        heard_s = (heard + np.cumsum(weights)) * (self.frame / audio.SAMPLING_RATE)
        for number, weight in enumerate(weights):
            new = signal[number * self.hop : (number + 1) * self.hop]
            self._buffer = np.concatenate((self._buffer, new))[-self.window :]
            if weight > 0 and heard_s[number] >= FIRST_S:
                found = self.model.session.run(["logits"], {"signal": self._buffer[None]})
                self._last = found[0][0]
                self._sum = self._sum + weight * self._last.astype(np.float64)
                self._weight += float(weight)
            last = self._last
            overall = self._sum / (self._weight or 1)
            results.append(None if last is None else np.concatenate((last, overall)))
        return results, weights, None


def _gate(gate: bool | str | None, voice: bool, path: str) -> str | None:
    """The gate that `Stream` is asked for."""
    if gate is True:
        return "voice" if voice else "energy"
    if gate not in (False, None, "voice", "energy"):
        raise Wav2SmallError(f"gate {gate!r}: voice, energy or None")
    if gate == "voice" and not voice:
        raise Wav2SmallError(f"{path}: has no head for voice activity; give gate='energy'")
    return gate or None  # type: ignore[return-value]


def _samples(block: np.ndarray) -> np.ndarray:
    block = np.asarray(block)
    if block.ndim != 1:
        raise Wav2SmallError(f"a block of shape {block.shape}: give one channel, shape (samples,)")
    if block.dtype.newbyteorder("=") == np.int16:
        return block.astype(np.float32) / np.float32(32768)
    if block.dtype.kind != "f" and block.size:
        raise Wav2SmallError(f"a block of {block.dtype}: give float samples, -1..1, or int16")
    with np.errstate(over="ignore"):  # becomes infinite, which is rejected
        samples = block.astype(np.float32)
    if problem := audio.impossible(samples):
        raise Wav2SmallError(f"a block with {problem}")
    return samples


def _check(name: str, number: Any, low: float, high: float) -> None:
    known = isinstance(number, int | float | np.number)
    if not known or not low <= number <= high:
        shown = f"{number:g}" if known else repr(number)
        raise Wav2SmallError(f"{name} {shown}: {low:g} to {high:g}")


def _model(bundle: str | os.PathLike[str] | Predictor, threads: int) -> Model:
    """The file that a stream runs: `streaming.onnx` of a bundle that has one."""
    if isinstance(bundle, Predictor):
        return bundle.streaming_model() or bundle.model
    path = model_path(bundle)
    streaming = path.with_name(STREAMING)
    causal = models.locate(bundle).is_dir() and streaming.exists()
    return Model(streaming if causal else path, threads)
