"""Pretraining of multimodal systems: objectives of their own, no ratings.

A system that is pretrained has `teachers/multimodal/NAME_objectives.py` with a class

    Objectives(network)     an nn.Module with the network and the heads of the objectives
        negatives           how many turns of other dialogues `collate` takes with each passage
        collate(passages, others, random) -> task with `.to(device)`
        forward(task) -> tensors whose first axis is the batch
        loss(*tensors) -> scalar, of a full batch
        figures(*tensors) -> {name: value} of a full batch, for metrics.csv

and its name in `SYSTEMS`. The best epoch, by the loss on held-out clips, is kept in the layout that
`finetune --pretrained` begins with.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wav2small import audio, files, provenance, transcripts
from wav2small.dimensions import DIMENSIONS
from wav2small.errors import AudioError, Wav2SmallError
from wav2small.index import Index, load_source
from wav2small.tables import Labels
from wav2small.teachers.labelling import plan
from wav2small.teachers.multimodal.dialogue import Turn
from wav2small.teachers.speech import checkpoint
from wav2small.training import checkpoint as checkpoints
from wav2small.training import weights
from wav2small.training.loop import COLUMNS
from wav2small.training.split import split

from .multimodal_recipe import MultimodalClips, MultimodalRecipe
from .options import DeviceOptions, TrainingOptions
from .training import LONGEST_S, FineTuning, Part, run

SYSTEMS = ("spectra", "calm")
DEFAULTS = TrainingOptions(epochs=20, validation="0.1")  # chosen


@dataclass(frozen=True)
class Pretrained:
    """What pretraining did.

    Attributes:
        output: folder of the pretrained system
        best_epoch: from 1
        figures: on held-out clips, of that epoch
        losses: mean training loss of every epoch
        licence: whom it binds
        rejected: reasons of the clips that could not be read and were left out
    """

    output: str
    best_epoch: int
    figures: dict[str, float]
    losses: list[float]
    licence: str
    rejected: list[str]


def pretrain(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    recipe: MultimodalRecipe,
    *,
    root: str | os.PathLike[str] | None = None,
    audio_licence: str = provenance.UNKNOWN,
    training: TrainingOptions = DEFAULTS,
    compute: DeviceOptions | None = None,
    overwrite: bool = False,
) -> Pretrained:
    """Pretrain a system on speech with transcripts.

    Stopped at any moment and called again with the same arguments, it resumes, and ends with the
    weights that it would have had without the stop.

        pretrain("turns.parquet", "pretrained/", MultimodalRecipe("spectra", "wavlm/", "roberta/"))

    Args:
        source: CSV, parquet or audformat with a column `text`, and what of `words`, `dialogue`,
            `turn` there is
        output: folder; an unfinished run in it is resumed
        recipe: the system, one of `SYSTEMS`, and its encoders; or `pretrained`, the folder of an
            earlier pretraining, to go on from
        root: folder that the files of the index are relative to
        audio_licence: licence of the audio, for the provenance
        training: how to train; the learning rate falls to 0 along half a cosine
        compute: where
        overwrite: replace another run

    Raises:
        Wav2SmallError: wrong options, no transcripts, another run's folder
        KeyboardInterrupt: stopped with Ctrl-C, after saving
    """
    objectives_class = _objectives(recipe.system)
    compute = compute or DeviceOptions()
    compute.resolve()  # a wrong device is an error before the audio is read
    index = _index(source, root)
    if "text" not in index.frame or index.frame["text"].isna().all():
        raise Wav2SmallError(
            f"{source}: no transcripts; pretraining needs a column `text` (for word times `words`)"
        )
    train, valid = split(index.frame, training.validation, seed=training.seed)
    clips = PretrainingClips(index, training.crop_s, recipe)
    identity = {"system": recipe.system, "encoders": recipe.identity["revision"]}
    identity["source"] = f"{plan.identity(index)['source']} {transcripts.digest(index.frame)}"
    lineage = provenance.new(
        teachers=recipe.entries,
        audio=[{"source": os.fspath(source), "licence": audio_licence}],
        pretraining={**vars(training), **identity},
    )

    def save(objectives: Any, folder: Path) -> None:
        recipe.save(objectives.network, folder)
        files.write_json(folder / "provenance.json", lineage)

    def make() -> Pretraining:
        scale = recipe.scale or clips.scale(train)
        network = recipe.build(DIMENSIONS, (), scale, trained=False)
        for head in (network.outputs, network.no_speech, network.no_text):
            head.requires_grad_(False)  # fine-tuning's
        clips.objectives = made = objectives_class(network)
        rows = train, valid
        return Pretraining(Path(output), made, clips, rows, training, compute, identity, save)

    done = run(Path(output), make, seed=training.seed, overwrite=overwrite)
    figures = {name: value for name, value in done.best_row.items() if name not in COLUMNS}
    return Pretrained(
        output=str(output),
        best_epoch=done.state["best_epoch"],
        figures=figures,
        losses=done.losses,
        licence=provenance.licence_line(lineage),
        rejected=list(clips.rejected.values()),
    )


def judge(
    folder: str | os.PathLike[str],
    source: str | os.PathLike[str],
    *,
    batch_size: int = DEFAULTS.batch_size,
    crop_s: float = DEFAULTS.crop_s,
    root: str | os.PathLike[str] | None = None,
    compute: DeviceOptions | None = None,
) -> dict[str, float]:
    """Figures of the objectives on other clips, after the last epoch of a pretraining.

    Args:
        folder: output of `pretrain`
        source: index of the other clips
        batch_size: clips that are compared with each other
        crop_s: longer clips are used so far
        root: folder that the files of the index are relative to
        compute: where

    Raises:
        Wav2SmallError: no pretraining there, or no clip that can be read
    """
    saved = checkpoints.load(folder)
    if saved is None:
        raise Wav2SmallError(f"{folder}: no checkpoint of `wav2small pretrain` in it")
    system = checkpoint.local(folder).config["model_type"]
    recipe = MultimodalRecipe(system, pretrained=os.fspath(folder))
    clips = PretrainingClips(_index(source, root), crop_s, recipe)
    network = recipe.build(DIMENSIONS, (), recipe.scale or (0.0, 1.0), trained=False)
    clips.objectives = made = _objectives(system)(network)
    weights.fill(made, checkpoints.select(saved[0], "model."), Path(folder))
    rows = np.arange(len(clips)), np.arange(len(clips))
    training = TrainingOptions(batch_size=batch_size)
    compute = compute or DeviceOptions()
    compute = replace(compute, micro_batch=compute.micro_batch or batch_size)
    judged = Pretraining(Path(folder), made, clips, rows, training, compute, {}, recipe.save)
    return judged.validate()[0]


def _index(source: str | os.PathLike[str], root: str | os.PathLike[str] | None) -> Index:
    index = load_source(source, root=root)
    return replace(index, frame=transcripts.normalise(index.frame, os.fspath(source)))


def _objectives(system: str) -> Any:
    if system not in SYSTEMS:
        raise Wav2SmallError(f"pretrain {system}: give one of {', '.join(SYSTEMS)}")
    return import_module(f"wav2small.teachers.multimodal.{system}_objectives").Objectives


class Pretraining(FineTuning):
    """The objectives learn; the held-out loss chooses the best epoch."""

    title = "pretrain"

    def learning_rate(self) -> float:
        """It falls to 0 along half a cosine, epoch by epoch."""
        done = self.state["epoch"] / self.options.epochs
        return self.options.learning_rate * (1 + math.cos(math.pi * done)) / 2

    def loss(self, parts: Sequence[Part], *outputs: Any) -> Tensor:
        """The objectives' own loss."""
        return self.network.loss(*outputs)  # type: ignore[operator]

    @torch.no_grad()
    def validate(self) -> tuple[dict[str, float], float]:
        """Means over held-out batches of the loss and of the objectives' figures."""
        self.network.eval()
        totals: dict[str, float] = {}
        clips = 0
        for begin in range(0, len(self.valid), self.batch_size):
            parts = list(self._parts(self.valid[begin : begin + self.batch_size], None))
            outputs: list[Any] = [self.forward(part) for part in parts]
            if not outputs:
                continue
            joined = [torch.cat(column).float() for column in zip(*outputs, strict=True)]
            network: Any = self.network
            figures = {"held_out_loss": float(network.loss(*joined)), **network.figures(*joined)}
            clips += len(joined[0])
            for name, value in figures.items():
                totals[name] = totals.get(name, 0.0) + len(joined[0]) * value
        if not clips:
            raise Wav2SmallError("--validation: none of the held-out clips can be read")
        means = {name: total / clips for name, total in totals.items()}
        return means, -means["held_out_loss"]


