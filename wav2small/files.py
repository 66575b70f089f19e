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

    An open file of this process (`/dev/stdout`, `/dev/fd/3`) is one, wherever it leads: a log
    that it was directed into must not be replaced.

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
    return not stat.S_ISREG(mode) or _descriptor(path) is not None


def _descriptor(path: str | os.PathLike[str]) -> int | None:
    """The number of the open file of this process that a path leads to, link by link."""
    path, own = os.fspath(path), os.path.realpath("/proc/self/fd")
    with contextlib.suppress(OSError):  # it is no link
        for _ in range(40):  # links, as Linux follows at most
            folder, name = os.path.split(os.path.abspath(path))
            folder = os.path.realpath(folder)
            if folder == own:
                return int(name) if name.isdigit() else None
            path = os.path.join(folder, os.readlink(os.path.join(folder, name)))
    return None


def open_special(path: str | os.PathLike[str]) -> IO[bytes]:
    """Open what `special` names for writing; what an open file holds already stays.

    Example:
        >>> with open_special(os.devnull) as file:
        ...     file.write(b"rows")
        4
    """
    number = _descriptor(path)
    return open(path, "wb") if number is None else os.fdopen(os.dup(number), "wb")


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
        raise _unwritable(path, error) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        if into:
            with open(temporary, "rb") as source, open_special(path) as target:
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


def _unwritable(path: Path, error: OSError) -> Wav2SmallError:
    return Wav2SmallError(f"cannot write {path}: {error.strerror}; choose another -o")


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
        path: the lock file; it is created, and removed at the end

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
        # Without the system's locks a file that is there is a lock that is held.
        soft = isinstance(self._lock, filelock.SoftFileLock)
        self._made_folder = not self.path.parent.exists()
        vanished = 0
        while True:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                if not soft:
                    self.path.touch()
                number = 0 if soft else self.path.stat().st_ino
                self._lock.acquire(timeout=0)
                if soft or self.path.stat().st_ino == number:
                    return self
            except FileNotFoundError as error:
                vanished += 1  # another run, which is ready, has removed it
                if vanished == 100:  # no: a place such as /proc, where nothing can be made
                    raise Wav2SmallError(f"cannot write {self.path}; choose another -o") from error
            except filelock.Timeout as error:  # an OSError, too
                raise Wav2SmallError(
                    f"another run is writing here ({self.path}): wait for it, or choose another -o"
                ) from error
            except OSError as error:
                raise _unwritable(self.path, error) from error
            self._lock.release()  # of a file that is no longer there

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(OSError):  # Windows removes it with the lock
            self.path.unlink()
        self._lock.release()
        if self._made_folder:
            with contextlib.suppress(OSError):  # it is not empty
                self.path.parent.rmdir()


class Journal:
    """What a run has done so far, one JSON line each, so that the same call resumes from it.

    The values stay on disk; memory holds where each one is.

    Args:
        path: of the journal, `OUTPUT.part`; None = nothing is kept
        settings: JSON values that must be the same to resume

    Raises:
        Wav2SmallError: another run writes it, or it cannot be written

    Example:
        >>> with Journal("out.csv.part", {"seed": 0}) as journal:
        ...     _ = journal.add("a.wav", 0.5)
        >>> with Journal("out.csv.part", {"seed": 0}) as journal:
        ...     journal.find("a.wav"), journal.find("b.wav")
        ((12, 0.5), None)
    """

    def __init__(self, path: str | os.PathLike[str] | None, settings: Any):
        self.path = None if path is None else Path(path)
        self._settings = json.loads(json.dumps(settings))
        self._stack = contextlib.ExitStack()
        self._file: IO[bytes] | None = None
        self._places: dict[bytes, int] = {}  # digest of the key -> place, of earlier runs

    def __enter__(self) -> Journal:
        if self.path is None:
            return self
        lock = self.path.with_name(f".{self.path.name.removesuffix('.part')}.lock")
        self._stack.enter_context(Lock(lock))
        try:
            self._file = self._stack.enter_context(open(self.path, "a+b"))
        except OSError as error:
            raise _unwritable(self.path, error) from error
        self._file.truncate(self._scan(self._file))
        if not self._places:
            self._file.truncate(0)
            self._write(self._settings)
        else:
            progress.note(f"resuming from {self.path}: {len(self._places)} clips or parts are done")
        return self

    def _scan(self, file: IO[bytes]) -> int:
        """Find what is there; the end of what can be kept."""
        end = 0
        file.seek(0)
        for line in file:
            try:  # the last line was being written when the run stopped
                entry = json.loads(line if line.endswith(b"\n") else b"")
            except ValueError:
                break
            if end:
                self._places[_digest(entry[0])] = end
            elif entry != self._settings:
                progress.note(f"{self.path} is of another model or other options: starting anew")
                break
            end += len(line)
        return end

    def _write(self, entry: Any) -> int:
        assert self._file is not None
        place = self._file.seek(0, os.SEEK_END)
        self._file.write(json.dumps(entry).encode() + b"\n")
        self._file.flush()
        return place

    def find(self, key: str) -> tuple[int, Any] | None:
        """Place and value of what an earlier run added under a key, None = nothing."""
        place = self._places.get(_digest(key))
        return None if place is None else (place, self.read(place))

    def read(self, place: int) -> Any:
        """The value at a place."""
        return self._entry(place)[1]

    def _entry(self, place: int) -> tuple[str, Any]:
        assert self._file is not None
        self._file.seek(place)
        return tuple(json.loads(self._file.readline()))

    def values(self) -> Iterator[tuple[str, Any]]:
        """Keys and values of earlier runs."""
        return (self._entry(place) for place in self._places.values())

    def add(self, key: str, value: Any) -> int:
        """Keep a JSON value; its place in the file, -1 = nothing is kept."""
        return -1 if self._file is None else self._write([key, value])

    def remove(self) -> None:
        """Delete the file: the run is complete."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def __exit__(self, *exception: object) -> None:
        self._stack.close()


def _digest(key: str) -> bytes:
    return hashlib.blake2b(key.encode(errors="surrogatepass"), digest_size=12).digest()
