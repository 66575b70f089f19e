"""Speech and text encoders of the multimodal teachers, from `transformers` folders or hub ids.

The speech encoder is any backbone that fine-tuning takes. The text encoder is any language model
of transformers, masked or causal, with a fast tokenizer. Weights are safetensors; no code of a
checkpoint is run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from wav2small.errors import Wav2SmallError
from wav2small.session import first_line
from wav2small.teachers.speech import backbones, checkpoint
from wav2small.teachers.speech.checkpoint import Checkpoint
from wav2small.teachers.speech.neural import valid
from wav2small.training import weights
from wav2small.transcripts import Word

#: Files of a tokenizer, next to those of `checkpoint`.
TOKENIZER_FILES = (
    "tokenizer.json tokenizer_config.json special_tokens_map.json added_tokens.json vocab.json "
    "vocab.txt merges.txt *.model"
).split()
_MOST_TOKENS = 512  # of a sequence where the encoder names no limit, as LLMs' are beyond need


class Speech(nn.Module):
    """A backbone of transformers for samples of a known mean and deviation."""

    def __init__(self, config: Mapping[str, Any], mean: float, std: float, where: Any):
        super().__init__()
        self.model: Any = backbones.build(config, where)
        self.mean, self.std = mean, std
        self.size: int = config["hidden_size"]

    def scaled(self, signal: Tensor, lengths: Tensor) -> Tensor:
        """The input of the backbone for a signal (B, T) of full scale 1."""
        return (signal - self.mean) / (self.std + 1e-6) * valid(signal, lengths)

    def freeze_front(self) -> None:
        """Keep its CNN as it is, which then costs no gradient."""
        backbones.freeze_front(self.model)

    def forward(self, signal: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T), 16 kHz, full scale 1, and (B,) on the CPU -> (B, frames, size), mask."""
        return backbones.hidden_states(self.model, self.scaled(signal, lengths), lengths)


class Text(nn.Module):
    """A language model of transformers without its head.

    Raises:
        Wav2SmallError: no language model, or one that cannot be built
    """

    def __init__(self, config: Mapping[str, Any], where: Any):
        super().__init__()
        import transformers
        from transformers.models.auto import modeling_auto as auto

        checkpoint.require(config, ("model_type",), where)
        known = auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES | auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        if config["model_type"] not in known or config["model_type"] in backbones.FAMILIES:
            raise Wav2SmallError(
                f"{where}: model_type {config['model_type']!r} is no text encoder; give a language "
                "model such as roberta, bert or llama"
            )
        fields = {name: value for name, value in config.items() if name not in _HEAD_FIELDS}
        kind = fields.pop("model_type")
        try:
            built = transformers.AutoConfig.for_model(kind, **fields)
            how = {"trust_remote_code": False, **_without_pooler(kind)}
            self.model: Any = transformers.AutoModel.from_config(built, **how)
        except (TypeError, ValueError, KeyError, ImportError, AttributeError) as error:
            raise Wav2SmallError(f"{where}: no text encoder can be built ({error})") from error
        self.size: int = self.model.config.hidden_size

    def forward(self, tokens: Tensor, mask: Tensor, types: Tensor | None = None) -> Tensor:
        """(B, L) ids and the mask of those that count -> last hidden state (B, L, size).

        Types (B, L, size), if given, are added to the input embeddings.
        """
        given = {"input_ids": tokens}
        if types is not None:
            given = {"inputs_embeds": self.embed(tokens) + types}
        return self.model(**given, attention_mask=mask.long()).last_hidden_state

    def embed(self, tokens: Tensor) -> Tensor:
        """The input embeddings of tokens: (..., size)."""
        return self.model.get_input_embeddings()(tokens)


_HEAD_FIELDS = ("architectures", "auto_map", "id2label", "label2id", "torch_dtype", "dtype")


def _without_pooler(kind: str) -> dict[str, Any]:
    """Nobody reads the pooler, and it would get no gradient."""
    import inspect

    from transformers import MODEL_MAPPING, AutoConfig

    model: Any = MODEL_MAPPING[type(AutoConfig.for_model(kind))]
    pools = "add_pooling_layer" in inspect.signature(model).parameters
    return {"add_pooling_layer": False} if pools else {}


class Tokenizer:
    """Words to ids, one way for every fast tokenizer of transformers."""

    def __init__(self, tokenizer: Any, limit: int):
        self.tokenizer = tokenizer
        self.limit = limit  # most tokens of a sequence that the encoder takes
        #: Id that ends a sequence and separates its parts.
        self.last: int = _either(tokenizer.sep_token_id, tokenizer.eos_token_id)
        self.first: int = _either(tokenizer.cls_token_id, tokenizer.bos_token_id, self.last)
        self.pad: int = _either(tokenizer.pad_token_id, self.last)
        self.mask: int | None = tokenizer.mask_token_id  # hides a token
        self.size = len(tokenizer)  # number of ids

    def ids(self, text: str) -> list[int]:
        """Ids of a text, without those that begin and end a sequence."""
        return self._encode(text)["input_ids"]

    def timed(self, words: Sequence[Word]) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids of some words, and for each word the places of its first and last token.

        A word that the tokenizer leaves no trace of has the places (-1, -1).
        """
        text, begins = "", []
        for word in words:
            begins.append(len(text))
            text += word.word + " "
        found = self._encode(text.rstrip(), return_offsets_mapping=True)
        places = [(-1, -1)] * len(words)
        for place, (begin, end) in enumerate(found["offset_mapping"]):
            # Byte-level tokenizers count the blank before a word to it: visible in its last letter.
            number = sum(start < end for start in begins) - 1
            if text[begin:end].strip():
                first = places[number][0]
                places[number] = (place if first < 0 else first, place)
        return found["input_ids"], places

    def too_long(self, texts: Sequence[str]) -> int:
        """How many texts are longer than the encoder takes."""
        room = self.limit - 2
        # A token stands for at least one byte.
        return sum(len(text.encode()) > room and len(self.ids(text)) > room for text in texts)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write its files."""
        self.tokenizer.save_pretrained(os.fspath(folder))

    def _encode(self, text: str, **options: Any) -> Any:
        return self.tokenizer(text, add_special_tokens=False, verbose=False, **options)


