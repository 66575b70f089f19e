"""What text adds: small teachers from scratch on spoken dialogues, evaluated on held-out sentences.

    python -m wav2small.benchmarks.studies.multimodal spectra            # one system, three seeds
    python -m wav2small.benchmarks.studies.multimodal --distill          # every system, and students
    python -m wav2small.benchmarks.studies.multimodal bridge --seeds 1   # one seed
    python -m wav2small.benchmarks.studies.multimodal mister_e --small   # its options for little data
    python -m wav2small.benchmarks.studies.multimodal spectra --bare     # no pretraining
    python -m wav2small.benchmarks.studies.multimodal --table            # of what has been run

Everything is made on the spot (`wav2small.benchmarks.studies.dialogues`, `small_encoders`) and lies
in `--folder`; what is done there already is taken as it is, so an interrupted command continues.
A seed is one of weights and training: the corpus is the same. Each system and seed leaves a JSON
file: CCC with text and with text taken away, what pretraining has learned, CCC of a student with
`--distill`. All on sentences kept for judging, whose pairs of adjectives none of them learned from;
no epoch is chosen on them. The table of all files has means, ranges, and what is asked for.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wav2small import files, metrics
from wav2small.benchmarks import studies
from wav2small.dimensions import DIMENSIONS
from wav2small.index import load_source
from wav2small.students import distillation
from wav2small.tables import read_labels
from wav2small.teachers.finetuning import pretrain
from wav2small.teachers.finetuning.finetune import AudioRecipe, finetune
from wav2small.teachers.finetuning.multimodal_recipe import MultimodalRecipe
from wav2small.teachers.finetuning.options import DeviceOptions, RatingOptions, TrainingOptions
from wav2small.teachers.labelling.options import ComputeOptions
from wav2small.teachers.labelling.run import label
from wav2small.teachers.multimodal.teacher import SYSTEMS, network_class

from . import dialogues, small_encoders

#: Of six turns each: rated, to be judged on, and for pretraining.
DIALOGUES, HELD_OUT_DIALOGUES, UNRATED_DIALOGUES = 200, 30, 400
CROP_S = 3.0
LICENCE = "CC0-1.0"  # of the synthetic dialogues
RATINGS = RatingOptions(audio_licence=LICENCE)
PRETRAINING: dict[str, Any] = {"epochs": 4, "batch_size": 32, "learning_rate": 1e-3}
#: Of the speech encoder alone; systems begin with the best of its first epochs: later it predicts
#: the turns that it learns from so well that a system would trust it more than the text.
ALONE: dict[str, Any] = {"epochs": 20, "batch_size": 16, "learning_rate": 2e-3}
STARTED: dict[str, Any] = {**ALONE, "epochs": 8}
FINETUNING: dict[str, Any] = {"epochs": 12, "batch_size": 24, "learning_rate": 1e-3}
#: What differs for a system.
OWN_FINETUNING: dict[str, dict[str, Any]] = {"calm": {"epochs": 8}}
#: What differs with the options for little data.
SMALL_PRETRAINING: dict[str, dict[str, Any]] = {
    "spectra": {"epochs": 12, "batch_size": 16, "learning_rate": 3e-3}
}
SMALL_FINETUNING: dict[str, dict[str, Any]] = {"spectra": {**ALONE, "epochs": 10}}
#: Pretraining makes the speech encoder forget: fine-tuning begins with what it was before.
SPEECH_PUT_BACK = ("spectra",)
#: Steps of masked language modelling before it, which published text encoders have behind them.
LANGUAGE_STEPS = {"spectra": 1600}
#: Published sizes are for embeddings of 2048 numbers; those of these encoders have 64 and 128.
OWN_OPTIONS: dict[str, dict[str, Any]] = {
    "bridge": {"fusion_size": 64},
    "mister_e": {"context_size": 128, "cross_size": 128},
}
DISTILLING: dict[str, Any] = {"student": "nano", "epochs": 4, "crop_s": 0, "threads": 1}
CORPUS_SEED = 1
SPEECH_ONLY = "speech_only"


#: Rows of the table: name, where it stands in a JSON file, and what the project asks for.
FIGURES = (
    ("valence gain over the speech encoder alone", "valence_gain", ">= .45, none < .30"),
    ("text masked, against the speech encoder alone", "masked", ">= -.05 on every seed"),
    ("word boundaries, s", "pretraining.position_mae_s", "<= .08"),
    ("response selection", "pretraining.response_accuracy", ">= .70"),
    ("retrieval of text, top-1 of 32", "pretraining.retrieval_top1", ">= .60"),
    ("retrieval of words", "pretraining.retrieval_top1_word", "reported"),
    ("audio-audio retrieval", "pretraining.retrieval_top1_audio", "reported"),
    ("valence gain of its student", "student_gain", ">= .15"),
    ("processor time, s", "processor_s", "reported"),
)


class Bench:
    """A folder with the corpus, the encoders, and every teacher and table that was made.

    The folder holds `corpus`, and `seed-N` for each seed; the rest is as of `run`.
    """

    def __init__(self, folder: Path, *, seed: int = 0, small: bool = False):
        self.folder = folder / f"seed-{seed}"
        self.seed, self.small = seed, small
        self.train, self.test, self.unrated = (
            folder / "corpus" / name / "ratings.csv" for name in ("train", "test", "unrated")
        )

    def prepare(self) -> None:
        """Synthesise the dialogues and write the encoders."""
        if not self.train.exists():
            dialogues.synthesise_dialogues(self.train.parent, dialogues=DIALOGUES, seed=CORPUS_SEED)
        if not self.test.exists():
            sizes: dict[str, Any] = {"dialogues": HELD_OUT_DIALOGUES, "held_out": True}
            dialogues.synthesise_dialogues(self.test.parent, **sizes, seed=CORPUS_SEED)
        if not self.unrated.exists():
            # Another seed: other dialogues of the same kind, whose ratings are not used.
            folder, seed = self.unrated.parent, CORPUS_SEED + 1000
            dialogues.synthesise_dialogues(folder, dialogues=UNRATED_DIALOGUES, seed=seed)
        if not (self.folder / "text/config.json").exists():
            texts = load_source(self.train).frame["text"]
            small_encoders.speech(self.folder / "speech", seed=self.seed)
            small_encoders.text(self.folder / "text", texts, seed=self.seed)

    def encoders(self, system: str) -> dict[str, str]:
        """The speech encoder after its first epochs of fine-tuning alone, and the text encoder."""
        speech = self.speech_only("speech_started", STARTED)
        steps = LANGUAGE_STEPS.get(system, 0) if self.small else 0
        return {"speech": str(speech), "text": str(self.text(steps))}

    def text(self, steps: int) -> Path:
        """The text encoder after some steps of masked language modelling on the unrated turns."""
        folder = self.folder / "text"
        output = folder.with_name(f"text_started-{steps}") if steps else folder
        if not (output / "config.json").exists():
            turns = load_source(self.unrated).frame.sort_values(["dialogue", "turn"])
            texts = turns.groupby("dialogue")["text"].apply(list)
            small_encoders.learn_language(folder, output, texts, seed=self.seed, steps=steps)
        return output

    def speech_only(self, name: str = SPEECH_ONLY, sizes: dict[str, Any] = ALONE) -> Path:
        """A teacher of speech alone."""
        output = self.folder / name
        recipe = AudioRecipe(str(self.folder / "speech"), pooling="mean")
        finetune(self.train, output, recipe, ratings=RATINGS, **self.options(sizes))
        return output

    def recipe(self, system: str, **start: str) -> Any:
        """A system with its options."""
        small = network_class(system).small if self.small else {}
        return MultimodalRecipe(system, **start, options={**small, **OWN_OPTIONS.get(system, {})})

    def pretrained(self, system: str) -> dict[str, float]:
        """Pretrain a system, and what its objectives measure on the held-out sentences."""
        output = self.folder / f"{self.name(system)}-pretrained"
        own = SMALL_PRETRAINING.get(system, {}) if self.small else {}
        options = self.options({"validation": "0.1", **PRETRAINING, **own})
        recipe = self.recipe(system, **self.encoders(system))
        pretrain.pretrain(self.unrated, output, recipe, audio_licence=LICENCE, **options)
        return pretrain.judge(output, self.test, crop_s=CROP_S, compute=DeviceOptions(device="cpu"))

    def finetuned(self, system: str, *, bare: bool = False) -> Path:
        """A system, fine-tuned, after its pretraining unless it is `bare`."""
        output = self.folder / (self.name(system) + ("-bare" if bare else ""))
        start = self.encoders(system)
        own = (SMALL_FINETUNING if self.small else {}).get(system, OWN_FINETUNING.get(system, {}))
        if system in pretrain.SYSTEMS and not bare:
            put_back = self.small and system in SPEECH_PUT_BACK
            start = {"speech": start["speech"]} if put_back else {}
            start["pretrained"] = str(self.folder / f"{self.name(system)}-pretrained")
        options = self.options({**FINETUNING, **own})
        finetune(self.train, output, self.recipe(system, **start), ratings=RATINGS, **options)
        return output

    def name(self, system: str) -> str:
        """Of a system with the options of this folder."""
        return f"{system}-small" if self.small else system

    def options(self, sizes: dict[str, Any]) -> dict[str, Any]:
        return {
            "training": TrainingOptions(**sizes, crop_s=CROP_S, seed=self.seed),
            "compute": DeviceOptions(device="cpu", micro_batch=sizes["batch_size"], threads=1),
        }

    def ccc(self, teacher: Path, name: str, *, text: bool = True) -> dict[str, float]:
        """CCC of a teacher with the exact ratings of the held-out sentences."""
        found = self.label(teacher, self.test, f"{name}-test", text=text)
        truth = pd.read_csv(self.test)
        return {d: metrics.ccc(truth[d].to_numpy(), found[d].to_numpy()) for d in DIMENSIONS}

    def label(self, teacher: Path, source: Path, name: str, *, text: bool = True) -> pd.DataFrame:
        """The label table of a corpus by a teacher, with or without its transcripts."""
        index = load_source(source)
        if not text:
            index.frame = index.frame.drop(columns=["text", "words"])
        output = self.folder / f"{name}.parquet"
        compute = ComputeOptions(device="cpu", workers=0, batch_s=30.0)
        label(index, output, teacher=str(teacher), compute=compute)
        return read_labels(output).frame

    def student(self, teacher: Path, name: str) -> dict[str, float]:
        """CCC with the exact ratings of a student trained on a teacher's labels of unrated turns.

        Not of those that the teacher learned from: these it knows by heart, whatever it hears.
        """
        self.label(teacher, self.unrated, f"{name}-unrated")
        run = self.folder / f"{name}-student"
        labels = self.folder / f"{name}-unrated.parquet"
        distillation.distill(labels, run, seed=self.seed, **DISTILLING)
        return self.ccc(run, f"{name}-student", text=False)


def run(
    folder: Path,
    systems: list[str],
    *,
    seed: int = 0,
    small: bool = False,
    bare: bool = False,
    distil: bool = False,
) -> None:
    """Train systems of one seed, each of which leaves a JSON file in the folder of the seed.

    They are trained with their options for little data (`small`), without the pretraining that some
    have (`bare`), and with students of theirs and of the teacher of speech alone (`distil`).
    """
    bench = Bench(folder, seed=seed, small=small)
    bench.prepare()
    for system in (SPEECH_ONLY, *systems):
        bench.encoders(system)  # what all systems share is not in their time
        began = time.process_time()
        found: dict[str, Any] = {"seed": seed}
        if system == SPEECH_ONLY:
            teacher = bench.speech_only()
        else:
            if system in pretrain.SYSTEMS and not bare:
                found["pretraining"] = bench.pretrained(system)
            teacher = bench.finetuned(system, bare=bare)
            name = f"{teacher.name}-masked"
            found["ccc_without_text"] = bench.ccc(teacher, name, text=False)
        found["system"] = teacher.name
        found["ccc"] = bench.ccc(teacher, teacher.name)
        found["processor_s"] = round(time.process_time() - began, 1)
        if distil:
            found["student"] = bench.student(teacher, teacher.name)
        path = bench.folder / f"{teacher.name}.json"
        if path.exists():  # what was taken as it is cost its time before
            before = files.read_json(path)
            found = {**before, **found, "processor_s": before["processor_s"]}
        files.write_json(path, json.loads(json.dumps(found, default=float)))


def results(folder: Path) -> list[dict[str, Any]]:
    """The JSON files of a folder, with gains over the speech encoder alone of the same seed."""
    found = [files.read_json(path) for path in sorted(folder.glob("seed-*/*.json"))]
    alone = {result["seed"]: result for result in found if result["system"] == SPEECH_ONLY}
    for result in found:
        speech = alone[result["seed"]]
        result["valence_gain"] = result["ccc"]["valence"] - speech["ccc"]["valence"]
        if "ccc_without_text" in result:
            masked = result["ccc_without_text"]
            result["masked"] = min(masked[name] - speech["ccc"][name] for name in DIMENSIONS)
        if "student" in result and "student" in speech:
            gain = result["student"]["valence"] - speech["student"]["valence"]
            result["student_gain"] = gain
    return [result for result in found if result["system"] != SPEECH_ONLY]


def table(found: list[dict[str, Any]]) -> str:
    """Figures of `results` in Markdown: mean over the seeds, least and most."""
    systems = sorted({result["system"] for result in found})
    lines = [f"| figure | must | {' | '.join(systems)} |", "|---" * (2 + len(systems)) + "|"]
    for name, path, target in FIGURES:
        cells = []
        for system in systems:
            found_here = (_at(one, path) for one in found if one["system"] == system)
            cells.append(_cell([float(value) for value in found_here if value is not None]))
        lines.append(f"| {name} | {target} | {' | '.join(cells)} |")
    seeds = (str(sum(result["system"] == system for result in found)) for system in systems)
    return "\n".join([*lines, f"| seeds | 3 | {' | '.join(seeds)} |"])


def _at(result: Any, path: str) -> Any:
    """A figure by its names, with dots between them; None = it was not measured."""
    for name in path.split("."):
        result = (result or {}).get(name)
    return result


def _cell(values: list[float]) -> str:
    if not values:
        return "-"
    least, most = min(values), max(values)
    shown = f"{np.mean(values):.3g}"
    return shown if len(values) == 1 else f"{shown} ({least:.3g} to {most:.3g})"


def main(arguments: list[str] | None = None) -> int:
    """Run it and print the table."""
    parser = studies.parser("multimodal")
    parser.add_argument("systems", nargs="*", metavar="SYSTEM", help="default: every system")
    add = parser.add_argument
    add("--folder", default="multimodal", help="for all of it (default: %(default)s)")
    seeds = "of weights and training (0 1 2)"
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help=seeds)
    parser.add_argument("--small", action="store_true", help="their options for little data")
    parser.add_argument("--bare", action="store_true", help="without pretraining")
    parser.add_argument("--distill", action="store_true", help="students of all teachers, too")
    parser.add_argument("--table", action="store_true", help="only print what has been run")
    args = parser.parse_args(arguments)
    unknown = [system for system in args.systems if system not in SYSTEMS]
    if unknown:
        parser.error(f"no system {unknown[0]}; known: {', '.join(SYSTEMS)}")
    folder = Path(args.folder)
    how = {"small": args.small, "bare": args.bare, "distil": args.distill}
    for seed in () if args.table else args.seeds:
        for system in args.systems or SYSTEMS:
            run(folder, [system], seed=seed, **how)
    print(table(results(folder)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
