"""Synthetic speech: espeak-ng reads sentences in many voices and moods.

It gives the demo and the tests speech that needs no download. The library comes as a wheel
(`espeakng-loader`); it is called through its C interface. The speech is free:
the sentences are our own, the recordings are CC0-1.0.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from wav2small.audio import SAMPLING_RATE
from wav2small.errors import Wav2SmallError
from wav2small.transcripts import Word

LICENCE = "CC0-1.0"

SENTENCES = {
    "en-us": (
        "The train leaves at seven.",
        "Nobody was outside.",
        "Did you really think so?",
        "Give it back right now!",
        "Nothing ever changes here.",
        "What a wonderful surprise!",
        "I left the letters at home.",
        "We walk along the river.",
    ),
    "en": (
        "The garden looks different.",
        "He will call before nine.",
        "Please stop that noise.",
        "We have won, at last!",
        "My keys are gone again.",
        "There is some bread left.",
    ),
    "de": (
        "Der Zug fährt um sieben.",
        "Der Brief liegt auf dem Tisch.",
        "Hast du das selbst gemacht?",
        "Wir gehen heute an den See.",
        "Das darf nicht wahr sein!",
        "Hier wohnt niemand mehr.",
    ),
    "fr": (
        "Le train part à sept heures.",
        "Où sont mes lunettes?",
        "Nous marchons sous la pluie.",
        "C'est vraiment magnifique!",
        "Il n'a jamais répondu.",
        "Tu aurais pu le dire.",
    ),
    "es": (
        "El tren sale a las siete.",
        "No encuentro las llaves.",
        "Comemos con los abuelos.",
        "¡Qué alegría verte!",
        "Nadie quiso escuchar.",
        "La ventana estaba abierta.",
    ),
    "it": (
        "Il treno parte alle sette.",
        "Il libro è sulla sedia.",
        "Domani andiamo al mare.",
        "Non parlarmi così!",
        "La casa è vuota.",
    ),
}

# espeak-ng's voice variants that sound like different people.
VOICES = tuple(
    "m1 f1 Alex Alicia m2 f2 Andy Andrea m3 f3 Denis Annie m4 f4 Diogo anika m5 f5 Gene aunty m6 "
    "belinda Henrique linda m7 steph Hugo grandma m8 shelby Lee Marco Mario Michael Mike adam "
    "antonio benjamin boris caleb david edward grandpa gustave ian iven john marcelo max michel "
    "miguel pablo paul pedro quincy robert sandro travis victor zac Gene2 Jacky Nguyen Reed Storm "
    "Tweaky RicishayMax announcer ed edward2 iven2 iven3 iven4 kaukovalta klatt klatt2 klatt3 "
    "klatt4 klatt5 klatt6 mike2 norbert rob steph2 steph3".split()
)

# Values of espeak_PARAMETER and of the calls below in espeak-ng's speak_lib.h.
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_SYNCHRONOUS, _UTF8 = 2, 1
_LIST_TERMINATED, _WORD, _END = 0, 1, 5  # of espeak_EVENT_TYPE


class _Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),  # of the first letter, from 1
        ("length", ctypes.c_int),  # in letters
        ("audio_position", ctypes.c_int),  # milliseconds
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    ]


_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


@dataclass(frozen=True)
class Utterance:
    """What is said, by whom and how.

    Attributes:
        text: the sentence
        language: espeak-ng's name of the language
        speaker: one of `VOICES`
        pitch: 0..99, espeak-ng's scale
        pitch_range: 0..99, from monotone to singing
        rate_wpm: words per minute
        volume: 0..200, 100 = as loud as fits without clipping
        size: of the speaker compared with the voice's own; pitch, formants and rate go down by it
        tilt: of the microphone: the share of each sample taken off the next; above 0 it is
            bright, below 0 dull
    """

    text: str
    language: str
    speaker: str
    pitch: int
    pitch_range: int
    rate_wpm: int
    volume: int
    size: float = 1.0
    tilt: float = 0.0


class Speaker:
    """espeak-ng in this process.

    The library keeps what wavers in a voice in global variables, from one utterance to the next. So
    each speaker loads a copy of the library of its own: the same utterances in the same order are
    the same samples in every process on a machine, whatever other speakers said before.
    """

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError as error:
            raise Wav2SmallError(
                "espeakng-loader is not installed; pip install 'wav2small[demo]'"
            ) from error
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            copy = shutil.copy(espeakng_loader.get_library_path(), folder)
            self._library = ctypes.CDLL(copy)
        data = os.fsencode(espeakng_loader.get_data_path())
        self._rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, data, 0)
        if self._rate <= 0:
            raise Wav2SmallError("espeak-ng did not start; reinstall espeakng-loader")
        self._blocks: list[np.ndarray] = []
        self._events: list[tuple[int, int, int, int]] = []
        # Kept on self: the library calls it for as long as it lives.
        self._callback = _CALLBACK(self._take)
        self._library.espeak_SetSynthCallback(self._callback)

    def _take(self, block: ctypes._Pointer, samples: int, events: ctypes._Pointer) -> int:
        if block and samples > 0:
            self._blocks.append(np.ctypeslib.as_array(block, (samples,)).copy())
        number = 0
        while events and events[number].type != _LIST_TERMINATED:
            event = events[number]
            if event.type in (_WORD, _END):
                found = event.type, event.text_position, event.length, event.audio_position
                self._events.append(found)
            number += 1
        return 0

    def synthesise(self, utterance: Utterance) -> np.ndarray:
        """Synthesise speech: signal, float32 (samples,), 16 kHz, -1..1."""
        return self.synthesise_timed(utterance)[0]

    def synthesise_timed(self, utterance: Utterance) -> tuple[np.ndarray, list[Word]]:
        """The signal as of `synthesise`, and the time of every word.

        A word ends where the next one begins, the last one of a clause where the clause does.
        """
        import soxr

        voice = f"{utterance.language}+{utterance.speaker}".encode()
        if self._library.espeak_SetVoiceByName(voice) != 0:
            raise Wav2SmallError(f"espeak-ng has no voice {voice.decode()}")
        settings = {_RATE: utterance.rate_wpm, _VOLUME: utterance.volume}
        settings |= {_PITCH: utterance.pitch, _RANGE: utterance.pitch_range}
        for parameter, value in settings.items():
            self._library.espeak_SetParameter(parameter, value, 0)
        # Some voices waver and hiss by the library's generator, which starts from the clock.
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        text = utterance.text.encode() + b"\0"
        self._blocks.clear()
        self._events.clear()
        self._library.espeak_Synth(text, len(text), 0, 1, 0, _UTF8, None, None)
        if not self._blocks:
            raise Wav2SmallError(f"espeak-ng said nothing for {utterance.text!r}")
        signal = np.concatenate(self._blocks).astype(np.float32) / 32768
        signal[1:] -= utterance.tilt * signal[:-1]
        signal = soxr.resample(signal, self._rate / utterance.size, SAMPLING_RATE)
        return signal, self._words(utterance, len(signal) / SAMPLING_RATE)

    def _words(self, utterance: Utterance, duration_s: float) -> list[Word]:
        words = []
        events = [*self._events, (_END, 0, 0, 1 << 30)]
        for (kind, position, length, begin), after in zip(events, events[1:], strict=False):
            if kind == _WORD:
                text = utterance.text[position - 1 : position - 1 + length]
                times = (time * utterance.size / 1000 for time in (begin, after[3]))
                start, end = (min(time, duration_s) for time in times)
                words.append(Word(text, round(start, 4), round(end, 4)))
        return words


def utterances(clips: int, *, voices: int | Sequence[int], seed: int = 0) -> Iterator[Utterance]:
    """A varied script: each voice speaks every language, calm and excited.

    Args:
        clips: number of utterances
        voices: how many of `VOICES` take part, or which, by number
        seed: the same seed gives the same script
    """
    random = np.random.default_rng(seed)
    languages = sorted(SENTENCES)
    cast = range(voices) if isinstance(voices, int) else voices
    for number in range(clips):
        voice = cast[number % len(cast)]
        pitch = int(np.random.default_rng(voice).integers(20, 70))
        language = languages[random.integers(len(languages))]
        sentences = SENTENCES[language]
        # One hidden excitement moves pitch, range, rate and loudness together, as in people;
        # each also moves on its own.
        excitement = random.uniform(-1, 1)
        yield Utterance(
            text=sentences[random.integers(len(sentences))],
            language=language,
            speaker=VOICES[voice],
            pitch=int(np.clip(pitch + 25 * excitement + random.normal(0, 8), 0, 99)),
            pitch_range=int(np.clip(50 + 40 * excitement + random.normal(0, 15), 0, 99)),
            rate_wpm=int(np.clip(170 + 50 * excitement + random.normal(0, 25), 90, 300)),
            volume=int(np.clip(55 + 28 * excitement + random.normal(0, 10), 15, 105)),
            size=round(random.uniform(0.82, 1.22), 3),
            tilt=round(random.uniform(-0.4, 0.6), 3),
        )


def speak_corpus(
    folder: str | os.PathLike[str], *, clips: int, voices: int | Sequence[int], seed: int = 0
) -> Path:
    """Speak a corpus to 16 kHz FLAC files.

    Args:
        folder: where to write; `labels.csv` in it lists file, speaker and how each was said
        clips: number of files
        voices: see `utterances`
        seed: of the script

    Returns:
        path of the table
    """
    import pandas as pd
    import soundfile

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    speaker = Speaker()
    rows = []
    for number, utterance in enumerate(utterances(clips, voices=voices, seed=seed)):
        file = f"{number:04d}-{utterance.speaker}.flac"
        soundfile.write(folder / file, speaker.synthesise(utterance), SAMPLING_RATE)
        rows.append({"file": file, **asdict(utterance)})
    table = folder / "labels.csv"
    pd.DataFrame(rows).to_csv(table, index=False)
    return table
