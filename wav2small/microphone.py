"""`wav2small listen`: live estimates from a microphone, as three bars in the terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

import numpy as np

from wav2small import audio, models
from wav2small.dimensions import DIMENSIONS
from wav2small.errors import Wav2SmallError, missing_package
from wav2small.stream import MEMORY_S, Estimate, Stream

BLOCK_S = 0.02
BAR = 40  # characters
REDRAW_S = 0.1  # of a terminal
LINE_S = 1.0  # between lines, where there is no terminal


def listen(
    bundle: str | os.PathLike[str] = models.DEFAULT,
    *,
    device: str | None = None,
    file: str | os.PathLike[str] | None = None,
    memory: float = MEMORY_S,
    gate: bool | str | None = True,
    threads: int = 1,
    output: TextIO | None = None,
) -> Estimate | None:
    """Show arousal, dominance and valence of a microphone until Ctrl-C.

    Args:
        bundle: bundle folder, `.onnx` file or model in the box
        device: number or part of the name of the microphone; None = the system's
        file: an audio file instead of the microphone, as fast as it can be processed
        memory: seconds that an estimate remembers
        gate: silence does not move the estimate. See `Stream`
        threads: threads of ONNX Runtime
        output: gets the bars, redrawn in place in a terminal, else a line per second; None =
            standard output

    Returns:
        the last estimate; None if less than .25 s of speech came

    Raises:
        Wav2SmallError: the bundle or the file cannot be used, no microphone, or no sounddevice

    Example:
        >>> import io
        >>> shown = io.StringIO()
        >>> estimate = listen("bundle/", file="speech.wav", output=shown)
        >>> print(shown.getvalue().splitlines()[-1][:32])
            2.0 s  arousal   0.25 #####
    """
    output = sys.stdout if output is None else output
    stream = Stream(bundle, memory=memory, gate=gate, threads=threads)
    blocks = _file(file) if file is not None else _microphone(device)
    interactive = file is None and output.isatty()
    estimate: Estimate | None = None
    shown = -np.inf
    try:
        for block in blocks:
            estimate = [estimate, *stream.push(block)][-1]
            if estimate and estimate.time - shown >= (REDRAW_S if interactive else LINE_S):
                shown = estimate.time
                _show(estimate, output, interactive)
    except KeyboardInterrupt:
        pass
    if estimate and shown != estimate.time:
        _show(estimate, output, interactive)
    if interactive:
        output.write("\n" * len(DIMENSIONS) if estimate else "")
    return estimate


def _show(estimate: Estimate, output: TextIO, interactive: bool) -> None:
    width = BAR if interactive else BAR // 2
    bars = []
    for name in DIMENSIONS:
        value = getattr(estimate, name)
        bar = "#" * round(width * min(max(value, 0.0), 1.0))
        bars.append(f"{name:<9}{value:5.2f} {bar:<{width}}")
    if interactive:
        up = f"\x1b[{len(bars)}A"  # back to the first bar, for the next time
        output.write("".join(f"\x1b[2K{bar}\n" for bar in bars) + up)
    else:
        output.write(f"{estimate.time:7.1f} s  " + "  ".join(bars).rstrip() + "\n")
    output.flush()


def _file(path: str | os.PathLike[str]) -> Iterator[np.ndarray]:
    signal = audio.read(path)
    size = round(BLOCK_S * audio.SAMPLING_RATE)
    for begin in range(0, len(signal), size):
        yield signal[begin : begin + size]


def _microphone(device: str | None) -> Iterator[np.ndarray]:
    """Blocks of 16 kHz; a device of another rate is resampled as it goes."""
    try:
        import sounddevice
    except ModuleNotFoundError as error:
        raise missing_package(error) from error
    except OSError as error:
        raise Wav2SmallError(f"{error}; on Debian: apt-get install libportaudio2") from error
    chosen: Any = int(device) if device and device.isdigit() else device
    settings = {"device": chosen, "channels": 1, "dtype": "float32"}
    try:
        rate = _rate(sounddevice, settings)
        block = round(BLOCK_S * rate)
        source = sounddevice.InputStream(samplerate=rate, blocksize=block, **settings)
    except (ValueError, sounddevice.PortAudioError) as error:
        name = "the microphone" if device is None else f"--device {device}"
        remedy = "python -m sounddevice lists the devices"
        raise Wav2SmallError(f"{name} cannot be opened: {error}; {remedy}") from error
    resample = None
    if rate != audio.SAMPLING_RATE:
        import soxr

        resample = soxr.ResampleStream(rate, audio.SAMPLING_RATE, 1, dtype="float32")
    with source:
        while True:
            samples = source.read(block)[0][:, 0]
            yield resample.resample_chunk(samples) if resample else samples


def _rate(sounddevice: Any, settings: dict[str, Any]) -> int:
    """16000 if the device can, else its own rate."""
    try:
        sounddevice.check_input_settings(samplerate=audio.SAMPLING_RATE, **settings)
        return audio.SAMPLING_RATE
    except sounddevice.PortAudioError:
        return round(sounddevice.query_devices(settings["device"], "input")["default_samplerate"])
