"""SpecTran, CALM's speech encoder; see `calm`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from wav2small import audio
from wav2small.errors import Wav2SmallError
from wav2small.students.frontend import FLOOR, mel_bands
from wav2small.teachers.speech import checkpoint
from wav2small.teachers.speech.neural import inside, valid

from .base import sinusoid
from .encoders import pre_norm

MODEL_TYPE = "spectran"
#: Its configuration; all numbers are ours.
CONFIG: dict[str, Any] = {
    "model_type": MODEL_TYPE,
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "hidden_dropout": 0.1,
    "n_fft": 512,
    "hop": 160,  # 10 ms
    "mels": 64,
    "patch_mels": 64,
    "patch_frames": 16,  # of 160 ms, which overlap by half
    "patch_step": 8,
}
_CENTRE_DB, _SPREAD_DB = -15.0, 20.0  # roughly, of speech whose samples have a deviation of 1


class SpecTran(nn.Module):
    """CALM's speech encoder: a transformer over linearised patches of a log-mel spectrogram.

    A patch is a rectangle of mels x frames, laid out as a row of numbers. Only frames that lie
    wholly inside a clip count; what a last patch lacks of them is silence. `config` is like
    `CONFIG`, `mean` and `std` are those of the samples it was trained with.

    Raises:
        Wav2SmallError: no such configuration

    Example:
        >>> import torch
        >>> encoder = SpecTran(CONFIG, mean=0.0, std=1.0, where="config.json").eval()
        >>> hidden, mask = encoder(torch.zeros(1, 16000), torch.tensor([16000]))
        >>> hidden.shape, mask.shape
        (torch.Size([1, 12, 128]), torch.Size([1, 12]))
    """

    window: Tensor
    mels: Tensor

    def __init__(self, config: Mapping[str, Any], mean: float, std: float, where: Any):
        super().__init__()
        checkpoint.require(config, tuple(CONFIG), where)
        if config["model_type"] != MODEL_TYPE or config["mels"] % config["patch_mels"]:
            raise Wav2SmallError(
                f"{where}: speech_config is no {MODEL_TYPE}, or its patches do not divide its mels"
            )
        self.config = config
        self.mean, self.std = mean, std
        self.size: int = config["hidden_size"]
        self.bands: int = config["mels"] // config["patch_mels"]
        self.register_buffer("window", torch.hann_window(config["n_fft"]), persistent=False)
        mels = torch.tensor(mel_bands(config["n_fft"], config["mels"]), dtype=torch.float32)
        self.register_buffer("mels", mels, persistent=False)
        self.patch = nn.Linear(config["patch_mels"] * config["patch_frames"], self.size)
        self.band = nn.Parameter(0.02 * torch.randn(self.bands, self.size))
        heads, dropout = config["num_attention_heads"], config["hidden_dropout"]
        layers = (pre_norm(self.size, heads, dropout) for _ in range(config["num_hidden_layers"]))
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(self.size)

    def forward(self, signal: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T), 16 kHz, full scale 1, and (B,) on the CPU -> (B, patches, size), mask."""
        patches, mask = self.patches(signal, lengths)
        hidden = (self.patch(patches) + self.band).flatten(1, 2)  # from (B, steps, bands, size)
        hidden = hidden + self.positions(hidden)
        mask = mask.repeat_interleave(self.bands, dim=1)
        for layer in self.layers:
            hidden = layer(hidden, src_key_padding_mask=~mask)
        return self.norm(hidden), mask

    def patches(self, signal: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Linearised patches (B, steps, bands, mels x frames), and the mask of steps."""
        high, wide, step = (self.config[f"patch_{name}"] for name in ("mels", "frames", "step"))
        spectrogram = self.spectrogram(signal, lengths)  # (B, mels, frames)
        steps = self._steps(lengths)
        room = int(steps.max() - 1) * step + wide - spectrogram.shape[2]
        spectrogram = nn.functional.pad(spectrogram, (0, max(0, room)), value=_scaled(FLOOR))
        cut = spectrogram.unfold(2, wide, step)[:, :, : int(steps.max())]
        rows = cut.unflatten(1, (self.bands, high)).permute(0, 3, 1, 2, 4).flatten(3)
        return rows, inside(steps, rows)

    def spectrogram(self, signal: Tensor, lengths: Tensor) -> Tensor:
        """Log-mel, about -1..1 where there is speech, silent after the end of a clip."""
        n_fft, hop = self.config["n_fft"], self.config["hop"]
        scaled = (signal - self.mean) / (self.std + 1e-6) * valid(signal, lengths)
        scaled = nn.functional.pad(scaled, (0, max(0, n_fft - scaled.shape[1])))
        with torch.autocast(signal.device.type, enabled=False):
            spectrum = torch.stft(
                scaled.float(), n_fft, hop, window=self.window, center=False, return_complex=True
            )
            power = self.mels.T @ spectrum.abs().square()
        counted = inside(self._frames(lengths), power.mT)[:, None]
        return _decibels(power.where(counted, power.new_tensor(0.0)))

    def positions(self, tokens: Tensor) -> Tensor:
        """Of patches (B, patches, size), by their time: (patches, size)."""
        begins = self._begins(tokens.shape[1], tokens.device)
        return sinusoid(begins, tokens.shape[2]).to(tokens.dtype)

    def overlaps(self, times: Tensor, patches: int) -> Tensor:
        """Seconds that words, with start and end (W, 2), share with patches: (W, patches)."""
        begins = self._begins(patches, times.device)
        hop, n_fft = self.config["hop"], self.config["n_fft"]
        wide_s = ((self.config["patch_frames"] - 1) * hop + n_fft) / audio.SAMPLING_RATE
        ends = torch.minimum(times[:, 1:], begins + wide_s)
        return (ends - torch.maximum(times[:, :1], begins)).clamp(min=0)

    def _begins(self, patches: int, device: torch.device) -> Tensor:
        """Seconds at which patches begin: (patches,)."""
        hop_s = self.config["patch_step"] * self.config["hop"] / audio.SAMPLING_RATE
        return hop_s * (torch.arange(patches, device=device) // self.bands)

    def freeze_front(self) -> None:
        """Nothing in it is published, so all of it learns."""

    def _frames(self, lengths: Tensor) -> Tensor:
        return ((lengths - self.config["n_fft"]) // self.config["hop"]).clamp(min=0) + 1

    def _steps(self, lengths: Tensor) -> Tensor:
        beyond = (self._frames(lengths) - self.config["patch_frames"]).clamp(min=0)
        step = self.config["patch_step"]
        return (beyond + step - 1) // step + 1


def _decibels(power: Tensor) -> Tensor:
    return (10 * power.clamp(min=FLOOR).log10() - _CENTRE_DB) / _SPREAD_DB


def _scaled(power: float) -> float:
    return float(_decibels(torch.tensor(power)))
