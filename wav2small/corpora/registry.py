"""Corpora by name: `index_corpus("iemocap", folder)`, and `iemocap:FOLDER` wherever a source is.

A reader takes the folder of a corpus as it is published and yields one dictionary per clip: `file`
(relative to the folder), and what the corpus knows of `start`, `end` (seconds), `arousal`,
`dominance`, `valence` (0..1), `emotion` (common names), `speaker`, `sex`, `language`, `text`,
`dialogue`, `turn`, `split` (official, lower case), and columns of its own. Some give one row per
clip and `rater` if asked.
"""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path, PureWindowsPath
from pkgutil import resolve_name
from typing import Any, NamedTuple

from wav2small import audio
from wav2small.dimensions import DIMENSIONS
from wav2small.errors import Wav2SmallError

from .layout import OtherLayoutError


class Entry(NamedTuple):
    """A line of `wav2small index`.

    Attributes:
        module: of `wav2small.corpora`, whose `read` reads the folder
        what: the corpus in a few words
        raters: where it has the ratings of every rater; empty = nowhere
    """

    module: str
    what: str
    raters: str = ""


_EVALUATORS, _WORKERS = "lines A-E1 ... of dialog/EmoEvaluation", "Labels/labels_detailed.csv"
CORPORA = {
    "audformat": Entry("audformat", "any audformat database, by its header"),
    "cremad": Entry("cremad", "CREMA-D: intended emotion, votes and levels"),
    "emodb": Entry("emodb", "Emo-DB: seven emotions, German"),
    "hf": Entry("hf", "a Hugging Face dataset on disk with an audio column"),
    "iemocap": Entry("iemocap", "IEMOCAP: dimensions, emotion, dialogues", _EVALUATORS),
    "meld": Entry("meld", "MELD: emotion, sentiment, dialogues"),
    "mosei": Entry("mosi", "CMU-MOSEI: sentiment, as valence"),
    "mosi": Entry("mosi", "CMU-MOSI: sentiment, as valence"),
    "msp-podcast": Entry("msp_podcast", "MSP-Podcast: dimensions, emotion, splits", _WORKERS),
    "ravdess": Entry("ravdess", "RAVDESS: eight emotions, two intensities"),
}
#: Corpora whose tables name their audio, so that it may be in another folder.
_NAME_AUDIO = ("audformat", "hf", "iemocap", "msp-podcast")
_FIRST = ("file", "start", "end", *DIMENSIONS, "emotion", "speaker", "sex", "language", "split")


def named(source: str) -> tuple[str, str] | None:
    """The corpus and the folder that `NAME:FOLDER` names; None = it names none, as a URL.

    Example:
        >>> named("emodb:corpora/emodb")
        ('emodb', 'corpora/emodb')
    """
    name, mark, folder = source.partition(":")
    url = folder.startswith("//")
    return (name.lower(), folder) if mark and not url and name.lower() in CORPORA else None


