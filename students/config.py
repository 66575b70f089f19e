"""Every setting of a distillation, with its default and what it means.

The command line, `distill()` and `--config file.toml` use the same names. Free of torch, so that
`wav2small distill --help` is quick.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wav2small import files
from wav2small.errors import Wav2SmallError


def _option(default: Any, help: str, **extra: Any) -> Any:
    """A field of `Config`; 0 stands for "choose for me" where its help does."""
    metadata = {"help": help, **extra}
    if isinstance(default, (dict, list)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class Config:
    """Settings of `distill`.

    A value of 0 for `epochs`, `batch_size`, or `learning_rate` means: chosen for the number of
    clips; `resolve` does so, and `distill.toml` in the run folder holds the choice.
    """

    student: str = _option("wav2small", "student to train; `wav2small students` lists them")
    student_options: dict[str, Any] = _option({}, "options of the student (TOML table)", cli=False)
    init: str = _option("", "run folder whose weights to start from")
    validation: str = _option(
        "0.15",
        "share of clips held out by speaker (by file without a column `speaker`), or "
        "COLUMN=VALUE,VALUE",
    )
    epochs: int = _option(0, "passes over the training clips; 0 = by number of clips")
    batch_size: int = _option(0, "clips per step over all processes; 0 = by number of clips")
    crop_s: float = _option(3.0, "longest part of a clip in a batch, in seconds; 0 = all of it")
    learning_rate: float = _option(0.0, "peak learning rate; 0 = the student's own")
    schedule: str = _option(
        "onecycle", "learning rate over time", choices=("onecycle", "cosine", "constant")
    )
    freeze_bn_fraction: float = _option(
        0.0,
        "share of the epochs, at the end, in which BatchNorm's statistics stay as they are; "
        "0 = the student's own (.4 for MobileNets, none for the others)",
    )
    weight_decay: float = _option(0.01, "weight decay of AdamW, on weight matrices only")
    clip_norm: float = _option(1.0, "largest norm of the gradient; 0 = no limit")
    ema: float = _option(0.99, "decay per step of the moving average of weights; 0 = none")
    ccc_weight: float = _option(1.0, "weight of 1 - CCC")
    regression: str = _option("smooth_l1", "regression term", choices=("smooth_l1", "mse", "none"))
    regression_weight: float = _option(5.0, "weight of the regression term")
    dimension_weights: list[float] = _option(
        [1.0, 1.0, 1.0], "weights of arousal, dominance, valence", nargs=3
    )
    calibrate: bool = _option(
        False,
        "at the end, bring mean and deviation of the estimates for the validation clips to those "
        "of their labels",
    )
    categories: bool = _option(
        False, "also learn the categories whose probabilities the label table holds"
    )
    category_weight: float = _option(0.3, "weight of the cross-entropy of --categories")
    trim: float = _option(0.0, "share of each batch left out as label noise (largest residuals)")
    gain_db: float = _option(
        10.0, "random gain up to this many dB up or down, if the teacher does not react to gain"
    )
    noise_probability: float = _option(
        0.0,
        "share of clips that get noise or babble, drawn anew in every epoch, under the same label; "
        "for labels of clean speech",
    )
    room_probability: float = _option(
        0.0, "share of clips that are put into a synthetic room, drawn anew in each epoch, likewise"
    )
    band_probability: float = _option(
        0.0, "share of clips cut to the band of a telephone or a low sampling rate, likewise"
    )
    size_probability: float = _option(
        0.0, "share of clips whose pitch and formants move by up to 4 semitones, likewise"
    )
    consistency_weight: float = _option(
        0.0,
        "weight of the consistency loss: 1 - CCC between the outputs for each clip and for a copy "
        "that gets all of these; 0 = no copies, the clips themselves get them",
    )
    augment_probability: float = _option(
        0.5, "with --online: share of clips that become a fresh variant in every epoch"
    )
    noise: str = _option("", "with --online: folder of noise for fresh variants")
    rooms: str = _option("", "with --online: folder of room impulse responses, likewise")
    noise_licence: str = _option("unknown", "licence of --noise, for provenance")
    rooms_licence: str = _option("unknown", "licence of --rooms, for provenance")
    patience: int = _option(0, "stop after this many epochs without a better validation; 0 = never")
    quantise: str = _option(
        "none", "grid of the quantisation-aware last phase", choices=("none", "int8", "int4")
    )
    quantise_epochs: int = _option(
        0, "epochs of that last phase; 0 = a tenth of `epochs`, at least 2"
    )
    precision: str = _option("fp32", "arithmetic of the network", choices=("fp32", "bf16"))
    compile: bool = _option(False, "pass the student through torch.compile (a minute at the start)")
    device: str = _option("auto", "where to compute: auto, cpu, cuda or cuda:1")
    cache_mb: int = _option(
        8192, "disk for decoded audio of all runs in MB; the rest is decoded each epoch; 0 = none"
    )
    cache: str = _option(
        "", "folder of decoded audio; $WAV2SMALL_CACHE, else wav2small/clips in the user's cache"
    )
    workers: int = _option(
        0, "threads that prepare batches ahead of the network; 0 = one per core, 2 to 8"
    )
    threads: int = _option(0, "threads that compute on a CPU; 0 = chosen by timing some steps")
    checkpoint_s: float = _option(300.0, "seconds between checkpoints within an epoch")
    seed: int = _option(0, "seed of everything random")


#: Peak learning rate of each student; found as docs/results/recipe.md describes.
LEARNING_RATES = {"wav2small": 5e-3, "wav2small2": 5e-3, "nano": 5e-3}

#: `learning_rate` and `freeze_bn_fraction` of all others, which are deep: dozens of BatchNorms.
DEEP_LEARNING_RATE = 1e-3
DEEP_FREEZE_BN_FRACTION = 0.4

#: Settings that may differ when a run goes on: they change no weight.
RESUME_SAFE = frozenset(
    "device cache cache_mb workers threads checkpoint_s noise_licence rooms_licence".split()
)

#: Former names of settings, as older distill.toml files have them.
FORMER = {"settle": "freeze_bn_fraction", "altered": "augment_probability"}


def resolve(config: Config, clips: int) -> Config:
    """Settings with every 0 that stands for "choose for me" replaced, for `clips` clips.

    Example:
        >>> resolve(Config(student="nano"), clips=500).epochs
        16
    """
    batch_size = min(config.batch_size or 16, clips)
    small = config.student in LEARNING_RATES
    epochs = config.epochs or min(max(round(16 * (500 / clips) ** 0.4), 4), 60)
    return dataclasses.replace(
        config,
        batch_size=batch_size,
        epochs=epochs,
        learning_rate=config.learning_rate
        or LEARNING_RATES.get(config.student, DEEP_LEARNING_RATE),
        freeze_bn_fraction=config.freeze_bn_fraction or (0.0 if small else DEEP_FREEZE_BN_FRACTION),
        quantise_epochs=config.quantise_epochs or max(2, round(epochs / 10)),
    )


def identity(config: Config) -> dict[str, Any]:
    """The settings that change the weights of a run."""
    return {k: v for k, v in dataclasses.asdict(config).items() if k not in RESUME_SAFE}


def check(values: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """Values of `Config` fields, converted to their types.

    Raises:
        Wav2SmallError: unknown name (the nearest is suggested) or a value that is not possible

    Example:
        >>> check({"epochs": "3", "compile": True}, where="run.toml")
        {'epochs': 3, 'compile': True}
    """
    fields = {item.name: item for item in dataclasses.fields(Config)}
    result = {}
    for name, value in values.items():
        name = FORMER.get(name, name)
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1, cutoff=0.0)[0]
            raise Wav2SmallError(f"{where}: unknown setting {name!r}; did you mean {near!r}?")
        kind = str(fields[name].type).split("[")[0]
        choices = fields[name].metadata.get("choices")
        result[name] = converted = _convert(value, kind)
        if converted is None or (choices and converted not in choices):
            wanted = " or ".join(choices or [kind])
            raise Wav2SmallError(f"{where}: {name} = {value!r}: give {wanted}")
        if problem := _out_of_range(name, converted):
            raise Wav2SmallError(f"{where}: {name} = {converted!r}: {problem}")
    return result


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Settings of a TOML file, `labels` included if it names one."""
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib  # type: ignore[no-redef]
    try:
        with open(path, "rb") as file:
            values = tomllib.load(file)
    except OSError as error:
        raise Wav2SmallError(f"{path}: {error.strerror}; correct --config") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Wav2SmallError(f"{path}: not TOML ({error}); write lines like epochs = 20") from error
    labels = {"labels": str(values.pop("labels"))} if "labels" in values else {}
    return labels | check(values, where=str(path))


