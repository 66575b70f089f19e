"""Making a teacher: "Dawn of the transformer era" (Wagner et al. 2022, arXiv 2203.07378).

A pretrained backbone with its CNN frozen, the sum of 1 - CCC over the whole effective batch, Adam
at a fixed rate, and the best epoch on validation voices. The result has the layout of the
published checkpoints and is a teacher: `label --teacher FOLDER`.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from wav2small import audio, files, metrics, progress, provenance, variants
from wav2small.errors import AudioError, Wav2SmallError
from wav2small.students import checkpoint as checkpoints
from wav2small.students.losses import ccc
from wav2small.students.split import split
from wav2small.students.stop import Stop
from wav2small.tables import Labels, read_labels

from . import accumulation, checkpoint, pretrained, wav2vec2, wavlm
from .neural import choose_device, choose_dtype

if TYPE_CHECKING:
    import pandas as pd

LEARNING_RATE = 1e-4  # the paper's, fixed
EPOCHS = 5  # the paper's
BATCH_SIZE = 32  # the paper's
LONGEST_S = 12.0  # what is heard of a validation clip; training clips are cropped to `crop_s`
CATEGORY_WEIGHT = 0.3  # of the cross-entropy beside the sum of three 1 - CCC [choose]


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


@dataclass(frozen=True)
class Result:
    """What fine-tuning did.

    Attributes:
        output: the teacher's folder
        best_epoch: from 1
        ccc: on validation clips, by dimension, of that epoch
        losses: mean training loss of every epoch
        licence: whom the teacher binds
        refused: reasons of the clips that could not be heard and were left out
    """

    output: str
    best_epoch: int
    ccc: dict[str, float]
    losses: list[float]
    licence: str
    refused: list[str]


def finetune(
    labels: str | os.PathLike[str] | Labels,
    output: str | os.PathLike[str],
    *,
    backbone: str,
    pooling: str = "attentive",
    layers: int | None = None,
    epochs: int = EPOCHS,
    batch_size: int = BATCH_SIZE,
    micro_batch: int | None = None,
    learning_rate: float = LEARNING_RATE,
    crop_s: float = 8.0,
    categories: str | None = None,
    validation: str = "0.15",
    root: str | None = None,
    scale: tuple[float, float] | None = None,
    audio_licence: str = provenance.UNKNOWN,
    device: str = "auto",
    dtype: str = "auto",
    seed: int = 0,
    overwrite: bool = False,
) -> Result:
    """Fine-tune a backbone to arousal, dominance and valence.

    Stopped at any moment and called again with the same arguments, it goes on after the last
    whole epoch.

    Args:
        labels: human ratings or a label table; see `read_labels`
        output: folder for the teacher
        backbone: folder or hub id of WavLM, wav2vec2 or HuBERT
        pooling: "attentive" (the layout of the WavLM teacher) or "mean" (of wav2vec2's)
        layers: keep the first so many transformer layers; None = all
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
    if pooling not in ("attentive", "mean"):
        raise Wav2SmallError(f"--pooling {pooling}: give attentive or mean")
    if epochs < 1 or batch_size < 2 or (micro_batch is not None and micro_batch < 1):
        raise Wav2SmallError("give at least 1 epoch, batches of 2 clips, micro-batches of 1")
    chosen = choose_device(device)
    precision = choose_dtype(dtype, chosen)
    table = labels if isinstance(labels, Labels) else read_labels(labels, root=root, scale=scale)
    start = pretrained.load(backbone, layers=layers)
    names, classes = _classes(table.frame, categories)
    train, valid = split(table.frame, validation, seed=seed)
    settings = Settings(
        backbone=start.source.id,
        revision=start.source.revision,
        pooling=pooling,
        layers=layers,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        crop_s=crop_s,
        categories=categories,
        validation=validation,
        seed=seed,
        labels=_digest(table),
    )
    output = Path(output)
    clips = _Clips(table, classes, crop_s)
    size = micro_batch or (16 if chosen.type == "cuda" else 4)
    with files.Lock(output / ".lock"), Stop() as stop:
        saved = _saved(output, settings, overwrite=overwrite)
        torch.manual_seed(seed)
        sound_scale = start.scale or clips.scale(train)
        network = build(start, pooling, table.dimensions, names, sound_scale).to(chosen)
        parameters = [value for value in network.parameters() if value.requires_grad]
        optimizer = torch.optim.Adam(parameters, lr=learning_rate)
        state: dict[str, Any] = {"epoch": 0, "best": None, "best_epoch": 0, "rows": []}
        if saved:
            state = saved[1]["state"]
            network.load_state_dict(checkpoints.select(saved[0], "model."))
            checkpoints.load_optimizer(optimizer, checkpoints.select(saved[0], "optimizer."))
        history = _history(table, labels, audio_licence, start, settings)
        learner = _Learner(network, optimizer, clips, chosen, precision, batch_size, size)
        for epoch in range(state["epoch"] + 1, epochs + 1):
            loss = learner.epoch(train, seed=seed, epoch=epoch, stop=stop)
            if loss is None:
                raise KeyboardInterrupt
            figures = learner.judge(valid, table.dimensions)
            mean = float(np.nan_to_num(list(figures.values())).mean())
            state["rows"].append({"epoch": epoch, "loss": loss, **figures, "mean": mean})
            state["epoch"] = epoch
            if state["best"] is None or mean > state["best"]:
                state |= {"best": mean, "best_epoch": epoch}
                save(network, output)
                _write_json(output / "provenance.json", history)
            _write_metrics(output / "metrics.csv", state["rows"])
            tensors = {f"model.{key}": value for key, value in network.state_dict().items()}
            tensors |= {
                f"optimizer.{key}": value
                for key, value in checkpoints.optimizer_tensors(optimizer).items()
            }
            checkpoints.save(output, tensors, {"settings": asdict(settings), "state": state})
    best = state["rows"][state["best_epoch"] - 1]
    return Result(
        str(output),
        state["best_epoch"],
        {name: best[name] for name in table.dimensions},
        [row["loss"] for row in state["rows"]],
        provenance.licence_line(history),
        list(clips.refused.values()),
    )


def build(
    start: pretrained.Backbone,
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
    network.backbone.feature_extractor.requires_grad_(False)
    last = network.ser_model.out[0] if pooling == "attentive" else network.classifier.out_proj
    nn.init.constant_(last.bias, 0.5)  # the middle of the scale
    return network


def save(network: Any, folder: str | os.PathLike[str]) -> None:
    """Write a network in the layout of the published checkpoints, each file atomically."""
    from safetensors.torch import save_file

    folder = Path(folder)
    state = {
        checkpoint.published(key): value.detach().cpu().clone().contiguous()
        for key, value in network.state_dict().items()
    }
    with files.atomic(folder / checkpoint.WEIGHTS) as temporary:
        save_file(state, temporary, metadata={"format": "pt"})
    if isinstance(network, wav2vec2.Network):
        preprocessing = {
            "feature_extractor_type": "Wav2Vec2FeatureExtractor",
            "do_normalize": network.normalise,
            "feature_size": 1,
            "padding_value": 0.0,
            "return_attention_mask": True,
            "sampling_rate": audio.SAMPLING_RATE,
        }
        _write_json(folder / checkpoint.PREPROCESSOR, preprocessing)
    _write_json(folder / checkpoint.CONFIG, network.config)


class _Clips:
    """Clips of a label table with what is known about them."""

    def __init__(self, table: Labels, classes: np.ndarray | None, crop_s: float):
        self.table = table
        self.values = torch.tensor(table.values, dtype=torch.float32)
        self.classes = None if classes is None else torch.tensor(classes)
        self.crop = round(crop_s * audio.SAMPLING_RATE)
        self.settings = variants.Settings(**table.provenance.get("variants", {}))
        self.refused: dict[str, str] = {}

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

    def batch(self, rows: np.ndarray, cuts: np.ndarray | None) -> tuple[Tensor, Tensor, np.ndarray]:
        """(signal (B, T), lengths (B,), rows); `cuts` 0..1 says where to crop, None = the front.

        Clips that cannot be heard are missing, and noted in `refused`.
        """
        signals, heard = [], []
        for place, row in enumerate(rows):
            try:
                signal = self.signal(row)
            except AudioError as error:
                self.refused[self.table.frame["file"].iloc[row]] = str(error)
                continue
            heard.append(row)
            most = self.crop if cuts is not None else round(LONGEST_S * audio.SAMPLING_RATE)
            first = 0 if cuts is None else int(cuts[place] * max(1, len(signal) - most + 1))
            signals.append(signal[first : first + most])
        lengths = torch.tensor([len(signal) for signal in signals])
        padded = torch.zeros(len(signals), max((len(signal) for signal in signals), default=0))
        for place, signal in enumerate(signals):
            padded[place, : len(signal)] = torch.from_numpy(signal)
        return padded, lengths, np.array(heard, dtype=np.int64)

    def scale(self, rows: np.ndarray, most: int = 200) -> tuple[float, float]:
        """Mean and deviation of samples, over some clips spread over the rows."""
        chosen = rows[:: max(1, len(rows) // most)]
        signal, lengths, _ = self.batch(chosen, None)
        if not len(signal):
            raise AudioError(next(iter(self.refused.values())))
        sound = signal[torch.arange(signal.shape[1]) < lengths[:, None]].double()
        return float(sound.mean()), float(sound.std())


class _Learner:
    """A network, its optimiser and the clips."""

    def __init__(
        self,
        network: Any,
        optimizer: torch.optim.Optimizer,
        clips: _Clips,
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
        order, cuts = random.permutation(train), random.random(len(train))
        starts = list(range(0, len(order), self.batch_size))
        if len(starts) > 1 and len(order) - starts[-1] < 2:
            starts.pop()  # one clip alone has no CCC
        self.network.train()
        losses = []
        with progress.bar(len(starts), unit="step", desc=f"finetune epoch {epoch}") as bar:
            for number, begin in enumerate(starts):
                rows = slice(begin, begin + self.batch_size)
                parts = list(self._parts(order[rows], cuts[rows]))
                if sum(len(part[2]) for part in parts) < 2:
                    continue
                seen = np.concatenate([part[2] for part in parts])
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

    def loss(self, rows: np.ndarray, outputs: Tensor, logits: Tensor | None) -> Tensor:
        """Sum of 1 - CCC over the dimensions, and the cross-entropy of known categories."""
        value = (1 - ccc(self.clips.values[rows].to(outputs.device), outputs)).sum()
        if logits is not None and self.clips.classes is not None:
            classes = self.clips.classes[rows].to(logits.device)
            if (classes >= 0).any():
                value = value + CATEGORY_WEIGHT * nn.functional.cross_entropy(
                    logits, classes, ignore_index=-1
                )
        return value

    @torch.no_grad()
    def judge(self, valid: np.ndarray, dimensions: Sequence[str]) -> dict[str, float]:
        """CCC on validation clips."""
        self.network.eval()
        answers, rows = [], []
        for part in self._parts(valid, None):
            answers.append(self._forward(part)[0].float().cpu())
            rows.append(part[2])
        if not answers:
            raise Wav2SmallError("--validation: none of the held-out clips can be heard")
        found = torch.cat(answers).numpy()
        truth = self.clips.values[np.concatenate(rows)].numpy()
        return {
            name: metrics.ccc(truth[:, column], found[:, column])
            for column, name in enumerate(dimensions)
        }

    def _forward(self, part: tuple[Tensor, Tensor, np.ndarray]) -> accumulation.Outputs:
        lower = self.dtype != torch.float32
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=lower):
            return self.network(part[0].to(self.device), part[1])

    def _parts(
        self, rows: np.ndarray, cuts: np.ndarray | None
    ) -> Iterator[tuple[Tensor, Tensor, np.ndarray]]:
        chunks = [slice(at, at + self.micro_batch) for at in range(0, len(rows), self.micro_batch)]
        with ThreadPoolExecutor(2) as pool:
            for part in pool.map(
                lambda chunk: self.clips.batch(rows[chunk], None if cuts is None else cuts[chunk]),
                chunks,
            ):
                if len(part[2]):
                    yield part


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


def _saved(output: Path, settings: Settings, *, overwrite: bool) -> Any:
    """The checkpoint of the same run; None = begin.

    Raises:
        Wav2SmallError: another run's, and `overwrite` is not set
    """
    if overwrite:
        with contextlib.suppress(FileNotFoundError):
            (output / checkpoints.NAME).unlink()
        return None
    saved = checkpoints.load(output)
    if saved is None:
        if (output / checkpoint.CONFIG).exists():
            raise Wav2SmallError(f"{output}: holds a model of another run; use --overwrite")
        return None
    theirs = saved[1].get("settings", {})
    ours = asdict(settings)
    other = sorted(key for key in ours if ours[key] != theirs.get(key))
    if other:
        raise Wav2SmallError(
            f"{output}: a run with other {', '.join(other)}; choose another -o, or --overwrite"
        )
    return saved


def _history(
    table: Labels,
    labels: Any,
    audio_licence: str,
    start: pretrained.Backbone,
    settings: Settings,
) -> dict[str, Any]:
    """Provenance of the teacher: that of its labels, and its backbone."""
    source = "labels" if isinstance(labels, Labels) else os.fspath(labels)
    base = table.provenance or provenance.new(audio=[{"source": source, "licence": audio_licence}])
    entry = {
        "name": "backbone",
        "id": start.source.id,
        "revision": start.source.revision,
        "licence": start.source.licence,
    }
    return {
        **base,
        "teachers": [*base.get("teachers", ()), entry],
        "versions": provenance.versions("numpy", "torch", "transformers"),
        "finetuning": asdict(settings),
    }


def _digest(table: Labels) -> str:
    import hashlib

    import pandas as pd

    columns = ["file", "start", "end", *table.dimensions]
    hashes = pd.util.hash_pandas_object(table.frame[columns], index=False)
    return hashlib.sha256(hashes.to_numpy().tobytes()).hexdigest()


def _write_json(path: Path, content: Any) -> None:
    with files.atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def _write_metrics(path: Path, rows: list[dict[str, Any]]) -> None:
    with files.atomic(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
