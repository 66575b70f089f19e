"""The four objectives SPECTRA is pretrained with (arXiv 2305.11579), by default an unweighted sum.

1. **Masked language model**: 15 % of the tokens, of these 80 % hidden, 10 % another, 10 % as they
   are; cross-entropy.
2. **Masked acoustic model**: spans of 20 to 50 frames, about two thirds of a long turn; of their
   frames 80 % are silenced, 10 % replaced by others, 10 % stay; L1 to the convolutional features.
3. **Temporal position**: of each word of the own and the previous turn its start from its first
   token, its end from its last one; squared error of time / 10 s.
4. **Cross-modal response selection**: each turn is fused in four ways, text right or wrong x audio
   right or wrong, the wrong ones from another dialogue; cross-entropy over the four.

The first three are of the right text with the right audio. Ours: the embedding of tokens is also
the output layer of the first; the first turn of a dialogue responds to nothing, so it is not asked
about; and for little data (`spectra.SMALL`) a layer of its own for times, a comparison with what
went before for responses, and shorter masks.

Every loss is a mean over the full batch of what it counts: tokens, frames, words, fusions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from wav2small import audio
from wav2small.errors import Wav2SmallError
from wav2small.teachers.speech import backbones

from .base import OnDevice
from .dialogue import Passage, Turn
from .spectra import Batch, Fused, Network

NAMES = ("language", "acoustic", "position", "response")
SHARE = 0.15  # of tokens that are masked (published)
SPAN = (20, 50)  # frames that are masked together (published)
START = 0.15  # probability that a span starts at a frame (published)
APART = 1.2  # spans of a turn start at least so many of their lengths apart (published)
SPAN_S = (0.4, 1.0)  # of spans by `acoustic_share` (chosen)
TIME_S = 10.0  # by which times are divided (published)
IGNORED = -100  # cross-entropy passes over it


@dataclass
class Task(OnDevice):
    """B passages to learn from."""

    #: (2 B, L) right texts, then wrong ones, tokens hidden; (3 B, T) previous, right, wrong audio.
    batch: Batch
    targets: Tensor  # (B, L) the tokens that were hidden, else `IGNORED`
    masked: Tensor  # (3 B, F) bool, frames to predict
    silent: Tensor  # (3 B, F) bool, frames that are silenced
    source: Tensor  # (3 B, F) which frame stands in the place of each
    row: Tensor  # (W,) the row of each word
    first: Tensor  # (W,) the place of its first token
    last: Tensor  # (W,) of its last one
    times: Tensor  # (W, 2) start and end / `TIME_S`
    responds: Tensor  # (B,) bool, something went before


class Objectives(nn.Module):
    """Heads that only pretraining needs, next to the network to be pretrained.

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
        config, size = network.config, network.text.size
        conv = network.speech.model.config.conv_dim[-1]
        self.language = language_head(size)
        self.language_bias = nn.Parameter(torch.zeros(network.text.model.config.vocab_size))
        self.acoustic = nn.Sequential(
            nn.Linear(size, size), nn.GELU(), nn.LayerNorm(size), nn.Linear(size, conv)
        )
        heads = network.fusion.self_attn.num_heads
        self.timing = Timing(size, heads if config["word_times"] == "layer" else 0)
        self.response = Response(size, compared=config["response"] == "compared")

    def collate(
        self, passages: Sequence[Passage], others: Sequence[Sequence[Turn]], random: Any
    ) -> Task:
        """Make the task of passages, own turns with signals, and for each two turns of other
        dialogues, with signals; drawn by numpy's generator."""
        network, tokenizer = self.network, self.network.tokenizer
        before = [passage.previous for passage in passages]
        responds = [turn.text is not None or turn.signal is not None for turn in before]
        right, wrong, places = [], [], []
        for number, (passage, (other, _)) in enumerate(zip(passages, others, strict=True)):
            timed = {
                distance: (turn, *tokenizer.timed(turn.timed()))
                for distance, turn in ((0, passage.own), (1, passage.previous))
                if turn.words and turn.signal is not None
            }
            known = {distance: ids for distance, (_, ids, _) in timed.items()}
            ids, distances, begins = network.tokens(passage, known)
            right.append((ids, distances))
            wrong.append(network.tokens(passage.with_own(other))[:2])
            for distance, (turn, _, words) in timed.items():
                for word, (first, last) in zip(turn.timed(), words, strict=True):
                    first, last = (begins.get(distance, -1) + place for place in (first, last))
                    late = word.start - cut_s(turn)
                    complete = 0 < first <= last < len(distances) and distances[last] == distance
                    if complete and late >= 0:
                        places.append((number, first, last, late, late + word.end - word.start))
        sounds = [*before, *(passage.own for passage in passages), *(turn for _, turn in others)]
        batch = network.batch([*right, *wrong], sounds)
        tokens, targets = hide(batch.text.tokens, self._words(batch), tokenizer, random)
        frames = backbones.frames(network.speech.model, batch.audio.lengths).numpy()
        frames = frames * batch.audio.present.numpy()
        share = network.config["acoustic_share"]
        masks = mask_frames(frames, random, share=share, hop_s=network.hop_s)
        masked, silent, source = map(torch.from_numpy, masks)
        hidden = targets[: len(right)], masked, silent, source
        found = np.array(places, dtype=np.float64).reshape(-1, 5)
        row, first, last = torch.from_numpy(found[:, :3].astype(np.int64)).T
        said = row, first, last, torch.from_numpy(found[:, 3:] / TIME_S).float()
        batch = replace(batch, text=replace(batch.text, tokens=tokens))
        return Task(batch, *hidden, *said, torch.tensor(responds))

    def _words(self, batch: Batch) -> Tensor:
        """(2 B, L) bool, tokens that are neither first nor last of a part."""
        tokens, tokenizer = batch.text.tokens, self.network.tokenizer
        special = (tokens == tokenizer.first) | (tokens == tokenizer.last)
        return batch.text.mask & batch.text.present[:, None] & ~special

    def fused(self, task: Task) -> tuple[Fused, Tensor, Tensor]:
        """The four ways to fuse each passage, one after the other: right, wrong audio, wrong text,
        both wrong (4 B); the features of all frames; and the frame of each position (B, J), or -1.
        """
        network, rows = self.network, len(task.responds)
        with torch.no_grad():
            features = network.features(task.batch.audio)
        at = task.source[..., None].expand(-1, -1, features.shape[2])
        corrupted = features.gather(1, at).masked_fill(task.silent[..., None], 0.0)
        number = torch.arange(rows, device=features.device)
        pairs = torch.stack([number.repeat(2), torch.arange(rows, 3 * rows).to(number)], dim=1)
        joint = network.encode_joint(task.batch.audio, pairs, corrupted)
        text, mask = network.encode_dialogue(task.batch)
        texts = torch.cat([number, number, number + rows, number + rows])
        sounds = joint.rows(torch.cat([number, number + rows, number, number + rows]))
        fused = network.fuse(text[texts], mask[texts], task.batch.distance[texts], sounds)
        return fused, features, joint.source[:rows]

    def forward(self, task: Task) -> tuple[Tensor | None, ...]:
        """Sums and counts of each row for the four objectives (B, 4), and for `figures`:
        absolute seconds by which words are misplaced and responses that are right (B, 2)."""
        network, rows = self.network, len(task.responds)
        fused, features, source = self.fused(task)
        right = fused.rows(slice(rows))
        text, speech = right.text.float(), right.speech.float()

        hidden = task.targets != IGNORED
        embeddings = network.text.model.get_input_embeddings().weight
        logits = self.language(text[hidden]) @ embeddings.T + self.language_bias
        entropy = functional.cross_entropy(logits, task.targets[hidden], reduction="none")
        language = _summed(entropy, hidden.nonzero()[:, 0], rows), hidden.sum(1)

        asked = task.masked.flatten()[source.clamp(min=0)] & (source >= 0)
        away = self.acoustic(speech[asked]) - features.flatten(0, 1)[source[asked]]
        distance = _summed(away.abs().mean(1), asked.nonzero()[:, 0], rows)
        acoustic = distance, asked.sum(1)

        seconds = self.timing(right, task.row, task.first, task.last).float()
        error = seconds / TIME_S - task.times
        ones = torch.ones_like(error[:, 0])
        position = _summed(error.square().mean(1), task.row, rows), _summed(ones, task.row, rows)

        choice = self.response(fused).float()
        truth = torch.arange(4, device=choice.device).repeat_interleave(rows)
        entropy = functional.cross_entropy(choice, truth, reduction="none").view(4, rows)
        response = entropy.sum(0) * task.responds, 4 * task.responds
        pairs = [language, acoustic, position, response]
        sums = torch.stack([total for total, _ in pairs], dim=1)
        counts = torch.stack([count.to(sums.dtype) for _, count in pairs], dim=1)
        misplaced = _summed(error.detach().abs().mean(1) * TIME_S, task.row, rows)
        chosen = ((choice.argmax(1) == truth).view(4, rows) & task.responds).sum(0)
        return sums, counts, torch.stack([misplaced, chosen.to(sums.dtype)], dim=1)

    def loss(self, sums: Tensor, counts: Tensor, figures: Tensor) -> Tensor:
        """The sum of the four, each a mean over the batch; that of times is weighted."""
        language, acoustic, position, response = means(sums, counts)
        weight = self.network.config["position_weight"]
        return language + acoustic + weight * position + response

    def figures(self, sums: Tensor, counts: Tensor, figures: Tensor) -> dict[str, float]:
        """The four losses, mean error of word boundaries in s, share of right responses."""
        found = dict(zip(NAMES, means(sums, counts).tolist(), strict=True))
        misplaced, right = figures.sum(0).tolist()
        words, asked = (max(1.0, float(column.sum())) for column in counts[:, 2:].T)
        return {**found, "position_mae_s": misplaced / words, "response_accuracy": right / asked}


