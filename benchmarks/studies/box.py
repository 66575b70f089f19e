"""Make the models in the box: `make model AUDIO=FOLDER`, or
`python -m wav2small.benchmarks.studies.box FOLDER -o build/box`.

FOLDER holds CC0 speech: `emodb/` (Emo-DB, acted emotions) and `cc0_voices/` (read speech), each with
a `labels.csv` of `file` and `speaker`. Nothing else enters the weights but Moonshine's encoder (MIT)
and synthetic speech. Every step is one verb:

1. finetune --freeze  a probe on Moonshine's states, from Emo-DB's emotions
2. label              the recorded and the synthetic speech, with variants
3. distill            nano and wav2small
4. export             two verified bundles
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import wav2small
from wav2small import progress
from wav2small.demo.speaker import speak_corpus
from wav2small.teachers.finetuning.options import RatingOptions
from wav2small.teachers.finetuning.probe import ProbeOptions, fit_probe
from wav2small.teachers.labelling.options import SourceOptions, VariantOptions

SPOKEN, VOICES = 400, 20  # sentences of synthetic speech, and the voices that say them
EVERY = 3  # of cc0_voices, every third clip: enough neutral speech, in balance with the rest
VARIANTS = 5  # of each clip
#: Deviation of the probe's outputs on speakers that it was not fitted on. On other corpora they
#: shrink by about a third; people who rate use .15 to .20 of the scale (MSP-Podcast, IEMOCAP).
SPREAD = (0.26, 0.19, 0.24)
#: Held out, to judge the students by: two actors, one reader, two synthetic voices.
HELD_OUT = "speaker=emodb/03,emodb/08,cc0_voices/nathalie,spoken/Alex,spoken/m3"
#: Epochs, crop and precision of each student. One core takes 20 and 45 minutes.
STUDENTS: dict[str, dict[str, Any]] = {
    "nano": {"epochs": 16, "quantise": "int8"},
    "wav2small": {"epochs": 5, "crop_s": 2.0, "quantise": "int4", "quantise_epochs": 1},
}
LICENCE = "CC0-1.0"


def main() -> None:
    parser = argparse.ArgumentParser(prog="box", description=__doc__.partition("\n")[0])
    parser.add_argument("audio", help="folder with emodb/ and cc0_voices/")
    parser.add_argument("-o", "--output", default="build/box", help="default: %(default)s")
    parser.add_argument("--student", choices=list(STUDENTS), nargs="+", default=list(STUDENTS))
    parser.add_argument("--seed", type=int, default=0, help="of training (default: %(default)s)")
    args = parser.parse_args()
    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    clips = list_clips(Path(args.audio), output)
    teacher = output / "teacher"
    if not (teacher / "config.json").exists():
        fit_probe(
            Path(args.audio) / "emodb" / "labels.csv",
            teacher,
            ProbeOptions(placement=True, spread=SPREAD),
            ratings=RatingOptions(audio_licence=LICENCE),
        )
    labels = output / "labels.parquet"
    wav2small.label(
        clips,
        labels,
        teacher=str(teacher),
        clips=SourceOptions(root="/", audio_licence=LICENCE),
        variants=VariantOptions(variants=VARIANTS, targets="clean"),
    )
    for student in args.student:
        make(student, labels, output, args.seed)


def list_clips(audio: Path, output: Path) -> Path:
    """The table of all clips: file and speaker."""
    import pandas as pd

    spoken = output / "spoken"
    if not (spoken / "labels.csv").exists():
        speak_corpus(spoken, clips=SPOKEN, voices=VOICES, seed=1)
    tables = []
    for folder, every in ((audio / "emodb", 1), (audio / "cc0_voices", EVERY), (spoken, 1)):
        table = pd.read_csv(folder / "labels.csv", dtype={"speaker": str})[["file", "speaker"]]
        table["speaker"] = folder.name + "/" + table["speaker"]
        table["file"] = [str(folder.resolve() / file) for file in table["file"]]
        tables.append(table[::every])
    path = output / "clips.csv"
    pd.concat(tables).to_csv(path, index=False)
    return path


def make(student: str, labels: Path, output: Path, seed: int) -> None:
    """Distil one student and export it."""
    run, bundle = output / f"run_{student}", output / student
    settings = STUDENTS[student]
    result = wav2small.distill(
        labels,
        run,
        student=student,
        validation=HELD_OUT,
        seed=seed,
        cache_mb=4096,
        **settings,
    )
    progress.note(f"{student}: agreement with the teacher {result.ccc}")
    wav2small.export_bundle(
        run,
        bundle,
        precision=settings["quantise"],
        streaming=student == "nano",
        check_licence="commercial",
        overwrite=True,
    )
    shutil.copytree(bundle, Path(__file__).parents[2] / "wav2small" / "models" / student,
                    dirs_exist_ok=True)  # fmt: skip


if __name__ == "__main__":
    main()
