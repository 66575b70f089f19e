"""What text adds: small teachers from scratch on spoken dialogues, evaluated on held-out sentences.

    python -m wav2small.benchmarks.studies.multimodal spectra              # one system
    python -m wav2small.benchmarks.studies.multimodal                      # every system
    python -m wav2small.benchmarks.studies.multimodal spectra --distill    # and students of both teachers
    python -m wav2small.benchmarks.studies.multimodal spectra --bare       # no pretraining, where there is one

Everything is made on the spot (`wav2small.benchmarks.studies.dialogues`, `small_encoders`) and lies in `--folder`;
what is done there already is taken as it is, so the command goes on where it was stopped. Printed
as JSON: CCC of the teacher of speech alone, of each system with text and with text taken away,
what a system's pretraining has learned, and, with `--distill`, CCC of a student of the best system
compared with that of a student of the teacher of speech alone. All on sentences kept for judging, whose
pairs of adjectives none of them learned from; no epoch is chosen on them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wav2small import metrics
from wav2small.dimensions import DIMENSIONS
from wav2small.index import load_source

#: Of six turns each: rated, to be judged on, and for pretraining.
DIALOGUES, HELD_OUT_DIALOGUES, UNRATED_DIALOGUES = 200, 30, 400
CROP_S = 3.0
LICENCE = "CC0-1.0"  # of the synthetic dialogues
PRETRAINING: dict[str, Any] = {"epochs": 20, "batch_size": 32, "learning_rate": 1e-3}
FINETUNING: dict[str, Any] = {"epochs": 20, "batch_size": 16, "learning_rate": 2e-3}
#: What differs for a system: wide layers want a lower rate, audio of other turns costs time.
OWN_PRETRAINING: dict[str, dict[str, Any]] = {"calm": {"epochs": 12}}
OWN_FINETUNING: dict[str, dict[str, Any]] = {
    "spectra": {"learning_rate": 1e-3, "epochs": 24, "batch_size": 32},
    "calm": {"learning_rate": 1e-3},
    "bridge": {"learning_rate": 2.5e-4, "epochs": 32},
    "mister_e": {"learning_rate": 4e-4, "epochs": 26},
}
DISTILLING: dict[str, Any] = {"epochs": 12, "batch_size": 16, "crop_s": 0}
#: What the project asks for; see docs/multimodal.md.
TARGETS = {
    "position_mae_s": 0.08,
    "response_accuracy": 0.70,
    "retrieval_top1_of_32": 0.60,
    "valence_gain": 0.30,
    "masked_loss": 0.05,
}


class Bench:
    """A folder with the corpus, the encoders, and every teacher and table that was made.

    Args:
        folder: where
        seed: of corpus, weights and training
    """

    def __init__(self, folder: Path, *, seed: int = 0):
        self.folder = folder
        self.seed = seed
        self.train, self.test, self.unrated = (
            folder / name / "ratings.csv" for name in ("train", "test", "unrated")
        )
        self.seconds: dict[str, float] = {}

    def prepare(self) -> None:
        """Synthesise the dialogues and write the encoders."""
        from . import small_encoders
        from .dialogues import synthesise_dialogues

        if not self.train.exists():
            synthesise_dialogues(self.train.parent, dialogues=DIALOGUES, seed=self.seed)
        if not self.test.exists():
            folder = self.test.parent
            synthesise_dialogues(
                folder, dialogues=HELD_OUT_DIALOGUES, held_out=True, seed=self.seed
            )
        if not self.unrated.exists():
            # Another seed: other dialogues of the same kind, whose ratings are not used.
            folder, seed = self.unrated.parent, self.seed + 1000
            synthesise_dialogues(folder, dialogues=UNRATED_DIALOGUES, seed=seed)
        if not (self.folder / "text/config.json").exists():
            texts = load_source(self.train).frame["text"]
            small_encoders.speech(self.folder / "speech", seed=self.seed)
            small_encoders.text(self.folder / "text", texts, seed=self.seed)

    def encoders(self) -> dict[str, str]:
        return {name: str(self.folder / name) for name in ("speech", "text")}

    def speech_only(self) -> Path:
        """The teacher of speech alone."""
        from wav2small.teachers.finetuning.finetune import AudioRecipe, finetune

        output = self.folder / "speech_only"
        began = time.process_time()
        recipe = AudioRecipe(self.encoders()["speech"], pooling="mean")
        finetune(self.train, output, recipe, ratings=self.ratings(), **self.options(FINETUNING))
        self._took("speech_only", began)
        return output

    def pretrained(self, system: str) -> dict[str, float]:
        """Pretrain a system, and what its objectives measure on the held-out sentences."""
        from wav2small.teachers.finetuning.multimodal_recipe import MultimodalRecipe
        from wav2small.teachers.finetuning.options import DeviceOptions
        from wav2small.teachers.finetuning.pretrain import judge, pretrain

        output = self.folder / f"{system}-pretrained"
        began = time.process_time()
        sizes = {**PRETRAINING, **OWN_PRETRAINING.get(system, {})}
        recipe = MultimodalRecipe(system, **self.encoders())
        options = self.options({"validation": "0.1", **sizes})
        pretrain(self.unrated, output, recipe, audio_licence=LICENCE, **options)
        self._took(f"{system} pretraining", began)
        return judge(output, self.test, crop_s=CROP_S, compute=DeviceOptions(device="cpu"))

    def finetuned(self, system: str, *, pretrained: bool) -> Path:
        """A system, fine-tuned."""
        from wav2small.teachers.finetuning.finetune import finetune
        from wav2small.teachers.finetuning.multimodal_recipe import MultimodalRecipe

        output = self.folder / (system if pretrained else f"{system}-bare")
        start = {"pretrained": str(self.folder / f"{system}-pretrained")}
        began = time.process_time()
        finetune(
            self.train,
            output,
            MultimodalRecipe(system, **(start if pretrained else self.encoders())),
            ratings=self.ratings(),
            **self.options({**FINETUNING, **OWN_FINETUNING.get(system, {})}),
        )
        self._took(output.name, began)
        return output

    def options(self, sizes: dict[str, Any]) -> dict[str, Any]:
        from wav2small.teachers.finetuning.options import DeviceOptions, TrainingOptions

        return {
            "training": TrainingOptions(**sizes, crop_s=CROP_S, seed=self.seed),
            "compute": DeviceOptions(device="cpu", micro_batch=sizes["batch_size"]),
        }

    def ratings(self) -> Any:
        from wav2small.teachers.finetuning.options import RatingOptions

        return RatingOptions(audio_licence=LICENCE)

    def ccc(self, teacher: Path, name: str, *, text: bool = True) -> dict[str, float]:
        """CCC of a teacher with the exact ratings of the held-out sentences."""
        found = self.label(teacher, self.test, f"{name}-test", text=text)
        truth = pd.read_csv(self.test)
        return {d: metrics.ccc(truth[d].to_numpy(), found[d].to_numpy()) for d in DIMENSIONS}

    def label(self, teacher: Path, source: Path, name: str, *, text: bool = True) -> pd.DataFrame:
        """The label table of a corpus by a teacher, with or without its transcripts."""
        from wav2small.tables import read_labels
        from wav2small.teachers.labelling.options import ComputeOptions
        from wav2small.teachers.labelling.run import label

        index = load_source(source)
        if not text:
            index.frame = index.frame.drop(columns=["text", "words"])
        output = self.folder / f"{name}.parquet"
        compute = ComputeOptions(device="cpu", workers=0, batch_s=30.0)
        label(index, output, teacher=str(teacher), compute=compute)
        return read_labels(output).frame

    def student(self, teacher: Path, name: str) -> dict[str, float]:
        """CCC with the exact ratings of a student trained on a teacher's labels."""
        from wav2small.students.distillation import distill

        self.label(teacher, self.train, f"{name}-train")
        run = self.folder / f"{name}-student"
        began = time.process_time()
        distill(self.folder / f"{name}-train.parquet", run, seed=self.seed, **DISTILLING)
        self._took(f"{name} student", began)
        return self.ccc(run, f"{name}-student", text=False)

    def _took(self, what: str, began: float) -> None:
        self.seconds[what] = round(time.process_time() - began, 1)


