"""Encoders of speech recognisers and of a speech LLM as backbones: Whisper, Moonshine and
Qwen2-Audio of transformers.

Whisper takes log-mel frames of a fixed length, 30 s in the published models, and sees the silence
after a clip; only the frames of the clip are pooled, and audio beyond that length is not seen.
Moonshine normalises over a full clip, so that the clips of a batch go through one by one.
Qwen2-Audio's frames, like Whisper's, go through its audio tower and projector into its language
model, whose last hidden states are those of the speech; no prompt goes with them.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from wav2small import audio
from wav2small.errors import Wav2SmallError

from .neural import inside, valid

N_FFT, HOP = 400, 160  # of Whisper's mel spectrogram (published)
_FRAME = 2 * HOP  # samples of a hidden state of Whisper
LLM = "qwen2_audio"
LONGEST_S = 30  # of a clip for it: 3000 mel frames (published)
_PARTS = ("audio_tower.", "multi_modal_projector.", "language_model.")

#: Model type -> its names of what other backbones call hidden_size, num_hidden_layers and
#: num_attention_heads; an LLM's are those of its `text_config`.
NAMES = {
    "whisper": ("d_model", "encoder_layers", "encoder_attention_heads"),
    "moonshine": ("hidden_size", "encoder_num_hidden_layers", "encoder_num_attention_heads"),
    LLM: ("hidden_size", "num_hidden_layers", "num_attention_heads"),
}
_SHARED = ("hidden_size", "num_hidden_layers", "num_attention_heads")


def with_shared_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration that also has the names of other backbones.

    Example:
        >>> with_shared_names({"model_type": "whisper", "d_model": 384})["hidden_size"]
        384
    """
    own, names = config, NAMES[config["model_type"]]
    if config["model_type"] == LLM:
        own = config.get("text_config") or {}
    return {**config, **{s: own[n] for s, n in zip(_SHARED, names, strict=True) if n in own}}