def language_head(size: int) -> nn.Module:
    """What turns states of tokens into states to compare with the input embeddings."""
    return nn.Sequential(nn.Linear(size, size), nn.GELU(), nn.LayerNorm(size))


def means(sums: Tensor, counts: Tensor) -> Tensor:
    """(B, 4), (B, 4) -> (4,); 0 where a batch has nothing of a kind.

    Example:
        >>> import torch
        >>> means(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([[1, 0], [1, 0]])).tolist()
        [2.0, 0.0]
    """
    return sums.sum(0) / counts.sum(0).clamp(min=1)


def cut_s(turn: Turn) -> float:
    """Seconds of the front of a turn that its signal lacks: of long turns the end is used."""
    if turn.end is None or turn.signal is None:
        return 0.0
    seconds = (turn.end - turn.start) / 1e9 - len(turn.signal) / audio.SAMPLING_RATE
    return seconds if seconds > 0.001 else 0.0  # rounding


def hide(tokens: Tensor, words: Tensor, tokenizer: Any, random: Any) -> tuple[Tensor, Tensor]:
    """Hide some of the tokens (B, L) that may be, by `words` (B, L) bool, for the masked language
    model; drawn by numpy's generator. Gives the tokens, and the targets (B, L)."""
    draw, which = random.random((2, *tokens.shape))
    chosen = words & torch.from_numpy(draw < SHARE)
    targets = tokens.masked_fill(~chosen, IGNORED)
    hidden = chosen & torch.from_numpy(which < 0.8)
    other = chosen & torch.from_numpy((which >= 0.8) & (which < 0.9))
    anything = torch.from_numpy(random.integers(0, tokenizer.size, tuple(tokens.shape)))
    tokens = tokens.masked_fill(hidden, tokenizer.mask)
    return torch.where(other, anything, tokens), targets


