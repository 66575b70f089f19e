"""A probe: a ridge regression on the states of a frozen encoder; `finetune --freeze` fits one.

Its folder holds `config.json` (which encoder, which layers) and `model.safetensors` (the
regression); the encoder itself stays where it is and is pinned by its revision.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wav2small import audio
from wav2small.dimensions import DIMENSIONS
from wav2small.errors import Wav2SmallError
from wav2small.teachers.acoustic.features import statistics
from wav2small.teachers.acoustic.teacher import bounded, squashed

from . import checkpoint
from .checkpoint import Checkpoint
from .frozen import Encoder, open_encoder

MODEL_TYPE = "probe"


class Probe:
    """A teacher on the frozen encoder that config.json in its folder names.

    Raises:
        Wav2SmallError: the encoder is missing or another one than was fitted on
    """

    name = "probe"
    sampling_rate = audio.SAMPLING_RATE
    dimensions = DIMENSIONS
    invariances: frozenset[str] = frozenset()

    def __init__(self, source: Checkpoint, *, device: str = "auto"):
        config, weights = source.config, checkpoint.read_weights(source)
        entry = config["encoder"]
        self.encoder = open_encoder(entry["spec"], device=device)
        if self.encoder.revision != entry["revision"]:
            raise Wav2SmallError(
                f"{source.folder}: was fitted on {entry['id']} {entry['revision']}, here is "
                f"{self.encoder.revision}; bring that version back, or fit again"
            )
        self.id, self.revision = source.id, source.revision
        self.licence = source.licence
        self.layers = [int(layer) for layer in config["layers"]]
        self.in_workers = self.encoder.in_workers
        self._weights = {name: value.double().numpy() for name, value in weights.items()}

    def predict(self, batch: np.ndarray, lengths: np.ndarray | None = None) -> np.ndarray:
        """See `Teacher.predict`."""
        ends = [batch.shape[1]] * len(batch) if lengths is None else [int(n) for n in lengths]
        if not ends:
            return np.zeros((0, len(DIMENSIONS)), np.float32)
        values = [
            np.concatenate(pooled(self.encoder, row[:end], self.layers))
            for row, end in zip(batch, ends, strict=True)
        ]
        return squashed(scores(np.stack(values), self._weights)).astype(np.float32)


def load(source: Checkpoint, *, device: str = "auto", dtype: str = "auto") -> Probe:
    """The probe in a folder."""
    return Probe(source, device=device)


def pooled(
    encoder: Encoder, signal: np.ndarray, layers: Sequence[int] | None = None
) -> list[np.ndarray]:
    """What a probe sees of a clip (samples,) at 16 kHz through layers of an encoder, None = all.

    Returns:
        for each layer mean, deviation and mean absolute difference over time of its states
        (3 x size,); last, the acoustic teacher's statistics of prosody (50,), which a recogniser
        of words is trained to ignore
    """
    chosen = range(encoder.layers) if layers is None else layers
    found = []
    for states in encoder.states(signal, chosen):
        moved = np.abs(np.diff(states, axis=0)).mean(0) if len(states) > 1 else 0 * states[0]
        found.append(np.concatenate([states.mean(0), states.std(0), moved]))
    return [*found, statistics(signal)]


def scores(values: np.ndarray, weights: dict[str, np.ndarray]) -> np.ndarray:
    """Pooled values, joined, (clips, n) -> scores of arousal, dominance, valence (clips, 3), around
    0; by weights `mean` and `sd` (n,), `slopes` (n, 3) and `intercept` (3,)."""
    inputs = bounded(values, weights["mean"], weights["sd"])
    return inputs @ weights["slopes"] + weights["intercept"]
