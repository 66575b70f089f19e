"""Distillation: a student learns to predict what a teacher predicts about the same audio.

`distill` sets a run up, `Distiller` defines its steps; `training.loop` repeats them, `data` makes
the batches, `training.losses` holds the loss.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from wav2small import files, metrics
from wav2small.dimensions import DIMENSIONS
from wav2small.errors import Wav2SmallError
from wav2small.tables import Labels, read_labels
from wav2small.training import distributed, losses
from wav2small.training import optimiser as optimisation
from wav2small.training.cache import Cache
from wav2small.training.clips import Clips
from wav2small.training.interrupt import Stop
from wav2small.training.loop import LoopOptions, Training
from wav2small.training.optimiser import frozen_copy
from wav2small.training.split import split as divide
from wav2small.training.threads import available

from . import config as configuration
from . import data, frontend, quantisation, registry, run_folder
from .base import Student
from .config import Config
from .data import Batcher, TrainingBatch
from .voice_activity import add_voice

#: Peak rate of the quantisation-aware phase, as a share of the run's peak.
QUANTISE_RATE = 0.1
#: Fewest clips to calibrate by, and by which a deviation is changed at most; chosen.
CALIBRATION_CLIPS, MOST_GAIN = 15, 2.0
D = len(DIMENSIONS)


@dataclass
class Distillation:
    """What came out of a run.

    Attributes:
        output: run folder
        student: its name
        parameters: trained numbers
        clips: clips trained on
        validation_clips: clips it is validated on, of voices (or files) it was not trained on
        epochs: epochs done
        best_epoch: epoch whose weights are in the run folder
        ccc: agreement with the teacher on the validation clips: each dimension and "mean"; {} =
            only categories were learned
        category_agreement: share of them whose most probable category is the teacher's; None =
            no categories were learned
        voice: ROC AUC of the head for voice activity, by the ratio of speech to noise in dB
        seconds: of training and validation, over all sessions of the run
        rejected: {file: reason} of audio that could not be used
        warnings: what else the user should know
    """

    output: str
    student: str
    parameters: int
    clips: int
    validation_clips: int
    epochs: int
    best_epoch: int
    ccc: dict[str, float]
    seconds: float
    rejected: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    category_agreement: float | None = None
    voice: dict[float, float] = field(default_factory=dict)


def distill(
    labels: str | os.PathLike[str] | Labels,
    output: str | os.PathLike[str],
    *,
    root: str | None = None,
    split: str | Sequence[str] | None = None,
    config: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    online: Any = None,
    voice: bool = False,
    **settings: Any,
) -> Distillation:
    """Train a student on a label table.

    The same call goes on with a run that was stopped, and ends with the weights that it would
    have had without the stop.

    Args:
        labels: label table; may be left out if --config names it. Parquet as `wav2small label`
            writes it, CSV, audformat
        output: run folder to write: config.json and model.safetensors (the best student),
            distill.toml, provenance.json, metrics.csv, training.png, validation.parquet, last/
        root: folder that the table's files are relative to; default: the one that the table names
        split: only clips whose column `split` has one of these values, such as train
        config: TOML file with settings, same names
        overwrite: replace an existing run
        online: ask this teacher during training instead of taking the table's labels. These serve
            validation only
        voice: afterwards train nano's head for voice activity on the frozen student; needs
            silero-vad, wav2small[vad]. See `voice_activity.add_voice`
        settings: fields of `students.config.Config`, such as `epochs=20`; they win over `config`

    Raises:
        Wav2SmallError: settings, labels or audio that cannot be used; training that diverged
        KeyboardInterrupt: stopped with Ctrl-C, after saving

    Example:
        >>> distill("missing.parquet", "run", epochz=3)
        Traceback (most recent call last):
        wav2small.errors.Wav2SmallError: distill: unknown setting 'epochz'; did you mean 'epochs'?
    """
    values = configuration.read(config) if config else {}
    values.pop("labels", None)
    wanted = Config(**(values | configuration.check(settings, where="distill")))
    source, table = "", labels
    if not isinstance(table, Labels):
        source = os.path.abspath(table)
        instead = data.PROBABILITY if wanted.categories else None
        table = read_labels(table, root=root, split=split, instead=instead)
    names, targets = data.targets(table, wanted, source, online)
    made_with = data.variant_settings(wanted, table, fresh=online is not None)
    asked = [name for name in data.DISTURBANCES if getattr(wanted, name)]
    for name in asked:
        if made_with.get("targets") == "heard":
            raise Wav2SmallError(
                f"{name}: the labels of {source or 'the table'} are of variants as heard, "
                "with their noise; label with --targets clean"
            )
    if wanted.consistency_weight and (online is not None or not asked):
        options = ", ".join("--" + name.replace("_", "-") for name in data.DISTURBANCES)
        raise Wav2SmallError(
            f"--consistency-weight: add one of {options}, and use a label table, not --online"
        )
    output = Path(output)
    device, rank, size = distributed.start(wanted.device)
    if rank == 0:
        run_folder.prepare(output)
    lock = files.Lock(output / ".lock") if rank == 0 else contextlib.nullcontext()
    with lock, Stop() as stop:
        cache = Cache(wanted.cache, wanted.cache_mb << 20) if wanted.cache_mb else None
        clips = Clips(table.frame, table.root, cache=cache, made_with=made_with)
        train, valid = divide(table.frame, wanted.validation, seed=wanted.seed)
        train, valid = train[clips.lengths[train] > 0], valid[clips.lengths[valid] > 0]
        if len(train) < 2 or len(valid) < 1:
            reason = next(iter(clips.rejected.values()), "too few clips")
            raise Wav2SmallError(f"{source}: nothing to train or validate on: {reason}")
        if wanted.calibrate and (len(valid) < CALIBRATION_CLIPS or not table.dimensions):
            raise Wav2SmallError(
                f"--calibrate: {len(valid)} validation clips with labels of "
                f"{', '.join(table.dimensions) or 'categories alone'}; give {CALIBRATION_CLIPS} "
                "with labels of dimensions (--validation), or leave it out"
            )
        warnings = [
            f"{name}: every label is {table.values[train[0], i]:.4g}, CCC is undefined; the "
            "student learns this constant, and the other dimensions as usual"
            for i, name in enumerate(table.dimensions)
            if data.constant(table.values[train])[i]
        ]
        resolved = configuration.resolve(wanted, len(train))
        loading = replace(
            resolved,
            gain_db=resolved.gain_db if "gain" in data.invariances(table.provenance) else 0.0,
            workers=resolved.workers or min(8, max(2, available())),
        )
        batcher = Batcher(clips, targets, train, loading, rank, size, online)
        student = _student(resolved, names, dimensions=bool(table.dimensions))
        digest = data.digest(table, names, train, valid)
        if overwrite:  # only now: what was refused above leaves the former run as it was
            if rank == 0:
                run_folder.clear(output)
            distributed.any_process(False, device)  # wait: every process looks for a run to resume
        run = Distiller(output, student, resolved, batcher, valid, digest, device)
        if rank == 0:
            configuration.write(output / "distill.toml", resolved, labels=source)
            run_folder.write_provenance(output, table, student, resolved, digest, online)
        run.fit(stop)
        if resolved.calibrate:
            run.calibrate()
        prediction = run.predict(run.best)
        truth = targets[valid]
        if rank == 0:
            run.best.save_pretrained(output)
            run.average.model.save_pretrained(output / "last")
            run_folder.write_validation(output, table, valid, prediction, names)
            if student.dimensions:
                title = f"{resolved.student}: {len(train)} clips, {len(valid)} held out"
                picture = output / "training.png"
                run_folder.draw(picture, run.state["rows"], truth, prediction, title=title)
        ccc = {}
        for i, name in enumerate(student.dimensions):
            ccc[name] = metrics.ccc(truth[:, i], prediction[:, i])
        if ccc:
            defined = [value for value in ccc.values() if np.isfinite(value)]
            ccc["mean"] = float(np.mean(defined or [np.nan]))
        agreement = metrics.agreement(truth[:, D:], prediction[:, D:]) if names else None
        result = Distillation(
            output=str(output),
            student=resolved.student,
            parameters=sum(p.numel() for p in student.parameters() if p.requires_grad),
            clips=len(train),
            validation_clips=len(valid),
            epochs=run.state["epoch"],
            best_epoch=run.state["best_epoch"],
            ccc=ccc,
            seconds=round(run.state["seconds"], 2),
            rejected=dict(clips.rejected),
            warnings=warnings,
            category_agreement=agreement,
        )
    if voice and rank == 0:
        result.voice = add_voice(output, table).auc
    return result


class Distiller(Training):
    """The steps of a distillation.

    In the last share `freeze_bn_fraction` of the epochs BatchNorm's statistics stay as they are; a
    last phase, with `quantise`, trains with the weights on the grid of their export.

    Args:
        output: run folder
        student: with first weights
        config: resolved settings
        batcher: of the training clips
        valid: rows to validate on
        digest: hash of the labels and the split
        device: where to compute

    Attributes:
        average: moving average of the student's weights: what is validated
        best: copy of the best average so far
    """

    title = "distill"
    former = configuration.FORMER | {"train_epochs": "epochs", "settling": "freezing_bn"}

    def __init__(
        self,
        output: Path,
        student: Student,
        config: Config,
        batcher: Batcher,
        valid: np.ndarray,
        digest: str,
        device: torch.device,
    ):
        # Channels last: 15 % less time per step on x86 for every student here.
        self.model = student.to(device).to(memory_format=torch.channels_last)
        self.average = optimisation.Average(self.model, config.ema)
        # Only after the copy: these change methods of single modules, which a copy would share.
        if config.precision == "bf16":
            frontend.full_precision(self.model)
        distributed.share_batch_norm(self.model)
        self.compiled = torch.compile(self.model) if config.compile else self.model
        identity = {
            "architecture": {"name": student.name, **student.config},
            "labels or split": digest,
            **configuration.identity(config),
        }
        loop = {item.name: getattr(config, item.name) for item in fields(LoopOptions)}
        super().__init__(
            output,
            self.model,
            optimisation.adamw(self.model, weight_decay=config.weight_decay),
            identity=identity,
            options=LoopOptions(**loop),
            device=device,
        )
        self.state |= {"quantising": False, "freezing_bn": False}
        self.config = config
        self.batcher = batcher
        self.valid = valid
        self.events = run_folder.events(output) if batcher.rank == 0 else None
        self.categories = len(student.config["categories"]) if config.categories else 0
        self.both = {"categories": bool(self.categories)}  # heads to ask
        self.levels = {}
        if config.quantise != "none":
            self.levels = quantisation.plan(self.model, config.quantise)
        self.final_epochs = config.quantise_epochs if self.levels else 0
        self.best = frozen_copy(self.average.model)
        # The CCC of a dimension whose training labels are all the same is not defined.
        self.varies = np.zeros(D, dtype=bool)
        if student.dimensions:
            self.varies = ~data.constant(batcher.labels[batcher.rows, :D])
        weights = torch.tensor(config.dimension_weights, device=device)
        varies = torch.tensor(self.varies, dtype=weights.dtype, device=device)
        self.ccc_weights = config.ccc_weight * weights * varies
        self.regression_weights = config.regression_weight * weights * bool(student.dimensions)

    @property
    def steps(self) -> int:
        """Steps per epoch."""
        return self.batcher.steps

    def batches(self, epoch: int, first: int) -> Iterator[list[TrainingBatch]]:
        """A batch is one part: students are small."""
        for batch in self.batcher.epoch(epoch, first=first):
            yield [batch]

    def loading_s(self) -> float:
        """As the batcher measures: the first epoch decodes."""
        return self.batcher.loading_s

    def forward(self, part: TrainingBatch) -> tuple[Tensor]:
        """(B, 3 + K) float32, with the weights on their grids in the last phase."""
        inputs = part.signal.to(self.device), part.lengths.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, self.config.precision == "bf16"):
            if self.state["quantising"]:
                weights = quantisation.parameters(self.model, self.levels)
                return (functional_call(self.model, weights, inputs, self.both).float(),)
            return (self.compiled(*inputs, **self.both).float(),)

    def loss(self, parts: Sequence[TrainingBatch], *outputs: Tensor) -> Tensor:
        """1 - CCC and regression over the global batch, consistency and categories if asked for."""
        config = self.config
        targets = distributed.gather(parts[0].labels.to(self.device))
        predictions = distributed.gather(outputs[0])
        loss = losses.distillation_loss(
            targets[:, :D],
            predictions[:, :D],
            ccc_weights=self.ccc_weights,
            regression_weights=self.regression_weights,
            kind=config.regression,
            trim=config.trim,
        )
        if config.consistency_weight:
            pairs = predictions[::2, :D], predictions[1::2, :D]  # see `TrainingBatch`
            agreement = (self.ccc_weights * (1 - losses.ccc(*pairs))).sum()
            loss = loss + config.consistency_weight * agreement
        if self.categories:
            entropy = losses.category_loss(targets[:, D:], predictions[:, D:])
            loss = loss + config.category_weight * entropy
        return loss

    def learning_rate(self) -> float:
        """Learning rate of the next step: by the schedule, anew in the last phase."""
        state, config = self.state, self.config
        done = state["epoch"] + state["step"] / self.steps
        if state["quantising"]:
            share = optimisation.rate((done - state["epochs"]) / self.final_epochs, "cosine")
            return config.learning_rate * QUANTISE_RATE * share
        return config.learning_rate * optimisation.rate(done / config.epochs, config.schedule)

    def train_mode(self) -> None:
        """Training mode, but for BatchNorm's statistics where they are frozen."""
        self.model.train()
        if self.state["freezing_bn"]:
            for module in self.model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def after_step(self, number: int) -> None:
        """Update the moving average of the weights."""
        self.average.update(self.model, number)

    def begin_epoch(self) -> None:
        """Begin a phase where one begins, from the best weights so far.

        A deep student leans on the statistics of its batches, which it does not have when it is
        used: while they are frozen it learns without them, with those that it was validated with.
        """
        state, config = self.state, self.config
        frozen_from = config.epochs * (1 - config.freeze_bn_fraction)
        if state["epoch"] >= state["epochs"] and not state["quantising"]:
            self._restart()
            self.optimizer = optimisation.adamw(self.model, weight_decay=config.weight_decay)
            state |= {"quantising": True, "best": None}
        elif config.freeze_bn_fraction and state["epoch"] >= frozen_from:
            if not state["freezing_bn"]:
                self._restart()
                state["freezing_bn"] = True

    def _restart(self) -> None:
        self.model.load_state_dict(self.best.state_dict())
        self.average = optimisation.Average(self.best, self.config.ema)

    def validate(self) -> tuple[dict[str, Any], float]:
        """Agreement with the teacher on full validation clips, of the averaged weights."""
        self.validated = self.average.model
        if self.state["quantising"]:
            self.validated = frozen_copy(self.average.model)
            quantisation.apply(self.validated, self.levels)
        prediction = self.predict(self.validated)
        truth = self.batcher.labels[self.valid]
        figures: dict[str, Any] = {"phase": "quantise" if self.state["quantising"] else "train"}
        agreement = {}
        if self.categories:
            agreement["category_agreement"] = metrics.agreement(truth[:, D:], prediction[:, D:])
        if not self.model.dimensions:
            pair = torch.from_numpy(truth[:, D:]), torch.from_numpy(prediction[:, D:])
            return figures | agreement, -float(losses.category_loss(*pair))
        ccc = [metrics.ccc(truth[:, i], prediction[:, i]) for i in range(D)]
        mean = float(np.mean([f for f, varies in zip(ccc, self.varies, strict=True) if varies]))
        figures |= {f"ccc_{name}": value for name, value in zip(DIMENSIONS, ccc, strict=True)}
        figures |= {"ccc_mean": mean, **agreement}
        # One clip, or labels that do not vary: CCC is not defined, the error still is.
        score = mean if math.isfinite(mean) else -float(np.mean((truth - prediction)[:, :D] ** 2))
        return figures, score

    def calibrate(self) -> None:
        """Give the best weights' estimates for validation clips the labels' mean and deviation.

        A network shrinks towards the mean what it cannot predict, most of all for voices that it
        was not trained on. CCC counts that as an error, and people who rate do not shrink.
        """
        truth = self.batcher.labels[self.valid, :D]
        estimates = self.predict(self.best)[:, :D]
        varies = self.varies & (np.ptp(truth, axis=0) > 0)
        gain = np.where(varies, truth.std(0) / np.maximum(estimates.std(0), 1e-6), 1.0)
        gain = np.clip(gain, 1 / MOST_GAIN, MOST_GAIN)
        shift = truth.mean(0) - gain * estimates.mean(0)
        slope, offset = (torch.from_numpy(x).float().to(self.device) for x in (gain, shift))
        with torch.no_grad():  # a factor per row leaves the weights on their grid
            self.best.adv.weight.mul_(slope[:, None])
            self.best.adv.bias.mul_(slope).add_(offset)

    def keep_best(self) -> None:
        """Keep the validated weights, in memory and in the run folder."""
        self.best = frozen_copy(self.validated)
        if self.batcher.rank == 0:
            self.best.save_pretrained(self.output)

    @torch.no_grad()
    def predict(self, model: Student) -> np.ndarray:
        """Outputs (clips, 3 + K) for the validation clips, in the order of `valid`."""
        model.eval()
        rank, size = distributed.world()
        places = {row: place for place, row in enumerate(self.valid)}
        result = torch.zeros(len(self.valid), D + self.categories, device=self.device)
        batches = data.full_clips(
            self.batcher.clips,
            self.batcher.labels,
            self.valid[rank::size],
            # On a CPU larger batches outgrow its caches, and hold .3 GB more.
            batch_samples=1 << (19 if self.device.type == "cpu" else 21),
            workers=self.batcher.config.workers,
        )
        for batch in batches:
            output = model(batch.signal.to(self.device), batch.lengths.to(self.device), **self.both)
            result[[places[row] for row in batch.rows]] = output.float()
        return distributed.sum_everywhere(result).cpu().numpy().astype(np.float64)

    def modules(self) -> dict[str, nn.Module]:
        """What a checkpoint holds besides the optimiser."""
        return {"model": self.model, "average": self.average.model, "best": self.best}

    def save_batch(self, parts: Sequence[TrainingBatch]) -> str:
        """Write the batch that made training diverge into the run folder."""
        path = self.output / f"bad_batch{self.batcher.rank or ''}.safetensors"
        run_folder.write_batch(path, parts[0], self.batcher.clips.files)
        return f"the batch is in {path}, "

    def summary(self) -> str:
        """Agreement of the last epoch."""
        row = self.state["rows"][-1]
        if not self.model.dimensions:
            return f"the teacher's category {row['category_agreement']:.0%}"
        return "CCC " + " ".join(f"{n[0].upper()} {row[f'ccc_{n}']:.3f}" for n in DIMENSIONS)


def _student(config: Config, categories: list[str], *, dimensions: bool) -> Student:
    torch.manual_seed(config.seed)
    options = config.student_options | ({"categories": categories} if categories else {})
    options |= {} if dimensions else {"dimensions": False}
    student = registry.create(config.student, **options)
    if config.init:
        start = registry.load(config.init)
        # What begins anew: a head that finds speech, and one for other categories.
        anew = ("voice.",) if start.config["categories"] == categories else ("voice.", "category.")
        state = {k: v for k, v in start.state_dict().items() if not k.startswith(anew)}
        state |= {k: v for k, v in student.state_dict().items() if k.startswith(anew)}
        student.load_weights(state, config.init)
    return student
