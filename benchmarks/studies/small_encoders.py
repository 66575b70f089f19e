"""Small encoders with random weights, as `transformers` folders: for tests and for training from
scratch on the spoken dialogues, without any download.

    python -m wav2small.benchmarks.studies.small_encoders FOLDER TRANSCRIPTS.csv

The speech encoder is a WavLM whose first layers are laid out as a filter bank, so that it gives
a spectrum before it has learned anything: band-pass filters on the mel scale, then means over
time. The text encoder is a RoBERTa with a word-level tokenizer; `learn_language` makes a masked
language model of it, as published text encoders are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tokenizers
import torch
import transformers
from safetensors.torch import save_file
from torch.nn import functional

from wav2small.audio import SAMPLING_RATE
from wav2small.benchmarks import studies
from wav2small.teachers.multimodal import encoders
from wav2small.teachers.multimodal.spectra_objectives import IGNORED, hide, language_head
from wav2small.teachers.speech import backbones, checkpoint

_DROPOUTS = ("hidden", "attention", "activation", "feat_proj")
SPEECH: dict[str, Any] = {
    "model_type": "wavlm",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "conv_dim": [48, 48, 48],
    "conv_kernel": [160, 8, 4],
    "conv_stride": [80, 4, 2],  # 640 samples: a frame is 40 ms, where WavLM has 20
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 17,
    "num_conv_pos_embedding_groups": 4,
    "do_stable_layer_norm": True,
    "feat_extract_norm": "layer",
    "mask_time_prob": 0.0,
    **dict.fromkeys((f"{name}_dropout" for name in _DROPOUTS), 0.0),
    "num_buckets": 32,
    "max_bucket_distance": 128,
}
TEXT: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 130,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
_IDS = {"bos_token_id": "<s>", "pad_token_id": "<pad>", "eos_token_id": "</s>"}


def speech(folder: Path, *, seed: int = 0, **changes: Any) -> Path:
    """Write a WavLM to a folder; `changes` are of `SPEECH`."""
    torch.manual_seed(seed)
    config = {**SPEECH, **changes}
    model: Any = backbones.build(config, "small encoders")
    first, *others = (layer.conv for layer in model.feature_extractor.conv_layers)
    with torch.no_grad():
        first.weight.copy_(filter_bank(*first.weight.shape[::2]))
        for conv in others:
            channels, _, kernel = conv.weight.shape
            mean = torch.eye(channels)[..., None].expand(-1, -1, kernel) / kernel
            conv.weight.mul_(0.05).add_(mean)
    state = {checkpoint.published(key): v.contiguous() for key, v in model.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / checkpoint.WEIGHTS)
    (folder / checkpoint.CONFIG).write_text(json.dumps(config))
    return folder


def filter_bank(filters: int, taps: int) -> torch.Tensor:
    """Cosine and sine filters around frequencies of the mel scale: (filters, 1, taps)."""
    mels = np.linspace(100, 2700, (filters + 1) // 2)
    frequencies = np.repeat(700 * (10 ** (mels / 2595) - 1), 2)[:filters]
    time = (np.arange(taps) - taps / 2) / SAMPLING_RATE
    phase = np.arange(filters) % 2 * np.pi / 2
    waves = np.cos(2 * np.pi * frequencies[:, None] * time + phase[:, None])
    bank = waves * np.hanning(taps)
    bank /= np.linalg.norm(bank, axis=1, keepdims=True)
    return torch.tensor(bank[:, None], dtype=torch.float32)


def text(folder: Path, texts: Iterable[str], *, seed: int = 0, **changes: Any) -> Path:
    """Write a RoBERTa and a tokenizer that knows the words of some texts, in lower case.

    `changes` are of `TEXT`.
    """
    torch.manual_seed(seed)
    words = sorted({word for text in texts for word in re.findall(r"\w+|[^\w\s]", text.lower())})
    tokenizer = word_tokenizer(words)
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in _IDS.items()}
    config = transformers.RobertaConfig(
        vocab_size=len(tokenizer), **{"type_vocab_size": 1, **TEXT, **ids, **changes}
    )
    model = transformers.RobertaModel(config, add_pooling_layer=False)
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    return folder


def learn_language(
    folder: Path, output: Path, dialogues: Iterable[Sequence[str]], *, seed: int = 0, steps: int
) -> float:
    """Train a text encoder of `text` as a masked language model, in a folder of the same layout.

    Args:
        folder: of `text`
        output: of the trained one
        dialogues: the texts of their turns in order; it learns from each turn after what went
            before it
        seed: of the order and the masks
        steps: of 32 sequences; the learning rate falls from 3e-3 along half a cosine (chosen)

    Returns:
        mean cross-entropy of the last tenth of the steps
    """
    start = encoders.load_text(str(folder))
    model, tokenizer = start.model, start.tokenizer
    sequences = []
    for turns in dialogues:
        sequence = [tokenizer.first]
        for turn in turns:
            sequence = [*sequence, *tokenizer.ids(turn), tokenizer.last]
            sequences.append(sequence[: tokenizer.limit])
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    head = language_head(model.size)
    embeddings = model.model.get_input_embeddings().weight
    optimizer = torch.optim.Adam([*model.parameters(), *head.parameters()], lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses = []
    for _ in range(steps):
        rows = [sequences[row] for row in random.integers(len(sequences), size=32)]
        tokens, mask = encoders.pad(rows, tokenizer.pad)
        words = mask & (tokens != tokenizer.first) & (tokens != tokenizer.last)
        tokens, targets = hide(tokens, words, tokenizer, random)
        hidden = targets != IGNORED
        logits = head(model(tokens, mask)[hidden]) @ embeddings.T
        loss = functional.cross_entropy(logits, targets[hidden])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    model.model.save_pretrained(output)
    tokenizer.save(output)
    return float(np.mean(losses[-max(1, steps // 10) :]))


def word_tokenizer(words: Iterable[str]) -> Any:
    """A fast tokenizer of transformers: one id for each of these words, in lower case."""
    vocabulary = {token: number for number, token in enumerate((*_SPECIALS, *words))}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.normalizer = tokenizers.normalizers.Lowercase()
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    names = {"bos": "<s>", "cls": "<s>", "eos": "</s>", "sep": "</s>"}
    names |= {"pad": "<pad>", "unk": "<unk>", "mask": "<mask>"}
    tokens = {f"{name}_token": token for name, token in names.items()}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **tokens)


def main() -> None:
    parser = studies.parser("small_encoders", __doc__)
    parser.add_argument("folder", type=Path, help="where to write speech/ and text/")
    parser.add_argument("transcripts", help="CSV whose column `text` holds the words to know")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    args = parser.parse_args()
    print(speech(args.folder / "speech", seed=args.seed))
    print(text(args.folder / "text", pd.read_csv(args.transcripts)["text"], seed=args.seed))


if __name__ == "__main__":
    main()
