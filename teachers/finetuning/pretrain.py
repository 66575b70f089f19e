"""Pretraining of systems that read: objectives of their own, no ratings.

A system that is pretrained has `teachers/NAME_objectives.py` with a class

    Objectives(network)     an nn.Module with the network and the heads of the objectives
        negatives           how many turns of other dialogues `collate` wants beside each passage
        collate(passages, others, random) -> task with `.to(device)`
        forward(task) -> tensors whose first axis is the batch
        loss(*tensors) -> scalar, of a whole batch
        figures(*tensors) -> {name: value} of a whole batch, for metrics.csv

and its name in `SYSTEMS`. The best epoch, by the loss on held-out clips, is kept in the layout that
`finetune --pretrained` begins with.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
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
from wav2small.teachers.multimodal import teacher as multimodal
from wav2small.teachers.multimodal.turns import Turn
from wav2small.teachers.speech.neural import choose_device, choose_dtype
from wav2small.training import checkpoint as checkpoints
from wav2small.training.interrupt import Stop
from wav2small.training.split import split

from . import epochs as epochs_
from .learner import Heard, Learner
from .multimodal_recipe import MultimodalClips, MultimodalRecipe

SYSTEMS = ("spectra", "calm")
EPOCHS = 20  # (chosen)
BATCH_SIZE = 32  # (chosen)
LEARNING_RATE = 1e-4  # (chosen)


@dataclass(frozen=True)
class Settings:
    """What makes two runs the same run."""

    system: str
    encoders: str
    epochs: int
    batch_size: int
    learning_rate: float
    crop_s: float
    validation: str
    seed: int
    source: str


@dataclass(frozen=True)
class Result:
    """What pretraining did.

    Attributes:
        output: folder of the pretrained system
        best_epoch: from 1
        figures: on held-out clips, of that epoch
        losses: mean training loss of every epoch
        licence: whom it binds
        rejected: reasons of the clips that could not be heard and were left out
    """

    output: str
    best_epoch: int
    figures: dict[str, float]
    losses: list[float]
    licence: str
    rejected: list[str]


def pretrain(
    system: str,
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    speech: str | None = None,
    text: str | None = None,
    pretrained: str | None = None,
    epochs: int = EPOCHS,
    batch_size: int = BATCH_SIZE,
    micro_batch: int | None = None,
    learning_rate: float = LEARNING_RATE,
    crop_s: float = 8.0,
    validation: str = "0.1",
    root: str | None = None,
    audio_licence: str = provenance.UNKNOWN,
    device: str = "auto",
    dtype: str = "auto",
    seed: int = 0,
    overwrite: bool = False,
) -> Result:
    """Pretrain a system on speech with transcripts.

    Stopped at any moment and called again with the same arguments, it goes on after the last
    whole epoch.

    Args:
        system: one of `SYSTEMS`
        source: index with `text`, and what of `words`, `dialogue`, `turn` there is
        output: folder for the pretrained system
        speech: folder or hub id of the speech encoder
        text: folder or hub id of the text encoder
        pretrained: go on with the folder of an earlier pretraining, instead of these two
        epochs: passes over the clips
        batch_size: clips of a step
        micro_batch: clips in memory at a time; None = 4 on a CPU, 16 on a GPU
        learning_rate: of Adam in the first epoch; it falls to 0 along half a cosine
        crop_s: longer clips are cropped at random to so many seconds
        validation: held-out share, or COLUMN=VALUE,VALUE; whole speakers if there is `speaker`
        root: folder that the files of the index are relative to
        audio_licence: licence of the audio, for the provenance
        device: "auto", "cpu", "cuda", "cuda:1"
        dtype: "auto" (bfloat16 on a GPU), "float32", "bfloat16"
        seed: of everything random
        overwrite: replace what another run left in `output`

    Raises:
        Wav2SmallError: wrong arguments, no transcripts, an encoder that cannot be used
        KeyboardInterrupt: stopped with Ctrl-C; whole epochs are kept
    """
    objectives_class = _objectives(system)
    if epochs < 1 or batch_size < 2 or (micro_batch is not None and micro_batch < 1):
        raise Wav2SmallError("give at least 1 epoch, batches of 2 clips, micro-batches of 1")
    chosen = choose_device(device)
    precision = choose_dtype(dtype, chosen)
    index = _index(source, root)
    if "text" not in index.frame or index.frame["text"].isna().all():
        raise Wav2SmallError(
            f"{source}: no transcripts; pretraining needs a column `text` (for word times `words`)"
        )
    recipe = MultimodalRecipe(system, speech, text, pretrained)
    train, valid = split(index.frame, validation, seed=seed)
    settings = Settings(
        system=system,
        encoders=recipe.revision,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        crop_s=crop_s,
        validation=validation,
        seed=seed,
        source=f"{plan.identity(index)['source']} {transcripts.digest(index.frame)}",
    )
    output = Path(output)
    clips = PretrainingClips(index, crop_s, recipe)
    size = micro_batch or (16 if chosen.type == "cuda" else 4)
    with files.Lock(output / ".lock"), Stop() as stop:
        saved = epochs_.find(output, settings, overwrite=overwrite)
        torch.manual_seed(seed)
        scale = recipe.scale or clips.scale(train)
        network = multimodal.build(
            system, recipe.start, dimensions=DIMENSIONS, scale=scale, trained=False
        )
        network.speech.freeze_front()
        for head in (network.outputs, network.no_speech, network.no_text):
            head.requires_grad_(False)  # fine-tuning's
        objectives = objectives_class(network).to(chosen)
        clips.objectives = objectives
        parameters = [value for value in objectives.parameters() if value.requires_grad]
        optimizer = torch.optim.Adam(parameters, lr=learning_rate)
        learner = _Learner(objectives, optimizer, clips, chosen, precision, batch_size, size)
        history = provenance.new(
            teachers=recipe.entries,
            audio=[{"source": os.fspath(source), "licence": audio_licence}],
            pretraining=vars(settings),
        )

        def learn(epoch: int) -> float | None:
            done = (epoch - 1) / epochs
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * (1 + math.cos(math.pi * done)) / 2
            return learner.epoch(train, seed=seed, epoch=epoch, stop=stop)

        def held_out() -> tuple[Mapping[str, float], float]:
            figures = learner.figures(valid)
            return figures, -figures["held_out_loss"]

        def keep() -> None:
            multimodal.save(network, output)
            files.write_json(output / "provenance.json", history)

        state = epochs_.train(
            output,
            settings=settings,
            saved=saved,
            network=objectives,
            optimizer=optimizer,
            epochs=epochs,
            learn=learn,
            judge=held_out,
            keep=keep,
        )
    best = dict(state["rows"][state["best_epoch"] - 1])
    return Result(
        str(output),
        int(best.pop("epoch")),
        best,
        [row["loss"] for row in state["rows"]],
        provenance.licence_line(history),
        list(clips.rejected.values()),
    )


def judge(
    folder: str | os.PathLike[str],
    source: str | os.PathLike[str],
    *,
    batch_size: int = BATCH_SIZE,
    crop_s: float = 8.0,
    root: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> dict[str, float]:
    """What the objectives say of other clips, after the last epoch of a pretraining.

    Args:
        folder: output of `pretrain`
        source: index of the other clips
        batch_size: clips that are compared with each other
        crop_s: longer clips are heard so far
        root: folder that the files of the index are relative to
        device: as for `pretrain`
        dtype: as for `pretrain`

    Raises:
        Wav2SmallError: no pretraining there, or nothing that can be heard
    """
    chosen = choose_device(device)
    saved = checkpoints.load(folder)
    if saved is None:
        raise Wav2SmallError(f"{folder}: no checkpoint of `wav2small pretrain` in it")
    system = saved[1]["settings"]["system"]
    recipe = MultimodalRecipe(system, None, None, os.fspath(folder))
    clips = PretrainingClips(_index(source, root), crop_s, recipe)
    network = multimodal.build(
        system, recipe.start, dimensions=DIMENSIONS, scale=recipe.scale or (0.0, 1.0)
    )
    objectives = _objectives(system)(network).to(chosen)
    objectives.load_state_dict(checkpoints.select(saved[0], "model."))
    clips.objectives = objectives
    optimizer = torch.optim.SGD(objectives.parameters(), lr=0.0)  # is never asked
    precision = choose_dtype(dtype, chosen)
    learner = _Learner(objectives, optimizer, clips, chosen, precision, batch_size, batch_size)
    return learner.figures(np.arange(len(clips.table.frame)))


def _index(source: str | os.PathLike[str], root: str | None) -> Index:
    index = load_source(source, root=root)
    return replace(index, frame=transcripts.normalise(index.frame, os.fspath(source)))


def _objectives(system: str) -> Any:
    if system not in SYSTEMS:
        raise Wav2SmallError(f"pretrain {system}: give one of {', '.join(SYSTEMS)}")
    return import_module(f"wav2small.teachers.multimodal.{system}_objectives").Objectives


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

    def batch(self, rows: np.ndarray, draws: np.ndarray | None) -> tuple[Heard, np.ndarray]:
        """See `Clips.batch`; what is masked is drawn anew in training, always the same to judge."""
        passages, randoms, found = [], [], []
        for place, row in enumerate(rows):
            seed = int(row) if draws is None else int(draws[place, 1] * 2**53)
            random = np.random.default_rng([seed, draws is None])
            try:
                passage = self.passage(row, None if draws is None else draws[place, 0])
            except AudioError as error:
                self.rejected[self.table.frame["file"].iloc[row]] = str(error)
                continue
            passages.append(passage)
            randoms.append(random)
            found.append(row)
        others = []
        for row, random in zip(found, randoms, strict=True):
            near = [p.own for p, r in zip(passages, found, strict=True) if self._apart(r, row)]
            others.append(
                [self._other(row, near, random) for _ in range(self.objectives.negatives)]
            )
        seeds = [int(rows[0])] if draws is None else (draws * 2**53).astype(np.int64).ravel()
        random = np.random.default_rng(seeds)
        task = self.objectives.collate(passages, others, random) if passages else None
        return (task,), np.array(found, dtype=np.int64)

    def _apart(self, one: int, other: int) -> bool:
        return self._groups[one] != self._groups[other]

    def _other(self, row: int, near: list[Turn], random: Any) -> Turn:
        """A turn of another dialogue, heard: of the same batch, or of all.

        Raises:
            AudioError: ten of them cannot be
        """
        if near:
            return near[int(random.integers(len(near)))]
        for attempt in range(10):
            other = int(random.integers(len(self._groups)))
            while not self._apart(other, row):
                other = int(random.integers(len(self._groups)))
            try:
                turn = self.script.passage(other).own
                signal = self.signal(other)[: round(12 * audio.SAMPLING_RATE)]
                return turn._replace(signal=signal)
            except AudioError:
                if attempt == 9:
                    raise
        raise AssertionError


class _Learner(Learner):
    """Steps on the objectives' own loss."""

    def loss(self, rows: np.ndarray, *outputs: Tensor | None) -> Tensor:
        return self.network.loss(*outputs)

    @torch.no_grad()
    def figures(self, valid: np.ndarray) -> dict[str, float]:
        """Means over held-out batches of the loss and of what the objectives tell."""
        self.network.eval()
        totals: dict[str, float] = {}
        clips = 0
        for begin in range(0, len(valid), self.batch_size):
            parts = list(self._parts(valid[begin : begin + self.batch_size], None))
            found = [self._forward(part) for part in parts]
            if not found:
                continue
            joined = [torch.cat(column).float() for column in zip(*found, strict=True)]
            told = {"held_out_loss": float(self.network.loss(*joined))}
            told |= self.network.figures(*joined)
            count = len(joined[0])
            clips += count
            for name, value in told.items():
                totals[name] = totals.get(name, 0.0) + count * value
        if not clips:
            raise Wav2SmallError("--validation: none of the held-out clips can be heard")
        return {name: total / clips for name, total in totals.items()}