def run(
    folder: Path,
    systems: list[str],
    *,
    bare: bool = False,
    distil: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Everything for some systems.

    Args:
        folder: for all that is made
        systems: of `teacher.SYSTEMS`
        bare: without the pretraining that some systems have
        distil: also students of the best system and of the teacher of speech alone
        seed: of everything random
    """
    from wav2small.teachers.finetuning import pretrain as pretraining

    bench = Bench(folder, seed=seed)
    bench.prepare()
    speech_only = bench.ccc(bench.speech_only(), "speech_only")
    result: dict[str, Any] = {"targets": TARGETS, "speech_only": speech_only, "systems": {}}
    teachers: dict[str, Path] = {}
    for system in systems:
        found: dict[str, Any] = {}
        pretrained = system in pretraining.SYSTEMS and not bare
        if pretrained:
            found["pretraining"] = bench.pretrained(system)
        teacher = bench.finetuned(system, pretrained=pretrained)
        teachers[system] = teacher
        found["ccc"] = bench.ccc(teacher, teacher.name)
        found["ccc_without_text"] = bench.ccc(teacher, f"{teacher.name}-masked", text=False)
        found["valence_gain"] = found["ccc"]["valence"] - speech_only["valence"]
        gaps = [speech_only[name] - found["ccc_without_text"][name] for name in DIMENSIONS]
        found["masked_loss"] = float(np.max(gaps))
        result["systems"][system] = found
    if distil and systems:
        best = max(systems, key=lambda name: result["systems"][name]["ccc"]["valence"])
        result["students"] = {
            f"of {best}": bench.student(teachers[best], teachers[best].name),
            "of speech_only": bench.student(folder / "speech_only", "speech_only"),
        }
    return {**result, "processor_s": bench.seconds}


def main(arguments: list[str] | None = None) -> int:
    """Run it and print the result as JSON."""
    from wav2small.teachers.multimodal.teacher import SYSTEMS

    parser = argparse.ArgumentParser(prog="python -m wav2small.benchmarks.studies.multimodal")
    parser.add_argument("systems", nargs="*", metavar="SYSTEM", help="default: every system")
    parser.add_argument(
        "--folder", default="multimodal", help="for all of it (default: %(default)s)"
    )
    parser.add_argument("--bare", action="store_true", help="without pretraining")
    parser.add_argument("--distill", action="store_true", help="students of both teachers, too")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    args = parser.parse_args(arguments)
    unknown = [system for system in args.systems if system not in SYSTEMS]
    if unknown:
        parser.error(f"no system {unknown[0]}; known: {', '.join(SYSTEMS)}")
    systems = args.systems or list(SYSTEMS)
    folder = Path(args.folder)
    result = run(folder, systems, bare=args.bare, distil=args.distill, seed=args.seed)
    print(json.dumps(result, indent=2, default=float))
    return 0


if __name__ == "__main__":
    sys.exit(main())
