"""Making a teacher: "Dawn of the transformer era" (Wagner et al. 2022, arXiv 2203.07378).

A pretrained backbone with its CNN frozen, the sum of 1 - CCC over the whole effective batch, Adam
at a fixed rate, and the best epoch on validation voices. The result has the layout of the
published checkpoints and is a teacher: `label --teacher FOLDER`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from wav2small import audio, files, provenance, transcripts
from wav2small.errors import Wav2SmallError
from wav2small.index import KEYS, fingerprint
from wav2small.tables import Labels, read_labels
from wav2small.teachers.speech import checkpoint, wav2vec2, wavlm
from wav2small.teachers.speech.neural import choose_device, choose_dtype
from wav2small.teachers.speech.pretrained import Backbone, load
from wav2small.training.interrupt import Stop
from wav2small.training.split import split as divide

from . import epochs as epochs_
from .learner import LONGEST_S, WITHOUT_TEXT, Clips, Learner, average

if TYPE_CHECKING:
    import pandas as pd

LEARNING_RATE = 1e-4  # the paper's, fixed
EPOCHS = 5  # the paper's
BATCH_SIZE = 32  # the paper's


@dataclass(frozen=True)
class Settings:
    """What makes two runs the same run."""

    backbone: str
    revision: str
    pooling: str
    layers: int | None
    epochs: int
    batch_size: int
    learning_rate: float
    crop_s: float
    categories: str | None
    validation: str
    seed: int
    labels: str
    teacher: str | None = None
    lora: int | None = None


@dataclass(frozen=True)
class Result:
    """What fine-tuning did.

    Attributes:
        output: the teacher's folder
        best_epoch: from 1
        ccc: on validation clips, by dimension, of that epoch
        ccc_without_text: the same with transcripts taken away; empty for a teacher of speech
        losses: mean training loss of every epoch
        licence: whom the teacher binds
        rejected: reasons of the clips that could not be heard and were left out
    """

    output: str
    best_epoch: int
    ccc: dict[str, float]
    ccc_without_text: dict[str, float]
    losses: list[float]
    licence: str
    rejected: list[str]


def finetune(
    labels: str | os.PathLike[str] | Labels,
    output: str | os.PathLike[str],
    *,
    backbone: str | None = None,
    teacher: str | None = None,
    speech: str | None = None,
    text: str | None = None,
    pretrained: str | None = None,
    pooling: str = "attentive",
    layers: int | None = None,
    lora: int | None = None,
    epochs: int = EPOCHS,
    batch_size: int = BATCH_SIZE,
    micro_batch: int | None = None,
    learning_rate: float = LEARNING_RATE,
    crop_s: float = 8.0,
    categories: str | None = None,
    validation: str = "0.15",
    root: str | None = None,
    split: str | Sequence[str] | None = None,
    scale: tuple[float, float] | None = None,
    audio_licence: str = provenance.UNKNOWN,
    device: str = "auto",
    dtype: str = "auto",
    seed: int = 0,
    overwrite: bool = False,
) -> Result:
    """Fine-tune a backbone, or a multimodal system, to arousal, dominance and valence.

    Stopped at any moment and called again with the same arguments, it goes on after the last
    whole epoch.

    Args:
        labels: human ratings or a label table; see `read_labels`
        output: folder for the teacher
        backbone: folder or hub id of WavLM, wav2vec2 or HuBERT
        teacher: a system of `multimodal.SYSTEMS` instead, of speech and text
        speech: its speech encoder, as `backbone`
        text: its text encoder, folder or hub id of a language model
        pretrained: folder of `pretrain`, instead of `speech` and `text`
        pooling: of a backbone: "attentive" (the WavLM teacher's layout) or "mean" (wav2vec2's)
        layers: keep the first so many transformer layers; None = all
        lora: of a system: its encoders learn through adapters of this rank; None = whole
        epochs: passes over the training clips
        batch_size: clips that one CCC is computed over
        micro_batch: clips in memory at a time; CCC is over the whole batch all the same. None = 4
            on a CPU, 16 on a GPU
        learning_rate: of Adam
        crop_s: longer training clips are cropped at random to so many seconds
        categories: column of the table with a category for each clip: a second head learns it,
            and its probabilities go to the label tables of this teacher
        validation: held-out share, or COLUMN=VALUE,VALUE; whole speakers if there is `speaker`
        root: folder that the files of the table are relative to
        split: only clips whose column `split` says so, such as "train"
        scale: of the ratings, such as (1, 7); None = 0..1
        audio_licence: licence of the table's audio, for the provenance
        device: "auto", "cpu", "cuda", "cuda:1"
        dtype: "auto" (bfloat16 on a GPU), "float32", "bfloat16"
        seed: of everything random
        overwrite: replace what another run left in `output`

    Raises:
        Wav2SmallError: wrong arguments, labels or checkpoint; another run's folder
        KeyboardInterrupt: stopped with Ctrl-C; whole epochs are kept
    """
    if epochs < 1 or batch_size < 2 or (micro_batch is not None and micro_batch < 1):
        raise Wav2SmallError("give at least 1 epoch, batches of 2 clips, micro-batches of 1")
    chosen = choose_device(device)
    precision = choose_dtype(dtype, chosen)
    table = (
        labels
        if isinstance(labels, Labels)
        else read_labels(labels, root=root, scale=scale, split=split)
    )
    recipe: Any
    if teacher is None:
        if lora is not None:
            raise Wav2SmallError("--lora is for --teacher NAME; a backbone learns whole")
        recipe = AudioRecipe(backbone, pooling, layers, speech or text or pretrained)
    else:
        from .multimodal_recipe import MultimodalRecipe

        source = "labels" if isinstance(labels, Labels) else os.fspath(labels)
        table = replace(table, frame=transcripts.normalise(table.frame, source))
        recipe = MultimodalRecipe(teacher, speech, text, pretrained, backbone, layers, lora)
    names, classes = _classes(table.frame, categories)
    train, valid = divide(table.frame, validation, seed=seed)
    settings = Settings(
        backbone=recipe.id,
        revision=recipe.revision,
        pooling=pooling,
        layers=layers,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        crop_s=crop_s,
        categories=categories,
        validation=validation,
        seed=seed,
        labels=_digest(table, reads=teacher is not None),
        teacher=teacher,
        lora=lora,
    )
    output = Path(output)
    clips: Clips = recipe.clips(table, classes, crop_s)
    size = micro_batch or (16 if chosen.type == "cuda" else 4)
    with files.Lock(output / ".lock"), Stop() as stop:
        saved = epochs_.find(output, settings, overwrite=overwrite)
        torch.manual_seed(seed)
        sound_scale = recipe.scale or clips.scale(train)
        network = recipe.build(table.dimensions, names, sound_scale).to(chosen)
        parameters = [value for value in network.parameters() if value.requires_grad]
        optimizer = torch.optim.Adam(parameters, lr=learning_rate)
        history = _history(table, labels, audio_licence, recipe.entries, settings)
        learner = Learner(network, optimizer, clips, chosen, precision, batch_size, size)

        def keep() -> None:
            recipe.save(network, output)
            files.write_json(output / "provenance.json", history)

        state = epochs_.train(
            output,
            settings=settings,
            saved=saved,
            network=network,
            optimizer=optimizer,
            epochs=epochs,
            learn=lambda epoch: learner.epoch(train, seed=seed, epoch=epoch, stop=stop),
            judge=lambda: recipe.judge(learner, valid, table.dimensions),
            keep=keep,
        )
    best = state["rows"][state["best_epoch"] - 1]
    return Result(
        str(output),
        state["best_epoch"],
        {name: best[name] for name in table.dimensions},
        {name: best[key] for name in table.dimensions if (key := name + WITHOUT_TEXT) in best},
        [row["loss"] for row in state["rows"]],
        provenance.licence_line(history),
        list(clips.rejected.values()),
    )


class AudioRecipe:
    """How a backbone is fine-tuned: the recipe of Wagner et al."""

    clips = Clips

    def __init__(self, backbone: str | None, pooling: str, layers: int | None, other: str | None):
        if pooling not in ("attentive", "mean"):
            raise Wav2SmallError(f"--pooling {pooling}: give attentive or mean")
        if backbone is None or other is not None:
            raise Wav2SmallError(
                "give --backbone FOLDER; or --teacher NAME with --speech and --text, or with "
                "--pretrained"
            )
        self.pooling = pooling
        self.start = load(backbone, layers=layers)
        source = self.start.source
        self.id, self.revision = source.id, source.revision
        self.scale = self.start.scale
        what = {"id": source.id, "revision": source.revision, "licence": source.licence}
        self.entries = [{"name": "backbone", **what}]

    def build(self, dimensions: Sequence[str], categories: Sequence[str], scale: Any) -> Any:
        return build(self.start, self.pooling, dimensions, categories, scale)

    def judge(
        self, learner: Learner, valid: np.ndarray, dimensions: Sequence[str]
    ) -> tuple[dict[str, float], float]:
        """CCC on validation clips, and their mean, which chooses the best epoch."""
        figures = learner.judge(valid, dimensions)
        return {**figures, "mean": average(figures)}, average(figures)

    def save(self, network: Any, folder: Path) -> None:
        save(network, folder)


def build(
    start: Backbone,
    pooling: str,
    dimensions: Sequence[str],
    categories: Sequence[str] = (),
    scale: tuple[float, float] = (0.0, 1.0),
) -> Any:
    """A network with the backbone's weights, new heads, and its CNN frozen.

    Args:
        start: the backbone
        pooling: "attentive" or "mean"
        dimensions: of the outputs
        categories: of the second head; empty = none
        scale: mean and deviation of samples, for attentive pooling's layout
    """
    names = {str(number): name for number, name in enumerate(dimensions)}
    extra = {"categories": list(categories)} if categories else {}
    network: Any
    if pooling == "attentive":
        config = {
            "model_type": wavlm.MODEL_TYPE,
            "mean": scale[0],
            "std": scale[1],
            "hidden_size": start.config["hidden_size"],
            "num_classes": len(dimensions),
            "id2label": names,
            "classifier_hidden_layers": 1,
            "classifier_dropout_prob": 0.5,
            "sampling_rate": audio.SAMPLING_RATE,
            "maxlen": round(LONGEST_S * audio.SAMPLING_RATE),
            "ssl_type": start.source.id,
            "ssl_config": start.config,
        }
        network = wavlm.Network({**config, **extra, "teacher_name": "finetuned"})
    else:
        shape = {"feat_extract_norm": "group", "do_stable_layer_norm": False, **start.config}
        network = wav2vec2.Network(
            {**shape, "id2label": names, **extra, "teacher_name": "finetuned"}
        )
    start.fill(network.backbone)
    # Not only `requires_grad_`: it would carry the gradient back to the signal.
    network.backbone.feature_extractor._freeze_parameters()
    last = network.ser_model.out[0] if pooling == "attentive" else network.classifier.out_proj
    nn.init.constant_(last.bias, 0.5)  # the middle of the scale
    return network


def save(network: Any, folder: str | os.PathLike[str]) -> None:
    """Write a network in the layout of the published checkpoints, each file atomically."""
    folder = Path(folder)
    checkpoint.write_weights(folder, network.state_dict())
    if isinstance(network, wav2vec2.Network):
        preprocessing = {
            "feature_extractor_type": "Wav2Vec2FeatureExtractor",
            "do_normalize": network.normalise,
            "feature_size": 1,
            "padding_value": 0.0,
            "return_attention_mask": True,
            "sampling_rate": audio.SAMPLING_RATE,
        }
        files.write_json(folder / checkpoint.PREPROCESSOR, preprocessing)
    files.write_json(folder / checkpoint.CONFIG, network.config)


def _classes(frame: pd.DataFrame, column: str | None) -> tuple[list[str], np.ndarray | None]:
    """Names of the categories in a column, and the number of each clip's; -1 = not known."""
    if column is None:
        return [], None
    if column not in frame:
        raise Wav2SmallError(
            f"--categories {column}: no such column; the table has {', '.join(map(str, frame))}"
        )
    known = frame[column].dropna().astype(str)
    names = sorted(known.unique())
    if not 2 <= len(names) <= 1000:
        raise Wav2SmallError(f"--categories {column}: {len(names)} categories; give 2 to 1000")
    numbers = {name: number for number, name in enumerate(names)}
    return names, frame[column].map(lambda name: numbers.get(str(name), -1)).to_numpy(np.int64)


def _history(
    table: Labels,
    labels: Any,
    audio_licence: str,
    entries: list[dict[str, Any]],
    settings: Settings,
) -> dict[str, Any]:
    """Provenance of the teacher: that of its labels, and its encoders."""
    source = "labels" if isinstance(labels, Labels) else os.fspath(labels)
    base = table.provenance or provenance.new(audio=[{"source": source, "licence": audio_licence}])
    return {
        **base,
        "teachers": [*base.get("teachers", ()), *entries],
        "versions": provenance.versions("numpy", "torch", "transformers"),
        "finetuning": asdict(settings),
    }


def _digest(table: Labels, *, reads: bool) -> str:
    digest = fingerprint(table.frame[[*KEYS, *table.dimensions]])
    return f"{digest} {transcripts.digest(table.frame)}" if reads else digest
