"""A system that reads, as the labelling run knows it: a teacher that is handed passages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wav2small.errors import Wav2SmallError
from wav2small.teachers.base import entry
from wav2small.teachers.speech import checkpoint
from wav2small.teachers.speech.checkpoint import Checkpoint
from wav2small.teachers.speech.neural import NeuralTeacher

from . import encoders
from .base import FIELDS, ReadingNetwork, lineage, network_class
from .turns import Passage, Turn


class ReadingTeacher(NeuralTeacher):
    """A system that labels; it has a `context`, so the labelling run hands it passages."""

    network: ReadingNetwork

    def __init__(self, network: ReadingNetwork, source: Checkpoint, **options: Any):
        super().__init__(network, source, **options)
        self.context = network.context
        self._lineage = lineage(source).get("teachers", [])

    def too_long(self, texts: Sequence[str]) -> int:
        """How many transcripts are cut."""
        return self.network.tokenizer.too_long(texts)

    def provenance(self) -> list[dict[str, Any]]:
        """The teacher, which read text, then every encoder with its licence."""
        return [{**entry(self), "reads": "text"}, *self._lineage]

    def _forward(
        self, batch: np.ndarray, lengths: np.ndarray, passages: list[Passage] | None
    ) -> tuple[Tensor, Tensor | None]:
        if passages is None:  # whoever calls `predict` gives it nothing to read
            passages = [Passage((Turn(),), 0)] * len(batch)
        heard = [
            passage.with_own(passage.own._replace(signal=signal[:length]))
            for passage, signal, length in zip(passages, batch, lengths, strict=True)
        ]
        prepared = self.network.collate(heard).to(self.device)
        lower = self.dtype != torch.float32
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, dtype=self.dtype, enabled=lower),
        ):
            outputs, logits = self.network(prepared)[:2]
        assert outputs is not None
        return outputs, logits


def load(source: Checkpoint, **options: Any) -> ReadingTeacher:
    """Build the teacher of a checkpoint.

    Raises:
        Wav2SmallError: the checkpoint cannot be used; the line says why
    """
    config, where = source.config, source.folder / checkpoint.CONFIG
    checkpoint.require(config, FIELDS, where)
    if config.get("trained") is False:
        raise Wav2SmallError(
            f"{where}: pretrained, it knows no ratings yet; fine-tune it first: wav2small finetune "
            f"RATINGS --teacher {config['model_type']} --pretrained {source.folder} -o teacher/"
        )
    tokenizer = encoders.load_tokenizer(source.folder, config["text_config"])
    network = network_class(config["model_type"])(config, tokenizer, where)
    checkpoint.load_weights(network, source.folder / checkpoint.WEIGHTS)
    dimensions = checkpoint.dimensions(config, len(config["id2label"]), where)
    assert dimensions is not None
    return ReadingTeacher(
        network,
        source,
        name=config.get("teacher_name") or config["model_type"],
        dimensions=dimensions,
        categories=tuple(config.get("categories") or ()),
        **options,
    )
