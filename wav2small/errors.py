"""The errors that a user can cause."""

from __future__ import annotations

#: Which extra of the package installs what; every other package comes with `train`.
_EXTRAS = {
    **dict.fromkeys("audeer audmetric fsspec pandas pyarrow scipy tabulate yaml".split(), "data"),
    **dict.fromkeys(("ray", "s3fs"), "ray"),
    "av": "av",
    "espeakng_loader": "demo",
    "peft": "lora",
    "sounddevice": "mic",
}


class Wav2SmallError(Exception):
    """An error the user can correct: one line with the problem, the file and the remedy.

    Example:
        >>> raise Wav2SmallError("a.wav: no such file; correct the path")
        Traceback (most recent call last):
        wav2small.errors.Wav2SmallError: a.wav: no such file; correct the path
    """


class AudioError(Wav2SmallError):
    """An audio file or clip that cannot be used. A long job lists it and goes on."""


class SilentError(AudioError):
    """A clip of one value throughout. A silent window of a longer clip is passed over."""


class MissingPackageError(Wav2SmallError, ImportError):
    """A package of an extra that is not installed."""


def one_line(text: str) -> str:
    """A text as a terminal shows it on one line: what is not printable is escaped.

    Example:
        >>> one_line("bad\\nname.wav: no such file")
        'bad\\\\nname.wav: no such file'
    """
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def missing_package(error: ModuleNotFoundError) -> MissingPackageError:
    """The error of a missing package with its remedy.

    Raises:
        ModuleNotFoundError: `error` itself, if it is about a module of wav2small

    Example:
        >>> str(missing_package(ModuleNotFoundError(name="pandas")))
        "the package pandas is not installed; pip install 'wav2small[data]'"
    """
    package = (error.name or "").split(".")[0]
    if package in ("", "wav2small"):
        raise error
    extra = _EXTRAS.get(package, "train")
    return MissingPackageError(
        f"the package {package} is not installed; pip install 'wav2small[{extra}]'"
    )
