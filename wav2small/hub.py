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
    try:
        return Path(
            huggingface_hub.snapshot_download(
                name,
                revision=revision or None,
                allow_patterns=list(patterns),
            )
        )
    except errors.GatedRepoError as error:
        raise Wav2SmallError(f"{spec}: access must be asked for on the hub; or {put}") from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise Wav2SmallError(
            f"{spec}: no such repository on the hub (or private); or {put}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise Wav2SmallError(f"{spec}: the repository has no revision {revision}") from error
    except (errors.LocalEntryNotFoundError, errors.HfHubHTTPError, OSError) as error:
        raise Wav2SmallError(
            f"{spec}: no such folder here, and no hub within reach; {put}"
        ) from error
    except Exception as error:  # the client's own network errors are of many families
        if "httpx" not in type(error).__module__ and "requests" not in type(error).__module__:
            raise
        raise Wav2SmallError(
            f"{spec}: no such folder here, and no hub within reach; {put}"
        ) from error