def mask_frames(
    frames: np.ndarray, random: Any, *, share: float | None = None, hop_s: float = 0.02
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Spans for the masked acoustic model.

    As published, spans of a turn have one length; at each frame one starts with probability
    `START`, and the next no sooner than `APART` lengths later. A turn that is no longer than a span
    stays as it is. `frames` (N,) are those of each turn, of `hop_s` seconds; with a `share` of
    them, spans are of `SPAN_S`, at least one.

    Returns:
        masked (N, F) bool, silent (N, F) bool, source (N, F): which frame stands there

    Example:
        >>> import numpy as np
        >>> masked, silent, source = mask_frames(np.array([10, 200]), np.random.default_rng(0))
        >>> masked.shape, bool(masked[0].any()), bool(masked[1].any())
        ((2, 200), False, True)
    """
    longest = max(1, int(frames.max()))
    masked = np.zeros((len(frames), longest), dtype=bool)
    silent = masked.copy()
    source = np.tile(np.arange(longest), (len(frames), 1))
    for row, count in enumerate(map(int, frames)):
        for begin, length in _spans(count, random, share, hop_s):
            masked[row, begin : begin + length] = True
        places = np.flatnonzero(masked[row])
        how = random.random(len(places))
        silent[row, places[how < 0.8]] = True
        other = places[(how >= 0.8) & (how < 0.9)]
        source[row, other] = random.integers(0, max(1, count), len(other))
    return masked, silent, source


def _spans(count: int, random: Any, share: float | None, hop_s: float) -> Iterator[tuple[int, int]]:
    """Begins and lengths of the spans of a turn of `count` frames."""
    if share is None:
        length = int(random.integers(SPAN[0], SPAN[1] + 1))
        place = 0
        while place < count - length:
            if random.random() < START:
                yield place, length
                place += round(APART * length)
            place += 1
    elif count:
        least, most = (max(1, round(seconds / hop_s)) for seconds in SPAN_S)
        for _ in range(max(1, round(share * count / ((least + most) / 2)))):
            length = min(count, int(random.integers(least, most + 1)))
            yield int(random.integers(0, count - length + 1)), length


def _summed(values: Tensor, row: Tensor, rows: int) -> Tensor:
    """Sum of the values of each row: (n,), (n,) -> (rows,)."""
    return values.new_zeros(rows).index_add(0, row, values)


class Timing(nn.Module):
    """When words begin and end: a head for starts and one for ends, linear as published.

    The squared error of .1 s over 10 s is a ten-thousandth, added unweighted to losses around
    1: what is shared hardly moves for it. With a layer of its own (`heads` of attention; 0 = as
    published), which learns nothing else, and heads of two layers it is learned from little data.
    """

    def __init__(self, size: int, heads: int = 0):
        super().__init__()
        self.layer = None
        self.unit_s = 1.0 if heads else TIME_S  # of what the heads give
        if heads:
            self.layer = nn.TransformerEncoderLayer(
                size, heads, 4 * size, dropout=0.0, activation="gelu", batch_first=True
            )

        def head() -> nn.Module:
            last = nn.Linear(size, 1)
            return nn.Sequential(nn.Linear(size, size), nn.GELU(), last) if heads else last

        self.start, self.end = head(), head()

    def forward(self, fused: Fused, row: Tensor, first: Tensor, last: Tensor) -> Tensor:
        """Seconds from the beginning of the turn, (W, 2), start and end: of words in rows of
        `fused`, from the places of their first and last tokens (W,)."""
        text = fused.text
        if self.layer is not None:
            states = torch.cat([text, fused.speech], dim=1)
            mask = torch.cat([fused.own | fused.history, fused.frames], dim=1)
            text = self.layer(states, src_key_padding_mask=~mask)[:, : text.shape[1]]
        bounds = [self.start(text[row, first]), self.end(text[row, last])]
        return self.unit_s * torch.cat(bounds, dim=1)


class Response(nn.Module):
    """Whether text and audio respond to what went before: four ways, from the first position.

    `compared`: text and audio are each summed up, and compared with the sum of their kind before;
    from little data the first position alone does not learn what "the same" means.
    """

    def __init__(self, size: int, *, compared: bool = False):
        super().__init__()
        self.compared = compared
        self.choose: nn.Module
        if compared:
            self.text, self.speech = Summary(size), Summary(size)
            self.choose = nn.Sequential(nn.Linear(3 * size, size), nn.GELU(), nn.Linear(size, 4))
        else:
            self.choose = nn.Linear(size, 4)

    def forward(self, fused: Fused) -> Tensor:
        """Logits (S, 4) of 2 x text is wrong + audio is wrong."""
        if not self.compared:
            return self.choose(fused.text[:, 0])
        text = self.text(fused.text, fused.own) - self.text(fused.text, fused.history)
        speech = self.speech(fused.speech, fused.own_frames)
        speech = speech - self.speech(fused.speech, fused.previous_frames)
        return self.choose(torch.cat([fused.text[:, 0], text.abs(), speech.abs()], dim=1))


class Summary(nn.Module):
    """A sum of states, weighted by how much they matter; zeros where there are none.

    Example:
        >>> Summary(4)(torch.rand(2, 5, 4), torch.ones(2, 5, dtype=torch.bool)).shape[0]
        2
    """

    def __init__(self, size: int):
        super().__init__()
        self.weight = nn.Linear(size, 1)
        self.value = nn.Linear(size, size)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """(B, L, size), with the mask (B, L) of valid positions -> (B, size)."""
        weights = self.weight(states)[..., 0].float().masked_fill(~mask, -1e4).softmax(dim=1) * mask
        return (weights[..., None].to(states.dtype) * self.value(states)).sum(dim=1)
