"""Decoded clips on disk: the next epoch, the next run and other processes need not decode them.

Each clip is a safetensors file of its own, named by what it was decoded from. (The header of .npy
is Python source, which threads of CPython 3.11 cannot parse at the same time: gh-106905.) What is
read often stays in the system's memory for files, which all processes share and which it takes
back when others need it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
import threading
import time
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from wav2small import places, progress

VERSION = 1  # of decoding: raise it when the same file comes to give other samples
DEFAULT_BYTES = 8 << 30  # 74 hours of 16-bit audio
VARIABLE = "WAV2SMALL_CACHE"
_INT16 = 32768.0  # full scale; samples of 16-bit audio at 16 kHz are kept as integers
_LOOKS = 32  # at the folder, while it is filled: other processes fill it as well


def default_folder() -> Path:
    """Folder of decoded clips: $WAV2SMALL_CACHE, else `wav2small/clips` in the user's cache.

    Example:
        >>> default_folder().is_absolute()
        True
    """
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser().absolute()
    windows = "LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME"
    return Path(os.environ.get(windows) or Path.home() / ".cache") / "wav2small" / "clips"


class Cache:
    """A folder of decoded clips that any number of processes read and fill.

    Args:
        folder: made when something is stored; None = `default_folder()`
        limit: most bytes in it, and at most half of what the disk has free. When it is full, clips
            of other runs make room, those that were not used for longest first; clips of this run
            stay

    Attributes:
        stored: bytes in the folder, as far as is known

    Example:
        >>> cache = Cache("clips", limit=1 << 20)
        >>> cache.store("a clip", np.float32([0.5, 0.25]))
        >>> cache.load("a clip")
        array([0.5 , 0.25], dtype=float32)
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None, limit: int = DEFAULT_BYTES):
        self.folder = Path(folder) if folder else default_folder()
        self.limit = limit
        self.stored = 0
        self._most = limit
        self._room = 0  # bytes that may be written before the next look at the folder
        self._others: list[tuple[float, int, str]] = []  # time, bytes, path: the oldest last
        self._used: set[str] = set()
        self._began = time.time()
        self._lock = threading.Lock()

    def load(self, key: str) -> np.ndarray | None:
        """The clip of a key: float32 (samples,); None = it is not there."""
        path = self._path(key)
        try:
            signal = load_file(path)["samples"]
            if path not in self._used:
                os.utime(path)
        except (OSError, SafetensorError):  # not there, or half written when a machine stopped
            return None
        self._used.add(path)
        if signal.dtype == np.int16:
            return signal.astype(np.float32) * np.float32(1 / _INT16)
        return signal

    def store(self, key: str, signal: np.ndarray) -> None:
        """Keep a clip if there is room; a disk that cannot be written is noted and left alone."""
        with np.errstate(invalid="ignore"):
            integers = (signal * np.float32(_INT16)).astype(np.int16)
        if np.array_equal(integers * np.float32(1 / _INT16), signal):
            signal = integers
        path = self._path(key)
        temporary = f"{path}-{os.getpid()}-{threading.get_ident()}"
        try:
            if not self._has_room(signal.nbytes):
                return
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(temporary, "wb") as file:
                file.write(save({"samples": np.ascontiguousarray(signal)}))
            os.replace(temporary, path)
            self._used.add(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            if self.limit:
                progress.note(
                    f"{self.folder}: {error.strerror or error}; decoded audio is not kept, each "
                    f"epoch decodes it again; name another folder with --cache or {VARIABLE}"
                )
            self.limit = 0

    def _path(self, key: str) -> str:
        text = f"{VERSION}\0{key}".encode(errors="surrogateescape")
        name = hashlib.blake2b(text, digest_size=16).hexdigest()
        return os.path.join(self.folder, name[:2], f"{name[2:]}.safetensors")

    def _has_room(self, size: int) -> bool:
        """Whether so many bytes may be written, after clips of other runs have made room."""
        with self._lock:
            if size > self._room and self.limit:
                self._look()
            while self.stored + size > self._most and self._others:
                _, freed, path = self._others.pop()
                with contextlib.suppress(OSError):
                    os.unlink(path)
                self.stored -= freed
            if not self.limit or self.stored + size > self._most:
                return False
            self.stored += size
            self._room -= size
            return True

    def _look(self) -> None:
        """See what is in the folder now."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        used, found = self._used.copy(), []
        self.stored = 0
        for parent in os.scandir(self.folder):
            for entry in os.scandir(parent.path) if parent.is_dir() else ():
                with contextlib.suppress(OSError):  # another process made room
                    status = entry.stat()
                    self.stored += status.st_size
                    if status.st_mtime < self._began and entry.path not in used:
                        found.append((status.st_mtime, status.st_size, entry.path))
        self._others = sorted(found, reverse=True)
        free = shutil.disk_usage(self.folder).free
        self._most = min(self.limit, (self.stored + free) // 2)
        self._room = max(1, self.limit // _LOOKS)


def key(file: str, *what: object) -> str | None:
    """The key of a clip: of its file as it is now, and of all else it was made with.

    Args:
        file: path or URL
        what: start, end and the like

    Returns:
        None: there is no such file

    Example:
        >>> key("speech.wav", 0.0, 1.5) != key("speech.wav", 0.0, 2.0)
        True
        >>> key("spech.wav") is None
        True
    """
    try:
        if "://" in file:
            import fsspec

            system, path = fsspec.core.url_to_fs(file)
            return repr((file, system.ukey(path), *what))
        status = os.stat(places.spelled(file))
    except Exception:  # every file system has its own; reading the clip says what is wrong
        return None
    return repr((os.path.abspath(file), status.st_size, status.st_mtime_ns, *what))
