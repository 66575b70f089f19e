"""Making a teacher: "Dawn of the transformer era" (Wagner et al. 2022, arXiv 2203.07378).

A pretrained backbone with its CNN frozen, the sum of 1 - CCC over the full effective batch, Adam
at a fixed rate, and the best epoch on validation voices. The result has the layout of the
published checkpoints and is a teacher: `label --teacher FOLDER`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from wav2small import audio, files, provenance, transcripts
from wav2small.errors import Wav2SmallError
from wav2small.index import KEYS, fingerprint
from wav2small.tables import Labels
from wav2small.teachers.multimodal import teacher as multimodal
from wav2small.teachers.speech import backbones, checkpoint, recognisers, wav2vec2, wavlm
from wav2small.teachers.speech.pretrained import Backbone, load
from wav2small.training.split import split

from .multimodal_recipe import WITHOUT_TEXT, MultimodalRecipe
from .options import DeviceOptions, RatingOptions, TrainingOptions
from .training import LONGEST_S, FineTuning, RatedClips, run

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class FineTuned:
    """What fine-tuning did.

    Attributes:
        output: the teacher's folder
        best_epoch: from 1
        ccc: on validation clips, by dimension, of that epoch
        ccc_without_text: the same with transcripts taken away; empty for a teacher of speech
        losses: mean training loss of every epoch
        licence: whom the teacher binds
        rejected: reasons of the clips that could not be read and were left out
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
    recipe: AudioRecipe | MultimodalRecipe,
    *,
    ratings: RatingOptions | None = None,
    training: TrainingOptions | None = None,
    compute: DeviceOptions | None = None,
    overwrite: bool = False,
) -> FineTuned:
    """Fine-tune a backbone, or a multimodal system, to arousal, dominance and valence.

    Stopped at any moment and called again with the same arguments, it resumes, and ends with the
    weights that it would have had without the stop.

    Args:
        labels: human ratings or a label table: CSV, parquet, audformat. See `read_labels`
        output: folder for the teacher
        recipe: what is fine-tuned: `AudioRecipe` or `MultimodalRecipe`
        ratings: how the table is read
        training: how to train
        compute: where
        overwrite: replace another run

    Raises:
        Wav2SmallError: wrong options, labels or checkpoint; another run's folder
        KeyboardInterrupt: stopped with Ctrl-C, after saving
    """
    ratings, training = ratings or RatingOptions(), training or TrainingOptions()
    compute = compute or DeviceOptions()
    compute.resolve()  # a wrong device is an error before the audio is read
    source = "labels" if isinstance(labels, Labels) else os.fspath(labels)
    table = ratings.table(labels)
    digest = fingerprint(table.frame[[*KEYS, *table.dimensions]])
    if isinstance(recipe, MultimodalRecipe):
        table = replace(table, frame=transcripts.normalise(table.frame, source))
        digest += f" {transcripts.digest(table.frame)}"
    names, classes = _classes(table.frame, ratings.categories)
    train, valid = split(table.frame, training.validation, seed=training.seed)
    clips: RatedClips = recipe.clips(table, classes, training.crop_s)
    identity = {**recipe.identity, "categories": ratings.categories, "labels": digest}
    audio_of_table = [{"source": source, "licence": ratings.audio_licence}]
    lineage = dict(table.provenance or provenance.new(audio=audio_of_table))
    lineage["teachers"] = [*lineage.get("teachers", ()), *recipe.entries]
    lineage["versions"] = provenance.versions("numpy", "torch", "transformers")
    lineage["finetuning"] = {**vars(training), **identity}

    def save(network: Any, folder: Path) -> None:
        recipe.save(network, folder)
        files.write_json(folder / "provenance.json", lineage)

    def make() -> FineTuning:
        network = recipe.build(table.dimensions, names, recipe.scale or clips.scale(train))
        rows = train, valid
        return FineTuning(Path(output), network, clips, rows, training, compute, identity, save)

    done = run(Path(output), make, seed=training.seed, overwrite=overwrite)
    best, known = done.best_row, table.dimensions
    ccc = {name: best[name] for name in known}
    alone = {name: best[key] for name in known if (key := name + WITHOUT_TEXT) in best}
    return FineTuned(
        output=str(output),
        best_epoch=done.state["best_epoch"],
        ccc=ccc,
        ccc_without_text=alone,
        losses=done.losses,
        licence=provenance.licence_line(lineage),
        rejected=list(clips.rejected.values()),
    )


