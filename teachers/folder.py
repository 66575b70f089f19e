"""Which teacher a folder or a hub id holds: its config.json tells."""

from __future__ import annotations

from typing import Any

from wav2small.errors import Wav2SmallError
from wav2small.teachers.speech.checkpoint import Checkpoint

from .base import Teacher
from .speech import checkpoint


def load_folder(folder: str, **options: Any) -> Teacher:
    """The teacher in a folder: a checkpoint, or what `distil` or `finetune` wrote.

    Raises:
        Wav2SmallError: none, or one that cannot be used
    """
    return _load(checkpoint.local(folder), options)


def load_hub(spec: str, **options: Any) -> Teacher:
    """The teacher behind a hub id, `owner/name` or `owner/name@revision`.

    Raises:
        Wav2SmallError: none, or one that cannot be used
    """
    return _load(checkpoint.hub(spec), options)


def _load(source: Checkpoint, options: dict[str, Any]) -> Teacher:
    from .multimodal import base as reading

    config = source.config
    chosen = {name: options[name] for name in ("device", "dtype") if name in options}
    kind = config.get("model_type")
    if "student" in config or {"n_fft", "half_mel", "n_time"} <= config.keys():
        from wav2small.teachers.speech.student import StudentTeacher

        return StudentTeacher(source, **chosen)
    if kind == "ser":
        from .speech import wavlm

        return wavlm.load(source, **chosen)
    if kind in ("wav2vec2", "hubert", "wavlm"):
        from .speech import wav2vec2

        return wav2vec2.load(source, **chosen)
    if kind in reading.SYSTEMS:
        from .multimodal import teacher as reading_teacher

        return reading_teacher.load(source, **chosen)
    where = source.folder / checkpoint.CONFIG
    raise Wav2SmallError(
        f"{where}: model_type {kind!r} is no teacher; known: ser, wav2vec2, hubert, wavlm, "
        f"{', '.join(reading.SYSTEMS)} and students"
    )
