"""A teacher from few ratings: a probe on a frozen encoder, in minutes on a CPU.

    wav2small finetune ratings.csv --freeze --encoder moonshine -o teacher/

Ridge regression in closed form on pooled states of five neighbouring layers and on statistics of
prosody (`teachers.speech.probe`). Layers and penalty are those that predict left-out speakers best.
Each clip is seen as it is and disturbed (`teachers.acoustic.rooms`), so that the probe leans on
what all speakers and recordings share.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wav2small import audio, augmentation, files, metrics, progress, provenance
from wav2small.dimensions import DIMENSIONS
from wav2small.errors import AudioError, Wav2SmallError
from wav2small.index import load_source
from wav2small.tables import Labels, texts
from wav2small.teachers.acoustic.placement import placed, placements
from wav2small.teachers.acoustic.rooms import disturbed
from wav2small.teachers.acoustic.teacher import bounded, squashed
from wav2small.teachers.speech import checkpoint
from wav2small.teachers.speech.frozen import Encoder, open_encoder
from wav2small.teachers.speech.probe import MODEL_TYPE, pooled, scores
from wav2small.training import weights

from .options import RatingOptions

FEWEST = 30  # clips; fewer cannot rank penalties
PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # on weights per standard deviation
MOST_FOLDS = 10
TOGETHER = 5  # neighbouring layers that a probe reads
LONGEST_S = 12.0  # of a clip that is used, the window of `label`
MOST_GAIN = 3.0  # by which a held-out prediction's deviation is widened at most


@dataclass(frozen=True)
class ProbeOptions:
    """How a probe is fitted.

    Attributes:
        encoder: frozen encoder: moonshine, an ONNX file with hidden states, or a folder or hub id
            of WavLM, wav2vec2, HuBERT, Whisper, Moonshine or Qwen2-Audio
        placement: the table has a column `emotion` instead of ratings; each emotion gets its
            documented place in arousal, dominance and valence
        copies: see each clip this many more times: from a speaker of another size, in part, with
            silences, through another room, microphone and noise
        mean: means of the outputs on the table's clips (default: those of its ratings)
        spread: standard deviations of the outputs, likewise

    Raises:
        Wav2SmallError: another number of means or deviations than three

    Example:
        >>> ProbeOptions().encoder
        'moonshine'
    """

    encoder: str = "moonshine"
    placement: bool = False
    copies: int = 3
    mean: Sequence[float] | None = None
    spread: Sequence[float] | None = None

    def __post_init__(self) -> None:
        for name in ("mean", "spread"):
            given = getattr(self, name)
            if given is not None and not (
                len(given) == len(DIMENSIONS) and all(0 < value < 1 for value in given)
            ):
                raise Wav2SmallError(f"--{name}: give three numbers between 0 and 1: A, D and V")
        if self.copies < 0:
            raise Wav2SmallError(f"--copies {self.copies}: give 0 or more")


@dataclass(frozen=True)
class ProbeResult:
    """What fitting found."""

    output: str  # the teacher's folder
    layers: tuple[int, ...]  # of the encoder that were chosen, from 0
    encoder_layers: int  # how many it has
    penalty: float  # that was chosen
    ccc: dict[str, float]  # on clips of left-out speakers, by dimension
    pcc: dict[str, float]  # their Pearson correlations
    groups: str  # "speakers" or "files": what was left out
    clips: int  # that were used
    licence: str  # whom the teacher binds
    rejected: list[str]  # reasons of the clips that could not be used
    warnings: list[str]  # what else the user should know


def fit_probe(
    labels: str | os.PathLike[str] | Labels,
    output: str | os.PathLike[str],
    probe: ProbeOptions | None = None,
    *,
    ratings: RatingOptions | None = None,
    device: str = "auto",
    overwrite: bool = False,
) -> ProbeResult:
    """Fit a probe to human ratings.

    Args:
        labels: ratings; see `read_labels`. A column `speaker` names who is left out together
        output: folder for the teacher
        probe: see `ProbeOptions`
        ratings: see `RatingOptions`
        device: of an encoder of transformers: auto, cpu, cuda ...
        overwrite: replace a teacher in `output`

    Raises:
        Wav2SmallError: no encoder, fewer than 30 clips, constant ratings, a folder in use
    """
    output = Path(output)
    if (output / checkpoint.CONFIG).exists() and not overwrite:
        other = "choose another -o, or --overwrite"
        raise Wav2SmallError(f"{output}: holds a teacher already; {other}")
    options, ratings = probe or ProbeOptions(), ratings or RatingOptions()
    table = read_ratings(labels, options, ratings)
    encoder = open_encoder(options.encoder, device=device)
    rows, values, rejected = _embed_clips(encoder, table, options.copies)
    warnings: list[str] = []
    if len(rows) < FEWEST:
        reason = f"; the first rejected: {rejected[0]}" if rejected else ""
        raise Wav2SmallError(
            f"{len(rows)} rated clips can be used; a probe needs at least {FEWEST}{reason}"
        )
    truth = table.values[rows]
    for name, rated in zip(DIMENSIONS, truth.T, strict=True):
        if np.ptp(rated) < 1e-6:
            raise Wav2SmallError(f"every {name} is {rated[0]:.4g}: nothing to learn from it")
    frame = table.frame.iloc[rows]
    by_speaker = "speaker" in frame and frame["speaker"].nunique() > 1
    if not by_speaker:
        warnings.append(
            "ratings of one speaker, or no column `speaker`: files are left out instead of "
            "speakers, and the figures are too good for other voices"
        )
    folds = _folds(texts(frame["speaker" if by_speaker else "file"]).to_numpy())
    layers, penalty = _choose([layer[:, :1] for layer in values], truth, folds)
    chosen = _joined(values, layers)
    held_out = np.zeros((*chosen.shape[:2], len(DIMENSIONS)))
    for out in folds:
        held_out[out] = scores(chosen[out], ridge(chosen[~out], truth[~out], penalty))
    fitted = ridge(chosen, truth, penalty)
    apart = held_out.reshape(-1, len(DIMENSIONS))
    known = scores(chosen, fitted).reshape(-1, len(DIMENSIONS))
    mean, spread = options.mean or truth.mean(0), options.spread or truth.std(0)
    gain, shift = calibration(apart, known, np.array(mean), np.array(spread))
    fitted["slopes"] = fitted["slopes"] * gain
    fitted["intercept"] = fitted["intercept"] * gain + shift
    prediction = squashed(held_out[:, 0] * gain + shift)
    pairs = dict(zip(DIMENSIONS, zip(truth.T, prediction.T, strict=True), strict=True))
    pcc = {name: float(metrics.pcc(*pair)) for name, pair in pairs.items()}
    ccc = {name: float(metrics.ccc(*pair)) for name, pair in pairs.items()}
    groups = "speakers" if by_speaker else "files"
    warnings += [
        f"{name}: correlation {value:.2f} with ratings of left-out {groups}; its labels are noise"
        for name, value in pcc.items()
        if not value > 0.1
    ]
    source = "labels" if isinstance(labels, Labels) else os.path.basename(os.fspath(labels))
    audio_of_table = [{"source": source, "licence": ratings.audio_licence}]
    history = dict(table.provenance or provenance.new(audio=audio_of_table))
    history["teachers"] = [*history.get("teachers", ()), {"name": "encoder", **encoder.entry}]
    history["versions"] = provenance.versions("numpy", "onnxruntime", "scipy", "soxr")
    history["probe"] = {**vars(options), "layers": layers, "penalty": penalty, "clips": len(rows)}
    output.mkdir(parents=True, exist_ok=True)
    state = {name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in fitted.items()}
    weights.write(output / checkpoint.WEIGHTS, state)
    files.write_json(output / "provenance.json", history)
    entry = {"spec": encoder.spec, **encoder.entry}
    config = {"model_type": MODEL_TYPE, "encoder": entry, "layers": list(layers)}
    files.write_json(output / checkpoint.CONFIG, config)
    return ProbeResult(
        output=str(output),
        layers=layers,
        encoder_layers=encoder.layers,
        penalty=penalty,
        ccc=ccc,
        pcc=pcc,
        groups=groups,
        clips=len(rows),
        licence=provenance.licence_line(history),
        rejected=rejected,
        warnings=warnings,
    )


def ridge(values: np.ndarray, truth: np.ndarray, penalty: float) -> dict[str, np.ndarray]:
    """Fit values (clips, versions, n), every version of a clip, to its truth (clips, 3), 0..1.

    The penalty on weights per standard deviation is added to the mean squared error; the smaller of
    the primal and the dual system is solved.

    Returns:
        `mean` and `sd` (n,), `slopes` (n, 3), `intercept` (3,), in scores around 0
    """
    flat = values.reshape(-1, values.shape[-1]).astype(np.float64)
    mean, sd = flat.mean(0), flat.std(0) + 1e-6
    inputs = bounded(flat, mean, sd)
    centre = inputs.mean(0)
    inputs -= centre
    goal = np.repeat(truth - 0.5, values.shape[1], axis=0)
    middle = goal.mean(0)
    count, size = inputs.shape
    if size <= count:
        system = inputs.T @ inputs / count + penalty * np.eye(size)
        slopes = np.linalg.solve(system, inputs.T @ (goal - middle) / count)
    else:
        system = inputs @ inputs.T / count + penalty * np.eye(count)
        slopes = inputs.T @ np.linalg.solve(system, (goal - middle) / count)
    return {"mean": mean, "sd": sd, "slopes": slopes, "intercept": middle - centre @ slopes}


def calibration(
    held_out: np.ndarray, fitted: np.ndarray, mean: np.ndarray, spread: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Gain and shift that bring scores to a mean and a deviation on 0..1.

    A regression shrinks towards the mean by what it cannot explain, most of all for speakers it was
    not fitted on. CCC counts that as an error, and people who rate do not shrink. So the deviation
    is that of left-out speakers; the mean is that of all the ratings.

    Args:
        held_out: (clips, 3) scores of left-out speakers, around 0
        fitted: (clips, 3) scores of the final fit
        mean: (3,), 0..1
        spread: (3,), standard deviation
    """
    gain, shift = np.ones(len(mean)), np.zeros(len(mean))
    for _ in range(50):
        outputs = squashed(held_out * gain + shift)
        gain = np.minimum(gain * spread / np.maximum(outputs.std(0), 1e-6), MOST_GAIN)
        shift = shift + mean - squashed(fitted * gain + shift).mean(0)
    return gain, shift


