"""What a student can extract: `python -m wav2small.benchmarks.studies.audible --corpus EMODB`.

A student of 72K parameters learns to estimate the statistics of the embedded teacher from the
waveform; what it explains of each on unseen speakers (R², 0..1) goes to
`teachers/acoustic/audible.json`, by which `teachers/acoustic/fit.py` decides how much to lean on each. A teacher that
relies on what its student cannot extract teaches noise.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

from wav2small import audio, files
from wav2small.benchmarks import studies
from wav2small.errors import Wav2SmallError
from wav2small.students import registry
from wav2small.teachers.acoustic import features, fit, rooms, teacher

SAMPLES = 30000  # of each clip, 1.875 s
EPOCHS, BATCH, RATE = 6, 16, 5e-3
HELD_OUT = 3  # speakers


def main(argv: list[str] | None = None) -> int:
    """Measure and write."""
    parser = studies.parser("audible", (__doc__ or "").partition("\n")[0])
    parser.add_argument("--corpus", required=True, help="Emo-DB: FLACs, labels.csv")
    parser.add_argument("--copies", type=int, default=2, help="disturbed copies of each clip")
    parser.add_argument("-o", "--output", help="JSON file (default: the package's)")
    args = parser.parse_args(argv)
    try:
        print(audible(args.corpus, args.output, copies=args.copies))
    except Wav2SmallError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def audible(corpus: str | Path, output: str | Path | None = None, *, copies: int = 2) -> Path:
    """Measure R² per statistic and write the file.

    Args:
        corpus: Emo-DB
        output: JSON file; default: `teachers/acoustic/audible.json`
        copies: disturbed copies of every clip, made as for fitting
    """
    table = fit.read_table(corpus)
    signals, speakers = [], []
    for number, (name, speaker) in enumerate(zip(table.file, table.speaker, strict=True)):
        clip = audio.read(Path(corpus) / name)
        for copy in range(1 + copies):
            random = np.random.default_rng([number, copy])
            version = rooms.disturbed(clip, random) if copy else clip
            signals.append(np.resize(version, SAMPLES).astype(np.float32))
            speakers.append(speaker)
    values = np.array([features.statistics(signal) for signal in signals])
    goal = teacher.bounded(values, values.mean(0), values.std(0))
    judged = np.isin(speakers, sorted(set(speakers))[-HELD_OUT:])
    learned = np.flatnonzero(~judged)

    torch.manual_seed(0)
    student = registry.create("wav2small")
    head = torch.nn.Linear(169, goal.shape[1])
    weights = [*student.parameters(), *head.parameters()]
    steps = len(learned) // BATCH
    optimiser = torch.optim.AdamW(weights, lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=EPOCHS * steps)
    inputs, target = torch.tensor(np.array(signals)), torch.tensor(goal, dtype=torch.float32)
    for epoch in range(EPOCHS):
        student.train()
        for rows in torch.randperm(len(learned))[: steps * BATCH].view(steps, BATCH):
            rows = torch.tensor(learned)[rows]
            loss = (head(student.embed(inputs[rows], None)) - target[rows]).square().mean()
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimiser.step()
            schedule.step()
        print(f"epoch {epoch + 1} of {EPOCHS}: {float(loss):.3f}", file=sys.stderr)
    student.eval()
    with torch.no_grad():
        parts = inputs[judged].split(BATCH)
        outputs = torch.cat([head(student.embed(part, None)) for part in parts])
    truth = goal[judged]
    explained = 1 - ((outputs.numpy() - truth) ** 2).mean(0) / truth.var(0)
    shares = zip(features.FEATURES, np.clip(explained, 0, 1), strict=True)
    document = {
        "what": "Share of each statistic's variance that a wav2small student explains, 0..1",
        "command": "python -m wav2small.benchmarks.studies.audible --corpus EMODB",
        "licence": "MIT, measured on Emo-DB (CC0-1.0)",
        "explained": {name: round(float(share), 2) for name, share in shares},
    }
    path = Path(output or fit.AUDIBLE)
    with files.atomic(path) as temporary:
        temporary.write_text(json.dumps(document, indent=1) + "\n")
    return path


if __name__ == "__main__":
    sys.exit(main())
