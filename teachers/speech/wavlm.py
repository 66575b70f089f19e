"""The WavLM teacher: the baseline of the Odyssey 2024 emotion recognition challenge.

Layout of 3loi/SER-Odyssey-Baseline-WavLM-Multi-Attributes, built here because its own code does
not run under transformers 5 and no code of a checkpoint is run: a backbone, attentive statistics
pooling, a regression. Its siblings have one output each. `finetune --pooling attentive` writes
the same layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wav2small import audio
from wav2small.dimensions import DIMENSIONS
from wav2small.errors import Wav2SmallError
from wav2small.training.losses import at_least_float32

from . import backbones, checkpoint
from .checkpoint import Checkpoint
from .neural import Categorical, NeuralTeacher, valid

HUB_ID = "3loi/SER-Odyssey-Baseline-WavLM-Multi-Attributes"
MODEL_TYPE = "ser"
_FIELDS = ("mean", "std", "hidden_size", "num_classes", "classifier_hidden_layers")
#: Outputs of 3loi/SER-Odyssey-Baseline-WavLM-Categorical, whose configuration names none.
PUBLISHED_CATEGORIES = tuple(
    "anger sadness happiness surprise fear disgust contempt neutral".split()
)
_LEAST_VARIANCE = 1e-5  # of the statistics pooling, as published


class AttentivePooling(nn.Module):
    """Mean and standard deviation over time, weighted by attention (Okabe et al. 2018).

    Example:
        >>> mask = torch.ones(2, 9, dtype=torch.bool)
        >>> AttentivePooling(4)(torch.rand(2, 9, 4), mask).shape
        torch.Size([2, 8])
    """

    def __init__(self, size: int):
        super().__init__()
        self.sap_linear = nn.Linear(size, size)
        self.attention = nn.Parameter(torch.empty(size, 1).normal_())

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """(B, frames, size) and the mask of valid frames -> (B, 2 size)."""
        scores = torch.tanh(self.sap_linear(hidden)) @ self.attention.to(hidden.dtype)
        scores = at_least_float32(scores)[..., 0].masked_fill(~mask, float("-inf"))
        weights = scores.softmax(dim=1)[..., None]
        states = at_least_float32(hidden)
        mean = (weights * states).sum(dim=1)
        variance = (weights * states**2).sum(dim=1) - mean**2
        return torch.cat([mean, variance.clamp(min=_LEAST_VARIANCE).sqrt()], dim=1)


class WavlmRegression(nn.Module):
    """`layers` hidden layers with LayerNorm and ReLU, then the outputs.

    Example:
        >>> WavlmRegression(8, 4, layers=1, outputs=3, dropout=0.0)(torch.zeros(2, 8)).shape
        torch.Size([2, 3])
    """

    def __init__(self, inputs: int, size: int, layers: int, outputs: int, dropout: float):
        super().__init__()
        widths = [inputs] + [size] * layers
        self.fc = nn.ModuleList(
            nn.Sequential(
                nn.Linear(before, after), nn.LayerNorm(after), nn.ReLU(), nn.Dropout(dropout)
            )
            for before, after in zip(widths, widths[1:], strict=False)
        )
        self.out = nn.Sequential(nn.Linear(widths[-1], outputs))

    def forward(self, pooled: Tensor) -> Tensor:
        for layer in self.fc:
            pooled = layer(pooled)
        return self.out(pooled)


class WavlmNetwork(nn.Module):
    """Signal to outputs, by the configuration of a checkpoint.

    Raises:
        Wav2SmallError: a field is missing, or the backbone is not known

    Example:
        >>> backbone = {"model_type": "wavlm", "hidden_size": 8, "num_hidden_layers": 1,
        ...             "num_attention_heads": 2, "intermediate_size": 8, "conv_dim": [8],
        ...             "conv_kernel": [10], "conv_stride": [5], "num_conv_pos_embedding_groups": 2}
        >>> config = {"mean": 0.0, "std": 0.1, "hidden_size": 8, "num_classes": 3,
        ...           "classifier_hidden_layers": 1, "ssl_config": backbone}
        >>> outputs, logits = WavlmNetwork(config).eval()(torch.zeros(1, 800), torch.tensor([800]))
        >>> outputs.shape, logits
        (torch.Size([1, 3]), None)
    """

    def __init__(self, config: Mapping[str, Any], where: Any = "config.json"):
        super().__init__()
        checkpoint.require(config, _FIELDS, where)
        self.config = dict(config)
        size, outputs = config["hidden_size"], config["num_classes"]
        self.ssl_model = backbones.build(backbone_config(config, where), where)
        if self.ssl_model.config.hidden_size != size:  # type: ignore[union-attr]
            raise Wav2SmallError(f"{where}: hidden_size is not the one of ssl_config")
        self.pool_model = AttentivePooling(size)
        dropout = config.get("classifier_dropout_prob", 0.5)
        layers = config["classifier_hidden_layers"]
        self.ser_model = WavlmRegression(2 * size, size, layers, outputs, dropout)
        categories = config.get("categories") or ()
        self.categories = nn.Linear(2 * size, len(categories)) if categories else None

    @property
    def backbone(self) -> nn.Module:
        return self.ssl_model

    def embed(self, signal: Tensor, lengths: Tensor) -> Tensor:
        """(B, T), 16 kHz, full scale 1 -> pooled statistics (B, 2 hidden)."""
        scaled = (signal - self.config["mean"]) / (self.config["std"] + 1e-6)
        scaled = scaled * valid(signal, lengths)
        hidden, mask = backbones.hidden_states(self.ssl_model, scaled, lengths)
        return self.pool_model(hidden, mask)

    def head(self, pooled: Tensor) -> tuple[Tensor, Tensor | None]:
        """Pooled statistics -> outputs, logits of the categories."""
        with torch.autocast(pooled.device.type, enabled=False):  # bfloat16 has steps of .004
            pooled = at_least_float32(pooled)
            return self.ser_model(pooled), self.categories(pooled) if self.categories else None

    def forward(self, signal: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.head(self.embed(signal, lengths))


def backbone_config(config: Mapping[str, Any], where: Any) -> dict[str, Any]:
    """The configuration of the backbone: `ssl_config`, else the built-in one `ssl_type` names.

    Raises:
        Wav2SmallError: neither is there, or the name is not known
    """
    if config.get("ssl_config"):
        return {"model_type": "wavlm", **config["ssl_config"]}
    checkpoint.require(config, ("ssl_type",), where)
    if config["ssl_type"] not in backbones.BUILT_IN:
        raise Wav2SmallError(
            f"{where}: ssl_type {config['ssl_type']!r} is not built in; add an object "
            "`ssl_config`, the configuration of that backbone"
        )
    return dict(backbones.BUILT_IN[config["ssl_type"]])


def load(source: Checkpoint, **options: Any) -> NeuralTeacher:
    """Build the teacher of a checkpoint.

    Raises:
        Wav2SmallError: the checkpoint cannot be used; the line gives the reason
    """
    config, where = source.config, source.folder / checkpoint.CONFIG
    if config.get("sampling_rate", audio.SAMPLING_RATE) != audio.SAMPLING_RATE:
        raise Wav2SmallError(f"{where}: sampling_rate is not {audio.SAMPLING_RATE}")
    with torch.device("meta"):
        network = WavlmNetwork(config, where)
    checkpoint.load_weights(network, source)
    options["name"] = config.get("teacher_name") or "wavlm"
    outputs = config["num_classes"]
    categories = checkpoint.categories(config)
    if not config.get("id2label") and outputs == len(PUBLISHED_CATEGORIES):
        categories = PUBLISHED_CATEGORIES
    if categories:
        if len({*categories}) != outputs:
            raise Wav2SmallError(
                f"{where}: id2label names {', '.join(categories)}, the model has {outputs} "
                "outputs; each once"
            )
        options |= {"dimensions": (), "categories": categories}
        return NeuralTeacher(Categorical(network), source, **options)
    dimensions = checkpoint.dimensions(config, outputs, where)
    options["dimensions"] = dimensions or _dimensions(config, source, where)
    options["categories"] = tuple(config.get("categories") or ())
    return NeuralTeacher(network, source, **options)


def _dimensions(config: Mapping[str, Any], source: Checkpoint, where: Path) -> tuple[str, ...]:
    """The published configurations name no outputs: all three, or the one their id ends with."""
    if config["num_classes"] == len(DIMENSIONS):
        return DIMENSIONS
    ending = source.id.rstrip("/").rpartition("-")[2].lower()
    if config["num_classes"] == 1 and ending in DIMENSIONS:
        return (ending,)
    raise Wav2SmallError(
        f"{where}: nothing names its {config['num_classes']} output(s); add "
        '"id2label": {"0": "arousal"} or the like'
    )


def wavlm(revision: str | None = None, device: str = "auto", dtype: str = "auto") -> NeuralTeacher:
    """The published multi-attribute teacher, from the hub or its local cache."""
    spec = f"{HUB_ID}@{revision}" if revision else HUB_ID
    return load(checkpoint.hub(spec), device=device, dtype=dtype)
