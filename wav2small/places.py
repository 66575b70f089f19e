"""Where a file is: names of a table below their root, other spellings of a name, URLs."""

from __future__ import annotations

import atexit
import functools
import itertools
import os
import shutil
import tempfile
import threading
import unicodedata
from collections.abc import Callable
from pathlib import Path

from wav2small.errors import AudioError, missing_package

_NAMES = 2000  # of a folder; in larger ones only names with the same stem are suggested
_COPIES = 4  # local copies that are kept at a time


def join(root: str, file: str) -> str:
    """The place of a file that a table names.

    Args:
        root: folder or URL that names are relative to
        file: relative or absolute path, `~/...`, `file://...` or another URL

    Example:
        >>> join("audio", "a.wav").replace(os.sep, "/"), join("audio", "file:///tmp/a%20b.wav")
        ('audio/a.wav', '/tmp/a b.wav')
    """
    named = expanded(file)
    return named if "://" in named else os.path.join(root, named)


def expanded(name: str) -> str:
    """A name without `~` and `file://`.

    Example:
        >>> expanded("s3://bucket/a.wav")
        's3://bucket/a.wav'
    """
    if name.startswith("file://"):
        from urllib.parse import urlparse
        from urllib.request import url2pathname  # loads much

        return url2pathname(urlparse(name).path)
    return os.path.expanduser(name) if name.startswith(("~/", "~\\")) else name


def spelled(path: str) -> str:
    """A path as the file system spells it: composed and decomposed letters are the same.

    Example:
        >>> spelled("no such file")
        'no such file'
    """
    if path.isascii() or os.path.exists(path):
        return path
    for form in ("NFC", "NFD"):
        other = unicodedata.normalize(form, path)
        if os.path.exists(other):
            return other
    parent, name = os.path.split(path)
    parent = spelled(parent) if parent and not os.path.exists(parent) else parent
    wanted = unicodedata.normalize("NFC", name)
    for own in _names(parent or "."):
        if unicodedata.normalize("NFC", own) == wanted:
            return os.path.join(parent, own)
    return path


def nearest(path: str) -> str:
    """A question about the existing name that was probably meant, "" if there is none.

    Example:
        >>> nearest("spech.wav")
        '; did you mean speech.wav?'
    """
    slashed = path.replace("\\", "/")
    if slashed != path and os.path.exists(slashed):
        return f"; did you mean {slashed}?"
    parent, name = os.path.split(slashed)
    while slashed != path and parent and not os.path.isdir(parent):  # C:\\data of another machine
        parent = os.path.dirname(parent)
    names = [own for own in _names(parent or ".") if os.path.join(parent, own) != path]
    stem = os.path.splitext(name)[0].casefold()
    same = [own for own in names if os.path.splitext(own)[0].casefold() == stem]
    if not same and len(names) <= _NAMES:
        import difflib

        same = difflib.get_close_matches(name, names, n=1, cutoff=0.75)
    return f"; did you mean {os.path.join(parent, same[0])}?" if same else ""


@functools.lru_cache(maxsize=4)
def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (OSError, ValueError):
        return []


def local(name: str) -> str:
    """A path on this machine for a path or an URL, which is fetched with fsspec.

    Raises:
        AudioError: the URL cannot be read
        MissingPackageError: fsspec is not installed
    """
    name = expanded(name)
    return copied(name, _fetch) if "://" in name else spelled(name)


def _fetch(url: str, target: str) -> None:
    try:
        import fsspec
    except ModuleNotFoundError as error:
        raise missing_package(error) from error
    try:
        with fsspec.open(url, "rb") as source, open(target, "wb") as file:
            shutil.copyfileobj(source, file)
    except ImportError as error:  # of a file system: aiohttp, s3fs, gcsfs ...
        raise AudioError(f"{url}: {error}; install it, or download the file") from error
    except Exception as error:  # every file system has its own
        raise AudioError(f"{url}: cannot be fetched ({type(error).__name__}: {error})") from error


_copies: dict[str, str] = {}
_numbers = itertools.count()
_lock = threading.Lock()


def copied(name: str, make: Callable[[str, str], None]) -> str:
    """The file that `make(name, file)` writes.

    The last four are kept, and one more per thread, while the process lives.
    """
    folder = _folder(os.getpid())
    with _lock:
        if name in _copies:
            _copies[name] = _copies.pop(name)  # the latest is the last
            return _copies[name]
    last = os.path.basename(name).replace(os.sep, "_")[-100:]
    target = os.path.join(folder, f"{next(_numbers)}-{last}")
    try:
        make(name, target)
    except BaseException:
        Path(target).unlink(missing_ok=True)
        raise
    with _lock:
        while len(_copies) >= _COPIES + threading.active_count():
            Path(_copies.pop(next(iter(_copies)))).unlink(missing_ok=True)
        _copies[name] = target
    return target


@functools.lru_cache(maxsize=1)
def _folder(process: int) -> str:
    """A temporary folder of this process; one that was forked makes its own."""
    _copies.clear()
    folder = tempfile.mkdtemp(prefix="wav2small-")

    def remove() -> None:
        if os.getpid() == process:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder
