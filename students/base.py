"""What every student is: an `nn.Module` from a waveform to arousal, dominance and valence.

Folder layout (the hub's): `config.json` with `student`, `wav2small_version` and the options of
the constructor, `model.safetensors` with the state dict. Nothing else is needed to load it, and
`huggingface_hub.upload_folder` publishes it as it is.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import wav2small
from wav2small import files
from wav2small.audio import MIN_DURATION_S, SAMPLING_RATE
from wav2small.dimensions import DIMENSIONS
from wav2small.errors import Wav2SmallError
from wav2small.training import weights

from .registry import CONFIG, WEIGHTS

MIN_SAMPLES = round(MIN_DURATION_S * SAMPLING_RATE)


class Student(nn.Module):
    """Base of all students.

    A subclass calls `super().__init__`, then builds its body, and implements `_embed`.

    Args:
        embedding: numbers in the pooled embedding, E
        categories: names for an optional second head, such as ("anger", "joy")
        dimensions: False = its first head is not trained: it estimates the categories alone
        config: options of the subclass, written to config.json

    Attributes:
        name: name in the registry
        adv: the last layer, `Linear(E, 3)`: arousal, dominance, valence, no sigmoid
        category: `Linear(E, len(categories))` or None
        dimensions: what it estimates of arousal, dominance and valence: all, or nothing
        config: what `config.json` holds besides the name and the version
        former_options: what options meant before they were in `config.json`
    """

    name: ClassVar[str] = ""
    former_options: ClassVar[dict[str, Any]] = {}

    def __init__(
        self, embedding: int, *, categories: Iterable[str] = (), dimensions: bool = True, **config
    ):
        super().__init__()
        self.config: dict[str, Any] = {**config, "categories": list(categories)}
        self.dimensions = DIMENSIONS if dimensions else ()
        if not dimensions:
            self.config["dimensions"] = False
        self.embedding = embedding
        self.adv = nn.Linear(embedding, 3)
        # Labels are centred on .5: starting there saves the first hundred steps.
        nn.init.constant_(self.adv.bias, 0.5)
        count = len(self.config["categories"])
        self.category = nn.Linear(embedding, count) if count else None

    def _embed(self, signal: Tensor, lengths: Tensor | None) -> Tensor:
        raise NotImplementedError

    def embed(self, signal: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Pooled embedding, (B, T) -> (B, E).

        Args:
            signal: (B, T) float32 at 16 kHz
            lengths: valid samples of each clip (B,); None = all of T

        Example:
            >>> from wav2small.students.registry import create
            >>> create("wav2small2").eval().embed(torch.zeros(2, 16000)).shape
            torch.Size([2, 338])

        Raises:
            Wav2SmallError: a clip shorter than 0.1 s, shapes that do not fit
        """
        if not (torch.jit.is_tracing() or torch.compiler.is_compiling()):
            lengths = _checked(signal, lengths)
        return self._embed(signal, lengths)

    def head(self, embedding: Tensor) -> Tensor:
        """Arousal, dominance, valence of an embedding: (B, E) -> (B, 3)."""
        return self.adv(embedding)

    def forward(
        self, signal: Tensor, lengths: Tensor | None = None, *, categories: bool = False
    ) -> Tensor:
        """Arousal, dominance, valence: (B, T) -> (B, 3), scale 0..1 (not clipped).

        With `categories`, their logits follow: (B, 3 + K).
        """
        if categories:
            return torch.cat(self.forward_categories(signal, lengths), dim=1)
        return self.head(self.embed(signal, lengths))

    def forward_categories(
        self, signal: Tensor, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Both heads in one pass: (B, T) -> (B, 3) and category logits (B, K).

        Raises:
            Wav2SmallError: the student was made without categories
        """
        if self.category is None:
            raise Wav2SmallError(
                f"student {self.name} has no category head; create it with categories=[...]"
            )
        embedding = self.embed(signal, lengths)
        return self.head(embedding), self.category(embedding)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write config.json and model.safetensors, each atomically."""
        folder = Path(folder)
        weights.write(folder / WEIGHTS, self.state_dict())
        version = {"student": self.name, "wav2small_version": wav2small.__version__}
        files.write_json(folder / CONFIG, {**version, **self.config})

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> Student:
        """Load the folder of a student of this class, as `registry.load` loads any.

        `registry.register_student` gives every student this method.

        Raises:
            Wav2SmallError: as `registry.load`, or the folder holds another student
        """
        raise Wav2SmallError(
            f"{cls.__name__} is not registered; load {folder} with students.registry.load"
        )

    def load_weights(self, state: Mapping[str, Tensor], source: str | Path) -> None:
        """Load a state dict strictly.

        Raises:
            Wav2SmallError: missing, unexpected or wrongly shaped tensors, named with `source`
        """
        weights.fill(self, state, source)


def _checked(signal: Tensor, lengths: Tensor | None) -> Tensor | None:
    """Lengths on the signal's device; None when no clip is padded (the fast way)."""
    shape = tuple(signal.shape)
    if len(shape) != 2:
        raise Wav2SmallError(f"a student takes a batch (clips, samples); got shape {shape}")
    clips, shortest = shape
    if lengths is not None:
        lengths = torch.as_tensor(lengths)
        if lengths.shape != (clips,):
            raise Wav2SmallError(
                f"lengths must be one number per clip, ({clips},); got shape {tuple(lengths.shape)}"
            )
        shortest, longest = int(lengths.min()), int(lengths.max())
        if longest > shape[1]:
            raise Wav2SmallError(f"a length of {longest} samples in a batch of {shape[1]} samples")
    if shortest < MIN_SAMPLES:
        raise Wav2SmallError(
            f"a clip of {shortest} samples is too short; students need {MIN_SAMPLES} "
            f"samples ({MIN_DURATION_S} s at {SAMPLING_RATE} Hz)"
        )
    return None if lengths is None or shortest == shape[1] else lengths.to(signal.device)
