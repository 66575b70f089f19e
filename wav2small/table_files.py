"""Tables on disk as data frames: CSV, JSON lines, Feather and parquet."""

from __future__ import annotations

import csv
import os
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from wav2small.errors import Wav2SmallError, missing_package

from . import transcripts
from .session import first_line

if TYPE_CHECKING:
    import pandas as pd

_PACKED = ("", ".gz", ".bz2", ".xz", ".zst")
CSV = tuple(kind + packed for kind in (".csv", ".tsv") for packed in _PACKED)
JSON_LINES = tuple(kind + packed for kind in (".jsonl", ".ndjson") for packed in _PACKED)
FEATHER = (".feather", ".arrow", ".ipc")
PARQUET = (".parquet", ".pq")
#: Tables that are not read, but named as what they are.
OTHERS = (".xlsx", ".xls", ".ods", ".json", ".pkl", ".pickle", ".npy", ".npz", ".h5", ".hdf5",
          ".sqlite", ".db", ".mat", ".sav", ".txt", ".lst", ".zip")  # fmt: skip
EXTENSIONS = (*CSV, *JSON_LINES, *FEATHER, *PARQUET, *OTHERS)


def read(name: str) -> tuple[pd.DataFrame, Mapping[bytes, bytes]]:
    """A table and its key-value metadata.

    Args:
        name: path, folder of parquet files, or URL

    Raises:
        MissingPackageError: pandas or pyarrow is not installed
        Wav2SmallError: no such table, or it cannot be read

    Example:
        >>> list(read("ratings.csv")[0])
        ['file', 'arousal', 'dominance', 'valence']
    """
    try:
        import pandas as pd
        import pyarrow  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing_package(error) from error
    ending = ending_of(name)
    if ending.endswith(OTHERS):
        remedy = "write it as CSV or parquet, with a column `file`"
        raise Wav2SmallError(f"{name}: a table in a format that is not read; {remedy}")
    try:
        if ending.endswith(CSV):
            return read_csv(name, dict.fromkeys(transcripts.VERBATIM, str)), {}
        if ending.endswith(JSON_LINES):
            return pd.read_json(name, lines=True, dtype=False), {}
        table = _arrow(name)
        table.validate(full=True)  # or texts that are not UTF-8 fail later
        frame = table.to_pandas()
    except Wav2SmallError:
        raise
    except FileNotFoundError as error:
        raise Wav2SmallError(f"{name}: no such table; correct the path") from error
    except IsADirectoryError as error:
        raise Wav2SmallError(f"{name}: a folder, not a table; name the table in it") from error
    except ImportError as error:  # of a file system: aiohttp, s3fs, gcsfs ...
        raise Wav2SmallError(f"{name}: {error}; install it, or download the table") from error
    except PermissionError as error:
        raise Wav2SmallError(f"{name}: no permission to read it; try chmod +r") from error
    except UnicodeDecodeError as error:
        problem = f"not in UTF-8 (byte {error.start} is {error.object[error.start]:#04x}; Latin-1?)"
        remedy = "convert it: iconv -f WINDOWS-1252 -t UTF-8"
        raise Wav2SmallError(f"{name}: {problem}; {remedy}") from error
    except Exception as error:  # of the decoder of a packed file or of a file system, too
        if "://" in name and not isinstance(error, ValueError):
            raise Wav2SmallError(f"{name}: cannot be fetched ({first_line(error)})") from error
        kinds = {"CSV": CSV, "JSON lines": JSON_LINES, "Feather": FEATHER}
        kind = next((kind for kind, ends in kinds.items() if ending.endswith(ends)), "parquet")
        problem = f"not a {kind} table, or damaged ({first_line(error)})"
        raise Wav2SmallError(f"{name}: {problem}; write it again") from error
    metadata = table.schema.metadata or {}
    if any(level is not None for level in frame.index.names):  # audformat's index, for one
        levels = [level for level in frame.index.names if level not in frame.columns]
        frame = frame.reset_index(level=levels) if levels else frame
    return frame.reset_index(drop=True), metadata


def ending_of(name: str) -> str:
    """A name in small letters; of a URL without what follows a question mark.

    Example:
        >>> ending_of("https://host/List.CSV?signature=x")
        'https://host/list.csv'
    """
    return name.lower().partition("?")[0] if "://" in name else name.lower()


def _arrow(name: str) -> Any:
    import pyarrow.feather as feather
    import pyarrow.parquet as pq

    read_file = feather.read_table if ending_of(name).endswith(FEATHER) else pq.read_table
    if "://" in name:
        import fsspec

        with fsspec.open(name, "rb") as file:
            return read_file(file)
    if os.path.isdir(name):
        return pq.read_table(name)
    if read_file is feather.read_table:
        return read_file(name)
    return pq.ParquetFile(name).read()


