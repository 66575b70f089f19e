"""The steps of fine-tuning: clips become batches, networks are validated by CCC."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from wav2small import audio, files, metrics
from wav2small.errors import AudioError, Wav2SmallError
from wav2small.tables import Labels
from wav2small.teachers.speech import checkpoint
from wav2small.training import checkpoint as checkpoints
from wav2small.training.cache import Cache
from wav2small.training.clips import Clips, prepared
from wav2small.training.gradient_cache import Outputs
from wav2small.training.interrupt import Stop
from wav2small.training.loop import LoopOptions, Training
from wav2small.training.losses import rating_loss

from .options import DeviceOptions, TrainingOptions

LONGEST_S = 12.0  # what is used of a validation clip; training clips are cropped
CHECKPOINT_S = 600.0  # writing the checkpoint of a large network takes seconds; chosen
WORKERS = 2  # threads that prepare batches


class Part(NamedTuple):
    """Clips that fit into memory together."""

    inputs: tuple[Any, ...]  # arguments of the network; all have `.to(device)`
    rows: np.ndarray  # of the table, (B,); clips that cannot be read are missing


class RatedClips(Clips):
    """Clips with ratings, and numbers of their categories if there are (-1 = not known); longer
    training clips are cropped to `crop_s` seconds."""

    def __init__(self, table: Labels, classes: np.ndarray | None, crop_s: float):
        made_with = table.provenance.get("variants")
        super().__init__(table.frame, table.root, cache=Cache(), made_with=made_with)
        self.table = table
        self.values = torch.tensor(table.values, dtype=torch.float32)
        self.classes = None if classes is None else torch.tensor(classes)
        self.crop = round(crop_s * audio.SAMPLING_RATE)

    def shuffled(self, rows: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """The rows in the order of an epoch."""
        return random.permutation(rows)

    def conditions(self) -> dict[str, contextlib.AbstractContextManager[None]]:
        """What a network is validated under, by the ending of the names of its figures."""
        return {"": contextlib.nullcontext()}

    def part(self, rows: np.ndarray, draws: np.ndarray | None) -> Part:
        """Inputs of a network for some rows; clips that cannot be read go to `rejected`.

        `draws` (rows, 2), 0..1, are for training: where to crop, and what a subclass draws; None =
        the front of each clip, for validation.
        """
        found = self.readable(
            rows, lambda place, row: self.cut(row, None if draws is None else draws[place, 0])
        )
        signals = [torch.from_numpy(np.ascontiguousarray(signal)) for signal in found.values()]
        lengths = torch.tensor([len(signal) for signal in signals])
        padded = pad_sequence(signals, batch_first=True) if signals else torch.zeros(0, 0)
        return Part((padded, lengths), np.array(list(found), dtype=np.int64))

    def cut(self, row: int, draw: float | None) -> np.ndarray:
        """A clip cropped for training at `draw` (0..1), or its front for validation."""
        signal = self.signal(row)
        most = round(LONGEST_S * audio.SAMPLING_RATE) if draw is None else self.crop
        first = 0 if draw is None else int(draw * max(1, len(signal) - most + 1))
        return signal[first : first + most]

    def scale(self, rows: np.ndarray, most: int = 200) -> tuple[float, float]:
        """Mean and deviation of samples, over some clips spread over the rows."""
        chosen = rows[:: max(1, len(rows) // most)]
        signals = list(self.readable(chosen, lambda place, row: self.cut(row, None)).values())
        if not signals:
            raise AudioError(next(iter(self.rejected.values())))
        samples = np.concatenate(signals).astype(np.float64)
        return float(samples.mean()), float(samples.std(ddof=1))


class FineTuning(Training):
    """A network learns ratings, in batches that may be larger than memory.

    `rows` are those of the training clips, and of the validation clips; `identity` is what makes
    two runs the same run besides the options; `save` writes the best network into a folder.
    """

    title = "finetune"

    def __init__(
        self,
        output: Path,
        network: Any,
        clips: RatedClips,
        rows: tuple[np.ndarray, np.ndarray],
        options: TrainingOptions,
        compute: DeviceOptions,
        identity: Mapping[str, Any],
        save: Callable[[Any, Path], None],
    ):
        device, self.dtype, self.micro_batch = compute.resolve()
        network = network.to(device)
        learned = [value for value in network.parameters() if value.requires_grad]
        adam = torch.optim.Adam(learned, lr=options.learning_rate)
        identity = {**vars(options), **identity}
        same = {name: getattr(options, name) for name in ("epochs", "learning_rate", "seed")}
        same |= {"clip_norm": getattr(network, "clip_norm", 0.0), "threads": compute.threads}
        loop = LoopOptions(**same, checkpoint_s=CHECKPOINT_S)
        super().__init__(output, network, adam, identity=identity, options=loop, device=device)
        if hasattr(network, "after_step"):
            self.optimizer.register_step_post_hook(lambda *_: network.after_step())
        self.clips = clips
        self.train, self.valid = rows
        self.batch_size = options.batch_size
        self.save = save

    @property
    def steps(self) -> int:
        """Steps per epoch; one clip alone, which has no CCC, is left out."""
        full, rest = divmod(len(self.train), self.batch_size)
        return max(1, full + (rest > 1))

    def batches(self, epoch: int, first: int) -> Iterator[list[Part]]:
        """Batches in random order; one with fewer than two readable clips is left out."""
        random = np.random.default_rng([self.options.seed, epoch + 1])
        order = self.clips.shuffled(self.train, random)
        draws = np.stack([random.random(len(self.train)) for _ in range(2)], axis=1)

        def load(step: int) -> list[Part]:
            rows = slice(step * self.batch_size, (step + 1) * self.batch_size)
            parts = list(self._parts(order[rows], draws[rows]))
            return parts if sum(len(part.rows) for part in parts) > 1 else []

        return prepared(load, range(first, self.steps), workers=WORKERS)

    def _parts(self, rows: np.ndarray, draws: np.ndarray | None) -> Iterator[Part]:
        for at in range(0, len(rows), self.micro_batch):
            chunk = slice(at, at + self.micro_batch)
            part = self.clips.part(rows[chunk], None if draws is None else draws[chunk])
            if len(part.rows):
                yield part

    def forward(self, part: Part) -> Outputs:
        """Outputs of the network, in the precision asked for."""
        lower = self.dtype != torch.float32
        # Lengths, the only tensor of one axis, are wanted on the host.
        inputs = [
            one if isinstance(one, Tensor) and one.dim() == 1 else one.to(self.device)
            for one in part.inputs
        ]
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=lower):
            return self.network(*inputs)

    def loss(self, parts: Sequence[Part], *outputs: Any) -> Tensor:
        """The network's own loss, else that of ratings, over a full batch."""
        rows, device = np.concatenate([part.rows for part in parts]), outputs[0].device
        targets, classes = self.clips.values[rows].to(device), self.clips.classes
        classes = None if classes is None else classes[rows].to(device)
        return getattr(self.network, "loss", rating_loss)(targets, classes, *outputs)

    def validate(self) -> tuple[dict[str, float], float]:
        """CCC on validation clips under each condition, and the mean, which chooses the best.

        All conditions count the same: text is learned first, and the epoch that is best with text
        is seldom good without it. A CCC that is not defined counts as 0.
        """
        figures: dict[str, float] = {}
        scores = []
        for ending, condition in self.clips.conditions().items():
            with condition:
                ccc = self._ccc()
            figures |= {name + ending: value for name, value in ccc.items()}
            scores.append(float(np.nan_to_num(list(ccc.values())).mean()))
        score = sum(scores) / len(scores)
        return {**figures, "mean": score}, score

    @torch.no_grad()
    def _ccc(self) -> dict[str, float]:
        self.network.eval()
        outputs, rows = [], []
        chunks = np.split(self.valid, range(self.micro_batch, len(self.valid), self.micro_batch))
        for part in prepared(lambda rows: self.clips.part(rows, None), chunks, workers=WORKERS):
            if len(part.rows):
                values = self.forward(part)[0]
                assert values is not None
                outputs.append(values.float().cpu())
                rows.append(part.rows)
        if not outputs:
            raise Wav2SmallError("--validation: none of the held-out clips can be read")
        predictions = torch.cat(outputs).numpy()
        targets = self.clips.values[np.concatenate(rows)].numpy()
        rated = zip(self.clips.table.dimensions, targets.T, predictions.T, strict=True)
        return {name: metrics.ccc(target, prediction) for name, target, prediction in rated}

    def keep_best(self) -> None:
        """Write the network into the output folder."""
        self.save(self.network, self.output)

    def summary(self) -> str:
        """The score that chooses the best epoch."""
        return f"best {self.state['best']:.3f}, epoch {self.state['best_epoch']}"

    @property
    def losses(self) -> list[float]:
        """Mean training loss of every epoch."""
        return [row["loss"] for row in self.state["rows"]]

    @property
    def best_row(self) -> dict[str, Any]:
        """The row of metrics.csv of the best epoch."""
        return self.state["rows"][self.state["best_epoch"] - 1]


def run(output: Path, make: Callable[[], FineTuning], *, seed: int, overwrite: bool) -> FineTuning:
    """Make a training and take it to its end, in a folder that no other process uses.

    What `make` draws for first weights depends on the seed.

    Raises:
        Wav2SmallError: the folder holds another run, and `overwrite` is not set
        KeyboardInterrupt: stopped; the same call resumes
    """
    with files.Lock(output / ".lock"), Stop() as stop:
        saved = output / checkpoints.NAME
        if not overwrite and not saved.exists() and (output / checkpoint.CONFIG).exists():
            raise Wav2SmallError(f"{output}: holds a model of another run; use --overwrite")
        torch.manual_seed(seed)
        training = make()
        if overwrite:  # only now: what `make` refuses leaves the former run as it was
            saved.unlink(missing_ok=True)
        training.fit(stop)
    return training
