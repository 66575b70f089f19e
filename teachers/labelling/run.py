"""The labelling run: an index in, a label table out, nothing lost on the way."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from wav2small import audio, files, folders, progress, provenance, transcripts
from wav2small.errors import AudioError, Wav2SmallError
from wav2small.folders import Folder
from wav2small.index import KEYS, Index, load_source
from wav2small.teachers import registry
from wav2small.teachers.base import Teacher, licensed, runs_in_workers, uses_text
from wav2small.teachers.multimodal.dialogue import Context, Script
from wav2small.training.threads import available

from . import agreement, batched, local, plan
from .clips import Outcome, Reader, Rejection
from .options import ComputeOptions, SourceOptions, TeacherOptions, VariantOptions
from .shards import Shards

_MANY = 0.2  # share of labels at the ends of the scale that is worth a word


@dataclass(frozen=True)
class LabelResult:
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
    teacher_options: TeacherOptions | None = None,
    clips: SourceOptions | None = None,
    variants: VariantOptions | None = None,
    compute: ComputeOptions | None = None,
    overwrite: bool = False,
) -> LabelResult:
    """Label audio with arousal, dominance and valence.

    Killed at any moment and called again with the same arguments, it goes on where it was; the
    table is the one an undisturbed run would have written.

    Args:
        source: folder, audio file, CSV or parquet table, audformat database. See `load_source`;
            columns beyond file, start and end go to the label table, ratings of the three
            dimensions excepted
        output: label table (.parquet); an unfinished one goes on. Rejected clips are listed in
            `errors.csv` next to it, those of a table with the number of their row
        teacher: see `wav2small teachers`; a folder of `distill` or `finetune`; a bundle, an audonnx
            folder or an .onnx file; a hub id, owner/name[@revision]; package.module:Class. Or a
            `Teacher`
        teacher_options: see `TeacherOptions`
        clips: see `SourceOptions`
        variants: see `VariantOptions`
        compute: see `ComputeOptions`
        overwrite: replace a table, or an unfinished run, of another teacher or other options

    Raises:
        Wav2SmallError: wrong arguments, another run's output, nothing to label, a full disk
        AudioError: `strict` and a clip cannot be used

    Example:
        >>> label("speech.wav", "labels.parquet", compute=ComputeOptions(workers=0)).rows
        1
    """
    clips = clips or SourceOptions()
    copies = variants or VariantOptions()
    compute = compute or ComputeOptions()
    folder, name = _target(output)
    index = (
        source
        if isinstance(source, Index)
        else load_source(source, root=clips.root, time_unit=clips.time_unit, reject_rows=True)
    )
    _check_source(source, index, os.fspath(output))
    if twice := int(index.frame.duplicated(KEYS).sum()):
        progress.note(f"{twice} rows stand more than once in {_source_name(source)}; all are kept")
    index = replace(index, frame=index.frame[: clips.limit], numbers=index.numbers[: clips.limit])
    options: dict[str, Any] = {"device": compute.device, "dtype": compute.dtype}
    options |= (teacher_options or TeacherOptions()).given(teacher)
    # With Ray this process only asks the teacher who it is; it may have no GPU.
    int8 = compute.dtype == "int8"
    precision = compute.dtype if int8 else "float32"
    here = {"device": "cpu", "dtype": precision} if compute.engine == "ray" else {}
    model = registry.load_teacher(teacher, **options | here)
    settings = copies.settings()
    cut = {"window_s": clips.window_s, "hop_s": clips.hop_s, "variants": copies.variants}
    named = [model.name, model.id, model.revision]
    identity = plan.identity(index, teacher=named, folders=settings.digest, **cut)
    if settings.targets != "heard":
        identity["targets"] = settings.targets
    if int8:
        identity["dtype"] = compute.dtype
    recogniser = None
    if clips.asr is not None:
        from wav2small.teachers.multimodal.asr import Recogniser  # loads torch

        recogniser = Recogniser(clips.asr)
    if uses_text(model) or recogniser:
        index = replace(index, frame=transcripts.normalise(index.frame, _source_name(source)))
        identity["transcripts"] = transcripts.digest(index.frame)
    labelled_by = licensed(model)
    if recogniser:
        identity["asr"] = [recogniser.source.id, recogniser.source.revision]
        labelled_by.append(recogniser.source.entry("asr"))
    own = {"source": _source_name(source), "licence": clips.audio_licence}
    history = provenance.new(
        teachers=labelled_by,
        audio=[own, *copies.sources()],
        labelling=cut,
        variants=vars(settings) if copies.variants else {},
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
            device, dtype = compute.device, "float32" if int8 else compute.dtype
            index = recogniser.fill(index, unfinished, device=device, dtype=dtype)
        script = Script(index.frame, model.context) if uses_text(model) else None  # type: ignore[attr-defined]
        shards = Shards(unfinished, every_s=compute.flush_s)
        stack.callback(shards.flush)  # also when the run is broken off
        windows = clips.window_s, clips.hop_s, copies.variants
        context = script.context if script else Context()
        reader = Reader(index.root, model.sampling_rate, *windows, settings, context)
        count, numbers = len(index.frame), index.numbers
        bad = [row for row in index.rejected_rows if not clips.limit or row[0] < numbers[-1]]
        rejections = [
            Rejection(number, file, None, None, why)
            for number, (_, file, why) in enumerate(bad, count)
        ]
        numbers = [*numbers, *(number for number, _, _ in bad)] if bad else numbers
        rest = count + len(bad)
        rejections += [Rejection(rest, file, 0, None, why) for file, why in index.rejected]
        if clips.strict and rejections:
            raise AudioError(rejections[0].reason)
        done = shards.done(len(index.frame))
        if done.any():
            progress.note(f"resuming from {unfinished.path}: {done.sum()} rows are done")
        if script:
            script.report(getattr(model, "too_long", None))
        todo = plan.rows(index.frame, done, script)
        if int8 and isinstance(teacher, str) and not runs_in_workers(model):
            some = plan.rows(index.frame, ~agreement.chosen(len(index.frame)), script)
            exact = registry.load_teacher(teacher, **options | {"dtype": "float32"})
            ccc = agreement.with_float32(some, reader, model, exact)
            del exact
            history["labelling"] |= {"dtype": compute.dtype, "ccc_with_float32": ccc}
        outcomes = _outcomes(todo, reader, model, teacher, options, compute)
        labelled, at_ends = 0, Counter[str]()
        for outcome in _shown(outcomes, index, copies.variants):
            labelled += len(outcome.items)
            for dimension in model.dimensions if outcome.items else ():
                at_ends[dimension] += int(np.isin(outcome.columns[dimension], (0, 1)).sum())
            _drop_silent_windows(outcome)
            if clips.strict and outcome.rejections:
                raise AudioError(outcome.rejections[0].reason)
            rejections += outcome.rejections
            shards.add(outcome)
        shards.flush()
        if names := [one for one, count in at_ends.items() if count > _MANY * labelled]:
            progress.note(
                f"{model.id}: {max(at_ends.values())} of {labelled} labels of {', '.join(names)} "
                "are cut off at the ends of 0..1; an ONNX model of another scale needs "
                "--teacher-scale LOW HIGH"
            )
        # A clip that cannot be read cannot be read for its variants either: one line.
        rejections = sorted({one[:-1]: one for one in reversed(rejections)}.values())
        errors_file = plan.write_errors(folder, name, rejections, numbers)
        identity["errors"] = len(rejections)
        rows = shards.write(folder, name, index, history, identity)
        hours = shards.hours()
        audio.note_limited(*shards.limited(), "labels")
        unfinished.remove_all()
        if not rows:
            first = rejections[0].reason if rejections else "the source is empty"
            raise Wav2SmallError(
                f"none of the clips could be labelled: {first} ({errors_file} lists all)"
            )
    return LabelResult(os.fspath(output), rows, hours, len(rejections), errors_file, licence)


def _drop_silent_windows(outcome: Outcome) -> None:
    """Pass over windows of digital silence where other windows of the row were labelled."""
    done = {item.row for item in outcome.items}
    outcome.rejections = [
        one for one in outcome.rejections if one.row not in done or audio.SILENT not in one.reason
    ]


def _outcomes(
    todo: Iterable[Any],
    reader: Reader,
    model: Teacher,
    teacher: str | Teacher,
    options: dict[str, Any],
    compute: ComputeOptions,
) -> Iterator[Outcome]:
    shared = teacher if isinstance(teacher, str) else model
    workers, batch_s = compute.workers, compute.batch_s
    if compute.engine == "ray":
        from .ray_cluster import label_on_ray

        return label_on_ray(todo, reader, shared, options, actors=workers, batch_s=batch_s)
    if runs_in_workers(model):
        count = available() if workers is None else workers
        return local.label_in_workers(todo, reader, shared, options, workers=count)
    if workers is None:  # on a CPU the model wants the cores itself
        workers = max(1, available() // (1 if batched.on_gpu(model) else 2))
    return batched.label_in_batches(
        todo,
        reader,
        model,
        workers=workers,
        batch_s=batch_s or batched.batch_seconds(model),
        threads=compute.threads,
    )


def _shown(outcomes: Iterable[Outcome], index: Index, copies: int) -> Iterator[Outcome]:
    """Pass outcomes on and show hours of audio done."""
    with progress.bar(plan.expected_hours(index) * (1 + copies), unit="h", desc="label") as bar:
        for outcome in outcomes:
            hours = sum(item.seconds for item in outcome.items) / 3600
            bar.total = max(bar.total, bar.n + hours)  # it was judged by some files
            bar.update(hours)
            yield outcome


def _there(
    folder: Folder, name: str, identity: dict[str, Any], there: tuple[Any, int], licence: str
) -> LabelResult:
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
    errors_file = folder.shown(plan.ERRORS)
    return LabelResult(output, rows, 0.0, errors, errors_file, licence, already_complete=True)


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
    if "://" not in name and files.special(name):
        raise Wav2SmallError(f"-o {name}: no regular file; a run that is broken off needs one")
    return folders.split(name)


def _source_name(source: Any) -> str:
    if isinstance(source, Index):
        return "index"
    name = os.fspath(source)
    return name.partition("?")[0] if "://" in name else name  # what signs a URL is a secret
