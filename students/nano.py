"""nano: causal from the first sample to the output, made for always-on devices.

Streaming equals offline by construction: every step below looks back only, and what it needs of
the past is a small state (`State`). Nothing depends on the length of the clip.

Exact structure; T frames of a clip, sizes of the defaults:

1. Frames of 512 samples every 256 (62.5 per second), no padding: frame t is the samples
   256 t .. 256 t + 511. Periodic Hann window.
2. Power of the 512-point DFT, computed as two small matrix products (`FactoredSpectrogram`);
   an FFT gives the same numbers.
3. 40 Slaney mel bands of unit area, 0..8000 Hz: `b = log2(max(band, 2^-33))`  (T, 40).
4. Level: `e_t = mean of b_t over the 24 bands` with centres at 300..3100 Hz, which telephones
   and low sampling rates keep; `m_t = max(e_{t-249} .. e_t, -16)`, the last 4 s (fewer at the
   start), and speech of -60 dB full scale at least, so that silence before the first word is soft.
   `x_t = clip(b_t - m_t + 6, -6, 16) / 8`: what is 12 octaves (36 dB) below the level counts as
   silence, since below speech are the recording's noise and its codec. Recording level cancels
   exactly between these limits; int8 of x is steps of 1/64, 1/8 of an octave
   of power (.38 dB).
5. `stem`: Conv1d 40 -> 48, kernel 3, zeros before the first frame; BatchNorm; ReLU.
6. `blocks`, dilations 1, 2, 4, 8: `x = x + ReLU(BN(pointwise(BN(depthwise(x)))))`, depthwise
   kernel 5, zeros before the first frame. 63 frames (1 s) of context altogether.
7. Pooling: `gate = sigmoid(BN(G x))`, `value = ReLU(BN(V x))`, 64 each (pointwise), and
   `embedding = sum_t gate_t value_t / (sum_t gate_t + 1/256)` per channel.
8. `adv`: Linear 64 -> 3.
9. `voice`, optional, trained afterwards on frozen blocks (`voice_activity.py`): whether each frame
   holds speech, from what the pooling gets; see `Voice`.

Every convolution has no bias and is followed by a BatchNorm that folds into it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import registry
from .base import Student
from .frontend import constants, hann, mel_bands, mel_centres
from .masking import N, masked_batch_norm, out_length, time_mask

FLOOR_LOG2 = -33.0  # about the power of 16-bit rounding noise in one band
OFFSET, LIMIT, SCALE = 6.0, 16.0, 8.0  # octaves of power; see step 4
LEVEL_HZ = (300.0, 3100.0)  # bands of the level; see step 4
LEAST_LEVEL = -16.0  # octaves of power
DEPTH = 12.0  # octaves of power below the level
EMPTY = 1 / 256  # keeps the pooled value finite while every gate is shut
SPOKEN = 0.8  # probability of speech from which a frame counts: one of noise that does harms more
LOWEST = -1e4  # level before the first frame; below any real one


class FactoredSpectrogram(nn.Module):
    """Power of a windowed DFT as two small matrix products with twiddle factors between.

    With n = C r + c (rows r < R, columns c < C) and k = k1 + R k2:
    X[k1 + R k2] = sum_c W_N^(c k1) W_C^(c k2) sum_r x[C r + c] W_R^(r k1).
    A real signal needs k1 = 0..R/2 only; the other bins mirror these. 512 points as 32 x 16 take
    3,200 numbers and 35,000 multiply-accumulates per frame instead of 263,000 of each.

    The result is in the order of the products, (k1, k2) flattened; `bins` names the DFT bin
    each place holds, and `once` marks one place per bin (k1 = 0 and R/2 hold theirs twice). In
    training it is one value per bin, in their order: the same numbers but for rounding, sooner.

    Example:
        >>> FactoredSpectrogram(512, 256, 32)(torch.zeros(1, 16000)).shape[:2]  # clips, frames
        torch.Size([1, 61])
    """

    frontend = True
    window: Tensor
    rows_dft: Tensor
    twiddle_real: Tensor
    twiddle_imag: Tensor
    columns_dft: Tensor

    def __init__(self, n_fft: int, hop: int, rows: int):
        super().__init__()
        if n_fft != 2 * hop or n_fft % rows:
            raise ValueError(f"n_fft {n_fft} must be 2 x hop {hop} and a multiple of {rows}")
        self.n_fft, self.hop, self.rows, self.columns = n_fft, hop, rows, n_fft // rows
        half = rows // 2 + 1
        k1, k2 = np.arange(half), np.arange(self.columns)
        row_angle = 2 * np.pi * np.outer(np.arange(rows), k1) / rows
        angle = 2 * np.pi * np.outer(k1, np.arange(self.columns)) / n_fft
        column_angle = 2 * np.pi * np.outer(np.arange(self.columns), k2) / self.columns
        cos, sin = np.cos(column_angle), np.sin(column_angle)
        constants(
            self,
            window=hann(n_fft),
            rows_dft=np.concatenate([np.cos(row_angle), -np.sin(row_angle)], 1),
            twiddle_real=np.cos(angle),
            twiddle_imag=-np.sin(angle),
            # (real, imag) @ this = (real, imag) of the transform along columns
            columns_dft=np.block([[cos, -sin], [sin, cos]]),
        )
        k = k1[:, None] + rows * k2[None, :]
        self.bins = np.minimum(k, n_fft - k).reshape(-1)
        self.once = np.isin(np.arange(k.size), np.unique(self.bins, return_index=True)[1])

    def frames(self, samples: N) -> N:
        """Frames that lie wholly inside a clip of that many samples."""
        return out_length(samples, self.n_fft, self.hop)

    def forward(self, signal: Tensor) -> Tensor:
        """(B, T) -> (B, frames, (rows / 2 + 1) x columns); in training n_fft / 2 + 1 bins."""
        frames = signal.unfold(1, self.n_fft, self.hop) * self.window
        if self.training:
            spectrum = torch.fft.rfft(frames)
            return spectrum.real.square() + spectrum.imag.square()
        grid = frames.unflatten(2, (self.rows, self.columns)).transpose(2, 3)
        spectrum = (grid @ self.rows_dft).transpose(2, 3)  # (B, frames, 2 (R/2 + 1), C)
        real, imag = spectrum.chunk(2, dim=2)
        turned_real = real * self.twiddle_real - imag * self.twiddle_imag
        turned_imag = real * self.twiddle_imag + imag * self.twiddle_real
        turned = torch.cat((turned_real, turned_imag), dim=3)
        real, imag = (turned @ self.columns_dft).chunk(2, dim=3)
        return (real * real + imag * imag).flatten(2)

    def macs(self, inputs: tuple[Tensor, ...], output: Tensor) -> int:
        rows, columns, half = self.rows, self.columns, self.rows // 2 + 1
        along_rows, along_columns = columns * rows * 2 * half, half * (2 * columns) ** 2
        return output.shape[1] * (along_rows + 4 * half * columns + along_columns)


class Log2Mel(nn.Module):
    """Factored power -> mel bands, log2: (B, frames, places or bins) -> (B, frames, bands).

    Example:
        >>> spectrogram = FactoredSpectrogram(512, 256, 32)
        >>> Log2Mel(spectrogram, 40)(spectrogram(torch.rand(1, 4096))).shape
        torch.Size([1, 15, 40])
    """

    frontend = True
    bands: Tensor
    bin_bands: Tensor

    def __init__(self, spectrogram: FactoredSpectrogram, mels: int):
        super().__init__()
        bands = mel_bands(spectrogram.n_fft, mels)
        places = bands[spectrogram.bins] * spectrogram.once[:, None]
        constants(self, bands=places, bin_bands=bands)

    def forward(self, power: Tensor) -> Tensor:
        bands = self.bands if power.shape[2] == len(self.bands) else self.bin_bands
        return torch.log2(torch.clamp(power @ bands, min=2.0**FLOOR_LOG2))

    def macs(self, inputs: tuple[Tensor, ...], output: Tensor) -> int:
        return output.shape[1] * int((self.bands != 0).sum())  # triangles, not a full matrix


class Causal(nn.Module):
    """Conv1d that looks back only, then BatchNorm: (B, C, T) -> (B, D, T).

    Example:
        >>> Causal(40, 48, 3)(torch.zeros(1, 40, 10)).shape
        torch.Size([1, 48, 10])
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, dilation: int = 1, groups=1):
        super().__init__()
        self.context = (kernel - 1) * dilation  # frames of the past it needs
        self.conv = nn.Conv1d(inputs, outputs, kernel, dilation=dilation, groups=groups, bias=False)
        self.norm = nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor, mask: Tensor | None = None, past: Tensor | None = None) -> Tensor:
        """`past` (B, C, context) is what came before x; None = zeros, the start of a clip."""
        if self.context:
            x = nn.functional.pad(x, (self.context, 0)) if past is None else torch.cat((past, x), 2)
        y = self._depthwise(x) if self.training and self.conv.groups > 1 else self.conv(x)
        return masked_batch_norm(self.norm, y[:, :, :, None], mask)[:, :, :, 0]

    def _depthwise(self, x: Tensor) -> Tensor:
        """The convolution as a sum of shifted products, whose gradient takes half the time."""
        size, dilation = x.shape[2] - self.context, self.conv.dilation[0]
        taps = self.conv.weight[:, 0].unbind(1)
        y = x[:, :, :size] * taps[0][:, None]
        for first, tap in enumerate(taps[1:], start=1):
            y = y + x[:, :, first * dilation :][:, :, :size] * tap[:, None]
        return y


