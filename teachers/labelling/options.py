"""What a labelling run is asked for, in groups of related options."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from wav2small import augmentation, provenance
from wav2small.errors import Wav2SmallError
from wav2small.index import check_window


@dataclass(frozen=True)
class TeacherOptions:
    """What a teacher's own files leave open.

    Attributes:
        output: output of an ONNX model (default: logits, or the only one)
        dimensions: what the columns of an ONNX model's output are, in their order, such as
            valence arousal dominance (default: as in its model.yaml)
        scale: lowest and highest output of an ONNX model, mapped to 0..1 (default: 0 1)
        embedding: output of an ONNX model that becomes the column `embedding`, such as
            hidden_states
        licence: licence of a teacher that names none
        placement: a teacher of categories alone gives arousal, dominance and valence, too, by the
            documented places of its categories
        members: teachers of --teacher ensemble (default: the paper's)
        weights: weight of each member (default: equal)
        revision: commit of --teacher wavlm or wav2vec2

    Example:
        >>> TeacherOptions(licence="CC0-1.0").given("acoustic")
        {'licence': 'CC0-1.0'}
    """

    output: str | None = None
    dimensions: Sequence[str] | None = None
    scale: tuple[float, float] | None = None
    embedding: str | None = None
    licence: str | None = None
    placement: bool = False
    members: Sequence[str] | None = None
    weights: Sequence[float] | None = None
    revision: str | None = None

    def given(self, teacher: Any) -> dict[str, Any]:
        """Those that are set, as options of `load_teacher`.

        Raises:
            Wav2SmallError: the teacher has no such option
        """
        given = {name: value for name, value in asdict(self).items() if value not in (None, False)}
        for name in ("members", "weights", "revision"):
            fits = ("wavlm", "wav2vec2") if name == "revision" else ("ensemble",)
            if name in given and teacher not in fits:
                raise Wav2SmallError(f"--{name} is for --teacher {' and '.join(fits)}")
        return given


@dataclass(frozen=True)
class SourceOptions:
    """Which clips of a source are labelled, and what is known about them.

    Attributes:
        root: folder that the files of a table are relative to
        time_unit: unit of the times in a table that are plain numbers: s, ms or us
        limit: label the first N clips only
        window_s: clips longer than S seconds get one label per window of S
        hop_s: seconds between windows (default: the window)
        asr: folder or hub id of a Whisper-type model that first transcribes the clips without
            `text`; `text` and `words` go to the label table
        audio_licence: licence of the audio, for provenance
        strict: stop at the first clip that cannot be used

    Raises:
        Wav2SmallError: a window, hop or limit that cannot be

    Example:
        >>> SourceOptions(window_s=3.0).hop_s is None
        True
    """

    root: str | os.PathLike[str] | None = None
    time_unit: str = "s"
    limit: int | None = None
    window_s: float = 12.0
    hop_s: float | None = None
    asr: str | None = None
    audio_licence: str = provenance.UNKNOWN
    strict: bool = False

    def __post_init__(self) -> None:
        check_window(self.window_s, self.hop_s)
        if self.limit is not None and self.limit < 1:
            raise Wav2SmallError(f"--limit {self.limit}: give 1 or more")


@dataclass(frozen=True)
class VariantOptions:
    """Augmented copies of each clip that are labelled too.

    Attributes:
        variants: label K augmented copies of each clip
        noise: folder of background noise for variants
        rooms: folder of room impulse responses for variants
        mixture: folder of speech that variants mix in
        targets: "heard": the teacher labels the variant; "clean": it labels the voice before noise,
            rooms and channels are added, through which people perceive the same emotion
        noise_licence: licence of --noise, for provenance
        rooms_licence: licence of --rooms, for provenance
        mixture_licence: licence of --mixture, for provenance

    Raises:
        Wav2SmallError: folders without variants, licences without folders, or a negative number

    Example:
        >>> VariantOptions(2).settings().rooms is None
        True
    """

    variants: int = 0
    noise: str | None = None
    rooms: str | None = None
    mixture: str | None = None
    targets: str = "heard"
    noise_licence: str = provenance.UNKNOWN
    rooms_licence: str = provenance.UNKNOWN
    mixture_licence: str = provenance.UNKNOWN

    def __post_init__(self) -> None:
        if self.variants < 0:
            raise Wav2SmallError(f"--variants {self.variants}: give 0 or more")
        if self.targets not in augmentation.TARGETS:
            known = " or ".join(augmentation.TARGETS)
            raise Wav2SmallError(f"--targets {self.targets}: give {known}")
        if self.targets != "heard" and not self.variants:
            raise Wav2SmallError("--targets is for variants; give how many with --variants K")
        for name in ("noise", "rooms", "mixture"):
            if getattr(self, name) and not self.variants:
                raise Wav2SmallError(f"--{name} is for variants; give how many with --variants K")
            licence = getattr(self, f"{name}_licence")
            if licence != provenance.UNKNOWN and not getattr(self, name):
                raise Wav2SmallError(f"--{name}-licence {licence}: it is for --{name} FOLDER")

    def sources(self) -> list[dict[str, str]]:
        """The folders in a provenance: labels of variants depend on them, too."""
        return [
            {"source": folder, "licence": getattr(self, f"{role}_licence"), "role": role}
            for role in ("noise", "rooms", "mixture")
            if (folder := getattr(self, role))
        ]

    def settings(self) -> augmentation.VariantSettings:
        """The folders, checked and pinned.

        Raises:
            Wav2SmallError: a folder without audio, or a file in it that cannot be read
        """
        if not self.variants:
            return augmentation.VariantSettings()
        return augmentation.settings(
            noise=self.noise, rooms=self.rooms, mixture=self.mixture, targets=self.targets
        )


@dataclass(frozen=True)
class ComputeOptions:
    """How a run computes; but for rounding none of it changes a label.

    Attributes:
        workers: processes that read audio, and label where the teacher is cheap; 0 = none
            (default: one per core). With "ray" the number of actors
        device: where neural teachers compute: auto, cpu, cuda, cuda:1 ...
        dtype: arithmetic of neural teachers: auto, float32, bfloat16, float16; int8 on a CPU is
            faster and less exact: the CCC of some labels with those of float32 is printed
        engine: "ray": one teacher per actor on the cluster of RAY_ADDRESS, else on one that is
            started here
        batch_s: seconds of audio in a batch of a neural teacher (default: 600 on a GPU, 2 on a
            CPU)
        threads: threads of a neural teacher on a CPU; 0 = chosen by timing the first batch
        flush_s: least seconds between two writes of what is done

    Raises:
        Wav2SmallError: no such engine
    """

    workers: int | None = None
    device: str = "auto"
    dtype: str = "auto"
    engine: str = "local"
    batch_s: float | None = None
    threads: int = 0
    flush_s: float = 10.0

    def __post_init__(self) -> None:
        if self.engine not in ("local", "ray"):
            raise Wav2SmallError(f"--engine {self.engine}: give local or ray")
