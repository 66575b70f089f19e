"""The input of a multimodal teacher: the clip's transcript and, of its dialogue, what it asks for.

A labelling run stays a run over clips. Each item carries its `Passage`: its own turn and the turns
around it that the teacher's `Context` names, found through the index. So batches, resume and Ray
know nothing of dialogues; the price is that a turn is decoded once for each passage it is in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from wav2small import progress, transcripts
from wav2small.errors import AudioError
from wav2small.transcripts import Word

if TYPE_CHECKING:
    import pandas as pd

_NS = 1_000_000_000
WHOLE = 1_000_000  # turns: all those of the dialogue


class Turn(NamedTuple):
    """A clip of a dialogue.

    Example:
        >>> from wav2small.transcripts import Word
        >>> words = (Word("good", 0.0, 0.4), Word("morning", 0.5, 1.0))
        >>> turn = Turn("a.wav", 0, 1_000_000_000, "good morning", words)
        >>> turn.within(450_000_000, 1_000_000_000).text
        'morning'
    """

    file: str | None = None  # relative to the root of the index; None = there is no such turn
    start: int = 0  # nanoseconds
    end: int | None = None  # nanoseconds; None = to the end of the file
    text: str | None = None  # its transcript; None = not known, audio only
    words: tuple[Word, ...] | None = None  # seconds of the file; None = not known
    signal: np.ndarray | None = None  # float32 (samples,), 16 kHz; None = not decoded

    def within(self, start: int, end: int) -> Turn:
        """The part of a turn between two times of the file, in nanoseconds.

        It has the words whose middle lies there; where no times are known, the full text.
        """
        part = self._replace(start=start, end=end)
        if self.words is None:
            return part
        kept = tuple(w for w in self.words if start <= (w.start + w.end) / 2 * _NS < end)
        return part._replace(words=kept, text=" ".join(word.word for word in kept) or None)

    def timed(self) -> list[Word]:
        """Its words in seconds from the beginning of its own signal."""
        begin = self.start / _NS
        return [Word(w.word, w.start - begin, w.end - begin) for w in self.words or ()]


class Passage(NamedTuple):
    """A turn to label, and the turns around it in their order; `at` is its place among them.

    Example:
        >>> Passage((Turn("a.wav"), Turn("b.wav")), at=1).own.file
        'b.wav'
    """

    turns: tuple[Turn, ...]
    at: int

    @property
    def own(self) -> Turn:
        return self.turns[self.at]

    @property
    def previous(self) -> Turn:
        """The turn before the own; an empty one where there is none."""
        return self.turns[self.at - 1] if self.at else Turn()

    def with_own(self, turn: Turn) -> Passage:
        """The same passage with another own turn."""
        return Passage((*self.turns[: self.at], turn, *self.turns[self.at + 1 :]), self.at)


@dataclass(frozen=True)
class Context:
    """What of a dialogue a teacher wants besides the turn it labels; `WHOLE` of a kind is all."""

    before: int = 0  # turns before it whose text is used
    after: int = 0
    audio_before: int = 0  # of these, the nearest whose audio is used
    audio_after: int = 0


class Script:
    """The passages of an index, a frame by `transcripts.normalise`, that a teacher's context asks
    for.

    Example:
        >>> import pandas as pd
        >>> seconds = pd.to_timedelta([0, 1], unit="s")
        >>> frame = pd.DataFrame({"file": "a.wav", "start": seconds, "end": seconds + seconds[1]})
        >>> frame = frame.assign(text=["How are you?", "Fine."], dialogue="d", turn=[0, 1])
        >>> passage = Script(frame, Context(before=1)).passage(1)
        >>> [turn.text for turn in passage.turns]
        ['How are you?', 'Fine.']
    """

    def __init__(self, frame: pd.DataFrame, context: Context = Context()):
        self.context = context
        self._files = frame["file"].to_numpy()
        self._starts = frame["start"].to_numpy("timedelta64[ns]").astype(np.int64)
        self._ends = frame["end"].to_numpy("timedelta64[ns]").astype(np.int64)
        self._open = frame["end"].isna().to_numpy()
        self._texts = frame["text"].to_numpy() if "text" in frame else None
        self._words = frame["words"].to_numpy() if "words" in frame else None
        self._codes: np.ndarray | None = None
        if "dialogue" in frame and (context.before or context.after):
            self._sort(frame)

    def _sort(self, frame: pd.DataFrame) -> None:
        codes, _ = frame["dialogue"].factorize()
        turns = frame["turn"].to_numpy(np.int64)
        known = codes >= 0
        if "variant" in frame:
            known &= frame["variant"].to_numpy() == 0
        rows = np.flatnonzero(known)
        rows = rows[np.lexsort((self._starts[rows], turns[rows], codes[rows]))]
        first = np.ones(len(rows), bool)  # of the rows of one turn
        first[1:] = (np.diff(codes[rows]) != 0) | (np.diff(turns[rows]) != 0)
        self._codes, self._turns, self._rows = codes, turns, rows[first]
        self._begins = np.searchsorted(codes[self._rows], np.arange(codes.max() + 2))

    def passage(self, row: int) -> Passage:
        """The passage of a row, without signals."""
        own = self._turn(row)
        if self._codes is None or self._codes[row] < 0:
            return Passage((own,), 0)
        begin, end = self._begins[self._codes[row] : self._codes[row] + 2]
        rows = self._rows[begin:end]
        numbers = self._turns[rows]
        number = int(self._turns[row])
        first = max(number - self.context.before, int(numbers[0]))
        last = min(number + self.context.after, int(numbers[-1]))
        turns = []
        for wanted in range(first, last + 1):
            place = int(np.searchsorted(numbers, wanted))
            there = place < len(rows) and numbers[place] == wanted
            turns.append(self._turn(int(rows[place])) if there else Turn())
        turns[number - first] = own
        return Passage(tuple(turns), number - first)

    def dialogues(self, rows: np.ndarray) -> np.ndarray:
        """A number for the dialogue of each row, -1 = none."""
        return np.full(len(rows), -1) if self._codes is None else self._codes[rows]

    def _turn(self, row: int) -> Turn:
        words = None if self._words is None else transcripts.parse(self._words[row], "words")
        text = None if self._texts is None else self._texts[row]
        end = None if self._open[row] else int(self._ends[row])
        return Turn(str(self._files[row]), int(self._starts[row]), end, text, words)

    def _known(self) -> list[str]:
        """The transcripts there are."""
        return [] if self._texts is None else [text for text in self._texts if text is not None]

    def summary(self) -> list[str]:
        """What is missing, a line each."""
        lines = []
        total, known = len(self._files), len(self._known())
        if known < total:
            lines.append(
                f"{total - known} of {total} clips have no transcript; the teacher "
                "uses their audio only"
            )
        if self._codes is not None:
            codes, turns = self._codes[self._rows], self._turns[self._rows]
            gaps = np.where(np.diff(codes) == 0, np.diff(turns) - 1, 0)
            if gaps.sum():
                broken = len(np.unique(codes[1:][gaps > 0]))
                lines.append(
                    f"{gaps.sum()} turns are missing in {broken} dialogues; they have neither "
                    "audio nor text"
                )
        return lines

    def report(self, too_long: Callable[[list[str]], int] | None) -> None:
        """Print what is missing, and how many transcripts a teacher has to cut, by `too_long`."""
        lines = self.summary()
        if too_long and (cut := too_long(self._known())):
            lines.append(f"{cut} transcripts are longer than the text encoder takes and are cut")
        for line in lines:
            progress.note(f"note: {line}")


def fault(turn: Turn, end: int) -> str | None:
    """What is wrong with the word times of a turn that ends at `end` nanoseconds."""
    return transcripts.fault(turn.words or (), turn.start / _NS, end / _NS)


def audio_places(context: Context, passage: Passage) -> list[int]:
    """Places of the turns around a passage's own whose audio the teacher uses."""
    low, high = passage.at - context.audio_before, passage.at + context.audio_after
    places = range(max(0, low), min(len(passage.turns), high + 1))
    return [n for n in places if n != passage.at and passage.turns[n].file is not None]


def with_audio(
    passage: Passage, places: Sequence[int], read: Callable[[Turn], np.ndarray]
) -> Passage:
    """A passage with the signals of some of its turns, as far as they can be decoded."""
    turns = list(passage.turns)
    for place in places:
        try:
            turns[place] = turns[place]._replace(signal=read(turns[place]))
        except (AudioError, OSError):
            continue  # it has a row of its own, which lists why
    return Passage(tuple(turns), passage.at)
