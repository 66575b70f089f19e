"""Distillation: a student learns to say what the teacher said about the same audio."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wav2small import augmentation as variants
from wav2small import files, metrics, provenance
from wav2small.audio import SAMPLING_RATE
from wav2small.dimensions import DIMENSIONS
from wav2small.errors import Wav2SmallError
from wav2small.index import KEYS, fingerprint
from wav2small.tables import Labels, read_labels, write_labels
from wav2small.training import distributed as parallel
from wav2small.training.interrupt import Stop
from wav2small.training.split import split

from . import config as configuration
from . import plots, registry
from .base import Student
from .config import Config
from .data import Batcher, Clips
from .training import D, Trainer

#: Begins the names of the columns with a teacher's categories, and of the head that learns them.
PROBABILITY, HEAD = "probability_", "category."

#: Everything a run writes: what `overwrite` removes, and nothing else.
PARTS = (
    "config.json model.safetensors distill.toml provenance.json metrics.csv training.png "
    "validation.parquet bad_batch.safetensors events last .lock"
).split()


@dataclass
class Distillation:
    """What came out of a run.

    Attributes:
        output: run folder
        student: its name
        parameters: trained numbers
        clips: clips trained on
        validation_clips: clips it is judged on; it heard no other clip of their voices (files)
        epochs: epochs done
        best_epoch: epoch whose weights are in the run folder
        ccc: agreement with the teacher on the validation clips: each dimension and "mean"
        category_agreement: share of them whose most probable category is the teacher's; None =
            no categories were learned
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


def distill(
    labels: str | os.PathLike[str] | Labels,
    output: str | os.PathLike[str],
    *,
    root: str | None = None,
    config: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    online: Any = None,
    **settings: Any,
) -> Distillation:
    """Train a student on a label table.

    The same call goes on with a run that was stopped, and ends with the weights that it would
    have had without the stop.

    Args:
        labels: label table (parquet as `wav2small label` writes it, CSV, audformat)
        output: run folder: config.json and model.safetensors (the best student), distill.toml,
            provenance.json, metrics.csv, training.png, validation.parquet, last/
        root: folder that the table's files are relative to; default: what the table says
        config: TOML file with settings
        overwrite: replace an existing run
        online: a teacher to ask during training; the table's labels serve validation only
        settings: fields of `students.config.Config`, such as `epochs=20`; they win over `config`

    Raises:
        Wav2SmallError: settings, labels or audio that cannot be; training that diverged
        KeyboardInterrupt: stopped with Ctrl-C, after saving
    """
    values = configuration.read(config) if config else {}
    values.pop("labels", None)
    wanted = Config(**(values | configuration.check(settings, where="distill")))
    table = labels if isinstance(labels, Labels) else read_labels(labels, root=root)
    source = "" if isinstance(labels, Labels) else os.path.abspath(labels)
    names, targets = _targets(table, wanted, source, online)
    output = Path(output)
    device, rank, size = parallel.start(wanted.device)
    if rank == 0:
        _prepare(output, overwrite=overwrite)
    lock = files.Lock(output / ".lock") if rank == 0 else contextlib.nullcontext()
    with lock, Stop() as stop:
        clips = Clips(
            table.frame,
            table.root,
            cache_bytes=wanted.cache_mb << 20,
            made_with=_variants(wanted, table, fresh=online is not None),
        )
        train, valid = split(table.frame, wanted.validation, seed=wanted.seed)
        train, valid = train[clips.lengths[train] > 0], valid[clips.lengths[valid] > 0]
        if len(train) < 2 or len(valid) < 1:
            reason = next(iter(clips.rejected.values()), "too few clips")
            raise Wav2SmallError(f"{source}: nothing to train or validate on: {reason}")
        constant, warnings = _constant(table.values[train])
        resolved = resolve(wanted, len(train))
        batcher = Batcher(
            clips,
            targets,
            train,
            batch_size=resolved.batch_size,
            crop=round(resolved.crop_s * SAMPLING_RATE),
            gain_db=resolved.gain_db if "gain" in invariances(table.provenance) else 0.0,
            seed=resolved.seed,
            workers=resolved.workers,
            rank=rank,
            size=size,
            teacher=online,
            augment_probability=resolved.augment_probability,
        )
        run = Trainer(
            output,
            _student(resolved, names),
            resolved,
            batcher,
            valid,
            fingerprint=_fingerprint(table, names, train, valid),
            constant=constant,
            device=device,
            events=_events(output) if rank == 0 else None,
        )
        if rank == 0:
            configuration.write(output / "distill.toml", resolved, labels=source)
            _write_provenance(output, table, run)
        run.fit(stop)
        prediction = run.predict(run.best)
        truth = table.values[valid]
        ccc = [metrics.ccc(truth[:, i], prediction[:, i]) for i in range(len(DIMENSIONS))]
        if rank == 0:
            _finish(output, table, names, valid, prediction, run)
        return Distillation(
            output=str(output),
            student=resolved.student,
            parameters=sum(p.numel() for p in run.model.parameters() if p.requires_grad),
            clips=len(train),
            validation_clips=len(valid),
            epochs=run.state["epoch"],
            best_epoch=run.state["best_epoch"],
            ccc=dict(zip(DIMENSIONS, ccc, strict=True))
            | {"mean": float(np.mean([value for value in ccc if np.isfinite(value)] or [np.nan]))},
            seconds=round(run.state["seconds"], 2),
            rejected=dict(clips.rejected),
            warnings=warnings,
            category_agreement=metrics.agreement(targets[valid, D:], prediction[:, D:])
            if names
            else None,
        )


