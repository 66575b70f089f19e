"""Live estimates from a microphone, or from a file as if it were one.

    pip install 'wav2small[mic]'
    python examples/microphone.py BUNDLE
    python examples/microphone.py BUNDLE --file speech.wav

One line of bars per half second, each 0..1; silence moves nothing. `wav2small listen` does
more; this is what your own program would contain.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

import numpy as np

from wav2small import Stream, audio

BLOCK = audio.SAMPLING_RATE // 50  # 20 ms


def microphone() -> Iterator[np.ndarray]:
    """Blocks of float32 samples at 16 kHz, until Ctrl-C."""
    try:
        import sounddevice
    except (ImportError, OSError) as error:
        sys.exit(f"no microphone: {error}; pip install 'wav2small[mic]', or give --file")
    with sounddevice.InputStream(
        samplerate=audio.SAMPLING_RATE, channels=1, dtype="float32", blocksize=BLOCK
    ) as source:
        while True:
            yield source.read(BLOCK)[0][:, 0]


def file(path: str) -> Iterator[np.ndarray]:
    """The same blocks of a file of any format and rate."""
    signal = audio.read(path)
    for begin in range(0, len(signal), BLOCK):
        yield signal[begin : begin + BLOCK]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle")
    parser.add_argument("--file")
    args = parser.parse_args()
    stream = Stream(args.bundle)
    shown = 0.0
    try:
        for block in file(args.file) if args.file else microphone():
            for estimate in stream.push(block):
                if estimate.time - shown < 0.5:
                    continue
                shown = estimate.time
                values = (estimate.arousal, estimate.dominance, estimate.valence)
                bars = (
                    f"{name} {value:5.2f} {'#' * round(20 * min(max(value, 0), 1)):<20}"
                    for name, value in zip("ADV", values, strict=True)
                )
                print(f"{estimate.time:7.1f} s  ", "  ".join(bars), flush=True)
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
