"""The worst clips of an audit, small enough to travel inside a page."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np

from wav2small import audio
from wav2small.benchmarks.audit.corpus import hear
from wav2small.dimensions import DIMENSIONS
from wav2small.errors import AudioError

MAX_S = 10.0  # seconds of a clip that a player holds


def choose(result: dict[str, Any], *, count: int) -> list[dict[str, Any]]:
    """Clips that stand among the worst of the most failed figures, with players.

    Args:
        result: of `audit.audit`
        count: number of clips

    Returns:
        for each clip `file`, `source` (a data URL, "" = the audio is not there), `failed`: the
        figures it failed worst, `estimates`: by listener, `known`: truth and columns
    """
    failures: dict[tuple[Any, ...], list[tuple[float, str]]] = {}
    for figure in result["figures"]:
        for place, clip in enumerate(figure.get("worst", ())):
            case = f" ({figure['case']})" if figure["case"] else ""
            name = f"{figure['test']} {figure['dimension']}{case}"
            failures.setdefault(_key(clip), []).append((place, name))
    # A clip that is worst of one figure matters as much as one that is tenth of ten.
    weight = {key: sum(1 / (1 + place) for place, _ in listed) for key, listed in failures.items()}
    worst = sorted(failures, key=lambda key: -weight[key])[:count]
    clips = {_key(clip): clip for clip in result["clips"]}
    chosen = []
    for key in worst:
        clip = clips[key]
        known = [name for name in clip if name not in ("file", "start", "end", "path", "estimates")]
        chosen.append(
            {
                "file": clip["file"],
                "source": _data(clip),
                "failed": [name for _, name in sorted(failures[key])],
                "estimates": {
                    name: list(zip(DIMENSIONS, values, strict=True))
                    for name, values in clip["estimates"].items()
                },
                "known": [(name, _shown(clip[name])) for name in known],
            }
        )
    return chosen


def _key(clip: dict[str, Any]) -> tuple[Any, ...]:
    return clip["file"], clip.get("start"), clip.get("end")


def _shown(value: Any) -> str:
    if isinstance(value, list):
        numbers = ["-" if number is None else f"{number:.2f}" for number in value]
        return ", ".join(map(" ".join, zip(DIMENSIONS, numbers, strict=True)))
    return str(value)


def _data(clip: dict[str, Any]) -> str:
    """MP3, which every browser plays, as a data URL; WAV where libsndfile cannot write it."""
    import soundfile

    start, end = clip.get("start") or 0.0, clip.get("end")
    try:
        signal = hear(clip["path"], start, float("nan") if end is None else end)
    except AudioError:
        return ""
    signal = signal[: int(MAX_S * audio.SAMPLING_RATE)]
    signal = signal / max(1.0, float(np.abs(signal).max()))
    buffer = io.BytesIO()
    try:
        soundfile.write(buffer, signal, audio.SAMPLING_RATE, format="MP3")
        kind = "mpeg"
    except (ValueError, soundfile.LibsndfileError):  # libsndfile before 1.1
        buffer = io.BytesIO()
        soundfile.write(buffer, signal, audio.SAMPLING_RATE, format="WAV", subtype="PCM_16")
        kind = "wav"
    return f"data:audio/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
