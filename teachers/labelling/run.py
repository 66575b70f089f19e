"""The labelling run: an index in, a label table out, nothing lost on the way."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wav2small import audio, files, progress, provenance, tables, transcripts
from wav2small import augmentation as variants
from wav2small.dimensions import DIMENSIONS
from wav2small.errors import AudioError, Wav2SmallError
from wav2small.index import KEYS, Index, check_window, load_source
from wav2small.teachers import registry
from wav2small.teachers.base import Teacher, licensed, runs_in_workers, uses_text
from wav2small.teachers.multimodal.turns import Context, Script

from . import batched as engine_batched
from . import local as engine_local
from . import plan, rejected, store
from .clips import Outcome, Reader, Rejection
from .shards import Shards
from .store import Folder

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Result:
    """What a labelling run did.

    Attributes:
        output: the table
        rows: labels in it
        hours: of audio they stand for, variants counted
        errors: clips that were rejected; `errors_file` lists them
        licence: whom the labels bind
        already_complete: the table was there; nothing was done
    """

    output: str
    rows: int
    hours: float
    errors: int
    errors_file: str
    licence: str
    already_complete: bool = False


def label(
    source: str | os.PathLike[str] | Index,
    output: str | os.PathLike[str],
    *,
    teacher: str | Teacher = "acoustic",
    root: str | None = None,
    limit: int | None = None,
    window_s: float = 12.0,
    hop_s: float | None = None,
    variants: int = 0,
    noise: str | None = None,
    rooms: str | None = None,
    mixture: str | None = None,
    workers: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
    batch_s: float | None = None,
    engine: str = "local",
    overwrite: bool = False,
    strict: bool = False,
    audio_licence: str = provenance.UNKNOWN,
    members: Sequence[str] | None = None,
    weights: Sequence[float] | None = None,
    revision: str | None = None,
    teacher_options: Mapping[str, Any] | None = None,
    asr: str | None = None,
    flush_s: float = 10.0,
) -> Result:
    """Label audio with arousal, dominance and valence.

    Killed at any moment and called again with the same arguments, it goes on where it was; the
    table is the one an undisturbed run would have written.

    Args:
        source: folder, audio file, table or audformat database; see `load_source`. Columns beyond
            file, start and end go to the label table, ratings of the three dimensions excepted
        output: the label table, parquet. Rejected clips are listed in `errors.csv` beside it
        teacher: see `load_teacher`
        root: folder that the files of `source` are relative to
        limit: label the first clips of `source` only, so many; None = all
        window_s: longer clips are cut into windows of so many seconds
        hop_s: from one window to the next; None = `window_s`
        variants: number of augmented copies of each window that are labelled too
        noise: folder of background noise for variants
        rooms: folder of room impulse responses for variants
        mixture: folder of speech to mix in for variants
        workers: processes that read, and label where the teacher is cheap; None = one per core,
            0 = none
        device: "auto", "cpu", "cuda", "cuda:1" ..., for neural teachers
        dtype: "auto", "float32", "bfloat16" ..., for neural teachers
        batch_s: seconds of audio in a batch of a neural teacher; None = 600 on a GPU, 2 on a CPU
        engine: "local", or "ray": an actor pool on the cluster that RAY_ADDRESS names, else on one
            that is started here; `workers` is the number of actors
        overwrite: replace a table, or an unfinished run, of another teacher or other options
        strict: stop at the first clip that cannot be used
        audio_licence: licence of the audio, for the provenance
        members: teachers of an ensemble; None = the paper's two
        weights: one for each member; None = all the same
        revision: of the published checkpoint, for "wavlm" and "wav2vec2"
        teacher_options: further options of `load_teacher`: `licence`, and `output`, `dimensions`
            and `scale` of an ONNX model
        asr: folder or hub id of a Whisper-type model, which first writes down `text` and `words`
            of the clips that have no `text`; both go to the label table
        flush_s: least seconds between two writes of what is done

    Raises:
        Wav2SmallError: wrong arguments, another run's output, nothing to label, a full disk
        AudioError: `strict` and a clip cannot be used
    """
    check_window(window_s, hop_s)
    if engine not in ("local", "ray"):
        raise Wav2SmallError(f"--engine {engine}: give local or ray")
    folder, name = _target(output)
    index = source if isinstance(source, Index) else load_source(source, root=root)
    _check_source(source, index, os.fspath(output))
    if limit is not None:
        if limit < 1:
            raise Wav2SmallError(f"--limit {limit}: give 1 or more")
        index = replace(index, frame=index.frame[:limit])
    options: dict[str, Any] = {"device": device, "dtype": dtype}
    options |= _given(teacher, members=members, weights=weights, revision=revision)
    options |= teacher_options or {}
    # With Ray this process only asks the teacher who it is; it may have no GPU.
    here = {"device": "cpu", "dtype": "float32"} if engine == "ray" else {}
    model = registry.load_teacher(teacher, **options | here)
    settings = _settings(variants, noise=noise, rooms=rooms, mixture=mixture)
    identity = plan.identity(
        index,
        teacher=[model.name, model.id, model.revision],
        window_s=window_s,
        hop_s=hop_s,
        variants=variants,
        folders=settings.digest,
    )
    recogniser = None if asr is None else _recogniser(asr)
    if uses_text(model) or recogniser:
        index = replace(index, frame=transcripts.normalise(index.frame, _source_name(source)))
        identity["transcripts"] = transcripts.digest(index.frame)
    if recogniser:
        identity["asr"] = [recogniser.id, recogniser.revision]
    history = provenance.new(
        teachers=licensed(model) + ([recogniser.entry] if recogniser else []),
        audio=[{"source": _source_name(source), "licence": audio_licence}],
        labelling={"window_s": window_s, "hop_s": hop_s, "variants": variants},
        variants=vars(settings) if variants else {},
    )
    licence = provenance.licence_line(history)
    with ExitStack() as stack:
        unfinished = plan.parts(output)
        if not folder.is_remote:
            stack.enter_context(files.Lock(unfinished.shown("lock")))
        there = plan.finished(folder, name)
        if there is not None and not overwrite:
            return _there(folder, name, identity, there, licence)
        plan.begin(unfinished, identity, overwrite=overwrite)
        if recogniser:
            index = recogniser.fill(index, unfinished, device=device, dtype=dtype)
        script = Script(index.frame, model.context) if uses_text(model) else None  # type: ignore[attr-defined]
        shards = Shards(unfinished, every_s=flush_s)
        stack.callback(shards.flush)  # also when the run is broken off
        reader = Reader(
            index.root,
            model.sampling_rate,
            window_s,
            hop_s,
            variants,
            settings,
            script.context if script else Context(),
        )
        rejections = [_rejected(index, file, why) for file, why in index.rejected]
        if strict and rejections:
            raise AudioError(rejections[0].reason)
        todo = plan.rows(index.frame, shards.done(len(index.frame)))
        if script:
            script.report(getattr(model, "too_long", None))
            todo = (row._replace(passage=script.passage(row.row)) for row in todo)
        how: dict[str, Any] = {"engine": engine, "workers": workers, "batch_s": batch_s}
        outcomes = _run(todo, reader, model, teacher, options, **how)
        for outcome in _shown(outcomes, index, variants):
            _drop_silent_windows(outcome)
            if strict and outcome.rejections:
                raise AudioError(outcome.rejections[0].reason)
            rejections += outcome.rejections
            shards.add(outcome)
        shards.flush()
        # A clip that cannot be read cannot be read for its variants either: one line.
        rejections = sorted(
            {rejection[:-1]: rejection for rejection in reversed(rejections)}.values()
        )
        errors_file = rejected.write(folder, name, rejections)
        identity["errors"] = len(rejections)
        rows = _finish(folder, name, index, shards, history, identity, variants > 0)
        hours = shards.hours()
        unfinished.remove_all()
        if not rows:
            first = rejections[0].reason if rejections else "the source is empty"
            raise Wav2SmallError(
                f"none of the clips could be labelled: {first} ({errors_file} lists all)"
            )
    return Result(os.fspath(output), rows, hours, len(rejections), errors_file, licence)


def _drop_silent_windows(outcome: Outcome) -> None:
    """Pass over windows of digital silence where other windows of the row were labelled."""
    labelled = {item.row for item in outcome.items}
    outcome.rejections = [
        rejection
        for rejection in outcome.rejections
        if not (rejection.row in labelled and audio.SILENT in rejection.reason)
    ]


def _recogniser(spec: str) -> Any:
    from wav2small.teachers.multimodal.asr import Recogniser  # loads torch

    return Recogniser(spec)


def _run(
    todo: Iterable[Any],
    reader: Reader,
    model: Teacher,
    teacher: str | Teacher,
    options: dict[str, Any],
    *,
    engine: str,
    workers: int | None,
    batch_s: float | None,
) -> Iterator[Outcome]:
    shared = teacher if isinstance(teacher, str) else model
    if engine == "ray":
        from .ray_cluster import label_on_ray

        return label_on_ray(todo, reader, shared, options, actors=workers, batch_s=batch_s)
    if runs_in_workers(model):
        count = engine_local.cores() if workers is None else workers
        return engine_local.label_in_workers(todo, reader, shared, options, workers=count)
    if workers is None:  # on a CPU the model wants the cores itself
        share = 1 if engine_batched.on_gpu(model) else 2
        workers = max(1, engine_local.cores() // share)
    return engine_batched.label_in_batches(
        todo, reader, model, workers=workers, batch_s=batch_s or engine_batched.batch_seconds(model)
    )


def _finish(
    folder: Folder,
    name: str,
    index: Index,
    shards: Shards,
    history: dict[str, Any],
    identity: dict[str, Any],
    with_variants: bool,
) -> int:
    """Put the shards in order and write the table; returns its number of rows, 0 = no table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not shards.names():
        return 0
    extras = [name for name in index.frame if name not in (*KEYS, *DIMENSIONS, "variant")]
    source = pa.Table.from_pandas(index.frame[["file", *extras]], preserve_index=False)
    labels = tables.Labels(index.frame, _root(index.root), history)
    rows = 0

    def fill(path: Path) -> None:
        nonlocal rows
        with ExitStack() as stack:
            writer = None
            for chunk in shards.ordered():
                table = _joined(source.take(chunk["row"]), chunk, with_variants)
                if writer is None:
                    metadata = tables.metadata(labels, table.schema.metadata)
                    metadata[plan.KEY] = json.dumps(identity).encode()
                    schema = table.schema.with_metadata(metadata)
                    writer = stack.enter_context(pq.ParquetWriter(path, schema))
                writer.write_table(table.cast(schema))
                rows += len(table)

    folder.write(name, fill)
    return rows


