"""Where a label, a student or a bundle comes from, and under which licences.

A provenance is a plain dictionary that travels from label table to run to bundle:

    {"teachers": [{"name", "id", "revision", "licence", ...}],
     "audio":    [{"source", "licence"}],
     "code":     {"name": "wav2small", "licence": "MIT"},
     "versions": {"python", "wav2small", ...}}

Every stage adds its own keys; no stage removes one. Nothing in it depends on the clock, so
that the same inputs give the same bytes.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import wav2small
from wav2small import files
from wav2small.errors import Wav2SmallError

UNKNOWN = "unknown"


def new(
    *,
    teachers: Iterable[Mapping[str, Any]] = (),
    audio: Iterable[Mapping[str, str]] = (),
    **extra: Any,
) -> dict[str, Any]:
    """A provenance.

    Args:
        teachers: one mapping per teacher with `name`, `id`, `revision`, `licence`
        audio: one mapping per source of audio with `source` and `licence`
        extra: further JSON values, such as `variants` or `hashes`

    Example:
        >>> sorted(new(audio=[{"source": "speech/", "licence": "CC0-1.0"}]))
        ['audio', 'code', 'teachers', 'versions']
    """
    return {
        "teachers": [dict(teacher) for teacher in teachers],
        "audio": [dict(source) for source in audio],
        "code": {"name": "wav2small", "licence": "MIT"},
        "versions": versions("numpy", "soundfile", "soxr"),
        **extra,
    }


def read(path: Path) -> dict[str, Any]:
    """The provenance in a JSON file.

    Raises:
        Wav2SmallError: not there, damaged, or no provenance

    Example:
        >>> files.write_json("provenance.json", new())
        >>> read(Path("provenance.json"))["code"]["name"]
        'wav2small'
    """
    found = files.read_json(path)
    entries = [found.get("teachers", []), found.get("audio", []), [found.get("code", {})]]
    if not all(isinstance(e, list) and all(isinstance(o, dict) for o in e) for e in entries):
        raise Wav2SmallError(f"{path}: `teachers` or `audio` is no list of objects; copy it again")
    return found


def without_paths(value: Any) -> Any:
    """JSON values with the last name of every absolute path, for what is given to others.

    Example:
        >>> without_paths({"audio": [{"source": "/home/me/speech/", "licence": "CC0-1.0"}]})
        {'audio': [{'source': 'speech', 'licence': 'CC0-1.0'}]}
    """
    if isinstance(value, Mapping):
        return {key: without_paths(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [without_paths(entry) for entry in value]
    if isinstance(value, str) and re.match(r"/|~|\\\\|[A-Za-z]:[\\/]", value):
        return re.split(r"[\\/]", value.rstrip("\\/"))[-1]
    return value


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python, of wav2small and of the named packages that are installed."""
    found = {"python": platform.python_version(), "wav2small": wav2small.__version__}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def licences(provenance: Mapping[str, Any]) -> list[str]:
    """Every licence of the lineage once: teachers, audio, then the code. Absent = "unknown".

    Example:
        >>> licences(new(audio=[{"source": "speech/", "licence": "CC0-1.0"}]))
        ['CC0-1.0', 'MIT']
    """
    entries = [*provenance.get("teachers", ()), *provenance.get("audio", ())]
    entries.append(provenance.get("code", {"licence": "MIT"}))
    return list(dict.fromkeys(entry.get("licence") or UNKNOWN for entry in entries))


def expression(provenance: Mapping[str, Any]) -> str:
    """The licences of a lineage as one SPDX expression, each once.

    Example:
        >>> expression({"teachers": [{"licence": "MIT AND CC0-1.0"}, {"licence": "MIT"}]})
        'MIT AND CC0-1.0'
    """
    named = licences(provenance)
    parts = [part for name in named for part in ([name] if "(" in name else name.split(" AND "))]
    return " AND ".join(dict.fromkeys(parts))


def licence_line(provenance: Mapping[str, Any]) -> str:
    """One line that names who is bound by what, such as
    `teacher acoustic: MIT; audio speech/: unknown; code wav2small: MIT`.

    Example:
        >>> licence_line(new(audio=[{"source": "speech/", "licence": "CC0-1.0"}]))
        'audio speech/: CC0-1.0; code wav2small: MIT'
    """
    parts = [
        f"{kind} {entry.get(key, '?')}: {entry.get('licence') or UNKNOWN}"
        for kind, group, key in (("teacher", "teachers", "name"), ("audio", "audio", "source"))
        for entry in provenance.get(group, ())
    ]
    code = provenance.get("code", {"name": "wav2small", "licence": "MIT"})
    return "; ".join([*parts, f"code {code['name']}: {code['licence']}"])
