"""Folders that a run writes to: on this machine, or behind any fsspec URL such as s3://.

A file appears completely or not at all in both: here by renaming, there because an object is stored
when its upload ends.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from wav2small import files
from wav2small.errors import Wav2SmallError


def split(path: str | os.PathLike[str]) -> tuple[Folder, str]:
    """The folder of a file, and its name."""
    name = os.fspath(path)
    if "://" in name:
        parent, _, last = name.rpartition("/")
        return Folder(parent), last
    return Folder(os.path.dirname(name) or "."), os.path.basename(name)


class Folder:
    """A folder, by its path or its URL."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = os.fspath(path)
        self._system: Any = None
        if "://" in self.path:
            import fsspec

            try:
                self._system, self._root = fsspec.core.url_to_fs(self.path)
            except (ImportError, ValueError) as error:
                raise Wav2SmallError(f"{self.path}: {error}") from error

    @property
    def is_remote(self) -> bool:
        return self._system is not None

    def __truediv__(self, name: str) -> Folder:
        return Folder(self.shown(name))

    def shown(self, name: str) -> str:
        """Path of a file in it, as a user would write it."""
        return f"{self.path}/{name}" if self.is_remote else os.path.join(self.path, name)

    def exists(self, name: str = "") -> bool:
        """Whether a file, or the folder itself, is there."""
        if self.is_remote:
            self._system.invalidate_cache()
            return bool(self._system.exists(f"{self._root}/{name}".rstrip("/")))
        return os.path.exists(os.path.join(self.path, name))

    def names(self, prefix: str) -> list[str]:
        """Names of its files that begin so, sorted."""
        if self.is_remote:
            self._system.invalidate_cache()
            try:
                entries = self._system.ls(self._root, detail=False)
            except FileNotFoundError:
                return []
        else:
            entries = os.listdir(self.path) if os.path.isdir(self.path) else []
        names = (entry.rstrip("/").rpartition("/")[2] for entry in entries)
        return sorted(name for name in names if name.startswith(prefix))

    def open(self, name: str) -> IO[bytes]:
        """A file for reading bytes."""
        if self.is_remote:
            return self._system.open(f"{self._root}/{name}", "rb")
        return open(os.path.join(self.path, name), "rb")

    def write(self, name: str, fill: Callable[[Path], object]) -> None:
        """Write a file completely or not at all.

        Args:
            name: of the file
            fill: writes to the path it is given

        Raises:
            Wav2SmallError: the disk is full, or the place cannot be written
        """
        try:
            if not self.is_remote:
                with files.atomic(os.path.join(self.path, name)) as temporary:
                    fill(temporary)
                return
            with tempfile.TemporaryDirectory() as place:
                temporary = Path(place) / name
                fill(temporary)
                self._system.put_file(str(temporary), f"{self._root}/{name}")
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error).partition("\n")[0]
            remedy = "make room and run the same command again"
            raise Wav2SmallError(f"cannot write {self.shown(name)}: {reason}; {remedy}") from error

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            if self.is_remote:
                self._system.rm_file(f"{self._root}/{name}")
            else:
                os.unlink(os.path.join(self.path, name))

    def remove_all(self) -> None:
        """Remove the folder and what is in it."""
        if not self.is_remote:
            shutil.rmtree(self.path, ignore_errors=True)
            return
        with contextlib.suppress(FileNotFoundError):
            self._system.rm(self._root, recursive=True)
