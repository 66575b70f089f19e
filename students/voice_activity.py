"""The head of nano that finds speech, learned on its frozen blocks from silero-vad.

It comes after the distillation and changes nothing that arousal, dominance and valence are made of.
A scene is speech of one voice with pauses, of a length that holds several clips; what silero-vad
finds in the clean scene is the target, and the student gets the scene with noise, music, rooms,
telephones and levels. Some scenes hold no speech.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wav2small import augmentation, files, metrics, noises, operations, progress, silero
from wav2small.audio import SAMPLING_RATE
from wav2small.errors import AudioError, Wav2SmallError
from wav2small.tables import Labels, read_labels, texts
from wav2small.training.cache import Cache
from wav2small.training.clips import Clips
from wav2small.training.split import split

from . import config as configuration
from . import registry
from .nano import Nano, Voice

RATIOS_DB = (20.0, 5.0)  # speech over noise, that the head is judged at
SPEECH = 0.5  # probability from which a frame of silero-vad holds speech
NO_SPEECH = 0.12  # share of scenes without it
NOISE, NOISE_DB = 0.85, (-3.0, 30.0)  # share of scenes with made noise, and how far below
CHANNEL = 0.6  # share of scenes that also pass `augmentation.variant`: rooms, telephones, levels
BABBLE = 0.07  # share of noises that are four to seven other voices at once
FLOOR_DB = (-100.0, -60.0)  # of the converter's own noise, of full scale
LEVEL_DB = (-6.0, 6.0)  # of each clip
PAUSES_S = (0.3, 1.0, 3.0)  # means of a scene's pauses
CUT = 0.5, 0.5, 2.0  # share of clips that end early, and after how many seconds


@dataclass(frozen=True)
class VoiceOptions:
    """How the head learns; the defaults take some eight minutes on one core.

    Attributes:
        scenes: to learn from
        seconds: of a scene
        epochs: over them
        batch_size: scenes per step
        learning_rate: the highest, of one cycle
        judged: scenes of voices held out that it is judged on
        seed: of scenes, first weights and order
    """

    scenes: int = 1000
    seconds: float = 10.0
    epochs: int = 40
    batch_size: int = 16
    learning_rate: float = 0.01
    judged: int = 40
    seed: int = 0


@dataclass
class VoiceResult:
    """What came out of it.

    Attributes:
        run: folder that has the head now
        auc: ROC AUC against silero-vad per frame of 32 ms, by the ratio of speech to noise in dB,
            on voices held out and noises drawn anew
    """

    run: str
    auc: dict[float, float] = field(default_factory=dict)


def add_voice(
    run: str | os.PathLike[str],
    labels: str | os.PathLike[str] | Labels | None = None,
    *,
    root: str | None = None,
    options: VoiceOptions = VoiceOptions(),  # noqa: B008, it is frozen
) -> VoiceResult:
    """Give a trained nano a head for voice activity; a head that it has is replaced.

    Args:
        run: folder that `distill` wrote
        labels: table whose clips hold speech; only the audio is used, and of it only clips
            without variants whose voices the run was trained on. None = the run's own
        root: folder that the table's files are relative to; None = the one that the table names
        options: see `VoiceOptions`

    Raises:
        Wav2SmallError: not a nano, no silero-vad, or clips that cannot be used

    Example:
        >>> add_voice("no/such/run")
        Traceback (most recent call last):
        wav2small.errors.Wav2SmallError: no/such/run: no such folder; give a run or ...
    """
    student = registry.load(run)
    if not isinstance(student, Nano):
        raise Wav2SmallError(f"{run}: a {student.name}; only nano has a head for voice activity")
    settings = Path(run) / "distill.toml"
    known = configuration.read(settings) if settings.exists() else {}
    source = labels if labels is not None else known.get("labels")
    if not source:
        raise Wav2SmallError(f"{run}: does not name its label table; name one with speech")
    table = source if isinstance(source, Labels) else read_labels(source, root=root)
    config = configuration.Config(**{k: v for k, v in known.items() if k != "labels"})
    train, valid = split(table.frame, config.validation, seed=config.seed)
    cache = Cache(config.cache, config.cache_mb << 20) if config.cache_mb else None
    clips = Clips(table.frame, table.root, cache=cache)
    named = "speaker" in table.frame
    voices = texts(table.frame["speaker"]).to_numpy() if named else np.zeros(len(clips))
    generator = np.random.default_rng(options.seed)
    speech = _Speech(clips, train[clips.variant[train] == 0], voices)
    student.voice = _fit(student, speech, generator, options)
    student.config["voice"] = True
    held_out = _Speech(clips, valid, voices)
    samples = round(options.seconds * SAMPLING_RATE)
    scenes = [held_out.scene(generator, samples) for _ in range(options.judged)]
    found = {ratio: _auc(student, scenes, ratio, generator) for ratio in RATIOS_DB}
    student.save_pretrained(run)
    lineage = {
        **registry.provenance(run),
        "student": {"name": student.name, **student.config},
        "voice": {
            "detector": silero.PROVENANCE,
            "settings": vars(options),
            "auc": {f"{ratio:g} dB": round(value, 4) for ratio, value in found.items()},
        },
    }
    files.write_json(Path(run) / "provenance.json", lineage)
    return VoiceResult(str(run), found)


class _Speech:
    """Clips by voice, as an endless supply of clean scenes."""

    def __init__(self, clips: Clips, rows: np.ndarray, voices: np.ndarray):
        self.clips, self.rows = clips, rows
        names = voices[self.rows]
        self.voices = [self.rows[names == name] for name in dict.fromkeys(names)]

    def clip(self, generator: np.random.Generator, rows: np.ndarray) -> np.ndarray:
        """A random clip of these rows that can be read."""
        for _ in range(20):
            try:
                return self.clips.signal(int(rows[generator.integers(len(rows))]))
            except AudioError as error:
                problem = error
        raise problem

    def scene(self, generator: np.random.Generator, samples: int) -> np.ndarray:
        """Clips of one voice between pauses of digital silence."""
        rows = self.voices[generator.integers(len(self.voices))]
        scene, pause_s = np.zeros(samples), generator.choice(PAUSES_S)
        at = int(generator.uniform(0, 2 * pause_s) * SAMPLING_RATE)
        while at < samples:
            clip = self.clip(generator, rows) * 10 ** (generator.uniform(*LEVEL_DB) / 20)
            if generator.random() < CUT[0]:
                clip = clip[: int(generator.uniform(*CUT[1:]) * SAMPLING_RATE)]
            part = scene[at : at + len(clip)]
            part += clip[: len(part)]
            at += len(clip) + int(generator.exponential(pause_s) * SAMPLING_RATE)
        return scene

    def noise(self, generator: np.random.Generator, samples: int) -> np.ndarray:
        """Made noise, or many voices at once."""
        if generator.random() >= BABBLE:
            return noises.noise(samples, generator)
        voices = (self.clip(generator, self.rows) for _ in range(generator.integers(4, 8)))
        return np.sum([operations.excerpt(v, samples, generator.random()) for v in voices], axis=0)


def speech_power(scene: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean square of the frames that hold speech; 0 without any."""
    frames = scene[: len(probabilities) * silero.FRAME].reshape(-1, silero.FRAME)
    spoken = frames[probabilities > SPEECH]
    return float(operations.power(spoken)) if len(spoken) else 0.0


