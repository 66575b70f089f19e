"""The four objectives SPECTRA is pretrained with (arXiv 2305.11579), an unweighted sum.

1. **Masked language model**: 15 % of the tokens, of these 80 % hidden, 10 % another, 10 % as they
   are; cross-entropy.
2. **Masked acoustic model**: spans of 20 to 50 frames of the own turn, 80 % of them silenced,
   10 % replaced by other frames, 10 % as they are; L1 to the convolutional features.
3. **Temporal position**: each word's start from its first token, its end from its last one;
   squared error of time / 10 s.
4. **Cross-modal response selection**: of the own turn, text right or wrong x audio right or
   wrong, the wrong ones from another dialogue; cross-entropy over the four.

Ours: spans are counted in seconds (20 frames of WavLM are .4 s) and cover about 15 % of the turn,
at least one; words are timed only where both text and audio are the turn's own; the first turn of a
dialogue responds to nothing, so it is not asked about; the heads of times and responses: on
the spoken dialogues of `wav2small.benchmarks.studies.multimodal`, heads of the word and of the
first position alone stayed at errors of .14 s and at 45 % of the responses.

Every loss is a mean over the full batch of what it counts: tokens, frames, words, turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from wav2small.errors import Wav2SmallError
from wav2small.teachers.speech import backbones

from .base import OnDevice
from .dialogue import Passage, Turn
from .spectra import Batch, Fused, Network

NAMES = ("language", "acoustic", "position", "response")
SHARE = 0.15  # of tokens and frames that are masked (paper)
SPAN_S = (0.4, 1.0)  # 20 to 50 frames of 20 ms (paper)
TIME_S = 10.0  # by which times are divided (paper)
IGNORED = -100  # cross-entropy passes over it


@dataclass
class Task(OnDevice):
    """Passages to learn from.

    Attributes:
        batch: speech and text, tokens hidden
        targets: (B, L) the tokens that were hidden, else `IGNORED`
        masked: (B, F) bool, frames of the own turn to predict
        silent: (2 B, F) bool, frames that are silenced
        source: (2 B, F) which frame stands in the place of each
        row: (W,) the row of each word
        first: (W,) the place of its first token
        last: (W,) of its last one
        times: (W, 2) start and end / `TIME_S`
        response: (B,) 2 x text is wrong + audio is wrong, or `IGNORED`
    """

    batch: Batch
    targets: Tensor
    masked: Tensor
    silent: Tensor
    source: Tensor
    row: Tensor
    first: Tensor
    last: Tensor
    times: Tensor
    response: Tensor


class Objectives(nn.Module):
    """Heads that only pretraining needs, next to the network.

    Args:
        network: to be pretrained

    Raises:
        Wav2SmallError: the tokenizer cannot hide a token
    """

    negatives = 2  # other turns that `collate` wants besides each passage

    def __init__(self, network: Network):
        super().__init__()
        self.network = network
        if network.tokenizer.mask is None:
            raise Wav2SmallError(
                "--text: its tokenizer has no mask token, which SPECTRA's pretraining hides "
                "words with; give a masked language model such as RoBERTa"
            )
        size = network.text.size
        conv = network.speech.model.config.conv_dim[-1]
        self.language = nn.Sequential(nn.Linear(size, size), nn.GELU(), nn.LayerNorm(size))
        self.language_bias = nn.Parameter(torch.zeros(network.text.model.config.vocab_size))
        self.acoustic = nn.Linear(size, conv)
        self.timing = Timing(size, network.fusion.self_attn.num_heads)
        self.response = Response(size)

    def collate(
        self, passages: Sequence[Passage], others: Sequence[Sequence[Turn]], random: Any
    ) -> Task:
        """Make the task of some passages.

        Args:
            passages: own turns with signals
            others: for each, two turns of other dialogues, with signals
            random: numpy's generator
        """
        network = self.network
        chosen, classes = [], []
        for passage, (text_turn, audio_turn) in zip(passages, others, strict=True):
            before = passage.turns[passage.at - 1] if passage.at else Turn()
            responds = before.text is not None or before.signal is not None
            kind = int(random.integers(4)) if responds else 0
            classes.append(kind if responds else IGNORED)
            chosen.append(passage.with_own(responded(passage.own, text_turn, audio_turn, kind)))
        rows, places = [], []
        for number, passage in enumerate(chosen):
            timed = passage.own.timed()
            own, words = network.tokenizer.timed(timed) if timed else (None, [])
            ids, distances = network.tokens(passage, own)
            rows.append((ids, distances))
            if passage.own.words:
                length = sum(distance == 0 for distance in distances) - 2  # tokens of the own turn
                places += [
                    (number, 1 + first, 1 + last, word.start, word.end)  # 1: the first position
                    for word, (first, last) in zip(timed, words, strict=True)
                    if 0 <= first and last < length
                ]
        batch = network.batch(chosen, rows)
        tokens, targets = hide(batch.text.tokens, self._words(batch), network.tokenizer, random)
        text = replace(batch.text, tokens=tokens)
        frames = backbones.frames(network.speech.model, batch.audio.lengths).numpy()
        masked, silent, source = mask_frames(frames, network.hop_s, random)
        present = batch.audio.present.numpy()
        masked &= present[:, None]
        found = np.array(places, dtype=np.float64).reshape(-1, 5)
        index = torch.from_numpy(found[:, :3].astype(np.int64))
        return Task(
            batch=replace(batch, text=text),
            targets=targets,
            masked=torch.from_numpy(masked[len(passages) :]),
            silent=torch.from_numpy(silent),
            source=torch.from_numpy(source),
            row=index[:, 0],
            first=index[:, 1],
            last=index[:, 2],
            times=torch.from_numpy(found[:, 3:] / TIME_S).float(),
            response=torch.tensor(classes),
        )

    def _words(self, batch: Batch) -> Tensor:
        """(B, L) bool, tokens that are neither first nor last of a part."""
        tokens, tokenizer = batch.text.tokens, self.network.tokenizer
        special = (tokens == tokenizer.first) | (tokens == tokenizer.last)
        return batch.text.mask & batch.text.present[:, None] & ~special

    def forward(self, task: Task) -> tuple[Tensor | None, ...]:
        """Sums and counts of each row for the four objectives (B, 4), and for `figures`:
        absolute seconds by which words are misplaced and responses that are right (B, 2)."""
        network = self.network
        with torch.no_grad():
            features = network.features(task.batch.audio)
        at = task.source[..., None].expand(-1, -1, features.shape[2])
        corrupted = features.gather(1, at).masked_fill(task.silent[..., None], 0.0)
        fused = network.fuse(task.batch, corrupted)
        text, rows = fused.text.float(), len(task.response)

        hidden = task.targets != IGNORED
        embeddings = network.text.model.get_input_embeddings().weight
        logits = self.language(text[hidden]) @ embeddings.T + self.language_bias
        entropy = functional.cross_entropy(logits, task.targets[hidden], reduction="none")
        row = hidden.nonzero()[:, 0]
        language = _summed(entropy, row, rows), hidden.sum(1)

        predicted = self.acoustic(fused.speech.float())
        own = features[rows:]
        away = (predicted - own).abs().mean(dim=2) * task.masked
        acoustic = away.sum(1), task.masked.sum(1)

        seconds = self.timing(fused, task.row, task.first, task.last).float()
        error = seconds / TIME_S - task.times
        ones = torch.ones_like(error[:, 0])
        position = _summed(error.square().sum(1), task.row, rows), _summed(ones, task.row, rows)

        choice = self.response(fused).float()
        response = functional.cross_entropy(choice, task.response, reduction="none")
        pairs = [language, acoustic, position, (response, task.response != IGNORED)]
        sums = torch.stack([total for total, _ in pairs], dim=1)
        counts = torch.stack([count.to(sums.dtype) for _, count in pairs], dim=1)
        misplaced = _summed(error.detach().abs().mean(1) * TIME_S, task.row, rows)
        right = (choice.argmax(1) == task.response).to(sums.dtype)
        return sums, counts, torch.stack([misplaced, right], dim=1)

    def loss(self, sums: Tensor, counts: Tensor, figures: Tensor) -> Tensor:
        """The sum of the four, each a mean over the batch."""
        return means(sums, counts).sum()

    def figures(self, sums: Tensor, counts: Tensor, figures: Tensor) -> dict[str, float]:
        """The four losses, mean error of word boundaries in s, share of right responses."""
        found = dict(zip(NAMES, means(sums, counts).tolist(), strict=True))
        misplaced, right = figures.sum(0).tolist()
        return {
            **found,
            "position_mae_s": misplaced / max(1.0, float(counts[:, 2].sum())),
            "response_accuracy": right / max(1.0, float(counts[:, 3].sum())),
        }


def means(sums: Tensor, counts: Tensor) -> Tensor:
    """(B, 4), (B, 4) -> (4,); 0 where a batch has nothing of a kind.

    Example:
        >>> import torch
        >>> means(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([[1, 0], [1, 0]])).tolist()
        [2.0, 0.0]
    """
    return sums.sum(0) / counts.sum(0).clamp(min=1)


def responded(own: Turn, text: Turn, audio: Turn, kind: int) -> Turn:
    """A turn with the text (kind 2, 3) or the audio (kind 1, 3) of another one."""
    if kind & 2:
        own = own._replace(text=text.text, words=None)
    if kind & 1:
        own = own._replace(signal=audio.signal, words=None)
    return own


def hide(tokens: Tensor, words: Tensor, tokenizer: Any, random: Any) -> tuple[Tensor, Tensor]:
    """Hide tokens for the masked language model.

    Args:
        tokens: (B, L)
        words: (B, L) bool, those that may be hidden
        tokenizer: knows the id that hides
        random: numpy's generator

    Returns:
        tokens, and the targets
    """
    draw, which = random.random((2, *tokens.shape))
    chosen = words & torch.from_numpy(draw < SHARE)
    targets = tokens.masked_fill(~chosen, IGNORED)
    hidden = chosen & torch.from_numpy(which < 0.8)
    other = chosen & torch.from_numpy((which >= 0.8) & (which < 0.9))
    anything = torch.from_numpy(random.integers(0, tokenizer.size, tuple(tokens.shape)))
    tokens = tokens.masked_fill(hidden, tokenizer.mask)
    return torch.where(other, anything, tokens), targets


def mask_frames(
    frames: np.ndarray, hop_s: float, random: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Spans for the masked acoustic model.

    Args:
        frames: (2 B,) of the previous turns, which stay as they are, then of the own ones
        hop_s: seconds of a frame
        random: numpy's generator

    Returns:
        masked (2 B, F) bool, silent (2 B, F) bool, source (2 B, F): which frame stands there

    Example:
        >>> import numpy as np
        >>> frames = np.array([50, 100])
        >>> masked, silent, source = mask_frames(frames, 0.02, np.random.default_rng(0))
        >>> masked.shape, bool(masked[0].any()), bool(masked[1].any())
        ((2, 100), False, True)
    """
    longest = int(frames.max())
    masked = np.zeros((len(frames), longest), dtype=bool)
    silent = masked.copy()
    source = np.tile(np.arange(longest), (len(frames), 1))
    least, most = (max(1, round(seconds / hop_s)) for seconds in SPAN_S)
    for row in range(len(frames) // 2, len(frames)):
        count = int(frames[row])
        for _ in range(max(1, round(SHARE * count / ((least + most) / 2)))):
            length = min(count, int(random.integers(least, most + 1)))
            begin = int(random.integers(0, count - length + 1))
            span = slice(begin, begin + length)
            masked[row, span] = True
            how = random.random()
            if how < 0.8:
                silent[row, span] = True
            elif how < 0.9:
                source[row, span] = random.integers(0, count, length)
    return masked, silent, source


def _summed(values: Tensor, row: Tensor, rows: int) -> Tensor:
    """Sum of the values of each row: (n,), (n,) -> (rows,)."""
    return values.new_zeros(rows).index_add(0, row, values)


class Timing(nn.Module):
    """When words begin and end: one layer over the own turn, a head for starts, one for ends.

    The squared error of .1 s over 10 s is a ten-thousandth, added unweighted to losses around
    1: what is shared hardly moves for it, so it has a layer that learns nothing else.

    Args:
        size: of the states
        heads: of the layer's attention
    """

    def __init__(self, size: int, heads: int):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(
            size, heads, 4 * size, dropout=0.0, activation="gelu", batch_first=True
        )
        self.start = nn.Sequential(nn.Linear(size, size), nn.GELU(), nn.Linear(size, 1))
        self.end = nn.Sequential(nn.Linear(size, size), nn.GELU(), nn.Linear(size, 1))

    def forward(self, fused: Fused, row: Tensor, first: Tensor, last: Tensor) -> Tensor:
        """Seconds from the beginning of the turn: (W, 2), start and end.

        Args:
            fused: of `Network.fuse`
            row: (W,) of each word
            first: (W,) place of its first token
            last: (W,) of its last one
        """
        length = fused.text.shape[1]
        turn = torch.cat([fused.text, fused.speech], dim=1)
        mask = torch.cat([fused.own, fused.speech_mask], dim=1)
        text = self.layer(turn, src_key_padding_mask=~mask)[:, :length]
        return torch.cat([self.start(text[row, first]), self.end(text[row, last])], dim=1)


class Response(nn.Module):
    """Whether text and audio respond to what went before: four ways.

    Each is summed up, and compared with the sum of its kind before; the first position alone would
    have to learn what "the same" means.

    Args:
        size: of the states
    """

    def __init__(self, size: int):
        super().__init__()
        self.text = Summary(size)
        self.speech = Summary(size)
        self.choose = nn.Sequential(nn.Linear(3 * size, size), nn.GELU(), nn.Linear(size, 4))

    def forward(self, fused: Fused) -> Tensor:
        """Logits (B, 4) of 2 x text is wrong + audio is wrong."""
        text = self.text(fused.text, fused.own) - self.text(fused.text, fused.history)
        speech = self.speech(fused.speech, fused.speech_mask)
        speech = speech - self.speech(fused.previous, fused.previous_mask)
        return self.choose(torch.cat([fused.pooled, text.abs(), speech.abs()], dim=1))


class Summary(nn.Module):
    """A sum of states, weighted by how much they matter; zeros where there are none."""

    def __init__(self, size: int):
        super().__init__()
        self.weight = nn.Linear(size, 1)
        self.value = nn.Linear(size, size)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """(B, L, size), with the mask (B, L) of valid positions -> (B, size)."""
        weights = self.weight(states)[..., 0].float().masked_fill(~mask, -1e4).softmax(dim=1) * mask
        return (weights[..., None].to(states.dtype) * self.value(states)).sum(dim=1)
