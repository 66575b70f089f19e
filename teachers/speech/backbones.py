"""Backbones: WavLM, wav2vec2 and HuBERT of transformers, built from a configuration alone; and the
encoders of `recognisers`.

A padded batch gives what its clips give one by one: only frames that depend on nothing but the clip
count, attention sees only them, and where the feature extractor normalises over time (the
"group" norm of the base models) it takes one clip at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from wav2small.errors import Wav2SmallError

from . import inference, recognisers
from .checkpoint import require
from .neural import inside

#: The configuration of microsoft/wavlm-large, which the published SER checkpoints name only by
#: this id. Dropouts and masking serve training only and are left at zero.
WAVLM_LARGE = {
    "model_type": "wavlm",
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "conv_dim": [512] * 7,
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "conv_bias": False,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16,
    "num_buckets": 320,
    "max_bucket_distance": 800,
    "layer_norm_eps": 1e-5,
    "hidden_act": "gelu",
}

BUILT_IN = {"microsoft/wavlm-large": WAVLM_LARGE}

FAMILIES = ("wavlm", "wav2vec2", "hubert", *recognisers.NAMES)

#: Fields without which a model would be built that computes something else, in silence.
REQUIRED = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads")


def build(config: Mapping[str, Any], where: Any) -> nn.Module:
    """Build a backbone with random weights.

    Args:
        config: of transformers; `model_type` is one of `FAMILIES`
        where: named in errors

    Raises:
        Wav2SmallError: another model type, a field is missing or makes no sense
    """
    import transformers

    families: dict[str, tuple[Any, Any]] = {
        "wavlm": (transformers.WavLMConfig, transformers.WavLMModel),
        "wav2vec2": (transformers.Wav2Vec2Config, transformers.Wav2Vec2Model),
        "hubert": (transformers.HubertConfig, transformers.HubertModel),
    }
    require(config, REQUIRED, where)
    check_family(config, where)
    if config["model_type"] in recognisers.NAMES:
        return recognisers.build(config, where)
    if config.get("add_adapter"):
        raise Wav2SmallError(f"{where}: add_adapter is set; backbones with adapters are not known")
    config_class, model_class = families[config["model_type"]]
    # `layerdrop` would drop entire layers at random in training, `id2label` is the head's matter.
    fields = {name: value for name, value in config.items() if name not in ("id2label", "label2id")}
    try:
        model = model_class(config_class.from_dict(fields | {"layerdrop": 0.0}))
    except (TypeError, ValueError, IndexError, ZeroDivisionError) as error:
        raise Wav2SmallError(f"{where}: no backbone can be built from it ({error})") from error
    for module in model.modules():
        if hasattr(module, "torch_multi_head_self_attention"):
            module.torch_multi_head_self_attention = _Attention(module)  # type: ignore[assignment]
    return model


def check_family(config: Mapping[str, Any], where: Any) -> None:
    """Reject what is no backbone.

    Raises:
        Wav2SmallError: it names the model type
    """
    require(config, ("model_type",), where)
    if config["model_type"] not in FAMILIES:
        raise Wav2SmallError(
            f"{where}: model_type {config['model_type']!r} is no backbone; known: "
            + ", ".join(FAMILIES)
        )


def frames(model: nn.Module, lengths: Tensor) -> Tensor:
    """Number of frames that depend on the clip alone: (B,) samples -> (B,) frames."""
    config: Any = model.config
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        lengths = (lengths - kernel) // stride + 1
    return lengths


def hidden_states(model: Any, signal: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Run a backbone.

    Args:
        model: of `build`
        signal: (B, T) normalised, zeros after the end of shorter clips
        lengths: (B,) samples, on the CPU

    Returns:
        last hidden state (B, frames, hidden), and the mask of valid frames (B, frames)
    """
    if isinstance(model, (recognisers.RecogniserEncoder, recognisers.SpeechLLM)):
        return model(signal, lengths)
    return encode(model, features(model, signal, lengths), lengths)


def encode(model: Any, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The part of a backbone after its CNN, from features (B, frames, conv_dim); see
    `hidden_states`."""
    mask = inside(frames(model, lengths), features)
    if inference.fits(model):
        return inference.encode(model, features, mask), mask
    return contextualise(model, project(model, features), mask), mask


def freeze_front(model: Any) -> None:
    """Keep the CNN of a backbone as it is, which then costs no gradient."""
    if isinstance(model, (recognisers.RecogniserEncoder, recognisers.SpeechLLM)):
        model.freeze_front()
    else:  # not only `requires_grad_`: it would carry the gradient back to the signal
        model.feature_extractor._freeze_parameters()


def project(model: Any, features: Tensor) -> Tensor:
    """Features of the CNN as the transformer takes them: (B, frames, hidden)."""
    hidden = model.feature_projection(features)
    return hidden[0] if isinstance(hidden, tuple) else hidden


def contextualise(model: Any, hidden: Tensor, mask: Tensor) -> Tensor:
    """The transformer of a backbone: states of `project` (B, frames, hidden) and the mask of valid
    frames (B, frames) -> last hidden state (B, frames, hidden)."""
    needed = None if bool(mask.all()) else mask
    if model.training:
        hidden = model._mask_hidden_states(hidden, attention_mask=needed)
    return model.encoder(hidden, attention_mask=needed).last_hidden_state


def features(model: Any, signal: Tensor, lengths: Tensor) -> Tensor:
    """Features by the CNN of a backbone: (B, frames, conv_dim); arguments as `hidden_states`."""
    counts = frames(model, lengths)
    longest = int(counts.max())
    if model.config.feat_extract_norm != "group":
        if inference.on_gpu(signal) and inference.fits(model):
            return inference.convolve(model, signal)[:, :longest]
        return model.feature_extractor(signal).transpose(1, 2)[:, :longest]
    joined: Tensor | None = None
    for length in lengths.unique().tolist():
        rows = (lengths == length).nonzero()[:, 0].to(signal.device)
        own = model.feature_extractor(signal[rows, :length]).transpose(1, 2)
        if joined is None:
            joined = own.new_zeros(len(signal), longest, own.shape[2])
        joined[rows, : own.shape[1]] = own
    assert joined is not None
    return joined


class _Attention:
    """WavLM's attention through torch's fused kernel.

    transformers asks for the attention weights, which nobody here reads, and so for the slow way.
    """

    def __init__(self, module: Any):
        self.module = module

    def __call__(
        self, hidden: Tensor, mask: Tensor | None, position_bias: Tensor
    ) -> tuple[Tensor, None]:
        own = self.module
        batch, steps, size = hidden.shape
        query, key, value = (
            layer(hidden).view(batch, steps, own.num_heads, -1).transpose(1, 2)
            for layer in (own.q_proj, own.k_proj, own.v_proj)
        )
        bias = position_bias.view(batch, own.num_heads, steps, steps).to(query.dtype)
        if mask is not None:
            bias = bias.masked_fill(~mask.bool()[:, None, None, :], float("-inf"))
        dropout = own.dropout if own.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, bias, dropout_p=dropout)
        return own.out_proj(mixed.transpose(1, 2).reshape(batch, steps, size)), None
