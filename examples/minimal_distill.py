"""Distillation in one file, read from top to bottom: label, train, export, score.

    python examples/minimal_distill.py RECORDINGS OUTPUT [--epochs 8]

RECORDINGS is a folder of speech; without it the file makes synthetic speech. `wav2small distill`
does the same with more care: it resumes, augments, and learns on the grids of the export.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from wav2small import Predictor, audio, label, metrics, read_labels
from wav2small.export.export import VerificationOptions, export_bundle
from wav2small.index import seconds
from wav2small.students import registry
from wav2small.training import losses, optimiser
from wav2small.training.split import split

CROP = 3 * audio.SAMPLING_RATE  # samples of a training clip at most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("recordings", nargs="?", type=Path)
    parser.add_argument("output", nargs="?", type=Path, default=Path("minimal"))
    parser.add_argument("--student", default="nano")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=5e-3)
    args = parser.parse_args()
    torch.manual_seed(0)
    rng = np.random.default_rng(0)

    # 1. Audio that nobody labelled.
    if args.recordings is None:
        from wav2small.demo.speaker import speak_corpus

        args.recordings = speak_corpus(args.output / "speech", clips=120, voices=12)

    # 2. A teacher labels it: a table with file, start, end, arousal, dominance, valence (0..1).
    label(args.recordings, args.output / "labels.parquet", overwrite=True)
    table = read_labels(args.output / "labels.parquet")

    # 3. Clips of some voices (or files) are held out.
    train, valid = split(table.frame, "0.2", seed=0)
    rows = zip(table.frame["file"], table.frame["start"], table.frame["end"], strict=True)
    clips = [
        audio.read(table.path(file), start_s=start.total_seconds(), end_s=seconds(end))
        for file, start, end in rows
    ]
    labels = torch.tensor(table.values, dtype=torch.float32)  # (clips, 3)

    def batch_of(chosen: np.ndarray, *, crop: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Signals (B, T), zeros after each end, and their lengths (B,)."""
        signals = []
        for row in chosen:
            signal = clips[row]
            if crop and len(signal) > CROP:
                begin = rng.integers(len(signal) - CROP + 1)
                signal = signal[begin : begin + CROP]
            signals.append(torch.from_numpy(np.array(signal, dtype=np.float32)))
        lengths = torch.tensor([len(signal) for signal in signals])
        return torch.nn.utils.rnn.pad_sequence(signals, batch_first=True), lengths

    # 4. A student learns the labels: 1 - CCC of each dimension over the batch.
    student = registry.create(args.student)
    adamw = optimiser.adamw(student, weight_decay=1e-2)
    steps = args.epochs * max(1, len(train) // args.batch_size)
    step = 0
    for epoch in range(args.epochs):
        student.train()
        order = rng.permutation(train)
        for begin in range(0, len(order) - args.batch_size + 1, args.batch_size):
            chosen = order[begin : begin + args.batch_size]
            for group in adamw.param_groups:
                group["lr"] = args.learning_rate * optimiser.rate(step / steps, "onecycle")
            outputs = student(*batch_of(chosen, crop=True))
            loss = (1 - losses.ccc(labels[chosen], outputs)).mean()
            adamw.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            adamw.step()
            step += 1
        student.eval()
        with torch.no_grad():
            outputs = torch.cat([student(*batch_of(valid[i : i + 1], crop=False))
                                 for i in range(len(valid))])  # fmt: skip
        figures = [metrics.ccc(table.values[valid, i], outputs[:, i].numpy()) for i in range(3)]
        print(f"epoch {epoch + 1}: CCC with the teacher", *(f"{figure:.3f}" for figure in figures))
    student.save_pretrained(args.output / "student")
    lineage = json.dumps(table.provenance)  # whom the file binds is never lost
    (args.output / "student" / "provenance.json").write_text(lineage)

    # 5. The file: int8, verified against the student on the held-out clips.
    bundle = args.output / "bundle"
    clips_of = VerificationOptions(calibration=str(args.recordings))
    export_bundle(args.output / "student", bundle, overwrite=True, verification=clips_of)

    # 6. What the file predicts, without torch.
    predictor = Predictor(bundle)
    predictions = np.array([predictor.predict(clips[row]) for row in valid])
    figures = [metrics.ccc(table.values[valid, i], predictions[:, i]) for i in range(3)]
    size = (bundle / "model.onnx").stat().st_size
    print(f"{size:,} bytes, CCC with the teacher", *(f"{figure:.3f}" for figure in figures))


if __name__ == "__main__":
    main()
