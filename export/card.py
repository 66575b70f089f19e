"""README.md of a bundle: the model card. All figures come from the export itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wav2small.provenance import UNKNOWN, licence_line
from wav2small.provenance import licences as licences_of

from . import licences

PRECISION = {
    "fp32": "32-bit float weights",
    "int8": "8-bit weights, float arithmetic",
    "int4": "convolutions 8-bit, large matrices 4-bit, float arithmetic",
    "int8-static": "8-bit weights and activations; the front end stays in float",
}


def card(
    record: Mapping[str, Any],
    provenance: Mapping[str, Any],
    *,
    categories: Sequence[str] = (),
    dimensions: bool = True,
    streaming: bool = False,
    c: str | None = None,
) -> str:
    """The text of the card, from `card.md.jinja`.

    Args:
        record: of the verification, with `student`, `precision`, `bytes`, `parameters`,
            `macs_per_second` and `embedding`
        provenance: of the bundle
        categories: names of the second head
        dimensions: the first head is there
        streaming: the bundle also holds `streaming.onnx`
        c: likewise `c/` with this .h and .c
    """
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, trim_blocks=True, keep_trailing_newline=True)
    environment.filters["figure"] = _figure
    teachers = [{"name": UNKNOWN, **entry} for entry in provenance.get("teachers", ())]
    return environment.get_template("card.md.jinja").render(
        record=record,
        front_matter=front_matter(provenance),
        precisions=PRECISION,
        categories=categories,
        dimensions=dimensions,
        streaming=streaming,
        c=c,
        teachers=teachers,
        audio=provenance.get("audio", ()),
        code=provenance.get("code", {}),
        forbidding=licences.forbidding(provenance),
        licence_line=licence_line(provenance),
        unknown=UNKNOWN,
    )


#: Licences that the hub knows, by its names for them.
_HUB_LICENCES = (
    "apache-2.0 bsd-2-clause bsd-3-clause cc-by-4.0 cc-by-nc-4.0 cc-by-nc-nd-4.0 cc-by-nc-sa-4.0 "
    "cc-by-sa-4.0 cc0-1.0 gpl-3.0 mit odbl"
).split()
_HUB_TAGS = """\
library_name: wav2small
pipeline_tag: audio-classification
tags: [speech-emotion-recognition, arousal, dominance, valence]"""


def front_matter(provenance: Mapping[str, Any]) -> str:
    """The YAML that the hub reads at the head of a card.

    The licence is the one that forbids most: the only one, that which forbids commercial use, or
    "other" where more than one does or one is unknown.

    Example:
        >>> print(front_matter({"teachers": [{"licence": "CC-BY-NC-4.0"}]}))
        ---
        license: cc-by-nc-4.0
        library_name: wav2small
        pipeline_tag: audio-classification
        tags: [speech-emotion-recognition, arousal, dominance, valence]
        ---
    """
    found = licences_of(provenance) if provenance.get("teachers") else [UNKNOWN]
    binding = [name for name in found if not licences.allows_commercial(name)] or [
        name for name in found if name not in ("MIT", "CC0-1.0")
    ]
    name = binding[0].lower() if len(binding) == 1 else ("other" if binding else "mit")
    if name not in _HUB_LICENCES:
        name = "other\nlicense_name: see-provenance-json"
    return f"---\nlicense: {name}\n{_HUB_TAGS}\n---"


def _figure(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