def read_corpus(
    name: str,
    folder: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    raters: bool = False,
    into: Path | None = None,
) -> tuple[Any, list[tuple[str, str]]]:
    """Read a corpus in its published layout.

    Args:
        name: one of `CORPORA`
        folder: of the corpus
        root: folder of the audio that its tables name; None = `folder`
        raters: one row per clip and rater where the corpus has them, with a column `rater`
        into: folder for audio that lies inside of tables ("hf" only)

    Returns:
        a DataFrame as an index has it, and (file, reason) of clips whose audio is missing

    Raises:
        Wav2SmallError: no such corpus, or another layout; it names the file that is missing

    Example:
        >>> read_corpus("emo-db", "corpora/emodb")
        Traceback (most recent call last):
        wav2small.errors.Wav2SmallError: emo-db: no corpus of that name; did you mean emodb? ...
    """
    import pandas as pd

    if name.lower() not in CORPORA:
        near = difflib.get_close_matches(name.lower(), CORPORA, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        remedy = f"{hint}known: {', '.join(CORPORA)}; else write a CSV with a column `file`"
        raise Wav2SmallError(f"{name}: no corpus of that name; {remedy}")
    for place in (folder, *([] if root is None else [root])):
        if not Path(place).is_dir():
            raise Wav2SmallError(f"{place}: no such folder; name the folder of {name}")
    movable = name.lower() in _NAME_AUDIO
    if root is not None and not movable:
        remedy = "name a folder that holds both"
        raise Wav2SmallError(f"--root {root}: the tables of {name} do not name its audio; {remedy}")
    entry = CORPORA[name.lower()]
    reader = resolve_name(f"wav2small.corpora.{entry.module}:read")
    options: dict[str, Any] = {"raters": True} if raters and entry.raters else {}
    options |= {} if into is None else {"into": into}
    rows = _read(reader, Path(folder), options)
    base = Path(folder if root is None else root)
    known = {file: _find(base, file, root is not None) for file in {row["file"]: 0 for row in rows}}
    taken = Counter(known.values())
    there, missing = [], {}
    for row in rows:
        file, found = row["file"], known[row["file"]]
        if found and (file == found or taken[found] == 1):
            there.append({**row, "file": found})
        else:
            reason = f"no such file; {name} lists it"
            if found:
                reason = f"{base / found} may be it, but {name} lists several of which it may be"
            missing[file] = f"{base / file}: {reason}"
    if not there:
        example = next(iter(missing), "audio")
        hint = "; if the audio is in another folder, name that as --root" if movable else ""
        raise Wav2SmallError(
            f"{base}: no {example}, nor any other clip of {name}; is it complete?{hint}"
        )
    frame = pd.DataFrame(there)
    for column, default in (("start", 0.0), ("end", None)):
        values = frame[column] if column in frame else pd.Series(default, index=frame.index)
        times = pd.to_timedelta(values.astype("float64"), unit="s")
        frame[column] = times.astype("timedelta64[ns]")
    columns = [name for name in _FIRST if name in frame]
    return frame[columns + [name for name in frame if name not in columns]], list(missing.items())


def _read(
    reader: Callable[..., Iterator[dict[str, Any]]], root: Path, options: dict[str, Any]
) -> list[dict[str, Any]]:
    """Rows of a corpus that is in a folder, or in a folder of it, such as an archive unpacks to."""
    try:
        return list(reader(root, **options))
    except OtherLayoutError:
        folders = [path for depth in ("*", "*/*") for path in sorted(root.glob(depth))]
        for inner in (path for path in folders if path.is_dir() and not path.name.startswith(".")):
            try:
                rows = list(reader(inner, **options))
            except OtherLayoutError:
                continue
            below = inner.relative_to(root)
            return [{**row, "file": (below / row["file"]).as_posix()} for row in rows]
        raise


def _find(root: Path, file: str, elsewhere: bool) -> str | None:
    """A file as it is named, or with a suffix of other letters or another format.

    Of a path of another machine, or to another folder, the longest end that is there counts.
    """
    path = Path(file if "/" in file else file.replace("\\", "/"))
    absolute = path.is_absolute() or PureWindowsPath(path).is_absolute()
    for start in range(len(path.parts) if elsewhere or absolute else 1):
        end = Path(*path.parts[start:])
        for suffix in (end.suffix, *sorted(audio.EXTENSIONS)):
            for other in (suffix, suffix.upper()):
                if (root / end.with_suffix(other)).is_file():
                    return end.with_suffix(other).as_posix()
    return None


def index_corpus(
    name: str,
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    root: str | None = None,
    raters: bool = False,
) -> tuple[int, list[tuple[str, str]]]:
    """Write the index of a corpus: CSV or parquet, files relative to where it lies.

    Args:
        name: one of `CORPORA`
        folder: of the corpus
        output: `.csv` or `.parquet`
        root: folder of the audio that its tables name, if it is another one
        raters: one row per clip and rater, where the corpus has them

    Returns:
        number of rows, and (file, reason) of those whose audio is missing

    Raises:
        Wav2SmallError: as `read_corpus`; `output` is neither CSV nor parquet; or no raters
    """
    from wav2small.files import atomic

    target = os.fspath(output)
    if not target.lower().endswith((".csv", ".parquet")):
        raise Wav2SmallError(f"-o {target}: an index is CSV or parquet; name it {target}.csv")
    into = Path(target + ".audio") if name.lower() == "hf" else None
    frame, missing = read_corpus(name, folder, root=root, raters=raters, into=into)
    if raters and not ("rater" in frame and frame["rater"].astype(bool).any()):
        where = CORPORA[name.lower()].raters or "the corpus does not publish them"
        raise Wav2SmallError(f"{folder}: no ratings of single raters ({where}); omit --raters")
    here, there = os.path.dirname(os.path.abspath(target)), os.path.abspath(root or folder)
    frame["file"] = [os.path.relpath(os.path.join(there, file), here) for file in frame["file"]]
    with atomic(target) as temporary:
        if target.lower().endswith(".csv"):
            for column in ("start", "end"):
                frame[column] = frame[column].dt.total_seconds()
            frame.to_csv(temporary, index=False)
        else:
            frame.to_parquet(temporary, index=False)
    return len(frame), missing
