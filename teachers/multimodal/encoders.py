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

from wav2small.errors import Wav2SmallError
from wav2small.teachers.speech import backbones, checkpoint
from wav2small.teachers.speech.checkpoint import Checkpoint
from wav2small.training import weights
from wav2small.transcripts import Word

#: Files of a tokenizer, next to those of `checkpoint`.
TOKENIZER_FILES = (
    "tokenizer.json tokenizer_config.json special_tokens_map.json added_tokens.json vocab.json "
    "vocab.txt merges.txt *.model"
).split()
_MOST_TOKENS = 512  # of a sequence where the encoder names no limit, as LLMs' are beyond need


class Speech(nn.Module):
    """A backbone for samples of a known mean and deviation.

    Args:
        config: of transformers
        mean: of the samples it was trained with
        std: of the same
        where: named in errors
    """

    def __init__(self, config: Mapping[str, Any], mean: float, std: float, where: Any):
        super().__init__()
        self.model: Any = backbones.build(config, where)
        self.mean, self.std = mean, std
        self.size: int = config["hidden_size"]

    def scaled(self, signal: Tensor, lengths: Tensor) -> Tensor:
        """The input of the backbone for a signal (B, T) of full scale 1."""
        from wav2small.teachers.speech.neural import valid

        return (signal - self.mean) / (self.std + 1e-6) * valid(signal, lengths)

    def freeze_front(self) -> None:
        """Keep its CNN as it is, which then costs no gradient."""
        backbones.freeze_front(self.model)

    def forward(self, signal: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T), 16 kHz, full scale 1, and (B,) on the CPU -> (B, frames, size), mask."""
        return backbones.hidden_states(self.model, self.scaled(signal, lengths), lengths)


class Text(nn.Module):
    """A language model without its head.

    Args:
        config: of transformers
        where: named in errors

    Raises:
        Wav2SmallError: no language model, or one that cannot be built
    """

    def __init__(self, config: Mapping[str, Any], where: Any):
        super().__init__()
        import transformers

        check_type(config, where)
        fields = {name: value for name, value in config.items() if name not in _HEAD_FIELDS}
        kind = fields.pop("model_type")
        try:
            built = transformers.AutoConfig.for_model(kind, **fields)
            self.model: Any = transformers.AutoModel.from_config(
                built, trust_remote_code=False, **_without_pooler(kind)
            )
        except (TypeError, ValueError, KeyError, ImportError, AttributeError) as error:
            raise Wav2SmallError(f"{where}: no text encoder can be built ({error})") from error
        self.size: int = self.model.config.hidden_size

    def forward(self, tokens: Tensor, mask: Tensor, types: Tensor | None = None) -> Tensor:
        """(B, L) ids and the mask of those that count -> last hidden state (B, L, size).

        Types (B, L, size), if given, are added to the input embeddings.
        """
        given = (
            {"input_ids": tokens}
            if types is None
            else {"inputs_embeds": self.embed(tokens) + types}
        )
        return self.model(**given, attention_mask=mask.long()).last_hidden_state

    def embed(self, tokens: Tensor) -> Tensor:
        """The input embeddings of tokens: (..., size)."""
        return self.model.get_input_embeddings()(tokens)


_HEAD_FIELDS = ("architectures", "auto_map", "id2label", "label2id", "torch_dtype", "dtype")


def check_type(config: Mapping[str, Any], where: Any) -> None:
    """Reject what is no language model.

    Raises:
        Wav2SmallError: it names the model type
    """
    from transformers.models.auto import modeling_auto as auto

    checkpoint.require(config, ("model_type",), where)
    known = {**auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES, **auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES}
    if config["model_type"] not in known or config["model_type"] in backbones.FAMILIES:
        raise Wav2SmallError(
            f"{where}: model_type {config['model_type']!r} is no text encoder; give a language "
            "model such as roberta, bert or llama"
        )


def _without_pooler(kind: str) -> dict[str, Any]:
    """Nobody reads the pooler, and it would get no gradient."""
    import inspect

    from transformers import MODEL_MAPPING, AutoConfig

    model: Any = MODEL_MAPPING[type(AutoConfig.for_model(kind))]
    pools = "add_pooling_layer" in inspect.signature(model).parameters
    return {"add_pooling_layer": False} if pools else {}


class Tokenizer:
    """Words to ids, one way for every tokenizer.

    Args:
        tokenizer: a fast one of transformers
        limit: most tokens of a sequence that the encoder takes

    Attributes:
        first: id that begins a sequence
        last: id that ends one and separates its parts
        pad: id that fills
        mask: id that hides a token, or None
        size: number of ids
    """

    def __init__(self, tokenizer: Any, limit: int):
        self.tokenizer = tokenizer
        self.limit = limit
        self.last: int = _either(tokenizer.sep_token_id, tokenizer.eos_token_id, tokenizer)
        self.first: int = _either(tokenizer.cls_token_id, tokenizer.bos_token_id, self.last)
        self.pad: int = _either(tokenizer.pad_token_id, self.last)
        self.mask: int | None = tokenizer.mask_token_id
        self.size = len(tokenizer)

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
    """A text encoder to begin with.

    Attributes:
        source: where it comes from
        config: of transformers
        model: with its weights
        tokenizer: its own
    """

    source: Checkpoint
    config: dict[str, Any]
    model: Text
    tokenizer: Tokenizer


def load_text(spec: str) -> TextStart:
    """Load a text encoder with its tokenizer.

    Args:
        spec: folder or hub id, optionally `owner/name@revision`

    Raises:
        Wav2SmallError: no such checkpoint, another model type, pickled weights, keys that are
            missing, a tokenizer that does not match
    """
    source = _source(spec)
    where = source.folder / checkpoint.CONFIG
    config = source.config
    check_type(config, where)
    model = Text(config, where)
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
        reason = str(error).partition("\n")[0]
        raise Wav2SmallError(
            f"{folder}: no tokenizer can be read ({reason}); bring tokenizer.json and "
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


def _source(spec: str) -> Checkpoint:
    if os.path.isdir(spec):
        return checkpoint.local(spec, option="--text")
    return checkpoint.hub(spec, extra=TOKENIZER_FILES, option="--text")


def _fill(model: Text, source: Checkpoint) -> None:
    """Put the weights of a published file into a text encoder, whatever head they came with."""
    loaded = {_modern(key): value for key, value in checkpoint.read_weights(source).items()}
    wanted = model.model.state_dict()
    prefixes = ("", model.model.base_model_prefix + ".", "model.", "transformer.")
    own = next(
        (
            {key.removeprefix(prefix): v for key, v in loaded.items() if key.startswith(prefix)}
            for prefix in prefixes
            if any(prefix + key in loaded for key in wanted)
        ),
        {},
    )
    fits = {key: value for key, value in own.items() if key in wanted}
    weights.fill(model.model, fits, source.folder / checkpoint.WEIGHTS)


def _modern(key: str) -> str:
    """Checkpoints of BERT's time have the older names of a LayerNorm."""
    return key.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
        "LayerNorm.beta", "LayerNorm.bias"
    )


def _plain(config: Any) -> dict[str, Any]:
    """A configuration of transformers as JSON, without what only its own loader reads."""
    fields = config.to_dict()
    dropped = (*_HEAD_FIELDS, "_name_or_path", "transformers_version")
    return {name: value for name, value in fields.items() if name not in dropped}


def pad(rows: Sequence[Sequence[int]], value: int) -> tuple[Tensor, Tensor]:
    """Sequences of ids -> (B, L) filled up with `value`, and the mask of what counts.

    Example:
        >>> tokens, mask = pad([[5, 6], [7]], 1)
        >>> tokens.tolist(), mask.tolist()
        ([[5, 6], [7, 1]], [[True, True], [True, False]])
    """
    longest = max((len(row) for row in rows), default=0)
    tokens = torch.full((len(rows), longest), value, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[number, : len(row)] = True
    return tokens, mask
