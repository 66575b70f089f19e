"""Options of `finetune` and `pretrain`, grouped by what they are about."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from wav2small import provenance
from wav2small.errors import Wav2SmallError
from wav2small.tables import Labels, read_labels
from wav2small.teachers.speech.neural import choose_device, choose_dtype


@dataclass(frozen=True)
class RatingOptions:
    """How a table of ratings is read.

    Attributes:
        root: folder that the files of the table are relative to
        split: only clips whose column `split` has one of these values, such as train
        scale: lowest and highest rating, mapped to 0..1; None = 0 1
        categories: column of the table with a category for each clip: a second head learns it,
            and its probabilities go to the label tables of this teacher
        audio_licence: licence of the table's audio, for the provenance
    """

    root: str | os.PathLike[str] | None = None
    split: str | Sequence[str] | None = None
    scale: tuple[float, float] | None = None
    categories: str | None = None
    audio_licence: str = provenance.UNKNOWN

    def table(self, labels: str | os.PathLike[str] | Labels) -> Labels:
        """The ratings; what is a table already stays as it is."""
        if isinstance(labels, Labels):
            return labels
        return read_labels(labels, root=self.root, scale=self.scale, split=self.split)


@dataclass(frozen=True)
class TrainingOptions:
    """How a teacher is trained; epochs, batch size and rate of Wagner et al. 2022.

    Attributes:
        epochs: passes over the training clips
        batch_size: clips that one CCC is computed over
        learning_rate: learning rate of Adam; in pretraining that of the first epoch
        crop_s: longer training clips are cropped at random to this many seconds
        validation: held-out share, or COLUMN=VALUE,VALUE; by speakers if there is a column
            `speaker`
        seed: seed of everything random

    Raises:
        Wav2SmallError: less than one epoch or two clips

    Example:
        >>> TrainingOptions(epochs=0)
        Traceback (most recent call last):
        wav2small.errors.Wav2SmallError: give at least 1 epoch and batches of 2 clips
    """

    epochs: int = 5
    batch_size: int = 32
    learning_rate: float = 1e-4
    crop_s: float = 8.0
    validation: str = "0.15"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2:
            raise Wav2SmallError("give at least 1 epoch and batches of 2 clips")


@dataclass(frozen=True)
class DeviceOptions:
    """Where and how a teacher is trained; the result is the same but for rounding.

    Attributes:
        device: where to compute: auto, cpu, cuda, cuda:1 ...
        dtype: arithmetic: auto (bfloat16 on a GPU), float32 or bfloat16
        micro_batch: clips in memory at a time; the loss is over the full batch all the same
            (default: 4, on a GPU 16)
        threads: threads that compute on a CPU; 0 = chosen by timing some steps
    """

    device: str = "auto"
    dtype: str = "auto"
    micro_batch: int | None = None
    threads: int = 0

    def resolve(self) -> tuple[torch.device, torch.dtype, int]:
        """Device, precision and clips in memory.

        Raises:
            Wav2SmallError: no such device or precision, or less than one clip

        Example:
            >>> DeviceOptions(device="cpu").resolve()
            (device(type='cpu'), torch.float32, 4)
        """
        if self.micro_batch is not None and self.micro_batch < 1:
            raise Wav2SmallError("give micro-batches of at least 1 clip")
        device = choose_device(self.device)
        size = self.micro_batch or (16 if device.type == "cuda" else 4)
        return device, choose_dtype(self.dtype, device), size
