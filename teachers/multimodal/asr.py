"""Transcripts for an index that has none, by a Whisper-type model of `transformers`.

`label --asr FOLDER|HUB_ID` fills `text` and `words` of the clips that have no `text`; both stay in
the label table. One clip at a time, in the process that was started, whatever engine labels
afterwards. Transcripts lie next to the unfinished table: an interrupted run continues.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from wav2small import audio, index, progress
from wav2small.errors import AudioError, Wav2SmallError
from wav2small.folders import Folder
from wav2small.index import Index
from wav2small.session import first_line
from wav2small.teachers.speech import checkpoint
from wav2small.teachers.speech.checkpoint import Checkpoint
from wav2small.teachers.speech.neural import choose_device, choose_dtype
from wav2small.training import weights
from wav2small.transcripts import Word, cells, parse

from .encoders import TOKENIZER_FILES

WINDOW_S = 30.0  # of Whisper's input
_FILES = (*TOKENIZER_FILES, "generation_config.json", "normalizer.json")
_FRAME_S = 0.01  # of Whisper's spectrogram
_FLUSH_S = 10.0


class Recogniser:
    """A recogniser in a folder or of the hub; the model is loaded when `fill` needs it.

    Raises:
        Wav2SmallError: none there, or of another model type
    """

    def __init__(self, spec: str):
        self.source = checkpoint.find(spec, extra=_FILES, option="--asr")
        kind = self.source.config.get("model_type")
        if kind != "whisper":
            raise Wav2SmallError(
                f"{self.source.folder / checkpoint.CONFIG}: model_type {kind!r} is no recogniser; "
                "--asr takes a Whisper-type model"
            )

    def fill(self, source: Index, folder: Folder, *, device: str, dtype: str) -> Index:
        """See `fill`."""
        return fill(source, Transcriber(self.source, device=device, dtype=dtype), folder)


class Transcriber:
    """Speech to words, by a Whisper-type model; `device` and `dtype` as of `NeuralTeacher`.

    Raises:
        Wav2SmallError: files are missing or do not fit
    """

    def __init__(self, source: Checkpoint, *, device: str = "auto", dtype: str = "auto"):
        import transformers

        self.device = choose_device(device)
        self.dtype = choose_dtype(dtype, self.device)
        found: Any
        try:
            found = transformers.WhisperForConditionalGeneration.from_pretrained(
                source.folder,
                use_safetensors=True,
                trust_remote_code=False,
                attn_implementation="eager",  # times of words are read from its attention
                output_loading_info=True,
            )
            self._extract = transformers.WhisperFeatureExtractor.from_pretrained(source.folder)
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(
                source.folder, use_fast=True, trust_remote_code=False
            )
        except Exception as error:  # its parsers raise whatever their languages have
            problem = f"no recogniser can be read ({first_line(error)})"
            raise Wav2SmallError(f"{source.folder}: {problem}") from error
        model, loading = found
        missing = sorted(key for key in loading["missing_keys"] if key != "proj_out.weight")
        weights.reject(source.folder / checkpoint.WEIGHTS, type(model).__name__, missing=missing)
        self._model: Any = model.eval().requires_grad_(False).to(self.device, self.dtype)
        config = self._model.generation_config
        if getattr(config, "alignment_heads", None) is None:
            # Whisper's own choice where nothing is known: all heads of the upper half.
            layers, heads = model.config.decoder_layers, model.config.decoder_attention_heads
            config.alignment_heads = [
                [layer, head] for layer in range(layers // 2, layers) for head in range(heads)
            ]

    def words(self, signal: np.ndarray) -> list[Word]:
        """The words of a signal of 16 kHz, of any length, in seconds from its beginning."""
        length_s = len(signal) / audio.SAMPLING_RATE
        found: list[Word] = []
        for low, high in index.spans(length_s, window_s=WINDOW_S, hop_s=WINDOW_S):
            begin = max(low, found[-1].end) if found else low  # the last span is moved back
            part = signal[round(begin * audio.SAMPLING_RATE) : round(high * audio.SAMPLING_RATE)]
            if len(part) >= audio.MIN_DURATION_S * audio.SAMPLING_RATE:
                found += [
                    Word(word.word, round(word.start + begin, 3), round(word.end + begin, 3))
                    for word in self._words(part)
                ]
        return found

    def _words(self, signal: np.ndarray) -> list[Word]:
        length_s = len(signal) / audio.SAMPLING_RATE
        rate = audio.SAMPLING_RATE
        features = self._extract(signal, sampling_rate=rate, return_tensors="pt")
        with torch.inference_mode():
            found = self._model.generate(
                features.input_features.to(self.device, self.dtype),
                return_token_timestamps=True,
                return_dict_in_generate=True,
                num_frames=max(2, round(length_s / _FRAME_S)),
            )
        tokens = found["sequences"][0].tolist()
        ends = found["token_timestamps"][0].float().tolist()
        return grouped(self._tokenizer, tokens, ends, length_s)


def grouped(tokenizer: Any, tokens: list[int], ends: list[float], length_s: float) -> list[Word]:
    """Words from tokens and when each of them ends.

    A word begins at a token that begins with a blank, as byte-level tokenizers write it; special
    tokens belong to none.
    """
    special = set(tokenizer.all_special_ids)
    groups: list[tuple[list[int], float, float]] = []
    before = 0.0
    for token, end in zip(tokens, ends, strict=True):
        end = min(max(end, before), length_s)
        text = "" if token in special else tokenizer.decode([token])
        if token not in special:
            if not groups or text.startswith(" "):
                groups.append(([], before, end))
            ids, start, _ = groups[-1]
            groups[-1] = ([*ids, token], start, end)
        before = end
    decoded = (" ".join(tokenizer.decode(ids).split()) for ids, _, _ in groups)
    found = zip(decoded, groups, strict=True)
    return [Word(text, start, end) for text, (_, start, end) in found if text]


def fill(source: Index, transcriber: Transcriber, folder: Folder) -> Index:
    """An index with a transcript for every clip that can be decoded.

    Args:
        source: clips; those that have a `text` keep it
        transcriber: of the others
        folder: of the unfinished run, where what is done is kept
    """
    import pandas as pd

    frame = source.frame.copy()
    texts: list[Any] = list(frame["text"]) if "text" in frame else [None] * len(frame)
    words: list[Any] = list(frame["words"]) if "words" in frame else [None] * len(frame)
    done = _done(folder)
    todo = [row for row, text in enumerate(texts) if text is None and row not in done]
    writer = _Writer(folder)
    with progress.bar(len(todo), unit="clip", desc="asr") as bar:
        for row in todo:
            done[row] = _transcribed(source, row, transcriber)
            writer.add(row, done[row])
            bar.update()
    writer.flush()
    for row, found in done.items():
        texts[row] = " ".join(word.word for word in found) or None
        words[row] = cells(found)
    frame["text"] = pd.Series(texts, index=frame.index, dtype=object)
    frame["words"] = pd.Series(words, index=frame.index, dtype=object)
    return replace(source, frame=frame)


def _transcribed(source: Index, row: int, transcriber: Transcriber) -> list[Word]:
    clip = source.frame.iloc[row]
    start_s, end_s = clip["start"].total_seconds(), index.seconds(clip["end"])
    try:
        signal = audio.read(source.path(clip["file"]), start_s=start_s, end_s=end_s)
    except AudioError:
        return []  # the labelling run reports why
    found = transcriber.words(signal)
    return [Word(w.word, w.start + start_s, w.end + start_s) for w in found]


class _Writer:
    """Keeps transcripts as files of JSON lines, each complete or absent."""

    def __init__(self, folder: Folder):
        self.folder = folder
        self.lines: list[str] = []
        self.flushed = time.monotonic()

    def add(self, row: int, words: list[Word]) -> None:
        self.lines.append(json.dumps([row, cells(words)], ensure_ascii=False))
        if time.monotonic() - self.flushed > _FLUSH_S:
            self.flush()

    def flush(self) -> None:
        if self.lines:
            text = "\n".join(self.lines) + "\n"
            name = f"transcripts-{len(self.folder.names('transcripts-')):06d}.jsonl"
            self.folder.write(name, lambda path: path.write_text(text, encoding="utf-8"))
        self.lines, self.flushed = [], time.monotonic()


def _done(folder: Folder) -> dict[int, list[Word]]:
    found = {}
    for name in folder.names("transcripts-"):
        with folder.open(name) as file:
            for line in file.read().decode().splitlines():
                row, words = json.loads(line)
                found[int(row)] = list(parse(words, name) or ())
    return found