def cut(config: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """A configuration of the first layers.

    Example:
        >>> cut({"model_type": "whisper", "encoder_layers": 4}, 2)["encoder_layers"]
        2
    """
    if config["model_type"] == LLM:
        text = {**config["text_config"], "num_hidden_layers": layers}
        text.pop("layer_types", None)  # one word for each layer, which follows from the rest
        return {**config, "text_config": text, "num_hidden_layers": layers}
    return {**config, NAMES[config["model_type"]][1]: layers, "num_hidden_layers": layers}


def encoder_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the encoder of a recogniser, or of an LLM without its head.

    Example:
        >>> list(encoder_weights({"model.encoder.conv1.bias": 0, "model.decoder.norm.weight": 0}))
        ['encoder.conv1.bias']
        >>> list(encoder_weights({"language_model.model.norm.weight": 0}))
        ['language_model.norm.weight']
    """
    plain = {
        key.removeprefix("model.").replace("language_model.model.", "language_model."): value
        for key, value in state.items()
        if not key.endswith("lm_head.weight")
    }
    return {key: value for key, value in plain.items() if key.startswith(("encoder.", *_PARTS))}


def build(config: Mapping[str, Any], where: Any) -> RecogniserEncoder | SpeechLLM:
    """The encoder of a configuration of transformers, with random weights.

    Raises:
        Wav2SmallError: none can be built from it
    """
    kind = SpeechLLM if config["model_type"] == LLM else RecogniserEncoder
    return kind(config, where)


class RecogniserEncoder(nn.Module):
    """The encoder of Whisper or Moonshine; see `build`."""

    def __init__(self, config: Mapping[str, Any], where: Any):
        super().__init__()
        import transformers
        from transformers.models.moonshine.modeling_moonshine import MoonshineEncoder
        from transformers.models.whisper.modeling_whisper import WhisperEncoder

        self.is_whisper = config["model_type"] == "whisper"
        left_out = ("id2label", "label2id", *(_SHARED if self.is_whisper else _SHARED[1:]))
        fields = {name: value for name, value in config.items() if name not in left_out}
        try:
            if self.is_whisper:
                fields["encoder_layerdrop"] = 0.0
                built: Any = transformers.WhisperConfig.from_dict(fields)
                self.encoder: Any = WhisperEncoder(built)
            else:
                built = transformers.MoonshineConfig.from_dict(fields)
                self.encoder = MoonshineEncoder(built)
                with torch.device("cpu"):  # no weight of a file: it must not stay without memory
                    self.encoder.rotary_emb = type(self.encoder.rotary_emb)(config=built)
        except (TypeError, ValueError, KeyError, AttributeError, ZeroDivisionError) as error:
            raise Wav2SmallError(f"{where}: no backbone can be built from it ({error})") from error
        self.config: Any = built

    def freeze_front(self) -> None:
        """Keep its CNN as it is."""
        for name, module in self.encoder.named_children():
            if name.startswith("conv"):
                module.requires_grad_(False)

    def forward(self, signal: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """See `backbones.hidden_states`; the signal has full scale 1."""
        if self.is_whisper:
            mels, counts = self._mels(signal, lengths)
            hidden = self.encoder(mels).last_hidden_state[:, : int(counts.max())]
        else:
            rows = [
                self.encoder(signal[row : row + 1, :length]).last_hidden_state[0]
                for row, length in enumerate(lengths.tolist())
            ]
            counts = torch.tensor([len(states) for states in rows])
            hidden = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return hidden, inside(counts, hidden)

    def layer_states(self, signal: Tensor) -> list[Tensor]:
        """One clip (T,), full scale 1 -> inputs of the layers, and the output (frames, size)."""
        given, frames = signal[None], None
        if self.is_whisper:
            given, counts = self._mels(given, torch.tensor([len(signal)]))
            frames = int(counts)
        found = self.encoder(given, output_hidden_states=True).hidden_states
        return [states[0, :frames] for states in found]

    def _mels(self, signal: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """What Whisper takes, and the number of states that are of the clip."""
        longest = _FRAME * self.config.max_source_positions
        lengths = lengths.clamp(max=longest)
        mels = log_mel(signal, lengths, bins=self.config.num_mel_bins, longest=longest)
        return mels, (lengths + _FRAME - 1) // _FRAME


class SpeechLLM(nn.Module):
    """A speech LLM without its head; see `build`. `config` is that of its language model."""

    def __init__(self, config: Mapping[str, Any], where: Any):
        super().__init__()
        import transformers

        for name in ("audio_config", "text_config"):
            if not isinstance(config.get(name), Mapping):
                raise Wav2SmallError(f"{where}: no {name}; bring the config.json of the checkpoint")
        fields = {name: value for name, value in config.items() if name not in _SHARED}
        try:
            built: Any = transformers.Qwen2AudioConfig(**fields)
            model: Any = transformers.Qwen2AudioModel(built)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise Wav2SmallError(f"{where}: no speech LLM can be built ({error})") from error
        self.config: Any = built.text_config
        self.audio_tower: Any = model.audio_tower
        self.multi_modal_projector: Any = model.multi_modal_projector
        self.language_model: Any = model.language_model
        with torch.device("cpu"):  # no weight of a file: it must not stay without memory
            rotary = self.language_model.rotary_emb
            self.language_model.rotary_emb = type(rotary)(config=self.config)

    def freeze_front(self) -> None:
        """Keep the audio tower as it is."""
        self.audio_tower.requires_grad_(False)

    def forward(self, signal: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """See `backbones.hidden_states`; the signal has full scale 1."""
        hidden, mask = self._projected(signal, lengths)
        states = self.language_model(inputs_embeds=hidden, attention_mask=mask.long())
        return states.last_hidden_state, mask

    def layer_states(self, signal: Tensor) -> list[Tensor]:
        """One clip (T,), full scale 1 -> inputs of the layers, and the output (frames, size)."""
        hidden, _ = self._projected(signal[None], torch.tensor([len(signal)]))
        found = self.language_model(inputs_embeds=hidden, output_hidden_states=True).hidden_states
        return [states[0] for states in found]

    def _projected(self, signal: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Frames as the language model takes them, and the mask of valid ones."""
        longest = LONGEST_S * audio.SAMPLING_RATE
        lengths = lengths.clamp(max=longest)
        tower = self.audio_tower
        middle, frames = tower._get_feat_extract_output_lengths((lengths + HOP - 1) // HOP)
        places = tower.config.max_source_positions
        away = torch.zeros(len(lengths), places, device=signal.device)
        away = away.masked_fill(~inside(middle, away), float("-inf"))[:, None, None]
        mels = log_mel(signal, lengths, bins=tower.config.num_mel_bins, longest=longest)
        hidden = tower(mels, attention_mask=away.expand(-1, 1, places, -1)).last_hidden_state
        hidden = self.multi_modal_projector(hidden)[:, : max(1, int(frames.max()))]
        return hidden, inside(frames.clamp(min=1), hidden)


def log_mel(signal: Tensor, lengths: Tensor, *, bins: int, longest: int) -> Tensor:
    """Whisper's log-mel spectrogram: (B, bins, longest / 160).

    Args:
        signal: (B, T), 16 kHz, full scale 1
        lengths: (B,) samples
        bins: number of mel bands
        longest: samples that the spectrogram spans; silence is added, or the rest left out
    """
    signal = (signal * valid(signal, lengths))[:, :longest].float()
    padded = nn.functional.pad(signal, (0, longest - signal.shape[1]))
    with torch.autocast(signal.device.type, enabled=False):
        window = torch.hann_window(N_FFT, device=signal.device)
        spectrum = torch.stft(padded, N_FFT, HOP, window=window, return_complex=True)
        power = _filters(bins).to(signal.device) @ spectrum[..., :-1].abs().square()
    levels = power.clamp(min=1e-10).log10()
    levels = torch.maximum(levels, levels.amax(dim=(1, 2), keepdim=True) - 8)
    return (levels + 4) / 4


@functools.lru_cache
def _filters(bins: int) -> Tensor:
    """Mel filters of Whisper, (bins, frequencies)."""
    from transformers.audio_utils import mel_filter_bank

    bank = mel_filter_bank(
        1 + N_FFT // 2, bins, 0.0, 8000.0, audio.SAMPLING_RATE, norm="slaney", mel_scale="slaney"
    )
    return torch.tensor(bank.T, dtype=torch.float32, device="cpu")
