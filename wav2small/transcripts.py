"""What was said: the columns `text`, `words`, `dialogue` and `turn` of an index.

- `text`: the transcript of the clip; missing or empty means that it is not known.
- `words`: a list of {word, start, end}, seconds from the beginning of the *file*, as `start` and
  `end` of the clip are. In a CSV it is that list as JSON.
- `dialogue`: name of the conversation the clip belongs to.
- `turn`: its number there, from any number on; without the column the rows of a dialogue are in
  order.

Only multimodal teachers use them; elsewhere they are extra columns.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from wav2small.errors import Wav2SmallError

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("text", "words", "dialogue", "turn")
#: Columns that a CSV reader must not interpret: "None" and "NA" are words, "007" is a name.
VERBATIM = ("text", "words", "dialogue")
_SLACK_S = 0.05  # by which recognisers let words stick out of a clip, or overlap


class Word(NamedTuple):
    """A word and when it was said, in seconds."""

    word: str
    start: float
    end: float


def normalise(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """A copy of an index with the columns of this module, where there are any, in one form.

    Args:
        frame: as it was read
        name: of the table, for errors

    Returns:
        `text` str or None, where it is missing that of the words; `words` list of {word, start,
        end} or None; `dialogue` str or None; `turn` int64

    Raises:
        Wav2SmallError: words that are no list of words, a turn that is no integer, two rows
            for one turn
    """
    frame = frame.copy()
    if "text" in frame:
        frame["text"] = _objects((_text(value) for value in frame["text"]), frame.index)
    if "words" in frame:
        parsed = (parse(of, f"{name}: row {row}") for row, of in enumerate(frame["words"], 1))
        found = (None if words is None else cells(words) for words in parsed)
        frame["words"] = _objects(found, frame.index)
        texts = frame["text"] if "text" in frame else [None] * len(frame)
        said = zip(texts, frame["words"], strict=True)
        joined = (text or _text(" ".join(w["word"] for w in words or ())) for text, words in said)
        frame["text"] = _objects(joined, frame.index)
    if "dialogue" in frame:
        frame["dialogue"] = _objects((_text(value) for value in frame["dialogue"]), frame.index)
        frame["turn"] = _turns(frame, name)
    return frame


def parse(value: Any, where: str) -> tuple[Word, ...] | None:
    """Words of a cell: a list of {word, start, end}, or that as JSON; None = not known.

    Raises:
        Wav2SmallError: something else

    Example:
        >>> parse('[{"word": "yes", "start": 0.1, "end": 0.4}]', "row 1")
        (Word(word='yes', start=0.1, end=0.4),)
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        if not value.strip():
            return None
        try:
            value = json.loads(value)
        except ValueError as error:
            raise Wav2SmallError(f"{where}: `words` is not JSON ({error}); {_REMEDY}") from error
    try:
        found = ((str(one["word"]), float(one["start"]), float(one["end"])) for one in value)
        return tuple(Word(*word) for word in found)
    except (TypeError, KeyError, ValueError, IndexError) as error:
        raise Wav2SmallError(f"{where}: `words` is no list of words; {_REMEDY}") from error


_REMEDY = 'write [{"word": "yes", "start": 0.1, "end": 0.4}, ...], seconds of the file'


def fault(words: Sequence[Word], start: float, end: float | None) -> str | None:
    """What is wrong with the times of a clip's words; None = nothing.

    Args:
        words: seconds of the file
        start: of the clip, seconds
        end: of the clip; None = to the end of the file

    Example:
        >>> fault([Word("yes", 0.1, 0.4)], start=0.0, end=0.2)
        "the word 'yes' is outside the clip"
    """
    before = start
    for word in words:
        if not (math.isfinite(word.start) and math.isfinite(word.end)) or word.end < word.start:
            return f"the word {word.word!r} ends before it starts, or has no time"
        if word.start < start - _SLACK_S or (end is not None and word.end > end + _SLACK_S):
            return f"the word {word.word!r} is outside the clip"
        if word.start < before - _SLACK_S:
            return f"the word {word.word!r} is out of order"
        before = word.start
    return None


def cells(words: Iterable[Word]) -> list[dict[str, Any]]:
    """Words as they stand in a table.

    Example:
        >>> cells([Word("yes", 0.1, 0.4)])
        [{'word': 'yes', 'start': 0.1, 'end': 0.4}]
    """
    return [word._asdict() for word in words]


def digest(frame: pd.DataFrame) -> str:
    """Hash of an index's transcripts."""
    import hashlib

    present = [name for name in COLUMNS if name in frame]
    hashed = hashlib.sha256(" ".join(present).encode())
    for row in frame[present].itertuples(index=False):
        hashed.update(json.dumps(tuple(row), default=str, ensure_ascii=False).encode())
    return hashed.hexdigest()


def _text(value: Any) -> str | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return " ".join(str(value).split()) or None


def _objects(values: Iterable[Any], index: Any) -> pd.Series:
    import pandas as pd

    return pd.Series(list(values), index=index, dtype=object)


def _turns(frame: pd.DataFrame, name: str) -> Any:
    import pandas as pd

    known = frame["dialogue"].notna()
    if "turn" not in frame:
        return frame.groupby("dialogue", dropna=False, sort=False).cumcount()
    numbers = pd.to_numeric(frame["turn"], errors="coerce").astype("float64")
    bad = (numbers.isna() | (numbers % 1 != 0)) & known
    if bad.any():
        row = int(bad.to_numpy().argmax())
        wrong = f"row {row + 1}: turn {frame['turn'].iloc[row]} is no integer"
        raise Wav2SmallError(f"{name}: {wrong}; number the turns of each dialogue")
    turns = numbers.fillna(0).astype("int64")
    keys = ["dialogue", "turn", *(["variant"] if "variant" in frame else [])]
    # Windows and variants of one turn share its number; two clips of different files may not.
    one = frame.assign(turn=turns)[known].drop_duplicates([*keys, "file"])
    twice = one.duplicated(keys)
    if twice.any():
        row = int(one.index[twice][0])
        turn = f"turn {turns.iloc[row]} of dialogue {frame['dialogue'].iloc[row]!r}"
        problem = f"{name}: row {row + 1}: {turn} is there already"
        raise Wav2SmallError(f"{problem}; number each turn once")
    return turns
