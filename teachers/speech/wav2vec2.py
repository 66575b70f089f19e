"""The wav2vec2 teacher of "Dawn of the transformer era" (Wagner et al. 2022, arXiv 2203.07378).

Layout of audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim: a transformers configuration, the
backbone under its own name, mean over valid frames, two dense layers. `finetune --pooling mean`
writes the same layout, with HuBERT and WavLM too. Transformers' own layout,
`...ForSequenceClassification`, differs in its head and may weight the states of all layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from wav2small import audio, files
from wav2small.errors import Wav2SmallError
from wav2small.training.losses import at_least_float32

from . import backbones, checkpoint, recognisers
from .checkpoint import Checkpoint
from .neural import Categorical, NeuralTeacher, valid

HUB_ID = "audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim"
_FIELDS = ("feat_extract_norm", "do_stable_layer_norm", "id2label")
_PUBLISHED = "ForSequenceClassification"  # of transformers: a projection, then the outputs
_LEAST_VARIANCE = 1e-7  # of transformers' feature extractor


class Wav2vec2Regression(nn.Module):
    """Dense layer, tanh, outputs.

    Example:
        >>> Wav2vec2Regression(8, outputs=3, dropout=0.0)(torch.zeros(2, 8)).shape
        torch.Size([2, 3])
    """

    def __init__(self, size: int, outputs: int, dropout: float):
        super().__init__()
        self.dense = nn.Linear(size, size)
        self.dropout = nn.Dropout(dropout)
        self.out_proj = nn.Linear(size, outputs)

    def forward(self, pooled: Tensor) -> Tensor:
        return self.out_proj(self.dropout(torch.tanh(self.dense(self.dropout(pooled)))))


class Wav2vec2Network(nn.Module):
    """Signal to outputs, by the configuration of a checkpoint.

    `normalise`: to zero mean and unit variance per clip.

    Raises:
        Wav2SmallError: a field is missing, or the backbone is not known

    Example:
        >>> config = {"model_type": "hubert", "hidden_size": 8, "num_hidden_layers": 1,
        ...           "num_attention_heads": 2, "intermediate_size": 8, "conv_dim": [8],
        ...           "conv_kernel": [10], "conv_stride": [5], "num_conv_pos_embedding_groups": 2,
        ...           "feat_extract_norm": "group", "do_stable_layer_norm": False,
        ...           "id2label": {"0": "arousal"}}
        >>> Wav2vec2Network(config).eval()(torch.rand(1, 800), torch.tensor([800]))[0].shape
        torch.Size([1, 1])
    """

    def __init__(
        self, config: Mapping[str, Any], where: Any = "config.json", *, normalise: bool = True
    ):
        super().__init__()
        checkpoint.require(config, (*backbones.REQUIRED, *_FIELDS), where)
        self.config = dict(config)
        self.normalise = normalise
        self._prefix = config["model_type"]
        self.add_module(self._prefix, backbones.build(config, where))
        size, outputs = config["hidden_size"], len(config["id2label"])
        self.projector: nn.Module = nn.Identity()
        self.layer_weights: nn.Parameter | None = None
        if any(name.endswith(_PUBLISHED) for name in config.get("architectures") or ()):
            checkpoint.require(config, ("classifier_proj_size",), where)
            self.projector = nn.Linear(size, config["classifier_proj_size"])
            self.classifier: nn.Module = nn.Linear(config["classifier_proj_size"], outputs)
            if config.get("use_weighted_layer_sum"):
                self.layer_weights = nn.Parameter(torch.empty(config["num_hidden_layers"] + 1))
        else:
            self.classifier = Wav2vec2Regression(size, outputs, config.get("final_dropout", 0.1))
        categories = config.get("categories") or ()
        self.categories = nn.Linear(size, len(categories)) if categories else None

    @property
    def backbone(self) -> nn.Module:
        return self.get_submodule(self._prefix)

    def embed(self, signal: Tensor, lengths: Tensor) -> Tensor:
        """(B, T), 16 kHz -> mean hidden state of the valid frames (B, hidden)."""
        if self.normalise:
            signal = normalised(signal, lengths)
        if self.layer_weights is not None:
            shares = self.layer_weights.softmax(dim=0)[:, None, None]
            rows = zip(signal, lengths.tolist(), strict=True)
            return torch.stack([self._mixed(row[:length], shares) for row, length in rows])
        hidden, mask = backbones.hidden_states(self.backbone, signal, lengths)
        weights = mask / mask.sum(dim=1, keepdim=True)
        return (at_least_float32(hidden) * weights[..., None]).sum(dim=1)

    def head(self, pooled: Tensor) -> tuple[Tensor, Tensor | None]:
        """Pooled states -> outputs, logits of the categories."""
        with torch.autocast(pooled.device.type, enabled=False):  # bfloat16 has steps of .004
            pooled = at_least_float32(pooled)
            outputs = self.classifier(self.projector(pooled))
            return outputs, self.categories(pooled) if self.categories else None

    def forward(self, signal: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.head(self.embed(signal, lengths))

    def _mixed(self, signal: Tensor, shares: Tensor) -> Tensor:
        """Mean over time of the weighted states of all layers, of one clip: (hidden,)."""
        states = self.backbone(signal[None], output_hidden_states=True).hidden_states
        return (at_least_float32(torch.cat(states)) * shares).sum(dim=0).mean(dim=0)


def normalised(signal: Tensor, lengths: Tensor) -> Tensor:
    """Zero mean and unit variance over the valid samples of each clip, zeros after them."""
    mask = valid(signal, lengths)
    counts = mask.sum(dim=1, keepdim=True)
    centred = (signal - (signal * mask).sum(dim=1, keepdim=True) / counts) * mask
    variance = (centred**2).sum(dim=1, keepdim=True) / counts
    return centred / torch.sqrt(variance + _LEAST_VARIANCE)


def load(source: Checkpoint, **options: Any) -> NeuralTeacher:
    """Build the teacher of a checkpoint.

    Raises:
        Wav2SmallError: the checkpoint cannot be used; the line gives the reason
    """
    config, where = source.config, source.folder / checkpoint.CONFIG
    if config["model_type"] in recognisers.NAMES and "teacher_name" not in config:
        raise Wav2SmallError(
            f"{where}: a speech recogniser, which rates nothing; make a teacher of it: "
            f"wav2small finetune RATINGS --backbone {source.folder} -o teacher/"
        )
    extractor = source.folder / checkpoint.PREPROCESSOR
    preprocessing = files.read_json(extractor) if extractor.exists() else {}
    if preprocessing.get("sampling_rate", audio.SAMPLING_RATE) != audio.SAMPLING_RATE:
        raise Wav2SmallError(f"{extractor}: sampling_rate is not {audio.SAMPLING_RATE}")
    normalise = bool(preprocessing.get("do_normalize", True))
    with torch.device("meta"):
        network = Wav2vec2Network(config, where, normalise=normalise)
    checkpoint.load_weights(network, source)
    options["name"] = config.get("teacher_name") or "wav2vec2"
    if categories := checkpoint.categories(config):
        options |= {"dimensions": (), "categories": categories}
        return NeuralTeacher(Categorical(network), source, **options)
    options["dimensions"] = checkpoint.dimensions(config, len(config["id2label"]), where)
    options["categories"] = tuple(config.get("categories") or ())
    # Only almost: the normalisation adds 1e-7 to the variance.
    options["invariances"] = frozenset({"gain"} if normalise else ())
    return NeuralTeacher(network, source, **options)


def wav2vec2(
    revision: str | None = None, device: str = "auto", dtype: str = "auto"
) -> NeuralTeacher:
    """The published teacher, from the hub or its local cache; labels are non-commercial."""
    spec = f"{HUB_ID}@{revision}" if revision else HUB_ID
    return load(checkpoint.hub(spec), device=device, dtype=dtype)
