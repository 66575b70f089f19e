"""SPECTRA as its authors published it (`publicstaticvo/SPECTRA-base`) as a start for fine-tuning.

Their folder holds `audio_config.json`, `text_config.json`, and a pickle, which `wav2small convert`
makes safetensors of; the tokenizer is RoBERTa's. The keys are those of their code's state dict:
`audio_encoder`, `text_encoder`, `token_type_embeddings` (of the modalities), `fused_encoder.0`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wav2small import files
from wav2small.dimensions import DIMENSIONS
from wav2small.errors import Wav2SmallError
from wav2small.teachers.speech import checkpoint
from wav2small.teachers.speech.checkpoint import Checkpoint
from wav2small.training import weights

from . import encoders
from .encoders import Tokenizer
from .spectra import Network

AUDIO, TEXT = "audio_config.json", "text_config.json"
#: What no fine-tuning needs: heads of pretraining and tasks, a pooler that nothing reads, a buffer.
_LEFT_OUT = re.compile(
    r"(mlm_head|mam_head|selection_head|start_prediction_head|end_prediction_head|head)\."
    r"|text_encoder\.(pooler\.|embeddings\.position_ids$)"
)
#: What fine-tuning makes anew.
_NEW = ("outputs.", "categories.", "dense.", "no_speech", "no_text")
_TYPES = "text_encoder.embeddings.token_type_embeddings.weight"
#: Parts of keys, theirs -> ours; the first that begins a key is replaced.
KEYS = {
    "audio_encoder.audio_cls": "audio_cls",
    "audio_encoder.audio_sep": "audio_sep",
    "audio_encoder.": "speech.model.",
    "text_encoder.": "text.model.",
    "token_type_embeddings.": "modality.",
    "fused_encoder.0.attention.output.dense.": "fusion.self_attn.out_proj.",
    "fused_encoder.0.attention.output.LayerNorm.": "fusion.norm1.",
    "fused_encoder.0.intermediate.dense.": "fusion.linear1.",
    "fused_encoder.0.output.dense.": "fusion.linear2.",
    "fused_encoder.0.output.LayerNorm.": "fusion.norm2.",
}
_ATTENTION = "fused_encoder.0.attention.self."


def published(folder: Path) -> bool:
    """Whether a folder has the layout of the authors."""
    return (folder / AUDIO).is_file() and (folder / TEXT).is_file()


def load(folder: Path) -> tuple[Checkpoint, dict[str, Any], Tokenizer, dict[str, Tensor]]:
    """Their checkpoint as configuration, tokenizer and weights of `spectra.Network`, from a folder
    with both configurations, `model.safetensors` and RoBERTa's tokenizer.

    Raises:
        Wav2SmallError: a file or a key is missing, a key is unknown, a shape differs
    """
    source = checkpoint.local(folder, option="--pretrained", config=AUDIO)
    text = {"model_type": "roberta", **files.read_json(folder / TEXT)}
    fused = text.pop("num_fused_layers", 1)
    types = text.get("type_vocab_size")
    if (fused, types) != (1, 2):
        raise Wav2SmallError(
            f"{folder / TEXT}: {fused} fusion layers and {types} token types; SPECTRA-base has 1 "
            "and 2"
        )
    config = {
        "speech_config": {"model_type": "wavlm", **files.read_json(folder / AUDIO)},
        "text_config": text,
    }
    tokenizer = encoders.load_tokenizer(folder, text)
    state = renamed(checkpoint.read_weights(source))
    heads = {"mean": 0.0, "std": 1.0, "id2label": dict(enumerate(DIMENSIONS))}
    with torch.device("meta"):
        network = Network({**config, **heads}, tokenizer, folder)
    own = network.state_dict()
    anew = {key: value for key, value in own.items() if key.startswith(_NEW)}
    weights.check(network, {**anew, **state}, folder / checkpoint.WEIGHTS)
    return source, config, tokenizer, state


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights under our keys; keys of neither stay as they are.

    Their types of tokens are rows of RoBERTa's embedding, also added to the audio: ours are an
    embedding of both, so RoBERTa's becomes zero.

    Example:
        >>> import torch
        >>> list(renamed({"model.token_type_embeddings.weight": torch.zeros(2, 4)}))
        ['modality.weight']
    """
    theirs = {key.removeprefix("model."): value for key, value in state.items()}
    theirs = {key: value for key, value in theirs.items() if not _LEFT_OUT.match(key)}
    ours: dict[str, Tensor] = {}
    for end in ("weight", "bias"):
        parts = [f"{_ATTENTION}{name}.{end}" for name in ("query", "key", "value")]
        if all(part in theirs for part in parts):
            ours[f"fusion.self_attn.in_proj_{end}"] = torch.cat([theirs.pop(p) for p in parts])
    if _TYPES in theirs:
        ours["types.weight"] = theirs[_TYPES]
        theirs[_TYPES] = torch.zeros_like(theirs[_TYPES])
    for key, value in theirs.items():
        prefix = next((prefix for prefix in KEYS if key.startswith(prefix)), "")
        ours[KEYS.get(prefix, "") + key.removeprefix(prefix)] = value
    return ours
