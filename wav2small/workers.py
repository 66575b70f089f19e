"""Worker processes that survive a crash of one of them, and end when their parent does.

Why not `concurrent.futures`: its workers import the caller's main script again, one that dies
(a decoder that crashes on a broken file, a system short of memory) takes the pool with
it, and orphans can outlive a parent that was killed. Here each worker talks over one pipe of its
own: a pipe that ends means the other side is gone.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe, wait
from pkgutil import resolve_name
from typing import Any

from wav2small.errors import Wav2SmallError
from wav2small.progress import plain_warnings

#: Maths libraries start one thread per core in every process unless a variable limits them.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
_AHEAD = 2  # tasks per worker: one at work, one waiting, so that no worker idles
_MOST_DEATHS = 10  # in a row, before it is the machine's fault and not a file's


class Died:
    """The outcome of a task whose worker ended before it answered."""


def start(count: int, build: str, *arguments: Any) -> Pool | Inline:
    """A pool of worker processes, or one without processes: for 0, and where there is no POSIX.

    Args:
        count: number of processes
        build: "package.module:function" that makes the worker's function
        arguments: of `build`
    """
    if count and os.name == "posix":
        return Pool(count, build, *arguments)
    return Inline(_function(build, arguments))


def _function(build: str, arguments: tuple[Any, ...]) -> Callable[[Any], Any]:
    return resolve_name(build)(*arguments)


class Inline:
    """A pool without processes: a task is done by the function when its answer is received."""

    count = 0

    def __init__(self, function: Callable[[Any], Any]):
        self._function = function
        self._tasks: deque[Any] = deque()

    def __enter__(self) -> Inline:
        return self

    def __exit__(self, *exception: object) -> None:
        self._tasks.clear()

    @property
    def free(self) -> bool:
        return not self._tasks

    @property
    def busy(self) -> int:
        return len(self._tasks)

    def submit(self, task: Any) -> None:
        self._tasks.append(task)

    def ready(self) -> bool:
        return bool(self._tasks)

    def receive(self, *, one: bool = False) -> list[tuple[Any, Any]]:
        task = self._tasks.popleft()
        return [(task, self._function(task))]


class Pool:
    """Workers that each build a function once and call it for every task; arguments as `start`.

    Use as a context manager; `submit` while `free`, then `receive`.
    """

    def __init__(self, count: int, build: str, *arguments: Any):
        self._setup = (build, arguments)
        self.count = count
        self._workers: dict[Connection, tuple[subprocess.Popen, deque[Any]]] = {}
        self._deaths = 0

    def __enter__(self) -> Pool:
        self._temporary = tempfile.mkdtemp(prefix="wav2small-")
        for _ in range(self.count):
            self._start()
        return self

    def __exit__(self, *exception: object) -> None:
        workers, self._workers = self._workers, {}
        for connection in workers:
            connection.close()
        for process, _ in workers.values():
            process.terminate()
        for process, _ in workers.values():
            process.wait()
        shutil.rmtree(self._temporary, ignore_errors=True)

    @property
    def free(self) -> bool:
        """Whether a worker can take one more task."""
        return any(len(tasks) < _AHEAD for _, tasks in self._workers.values())

    @property
    def busy(self) -> int:
        """Number of tasks handed out and not answered."""
        return sum(len(tasks) for _, tasks in self._workers.values())

    def submit(self, task: Any) -> None:
        """Hand a task to the worker with the fewest."""
        connection = min(self._workers, key=lambda key: len(self._workers[key][1]))
        self._workers[connection][1].append(task)
        with contextlib.suppress(OSError):  # it died; `receive` finds out
            connection.send(task)

    def ready(self) -> bool:
        """Whether `receive` would return at once."""
        return bool(wait([c for c, (_, tasks) in self._workers.items() if tasks], timeout=0))

    def receive(self, *, one: bool = False) -> list[tuple[Any, Any]]:
        """Wait for answers: (task, result); the result is `Died` if the worker ended.

        Args:
            one: take the answer of one worker, not of all that have one: large answers take time

        Raises:
            Wav2SmallError: the worker's function cannot work at all
        """
        answers: list[tuple[Any, Any]] = []
        busy = [connection for connection, (_, tasks) in self._workers.items() if tasks]
        for connection in wait(busy)[: 1 if one else None]:
            assert isinstance(connection, Connection)
            process, tasks = self._workers[connection]
            self._workers[connection] = self._workers.pop(connection)  # the others come first now
            try:
                error, result = _receive(connection)
            except (EOFError, OSError):
                answers += [(task, Died) for task in self._replace(connection)]
                continue
            if isinstance(error, Wav2SmallError):
                raise error
            if error is not None:
                raise RuntimeError(f"a worker failed:\n{error}")
            self._deaths = 0
            answers.append((tasks.popleft(), result))
        return answers

    def _start(self) -> None:
        ours, theirs = Pipe()
        environment = {name: "1" for name in _THREADS} | os.environ
        environment["TMPDIR"] = self._temporary  # of a worker that is ended, its copies of audio go
        environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
        program = f"from wav2small.workers import serve; serve({theirs.fileno()})"
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            pass_fds=[theirs.fileno()],
            env=environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is the parent's business
        )
        theirs.close()
        ours.send(self._setup)
        self._workers[ours] = (process, deque())

    def _replace(self, connection: Connection) -> list[Any]:
        process, tasks = self._workers.pop(connection)
        connection.close()
        code = process.wait()
        self._deaths += 1
        if self._deaths >= _MOST_DEATHS:
            dying = f"worker processes keep dying (the last with code {code})"
            raise Wav2SmallError(f"{dying}; is memory short? try fewer processes")
        self._start()
        for task in list(tasks)[1:]:  # only the first was at work
            self.submit(task)
        return list(tasks)[:1]


def _send(connection: Connection, answer: Any) -> None:
    """Send an answer, its arrays after it as they are: copies would cost more than decoding."""
    arrays: list[pickle.PickleBuffer] = []
    text = pickle.dumps(answer, protocol=5, buffer_callback=arrays.append)
    views = [array.raw() for array in arrays]
    connection.send(([view.nbytes for view in views], text))
    for view in views:
        while view:
            view = view[os.write(connection.fileno(), view) :]


def _receive(connection: Connection) -> Any:
    """Receive what `_send` sent; EOFError or OSError if the other side is gone."""
    sizes, text = connection.recv()
    arrays = [_allocate(size) for size in sizes]
    for array in arrays:
        view = memoryview(array)
        while view:
            count = os.readv(connection.fileno(), [view])
            if not count:
                raise EOFError
            view = view[count:]
    return pickle.loads(text, buffers=arrays)


def _allocate(size: int) -> Any:
    """Memory for an array: where a GPU is in use, such as it copies from while others compute."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy()
    return bytearray(size)


def serve(handle: int) -> None:
    """Body of a worker: build the function, then answer tasks until the parent is gone."""
    plain_warnings()
    connection = Connection(handle)
    try:
        build, arguments = connection.recv()
        function: Callable[[Any], Any] | None = None
        while True:
            task = connection.recv()
            answer: tuple[Any, Any]
            try:
                if function is None:
                    function = _function(build, arguments)
                answer = (None, function(task))
            except Wav2SmallError as error:
                answer = (error, None)
            except Exception:  # a bug: its traceback belongs to the parent
                answer = (traceback.format_exc(), None)
            _send(connection, answer)
    except (EOFError, OSError):
        pass
    os._exit(0)
