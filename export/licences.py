"""What the lineage of a bundle allows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from wav2small.errors import Wav2SmallError
from wav2small.provenance import UNKNOWN

USES = ("commercial",)

#: Licences known to allow commercial use, as they are commonly written, lower case. Anything
#: else counts as forbidding: a wrong rejection costs a question, a wrong permission a lawsuit.
_COMMERCIAL = re.compile(
    r"(mit(-0)?|0bsd|isc|unlicense|zlib|bsl-1\.0|apache([ -]?2(\.0)?)?|apache license.*2\.0"
    r"|bsd([ -][234][ -]clause)?|cc0([ -]1\.0)?|cc[ -]by(-sa)?([ -][1-4]\.[05])?|pddl(-1\.0)?"
    r"|odc-by(-1\.0)?|odbl(-1\.0)?|public domain|cdla-permissive-[12]\.0"
    r"|(l|a)?gpl([ -]?v?[23](\.[01])?)?(-only|-or-later|\+)?|mpl[ -]?(2\.0)?)( license| licence)?"
)


def allows_commercial(licence: str) -> bool:
    """Whether a licence by that name is known to allow commercial use.

    Example:
        >>> allows_commercial("Apache-2.0"), allows_commercial("MIT; CC-BY-NC-4.0")
        (True, False)
    """
    parts = re.split(r"\s*(?:;|,|\band\b|\s/\s)\s*", licence.strip().lower())
    return all(_COMMERCIAL.fullmatch(part.strip("() ")) for part in parts)


def forbidding(provenance: Mapping[str, Any]) -> list[str]:
    """Everything in a lineage that does not allow commercial use, such as
    `teacher wav2vec2 (CC-BY-NC-SA-4.0)`.

    A lineage that names no teacher or no audio is unknown in this part.

    Example:
        >>> forbidding({"teachers": [{"name": "a", "licence": "MIT"}], "code": {"licence": "MIT"}})
        ['audio not listed (unknown)']
    """
    code = provenance.get("code") or {"name": "code"}
    entries = [
        *(("teacher", entry.get("name"), entry) for entry in _listed(provenance, "teachers")),
        *(("audio", entry.get("source"), entry) for entry in _listed(provenance, "audio")),
        ("code", code.get("name"), code),
    ]
    return [
        f"{kind} {name} ({entry.get('licence') or UNKNOWN})"
        for kind, name, entry in entries
        if not allows_commercial(str(entry.get("licence") or UNKNOWN))
    ]


def check(provenance: Mapping[str, Any], use: str, where: str) -> None:
    """Reject a lineage that forbids a use, "commercial"; `where` is named in the error.

    Raises:
        Wav2SmallError: what forbids it, or is of unknown licence
    """
    if use not in USES:
        raise Wav2SmallError(f"--check-licence {use}: there is only {', '.join(USES)}")
    if names := forbidding(provenance):
        raise Wav2SmallError(
            f"{where}: commercial use is not allowed by {', '.join(names)}; "
            "distil from a teacher and audio that allow it"
        )


def _listed(provenance: Mapping[str, Any], kind: str) -> list[Mapping[str, Any]]:
    return list(provenance.get(kind) or ()) or [{"name": "of unknown name", "source": "not listed"}]
