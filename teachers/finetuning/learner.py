"""What fine-tuning repeats: clips become batches, batches become steps, epochs are judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wav2small import audio, metrics, progress
from wav2small import augmentation as variants
from wav2small.errors import AudioError, Wav2SmallError
from wav2small.tables import Labels
from wav2small.training import gradient_cache as accumulation
from wav2small.training.interrupt import Stop
from wav2small.training.losses import ccc

LONGEST_S = 12.0  # what is heard of a validation clip; training clips are cropped
WITHOUT_TEXT = "_without_text"  # ends the names of figures with transcripts taken away
FEWEST = 4  # clips that a CCC is computed over, where there are two groups; chosen
CATEGORY_WEIGHT = 0.3  # of the cross-entropy beside the sum of three 1 - CCC; chosen

Heard = tuple[Any, ...]  # arguments of a network; all have `.to(device)`


class Clips:
    """Clips of a label table with what is known about them."""

    def __init__(self, table: Labels, classes: np.ndarray | None, crop_s: float):
        self.table = table
        self.values = torch.tensor(table.values, dtype=torch.float32)
        self.classes = None if classes is None else torch.tensor(classes)
        self.crop = round(crop_s * audio.SAMPLING_RATE)
        self.settings = variants.Settings(**table.provenance.get("variants", {}))
        self.rejected: dict[str, str] = {}

    def signal(self, row: int) -> np.ndarray:
        clip = self.table.frame.iloc[row]
        end_s = clip["end"].total_seconds()
        return variants.read(
            self.table.path(clip["file"]),
            start_s=clip["start"].total_seconds(),
            end_s=None if np.isnan(end_s) else end_s,
            variant=int(clip.get("variant", 0)),
            settings=self.settings,
        )

    def batch(self, rows: np.ndarray, draws: np.ndarray | None) -> tuple[Heard, np.ndarray]:
        """What a network hears of some clips, and their rows.

        Clips that cannot be heard are missing, and noted in `rejected`.

        Args:
            rows: of the table
            draws: (rows, 2), 0..1, to train: where to crop, and what a subclass draws; None = to
                judge, the front of each clip
        """
        signals, heard = self.signals(rows, None if draws is None else draws[:, 0])
        lengths = torch.tensor([len(signal) for signal in signals])
        padded = torch.zeros(len(signals), max((len(signal) for signal in signals), default=0))
        for place, signal in enumerate(signals):
            padded[place, : len(signal)] = torch.from_numpy(signal)
        return (padded, lengths), heard

    def signals(
        self, rows: np.ndarray, cuts: np.ndarray | None
    ) -> tuple[list[np.ndarray], np.ndarray]:
        """Signals of the clips that can be heard, and their rows."""
        signals, heard = [], []
        for place, row in enumerate(rows):
            try:
                signal = self.signal(row)
            except AudioError as error:
                self.rejected[self.table.frame["file"].iloc[row]] = str(error)
                continue
            heard.append(row)
            most = self.crop if cuts is not None else round(LONGEST_S * audio.SAMPLING_RATE)
            first = 0 if cuts is None else int(cuts[place] * max(1, len(signal) - most + 1))
            signals.append(signal[first : first + most])
        return signals, np.array(heard, dtype=np.int64)

    def scale(self, rows: np.ndarray, most: int = 200) -> tuple[float, float]:
        """Mean and deviation of samples, over some clips spread over the rows."""
        chosen = rows[:: max(1, len(rows) // most)]
        signals, _ = self.signals(chosen, None)
        if not signals:
            raise AudioError(next(iter(self.rejected.values())))
        sound = np.concatenate(signals).astype(np.float64)
        return float(sound.mean()), float(sound.std(ddof=1))


class Learner:
    """A network, its optimiser and the clips."""

    def __init__(
        self,
        network: Any,
        optimizer: torch.optim.Optimizer,
        clips: Clips,
        device: torch.device,
        dtype: torch.dtype,
        batch_size: int,
        micro_batch: int,
    ):
        self.network = network
        self.optimizer = optimizer
        self.clips = clips
        self.device = device
        self.dtype = dtype
        self.batch_size = batch_size
        self.micro_batch = micro_batch

    def epoch(self, train: np.ndarray, *, seed: int, epoch: int, stop: Stop) -> float | None:
        """One pass; the mean loss, or None if it was stopped."""
        random = np.random.default_rng([seed, epoch])
        order = random.permutation(train)
        draws = np.stack([random.random(len(train)) for _ in range(2)], axis=1)
        starts = list(range(0, len(order), self.batch_size))
        if len(starts) > 1 and len(order) - starts[-1] < 2:
            starts.pop()  # one clip alone has no CCC
        self.network.train()
        losses = []
        with progress.bar(len(starts), unit="step", desc=f"finetune epoch {epoch}") as bar:
            for number, begin in enumerate(starts):
                rows = slice(begin, begin + self.batch_size)
                parts = list(self._parts(order[rows], draws[rows]))
                if sum(len(part[1]) for part in parts) < 2:
                    continue
                seen = np.concatenate([part[1] for part in parts])
                self.optimizer.zero_grad()
                step_seed = ((seed * 1009 + epoch) * 1_000_003 + number * 1009) % 2**31
                losses.append(
                    accumulation.backward(
                        self._forward, parts, lambda *o, r=seen: self.loss(r, *o), seed=step_seed
                    )
                )
                self.optimizer.step()
                bar.update()
                if stop.wanted:
                    return None
        if not losses:
            raise Wav2SmallError("fewer than two of the training clips can be heard")
        return float(np.mean(losses))

    def loss(self, rows: np.ndarray, outputs: Tensor, *rest: Tensor | None) -> Tensor:
        """The network's own loss, else that of ratings, over a whole batch."""
        truth = self.clips.values[rows].to(outputs.device)
        classes = None
        if self.clips.classes is not None:
            classes = self.clips.classes[rows].to(outputs.device)
        return getattr(self.network, "loss", rating_loss)(truth, classes, outputs, *rest)

    @torch.no_grad()
    def judge(self, valid: np.ndarray, dimensions: Sequence[str]) -> dict[str, float]:
        """CCC on validation clips."""
        self.network.eval()
        answers, rows = [], []
        for part in self._parts(valid, None):
            outputs = self._forward(part)[0]
            assert outputs is not None
            answers.append(outputs.float().cpu())
            rows.append(part[1])
        if not answers:
            raise Wav2SmallError("--validation: none of the held-out clips can be heard")
        found = torch.cat(answers).numpy()
        truth = self.clips.values[np.concatenate(rows)].numpy()
        return {
            name: metrics.ccc(truth[:, column], found[:, column])
            for column, name in enumerate(dimensions)
        }

    def _forward(self, part: tuple[Heard, np.ndarray]) -> accumulation.Outputs:
        lower = self.dtype != torch.float32
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=lower):
            return self.network(*(self._moved(heard) for heard in part[0]))

    def _moved(self, heard: Any) -> Any:
        # Lengths, the only tensor of one axis, are wanted on the host.
        if isinstance(heard, Tensor) and heard.dim() == 1:
            return heard
        return heard.to(self.device)

    def _parts(
        self, rows: np.ndarray, draws: np.ndarray | None
    ) -> Iterator[tuple[Heard, np.ndarray]]:
        chunks = [slice(at, at + self.micro_batch) for at in range(0, len(rows), self.micro_batch)]
        with ThreadPoolExecutor(2) as pool:
            for part in pool.map(
                lambda chunk: self.clips.batch(
                    rows[chunk], None if draws is None else draws[chunk]
                ),
                chunks,
            ):
                if len(part[1]):
                    yield part


