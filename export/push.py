"""`push`: a run, a teacher or a bundle goes to the Hugging Face hub with a model card.

What is uploaded loads again by its hub id: `label --teacher owner/name`, `finetune --speech` ...
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wav2small import models
from wav2small import provenance as provenances
from wav2small.errors import Wav2SmallError

from . import bundle, card, licences

#: What a run or a teacher's folder offers; validation tables name files of this machine.
_PATTERNS = (
    "config.json model*.safetensors model.safetensors.index.json provenance.json distill.toml "
    "preprocessor_config.json tokenizer* vocab* merges.txt special_tokens_map.json metrics.csv "
    "training.png README.md LICENSE*"
).split()


@dataclass(frozen=True)
class Pushed:
    """What went to the hub."""

    repository: str  # owner/name
    files: list[str]  # names of the files, the card included
    card: str  # text of README.md
    url: str = ""  # of the commit; empty for a dry run


def push(
    source: str | os.PathLike[str],
    repository: str,
    *,
    public: bool = False,
    dry_run: bool = False,
    check_licence: str | None = None,
    message: str = "Upload with wav2small",
) -> Pushed:
    """Upload a run, a teacher or a bundle to the Hugging Face hub.

    Args:
        source: folder of `distill`, `finetune` or `export`; or a model in the box by its name
        repository: owner/name; it is created if it is not there
        public: create it for everybody to see (default: private)
        dry_run: show what would be uploaded, without a network
        check_licence: "commercial": reject what was made from anything that forbids that use
        message: of the commit

    Raises:
        Wav2SmallError: no such folder, a bundle that was changed after its export, a lineage that
            forbids the use, no login, or no network

    Example:
        >>> push("bundle", "somebody/model", dry_run=True)
        Traceback (most recent call last):
        wav2small.errors.Wav2SmallError: bundle/verification.json: no such file, ...
    """
    folder = models.locate(source)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise Wav2SmallError(f"{repository}: name the repository owner/name")
    if not folder.is_dir():
        raise Wav2SmallError(f"{source}: no such folder; name a run, a teacher or a bundle")
    lineage: dict[str, Any] = {}
    if (folder / bundle.PROVENANCE).is_file():
        lineage = provenances.read(folder / bundle.PROVENANCE)
    if (folder / bundle.MODEL).is_file():
        record = bundle.read_record(folder)
        bundle.check_files(folder, record)
        names = sorted([*record["files"], bundle.RECORD])
    elif (folder / "config.json").is_file():
        found = {path.name for pattern in _PATTERNS for path in folder.glob(pattern)}
        names = sorted(name for name in found if (folder / name).is_file())
    else:
        raise Wav2SmallError(f"{source}: neither a bundle (model.onnx) nor a model (config.json)")
    if check_licence:
        licences.check(lineage, check_licence, str(source))
    there = (folder / bundle.CARD).is_file()
    text = (folder / bundle.CARD).read_text(encoding="utf-8") if there else _card(folder, lineage)
    if not there:
        names = sorted([*names, bundle.CARD])
    url = "" if dry_run else _upload(folder, repository, names, text, public, message)
    return Pushed(repository, names, text, url)


def _card(folder: Path, lineage: Mapping[str, Any]) -> str:
    """The card of a run or a teacher, which has none of its own."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    licence = f"{provenances.licence_line(lineage)};\n`{bundle.PROVENANCE}` has all of it"
    if not lineage:
        licence = f"unknown (no `{bundle.PROVENANCE}`)"
    kind = config.get("student") or config.get("teacher_name") or config.get("model_type", "model")
    return f"""\
{card.front_matter(lineage)}
# {kind}

Estimates how speech sounds: **arousal** (calm to excited), **dominance** (weak to strong) and
**valence** (negative to positive), each 0..1, from 16 kHz mono audio.

    wav2small label recordings/ -o labels.parquet --teacher OWNER/NAME

Made with [wav2small](https://arxiv.org/abs/2408.13920). Licences: {licence}.
"""


def _upload(
    folder: Path, repository: str, names: list[str], text: str, public: bool, message: str
) -> str:
    import huggingface_hub
    from huggingface_hub import CommitOperationAdd, errors

    try:
        api = huggingface_hub.HfApi()
        api.create_repo(repository, private=not public, exist_ok=True)
        contents = {name: os.fspath(folder / name) for name in names} | {bundle.CARD: text.encode()}
        operations = [CommitOperationAdd(name, content) for name, content in contents.items()]
        commit = api.create_commit(repository, operations, commit_message=message)
    except errors.LocalTokenNotFoundError as error:
        raise Wav2SmallError(f"{repository}: log in to the hub first: hf auth login") from error
    except errors.HfHubHTTPError as error:
        status, remedy = getattr(error.response, "status_code", None), "run the same command again"
        if status in (401, 403):
            remedy = "log in with a token that may write: hf auth login"
        raise Wav2SmallError(f"{repository}: the hub answers {status}; {remedy}") from error
    except Exception as error:  # the client's own network errors are of many families
        if not isinstance(error, OSError) and "httpx" not in type(error).__module__:
            raise
        raise Wav2SmallError(
            f"{repository}: the hub cannot be reached; run the same command again"
        ) from error
    return str(commit.commit_url)