def resolve(config: Config, clips: int) -> Config:
    """Settings with every 0 that stands for "choose for me" replaced, for `clips` clips."""
    batch_size = min(config.batch_size or 16, clips)
    small = config.student in configuration.LEARNING_RATES
    epochs = config.epochs or int(np.clip(round(16 * (500 / clips) ** 0.4), 4, 60))
    return dataclasses.replace(
        config,
        batch_size=batch_size,
        epochs=epochs,
        learning_rate=config.learning_rate
        or configuration.LEARNING_RATES.get(config.student, configuration.DEEP_LEARNING_RATE),
        freeze_bn_fraction=config.freeze_bn_fraction
        or (0.0 if small else configuration.DEEP_FREEZE_BN_FRACTION),
        quantise_epochs=config.quantise_epochs or max(2, round(epochs / 10)),
    )


def invariances(provenance_: Mapping[str, Any]) -> frozenset[str]:
    """What changes of the audio none of a label table's teachers hears, such as {"gain"}."""
    sets = [set(teacher.get("invariances", ())) for teacher in provenance_.get("teachers", ())]
    return frozenset(set.intersection(*sets)) if sets else frozenset()


def _variants(config: Config, table: Labels, *, fresh: bool) -> Mapping[str, Any]:
    """What variants are made with: as the table's were, or as asked for with a teacher online."""
    if fresh and (config.noise or config.rooms):
        return vars(variants.settings(noise=config.noise or None, rooms=config.rooms or None))
    return table.provenance.get("variants") or {}


def _targets(
    table: Labels, config: Config, source: str, online: Any
) -> tuple[list[str], np.ndarray]:
    """Names of the categories to learn, and what the student is to say: (clips, 3 + K).

    Raises:
        Wav2SmallError: there are none, or nothing that could teach them
    """
    if not config.categories:
        if config.student_options.get("categories"):
            raise Wav2SmallError("student_options: categories are learned with --categories")
        return [], table.values
    if online is not None:
        raise Wav2SmallError("--categories: learned from a label table only; leave out --online")
    columns = [name for name in map(str, table.frame) if name.startswith(PROBABILITY)]
    if len(columns) < 2:
        raise Wav2SmallError(
            f"--categories: {source or 'the table'} has no columns {PROBABILITY}NAME; label with a "
            "teacher that tells them (`wav2small finetune --categories COLUMN`)"
        )
    told = table.frame[columns].to_numpy(np.float64)
    return [name.removeprefix(PROBABILITY) for name in columns], np.hstack([table.values, told])


