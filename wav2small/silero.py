"""Where speech is, by silero-vad (MIT): the targets of nano's head for voice activity.

The wheel `silero-vad` holds its model as an ONNX file, which runs here without its own code.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from wav2small.errors import Wav2SmallError
from wav2small.session import open_session

FRAME, CONTEXT = 512, 64  # samples at 16 kHz: of a frame, and of the one before that it sees too
STATE = 128  # of its LSTM
PROVENANCE = {"name": "silero-vad", "id": "silero-vad", "licence": "MIT"}


@functools.cache
def _session() -> Any:
    spec = importlib.util.find_spec("silero_vad")
    folder = Path(spec.submodule_search_locations[0]) if spec else Path()  # type: ignore[index]
    path = folder / "data" / "silero_vad_16k_sequence.onnx"
    if spec is None or not path.exists():
        raise Wav2SmallError("no silero-vad >= 6.2: pip install 'wav2small[vad]'")
    return open_session(path)


def probabilities(signal: np.ndarray) -> np.ndarray:
    """Probability of speech in every complete frame of 32 ms.

    Args:
        signal: (samples,) at 16 kHz, -1..1

    Returns:
        float32 (samples // 512,)

    Raises:
        Wav2SmallError: silero-vad is not installed

    Example:
        >>> probabilities(np.zeros(16000)).shape
        (31,)
    """
    count = len(signal) // FRAME
    padded = np.concatenate([np.zeros(CONTEXT), signal[: count * FRAME]]).astype(np.float32)
    if not count:
        return np.zeros(0, np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(padded, CONTEXT + FRAME)[::FRAME]
    state = np.zeros((1, 1, STATE), np.float32)
    inputs = {"input": np.ascontiguousarray(frames), "h": state, "c": state}
    return _session().run(["speech_probs"], inputs)[0].reshape(-1)
