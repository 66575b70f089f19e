"""The start of fine-tuning: a pretrained backbone, cut to its first layers."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wav2small.errors import Wav2SmallError

from . import backbones, checkpoint, wavlm
from .checkpoint import Checkpoint

FAMILIES = ("wavlm", "wav2vec2", "hubert")
#: What pretraining, recognition or emotion checkpoints hold beside the backbone.
_HEADS = (
    "quantizer.",
    "project_q.",
    "project_hid.",
    "lm_head.",
    "projector.",
    "classifier.",
    "categories.",
    "pool_model.",
    "ser_model.",
    "label_embeddings_concat",
    "final_proj.",
)


@dataclass
class Backbone:
    """A backbone to fine-tune.

    Attributes:
        source: where it comes from
        config: of transformers, with the number of layers that are kept
        weights: state dict, names of today's torch
        scale: mean and deviation of samples that it was trained with, if it says so
    """

    source: Checkpoint
    config: dict[str, Any]
    weights: dict[str, Tensor]
    scale: tuple[float, float] | None

    def fill(self, model: nn.Module) -> None:
        """Put the weights into a model of `config`."""
        wanted = model.state_dict()
        optional = {key for key in wanted if key.endswith("masked_spec_embed")}
        model.load_state_dict({**{key: wanted[key] for key in optional}, **self.weights})


def load(spec: str, *, layers: int | None = None) -> Backbone:
    """Load a backbone.

    Args:
        spec: folder or hub id of WavLM, wav2vec2 or HuBERT, pretrained or already fine-tuned
        layers: keep the first so many transformer layers; None = all

    Raises:
        Wav2SmallError: no such checkpoint, no backbone in it, or fewer layers than asked for
    """
    source = checkpoint.local(spec) if os.path.isdir(spec) else checkpoint.hub(spec)
    where = source.folder / checkpoint.CONFIG
    config, scale = source.config, None
    if config.get("model_type") == wavlm.MODEL_TYPE:
        checkpoint.require(config, ("mean", "std"), where)
        scale = (float(config["mean"]), float(config["std"]))
        config = wavlm.backbone_config(config, where)
    checkpoint.require(config, backbones.REQUIRED, where)
    if config["model_type"] not in FAMILIES:
        raise Wav2SmallError(
            f"{where}: model_type {config['model_type']!r} is no backbone; known: "
            + ", ".join(FAMILIES)
        )
    has = config["num_hidden_layers"]
    if layers is not None and not 1 <= layers <= has:
        raise Wav2SmallError(f"--layers {layers}: {spec} has {has}; give 1 to {has}")
    kept = layers or has
    for name in ("id2label", "label2id", "architectures", "auto_map", "categories"):
        config.pop(name, None)
    config |= {"num_hidden_layers": kept}
    weights = {
        key: value
        for key, value in _weights(source, config["model_type"]).items()
        if not (found := re.match(r"encoder\.layers\.(\d+)\.", key)) or int(found[1]) < kept
    }
    with torch.device("meta"):
        model = backbones.build(config, where)
    _check(model, weights, source)
    return Backbone(source, config, weights, scale)


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        Wav2SmallError: truncated, or none
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise Wav2SmallError(
            f"{file}: truncated or no safetensors ({error}); copy it again"
        ) from error


def _weights(source: Checkpoint, family: str) -> dict[str, Tensor]:
    found = read_weights(source.folder / checkpoint.WEIGHTS)
    found = {checkpoint.modern(key): value for key, value in found.items()}
    for prefix in ("ssl_model.", f"{family}."):
        own = {key.removeprefix(prefix): v for key, v in found.items() if key.startswith(prefix)}
        if own:
            return {key: value.float() for key, value in own.items()}
    return {key: value.float() for key, value in found.items() if not key.startswith(_HEADS)}


def _check(model: nn.Module, weights: dict[str, Tensor], source: Checkpoint) -> None:
    wanted = model.state_dict()
    if "masked_spec_embed" not in wanted:
        weights.pop("masked_spec_embed", None)
    missing = [key for key in wanted if key not in weights and key != "masked_spec_embed"]
    unexpected = [key for key in weights if key not in wanted]
    shapes = [key for key in wanted if key in weights and wanted[key].shape != weights[key].shape]
    for keys, what in (
        (missing, "lacks key"),
        (unexpected, "has an unexpected key"),
        (shapes, "has another shape than the configuration asks for in"),
    ):
        if keys:
            raise Wav2SmallError(f"{source.folder / checkpoint.WEIGHTS}: {what} {keys[0]}")