def _student(config: Config, categories: list[str]) -> Student:
    torch.manual_seed(config.seed)
    options = config.student_options | ({"categories": categories} if categories else {})
    student = registry.create(config.student, **options)
    if config.init:
        start = registry.load(config.init)
        state = start.state_dict()
        if start.config["categories"] != categories:  # the second head begins anew
            own = student.state_dict().items()
            state = {k: v for k, v in state.items() if not k.startswith(HEAD)}
            state |= {k: v for k, v in own if k.startswith(HEAD)}
        student.load_weights(state, config.init)
    return student


def _prepare(output: Path, *, overwrite: bool) -> None:
    """Make the run folder; reject one that holds something else."""
    if output.exists() and not output.is_dir():
        raise Wav2SmallError(f"{output}: a file, not a folder; choose another -o")
    foreign = output.is_dir() and any(entry.name not in PARTS for entry in output.iterdir())
    if foreign and not (output / "distill.toml").exists():
        raise Wav2SmallError(f"{output}: holds other files and no run; choose another -o")
    if overwrite and output.is_dir():
        with files.Lock(output / ".lock"):
            for name in PARTS:
                path = output / name
                if path.is_dir():
                    shutil.rmtree(path)
                elif name != ".lock":
                    path.unlink(missing_ok=True)
    output.mkdir(parents=True, exist_ok=True)


def _constant(labels: np.ndarray) -> tuple[list[bool], list[str]]:
    """Dimensions whose labels do not vary, and what to tell about them."""
    constant = [bool(np.ptp(labels[:, i]) < 1e-6) for i in range(len(DIMENSIONS))]
    if all(constant):
        raise Wav2SmallError(
            "all labels are the same in every dimension: nothing to learn; label other audio"
        )
    warnings = [
        f"{name}: every label is {labels[0, i]:.4g}, CCC is undefined; the student learns this "
        "constant, and the other dimensions as usual"
        for i, name in enumerate(DIMENSIONS)
        if constant[i]
    ]
    return constant, warnings


def _fingerprint(table: Labels, categories: list[str], train: np.ndarray, valid: np.ndarray) -> str:
    """Hash of what is learned: clips, labels, split."""
    columns = [*KEYS, *DIMENSIONS] + (["variant"] if "variant" in table.frame else [])
    columns += [PROBABILITY + name for name in categories]
    return fingerprint(table.frame[columns], train.astype(np.int64), valid.astype(np.int64))


def _events(output: Path) -> Any:
    """TensorBoard's writer, if it is installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(output / "events"))


def _write_provenance(output: Path, table: Labels, run: Trainer) -> None:
    lineage = {
        **provenance.new(),
        **table.provenance,
        "student": run.state["student"],
        "distillation": {
            "labels": run.state["fingerprint"],
            "settings": {
                k: v for k, v in asdict(run.config).items() if k not in configuration.RESUME_SAFE
            },
        },
        "versions": {
            **table.provenance.get("versions", {}),
            **provenance.versions("numpy", "soundfile", "soxr", "torch"),
        },
    }
    files.write_json(output / "provenance.json", lineage)


def _finish(
    output: Path,
    table: Labels,
    categories: list[str],
    valid: np.ndarray,
    prediction: np.ndarray,
    run: Trainer,
) -> None:
    """Best and last weights, predictions on the validation clips, picture."""
    run.best.save_pretrained(output)
    run.average.model.save_pretrained(output / "last")
    frame = table.frame.iloc[valid].reset_index(drop=True)
    for column, name in enumerate(DIMENSIONS):
        frame[f"{name}_student"] = prediction[:, column].astype(np.float32)
    shares = torch.from_numpy(prediction[:, D:]).softmax(dim=1).numpy()
    for column, name in enumerate(categories):
        frame[f"student_{PROBABILITY}{name}"] = shares[:, column].astype(np.float32)
    root = table.root if "://" in table.root else os.path.abspath(table.root)
    lineage = json.loads((output / "provenance.json").read_text())
    write_labels(output / "validation.parquet", Labels(frame, root, lineage))
    plots.training(
        output / "training.png",
        run.state["rows"],
        table.values[valid],
        prediction,
        title=f"{run.config.student}: {len(run.batcher.rows)} clips, {len(valid)} held out",
    )
