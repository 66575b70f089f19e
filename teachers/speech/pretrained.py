"""The start of fine-tuning: a pretrained backbone, cut to its first layers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wav2small.errors import Wav2SmallError
from wav2small.training import weights

from . import backbones, checkpoint, recognisers, wavlm
from .checkpoint import Checkpoint

#: What pretraining, recognition or emotion checkpoints hold besides the backbone.
_HEADS = tuple(
    "quantizer. project_q. project_hid. lm_head. projector. classifier. categories. pool_model. "
    "ser_model. label_embeddings_concat final_proj.".split()
)


@dataclass
class Backbone:
    """A backbone to fine-tune."""

    source: Checkpoint
    config: dict[str, Any]  # of transformers, with the number of layers that are kept
    weights: dict[str, Tensor]  # names of today's torch
    #: Mean and deviation of samples that it was trained with, if it names them.
    scale: tuple[float, float] | None

    def fill(self, model: nn.Module) -> None:
        """Put the weights into a model of `config`."""
        weights.fill(model, self.weights, self.source.folder / checkpoint.WEIGHTS)


def load(spec: str, *, layers: int | None = None, option: str = "--backbone") -> Backbone:
    """Load a backbone.

    Args:
        spec: folder or hub id of WavLM, wav2vec2, HuBERT, Whisper, Moonshine or Qwen2-Audio,
            pretrained or already fine-tuned
        layers: keep the first so many transformer layers; None = all
        option: of the command line that named it, for the remedy

    Raises:
        Wav2SmallError: no such checkpoint, no backbone in it, or fewer layers than asked for
    """
    source = checkpoint.find(spec, option=option)
    where = source.folder / checkpoint.CONFIG
    config, scale = source.config, None
    if config.get("model_type") == wavlm.MODEL_TYPE:
        checkpoint.require(config, ("mean", "std"), where)
        scale = (float(config["mean"]), float(config["std"]))
        config = wavlm.backbone_config(config, where)
    backbones.check_family(config, where)
    is_recogniser = config["model_type"] in recognisers.NAMES
    if is_recogniser:  # its input is full scale
        config, scale = recognisers.with_shared_names(config), (0.0, 1.0)
    checkpoint.require(config, backbones.REQUIRED, where)
    has = config["num_hidden_layers"]
    if layers is not None and not 1 <= layers <= has:
        raise Wav2SmallError(f"--layers {layers}: {spec} has {has}; give 1 to {has}")
    kept = layers or has
    for name in ("id2label", "label2id", "architectures", "auto_map", "categories"):
        config.pop(name, None)
    config |= {"num_hidden_layers": kept}
    if is_recogniser:
        config = recognisers.cut(config, kept)
    number = re.compile(r"(?:encoder|language_model)\.layers\.(\d+)\.")
    state = _weights(source, config["model_type"])
    kept_weights = {
        k: v for k, v in state.items() if not (at := number.match(k)) or int(at[1]) < kept
    }
    with torch.device("meta"):
        model = backbones.build(config, where)
    weights.check(model, kept_weights, source.folder / checkpoint.WEIGHTS)
    return Backbone(source, config, kept_weights, scale)


def _weights(source: Checkpoint, family: str) -> dict[str, Tensor]:
    found = checkpoint.read_weights(source)
    for prefix in ("ssl_model.", f"{family}."):
        own = {key.removeprefix(prefix): v for key, v in found.items() if key.startswith(prefix)}
        if own:
            return own
    if family in recognisers.NAMES:
        return recognisers.encoder_weights(found)
    return {key: value for key, value in found.items() if not key.startswith(_HEADS)}