def _either(*ids: Any) -> int:
    for found in ids:
        if isinstance(found, int):
            return found
    raise Wav2SmallError(
        "the tokenizer has neither a separator nor an end of sequence; bring the "
        "tokenizer_config.json it was published with"
    )


@dataclass
class TextStart:
    """A text encoder to begin with."""

    source: Checkpoint
    config: dict[str, Any]  # of transformers
    model: Text  # with its weights
    tokenizer: Tokenizer


def load_text(spec: str) -> TextStart:
    """Load a text encoder with its tokenizer from a folder, or `owner/name[@revision]` of the hub.

    Raises:
        Wav2SmallError: no such checkpoint, another model type, pickled weights, keys that are
            missing, a tokenizer that does not match
    """
    source = checkpoint.find(spec, extra=TOKENIZER_FILES, option="--text")
    config = source.config
    model = Text(config, source.folder / checkpoint.CONFIG)
    _fill(model, source)
    tokenizer = load_tokenizer(source.folder, config)
    return TextStart(source, _plain(model.model.config), model, tokenizer)


def load_tokenizer(folder: Path, config: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a folder, checked against the configuration of its encoder.

    Raises:
        Wav2SmallError: none there, a slow one, or another encoder's
    """
    import transformers

    try:
        if (folder / "tokenizer.json").exists():
            found: Any = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
        else:
            found = transformers.AutoTokenizer.from_pretrained(
                folder, use_fast=True, trust_remote_code=False
            )
    except Exception as error:  # its parsers raise whatever their languages have
        raise Wav2SmallError(
            f"{folder}: no tokenizer can be read ({first_line(error)}); bring tokenizer.json and "
            "tokenizer_config.json"
        ) from error
    if not getattr(found, "is_fast", False):
        raise Wav2SmallError(f"{folder}: the tokenizer is no fast one; bring its tokenizer.json")
    tokenizer = Tokenizer(found, _limit(config))
    highest = max(found.get_vocab().values(), default=-1)
    if highest >= config["vocab_size"]:
        raise Wav2SmallError(
            f"{folder}: the tokenizer has an id {highest}, the encoder embeds "
            f"{config['vocab_size']}; the two do not belong together"
        )
    for name in ("pad_token_id", "bos_token_id", "eos_token_id", "mask_token_id"):
        theirs, ours = config.get(name), getattr(found, name)
        if isinstance(theirs, int) and ours is not None and theirs != ours:
            raise Wav2SmallError(
                f"{folder}: {name} is {ours} for the tokenizer and {theirs} for the encoder; the "
                "two do not belong together"
            )
    return tokenizer


def _limit(config: Mapping[str, Any]) -> int:
    """Most tokens that an encoder takes; RoBERTa's positions begin after its padding id."""
    most = config.get("max_position_embeddings") or config.get("n_positions") or _MOST_TOKENS
    if config["model_type"] in _OFFSET_POSITIONS:
        most -= (config.get("pad_token_id") or 0) + 1
    return min(most, _MOST_TOKENS)


_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer")


def _fill(model: Text, source: Checkpoint) -> None:
    """Put the weights of a published file into a text encoder, whatever head they came with."""
    loaded = {_modern(key): value for key, value in checkpoint.read_weights(source).items()}
    wanted = model.model.state_dict()
    prefixes = ("", model.model.base_model_prefix + ".", "model.", "transformer.")
    prefix = next((p for p in prefixes if any(p + key in loaded for key in wanted)), "")
    fits = {key: loaded[prefix + key] for key in wanted if prefix + key in loaded}
    weights.fill(model.model, fits, source.folder / checkpoint.WEIGHTS)


def _modern(key: str) -> str:
    """Checkpoints of BERT's time have the older names of a LayerNorm."""
    key = key.replace("LayerNorm.gamma", "LayerNorm.weight")
    return key.replace("LayerNorm.beta", "LayerNorm.bias")


def _plain(config: Any) -> dict[str, Any]:
    """A configuration of transformers as JSON, without what only its own loader reads."""
    fields = config.to_dict()
    dropped = (*_HEAD_FIELDS, "_name_or_path", "transformers_version")
    return {name: value for name, value in fields.items() if name not in dropped}


def pre_norm(size: int, heads: int, dropout: float) -> nn.TransformerEncoderLayer:
    """A transformer layer with its norms first, and a feed-forward layer four times as wide."""
    return nn.TransformerEncoderLayer(
        size, heads, 4 * size, dropout, "gelu", batch_first=True, norm_first=True
    )


def pad(rows: Sequence[Sequence[int]], value: int) -> tuple[Tensor, Tensor]:
    """Sequences of ids -> (B, L) filled up with `value`, and the mask of what counts.

    Example:
        >>> tokens, mask = pad([[5, 6], [7]], 1)
        >>> tokens.tolist(), mask.tolist()
        ([[5, 6], [7, 1]], [[True, True], [True, False]])
    """
    ids = [torch.tensor(row, dtype=torch.long) for row in rows]
    counted = [torch.ones_like(row, dtype=torch.bool) for row in ids]
    tokens = pad_sequence(ids, batch_first=True, padding_value=value)
    return tokens, pad_sequence(counted, batch_first=True)
