"""How a multimodal teacher is fine-tuned: its encoders, clips, passages and layout."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from wav2small import audio
from wav2small.errors import AudioError, Wav2SmallError
from wav2small.progress import note
from wav2small.tables import Labels
from wav2small.teachers.multimodal import dialogue
from wav2small.teachers.multimodal import teacher as multimodal
from wav2small.teachers.multimodal.base import MultimodalNetwork
from wav2small.teachers.multimodal.dialogue import Context, Passage, Script, Turn

from .training import LONGEST_S, Part, RatedClips

WITHOUT_TEXT = "_without_text"  # ends the names of figures with transcripts taken away
CACHED_TURNS = 256  # of other turns of the dialogues, that stay in memory; chosen
_NS = 1_000_000_000


class MultimodalRecipe:
    """How two encoders, or a pretrained system, become a multimodal teacher.

    Args:
        system: of `multimodal.SYSTEMS`
        speech: folder or hub id of a backbone
        text: folder or hub id of a language model
        pretrained: folder of `pretrain`, instead of these two; with `speech`, whose encoder then
            takes the place of the pretrained one
        lora: rank of the adapters that the encoders learn through, 0 = the system's own; None =
            they learn themselves
        options: changes of the system's `defaults`

    Attributes:
        identity: what makes two runs the same run
        entries: of the provenance: every encoder with its licence
        scale: mean and deviation of samples, if the speech encoder names them

    Raises:
        Wav2SmallError: an encoder is missing, or cannot be used
    """

    def __init__(
        self,
        system: str,
        speech: str | None = None,
        text: str | None = None,
        *,
        pretrained: str | None = None,
        lora: int | None = None,
        options: Mapping[str, Any] | None = None,
    ):
        self.kind = multimodal.network_class(system)
        self.options = dict(options or {})
        self.lora = lora
        own = self.kind.own_encoder is not None
        if pretrained is not None and text is None and not (own and speech):
            self.start = multimodal.from_pretrained(pretrained, system)
            if speech is not None:
                self.start = multimodal.with_speech(self.start, speech)
        elif pretrained is None and text is not None and own:
            if speech is not None:
                note(f"note: {system} has its own speech encoder; --speech is not used")
            self.start = multimodal.from_encoders(None, text, own_encoder=self.kind.own_encoder)
        elif pretrained is None and speech is not None and text is not None:
            self.start = multimodal.from_encoders(speech, text)
        else:
            encoder = "" if self.kind.own_encoder else "--speech FOLDER and "
            raise Wav2SmallError(
                f"--teacher {system}: give {encoder}--text FOLDER, or --pretrained FOLDER of "
                f"`wav2small pretrain {system}`"
            )
        self.system = system
        self.entries = self.start.entries
        self.scale = self.start.scale
        backbone = " + ".join(entry["id"] for entry in self.entries)
        self.identity: dict[str, Any] = {"backbone": backbone, "revision": self.start.identity}
        self.identity |= {"teacher": system, "lora": lora}
        if self.options:
            self.identity["options"] = self.options
        self._network: MultimodalNetwork | None = None

    @property
    def context(self) -> Context:
        """What of a dialogue the system asks for, with these options."""
        return self.kind.wanted({**self.kind.defaults, **self.start.config, **self.options})

    def clips(self, table: Labels, classes: np.ndarray | None, crop_s: float) -> MultimodalClips:
        """Clips of a table with transcripts."""
        return MultimodalClips(table, classes, crop_s, self)

    def build(
        self,
        dimensions: Sequence[str],
        categories: Sequence[str],
        scale: tuple[float, float],
        *,
        trained: bool = True,
    ) -> MultimodalNetwork:
        """A network with the encoders' weights and new layers; see `multimodal.build`."""
        heads: dict[str, Any] = {"dimensions": dimensions, "categories": categories, "scale": scale}
        how = {**heads, "trained": trained, **self.options}
        network = multimodal.build(self.system, self.start, **how)
        network.speech.freeze_front()
        if self.lora is not None:
            network.adapt(self.lora)
        self._network = network
        return network

    save = staticmethod(multimodal.save)

    @property
    def network(self) -> MultimodalNetwork:
        """What was built last: its `collate` makes batches."""
        assert self._network is not None
        return self._network


