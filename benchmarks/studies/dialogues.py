"""Spoken dialogues without a microphone, for multimodal teachers: words that carry valence, voices
that carry arousal and dominance, and the time of every word.

    python -m wav2small.benchmarks.studies.dialogues FOLDER --dialogues 100

Each dialogue happens at a place, which gives it its nouns and its background sound, in a mood,
which draws its adjectives. What is what:

- **valence** is the mean of the two adjectives' values in `ADJECTIVES`: it is in the words alone;
- **arousal** moves pitch, its range, rate and volume together, as in `speaker.utterances`;
- **dominance** is the spectral tilt: a pressed, bright voice dominates, a breathy, dull one does
  not (a chosen rule);
- nouns and place, voices, sentence frames and the speakers' size carry nothing of these.

One pair of adjectives in five (`held_out_pair`) is kept for evaluation: those sentences are never
learned from. Ratings are exact, 0..1. The recordings are CC0-1.0.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile

from wav2small.audio import SAMPLING_RATE
from wav2small.benchmarks import studies
from wav2small.demo.speaker import VOICES, Speaker, Utterance
from wav2small.transcripts import cells

ADJECTIVES = {"horrible": 0.0, "ugly": 0.1, "bad": 0.25, "dull": 0.35, "odd": 0.45}
ADJECTIVES |= {"plain": 0.55, "nice": 0.65, "good": 0.75, "lovely": 0.9, "wonderful": 1.0}
FRAMES = (
    "the {noun} was {one} and {two}",
    "I think the {noun} is {one} but {two}",
    "your {noun} looks {one} and {two}",
    "what a {one} and {two} {noun}",
)
#: Nouns of a place, and the frequency in Hz of its background sound.
PLACES = {
    "kitchen": (("soup", "kettle", "bread"), 200.0),
    "harbour": (("boat", "anchor", "captain"), 360.0),
    "garden": (("rose", "apple", "fence"), 650.0),
    "station": (("train", "ticket", "driver"), 1200.0),
    "office": (("letter", "printer", "desk"), 2200.0),
    "theatre": (("singer", "curtain", "dancer"), 4000.0),
}
_CAST = 12  # voices
_BACKGROUND_DB = -12.0  # below the voice


@dataclass(frozen=True)
class Spoken:
    """A turn: what is said and how, and its exact ratings, 0..1."""

    utterance: Utterance
    place: str
    dialogue: str
    turn: int
    arousal: float
    dominance: float
    valence: float


def held_out_pair(one: str, two: str) -> bool:
    """Whether two adjectives, in this order, are kept for judging."""
    names = list(ADJECTIVES)
    return (names.index(one) + 2 * names.index(two)) % 5 == 0


def script(
    dialogues: int, *, turns: int = 6, held_out: bool = False, seed: int = 0
) -> Iterator[Spoken]:
    """The turns of some dialogues, in order.

    Args:
        dialogues: how many
        turns: of each
        held_out: only of pairs of adjectives that are kept for judging, else only of the others
        seed: the same seed gives the same script
    """
    random = np.random.default_rng([seed, held_out])
    names, values = list(ADJECTIVES), np.array(list(ADJECTIVES.values()))
    pairs = [(a, b) for a in names for b in names if a != b and held_out_pair(a, b) == held_out]
    means = np.array([(ADJECTIVES[a] + ADJECTIVES[b]) / 2 for a, b in pairs])
    for number in range(dialogues):
        place = list(PLACES)[random.integers(len(PLACES))]
        voices = random.choice(_CAST, 2, replace=False)
        mood = random.uniform(values.min(), values.max())
        shares = np.exp(-(((means - mood) / 0.35) ** 2))
        for turn in range(turns):
            one, two = pairs[random.choice(len(pairs), p=shares / shares.sum())]
            noun = PLACES[place][0][random.integers(3)]
            frame = FRAMES[random.integers(len(FRAMES))]
            arousal, dominance = random.uniform(0, 1, 2)
            voice = int(voices[turn % 2])
            excitement = 2 * arousal - 1
            utterance = Utterance(
                text=frame.format(noun=noun, one=one, two=two),
                language="en-us",
                speaker=VOICES[voice],
                pitch=round(np.clip(35 + 3 * (voice % 6) + 22 * excitement, 0, 99)),
                pitch_range=round(50 + 40 * excitement),
                rate_wpm=round(180 + 45 * excitement),
                volume=round(60 + 25 * excitement),
                size=round(0.9 + 0.2 * (voice / _CAST), 3),
                tilt=round(-0.4 + 1.1 * dominance, 3),
            )
            yield Spoken(
                utterance,
                place=place,
                dialogue=f"d{number:03d}",
                turn=turn,
                arousal=round(float(arousal), 4),
                dominance=round(float(dominance), 4),
                valence=round((ADJECTIVES[one] + ADJECTIVES[two]) / 2, 4),
            )


def synthesise_dialogues(folder: str | os.PathLike[str], *, dialogues: int, **options: Any) -> Path:
    """Speak dialogues to 16 kHz FLAC files.

    Args:
        folder: where to write; `ratings.csv` in it lists file, the three ratings, text, words (as
            `transcripts` reads them), dialogue, turn, speaker and place
        dialogues: how many
        options: see `script`

    Returns:
        path of the table
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    speaker = Speaker()
    rows = []
    for number, spoken in enumerate(script(dialogues, **options)):
        signal, words = speaker.synthesise_timed(spoken.utterance)
        signal = signal + background(spoken.place, signal, seed=number)
        file = f"{spoken.dialogue}-{spoken.turn}.flac"
        soundfile.write(folder / file, np.clip(signal, -1, 1), SAMPLING_RATE)
        said = {"text": spoken.utterance.text, "words": json.dumps(cells(words))}
        rows.append({"file": file, "speaker": spoken.utterance.speaker, **said, **vars(spoken)})
    table = folder / "ratings.csv"
    columns = "file arousal dominance valence text words dialogue turn speaker place".split()
    pd.DataFrame(rows)[columns].to_csv(table, index=False)
    return table


def background(place: str, signal: np.ndarray, *, seed: int) -> np.ndarray:
    """Noise around the frequency of a place, a fixed ratio below the voice, float32."""
    frequency = np.fft.rfftfreq(len(signal), 1 / SAMPLING_RATE)
    octaves = np.log2(np.maximum(frequency, 1.0) / PLACES[place][1])
    noise = np.random.default_rng(seed).normal(size=len(signal))
    sound = np.fft.irfft(np.fft.rfft(noise) * np.exp(-((octaves / 0.15) ** 2)), len(signal))
    loudness = np.sqrt(np.mean(signal**2) / np.mean(sound**2)) * 10 ** (_BACKGROUND_DB / 20)
    return (sound * loudness).astype(np.float32)


def main() -> None:
    parser = studies.parser("dialogues", __doc__)
    parser.add_argument("folder", help="where to write the recordings and ratings.csv")
    parser.add_argument("--dialogues", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--turns", type=int, default=6, help="of a dialogue (default: %(default)s)")
    parser.add_argument("--held-out", action="store_true", help="the sentences kept for evaluation")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    args = vars(parser.parse_args())
    print(synthesise_dialogues(args.pop("folder"), **args))


if __name__ == "__main__":
    main()
