"""From a row of the index to the signals that a teacher labels: windows, then their variants."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from wav2small import audio, index, places
from wav2small import augmentation as variants
from wav2small.errors import AudioError, Wav2SmallError
from wav2small.teachers.multimodal import dialogue
from wav2small.teachers.multimodal.dialogue import Context, Passage, Turn

_NS = 1_000_000_000  # nanoseconds per second, audformat's unit of time


class SourceRow(NamedTuple):
    """One row of the source index; times in nanoseconds, `end` None = to the end of the file."""

    row: int
    file: str
    start: int
    end: int | None
    passage: Passage | None = None  # for multimodal teachers


class Item(NamedTuple):
    """One signal to label: a window of a row (`variant` 0), or a variant of that window."""

    row: int
    file: str
    start: int
    end: int | None
    variant: int
    seconds: float
    passage: Passage | None = None
    context_s: float = 0.0  # of other turns whose audio the teacher gets
    band_limited: bool = False  # see `audio.is_band_limited`; known when it was read

    @property
    def input_s(self) -> float:
        """Seconds of audio that go through the teacher for it."""
        return self.seconds + self.context_s


class Rejection(NamedTuple):
    """A clip that cannot be labelled, and why; `start` None = its times cannot be read."""

    row: int
    file: str
    start: int | None
    end: int | None
    reason: str


@dataclass
class Outcome:
    """What became of some rows."""

    rows: list[int] = field(default_factory=list)  # of the source, that are finished with it
    items: list[Item] = field(default_factory=list)  # what was labelled
    columns: dict[str, np.ndarray] = field(default_factory=dict)  # {column: (items,)}
    rejections: list[Rejection] = field(default_factory=list)  # what was not


@dataclass
class LabelBatch:
    """Signals of some items, as a teacher takes them."""

    items: list[Item]  # what could be read
    signals: np.ndarray  # (items, samples) float32, zeros after the end
    lengths: np.ndarray  # (items,) samples
    rejections: list[Rejection]  # what could not be read
    passages: list[Passage] | None = None  # of the items, for multimodal teachers


@dataclass(frozen=True)
class Reader:
    """Reads the signals of a run; travels to worker processes."""

    root: str  # folder that files are relative to
    sampling_rate: int  # of the teacher, Hz
    window_s: float  # longest signal in seconds
    hop_s: float | None  # from one window to the next, None = `window_s`
    copies: int  # variants of each window
    settings: variants.VariantSettings
    context: Context = Context()  # what of a dialogue a multimodal teacher asks for

    def path(self, file: str) -> str:
        return places.join(self.root, file)

    def list_items(self, rows: list[SourceRow]) -> tuple[list[Item], list[Rejection]]:
        """Items of some rows, and the rows that have none."""
        items: list[Item] = []
        rejections = []
        for row in rows:
            try:
                items += self.items(row)
            except Exception as error:  # whatever one file does, the others are labelled
                rejections.append(rejection(row, reason(error)))
        return items, rejections

    def items(self, row: SourceRow) -> list[Item]:
        """Windows of a row, each with its variants; only the header of the file is read.

        Raises:
            AudioError: the file is missing or no audio; or its words have times that cannot be
        """
        if row.end is None:
            length = audio.duration(self.path(row.file)) - row.start / _NS
        else:
            length = (row.end - row.start) / _NS
        if length <= self.window_s:
            cut = [(row.start, row.end, length)]
        else:
            end_s = 0.0 if row.end is None else row.end / _NS
            if end_s > audio.duration(self.path(row.file)) + 0.1:
                audio.read(self.path(row.file), start_s=row.start / _NS, end_s=end_s)  # raises
            hop_s = self.hop_s or self.window_s
            cut = [
                (row.start + round(low * _NS), row.start + round(high * _NS), high - low)
                for low, high in index.spans(length, window_s=self.window_s, hop_s=hop_s)
            ]
        passage, context_s = self._passage(row, length)
        items = []
        for start, end, seconds in cut:
            own = passage
            if passage is not None and len(cut) > 1 and end is not None:
                own = passage.with_own(passage.own.within(start, end))
            for seed in (0, *variants.seeds(row.file, start, end, self.copies)):
                items.append(Item(row.row, row.file, start, end, seed, seconds, own, context_s))
        return items

    def read(self, item: Item) -> np.ndarray:
        """The signal of an item, float32.

        Raises:
            AudioError: the clip cannot be used
        """
        return variants.read(
            self.path(item.file),
            **_times(item),
            variant=item.variant,
            settings=self.settings,
            sampling_rate=self.sampling_rate,
            labelled=True,
        )

    def batch(self, items: list[Item]) -> LabelBatch:
        """Read items into a padded batch."""
        good, signals, rejections = [], [], []
        for item in items:
            try:
                signals.append(self.read(item))
                good.append(item._replace(band_limited=self._is_limited(signals[-1])))
            except Exception as error:
                rejections.append(failed(item, error))
        lengths = np.array([len(signal) for signal in signals], dtype=np.int64)
        padded = np.zeros((len(signals), lengths.max(initial=0)), dtype=np.float32)
        for row, signal in enumerate(signals):
            padded[row, : len(signal)] = signal
        return LabelBatch(good, padded, lengths, rejections, self.passages(good))

    def _is_limited(self, signal: np.ndarray) -> bool:
        rate = self.sampling_rate
        if rate > audio.SAMPLING_RATE:
            signal = variants.operations.resample(signal, rate, audio.SAMPLING_RATE)
        return rate >= audio.SAMPLING_RATE and audio.is_band_limited(signal)

    def passages(self, items: list[Item]) -> list[Passage] | None:
        """Transcripts of some items and the audio of their context; None = the items have none."""
        if not items or items[0].passage is None:
            return None
        found = [item.passage for item in items if item.passage is not None]
        return [
            dialogue.with_audio(one, dialogue.audio_places(self.context, one), self._decode)
            for one in found
        ]

    def _passage(self, row: SourceRow, length: float) -> tuple[Passage | None, float]:
        """The passage of a row, with the ends of its audio, and seconds of its context."""
        if row.passage is None:
            return None, 0.0
        if wrong := dialogue.fault(row.passage.own, row.start + round(length * _NS)):
            raise AudioError(f"{row.file}: {wrong}; correct `words` (seconds of the file)")
        found, context_s = list(row.passage.turns), 0.0
        for place in dialogue.audio_places(self.context, row.passage):
            turn = found[place]
            begin, end = turn.start, turn.end
            try:
                if end is None:
                    end = round(audio.duration(self.path(turn.file or "")) * _NS)
            except AudioError:
                continue  # it has a row of its own, which lists why
            # The nearest part of a long turn: the end of an earlier one, the start of a later one.
            most = round(self.window_s * _NS)
            if end - begin > most:
                begin = end - most if place < row.passage.at else begin
                end = begin + most
                turn = turn.within(begin, end)
            found[place] = turn._replace(end=end)
            context_s += (end - begin) / _NS
        return Passage(tuple(found), row.passage.at), context_s

    def _decode(self, turn: Turn) -> np.ndarray:
        path, rate = self.path(turn.file or ""), self.sampling_rate
        return audio.read(path, **_times(turn), sampling_rate=rate)


def _times(clip: Item | Turn) -> dict[str, Any]:
    """Where a clip is in its file, in seconds."""
    return {"start_s": clip.start / _NS, "end_s": None if clip.end is None else clip.end / _NS}


def rejection(clip: SourceRow | Item, why: str) -> Rejection:
    """The rejection of a row or an item."""
    return Rejection(clip.row, clip.file, clip.start, clip.end, why)


def failed(item: Item, error: Exception) -> Rejection:
    """The rejection of an item by an error; one that is not about the clip is raised."""
    if isinstance(error, Wav2SmallError) and not isinstance(error, AudioError):
        raise error
    return rejection(item, reason(error))


def reason(error: Exception) -> str:
    """Why a clip was rejected, on one line."""
    text = str(error) if isinstance(error, AudioError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split()) or type(error).__name__
