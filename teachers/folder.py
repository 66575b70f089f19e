"""Which teacher a folder or a hub id holds: read from its config.json."""

from __future__ import annotations

from pkgutil import resolve_name
from typing import Any

from wav2small.errors import Wav2SmallError
from wav2small.teachers.speech.checkpoint import Checkpoint

from . import registry
from .base import Teacher
from .speech import checkpoint, onnx, onnx_files


def load_folder(folder: str, **options: Any) -> Teacher:
    """The teacher in a folder: a checkpoint, an ONNX model, or what `distill` or `finetune` wrote.

    Raises:
        Wav2SmallError: none, or one that cannot be used
    """
    if onnx_files.holds(folder):
        return load_onnx(folder, **options)
    return _load(checkpoint.local(folder), options)


def load_onnx(spec: str, **options: Any) -> Teacher:
    """The teacher in an ONNX file or folder; options that are of other teachers are passed over."""
    names = ("device", "output", "dimensions", "scale", "embedding")
    return onnx.OnnxTeacher(spec, **{name: options[name] for name in names if name in options})


def load_hub(spec: str, **options: Any) -> Teacher:
    """The teacher behind a hub id, `owner/name` or `owner/name@revision`.

    Raises:
        Wav2SmallError: none, or one that cannot be used
    """
    folder = checkpoint.fetch(spec, checkpoint.PATTERNS, option="--teacher")
    if (folder / checkpoint.CONFIG).exists():
        return _load(checkpoint.hub(spec), options)
    names = (onnx_files.MODEL, onnx_files.DESCRIPTION, *checkpoint.RECORDS)
    folder = checkpoint.fetch(spec, names, option="--teacher")
    if not onnx_files.holds(folder):
        raise Wav2SmallError(
            f"{spec}: neither {checkpoint.CONFIG} nor {onnx_files.MODEL} in this repository or its "
            "local copy, so it is no teacher"
        )
    teacher = load_onnx(str(folder), **options)
    teacher.id = spec.partition("@")[0]
    return teacher


_BACKBONES = ("wav2vec2", "hubert", "wavlm", "whisper", "moonshine", "qwen2_audio")
#: What opens a checkpoint, by the `model_type` of its config.json.
_LOADERS = {
    "probe": "wav2small.teachers.speech.probe:load",
    "ser": "wav2small.teachers.speech.wavlm:load",
    **dict.fromkeys(_BACKBONES, "wav2small.teachers.speech.wav2vec2:load"),
    **dict.fromkeys(registry.MADE, "wav2small.teachers.multimodal.teacher:load"),
}
_STUDENT = "wav2small.teachers.speech.student:StudentTeacher"


def _load(source: Checkpoint, options: dict[str, Any]) -> Teacher:
    config = source.config
    kind = config.get("model_type")
    maker = _LOADERS.get(kind) if isinstance(kind, str) else None
    if "student" in config or {"n_fft", "half_mel", "n_time"} <= config.keys():
        maker = _STUDENT
    if maker is None:
        raise Wav2SmallError(
            f"{source.folder / checkpoint.CONFIG}: model_type {kind!r} is no teacher; known: "
            f"{', '.join(_LOADERS)} and students"
        )
    registry.check_described(source.id, options)
    chosen = {name: options[name] for name in ("device", "dtype") if name in options}
    return resolve_name(maker)(source, **chosen)
