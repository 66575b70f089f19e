"""What the head for voice activity finds, and what noise after speech does to an estimate.

    python -m wav2small.benchmarks.studies.voice NOISE CORPUS [CORPUS ...] --bundle nano

Each corpus is a folder with clips and a `labels.csv` with `file` and perhaps `speaker`; NOISE has
recorded noises. Scenes are clips of one voice between pauses; the truth of each frame of 32 ms is
what silero-vad finds in the clean scene.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from wav2small import Stream, audio, metrics, operations, silero
from wav2small.benchmarks import studies
from wav2small.students.voice_activity import SPEECH, speech_power

RATE = audio.SAMPLING_RATE
SCENES, SCENE_S, PAUSE_S = 36, 8.0, 1.0
RATIOS_DB = (20.0, 5.0)
CLIPS, AFTER_S = 60, 4.0  # clips of each corpus that noise follows, and for how long


def main() -> None:
    parser = studies.parser("voice", (__doc__ or "").partition("\n")[0])
    parser.add_argument("noise", help="folder of recorded noises")
    parser.add_argument("corpora", nargs="+", help="folders with labels.csv")
    parser.add_argument("--bundle", default="nano", help="default: %(default)s")
    args = parser.parse_args()
    noises = [audio.read(file) for file in sorted(Path(args.noise).glob("background_*"))]
    print("| speech | AUC at 20 dB | AUC at 5 dB | noise 20 dB below moves by, voice | energy |")
    print("|---|---|---|---|---|")
    for corpus in map(Path, args.corpora):
        table = pd.read_csv(corpus / "labels.csv", dtype=str)
        groups = table.groupby("speaker")["file"] if "speaker" in table else [("", table["file"])]
        voices = [[corpus / file for file in files] for _, files in groups]
        figures = [auc(args.bundle, voices, noises, ratio) for ratio in RATIOS_DB]
        clips = [corpus / file for file in table["file"][:: max(1, len(table) // CLIPS)]]
        figures += [move(args.bundle, clips, noises, gate) for gate in ("voice", "energy")]
        print(f"| {corpus.name} | " + " | ".join(f"{figure:.3f}" for figure in figures) + " |")


def auc(bundle: str, voices: list[list[Path]], noises: list[np.ndarray], ratio_db: float) -> float:
    """ROC AUC of the head against silero-vad, per frame, under recorded noise."""
    rng, stream = np.random.default_rng(7), Stream(bundle, gate=None)
    truth, found = [], []
    for number in range(SCENES):
        clean = scene(voices[number % len(voices)], rng)
        targets = silero.probabilities(clean)
        noise = operations.excerpt(noises[number % len(noises)], len(clean), rng.random())
        level = speech_power(clean, targets) or 1e-2
        noisy = clean + operations.scaled(noise, level, ratio_db)
        stream.reset()
        estimates = stream.push(noisy.astype(np.float32))
        # A hop is 16 ms, a frame of silero-vad 32; the first estimates come a little later.
        hops = np.full(len(clean) // 256 - 1, np.nan)
        hops[-len(estimates) :] = [estimate.speech for estimate in estimates]
        frames = hops[::2][: len(targets)]
        known = ~np.isnan(frames)
        truth.append(targets[: len(frames)][known] > SPEECH)
        found.append(frames[known])
    return metrics.roc_auc(np.concatenate(truth), np.concatenate(found))


def scene(files: list[Path], rng: np.random.Generator) -> np.ndarray:
    """Clips of one voice between pauses."""
    signal, at = np.zeros(round(SCENE_S * RATE)), 0
    while (at := at + int(rng.exponential(PAUSE_S) * RATE)) < len(signal):
        clip = audio.read(files[rng.integers(len(files))])
        part = signal[at : at + len(clip)]
        part += clip[: len(part)]
        at += len(clip)
    return signal


def move(bundle: str, files: list[Path], noises: list[np.ndarray], gate: str) -> float:
    """Median of how far noise of 4 s, 20 dB below the speech, moves the estimate of a clip."""
    rng, stream = np.random.default_rng(0), Stream(bundle, gate=gate)
    moves = []
    for number, file in enumerate(files):
        clip = audio.read(file)
        level = speech_power(clip, silero.probabilities(clip)) or operations.power(clip)
        noise = noises[number % len(noises)]
        noise = operations.excerpt(noise, round(AFTER_S * RATE), rng.random())
        stream.reset()
        before = stream.push(clip)
        after = stream.push(operations.scaled(noise, level, 20.0).astype(np.float32))
        if before and after:
            moves.append(np.abs(np.subtract(after[-1].overall, before[-1].overall)).max())
    return float(np.median(moves))


if __name__ == "__main__":
    main()