def average(figures: Mapping[str, float]) -> float:
    """Mean of some CCC; one that is not defined counts as 0."""
    return float(np.nan_to_num(list(figures.values())).mean())


def disagreement(truth: Tensor, outputs: Tensor, read: Tensor | None = None) -> Tensor:
    """Sum of 1 - CCC over the dimensions.

    Clips with a transcript and clips without are two groups, each asked for itself and weighted by
    its share: in one group those that are read carry the agreement, and what can be heard of the
    words is not learned.

    Args:
        truth: (B, D), 0..1
        outputs: (B, D)
        read: (B,) 1 = with a transcript, 0 = without; None, or too few of a kind = one group
    """
    if read is not None:
        groups = read > 0.5, read <= 0.5
        if min(int(group.sum()) for group in groups) >= FEWEST:
            parts = [
                group.float().mean() * (1 - ccc(truth[group], outputs[group])).sum()
                for group in groups
            ]
            return torch.stack(parts).sum()
    return (1 - ccc(truth, outputs)).sum()


def rating_loss(
    truth: Tensor,
    classes: Tensor | None,
    outputs: Tensor,
    logits: Tensor | None = None,
    read: Tensor | None = None,
) -> Tensor:
    """Sum of 1 - CCC over the dimensions, and the cross-entropy of known categories.

    Args:
        truth: (B, D), 0..1
        classes: (B,) numbers of categories, -1 = not known; None = there are none
        outputs: (B, D)
        logits: (B, C)
        read: (B,) see `disagreement`
    """
    value = disagreement(truth, outputs, read)
    if logits is not None and classes is not None and (classes >= 0).any():
        entropy = nn.functional.cross_entropy(logits, classes, ignore_index=-1)
        value = value + CATEGORY_WEIGHT * entropy
    return value
