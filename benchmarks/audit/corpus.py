"""What an audit runs on: clips, what is known about them, and sounds to disturb them with."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wav2small import audio
from wav2small.dimensions import DIMENSIONS
from wav2small.emotions import common
from wav2small.errors import AudioError, Wav2SmallError
from wav2small.index import fingerprint, load_source
from wav2small.operations import synthetic_rooms
from wav2small.tables import Labels, read_labels

from .perturbations import Sounds

#: Columns that an audit knows what to do with, and other names under which they come.
COLUMNS = {
    "emotion": ("emotion", "category", "emotion_category"),
    "speaker": ("speaker", "speaker_id", "actor"),
    "sex": ("sex", "gender"),
    "language": ("language", "lang"),
    "accent": ("accent", "native_language"),
}

MAX_DURATION_S = 60.0  # of a clip; memory grows with it, and an emotion does not last so long
VOICES = 24  # clips that babble is mixed from (chosen)
EVENT_S = 2.0  # shorter noises are single events (chosen)


@dataclass(frozen=True)
class ClipOptions:
    """Which clips of a source are used, and what is known about them.

    Attributes:
        truth: another table with the ratings
        scale: lowest and highest rating of the truth, mapped to 0..1; None = 0 1
        root: folder that the files of the source are relative to
        by: compare the groups of this column too; may be given again. A sequence of columns
        limit: draw N clips of the source
    """

    truth: str | os.PathLike[str] | None = None
    scale: tuple[float, float] | None = None
    root: str | None = None
    by: Sequence[str] = ()
    limit: int | None = None


@dataclass
class Corpus:
    """Clips with what is known about them."""

    #: `file` as the source names it, `path`, `start` and `end` in seconds (NaN = to the end), and
    #: the columns below, of str, "" = unknown
    frame: pd.DataFrame
    #: float64 (clips, 3), 0..1, NaN = not rated; None if nothing is rated
    truth: np.ndarray | None = None
    truth_name: str = ""  # whose ratings these are
    columns: tuple[str, ...] = ()  # names of what is known, such as "speaker"
    notes: list[str] = field(default_factory=list)  # what a reader of the figures must know

    def __len__(self) -> int:
        return len(self.frame)

    def take(self, rows: np.ndarray) -> Corpus:
        """The corpus of these rows only."""
        truth = None if self.truth is None else self.truth[rows]
        return replace(self, frame=self.frame.iloc[rows].reset_index(drop=True), truth=truth)

    def digest(self, *arrays: np.ndarray) -> str:
        """Content hash of the clips, of their ratings and of `arrays`, wherever the folder is."""
        truth = () if self.truth is None else (np.round(self.truth, 4),)
        return fingerprint(self.frame[["file", "start", "end"]].round(3), *truth, *arrays)

    def read(self, row: int) -> np.ndarray:
        """The signal of a clip; see `read`."""
        return read(*self.frame.loc[row, ["path", "start", "end"]])


def gather(
    source: str | os.PathLike[str], options: ClipOptions | None = None, *, seed: int = 0
) -> tuple[Corpus, list[tuple[str, str]]]:
    """Read a source and what is known about its clips.

    Args:
        source: folder, file, table or audformat database; its columns arousal, dominance,
            valence are the truth, emotion, speaker, sex, language, accent are used as well
        options: which clips, which truth
        seed: of the drawing

    Returns:
        the corpus, and (file, reason) of what the source lists and cannot be read

    Raises:
        Wav2SmallError: no source, no such column, ratings outside their scale, or a truth that
            rates none of the clips
    """
    options = options or ClipOptions()
    index = load_source(source, root=options.root, reject_rows=True)
    labels = Labels(index.frame, index.root)
    own_truth = options.truth is None and any(name in labels.frame for name in DIMENSIONS)
    if own_truth:
        labels = read_labels(source, root=options.root, scale=options.scale, partial=True)
    table, notes = _clean(labels.frame), []
    if len(table) < len(labels.frame):
        notes.append(f"{len(labels.frame) - len(table)} augmented variants were left out")
    frame = pd.DataFrame({"file": table["file"], "path": table["file"].map(labels.path)})
    for name in ("start", "end"):
        frame[name] = table[name].dt.total_seconds()
    known = {
        name: next(alias for alias in aliases if alias in table)
        for name, aliases in COLUMNS.items()
        if set(aliases) & set(table)
    }
    for name in options.by:
        if name not in table:
            there = ", ".join(map(str, table.columns[3:])) or "none"
            raise Wav2SmallError(f"--by {name}: {source} has no such column; its columns: {there}")
        known[name] = name
    for name, column in known.items():
        values = table[column].astype("object")
        frame[name] = values.where(values.notna(), "").astype(str)
    if "emotion" in known:
        frame["emotion"] = frame["emotion"].map(common)
    corpus = Corpus(frame, columns=tuple(known), notes=notes)
    if own_truth:
        corpus.truth, corpus.truth_name = _ratings(table), _whose(source, labels.provenance)
    elif options.truth is not None:
        _rate(corpus, options.truth, options.scale, source)
    if options.limit is not None and options.limit < len(corpus):
        rng = np.random.default_rng(seed)
        rows = np.sort(rng.choice(len(corpus), options.limit, replace=False))
        notes.append(f"{options.limit} of {len(corpus)} clips, drawn with seed {seed}")
        corpus = corpus.take(rows)
    bad = [(file, f"row {number}: {why}") for number, file, why in index.rejected_rows]
    return corpus, index.rejected + bad


def read(path: str, start_s: float, end_s: float) -> np.ndarray:
    """The signal of a clip, float32 (samples,) at 16 kHz; `end_s` NaN = to the end.

    Raises:
        AudioError: unreadable, or longer than a minute
    """
    stop_s = audio.duration(path) if np.isnan(end_s) else end_s
    if stop_s - start_s > MAX_DURATION_S:
        raise AudioError(
            f"{path}: {stop_s - start_s:.0f} s is too long for one estimate; cut it into clips of "
            f"at most {MAX_DURATION_S:.0f} s with `start` and `end` in a table"
        )
    return audio.read(path, start_s=start_s, end_s=None if np.isnan(end_s) else end_s)


def gather_sounds(
    corpus: Corpus, *, noise: str | None = None, rooms: str | None = None, seed: int = 0
) -> Sounds:
    """Sounds to disturb the clips with.

    Args:
        corpus: 24 of its clips, drawn with the seed, become the voices of babble
        noise: folder of recorded noise; files of less than 2 s are single events, the others
            backgrounds. Without it, the tests with recorded noise cannot run.
        rooms: folder of impulse responses; without it, they are synthesised
        seed: of the drawing

    Raises:
        Wav2SmallError: a folder without audio
    """
    sounds = Sounds()
    for row in np.random.default_rng(seed).permutation(len(corpus))[: 2 * VOICES]:
        with contextlib.suppress(AudioError):  # the run lists it
            sounds.voices.append(corpus.read(int(row)))
        if len(sounds.voices) == VOICES:
            break
    if noise:
        for name, signal in _folder(noise, "--noise"):
            if not _is_room(name):
                short = len(signal) < EVENT_S * audio.SAMPLING_RATE
                (sounds.events if short else sounds.backgrounds).append(signal)
        counts = f"{len(sounds.backgrounds)} backgrounds, {len(sounds.events)} events"
        sounds.notes.append(f"noise: {counts}")
    if rooms:
        listed = _folder(rooms, "--rooms")
        responses = [signal for name, signal in listed if _is_room(name)]
        sounds.rooms = responses or [signal for _, signal in listed]
        sounds.notes.append(f"rooms: {len(sounds.rooms)} recorded impulse responses")
    else:
        sounds.rooms = synthetic_rooms()
        sounds.notes.append("rooms: 4 synthetic impulse responses (give --rooms for recorded ones)")
    return sounds


def _clean(table: pd.DataFrame) -> pd.DataFrame:
    """Without augmented variants."""
    if "variant" not in table:
        return table
    return table[table["variant"].fillna(0) == 0].reset_index(drop=True)


def _ratings(table: pd.DataFrame) -> np.ndarray:
    """(clips, 3), NaN where a dimension has no column."""
    return table.reindex(columns=list(DIMENSIONS)).to_numpy(dtype=np.float64)


def _whose(source: str | os.PathLike[str], provenance: dict[str, Any]) -> str:
    teachers = ", ".join(teacher.get("name", "?") for teacher in provenance.get("teachers", ()))
    return f"labels of the teacher {teachers}" if teachers else f"ratings in {Path(source).name}"


def _rate(corpus: Corpus, truth: Any, scale: Any, source: Any) -> None:
    """Give a corpus the ratings of the table `truth`."""
    labels = read_labels(truth, scale=scale, partial=True)
    table = _clean(labels.frame)
    starts, ends = (table[name].dt.total_seconds() for name in ("start", "end"))
    # The same clip by its path, else by its name: a table may have moved away from its audio.
    rows: dict[tuple[str, float, float], int] = {}
    for row, (file, start, end) in enumerate(zip(table["file"], starts, ends, strict=True)):
        rows[_key(os.path.realpath(labels.path(file)), start, end)] = row
        rows[_key(file, start, end)] = row
    matches = []
    for file, path, start, end in corpus.frame[["file", "path", "start", "end"]].itertuples(False):
        match = rows.get(_key(os.path.realpath(path), start, end))
        matches.append(rows.get(_key(file, start, end), -1) if match is None else match)
    corpus.truth = np.vstack([_ratings(table), np.full(len(DIMENSIONS), np.nan)])[matches]
    rated = int(np.isfinite(corpus.truth).any(1).sum())
    if rated == 0:
        raise Wav2SmallError(
            f"{truth}: rates none of the {len(corpus)} clips of {source} (such as "
            f"{corpus.frame['file'][0]}; it rates {table['file'].iloc[0]}); give the table of "
            "these files"
        )
    corpus.truth_name = _whose(truth, labels.provenance)
    if rated < len(corpus):
        corpus.notes.append(f"{rated} of {len(corpus)} clips are rated in {Path(truth).name}")


def _key(name: str, start: float, end: float) -> tuple[str, float, float]:
    return name, round(start, 3), -1.0 if np.isnan(end) else round(end, 3)


def _is_room(name: str) -> bool:
    return name.lower().startswith(("room", "rir", "ir_"))


def _folder(folder: str, option: str) -> list[tuple[str, np.ndarray]]:
    if not os.path.isdir(folder):
        raise Wav2SmallError(f"{option} {folder}: no such folder")
    index = load_source(folder)
    sounds = []
    for file in index.frame["file"]:
        with contextlib.suppress(AudioError):
            # A minute of each is enough to draw from, and memory stays flat.
            length = min(audio.duration(index.path(file)), MAX_DURATION_S)
            sounds.append((os.path.basename(file), audio.read(index.path(file), end_s=length)))
    if not sounds:
        raise Wav2SmallError(f"{option} {folder}: no audio in it that can be read")
    return sounds
