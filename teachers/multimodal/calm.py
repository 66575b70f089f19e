"""CALM, from its abstract (Sachidananda et al. 2022, arXiv 2202.03587): speech aligned with words.

    log-mel patches                 text
          |                           |
       SpecTran                input embeddings ---------+
          |                           |                  |
     aligned, patch by patch     language model          |
       |       |     |                |                  |
       |  words' mean: mean: speech   |     mean: text --+
       |       |     |                |        |
     patches words utterance       tokens   utterance
       +-------+-----+--------+-------+--------+
           multimodal transformer, two layers
                         |
       the two utterance positions: outputs, categories

Published: SpecTran over linearised patches of a spectrogram, contrastive pretraining that aligns
audio with the input embedding space of a pretrained language model and uses contrast between
acoustic inputs (`calm_objectives`), information at several rates (patch, word, utterance), a
multimodal transformer over acoustic and lexical tokens. The paper's full text is public, but this
was written from its abstract: every size, what is pooled how, the position encodings of the rates
and the weights of the losses are ours, and were not compared with those of the paper.

It has its own speech encoder, so `--speech` is not needed.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from wav2small import audio
from wav2small.errors import Wav2SmallError
from wav2small.students.frontend import FLOOR, mel_bands
from wav2small.teachers.speech import checkpoint
from wav2small.teachers.speech.neural import valid

from .base import (
    AudioBatch,
    MultimodalNetwork,
    OnDevice,
    TextBatch,
    mean,
    missing,
    sinusoid,
)
from .dialogue import Passage, Turn
from .encoders import Tokenizer

MODEL_TYPE = "spectran"
#: Its configuration; all numbers are ours.
CONFIG: dict[str, Any] = {
    "model_type": MODEL_TYPE,
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "hidden_dropout": 0.1,
    "n_fft": 512,
    "hop": 160,  # 10 ms
    "mels": 64,
    "patch_mels": 64,
    "patch_frames": 16,  # of 160 ms, which overlap by half
    "patch_step": 8,
}
_CENTRE_DB, _SPREAD_DB = -15.0, 20.0  # roughly, of speech whose samples have a deviation of 1


class SpecTran(nn.Module):
    """CALM's speech encoder: a transformer over linearised patches of a log-mel spectrogram.

    A patch is a rectangle of mels x frames, laid out as a row of numbers. Only frames that lie
    wholly inside a clip count; what a last patch lacks of them is silence.

    Args:
        config: see `CONFIG`
        mean: of the samples it was trained with
        std: of the same
        where: named in errors

    Raises:
        Wav2SmallError: no such configuration

    Example:
        >>> import torch
        >>> encoder = SpecTran(CONFIG, mean=0.0, std=1.0, where="config.json").eval()
        >>> hidden, mask = encoder(torch.zeros(1, 16000), torch.tensor([16000]))
        >>> hidden.shape, mask.shape
        (torch.Size([1, 12, 128]), torch.Size([1, 12]))
    """

    window: Tensor
    mels: Tensor

    def __init__(self, config: Mapping[str, Any], mean: float, std: float, where: Any):
        super().__init__()
        checkpoint.require(config, tuple(CONFIG), where)
        if config["model_type"] != MODEL_TYPE or config["mels"] % config["patch_mels"]:
            raise Wav2SmallError(
                f"{where}: speech_config is no {MODEL_TYPE}, or its patches do not divide its mels"
            )
        self.config = config
        self.mean, self.std = mean, std
        self.size: int = config["hidden_size"]
        self.bands: int = config["mels"] // config["patch_mels"]
        self.register_buffer("window", torch.hann_window(config["n_fft"]), persistent=False)
        mels = torch.tensor(mel_bands(config["n_fft"], config["mels"]), dtype=torch.float32)
        self.register_buffer("mels", mels, persistent=False)
        self.patch = nn.Linear(config["patch_mels"] * config["patch_frames"], self.size)
        self.band = nn.Parameter(0.02 * torch.randn(self.bands, self.size))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                self.size,
                config["num_attention_heads"],
                4 * self.size,
                config["hidden_dropout"],
                "gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(config["num_hidden_layers"])
        )
        self.norm = nn.LayerNorm(self.size)

    def forward(self, signal: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T), 16 kHz, full scale 1, and (B,) on the CPU -> (B, patches, size), mask."""
        patches, mask = self.patches(signal, lengths)
        hidden = (self.patch(patches) + self.band).flatten(1, 2)  # from (B, steps, bands, size)
        hidden = hidden + self.positions(hidden)
        mask = mask.repeat_interleave(self.bands, dim=1)
        for layer in self.layers:
            hidden = layer(hidden, src_key_padding_mask=~mask)
        return self.norm(hidden), mask

    def patches(self, signal: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Linearised patches (B, steps, bands, mels x frames), and the mask of steps."""
        high, wide, step = (self.config[f"patch_{name}"] for name in ("mels", "frames", "step"))
        spectrogram = self.spectrogram(signal, lengths)  # (B, mels, frames)
        steps = self._steps(lengths)
        room = int(steps.max() - 1) * step + wide - spectrogram.shape[2]
        spectrogram = nn.functional.pad(spectrogram, (0, max(0, room)), value=_scaled(FLOOR))
        cut = spectrogram.unfold(2, wide, step)[:, :, : int(steps.max())]
        rows = cut.unflatten(1, (self.bands, high)).permute(0, 3, 1, 2, 4).flatten(3)
        order = torch.arange(rows.shape[1], device=signal.device)
        return rows, order < steps.to(signal.device)[:, None]

    def spectrogram(self, signal: Tensor, lengths: Tensor) -> Tensor:
        """Log-mel, about -1..1 where there is speech, silent after the end of a clip."""
        n_fft, hop = self.config["n_fft"], self.config["hop"]
        scaled = (signal - self.mean) / (self.std + 1e-6) * valid(signal, lengths)
        scaled = nn.functional.pad(scaled, (0, max(0, n_fft - scaled.shape[1])))
        with torch.autocast(signal.device.type, enabled=False):
            spectrum = torch.stft(
                scaled.float(), n_fft, hop, window=self.window, center=False, return_complex=True
            )
            power = self.mels.T @ spectrum.abs().square()
        frames = self._frames(lengths).to(signal.device)
        inside = torch.arange(power.shape[2], device=signal.device) < frames[:, None]
        return _decibels(power.where(inside[:, None], power.new_tensor(0.0)))

    def positions(self, tokens: Tensor) -> Tensor:
        """Of patches (B, patches, size), by their time: (patches, size)."""
        return sinusoid(self._begins(tokens.shape[1], tokens.device), tokens.shape[2]).to(
            tokens.dtype
        )

    def overlaps(self, times: Tensor, patches: int) -> Tensor:
        """Seconds that words, with start and end (W, 2), share with patches: (W, patches)."""
        begins = self._begins(patches, times.device)
        hop, n_fft = self.config["hop"], self.config["n_fft"]
        wide_s = ((self.config["patch_frames"] - 1) * hop + n_fft) / audio.SAMPLING_RATE
        ends = torch.minimum(times[:, 1:], begins + wide_s)
        return (ends - torch.maximum(times[:, :1], begins)).clamp(min=0)

    def _begins(self, patches: int, device: torch.device) -> Tensor:
        """Seconds at which patches begin: (patches,)."""
        hop_s = self.config["patch_step"] * self.config["hop"] / audio.SAMPLING_RATE
        return hop_s * (torch.arange(patches, device=device) // self.bands)

    def freeze_front(self) -> None:
        """Nothing in it is published, so all of it learns."""

    def _frames(self, lengths: Tensor) -> Tensor:
        inside = torch.div(
            lengths - self.config["n_fft"], self.config["hop"], rounding_mode="floor"
        )
        return inside.clamp(min=0) + 1

    def _steps(self, lengths: Tensor) -> Tensor:
        beyond = (self._frames(lengths) - self.config["patch_frames"]).clamp(min=0)
        step = self.config["patch_step"]
        return torch.div(beyond + step - 1, step, rounding_mode="floor") + 1


def _decibels(power: Tensor) -> Tensor:
    return (10 * power.clamp(min=FLOOR).log10() - _CENTRE_DB) / _SPREAD_DB


def _scaled(power: float) -> float:
    return float(_decibels(torch.tensor(power)))


@dataclass
class Words(OnDevice):
    """The timed words of some turns, W in all.

    Attributes:
        row: (W,) the turn of each word
        place: (W,) its number in the turn, from 0
        first: (W,) the place of its first token
        last: (W,) of its last one
        times: (W, 2) start and end, seconds
        name: (W,) the same number for the same word
    """

    row: Tensor
    place: Tensor
    first: Tensor
    last: Tensor
    times: Tensor
    name: Tensor


@dataclass
class Batch(OnDevice):
    """Some turns: their speech, text, and words with times as far as they are known."""

    audio: AudioBatch
    text: TextBatch
    words: Words


@dataclass
class Aligned:
    """Speech in the space of the language model's input embeddings.

    Attributes:
        tokens: (B, patches, size)
        mask: (B, patches) bool
        speech: (B, size) their mean
        text: (B, size) the mean of the input embeddings of the transcript
        words: (W, size) the mean of the patches of each word, weighted by how much of each it fills
        timed: (W,) bool, some patch has a part in it
    """

    tokens: Tensor
    mask: Tensor
    speech: Tensor
    text: Tensor
    words: Tensor
    timed: Tensor


class Network(MultimodalNetwork):
    """See the module."""

    system = "calm"
    own_encoder = CONFIG
    defaults: ClassVar[Mapping[str, Any]] = {
        "fusion_layers": 2,
        "fusion_heads": 0,  # 0 = as the text's
        "fusion_dropout": 0.1,
        "word_contrast": 1.0,  # weight in pretraining, next to that of utterances
        "audio_contrast": 1.0,  # the same, of two views of an utterance's audio
    }

    def __init__(self, config: Mapping[str, Any], tokenizer: Tokenizer, where: Any = "config.json"):
        super().__init__(config, tokenizer, where)
        size = self.text.size
        heads = self.config["fusion_heads"] or self.text.model.config.num_attention_heads
        dropout = self.config["fusion_dropout"]
        self.align = nn.Linear(self.speech.size, size)
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in _KINDS)
        self.kinds = nn.Parameter(0.02 * torch.randn(len(_KINDS), size))
        self.fusion = nn.ModuleList(
            nn.TransformerEncoderLayer(
                size, heads, 4 * size, dropout, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(self.config["fusion_layers"])
        )
        self.norm = nn.LayerNorm(2 * size)
        self.build_head(2 * size)

    def build_speech(self, mean: float, std: float, where: Any) -> nn.Module:
        return SpecTran(self.config["speech_config"], mean, std, where)

    def collate(self, passages: Sequence[Passage]) -> Batch:
        return self.batch([passage.own for passage in passages])

    def batch(self, turns: Sequence[Turn]) -> Batch:
        """`collate` of turns alone."""
        room = self.tokenizer.limit - 2
        rows: list[list[int] | None] = []
        found = []
        for number, turn in enumerate(turns):
            timed = turn.timed() if turn.signal is not None else []
            if not timed:
                rows.append(self.sequence(turn.text))
                continue
            ids, places = self.tokenizer.timed(timed)
            rows.append([self.tokenizer.first, *ids[:room], self.tokenizer.last])
            for place, (word, (first, last)) in enumerate(zip(timed, places, strict=True)):
                if 0 <= first and last < room:
                    name = zlib.crc32(word.word.lower().encode()) & 0xFFFFFF  # exact in float32
                    found.append((number, place, 1 + first, 1 + last, name, word.start, word.end))
        columns = np.array(found, dtype=np.float64).reshape(-1, 7)
        row, place, first, last, name = torch.from_numpy(columns[:, :5].T.astype(np.int64))
        times = torch.from_numpy(columns[:, 5:]).float()
        words = Words(row, place, first, last, times, name)
        return Batch(self.audio_batch(turns), self.text_batch(rows), words)

    def forward(self, batch: Batch) -> tuple[Tensor | None, ...]:
        aligned = self.aligned(batch)
        lexical, lexical_mask = self.encode_text(batch.text)
        words, words_mask = self._rows(aligned, batch.words)
        utterance = aligned.speech[:, None], aligned.text[:, None]
        sequences = (*utterance, lexical, words, aligned.tokens)
        positions = (0, 0, 0, self._positions(words), self.speech.positions(aligned.tokens))
        states = torch.cat(
            [
                norm(sequence) + kind + position
                for norm, sequence, kind, position in zip(
                    self.norms, sequences, self.kinds, positions, strict=True
                )
            ],
            dim=1,
        )
        always = lexical_mask.new_ones(len(lexical), len(utterance))
        mask = torch.cat([always, lexical_mask, words_mask, aligned.mask], dim=1)
        for layer in self.fusion:
            states = layer(states, src_key_padding_mask=~mask)
        outputs, logits = self.head(self.norm(states[:, : len(utterance)].flatten(1)))
        return outputs, logits, batch.text.present.float()

    def aligned(self, batch: Batch) -> Aligned:
        """What contrastive pretraining aligns."""
        hidden, mask = self.encode_speech(batch.audio)
        tokens = self.align(hidden)
        embedded, counted = self.lexical(batch.text)
        words = batch.words
        shares = self.speech.overlaps(words.times, tokens.shape[1]) * mask[words.row]
        total = shares.sum(1, keepdim=True)
        pooled = torch.einsum("wp,wps->ws", shares / total.clamp(min=1e-6), tokens[words.row])
        return Aligned(
            tokens, mask, mean(tokens, mask), mean(embedded, counted), pooled, total[:, 0] > 0
        )

    def lexical(self, text: TextBatch) -> tuple[Tensor, Tensor]:
        """Input embeddings of the transcripts, and the mask of the words among them."""
        ends = (text.tokens == self.tokenizer.first) | (text.tokens == self.tokenizer.last)
        inner = text.mask & ~ends
        alone = inner.any(dim=1, keepdim=True)  # a transcript of which no token is left
        embedded = self.text.embed(text.tokens)
        return missing(embedded, torch.where(alone, inner, text.mask), text.present, self.no_text)

    def _rows(self, aligned: Aligned, words: Words) -> tuple[Tensor, Tensor]:
        """Words by turn: (B, most words, size), and the mask of those that count."""
        count = int(words.place.max()) + 1 if len(words.place) else 0
        rows, size = aligned.speech.shape
        states = aligned.words.new_zeros(rows, count, size)
        mask = torch.zeros(rows, count, dtype=torch.bool, device=states.device)
        at = words.row, words.place
        return states.index_put(at, aligned.words), mask.index_put(at, aligned.timed)

    def _positions(self, words: Tensor) -> Tensor:
        """Of words, by their number: a tenth of a second each."""
        number = torch.arange(words.shape[1], device=words.device)
        return sinusoid(number / 10, words.shape[2]).to(words.dtype)


_KINDS = ("speech", "text", "lexical", "words", "patches")
