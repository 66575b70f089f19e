"""Speech LLMs as speech encoders: Qwen2-Audio folders of `transformers`.

Log-mel frames go through its audio tower and projector into its language model, whose last hidden
states are those of the speech; no prompt goes with them. Clips are 30 s at most, as published.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from wav2small import audio
from wav2small.errors import Wav2SmallError
from wav2small.teachers.speech import checkpoint
from wav2small.teachers.speech.pretrained import Backbone
from wav2small.teachers.speech.recognisers import HOP, log_mel
from wav2small.training import weights

MODEL_TYPE = "qwen2_audio"
LONGEST_S = 30  # of a clip: 3000 mel frames (published)
_PARTS = ("audio_tower.", "multi_modal_projector.", "language_model.")


class SpeechLLM(nn.Module):
    """A speech LLM without its head.

    Args:
        config: of transformers, with `audio_config` and `text_config`
        where: named in errors

    Attributes:
        model: of transformers
        size: of the hidden states

    Raises:
        Wav2SmallError: none can be built from it
    """

    def __init__(self, config: Mapping[str, Any], where: Any):
        super().__init__()
        import transformers

        checkpoint.require(config, ("audio_config", "text_config"), where)
        try:
            built: Any = transformers.Qwen2AudioConfig(**config)
            self.model: Any = transformers.Qwen2AudioModel(built)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise Wav2SmallError(f"{where}: no speech LLM can be built ({error})") from error
        self.size: int = built.text_config.hidden_size
        self.bins: int = built.audio_config.num_mel_bins

    def freeze_front(self) -> None:
        """Keep the audio tower as it is; it costs no gradient."""
        self.model.audio_tower.requires_grad_(False)

    def forward(self, signal: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T), 16 kHz, full scale 1, and (B,) on the CPU -> (B, frames, size), mask."""
        tower = self.model.audio_tower
        lengths = lengths.clamp(max=LONGEST_S * audio.SAMPLING_RATE)
        middle, frames = (
            counts.to(signal.device)
            for counts in tower._get_feat_extract_output_lengths((lengths + HOP - 1) // HOP)
        )
        places = torch.arange(tower.config.max_source_positions, device=signal.device)
        inside = (places < middle[:, None])[:, None, None]
        away = torch.zeros(inside.shape, device=signal.device).masked_fill(~inside, float("-inf"))
        away = away.expand(-1, 1, len(places), -1)
        hidden = tower(self.mels(signal, lengths), attention_mask=away).last_hidden_state
        hidden = self.model.multi_modal_projector(hidden)[:, : max(1, int(frames.max()))]
        mask = torch.arange(hidden.shape[1], device=signal.device) < frames[:, None].clamp(min=1)
        states = self.model.language_model(inputs_embeds=hidden, attention_mask=mask.long())
        return states.last_hidden_state, mask

    def mels(self, signal: Tensor, lengths: Tensor) -> Tensor:
        """Whisper's log-mel spectrogram of 30 s: (B, mels, 3000)."""
        longest = LONGEST_S * audio.SAMPLING_RATE
        return log_mel(signal, lengths, bins=self.bins, longest=longest)


def holds(spec: str) -> bool:
    """Whether a folder holds a speech LLM."""
    return (
        os.path.isdir(spec)
        and os.path.isfile(os.path.join(spec, checkpoint.CONFIG))
        and (checkpoint.local(spec, option="--speech").config.get("model_type") == MODEL_TYPE)
    )


def load(spec: str) -> Backbone:
    """Load a speech LLM from a folder, without its head.

    Args:
        spec: folder with config.json and safetensors, in one file or in shards

    Raises:
        Wav2SmallError: keys are missing or unknown, or a shape differs
    """
    source = checkpoint.local(spec, option="--speech")
    config = source.config
    state = {}
    for key, value in checkpoint.read_weights(source).items():
        key = key.removeprefix("model.").replace("language_model.model.", "language_model.")
        if key.startswith(_PARTS) and not key.endswith("lm_head.weight"):
            state[key] = value
    with torch.device("meta"):
        network = SpeechLLM(config, source.folder / checkpoint.CONFIG)
    weights.check(network.model, state, source.folder / checkpoint.WEIGHTS)
    kept = {name: value for name, value in config.items() if name not in ("architectures",)}
    return Backbone(source, kept, state, (0.0, 1.0))
