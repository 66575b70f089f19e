"""Labelling on a Ray cluster: an actor pool of Ray Data, one teacher for each actor.

The driver, the process that was started, holds the index and writes the shards; the actors read
audio and label. So a run on a hundred machines is resumed, ordered and finished like one on a
single machine. Audio and, for neural teachers, checkpoints must be where every machine sees them.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from wav2small.errors import Wav2SmallError
from wav2small.teachers import registry
from wav2small.teachers.base import Teacher, runs_in_workers

from .clips import Outcome, Reader, SourceRow

_ROWS_PER_TASK = 256  # enough to fill batches of a length; what a lost actor has to do again
_ATTEMPTS = 4  # at a block, the first included, before the run ends


class Labeller:
    """An actor; `attempts` is the one that counts how often each block was begun, None = every one
    is the first, the rest as in `label_on_ray`."""

    def __init__(
        self,
        teacher: str | Teacher,
        options: dict[str, Any],
        reader: Reader,
        batch_s: float | None,
        attempts: Any = None,
    ):
        from .batched import batch_seconds

        self.attempts = attempts
        self.teacher = registry.load_teacher(teacher, **options)
        self.options = options
        self.reader = reader
        self.batch_s = batch_s or batch_seconds(self.teacher)

    def __call__(self, block: dict[str, Any]) -> dict[str, Any]:
        """Rows of the index in, one pickled outcome for each chunk of them out.

        A block whose first attempt ended with its actor is read in a process of its own, which
        may crash: that clip is rejected and the run goes on.

        Raises:
            Wav2SmallError: the block ended several actors
        """
        from .batched import label_in_batches
        from .local import label_in_workers

        rows = [SourceRow(*row) for chunk in block["rows"] for row in pickle.loads(chunk)]
        attempt = self._attempt(rows[0].row)
        if attempt > _ATTEMPTS:
            raise Wav2SmallError(
                f"--engine ray: {rows[0].file} and the {len(rows) - 1} clips after it ended "
                f"{_ATTEMPTS} workers; is memory short?"
            )
        workers = min(attempt - 1, 1)
        if runs_in_workers(self.teacher):
            found = label_in_workers(rows, self.reader, self.teacher, self.options, workers=workers)
        else:
            found = label_in_batches(
                rows, self.reader, self.teacher, workers=workers, batch_s=self.batch_s
            )
        return {"outcome": [pickle.dumps(outcome) for outcome in found]}

    def _attempt(self, row: int) -> int:
        if self.attempts is None:
            return 1
        import ray

        return ray.get(self.attempts.begin.remote(row))


class Attempts:
    """Counts how often each block of rows was begun; an actor that outlives the labelling ones."""

    def __init__(self) -> None:
        self._begun: Counter[int] = Counter()

    def begin(self, row: int) -> int:
        """The number of times that the block of this first row was begun, this time included."""
        self._begun[row] += 1
        return self._begun[row]


def label_on_ray(
    rows: Iterable[SourceRow],
    reader: Reader,
    teacher: str | Teacher,
    options: dict[str, Any],
    *,
    actors: int | None,
    batch_s: float | None = None,
) -> Iterator[Outcome]:
    """Label rows on the cluster of RAY_ADDRESS, or one that is started here; see the module.

    `teacher` and `options` are those of `load_teacher`, `batch_s` that of `label_in_batches`.
    `actors` is the number of teachers; None = one for each GPU of the cluster, or for each CPU
    where the teacher needs none.

    Raises:
        Wav2SmallError: Ray is not installed, or the cluster cannot be reached
    """
    try:
        import ray
        import ray.data
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
    except ImportError as error:
        raise Wav2SmallError(
            "--engine ray: Ray is not installed; pip install 'wav2small[ray]'"
        ) from error
    if not ray.is_initialized():
        try:
            path = os.pathsep.join(entry for entry in sys.path if entry)
            ray.init(log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": path}})
        except ConnectionError as error:
            where = os.environ.get("RAY_ADDRESS")
            raise Wav2SmallError(f"--engine ray: no cluster at {where}: {error}") from error
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0)) if options.get("device", "auto") != "cpu" else 0
    count = actors or gpus or max(1, int(resources.get("CPU", 1)))
    iterator = iter(rows)
    chunks = []
    while chunk := list(islice(iterator, _ROWS_PER_TASK)):
        chunks.append({"rows": pickle.dumps([tuple(row) for row in chunk])})
    if not chunks:
        return
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    arguments: dict[str, Any] = {"num_gpus": 1} if gpus else {"num_cpus": 1}
    # Ray begins the block of an actor that died on another one, as often as it takes. What counts
    # is on the driver's node: the loss of another one does not touch it.
    here: Any = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    attempts = ray.remote(num_cpus=0, scheduling_strategy=here)(Attempts).remote()
    labelled = ray.data.from_items(chunks, override_num_blocks=len(chunks)).map_batches(
        Labeller,
        fn_constructor_args=(teacher, options, reader, batch_s, attempts),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(count, len(chunks))),
        **arguments,
    )
    for line in labelled.iter_rows():
        yield pickle.loads(line["outcome"])
