"""Wav2Small 2.0, 16K parameters: the body of the 72K model, pooled with 1x1 convolutions.

10,806 trainable parameters, 15,888 with DFT and mel. The layout is the one of the published
checkpoint (hub id audeering/wav2small, CC-BY-NC-SA-4.0), whose folder loads as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wav2small.errors import Wav2SmallError

from . import registry
from .base import Student
from .frontend import FLOOR
from .masking import normalise
from .wav2small import Vgg7

#: Lineage of a folder in the published layout; the checkpoint forbids commercial use.
PUBLISHED_PROVENANCE: dict[str, Any] = {
    "teachers": [{"name": "wav2small2", "id": "audeering/wav2small", "revision": "",
                  "licence": "CC-BY-NC-SA-4.0"}],
    "audio": [{"source": "MSP-Podcast and others, see arXiv 2408.13920", "licence": "unknown"}],
}  # fmt: skip


def published_config(config: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    """Translate the published config.json to `student` and the options of this student.

    Args:
        config: with half_mel, n_fft, n_time, hidden, hop
        path: named in errors

    Raises:
        Wav2SmallError: numbers that contradict each other
    """
    options = {key: config[key] for key in ("half_mel", "n_fft", "hop")}
    n_time, hidden, size = config["n_time"], config["hidden"], 2 * options["half_mel"] ** 2
    if n_time != options["n_fft"]:
        raise Wav2SmallError(f"{path}: n_time {n_time} must equal n_fft {options['n_fft']}")
    if hidden != size:
        raise Wav2SmallError(f"{path}: hidden {hidden} must be 2 x half_mel^2 = {size}")
    return {"student": "wav2small2", **options}


class Gram(nn.Module):
    """Pooled map and the products of its channels: (B, C, F) -> (B, C, F + C).

    Example:
        >>> Gram()(torch.ones(1, 13, 13)).shape
        torch.Size([1, 13, 26])
    """

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, x @ x.transpose(1, 2)), dim=2)


@registry.register_student(
    "wav2small2", description="the paper's successor: a sixth of the parameters, same cost"
)
class Wav2Small2(Student):
    """See the module. Embedding: 338 numbers (13 channels x (13 mel pairs + 13 products)).

    Its arguments are those of `Wav2Small`.

    Example:
        >>> Wav2Small2().embed(torch.zeros(2, 16000)).shape
        torch.Size([2, 338])
    """

    def __init__(self, *, half_mel: int = 13, n_fft: int = 64, hop: int = 32, **options: Any):
        super().__init__(2 * half_mel**2, half_mel=half_mel, n_fft=n_fft, hop=hop, **options)
        lin, sof = (nn.Conv2d(half_mel, half_mel, 1) for _ in range(2))
        self.vgg7 = Vgg7(lin, sof, n_fft=n_fft, hop=hop, half_mel=half_mel)
        self.gram = Gram()

    def _embed(self, signal: Tensor, lengths: Tensor | None) -> Tensor:
        x, mask = self.vgg7(normalise(signal, lengths), lengths)
        logits = self.vgg7.sof(x)
        if mask is not None:
            logits = logits.masked_fill(~mask[:, None, :, None], float("-inf"))
        pooled = (self.vgg7.lin(x) * logits.softmax(dim=2)).sum(dim=2)  # (B, C, F)
        return self.gram(pooled).flatten(1)

    def load_weights(self, state: Mapping[str, Tensor], source: str | Path) -> None:
        """As the base; constants stored transposed or without their middle axis are accepted.

        Public copies of the class also store the floor of the logarithm, `amin`, which is a
        constant here.

        Raises:
            Wav2SmallError: as the base, or another floor than ours
        """
        own, state = self.state_dict(), dict(state)
        floor = state.pop("vgg7.logmel_extractor.amin", torch.tensor(FLOOR))
        if not ((floor / FLOOR - 1).abs() <= 1e-3).all():
            raise Wav2SmallError(
                f"{source}: vgg7.logmel_extractor.amin is {floor.flatten().tolist()}, the floor of "
                f"the logarithm must be {FLOOR:g}; take the published file"
            )
        for key in own.keys() & state.keys():
            shape, tensor = own[key].shape, state[key]
            if tensor.shape == shape:
                continue
            if key.endswith("melW") and tensor.shape == shape[::-1]:
                state[key] = tensor.T.contiguous()
            elif ".conv_" in key and tensor.numel() == shape.numel() and len(tensor) == shape[0]:
                state[key] = tensor.reshape(shape)
        super().load_weights(state, source)
