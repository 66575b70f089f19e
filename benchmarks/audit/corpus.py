"""What an audit listens to: clips, what is known about them, and sounds to disturb them with."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wav2small import audio
from wav2small.dimensions import DIMENSIONS
from wav2small.emotions import common
from wav2small.errors import AudioError, Wav2SmallError
from wav2small.operations import synthetic_rooms

from .perturbations import Resources

#: Columns that an audit knows what to do with, and other names under which they come.
COLUMNS = {
    "emotion": ("emotion", "category", "emotion_category"),
    "speaker": ("speaker", "speaker_id", "actor"),
    "sex": ("sex", "gender"),
    "language": ("language", "lang"),
    "accent": ("accent", "native_language"),
}

MAX_DURATION_S = 60.0  # of a clip; memory grows with it, and an emotion does not last so long


@dataclass
class Corpus:
    """Clips with what is known about them.

    Attributes:
        files: paths as the source names them
        paths: where they are
        starts: seconds
        ends: seconds, NaN = to the end
        truth: float64 (clips, 3), NaN = not rated; None if nothing is rated
        truth_name: whose ratings these are
        columns: name -> (clips,) of str, "" = unknown
        notes: what a reader of the figures must know
    """

    files: list[str]
    paths: list[str]
    starts: np.ndarray
    ends: np.ndarray
    truth: np.ndarray | None = None
    truth_name: str = ""
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.files)

    def take(self, rows: np.ndarray) -> Corpus:
        """The corpus of these rows only."""
        return Corpus(
            files=[self.files[row] for row in rows],
            paths=[self.paths[row] for row in rows],
            starts=self.starts[rows],
            ends=self.ends[rows],
            truth=None if self.truth is None else self.truth[rows],
            truth_name=self.truth_name,
            columns={name: values[rows] for name, values in self.columns.items()},
            notes=self.notes,
        )

    def digest(self) -> str:
        """Identity of the clips and of their ratings, wherever the folder lies."""
        text = "\n".join(
            f"{file}|{start:.3f}|{end:.3f}"
            for file, start, end in zip(self.files, self.starts, self.ends, strict=True)
        )
        truth = b"" if self.truth is None else np.round(self.truth, 4).tobytes()
        return hashlib.sha256(text.encode() + truth).hexdigest()


def gather(
    source: str | os.PathLike[str],
    *,
    truth: str | os.PathLike[str] | None = None,
    scale: tuple[float, float] | None = None,
    root: str | None = None,
    by: Sequence[str] = (),
    limit: int | None = None,
    seed: int = 0,
) -> tuple[Corpus, list[tuple[str, str]]]:
    """Read a source and what is known about its clips.

    Args:
        source: folder, file, table or audformat database; its columns arousal, dominance,
            valence are the truth, emotion, speaker, sex, language, accent are used as well
        truth: another table with the ratings of the same files
        scale: (lowest, highest) rating, mapped to 0..1
        root: folder that the files of the source are relative to
        by: further columns of the source whose groups are compared
        limit: number of clips drawn from the source; None = all
        seed: of the drawing

    Returns:
        the corpus, and (file, reason) of what the source listed but nobody can hear

    Raises:
        Wav2SmallError: no source, no such column, ratings outside their scale, or a truth that
            rates none of the clips
    """
    from wav2small.index import load_source
    from wav2small.tables import read_labels

    index = load_source(source, root=root)
    frame, folder, provenance = index.frame, index.root, {}
    notes = []
    own_truth = truth is None and any(name in frame for name in DIMENSIONS)
    if own_truth:
        labels = read_labels(source, root=root, scale=scale, partial=True)
        frame, folder, provenance = labels.frame, labels.root, labels.provenance
    if "variant" in frame:
        kept = frame["variant"].fillna(0) == 0
        notes.append(f"{int((~kept).sum())} augmented variants were left out")
        frame = frame[kept].reset_index(drop=True)
    corpus = Corpus(
        files=frame["file"].tolist(),
        paths=[os.path.join(folder, file) for file in frame["file"]],
        starts=frame["start"].dt.total_seconds().to_numpy(),
        ends=frame["end"].dt.total_seconds().to_numpy(),
        notes=notes,
    )
    if own_truth:
        corpus.truth = np.full((len(frame), len(DIMENSIONS)), np.nan)
        for column, name in enumerate(DIMENSIONS):
            if name in frame:
                corpus.truth[:, column] = frame[name]
        corpus.truth_name = _whose(source, provenance)
    elif truth is not None:
        _rate(corpus, truth, scale, source)
    _know(corpus, frame, by, source)
    if limit is not None and limit < len(corpus):
        rows = np.sort(np.random.default_rng(seed).choice(len(corpus), limit, replace=False))
        notes.append(f"{limit} of {len(corpus)} clips, drawn with seed {seed}")
        corpus = corpus.take(rows)
    return corpus, list(index.rejected)


def resources(
    corpus: Corpus, *, noise: str | None = None, rooms: str | None = None, seed: int = 0
) -> Resources:
    """Sounds to disturb the clips with.

    Args:
        corpus: 24 of its clips, drawn with the seed, become the voices of babble
        noise: folder of recorded noise; files of less than 2 s are single events, the others
            backgrounds. Without it, the tests with recorded noise cannot run.
        rooms: folder of impulse responses; without it, they are made
        seed: of the drawing

    Raises:
        Wav2SmallError: a folder without audio
    """
    found = Resources()
    for row in np.random.default_rng(seed).permutation(len(corpus))[:48]:
        try:
            found.voices.append(read(corpus, int(row)))
        except AudioError:
            continue  # it is listed when its turn comes
        if len(found.voices) == 24:
            break
    if noise:
        for name, signal in _folder(noise, "--noise"):
            if _is_room(name):
                continue
            short = len(signal) < 2 * audio.SAMPLING_RATE
            (found.events if short else found.backgrounds).append(signal)
        found.notes.append(
            f"noise: {len(found.backgrounds)} backgrounds, {len(found.events)} events"
        )
    if rooms:
        listed = _folder(rooms, "--rooms")
        responses = [signal for name, signal in listed if _is_room(name)]
        found.rooms = responses or [signal for _, signal in listed]
        found.notes.append(f"rooms: {len(found.rooms)} recorded impulse responses")
    else:
        found.rooms = synthetic_rooms()
        found.notes.append("rooms: 4 synthetic impulse responses (give --rooms for recorded ones)")
    return found


def read(corpus: Corpus, row: int) -> np.ndarray:
    """The signal of a clip.

    Raises:
        AudioError: unreadable, or longer than a minute
    """
    start, end = float(corpus.starts[row]), float(corpus.ends[row])
    path = corpus.paths[row]
    return hear(path, start, end)


def hear(path: str, start_s: float, end_s: float) -> np.ndarray:
    """The signal of a clip, from where it is; `end_s` NaN = to the end."""
    stop_s = audio.duration(path) if np.isnan(end_s) else end_s
    if stop_s - start_s > MAX_DURATION_S:
        raise AudioError(
            f"{path}: {stop_s - start_s:.0f} s is too long for one estimate; cut it into clips of "
            f"at most {MAX_DURATION_S:.0f} s with `start` and `end` in a table"
        )
    return audio.read(path, start_s=start_s, end_s=None if np.isnan(end_s) else end_s)


def _whose(source: str | os.PathLike[str], provenance: dict[str, Any]) -> str:
    teachers = [teacher.get("name", "?") for teacher in provenance.get("teachers", ())]
    if teachers:
        return f"labels of the teacher {', '.join(teachers)}"
    return f"ratings in {Path(source).name}"


def _rate(
    corpus: Corpus,
    truth: str | os.PathLike[str],
    scale: tuple[float, float] | None,
    source: str | os.PathLike[str],
) -> None:
    from wav2small.tables import read_labels

    labels = read_labels(truth, scale=scale, partial=True)
    frame = labels.frame
    if "variant" in frame:
        frame = frame[frame["variant"].fillna(0) == 0]
    values = np.full((len(frame), len(DIMENSIONS)), np.nan)
    for column, name in enumerate(DIMENSIONS):
        if name in frame:
            values[:, column] = frame[name]
    starts = frame["start"].dt.total_seconds().to_numpy()
    ends = frame["end"].dt.total_seconds().to_numpy()
    # The same clip by place, else by name: a table may have moved away from its audio.
    by_place, by_name = {}, {}
    for row, (file, start, end) in enumerate(zip(frame["file"], starts, ends, strict=True)):
        key = _key(labels.path(file), start, end)
        by_place[key] = by_name[(file, *key[1:])] = row
    corpus.truth = np.full((len(corpus), len(DIMENSIONS)), np.nan)
    for row, (file, path) in enumerate(zip(corpus.files, corpus.paths, strict=True)):
        key = _key(path, corpus.starts[row], corpus.ends[row])
        match = by_place.get(key, by_name.get((file, *key[1:])))
        if match is not None:
            corpus.truth[row] = values[match]
    rated = int(np.isfinite(corpus.truth).any(1).sum())
    if rated == 0:
        raise Wav2SmallError(
            f"{truth}: rates none of the {len(corpus)} clips of {source} (such as "
            f"{corpus.files[0]}; it rates {frame['file'].iloc[0]}); give the table of these files"
        )
    corpus.truth_name = _whose(truth, labels.provenance)
    if rated < len(corpus):
        corpus.notes.append(f"{rated} of {len(corpus)} clips are rated in {Path(truth).name}")


def _key(path: str, start: float, end: float) -> tuple[str, float, float]:
    return os.path.realpath(path), round(float(start), 3), -1.0 if np.isnan(end) else round(end, 3)


def _know(corpus: Corpus, frame: Any, by: Sequence[str], source: str | os.PathLike[str]) -> None:
    for name, aliases in COLUMNS.items():
        for alias in aliases:
            if alias in frame and name not in corpus.columns:
                corpus.columns[name] = _strings(frame[alias])
    for name in by:
        if name not in frame:
            known = ", ".join(map(str, frame.columns[3:])) or "none"
            raise Wav2SmallError(f"--by {name}: {source} has no such column; its columns: {known}")
        corpus.columns[name] = _strings(frame[name])
    if "emotion" in corpus.columns:
        corpus.columns["emotion"] = np.array([common(n) for n in corpus.columns["emotion"]])


def _strings(values: Any) -> np.ndarray:
    return values.astype("object").where(values.notna(), "").astype(str).to_numpy(dtype=str)


def _is_room(name: str) -> bool:
    return name.lower().startswith(("room", "rir", "ir_"))


def _folder(folder: str, option: str) -> list[tuple[str, np.ndarray]]:
    from wav2small.index import load_source

    if not os.path.isdir(folder):
        raise Wav2SmallError(f"{option} {folder}: no such folder")
    index = load_source(folder)
    sounds = []
    for file in index.frame["file"]:
        try:
            # A minute of each is enough to draw from, and memory stays flat.
            length = min(audio.duration(index.path(file)), MAX_DURATION_S)
            sounds.append((os.path.basename(file), audio.read(index.path(file), end_s=length)))
        except AudioError:
            continue
    if not sounds:
        raise Wav2SmallError(f"{option} {folder}: no audio in it that can be read")
    return sounds