class MultimodalClips(RatedClips):
    """Clips of a label table with their transcripts and the turns around them."""

    def __init__(
        self, table: Labels, classes: np.ndarray | None, crop_s: float, recipe: MultimodalRecipe
    ):
        super().__init__(table, classes, crop_s)
        self.recipe = recipe
        self.script = Script(table.frame, recipe.context)
        self.script.report(recipe.start.tokenizer.too_long)
        self._text = True
        self._cached = functools.lru_cache(CACHED_TURNS)(self._read)

    def shuffled(self, rows: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Dialogue by dialogue, where the system learns from full conversations."""
        order = super().shuffled(rows, random)
        if not self.recipe.kind.by_dialogue:
            return order
        codes = self.script.dialogues(order)
        ranks = random.permutation(int(codes.max(initial=-1)) + 2)
        return order[np.argsort(ranks[codes], kind="stable")]

    def conditions(self) -> dict[str, contextlib.AbstractContextManager[None]]:
        """With transcripts, and without."""
        return {**super().conditions(), WITHOUT_TEXT: self.without_text()}

    @contextlib.contextmanager
    def without_text(self) -> Iterator[None]:
        """Within it, no clip has a transcript."""
        self._text = False
        try:
            yield
        finally:
            self._text = True

    def part(self, rows: np.ndarray, draws: np.ndarray | None) -> Part:
        """See `RatedClips.part`; the second draw hides transcripts in training."""

        def passage(place: int, row: int) -> Passage:
            found = self.passage(row, None if draws is None else draws[place, 0])
            hidden = draws is not None and draws[place, 1] < self.recipe.network.text_dropout
            return without_text(found) if hidden or not self._text else found

        passages = self.readable(rows, passage)
        batch = self.recipe.network.collate(list(passages.values())) if passages else None
        return Part((batch,), np.array(list(passages), dtype=np.int64))

    def passage(self, row: int, cut: float | None) -> Passage:
        """The passage of a row with its signals; the own turn cropped as `RatedClips` crops.

        Raises:
            AudioError: the clip cannot be decoded, or its words have times that cannot be
        """
        passage = self.script.passage(int(row))
        signal = self.signal(row)
        rate = audio.SAMPLING_RATE
        own = passage.own
        end = own.start + round(len(signal) / rate * _NS)
        if wrong := dialogue.fault(own, end):
            raise AudioError(f"{own.file}: {wrong}; correct `words` (seconds of the file)")
        most = self.crop if cut is not None else round(LONGEST_S * rate)
        if len(signal) > most:
            first = 0 if cut is None else int(cut * (len(signal) - most + 1))
            begin = own.start + round(first / rate * _NS)
            own = own.within(begin, begin + round(most / rate * _NS))
            signal = signal[first : first + most]
        passage = passage.with_own(own._replace(signal=signal))
        places = dialogue.audio_places(self.script.context, passage)
        return dialogue.with_audio(passage, places, self._decode)

    def _decode(self, turn: Turn) -> np.ndarray:
        return self._cached(turn.file or "", turn.start, turn.end)

    def _read(self, file: str, start: int, end: int | None) -> np.ndarray:
        end_s = None if end is None else end / _NS
        signal = audio.read(self.table.path(file), start_s=start / _NS, end_s=end_s)
        return signal[-round(LONGEST_S * audio.SAMPLING_RATE) :]


def without_text(passage: Passage) -> Passage:
    """The same passage without transcripts."""
    turns = tuple(turn._replace(text=None, words=None) for turn in passage.turns)
    return Passage(turns, passage.at)