def read_csv(name: str, converters: dict[Any, Any]) -> pd.DataFrame:
    """A CSV table; the separator is the one of its header, blanks around names do not count."""
    import pandas as pd

    coding: dict[str, Any] = {"encoding": _encoding(name), "skiprows": 0}
    header = pd.read_csv(name, nrows=0, sep="\x01", index_col=False, dtype=str, **coding).columns
    line = str(header[0]) if len(header) else ""
    separator = max("\t,;|" if ".tsv" in name.lower() else ",;\t|", key=line.count)
    if line[:4].lower() == "sep=" and len(line) == 5:  # a line of Excel before the header
        separator, coding["skiprows"] = line[4], 1
    found = pd.read_csv(name, nrows=0, sep=separator, **coding).columns
    names = [column.strip() for column in found]
    kinds = {column: str for column in ("file", "speaker", "start", "end") if column in names}
    for column in kinds:
        if f"{column}.1" in names:  # as pandas calls the second
            raise Wav2SmallError(f"{name}: two columns `{column}`; leave one, or rename it")
    # Trailing separators must not shift the columns.
    options: dict[str, Any] = {"sep": separator, "header": 0, "names": names, "index_col": False}
    options |= coding
    verbatim = {key: value for key, value in converters.items() if key in names}
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            frame = pd.read_csv(name, dtype=kinds, converters=verbatim, **options)
        except (pd.errors.ParserError, pd.errors.ParserWarning):
            _check_lengths(name, separator, names, coding)
            warnings.simplefilter("ignore", pd.errors.ParserWarning)
            frame = pd.read_csv(name, dtype=kinds, converters=verbatim, **options)
    filled = (frame.notna() & (frame != "")).any(axis=1).to_numpy()
    if filled.any():  # spreadsheets write empty rows at the end
        frame = frame.iloc[: len(filled) - filled[::-1].argmax()]
    if separator == ";":  # decimal commas
        for column in frame.columns.difference(["file", "speaker", *verbatim]):
            if not pd.api.types.is_numeric_dtype(frame[column]):
                points = frame[column].astype(str).str.replace(",", ".", regex=False)
                points = points.where(frame[column].notna())
                numbers = pd.to_numeric(points, errors="coerce")
                if column in kinds or numbers.notna().equals(points.notna()):
                    frame[column] = points if column in kinds else numbers
    # "01" is a name, not a number; "NA" in a text is a country, for one.
    filled = frame.columns[frame.notna().any()]
    numbers = [column for column in filled if pd.api.types.is_numeric_dtype(frame[column])]
    gaps = [column for column in frame.columns[frame.isna().any()] if column not in kinds]
    if columns := [column for column in frame if column in {*numbers, *gaps}]:
        options["keep_default_na"] = False
        texts = pd.read_csv(name, dtype=str, usecols=columns, **options)[: len(frame)]
        for column in columns:
            if column not in numbers or texts[column].str.match(r"\s*0\d+\s*$").any():
                frame[column] = texts[column].where(texts[column] != "")
    return frame


def _check_lengths(name: str, separator: str, names: list[str], coding: dict[str, Any]) -> None:
    """Reject a row with more values than there are columns: a decimal comma moves all after it."""
    import pandas as pd

    whole: dict[str, Any] = {"sep": "\x01", "quoting": csv.QUOTE_NONE, "index_col": False, **coding}
    lines = pd.read_csv(name, header=None, names=["line"], dtype=str, **whole)["line"]
    rows = csv.reader((f"{line}\n" for line in lines), delimiter=separator)
    for number, row in enumerate(rows):
        if number and any(value.strip() for value in row[len(names) :]):
            raise Wav2SmallError(
                f"{name}: row {number} has more values than the header has names "
                f"({', '.join(names[:8])}); write decimal commas as points or in quotes, or "
                "separate by semicolons"
            )


def _encoding(name: str) -> str:
    """UTF-16 where a CSV begins with its mark, as spreadsheets write "Unicode text"."""
    if "://" in name or not name.lower().endswith((".csv", ".tsv")):
        return "utf-8"
    with open(name, "rb") as file:
        start = file.read(64)
    if start[:2] in (b"\xff\xfe", b"\xfe\xff") and start[2:4] != b"\0\0":
        return "utf-16"
    if b"\0" in start:
        remedy = "write it as CSV in UTF-8, or convert it: iconv -f UTF-16LE -t UTF-8"
        raise Wav2SmallError(f"{name}: not a text in UTF-8, nor in UTF-16 with its mark; {remedy}")
    return "utf-8"