def choose_recipe(
    *,
    backbone: str | None = None,
    pooling: str = "attentive",
    layers: int | None = None,
    teacher: str | None = None,
    speech: str | None = None,
    text: str | None = None,
    pretrained: str | None = None,
    lora: int | None = None,
    changes: Sequence[str] = (),
) -> AudioRecipe | MultimodalRecipe:
    """The recipe that the options of the command line name.

    Args:
        backbone: WavLM, wav2vec2, HuBERT, Whisper, Moonshine or Qwen2-Audio, for a teacher of
            speech alone
        pooling: layout of a backbone's head: the WavLM teacher's (attentive), wav2vec2's (mean)
        layers: keep the first N transformer layers of a backbone (default: all)
        teacher: a multimodal teacher: spectra, calm, bridge, mister_e; see docs/multimodal.md
        speech: speech encoder of a multimodal teacher: WavLM, wav2vec2, HuBERT and others
        text: text encoder, with its tokenizer: RoBERTa, BERT, an LLM ...
        pretrained: folder of `pretrain`, instead of --speech and --text; with --speech, its
            speech encoder takes the place of the pretrained one
        lora: the encoders of a multimodal teacher learn through adapters of this rank (needs
            peft); without a number, of the published ranks
        changes: options of the multimodal system, NAME=VALUE, or small for little data; see
            docs/multimodal.md

    Raises:
        Wav2SmallError: options that do not go together, or encoders that cannot be used

    Example:
        >>> choose_recipe(backbone="wavlm/", lora=8)
        Traceback (most recent call last):
        wav2small.errors.Wav2SmallError: --lora is for --teacher NAME; a backbone learns without \
adapters
    """
    if teacher is not None:
        if backbone is not None or layers is not None:
            raise Wav2SmallError(
                f"--teacher {teacher}: its speech encoder is --speech; --backbone and --layers are "
                "for teachers of speech alone"
            )
        options = multimodal.options(teacher, changes)
        start: dict[str, Any] = {"pretrained": pretrained, "lora": lora, "options": options}
        return MultimodalRecipe(teacher, speech, text, **start)
    if changes:
        raise Wav2SmallError("--set is for --teacher NAME; a backbone has no such options")
    if lora is not None:
        raise Wav2SmallError("--lora is for --teacher NAME; a backbone learns without adapters")
    if backbone is None or (speech or text or pretrained) is not None:
        raise Wav2SmallError(
            "give --backbone FOLDER; or --teacher NAME with --speech and --text, or with "
            "--pretrained"
        )
    return AudioRecipe(backbone, pooling=pooling, layers=layers)


class AudioRecipe:
    """How a backbone becomes a teacher of speech: the recipe of Wagner et al.

    Args:
        backbone: folder or hub id of WavLM, wav2vec2, HuBERT, Whisper, Moonshine or Qwen2-Audio
        pooling: "attentive" (the WavLM teacher's layout) or "mean" (wav2vec2's)
        layers: keep the first so many transformer layers; None = all

    Attributes:
        identity: what makes two runs the same run
        entries: of the provenance
        scale: mean and deviation of samples that the backbone was trained with, if it names them

    Raises:
        Wav2SmallError: no such pooling, or a backbone that cannot be used
    """

    clips = RatedClips

    def __init__(self, backbone: str, *, pooling: str = "attentive", layers: int | None = None):
        if pooling not in ("attentive", "mean"):
            raise Wav2SmallError(f"--pooling {pooling}: give attentive or mean")
        self.pooling = pooling
        self.start = load(backbone, layers=layers)
        self.scale = self.start.scale
        source = self.start.source
        self.entries = [source.entry("backbone")]
        self.identity = {"backbone": source.id, "revision": source.revision}
        self.identity |= {"pooling": pooling, "layers": layers}

    def build(self, dimensions: Sequence[str], categories: Sequence[str], scale: Any) -> Any:
        """See `build`."""
        return build(self.start, self.pooling, dimensions, categories, scale)

    @staticmethod
    def save(network: Any, folder: str | os.PathLike[str]) -> None:
        """Write a network in the layout of the published checkpoints, each file atomically."""
        folder = Path(folder)
        checkpoint.write_weights(folder, network.state_dict())
        if isinstance(network, wav2vec2.Wav2vec2Network):
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
    heads: dict[str, Any] = {"id2label": {str(n): name for n, name in enumerate(dimensions)}}
    heads |= {"categories": list(categories)} if categories else {}
    heads["teacher_name"] = "finetuned"
    network: Any
    if pooling == "attentive":
        config = {
            "model_type": wavlm.MODEL_TYPE,
            "mean": scale[0],
            "std": scale[1],
            "hidden_size": start.config["hidden_size"],
            "num_classes": len(dimensions),
            "id2label": heads["id2label"],
            "classifier_hidden_layers": 1,
            "classifier_dropout_prob": 0.5,
            "sampling_rate": audio.SAMPLING_RATE,
            "maxlen": round(LONGEST_S * audio.SAMPLING_RATE),
            "ssl_type": start.source.id,
            "ssl_config": start.config,
        }
        network = wavlm.WavlmNetwork({**config, **heads})
    else:
        shape = {"feat_extract_norm": "group", "do_stable_layer_norm": False, **start.config}
        normalise = start.config["model_type"] not in recognisers.NAMES
        network = wav2vec2.Wav2vec2Network({**shape, **heads}, normalise=normalise)
    start.fill(network.backbone)
    backbones.freeze_front(network.backbone)
    last = network.ser_model.out[0] if pooling == "attentive" else network.classifier.out_proj
    nn.init.constant_(last.bias, 0.5)  # the middle of the scale
    return network


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
