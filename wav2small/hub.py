"""Files of the Hugging Face hub: what is fetched, and what each failure means to the user."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from wav2small.errors import Wav2SmallError

from . import audio, media, table_files

#: The files of a bundle.
BUNDLE = ("*.onnx", "*.json", "model.yaml", "README.md")
_NETWORK = re.compile("httpx|requests")  # modules
_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?")


def is_id(spec: str | os.PathLike[str]) -> bool:
    """Whether a name can only be `owner/name` or `owner/name@revision` of the hub.

    Example:
        >>> is_id("owner/name@v1"), is_id("talks/monday.wav"), is_id("a/b/c")
        (True, False, False)
    """
    name = os.fspath(spec)
    other = {".onnx", *table_files.EXTENSIONS} | audio.EXTENSIONS | media.EXTENSIONS
    suffix = os.path.splitext(name)[1].lower()
    return bool(_ID.fullmatch(name)) and suffix not in other and not os.path.exists(name)


def fetch(spec: str, patterns: Iterable[str], *, option: str) -> Path:
    """Files of a repository of the hub, or of the local copy of an earlier download.

    Args:
        spec: `owner/name` or `owner/name@revision`
        patterns: names or patterns of the files
        option: of the command line that named it, for the remedy

    Raises:
        Wav2SmallError: no such repository or revision, or no network
    """
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise Wav2SmallError(
            f"{spec}: no such folder here; of the hub it needs: pip install huggingface_hub"
        ) from error

    name, _, revision = spec.partition("@")
    put = f"put the files of {name} into a folder and name the folder instead ({option} FOLDER)"
    download = huggingface_hub.snapshot_download
    try:
        return Path(download(name, revision=revision or None, allow_patterns=list(patterns)))
    except Exception as error:  # the client's own network errors are of many families
        match error:
            case errors.GatedRepoError():
                problem = f"access must be asked for on the hub; or {put}"
            case errors.RepositoryNotFoundError() | errors.HFValidationError():
                problem = f"no such repository on the hub (or private); or {put}"
            case errors.RevisionNotFoundError():
                problem = f"the repository has no revision {revision}"
            case _:
                known = (errors.LocalEntryNotFoundError, errors.HfHubHTTPError, OSError)
                if not isinstance(error, known) and not _NETWORK.search(type(error).__module__):
                    raise
                problem = f"no such folder here, and no hub within reach; {put}"
        raise Wav2SmallError(f"{spec}: {problem}") from error
