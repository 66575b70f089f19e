"""Cross-validation: every clip is estimated by a teacher that never had its speaker in training."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wav2small import files, provenance
from wav2small.errors import Wav2SmallError
from wav2small.evaluation import EMOTION, Evaluation, evaluate
from wav2small.index import Index
from wav2small.tables import texts
from wav2small.teachers.labelling.options import ComputeOptions
from wav2small.teachers.labelling.run import label

from .finetune import AudioRecipe, finetune
from .multimodal_recipe import MultimodalRecipe
from .options import DeviceOptions, RatingOptions, TrainingOptions
from .probe import ProbeOptions, fit_probe, read_ratings

if TYPE_CHECKING:
    import pandas as pd

FOLD = "fold"
PREDICTIONS = "predictions.parquet"


@dataclass(frozen=True)
class CrossValidated:
    """What a cross-validation found."""

    folds: dict[str, int]  # {fold: clips that were held out in it}
    evaluation: Evaluation  # of all held-out clips together, and of each fold as group "fold"
    spread: dict[str, tuple[float, float]]  # {dimension: mean, deviation of the CCC over folds}


def finetune_folds(
    labels: str | os.PathLike[str],
    output: str | os.PathLike[str],
    recipe: AudioRecipe | MultimodalRecipe | ProbeOptions,
    *,
    folds: str,
    ratings: RatingOptions | None = None,
    training: TrainingOptions | None = None,
    compute: DeviceOptions | None = None,
    overwrite: bool = False,
) -> CrossValidated:
    """Cross-validate `finetune`: one teacher for each fold, figures of all held-out clips.

    Args:
        labels: as of `finetune`
        output: folder that gets `fold-NAME/` and `fold-NAME.parquet` for each fold,
            `predictions.parquet` and `figures.json`. A run that was stopped resumes
        recipe: as of `finetune`, or of `fit_probe`
        folds: cross-validate over the values of a column, such as speaker or session, or over K
            folds of speakers
        ratings: as of `finetune`
        training: as of `finetune`; `validation` is taken from the other folds
        compute: as of `finetune`
        overwrite: replace another run

    Raises:
        Wav2SmallError: as `finetune`; no such column, or fewer than two folds
    """
    import pandas as pd

    ratings, training = ratings or RatingOptions(), training or TrainingOptions()
    compute = compute or DeviceOptions()
    table = read_ratings(labels, recipe if isinstance(recipe, ProbeOptions) else None, ratings)
    if not table.provenance:
        source = {"source": os.fspath(labels), "licence": ratings.audio_licence}
        table = replace(table, provenance=provenance.new(audio=[source]))
    clean = table.frame
    if "variant" in clean:
        clean = clean[clean["variant"] == 0]
    frame = clean.reset_index(drop=True)
    frame[FOLD] = assign(frame, folds, seed=training.seed)
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    computing = ComputeOptions(device=compute.device)
    how: dict[str, Any] = {"ratings": ratings, "training": training, "compute": compute}
    found = []
    names = sorted(set(frame[FOLD]))
    for number, name in enumerate(names):
        member = frame[FOLD] == name
        folder = output / f"fold-{_safe(name, number)}"
        others = replace(table, frame=frame[~member].reset_index(drop=True))
        if isinstance(recipe, ProbeOptions):  # fitted again in a run that resumes: it is cheap
            fit_probe(others, folder, recipe, device=compute.device, overwrite=True)
        else:
            finetune(others, folder, recipe, overwrite=overwrite, **how)
        held_out = frame[member].drop(columns=list(table.dimensions)).reset_index(drop=True)
        held_out = held_out[[c for c in held_out if not str(c).startswith("probability_")]]
        made, index = folder.with_name(folder.name + ".parquet"), Index(held_out, table.root)
        label(index, made, teacher=str(folder), compute=computing, overwrite=overwrite)
        found.append(pd.read_parquet(made))
    joined = pd.concat(found, ignore_index=True)
    joined["file"] = [os.path.join(os.path.abspath(table.root), file) for file in joined["file"]]
    with files.atomic(output / PREDICTIONS) as temporary:
        joined.to_parquet(temporary, index=False)
    truth, categories = replace(table, frame=frame), ratings.categories or EMOTION
    by: dict[str, Any] = {"by": [FOLD], "categories": categories, "seed": training.seed}
    result = evaluate(output / PREDICTIONS, truth, **by)
    files.write_json(output / "figures.json", result.to_json())
    groups = result.groups[FOLD].values()
    spread = {}
    for dimension in result.dimensions:
        values = [group["dimensions"][dimension]["ccc"].value for group in groups] or [math.nan]
        spread[dimension] = float(np.mean(values)), float(np.std(values))
    sizes = {str(name): int((frame[FOLD] == name).sum()) for name in names}
    return CrossValidated(sizes, result, spread)


def assign(frame: pd.DataFrame, folds: str, *, seed: int = 0) -> np.ndarray:
    """The fold of every clip.

    Args:
        frame: ratings, with a column `speaker` if voices are known
        folds: a column, or a number of folds
        seed: of the order in which speakers are distributed

    Raises:
        Wav2SmallError: no such column, or fewer than two folds

    Example:
        >>> import pandas as pd
        >>> frame = pd.DataFrame({"speaker": ["a", "b", "a", "c"]})
        >>> assign(frame, "speaker").tolist(), len(set(assign(frame, "2")))
        (['a', 'b', 'a', 'c'], 2)
    """
    if folds in frame:
        values = texts(frame[folds]).to_numpy(dtype=object)
        if len(set(values)) < 2:
            raise Wav2SmallError(
                f"--folds {folds}: all clips are of {folds} {values[0]}; two are needed"
            )
        return values
    if not folds.isdigit():
        raise Wav2SmallError(
            f"--folds {folds}: no such column; give a number, or one of "
            f"{', '.join(map(str, frame))}"
        )
    column = "speaker" if "speaker" in frame and frame["speaker"].nunique() > 1 else "file"
    names, codes, counts = np.unique(texts(frame[column]), return_inverse=True, return_counts=True)
    if not 2 <= int(folds) <= len(names):
        raise Wav2SmallError(
            f"--folds {folds}: give 2 to {len(names)}, the number of different values of {column}"
        )
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-counts[order], kind="stable")]  # the largest first, to the emptiest
    filled = np.zeros(int(folds), dtype=int)
    place = np.zeros(len(names), dtype=int)
    for name in order:
        place[name] = int(filled.argmin())
        filled[place[name]] += counts[name]
    return np.array([f"{fold + 1}" for fold in place[codes]], dtype=object)


def _safe(name: str, number: int) -> str:
    """A fold's name as part of a file name."""
    plain = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in name)
    return plain if plain == name else f"{number}-{plain}"