class Block(nn.Module):
    """Depthwise along time, pointwise across channels, added to its input.

    Example:
        >>> Block(48, 5, 2)(torch.zeros(1, 48, 10)).shape
        torch.Size([1, 48, 10])
    """

    def __init__(self, channels: int, kernel: int, dilation: int):
        super().__init__()
        self.depthwise = Causal(channels, channels, kernel, dilation, groups=channels)
        self.pointwise = Causal(channels, channels)

    def forward(self, x: Tensor, mask: Tensor | None = None, past: Tensor | None = None) -> Tensor:
        return x + torch.relu(self.pointwise(self.depthwise(x, mask, past), mask))


class Voice(nn.Module):
    """Voice activity of every frame: (B, channels, frames) -> logits (B, frames).

    A pointwise layer, one causal convolution per dilation, each with ReLU, and a sum. With the
    defaults 1,040 weights, and 40 frames (.64 s) of the past besides those that the blocks see.
    Search on Emo-DB and read speech: 16 channels or one convolution less lose .002 of AUC.
    """

    def __init__(
        self, channels: int, width: int = 8, kernel: int = 5, dilations: Sequence[int] = (2, 8)
    ):
        super().__init__()
        self.reduce = Causal(channels, width)
        self.context = nn.ModuleList(Causal(width, width, kernel, d) for d in dilations)
        self.out = nn.Conv1d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.reduce, *self.context):
            x = torch.relu(layer(x))
        return self.out(x)[:, 0]