class PretrainingClips(MultimodalClips):
    """Clips of an index as tasks of the objectives; `objectives` is set when it is built."""

    def __init__(self, index: Index, crop_s: float, recipe: MultimodalRecipe):
        table = Labels(index.frame, index.root)
        super().__init__(table, None, crop_s, recipe)
        self.objectives: Any = None
        named = "dialogue" in index.frame
        groups = index.frame["dialogue" if named else "file"]
        self._groups = groups.where(groups.notna(), index.frame["file"]).to_numpy()
        if len(set(self._groups)) < 2:
            raise Wav2SmallError(
                "pretraining compares a turn with those of other dialogues; there is only one"
            )

    def part(self, rows: np.ndarray, draws: np.ndarray | None) -> Part:
        """See `RatedClips.part`; masks are drawn anew in training, always the same to validate."""

        def passage(place: int, row: int) -> tuple[Any, np.random.Generator]:
            seed = row if draws is None else int(draws[place, 1] * 2**53)
            found = self.passage(row, None if draws is None else draws[place, 0])
            return found, np.random.default_rng([seed, draws is None])

        found = self.readable(rows, passage)
        others = []
        for row, (_, random) in found.items():
            near = [other.own for key, (other, _) in found.items() if self._apart(key, row)]
            others.append(
                [self._other(row, near, random) for _ in range(self.objectives.negatives)]
            )
        seeds = [int(rows[0])] if draws is None else (draws * 2**53).astype(np.int64).ravel()
        passages = [one for one, _ in found.values()]
        random = np.random.default_rng(seeds)
        task = self.objectives.collate(passages, others, random) if passages else None
        return Part((task,), np.array(list(found), dtype=np.int64))

    def _apart(self, one: int, other: int) -> bool:
        return self._groups[one] != self._groups[other]

    def _other(self, row: int, near: list[Turn], random: Any) -> Turn:
        """A turn of another dialogue with its audio: of the same batch, or of all.

        Raises:
            AudioError: ten of them cannot be read
        """
        if near:
            return near[int(random.integers(len(near)))]
        for attempt in range(10):
            other = int(random.integers(len(self._groups)))
            while not self._apart(other, row):
                other = int(random.integers(len(self._groups)))
            try:
                turn = self.script.passage(other).own
                signal = self.signal(other)[: round(LONGEST_S * audio.SAMPLING_RATE)]
                return turn._replace(signal=signal)
            except AudioError:
                if attempt == 9:
                    raise
        raise AssertionError