def _choose(
    values: list[np.ndarray], truth: np.ndarray, folds: list[np.ndarray]
) -> tuple[tuple[int, ...], float]:
    """Layers and penalty whose predictions of left-out clips correlate best, on average.

    Five neighbouring layers together, or all where there are fewer. `values` are those of every
    layer, then of prosody, (clips, 1, n) each.
    """
    best: tuple[float, tuple[int, ...], float] = (-np.inf, (0,), PENALTIES[0])
    count = len(values) - 1
    for first in range(max(1, count - TOGETHER + 1)):
        layers = tuple(range(first, min(first + TOGETHER, count)))
        inputs = _joined(values, layers)
        for penalty in PENALTIES:
            held_out = np.zeros_like(truth)
            for out in folds:
                held_out[out] = scores(inputs[out, 0], ridge(inputs[~out], truth[~out], penalty))
            pcc = [metrics.pcc(truth[:, i], held_out[:, i]) for i in range(truth.shape[1])]
            best = max(best, (float(np.nanmean(pcc)), layers, penalty))
    return best[1], best[2]


def _joined(values: list[np.ndarray], layers: Sequence[int]) -> np.ndarray:
    return np.concatenate([*(values[layer] for layer in layers), values[-1]], axis=-1)


def _folds(groups: np.ndarray) -> list[np.ndarray]:
    """Masks of what is left out: single groups, or shares of them where there are many."""
    _, codes = np.unique(groups, return_inverse=True)
    count = min(MOST_FOLDS, int(codes.max()) + 1)
    return [codes % count == fold for fold in range(count)]