@dataclass
class State:
    """All that a stream keeps between blocks; sizes for one stream with the defaults.

    Attributes:
        signal: last samples that a next frame still needs (1, up to 511)
        level: `e` of the last 249 frames (1, 249), oldest first, LOWEST before the first frame
        past: inputs of `stem` (1, 40, 2) and of each depthwise convolution (1, 48, 4 x dilation)
        numerator: sum of gate x value (1, 64)
        denominator: sum of gate (1, 64)
    """

    signal: Tensor
    level: Tensor
    past: list[Tensor]
    numerator: Tensor
    denominator: Tensor


@registry.register_student(
    "nano", description="ours: causal, streams, plain C on a microcontroller; a third of 72K"
)
class Nano(Student):
    """See the module. Embedding: `pooled` numbers.

    Args:
        n_fft: frame in samples; the hop is half of it
        rows: R of the factored DFT
        mels: bands
        level_frames: frames whose loudest is the level
        level_hz: the level is of bands whose centres lie here
        least_level: smallest level, octaves of power
        depth: octaves of power below the level that are told apart; softer counts as that soft
        channels: width of the body
        stem_kernel: frames that the first convolution sees
        kernel: taps of the depthwise convolutions
        dilations: of the depthwise convolutions, one block each
        pooled: size of the embedding
        voice: a head for voice activity; `voice_activity.add_voice` makes it
        **options: of `Student`: `categories`, names for an optional second head

    Example:
        >>> student = Nano().eval()
        >>> embedding, state = student.push(torch.rand(1, 8000), student.initial_state())
        >>> embedding.shape
        torch.Size([1, 64])
    """

    former_options = {"level_hz": [0.0, 8000.0], "least_level": LOWEST, "depth": 22.0}

    def __init__(
        self,
        *,
        n_fft: int = 512,
        rows: int = 32,
        mels: int = 40,
        level_frames: int = 250,
        level_hz: Sequence[float] = LEVEL_HZ,
        least_level: float = LEAST_LEVEL,
        depth: float = DEPTH,
        channels: int = 48,
        stem_kernel: int = 3,
        kernel: int = 5,
        dilations: Sequence[int] = (1, 2, 4, 8),
        pooled: int = 64,
        voice: bool = False,
        **options: Any,
    ):
        if voice:  # only then: runs without it keep the configuration that they have
            options["voice"] = True
        super().__init__(
            pooled,
            n_fft=n_fft,
            rows=rows,
            mels=mels,
            level_frames=level_frames,
            level_hz=list(level_hz),
            least_level=least_level,
            depth=depth,
            channels=channels,
            stem_kernel=stem_kernel,
            kernel=kernel,
            dilations=list(dilations),
            pooled=pooled,
            **options,
        )
        self.hop = n_fft // 2
        self.level_frames = level_frames
        self.level_bands = level_bands(mels, level_hz)
        self.least_level = least_level
        self.softest = OFFSET - depth
        self.spectrogram = FactoredSpectrogram(n_fft, self.hop, rows)
        self.logmel = Log2Mel(self.spectrogram, mels)
        self.stem = Causal(mels, channels, stem_kernel)
        self.blocks = nn.ModuleList(Block(channels, kernel, dilation) for dilation in dilations)
        self.gate = Causal(channels, pooled)
        self.value = Causal(channels, pooled)
        self.voice = Voice(channels) if voice else None

    def features(self, signal: Tensor, past: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Steps 1 to 4: (B, T) -> x (B, mels, frames) and e (B, frames).

        Args:
            signal: (B, T)
            past: e of the `level_frames - 1` frames before; None = the start of a clip
        """
        b = self.logmel(self.spectrogram(signal))  # (B, frames, mels)
        e = b[:, :, self.level_bands].mean(dim=2)
        if past is None:
            past = e.new_full((len(e), self.level_frames - 1), LOWEST)
        recent = torch.cat((past, e), dim=1)[:, None]
        m = nn.functional.max_pool1d(recent, self.level_frames, stride=1)[:, 0]
        m = m.clamp(min=self.least_level)
        x = torch.clamp(b - m[:, :, None] + OFFSET, self.softest, LIMIT) / SCALE
        return x.transpose(1, 2), e

    def _pool(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        gate = torch.sigmoid(self.gate(x, mask))
        if mask is not None:
            gate = gate * mask[:, None, :]
        value = torch.relu(self.value(x, mask))
        return (gate * value).sum(dim=2), gate.sum(dim=2)

    def _embed(self, signal: Tensor, lengths: Tensor | None) -> Tensor:
        x, _ = self.features(signal)
        mask = None
        if lengths is not None:  # looking back only, valid frames never see padding
            mask = time_mask(self.spectrogram.frames(lengths), x.shape[2])
        numerator, denominator = self._pool(self._body(x, mask), mask)
        return numerator / (denominator + EMPTY)

    def _body(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Steps 5 and 6: (B, mels, frames) -> (B, channels, frames)."""
        x = torch.relu(self.stem(x, mask))
        for block in self.blocks:
            x = block(x, mask)
        return x

    def frames(self, signal: Tensor) -> Tensor:
        """What the pooling and the head for voice activity get: (B, T) -> (B, channels, frames)."""
        return self._body(self.features(signal)[0])

    def initial_state(self) -> State:
        """The state of a stream at its beginning."""
        like = self.adv.weight
        layers = [self.stem, *(b.depthwise for b in self.blocks if isinstance(b, Block))]
        return State(
            signal=like.new_zeros(1, 0),
            level=like.new_full((1, self.level_frames - 1), LOWEST),
            past=[like.new_zeros(1, layer.conv.in_channels, layer.context) for layer in layers],
            numerator=like.new_zeros(1, self.embedding),
            denominator=like.new_zeros(1, self.embedding),
        )

    @torch.no_grad()
    def push(self, signal: Tensor, state: State) -> tuple[Tensor | None, State]:
        """Hear any number of samples more: the reference for every streaming implementation.

        Args:
            signal: (1, n), n >= 0
            state: of `initial_state` or of the last call; it is not changed

        Returns:
            embedding of all samples since the initial state (1, E), None before the
            first full frame; and the new state
        """
        signal = torch.cat((state.signal, signal), dim=1)
        frames = max(0, int(self.spectrogram.frames(signal.shape[1])))
        numerator, denominator = state.numerator, state.denominator
        past, level = list(state.past), state.level
        if frames:
            x, e = self.features(signal, level)
            level = torch.cat((level, e), dim=1)[:, e.shape[1] :]
            y = torch.relu(self.stem(x, past=past[0]))
            past[0] = _last(past[0], x)
            for number, block in enumerate(self.blocks, start=1):
                x, y = y, block(y, past=past[number])
                past[number] = _last(past[number], x)
            more = self._pool(y)
            numerator, denominator = numerator + more[0], denominator + more[1]
        embedding = numerator / (denominator + EMPTY) if denominator.any() else None
        rest = signal[:, frames * self.hop :]
        return embedding, State(rest, level, past, numerator, denominator)


def level_bands(mels: int, level_hz: Sequence[float] = LEVEL_HZ) -> slice:
    """The bands whose centres lie in a range.

    Example:
        >>> level_bands(40)
        slice(4, 28, None)
    """
    return slice(*np.searchsorted(mel_centres(mels), level_hz).tolist())


def _last(past: Tensor, x: Tensor) -> Tensor:
    return torch.cat((past, x), dim=2)[:, :, x.shape[2] :]
