"""A teacher from few ratings: a probe on a frozen encoder, in minutes on a CPU.

    wav2small finetune ratings.csv --freeze --encoder moonshine -o teacher/

Ridge regression in closed form on pooled states of three neighbouring layers and on statistics of prosody
(`teachers.speech.probe`). Layers and penalty are those that predict left-out speakers best. Each clip
is seen as it is and through other rooms, noises and channels, so that the probe leans on the voice.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
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
from wav2small.tables import Labels, read_labels
from wav2small.teachers.acoustic.placement import placed, placements
from wav2small.teachers.acoustic.teacher import bounded, squashed
from wav2small.teachers.speech import checkpoint
from wav2small.teachers.speech.frozen import Encoder, open_encoder
from wav2small.teachers.speech.probe import MODEL_TYPE, pooled
from wav2small.training import weights

FEWEST = 30  # clips; fewer cannot tell a penalty from another
PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # on weights per standard deviation
MOST_FOLDS = 10
TOGETHER = 3  # neighbouring layers that a probe reads
LONGEST_S = 12.0  # of a clip that is used, the window of `label`
MOST_GAIN = 3.0  # by which a held-out prediction's deviation is widened at most


@dataclass(frozen=True)
class ProbeOptions:
    """How a probe is fitted.

    Attributes:
        encoder: "moonshine", an ONNX file, or a folder or hub id of transformers
        placement: the table has a column `emotion` instead of ratings; each emotion gets its place
            of `teachers.acoustic.placement`
        copies: how often each clip is seen through another channel, besides as it is
        mean: of the outputs on the table's clips, three numbers; None = of the ratings
        spread: their standard deviation, likewise
        device: for an encoder of transformers
    """

    encoder: str = "moonshine"
    placement: bool = False
    copies: int = 3
    mean: tuple[float, ...] | None = None
    spread: tuple[float, ...] | None = None
    device: str = "auto"


@dataclass(frozen=True)
class ProbeResult:
    """What fitting found.

    Attributes:
        output: the teacher's folder
        layers: of the encoder that were chosen, from 0
        encoder_layers: how many it has
        penalty: that was chosen
        ccc: on clips of left-out speakers, by dimension
        pcc: their Pearson correlations
        groups: "speakers" or "files": what was left out
        clips: that were used
        licence: whom the teacher binds
        rejected: reasons of the clips that could not be used
        warnings: what else the user should know
    """

    output: str
    layers: tuple[int, ...]
    encoder_layers: int
    penalty: float
    ccc: dict[str, float]
    pcc: dict[str, float]
    groups: str
    clips: int
    licence: str
    rejected: list[str]
    warnings: list[str]


def fit_probe(
    labels: str | os.PathLike[str] | Labels,
    output: str | os.PathLike[str],
    options: ProbeOptions = ProbeOptions(),
    *,
    root: str | None = None,
    scale: tuple[float, float] | None = None,
    audio_licence: str = provenance.UNKNOWN,
    overwrite: bool = False,
) -> ProbeResult:
    """Fit a probe to human ratings.

    Args:
        labels: ratings; see `read_labels`. A column `speaker` says who is left out together
        output: folder for the teacher
        options: how
        root: folder that the files of the table are relative to
        scale: of the ratings, such as (1, 7); None = 0..1
        audio_licence: licence of the table's audio, for the provenance
        overwrite: replace a teacher in `output`

    Raises:
        Wav2SmallError: no encoder, fewer than 30 clips, constant ratings, a folder in use
    """
    output = Path(output)
    if (output / checkpoint.CONFIG).exists() and not overwrite:
        raise Wav2SmallError(
            f"{output}: holds a teacher already; choose another -o, or --overwrite"
        )
    table = _read(labels, options, root=root, scale=scale)
    encoder = open_encoder(options.encoder, device=options.device)
    rows, values, rejected = _hear(encoder, table, options.copies)
    warnings: list[str] = []
    if len(rows) < FEWEST:
        reason = f"; the first rejected: {rejected[0]}" if rejected else ""
        raise Wav2SmallError(
            f"{len(rows)} rated clips can be used; a probe needs at least {FEWEST}{reason}"
        )
    truth = table.values[rows]
    for column, name in enumerate(DIMENSIONS):
        if np.ptp(truth[:, column]) < 1e-6:
            raise Wav2SmallError(
                f"every {name} is {truth[0, column]:.4g}: nothing to learn from it"
            )
    frame = table.frame.iloc[rows]
    by_speaker = "speaker" in frame and frame["speaker"].nunique() > 1
    if not by_speaker:
        warnings.append(
            "ratings of one speaker, or no column `speaker`: files are left out instead of "
            "speakers, and the figures are too good for other voices"
        )
    folds = _folds(frame["speaker" if by_speaker else "file"].astype(str).to_numpy())
    layers, penalty = _choose([layer[:, :1] for layer in values], truth, folds)
    chosen = _joined(values, layers)
    held_out = np.zeros((*chosen.shape[:2], len(DIMENSIONS)))
    for out in folds:
        held_out[out] = _scores(chosen[out], ridge(chosen[~out], truth[~out], penalty))
    fitted = ridge(chosen, truth, penalty)
    gain, shift = calibration(
        held_out.reshape(-1, len(DIMENSIONS)),
        np.array(options.mean or truth.mean(0)),
        np.array(options.spread or truth.std(0)),
    )
    fitted["slopes"] = fitted["slopes"] * gain
    fitted["intercept"] = fitted["intercept"] * gain + shift
    prediction = squashed(held_out[:, 0] * gain + shift)
    pairs = [(truth[:, i], prediction[:, i]) for i in range(len(DIMENSIONS))]
    pcc = {name: float(metrics.pcc(*pair)) for name, pair in zip(DIMENSIONS, pairs, strict=True)}
    warnings += [
        f"{name}: correlation {value:.2f} with ratings of left-out {'speakers' if by_speaker else 'files'}; "
        "labels of it will be noise"
        for name, value in pcc.items()
        if not value > 0.1
    ]
    history = _write(
        output, table, labels, audio_licence, encoder, layers, penalty, fitted, options
    )
    return ProbeResult(
        str(output),
        layers,
        encoder.layers,
        penalty,
        {name: float(metrics.ccc(*pair)) for name, pair in zip(DIMENSIONS, pairs, strict=True)},
        pcc,
        "speakers" if by_speaker else "files",
        len(rows),
        provenance.licence_line(history),
        rejected,
        warnings,
    )


def ridge(values: np.ndarray, truth: np.ndarray, penalty: float) -> dict[str, np.ndarray]:
    """Fit; the smaller of the primal and the dual system is solved.

    Args:
        values: (clips, versions, n), every version of a clip has its truth
        truth: (clips, 3), 0..1
        penalty: beside the mean squared error, on weights per standard deviation

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
    scores: np.ndarray, mean: np.ndarray, spread: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Gain and shift that bring held-out scores to a mean and a deviation on 0..1.

    A regression shrinks towards the mean by what it cannot explain. CCC counts that as an error,
    and people who rate do not shrink.

    Args:
        scores: (clips, 3) of left-out speakers, around 0
        mean: (3,), 0..1
        spread: (3,), standard deviation
    """
    gain, shift = np.ones(scores.shape[1]), np.zeros(scores.shape[1])
    for _ in range(50):
        outputs = squashed(scores * gain + shift)
        gain = np.minimum(gain * spread / np.maximum(outputs.std(0), 1e-6), MOST_GAIN)
        shift = shift + mean - outputs.mean(0)
    return gain, shift


def _scores(values: np.ndarray, fitted: dict[str, np.ndarray]) -> np.ndarray:
    return bounded(values, fitted["mean"], fitted["sd"]) @ fitted["slopes"] + fitted["intercept"]


def _choose(
    values: list[np.ndarray], truth: np.ndarray, folds: list[np.ndarray]
) -> tuple[tuple[int, ...], float]:
    """Layers and penalty whose predictions of left-out clips correlate best, on average.

    Three neighbouring layers together, or all where there are fewer.

    Args:
        values: of every layer, then of prosody (clips, 1, n)
    """
    best: tuple[float, tuple[int, ...], float] = (-np.inf, (0,), PENALTIES[0])
    count = len(values) - 1
    for first in range(max(1, count - TOGETHER + 1)):
        layers = tuple(range(first, min(first + TOGETHER, count)))
        inputs = _joined(values, layers)
        for penalty in PENALTIES:
            held_out = np.zeros_like(truth)
            for out in folds:
                held_out[out] = _scores(inputs[out, 0], ridge(inputs[~out], truth[~out], penalty))
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


def _read(labels: Any, options: ProbeOptions, *, root: Any, scale: Any) -> Labels:
    if isinstance(labels, Labels):
        return labels
    if not options.placement:
        return read_labels(labels, root=root, scale=scale)
    index = load_source(labels, root=root)
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


def _hear(
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
        versions = [augmentation.variant(signal, seed, part="channel") for seed in (0, *seeds)]
        return [pooled(encoder, version) for version in versions]

    rows, found, rejected = [], [], []
    workers = (os.cpu_count() or 1) if encoder.in_workers else 1
    with ThreadPoolExecutor(workers) as pool:
        for row, result in enumerate(_shown(pool.map(one, range(len(table.frame))), table)):
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


def _shown(results: Iterator[Any], table: Labels) -> Iterator[Any]:
    with progress.bar(len(table.frame), unit="clip", desc="finetune") as bar:
        for result in results:
            bar.update()
            yield result


def _write(
    output: Path,
    table: Labels,
    labels: Any,
    audio_licence: str,
    encoder: Encoder,
    layers: tuple[int, ...],
    penalty: float,
    fitted: dict[str, np.ndarray],
    options: ProbeOptions,
) -> dict[str, Any]:
    entry = {"id": encoder.id, "revision": encoder.revision, "licence": encoder.licence}
    source = "labels" if isinstance(labels, Labels) else os.path.basename(os.fspath(labels))
    base = table.provenance or provenance.new(audio=[{"source": source, "licence": audio_licence}])
    history = {
        **base,
        "teachers": [*base.get("teachers", ()), {"name": "encoder", **entry}],
        "versions": provenance.versions("numpy", "onnxruntime", "scipy", "soxr"),
        "probe": {**vars(options), "layers": layers, "penalty": penalty, "clips": len(table.frame)},
    }
    output.mkdir(parents=True, exist_ok=True)
    state = {name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in fitted.items()}
    weights.write(output / checkpoint.WEIGHTS, state)
    files.write_json(output / "provenance.json", history)
    files.write_json(
        output / checkpoint.CONFIG,
        {"model_type": MODEL_TYPE, "encoder": {"spec": encoder.spec, **entry}, "layers": layers},
    )
    return history