def write(path: str | os.PathLike[str], config: Config, *, labels: str) -> None:
    """Write settings so that `read` gives them back."""
    values = ({"labels": labels} if labels else {}) | vars(config)
    tables = {name: value for name, value in values.items() if isinstance(value, dict) and value}
    # JSON strings, numbers, booleans and lists of them are TOML as well.
    lines = ["# Settings of this run; `wav2small distill --config FILE -o RUN` repeats it."]
    lines += [f"{k} = {json.dumps(v)}" for k, v in values.items() if not isinstance(v, dict)]
    for name, table in tables.items():
        lines += [f"\n[{name}]", *(f"{k} = {json.dumps(v)}" for k, v in table.items())]
    with files.atomic(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n")


def _convert(value: Any, kind: str) -> Any:
    try:
        if kind == "bool":
            return value if isinstance(value, bool) else None
        if kind == "int":
            return int(value) if int(value) == float(value) else None
        if kind == "list":
            return [float(entry) for entry in value]
        return {"float": float, "dict": dict, "str": str}[kind](value)
    except (TypeError, ValueError):
        return None


def _out_of_range(name: str, value: Any) -> str:
    """What a value must be and is not; "" = it is possible."""
    if isinstance(value, (int, float)) and name != "seed" and not value >= 0:
        return "must not be negative"
    if name in ("ema", "trim") and value >= 1:
        return "must be below 1"
    if name.endswith(("_fraction", "_probability")) and value > 1:
        return "a share, at most 1"
    if name == "dimension_weights" and len(value) != 3:
        return "give three numbers, A, D and V"
    if name == "crop_s" and 0 < value < 0.25:
        return "at least 0.25 s, or 0"
    return ""
