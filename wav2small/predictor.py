"""From a bundle to arousal, dominance and valence; needs ONNX Runtime, not torch."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wav2small.dimensions import DIMENSIONS
from wav2small.errors import SilentError, Wav2SmallError
from wav2small.session import Model, softmax

from . import audio, hub, models

WINDOW_S = 12.0  # longest stretch of audio that gets one estimate unless asked otherwise
LONG_S = 60.0  # longer clips are never run at once: memory grows with their length
STREAMING = "streaming.onnx"  # of a bundle whose student is causal
STUDENT = "wav2small.student"  # in the metadata of a bundle's model
NO_BUNDLE = "not a model of wav2small"


class Predictor:
    """A student in ONNX Runtime.

    It can be pickled (by its path), copied, and used by several threads and after a fork.

    Args:
        bundle: a model in the box, "nano" or "wav2small"; a bundle folder; a bundle of the
            hub, owner/name; or an `.onnx` file with input `signal` float32 [1, samples] and an
            output `logits` [1, 3]
        threads: threads of ONNX Runtime

    Attributes:
        path: of the `.onnx` file
        categories: names of the student's second head; empty = it has none
        speech: whether the model detects which part of a signal is speech
        dimensions: arousal, dominance and valence; empty = the student has categories alone

    Raises:
        Wav2SmallError: no model there, not a model, or one with other inputs or outputs

    Example:
        >>> predictor = Predictor("bundle/")
        >>> arousal, dominance, valence = predictor.predict_file("speech.wav")
        >>> print(f"{arousal:.2f} {dominance:.2f} {valence:.2f}")
        0.25 0.50 0.75
    """

    def __init__(self, bundle: str | os.PathLike[str] = models.DEFAULT, *, threads: int = 1):
        self.path = model_path(bundle)
        self._folder = self.path != models.locate(bundle)
        self.model = Model(self.path, threads)
        self._streaming: Model | None = None
        names = self.session.get_modelmeta().custom_metadata_map.get("wav2small.categories")
        self.categories: list[str] = json.loads(names) if names else []
        self.speech = _has(self.session, "speech_logits")
        alone = self.categories if not _has(self.session, "logits") else []
        check_signature(self.session, self.path, categories=alone)
        _check_description(self.session, self.path)
        self.dimensions = () if alone else DIMENSIONS

    def __repr__(self) -> str:
        heads = [*self.dimensions, *self.categories, *["speech"] * self.speech]
        return f"<Predictor: {self.path}; {', '.join(heads)}>"

    @property
    def session(self) -> Any:
        """`onnxruntime.InferenceSession` of this process."""
        return self.model.session

    def streaming_model(self) -> Model | None:
        """The session of the bundle's `streaming.onnx`, which its streams share; None = no file."""
        path = self.path.with_name(STREAMING)
        if self._streaming is None and self._folder and path.exists():
            self._streaming = Model(path, self.model.threads)
        return self._streaming

    def predict(self, signal: np.ndarray, sampling_rate: int = audio.SAMPLING_RATE) -> np.ndarray:
        """Estimate one signal.

        Args:
            signal: samples, (n,), float -1..1, or int16, which is scaled
            sampling_rate: of the signal in Hz, 4000..768000; others than 16000 are resampled

        Returns:
            float32 (3,): arousal, dominance, valence; 0..1 on the scale of the teacher, which a
            student can leave by a little

        Raises:
            Wav2SmallError: not one channel, shorter than 0.1 s, one value throughout,
                NaN or infinite samples, integers other than int16, or no sampling rate of audio;
                a student of categories alone
        """
        if not self.dimensions:
            remedy = "call predict_categories, or `wav2small predict`"
            raise Wav2SmallError(f"{self.path}: estimates categories alone; {remedy}")
        return self._run(["logits"], signal, sampling_rate)[0]

    def predict_categories(
        self, signal: np.ndarray, sampling_rate: int = audio.SAMPLING_RATE
    ) -> tuple[np.ndarray, np.ndarray]:
        """Estimate one signal with both heads; arguments and errors are those of `predict`.

        Returns:
            float32 (3,) as of `predict` (NaN of a student of categories alone), and the
            probabilities of `categories`, float32 (K,)
        """
        estimate, shares, _ = self.predict_details(signal, sampling_rate)
        return estimate, shares

    def predict_details(
        self,
        signal: np.ndarray,
        sampling_rate: int = audio.SAMPLING_RATE,
        *,
        speech_only: bool = False,
    ) -> tuple[np.ndarray, np.ndarray, float | None]:
        """Estimate one signal with every head.

        Args:
            signal: this and `sampling_rate` are those of `predict`
            speech_only: estimate the frames that hold speech, as if there were no others; NaN where
                none does

        Returns:
            float32 (3,) as of `predict`; the probabilities of `categories`, float32 (K,); and the
            share of the signal that is speech, None if the model does not detect it

        Raises:
            Wav2SmallError: as `predict`; or `speech_only` of a model that does not detect it

        Example:
            >>> Predictor("bundle/").predict_details(np.arange(1600) / 1600)[2] is None
            True
        """
        if speech_only and not self.speech:
            raise Wav2SmallError(f"{self.path}: does not detect speech")
        names = ["speech_logits" if speech_only else "logits"] * bool(self.dimensions)
        names += ["categories"] * bool(self.categories) + ["speech"] * self.speech
        outputs = dict(zip(names, self._run(names, signal, sampling_rate), strict=True))
        logits = outputs.get("categories")
        shares = np.zeros(0, np.float32) if logits is None else softmax(logits)
        share = float(outputs["speech"][0]) if self.speech else None
        unknown = np.full(len(DIMENSIONS), np.nan, dtype=np.float32)
        return outputs[names[0]] if self.dimensions else unknown, shares, share

    def _run(self, outputs: list[str], signal: np.ndarray, sampling_rate: int) -> list[np.ndarray]:
        """Outputs of one signal, each without its axis of clips."""
        signal = np.asarray(signal)
        if signal.dtype.newbyteorder("=") == np.int16:
            signal = signal * np.float32(1 / 32768)
        if signal.dtype.kind != "f":
            raise Wav2SmallError(f"samples of type {signal.dtype}: give floats of -1..1, or int16")
        with np.errstate(over="ignore"):  # becomes infinite, which is rejected
            signal = signal.astype(np.float32, copy=False)
        check_rate(sampling_rate)
        if signal.ndim != 1:
            problem = f"a signal of shape {signal.shape}: give one channel, shape (samples,)"
            raise Wav2SmallError(problem)
        if len(signal) < audio.MIN_DURATION_S * sampling_rate:
            needed = f"at least {audio.MIN_DURATION_S} s are needed"
            raise Wav2SmallError(f"a signal of {len(signal) / sampling_rate:.3f} s: {needed}")
        if problem := audio.impossible(signal):
            raise Wav2SmallError(f"a signal with {problem}")
        if audio.constant(signal):
            value = f"{signal[0]:.3g} throughout" if signal[0] else "only zeros"
            raise Wav2SmallError(f"{value} ({audio.SILENT}): there is nothing to estimate")
        if sampling_rate != audio.SAMPLING_RATE:
            import soxr

            signal = soxr.resample(signal, sampling_rate, audio.SAMPLING_RATE)
        return [output[0] for output in self.session.run(outputs, {"signal": signal[None]})]

    def predict_file(
        self,
        file: str | os.PathLike[str],
        *,
        start_s: float = 0.0,
        end_s: float | None = None,
        channel: int | None = None,
    ) -> np.ndarray:
        """Estimate a file or a part of it.

        Clips of more than a minute are estimated in windows of 12 s and averaged, so that memory
        stays bounded; windows of digital silence do not count.

        Returns:
            float32 (3,)

        Raises:
            AudioError: see `wav2small.audio.read`
        """
        options: dict[str, Any] = {"start_s": start_s, "end_s": end_s, "channel": channel}
        return self.predict_file_categories(file, **options)[0]

    def predict_file_categories(
        self,
        file: str | os.PathLike[str],
        *,
        start_s: float = 0.0,
        end_s: float | None = None,
        channel: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Estimate a file or a part of it with both heads.

        Returns:
            as `predict_categories`, of a long clip the mean over its windows

        Raises:
            AudioError: see `wav2small.audio.read`
        """
        signals = windows(file, start_s=start_s, end_s=end_s, channel=channel)
        return self.mean(map(self.predict_categories, signals))

    @staticmethod
    def mean(found: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
        """The mean of what `predict_categories` gives for the windows of a clip."""
        estimate, shares = (np.mean(part, axis=0) for part in zip(*found, strict=True))
        return estimate.astype(np.float32), shares.astype(np.float32)


def windows(
    file: str | os.PathLike[str],
    *,
    start_s: float = 0.0,
    end_s: float | None = None,
    channel: int | None = None,
) -> Iterator[np.ndarray]:
    """The signal of a clip; of one of more than a minute, windows of 12 s that are not silent.

    Raises:
        AudioError: see `wav2small.audio.read`

    Example:
        >>> [signal.shape for signal in windows("speech.wav")]
        [(32000,)]
    """
    from wav2small.index import spans

    with audio.Recording(file) as recording:
        stop_s = recording.duration if end_s is None else end_s
        cut: list[tuple[float, float | None]] = [(start_s, end_s)]
        if LONG_S < stop_s - start_s <= recording.duration + WINDOW_S:
            times = spans(stop_s - start_s, window_s=WINDOW_S, hop_s=WINDOW_S)
            cut = [(start_s + low, start_s + high) for low, high in times]
        silent: list[SilentError] = []
        for first, last in cut:
            try:
                yield recording.read(start_s=first, end_s=last, channel=channel)
            except SilentError as error:
                silent.append(error)
    if len(silent) == len(cut):
        raise silent[0]


def check_rate(sampling_rate: Any) -> None:
    """Reject what is no sampling rate of recorded speech.

    Raises:
        Wav2SmallError: no number, or out of 4000..768000 Hz
    """
    known = isinstance(sampling_rate, int | float | np.number)
    if not known or not audio.LOWEST_RATE <= sampling_rate <= audio.HIGHEST_RATE:
        needed = f"give {audio.LOWEST_RATE} to {audio.HIGHEST_RATE} Hz"
        raise Wav2SmallError(f"a sampling rate of {sampling_rate!r}: {needed}")


def load(name: str | os.PathLike[str] = models.DEFAULT, *, threads: int = 1) -> Predictor:
    """Load a model, by default the one in the box; needs no download and no torch.

    Args:
        name: "nano", a bundle folder, a bundle of the hub, owner/name, or an `.onnx` file
        threads: threads of ONNX Runtime

    Raises:
        Wav2SmallError: no such model

    Example:
        >>> load().predict_file("speech.wav").shape
        (3,)
    """
    return Predictor(name, threads=threads)


def model_path(bundle: str | os.PathLike[str]) -> Path:
    """The `.onnx` file of a model in the box, a bundle folder or a bundle of the hub, or itself.

    Raises:
        Wav2SmallError: nothing there, a folder without a model, or the hub cannot be reached

    Example:
        >>> model_path("bundle").name
        'model.onnx'
    """
    path = models.locate(bundle)
    if hub.is_id(path):
        path = hub.fetch(os.fspath(bundle), hub.BUNDLE, option="wav2small predict")
    if path.is_dir():
        path = path / "model.onnx"
        if not path.exists():
            raise Wav2SmallError(
                f"{bundle}: no model.onnx in this folder; make a bundle with `wav2small export`"
            )
    elif not path.exists():
        remedy = f"name {' or '.join(models.NAMES)}, or the folder that `wav2small export` wrote"
        raise Wav2SmallError(f"{bundle}: no such bundle; {remedy}")
    return path


def _has(session: Any, output: str) -> bool:
    return output in {node.name for node in session.get_outputs()}


def check_signature(session: Any, path: Path, *, categories: Sequence[str] = ()) -> None:
    """Reject a model that does not take a waveform and give the three dimensions.

    Args:
        session: of the model
        path: of its file
        categories: names of the output `categories`, where that is enough

    Raises:
        Wav2SmallError: it names the inputs and outputs found and needed
    """
    inputs = {node.name: list(node.shape) for node in session.get_inputs()}
    outputs = {node.name: list(node.shape) for node in session.get_outputs()}
    kinds = [(node.name, node.type, len(node.shape)) for node in session.get_inputs()]
    found = outputs.get("logits") or outputs.get("categories") or []
    fits = kinds == [("signal", "tensor(float)", 2)] and not isinstance(inputs["signal"][1], int)
    if fits and found[-1:] == [len(categories or DIMENSIONS)]:
        return
    if "categories" in outputs and "logits" not in outputs:
        raise Wav2SmallError(
            f"{path}: estimates categories alone; here arousal, dominance and valence are needed"
        )
    takes, gives = (
        ", ".join(f"{name} {shape}" for name, shape in nodes.items()) for nodes in (inputs, outputs)
    )
    remedy = "needed: input signal float32 [1, samples] and output logits [1, 3]"
    raise Wav2SmallError(f"{path}: {NO_BUNDLE}: inputs {takes}, outputs {gives}; {remedy}")


def _check_description(session: Any, path: Path) -> None:
    """Reject a model of others whose files state other columns, another rate, or a transform."""
    metadata = session.get_modelmeta().custom_metadata_map
    if STUDENT in metadata:
        return
    text, file = "", path.with_name("model.yaml")
    if path.name == "model.onnx" and file.is_file():
        text = file.read_text(encoding="utf-8", errors="replace").lower()
    names = [word for word in re.findall(r"\w+", text) if word in DIMENSIONS]
    rates = re.findall(r"sampling_rate:\s*(\S+)", text)
    rates += [metadata["sampling_rate"]] if "sampling_rate" in metadata else []
    other = {
        "other columns": "labels:" in text and names != [*DIMENSIONS],
        "another sampling rate": any(rate != str(audio.SAMPLING_RATE) for rate in rates),
        "a transform": re.search(r"transform:\s*(?!null\b|~|\s)\S", text) is not None,
    }
    remedy = f"it is a teacher: wav2small label SOURCE --teacher {path}"
    for what, stated in other.items():
        if stated:
            raise Wav2SmallError(f"{path}: {NO_BUNDLE}: its files state {what}; {remedy}")