def _disturbed(
    speech: _Speech, generator: np.random.Generator, samples: int
) -> tuple[np.ndarray, np.ndarray]:
    """A scene as the student gets it, and silero-vad's probabilities of the clean one."""
    scene = speech.scene(generator, samples)
    if generator.random() < NO_SPEECH:
        scene[:] = 0
    targets = silero.probabilities(scene)
    level = speech_power(scene, targets) or 10 ** (generator.uniform(-60, -10) / 10)
    if generator.random() < NOISE:
        noise = speech.noise(generator, samples)
        scene = scene + operations.scaled(noise, level, generator.uniform(*NOISE_DB))
    if generator.random() < CHANNEL and scene.any():
        seeds = (int(seed) for seed in generator.integers(1, 2**31, 100))
        seed = next(seed for seed in seeds if augmentation.recipe(seed).pause is None)
        normalised = (scene / np.abs(scene).max()).astype(np.float32)
        scene = augmentation.variant(normalised, seed, part="channel")
    floor = 10 ** (generator.uniform(*FLOOR_DB) / 20)
    return scene + floor * generator.standard_normal(samples), targets


def frame_targets(probabilities: np.ndarray, frames: int, hop: int) -> np.ndarray:
    """Probabilities of frames of 32 ms at the ends of a student's frames, (frames,).

    Example:
        >>> frame_targets(np.array([0.0, 1.0]), 4, 256)
        array([0. , 0.5, 1. , 1. ])
    """
    ends = hop * (np.arange(frames) + 2)
    return np.interp(ends, silero.FRAME * (np.arange(len(probabilities)) + 1), probabilities)


def _fit(
    student: Nano, speech: _Speech, generator: np.random.Generator, options: VoiceOptions
) -> Voice:
    """Train a head on what the frozen student makes of scenes."""
    samples = round(options.seconds * SAMPLING_RATE)
    inputs, targets = [], []
    with progress.bar(options.scenes, unit="scene", desc="voice: scenes") as bar:
        for _ in range(options.scenes):
            scene, probabilities = _disturbed(speech, generator, samples)
            inputs.append(_frames(student, scene))
            made = frame_targets(probabilities, inputs[-1].shape[1], student.hop)
            targets.append(torch.from_numpy(made.astype(np.float32)))
            bar.update()
    x, y = torch.stack(inputs), torch.stack(targets)
    torch.manual_seed(options.seed)
    voice = Voice(student.config["channels"])
    steps = options.epochs * -(-len(x) // options.batch_size)
    optimizer = torch.optim.AdamW(voice.parameters(), weight_decay=0.01)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.learning_rate, total_steps=steps)
    with progress.bar(options.epochs, unit="epoch", desc="voice") as bar:
        for _ in range(options.epochs):
            for rows in torch.randperm(len(x)).split(options.batch_size):
                loss = torch.nn.functional.binary_cross_entropy_with_logits(voice(x[rows]), y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                cycle.step()
            bar.update()
    return voice.eval()


@torch.no_grad()
def _frames(student: Nano, signal: np.ndarray) -> Tensor:
    return student.frames(torch.from_numpy(signal.astype(np.float32))[None])[0]


@torch.no_grad()
def _auc(
    student: Nano, scenes: Sequence[np.ndarray], ratio_db: float, generator: np.random.Generator
) -> float:
    """ROC AUC against what silero-vad finds in clean scenes, per frame of 32 ms; noise is added."""
    assert student.voice is not None
    scores, truths = [], []
    for scene in scenes:
        probabilities = silero.probabilities(scene)
        level = speech_power(scene, probabilities) or 1e-2
        noise = operations.scaled(noises.noise(len(scene), generator), level, ratio_db)
        logits = student.voice(_frames(student, scene + noise)[None])[0].numpy()
        aligned = logits[:: silero.FRAME // student.hop]
        count = min(len(aligned), len(probabilities))
        scores.append(aligned[:count])
        truths.append(probabilities[:count] > SPEECH)
    return metrics.roc_auc(np.concatenate(truths), np.concatenate(scores))
