"""Files that are complete or absent: atomic writes, hashes, and a lock per output."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from wav2small import progress
from wav2small.errors import Wav2SmallError


def special(path: str | os.PathLike[str]) -> bool:
    """Whether a path names what is there and is no regular file: a pipe, a device, a terminal.

    Raises:
        Wav2SmallError: it is a folder

    Example:
        >>> special(os.devnull), special("a-file-that-is-not-there")
        (True, False)
    """
    try:
        mode = os.stat(path).st_mode  # of what a link points to
    except OSError:
        return False
    if stat.S_ISDIR(mode):
        raise Wav2SmallError(f"{path}: a folder; name a file in it")
    return not stat.S_ISREG(mode)


@contextlib.contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path next to `path` that takes its place when the block ends well.

    The data is on disk before the name changes, so that a crash or a full disk leaves either
    the old file or the new one, never half of it. A link stays a link: the file it points to is
    replaced. A pipe or a device stays what it is: the data is written into it.

    Raises:
        Wav2SmallError: the folder cannot be written, or `path` is a folder

    Example:
        >>> with atomic("note.txt") as temporary:
        ...     _ = temporary.write_text("all of it")
        >>> Path("note.txt").read_text()
        'all of it'
    """
    into = special(path)
    path = Path(path) if into else Path(os.path.realpath(path))
    folder = tempfile.gettempdir() if into else path.parent
    try:
        os.makedirs(folder, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=folder)
    except OSError as error:
        raise Wav2SmallError(f"cannot write {path}: {error.strerror}; choose another -o") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        if into:
            with open(temporary, "rb") as source, open(path, "wb") as target:
                shutil.copyfileobj(source, target)
            return
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        # mkstemp makes files private; a result gets the permissions any new file would have.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Parse a file that holds a JSON object.

    Raises:
        Wav2SmallError: not there, damaged, or something else than an object
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise Wav2SmallError(f"{path}: not JSON ({error}); copy it again") from error
    if not isinstance(content, dict):
        raise Wav2SmallError(f"{path}: not a JSON object; copy it again")
    return content


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write a JSON file, atomically.

    Example:
        >>> write_json("settings.json", {"epochs": 3})
        >>> read_json("settings.json")
        {'epochs': 3}
    """
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hexadecimal.

    Example:
        >>> _ = Path("empty").write_bytes(b"")
        >>> sha256("empty")[:8]
        'e3b0c442'
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class Lock:
    """Keeps a second run away from an output: `with Lock(path): ...`.

    The operating system drops the lock when the process ends, however it ends.

    Args:
        path: the lock file; it is created

    Raises:
        Wav2SmallError: another process holds it

    Example:
        >>> folder = tempfile.mkdtemp()
        >>> with Lock(os.path.join(folder, ".lock")):
        ...     pass
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)

    def __enter__(self) -> Lock:
        import filelock

        self._lock = filelock.FileLock(self.path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except filelock.Timeout as error:  # an OSError, too
            raise Wav2SmallError(
                f"another run is writing here ({self.path}): wait for it, or choose another -o"
            ) from error
        except OSError as error:
            raise Wav2SmallError(
                f"cannot write {self.path}: {error.strerror}; choose another -o"
            ) from error
        return self

    def __exit__(self, *exception: object) -> None:
        self._lock.release()


class Journal:
    """What a run has done so far, one JSON line each, so that the same call resumes from it.

    Args:
        path: of the journal, `OUTPUT.part`; None = nothing is kept
        settings: JSON values that must be the same to resume

    Attributes:
        done: key -> what was added under it, by this run and by the one it resumes

    Raises:
        Wav2SmallError: another run writes it, or it cannot be written

    Example:
        >>> with Journal("out.csv.part", {"seed": 0}) as journal:
        ...     journal.add("a.wav", 0.5)
        >>> with Journal("out.csv.part", {"seed": 0}) as journal:
        ...     journal.done
        {'a.wav': 0.5}
    """

    def __init__(self, path: str | os.PathLike[str] | None, settings: Any):
        self.path = None if path is None else Path(path)
        self.done: dict[str, Any] = {}
        self._settings = json.loads(json.dumps(settings))
        self._stack = contextlib.ExitStack()
        self._file: IO[str] | None = None

    def __enter__(self) -> Journal:
        if self.path is None:
            return self
        lock = self.path.with_name(f".{self.path.name.removesuffix('.part')}.lock")
        self._stack.enter_context(Lock(lock))
        self.done = dict(self._read(self.path))
        try:
            self._file = self._stack.enter_context(open(self.path, "w", encoding="utf-8"))
        except OSError as error:
            raise Wav2SmallError(
                f"cannot write {self.path}: {error.strerror}; choose another -o"
            ) from error
        for entry in [self._settings, *self.done.items()]:
            self._file.write(json.dumps(entry) + "\n")
        self._file.flush()
        if self.done:
            progress.note(f"resuming from {self.path}: {len(self.done)} clips are done")
        return self

    def _read(self, path: Path) -> Iterator[Any]:
        if not path.exists():
            return
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file):
                try:
                    entry = json.loads(line)
                except json.JSONDecodeError:
                    return  # the line that was being written when the run stopped
                if number:
                    yield entry
                elif entry != self._settings:
                    progress.note(f"{path} is of another model or other options: starting anew")
                    return

    def add(self, key: str, value: Any) -> None:
        """Keep a JSON value; what is there already stays."""
        if key in self.done:
            return
        self.done[key] = value
        if self._file is not None:
            self._file.write(json.dumps([key, value]) + "\n")
            self._file.flush()

    def remove(self) -> None:
        """Delete the file: the run is complete."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def __exit__(self, *exception: object) -> None:
        self._stack.close()