def read_ratings(labels: Any, options: ProbeOptions | None, ratings: RatingOptions) -> Labels:
    """Ratings, or the places of emotions where the options of a probe ask for them.

    Raises:
        Wav2SmallError: they cannot be used, or an emotion has no place

    Example:
        >>> read_ratings("ratings.csv", None, RatingOptions()).values.round(1).tolist()
        [[0.2, 0.4, 0.8]]
    """
    if isinstance(labels, Labels) or options is None or not options.placement:
        return ratings.table(labels)
    index = load_source(labels, root=ratings.root)
    frame = index.frame.drop(columns=[name for name in DIMENSIONS if name in index.frame])
    if "emotion" not in frame:
        raise Wav2SmallError(f"{labels}: no column `emotion`, which --placement needs")
    places = placements(frame.assign(arousal=np.nan, valence=np.nan))
    try:
        truth = (placed(frame, places) + 1) / 2
    except KeyError as error:
        known = ", ".join(sorted(places))
        raise Wav2SmallError(f"{labels}: emotion {error} has no place; known: {known}") from error
    return Labels(frame.assign(**dict(zip(DIMENSIONS, truth.T, strict=True))), index.root)


def _embed_clips(
    encoder: Encoder, table: Labels, copies: int
) -> tuple[list[int], list[np.ndarray], list[str]]:
    """Rows that can be used; of every layer and of prosody (clips, versions, n); reasons."""

    def one(row: int) -> list[list[np.ndarray]] | str:
        entry = table.frame.iloc[row]
        start, end = entry["start"].total_seconds(), entry["end"].total_seconds()
        end = start + LONGEST_S if not end - start <= LONGEST_S else end  # NaT: to the end
        try:
            path = table.path(entry["file"])
            signal = audio.read(path, start_s=start, end_s=min(end, audio.duration(path)))
        except AudioError as error:
            return str(error)
        seeds = augmentation.seeds(entry["file"], round(start * 1e9), None, copies)
        others = [disturbed(signal, np.random.default_rng(seed)) for seed in seeds]
        return [pooled(encoder, version) for version in (signal, *others)]

    rows, found, rejected = [], [], []
    workers = (os.cpu_count() or 1) if encoder.in_workers else 1
    count = len(table.frame)
    shown = progress.bar(count, unit="clip", desc="finetune")
    with ThreadPoolExecutor(workers) as pool, shown as bar:
        for row, result in enumerate(pool.map(one, range(count))):
            bar.update()
            if isinstance(result, str):
                rejected.append(result)
            else:
                rows.append(row)
                found.append(result)
    values = [
        np.array([[version[part] for version in clip] for clip in found], dtype=np.float32)
        for part in range(encoder.layers + 1)
    ]
    return rows, values, rejected