def _joined(source: pa.Table, chunk: pa.Table, with_variants: bool) -> pa.Table:
    import pyarrow as pa

    times = {name: chunk[name].cast(pa.duration("ns")) for name in ("start", "end")}
    dimensions = [name for name in DIMENSIONS if name in chunk.column_names]
    own = ["row", "start", "end", "variant", "seconds", "partial", *dimensions]
    columns = {"file": source["file"], **times}
    columns |= {name: chunk[name] for name in dimensions}
    if with_variants:
        columns["variant"] = chunk["variant"]
    columns |= {name: source[name] for name in source.column_names if name != "file"}
    columns |= {name: chunk[name] for name in chunk.column_names if name not in own}
    return pa.table(columns)


def _shown(outcomes: Iterable[Outcome], index: Index, copies: int) -> Iterator[Outcome]:
    """Pass outcomes on and show hours of audio done."""
    with progress.bar(_expected_hours(index) * (1 + copies), unit="h", desc="label") as bar:
        for outcome in outcomes:
            bar.update(sum(item.seconds for item in outcome.items) / 3600)
            yield outcome


def _expected_hours(index: Index, looked_at: int = 50) -> float:
    """Hours of audio in an index; where the end of clips is not known, judged by some files."""
    frame = index.frame
    known = frame["end"].notna()
    seconds = float((frame["end"] - frame["start"])[known].dt.total_seconds().sum())
    files = frame["file"][~known]
    lengths = []
    for file in files.iloc[:: max(1, len(files) // looked_at)]:
        with suppress(AudioError):
            lengths.append(audio.duration(index.path(file)))
    return (seconds + len(files) * (sum(lengths) / len(lengths) if lengths else 0.0)) / 3600


def _there(
    folder: Folder,
    name: str,
    identity: dict[str, Any],
    there: tuple[dict[str, Any], int],
    licence: str,
) -> Result:
    """A table is there already: complete, or another's.

    Raises:
        Wav2SmallError: it is another's
    """
    theirs, rows = there
    errors = theirs.pop("errors", 0)
    output = folder.shown(name)
    if theirs != identity:
        what = "other " + plan.differences(identity, theirs) if theirs else "another program"
        raise Wav2SmallError(
            f"{output}: there is a table of {what} already; choose another -o, or replace it "
            "with --overwrite"
        )
    plan.parts(output).remove_all()
    return Result(
        output, rows, 0.0, errors, folder.shown(rejected.NAME), licence, already_complete=True
    )


def _given(teacher: str | Teacher, **options: Any) -> dict[str, Any]:
    """Options of some teachers, where they are given.

    Raises:
        Wav2SmallError: the teacher has no such option
    """
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        fits = ("wavlm", "wav2vec2") if name == "revision" else ("ensemble",)
        if teacher not in fits:
            raise Wav2SmallError(f"--{name} is for --teacher {' and '.join(fits)}")
    return given


def _settings(copies: int, **folders: str | None) -> variants.Settings:
    if copies < 0:
        raise Wav2SmallError(f"--variants {copies}: give 0 or more")
    named = [name for name, folder in folders.items() if folder]
    if copies == 0 and named:
        raise Wav2SmallError(f"--{named[0]} is for variants; say how many with --variants K")
    return variants.settings(**folders) if copies else variants.Settings()


def _check_source(source: Any, index: Index, output: str) -> None:
    if not isinstance(source, Index) and os.path.realpath(source) == os.path.realpath(output):
        raise Wav2SmallError(f"{output}: the table would replace its own source; choose another -o")
    if "variant" in index.frame and (index.frame["variant"] != 0).any():
        raise Wav2SmallError(
            f"{source}: its rows are variants already; label what it was made from, with --variants"
        )


def _target(output: str | os.PathLike[str]) -> tuple[Folder, str]:
    name = os.fspath(output)
    if not name.lower().endswith((".parquet", ".pq")):
        raise Wav2SmallError(f"-o {name}: a label table is parquet; name it {name}.parquet")
    return store.split(name)


def _rejected(index: Index, file: str, why: str) -> Rejection:
    return Rejection(len(index.frame), file, 0, None, why)


def _root(root: str) -> str:
    return root if "://" in root else os.path.abspath(root)


def _source_name(source: Any) -> str:
    return "index" if isinstance(source, Index) else os.fspath(source)
