"""Encoders of speech recognisers as backbones: Whisper and Moonshine of transformers.

Whisper takes log-mel frames of a fixed length, 30 s in the published models, and sees the silence
after a clip; only the frames of the clip are pooled, and audio beyond that length is not seen.
Moonshine normalises over a full clip, so that the clips of a batch go through one by one.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from wav2small import audio
from wav2small.errors import Wav2SmallError

N_FFT, HOP = 400, 160  # of Whisper's mel spectrogram (published)
_FRAME = 2 * HOP  # samples of a hidden state of Whisper

#: Model type -> its names of what other backbones call hidden_size, num_hidden_layers and
#: num_attention_heads.
NAMES = {
    "whisper": ("d_model", "encoder_layers", "encoder_attention_heads"),
    "moonshine": ("hidden_size", "encoder_num_hidden_layers", "encoder_num_attention_heads"),
}
_SHARED = ("hidden_size", "num_hidden_layers", "num_attention_heads")


def with_shared_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration that also has the names of other backbones.

    Example:
        >>> with_shared_names({"model_type": "whisper", "d_model": 384})["hidden_size"]
        384
    """
    own = NAMES[config["model_type"]]
    return {**config, **{s: config[n] for s, n in zip(_SHARED, own, strict=True) if n in config}}


def cut(config: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """A configuration of the first layers.

    Example:
        >>> cut({"model_type": "whisper", "encoder_layers": 4}, 2)["encoder_layers"]
        2
    """
    return {**config, NAMES[config["model_type"]][1]: layers, "num_hidden_layers": layers}


def encoder_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the encoder of a recogniser.

    Example:
        >>> list(encoder_weights({"model.encoder.conv1.bias": 0, "model.decoder.norm.weight": 0}))
        ['encoder.conv1.bias']
    """
    plain = {key.removeprefix("model."): value for key, value in state.items()}
    return {key: value for key, value in plain.items() if key.startswith("encoder.")}


class RecogniserEncoder(nn.Module):
    """The encoder of a recogniser, with random weights.

    Args:
        config: of transformers; `model_type` is whisper or moonshine
        where: named in errors

    Attributes:
        encoder: of transformers
        config: its configuration

    Raises:
        Wav2SmallError: none can be built from it
    """

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
            longest = _FRAME * self.config.max_source_positions
            lengths = lengths.clamp(max=longest)
            mels = log_mel(signal, lengths, bins=self.config.num_mel_bins, longest=longest)
            counts = (lengths + _FRAME - 1) // _FRAME
            hidden = self.encoder(mels).last_hidden_state[:, : int(counts.max())]
        else:
            rows = [
                self.encoder(signal[row : row + 1, :length]).last_hidden_state[0]
                for row, length in enumerate(lengths.tolist())
            ]
            counts = torch.tensor([len(states) for states in rows])
            hidden = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        steps = torch.arange(hidden.shape[1], device=hidden.device)
        return hidden, steps < counts.to(hidden.device)[:, None]


def log_mel(signal: Tensor, lengths: Tensor, *, bins: int, longest: int) -> Tensor:
    """Whisper's log-mel spectrogram.

    Args:
        signal: (B, T), 16 kHz, full scale 1
        lengths: (B,) samples
        bins: number of mel bands
        longest: samples that the spectrogram spans; silence is added, or the rest left out

    Returns:
        (B, bins, longest / 160)
    """
    from .neural import valid

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
