"""Make the models in the box: `make model AUDIO=FOLDER`, or
`python -m wav2small.benchmarks.studies.box FOLDER -o build/box`.

FOLDER holds CC0 speech: `emodb/` (Emo-DB, acted emotions; `labels.csv` with `file`, `speaker`,
`emotion`) and `cc0_voices/` (read speech; `file`, `speaker`). espeak-ng reads sentences of ours to
that. Nothing else enters the weights but Moonshine's encoder and silero-vad (MIT). Every step is
one verb:

1. `finetune --freeze`: a probe on Moonshine's states, from Emo-DB's emotions
2. `label`: all of the speech with variants, by the probe; valence by its mean with `acoustic`
3. `distill`: nano and the 72K student, calibrated on the speakers held out
4. nano's head for voice activity, on the frozen student, from silero-vad (`add_voice`)
5. `export`: a verified bundle; `--install` copies it to `wav2small/models/`
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import wav2small
from wav2small import progress
from wav2small.demo.speaker import VOICES, speak_corpus
from wav2small.errors import Wav2SmallError
from wav2small.export import bundle as sealing
from wav2small.teachers.finetuning.options import RatingOptions
from wav2small.teachers.finetuning.probe import ProbeOptions, fit_probe
from wav2small.teachers.labelling.options import SourceOptions, VariantOptions

SYNTHETIC = 340  # sentences of espeak-ng, four of each of its voices
VARIANTS = 16  # of each clip
#: Mean and deviation of the probe's outputs on Emo-DB's speakers when they are left out; chosen.
#: Emo-DB is at the wide end of speech and has five negative emotions and one positive. People who
#: rate use .15 to .20 of the scale, around its middle, and outputs shrink on the way to other
#: corpora, valence by half, arousal and dominance less. Of valence .25 is reached
#: (`teachers.finetuning.probe.MOST_GAIN`).
MEAN, SPREAD = (0.66, 0.53, 0.38), (0.21, 0.17, 0.28)
#: Weight of the acoustic teacher relative to the probe's 1. What the probe knows of valence, a small
#: network learns badly and not for other languages; what `acoustic` knows is easier (docs/models.md).
ACOUSTIC = (0, 0, 1)
#: Held out, to judge and calibrate the students by: two actors and a reader.
HELD_OUT = "speaker=emodb/03,emodb/08,cc0_voices/nathalie"
STUDENTS: dict[str, dict[str, Any]] = {
    "nano": {
        "epochs": 6,
        "noise_probability": 0.7,
        "room_probability": 0.6,
        "band_probability": 0.3,
        "consistency_weight": 1.0,
        "quantise": "int8",
        "quantise_epochs": 1,
    },
    "wav2small": {
        "epochs": 5,
        "noise_probability": 0.4,
        "room_probability": 0.35,
        "band_probability": 0.25,
        "crop_s": 2.0,
        "precision": "bf16",  # a fifth faster
        "quantise": "int4",
        "quantise_epochs": 1,
    },
}
LICENCE = "CC0-1.0"
RECORDED = ("emodb", "cc0_voices")
MODELS = Path(__file__).parents[2] / "wav2small" / "models"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m wav2small.benchmarks.studies.box", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("audio", help="folder with emodb/ and cc0_voices/")
    parser.add_argument("-o", "--output", default="build/box", help="default: %(default)s")
    parser.add_argument("--student", choices=list(STUDENTS), nargs="+", default=list(STUDENTS))
    parser.add_argument("--seed", type=int, default=0, help="of training (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of training (default: %(default)s)")
    parser.add_argument("--install", action="store_true", help="replace the models in the package")
    args = parser.parse_args(arguments)
    try:
        make_models(args)
    except Wav2SmallError as error:
        print(f"box: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nbox: stopped; the same command goes on from there", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def make_models(args: argparse.Namespace) -> None:
    """All steps; those that are done are not done again."""
    output = Path(args.output)
    clips = list_clips(Path(args.audio), output)
    teacher = output / "teacher"
    if not (teacher / "config.json").exists():
        fit_probe(
            Path(args.audio) / "emodb" / "labels.csv",
            teacher,
            ProbeOptions(placement=True, mean=MEAN, spread=SPREAD),
            ratings=RatingOptions(audio_licence=LICENCE),
        )
    labels = output / "labels.parquet"
    wav2small.label(
        clips,
        labels,
        teacher=f"ensemble:{teacher}=1/1/1,acoustic={'/'.join(map(str, ACOUSTIC))}",
        clips=SourceOptions(root=output / "audio", audio_licence=LICENCE),
        variants=VariantOptions(variants=VARIANTS, targets="clean"),
    )
    with ProcessPoolExecutor(len(args.student), mp_context=get_context("spawn")) as pool:
        making = partial(make, labels=labels, output=output, seed=args.seed, threads=args.threads)
        bundles = list(pool.map(making, args.student))
    if args.install:
        for student, bundle in zip(args.student, bundles, strict=True):
            install(bundle, MODELS / student)


def install(bundle: Path, target: Path) -> None:
    """Copy a bundle into the package, without the C library, which is there already."""
    record = sealing.read_record(bundle)
    shutil.rmtree(target, ignore_errors=True)
    for name in record["files"]:
        if "/" not in name and name != "Makefile" or name.startswith("c/nano_"):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle / name, target / name)
    sealing.seal(target, record)


def list_clips(audio: Path, output: Path) -> Path:
    """The table of all clips: file, relative to `audio/` in the output, and speaker.

    Raises:
        Wav2SmallError: no such audio, or the output was made from other audio
    """
    import pandas as pd

    for name in RECORDED:
        if not (audio / name / "labels.csv").is_file():
            raise Wav2SmallError(
                f"{audio}: no {name}/labels.csv; give the folder with {' and '.join(RECORDED)}"
            )
    root = output / "audio"
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Wav2SmallError(
            f"{output}: no folder ({error.strerror}); choose another -o"
        ) from error
    for name in RECORDED:
        source, link = (audio / name).resolve(), root / name
        if not os.path.lexists(link):
            link.symlink_to(source, target_is_directory=True)
        elif link.resolve() != source:
            raise Wav2SmallError(f"{output}: made from {link.resolve()}; choose another -o")
    if not (root / "synthetic" / "labels.csv").exists():
        speak_corpus(root / "synthetic", clips=SYNTHETIC, voices=len(VOICES))
    tables = []
    for name in (*RECORDED, "synthetic"):
        table = pd.read_csv(root / name / "labels.csv", dtype={"speaker": str})
        tables.append(f"{name}/" + table[["file", "speaker"]])
    path = output / "clips.csv"
    pd.concat(tables).to_csv(path, index=False)
    return path


def make(student: str, *, labels: Path, output: Path, seed: int, threads: int) -> Path:
    """Distil one student and export it; returns its bundle."""
    run, bundle = output / f"run_{student}", output / student
    settings = STUDENTS[student]
    result = wav2small.distill(
        labels,
        run,
        student=student,
        validation=HELD_OUT,
        seed=seed,
        threads=threads,
        cache_mb=8192,
        calibrate=True,
        voice=student == "nano",
        **settings,
    )
    progress.note(f"{student}: CCC with the teacher, speakers held out: {result.ccc}")
    if result.voice:
        progress.note(f"{student}: AUC of voice activity by dB: {result.voice}")
    wav2small.export_bundle(
        run,
        bundle,
        precision=settings["quantise"],
        streaming=student == "nano",
        c=student == "nano",
        check_licence="commercial",
        overwrite=True,
    )
    return bundle


if __name__ == "__main__":
    sys.exit(main())
