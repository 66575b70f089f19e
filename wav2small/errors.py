"""The one family of errors a user can cause."""


class Wav2SmallError(Exception):
    """Something the user can mend: one line that says what, where and how to mend it."""


class AudioError(Wav2SmallError):
    """An audio file or clip that cannot be used. A long job lists it and goes on."""
