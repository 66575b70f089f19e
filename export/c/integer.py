"""nano in integers: what plain C computes, bit by bit, in numpy.

The front end stays in float32 (every processor of the class has such a unit) and ends in int8
features. From there to the sums of the pooling everything is integer:

| tensor | type | scale |
|---|---|---|
| features x | int8 | 1/64 |
| weights | int8 | per output channel, max |w| / 127 with BatchNorm folded: the export's grid |
| stream of the residual blocks | int16, >= 0 | one for all, largest of the calibration x 1.25 |
| depthwise outputs | int8 | per channel, largest of the calibration |
| input of gate and value | uint8 | likewise |
| gate | Q15 | sigmoid by 257 steps over -8..8 and a straight line between |
| value | int16, >= 0 | as the stream of the blocks |
| voice activity | int8, >= 0; Q15 | largest of the calibration x 1.25; the gate's sigmoid |
| sums | int64 | gate x value and gate; a day of audio takes 2^53 |

Accumulators are int32. `requantise` multiplies one by a 31-bit number of its channel: shift left
by `left` (the same for a layer; chosen so that the largest possible sum fits), keep the upper
32 bits of the product, add half, shift right by `right` (of the channel). The lowest 8 bits of the
multiplier hold `right` - 1, so that C reads both at once; its other bits are nearest to the scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from wav2small.errors import Wav2SmallError
from wav2small.students import quantisation
from wav2small.students.nano import SPOKEN, Causal, Nano, Voice

FEATURE_SCALE = 1 / 64
HEADROOM = 1.25  # of the int16 stream over the loudest calibration clip; it saturates above
SPARE = 2.0  # of an int8 channel over its loudest: saturating costs more than a coarser grid
ONE = 1 << 15
GATE_RANGE = 8  # sigmoid is looked up in -8..8
GATE_STEPS = 256
GATE_SCALE = GATE_RANGE * 2 / (GATE_STEPS * 16)  # input of the lookup: 4 bits between steps
FADE_BITS = 24
EMPTY_Q15 = ONE // 256  # students.nano.EMPTY
SPOKEN_Q15 = int(ONE * SPOKEN)  # W2S_SPOKEN in C


@dataclass
class Layer:
    """An integer convolution of one frame: `outputs` sums of `weight` rows.

    Attributes:
        weight: int8 (outputs, inputs); for the stem inputs are (tap, band), oldest tap first; for
            a depthwise layer taps, oldest first
        bias: int32 (outputs,)
        multiplier: int32 (outputs,), see the module
        right: uint8 (outputs,), likewise; at least 1
        left: likewise
    """

    weight: np.ndarray
    bias: np.ndarray
    multiplier: np.ndarray
    right: np.ndarray
    left: int

    def requantise(self, sums: np.ndarray) -> np.ndarray:
        """Sums (..., outputs) with bias -> int64, not yet cut to a range."""
        sums = sums + self.bias
        assert np.abs(sums).max(initial=0) < 2 ** (31 - self.left)
        upper = ((sums << self.left) * self.multiplier.astype(np.int64)) >> 32
        right = self.right.astype(np.int64)
        return (upper + (1 << (right - 1))) >> right


@dataclass
class Integer:
    """A quantised nano; `quantise` makes one.

    Attributes:
        stem, depthwise, pointwise, gate, value: layers
        narrow: from the stream of the blocks to uint8, one channel
        dilations: of the depthwise layers
        sigmoid: uint16 (257,) Q15
        head: float32 (3, E): weights of `adv` times the scale of value
        head_bias: float32 (3,)
        voice: layers of the head for voice activity, the last one with a single output; empty =
            there is none
        voice_dilations: of those between the first and the last
        scales: of the tensors, for documentation
    """

    stem: Layer
    depthwise: list[Layer]
    pointwise: list[Layer]
    narrow: Layer
    gate: Layer
    value: Layer
    dilations: list[int]
    sigmoid: np.ndarray
    head: np.ndarray
    head_bias: np.ndarray
    voice: list[Layer] = field(default_factory=list)
    voice_dilations: list[int] = field(default_factory=list)
    scales: dict[str, float] = field(default_factory=dict)


def quantise(student: Nano, calibration: Sequence[np.ndarray]) -> Integer:
    """Integers of a trained nano.

    Args:
        student: in evaluation mode
        calibration: speech, float32 signals at 16 kHz; some 20 clips of different loud voices do

    Raises:
        Wav2SmallError: not a nano, or no calibration audio
    """
    if not isinstance(student, Nano):
        raise Wav2SmallError(
            f"student {student.name!r} has no plain C; only nano fits a microcontroller's budget"
        )
    if not calibration:
        raise Wav2SmallError("no calibration audio; give --calibration a folder of speech")
    peaks = _peaks(student, calibration)
    stream = float(peaks["stream"]) * HEADROOM / 32767
    narrow = float(peaks["last"]) / 255
    value = float(peaks["value"]) * HEADROOM / 32767
    depthwise, pointwise = [], []
    for number, block in enumerate(student.blocks):
        peak = peaks[f"depthwise.{number}"]
        scale = np.maximum(peak * SPARE, peak.max() / 2) / 127
        depthwise.append(_layer(block.depthwise, stream, scale, 32767))
        pointwise.append(_layer(block.pointwise, scale, stream, 127))
    head = student.adv.weight.detach().double().numpy() * value
    steps = np.linspace(-GATE_RANGE, GATE_RANGE, GATE_STEPS + 1)
    model = Integer(
        stem=_layer(student.stem, FEATURE_SCALE, stream, 128),
        depthwise=depthwise,
        pointwise=pointwise,
        narrow=_encode(np.ones((1, 1)), np.zeros(1), stream / narrow, 32767),
        gate=_layer(student.gate, narrow, GATE_SCALE, 255),
        value=_layer(student.value, narrow, value, 255),
        dilations=[block.depthwise.conv.dilation[0] for block in student.blocks],
        sigmoid=np.round(ONE / (1 + np.exp(-steps))).astype(np.uint16),
        head=head.astype(np.float32),
        head_bias=student.adv.bias.detach().numpy().astype(np.float32),
        scales={"stream": stream, "narrow": narrow, "value": value},
    )
    if student.voice is not None:
        model.voice = _voice(student.voice, narrow, peaks)
        model.voice_dilations = [m.conv.dilation[0] for m in student.voice.context]
    _centre(student, model, calibration)
    return model


def _voice(head: Voice, scale_in: float, peaks: dict[str, np.ndarray]) -> list[Layer]:
    """Layers of the head for voice activity."""
    layers, largest = [], 255
    for number, module in enumerate((head.reduce, *head.context)):
        scale = float(peaks[f"voice.{number}"]) * HEADROOM / 127
        layers.append(_layer(module, scale_in, scale, largest))
        scale_in, largest = scale, 127
    weight = head.out.weight.detach().double().numpy()[:, :, 0]
    bias = head.out.bias.detach().double().numpy()  # type: ignore[union-attr]
    return [*layers, _encode(weight, bias, scale_in / GATE_SCALE, largest, scale_in)]


def _centre(student: Nano, model: Integer, calibration: Sequence[np.ndarray]) -> None:
    """Take the mean error over the calibration audio out of the last bias."""
    errors = []
    for signal in calibration:
        with torch.no_grad():
            target = student(torch.as_tensor(signal, dtype=torch.float32)[None])[0].numpy()
        errors.append(target - predict(model, student, signal))
    model.head_bias = (model.head_bias + np.mean(errors, axis=0)).astype(np.float32)


def features(student: Nano, signal: np.ndarray) -> np.ndarray:
    """int8 features (frames, mels) of a signal, from the student's float front end."""
    with torch.no_grad():
        x, _ = student.features(torch.as_tensor(signal, dtype=torch.float32)[None])
    return np.clip(np.floor(x[0].T.numpy() / FEATURE_SCALE + 0.5), -128, 127).astype(np.int8)


def network(model: Integer, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gates (Q15) and values of every frame, int64 (frames, E) each.

    `x` are int8 features (frames, mels) since the start of a stream.
    """
    u = _body(model, x)
    return _sigmoid(model, _linear(model.gate, u)), _linear(model.value, u).clip(0, 32767)


def speech(model: Integer, x: np.ndarray) -> np.ndarray:
    """Probability (Q15) that every frame holds speech, int64 (frames,); `x` as of `network`."""
    z = _linear(model.voice[0], _body(model, x)).clip(0, 127)
    for layer, dilation in zip(model.voice[1:-1], model.voice_dilations, strict=True):
        taps = layer.weight.shape[1] // z.shape[1]
        z = _linear(layer, _windows(z, taps, dilation).reshape(len(z), -1)).clip(0, 127)
    return _sigmoid(model, _linear(model.voice[-1], z)[:, 0])


def _body(model: Integer, x: np.ndarray) -> np.ndarray:
    """Features -> input of gate, value and voice activity."""
    frames, mels = x.shape
    taps = model.stem.weight.shape[1] // mels
    wide = _windows(x.astype(np.int64), taps, 1).reshape(frames, taps * mels)
    y = _linear(model.stem, wide).clip(0, 32767)
    blocks = zip(model.dilations, model.depthwise, model.pointwise, strict=True)
    for dilation, deep, point in blocks:
        windows = _windows(y, deep.weight.shape[1], dilation)  # (frames, taps, channels)
        sums = (windows * deep.weight.T.astype(np.int64)).sum(axis=1)
        z = deep.requantise(sums).clip(-128, 127)
        y = np.minimum(y + _linear(point, z).clip(0, 32767), 32767)
    return model.narrow.requantise(y * int(model.narrow.weight[0, 0])).clip(0, 255)


def _sigmoid(model: Integer, x: np.ndarray) -> np.ndarray:
    """Numbers at `GATE_SCALE` -> Q15."""
    place = x.clip(-GATE_STEPS * 8, GATE_STEPS * 8 - 1) + GATE_STEPS * 8
    table = model.sigmoid.astype(np.int64)
    low, high = table[place >> 4], table[(place >> 4) + 1]
    return low + (((high - low) * (place & 15) + 8) >> 4)


def fade(memory_s: float, hop_s: float) -> int:
    """What a memory loses per hop, Q24: 1 - exp(-hop / memory) by its series, as in C.

    Example:
        >>> fade(4.0, 0.016) / 2**24
        0.00399...
    """
    r = hop_s / memory_s
    return int((r - r * r / 2 + r * r * r / 6) * (1 << FADE_BITS) + 0.5)


def pool(
    gate: np.ndarray, value: np.ndarray, weight: np.ndarray | None = None, fade: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Sums after every frame, int64 (frames, E): gate x value, and gate.

    Args:
        gate: Q15 (frames, E)
        value: (frames, E)
        weight: Q15 (frames,); None = 1
        fade: see `fade`; 0 = sums since the start
    """
    numerator = np.zeros((len(gate), gate.shape[1]), np.int64)
    denominator = numerator.copy()
    n = d = np.zeros(gate.shape[1], np.int64)
    weights = np.full(len(gate), ONE) if weight is None else weight.astype(np.int64)
    for t, w in enumerate(weights):
        if w:
            g = (gate[t] * w + ONE // 2) >> 15
            loss = (fade * int(w)) >> 15
            n = n - ((n * loss) >> FADE_BITS) + g * value[t]
            d = d - ((d * loss) >> FADE_BITS) + g
        numerator[t], denominator[t] = n, d
    return numerator, denominator


def head(model: Integer, numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Sums (E,) -> float32 (3,), added in the order that C adds."""
    result = model.head_bias.copy()
    for channel, (n, d) in enumerate(zip(numerator, denominator, strict=True)):
        ratio = np.float32(n) / np.float32(d + EMPTY_Q15)
        result += model.head[:, channel] * ratio
    return result


def predict(model: Integer, student: Nano, signal: np.ndarray) -> np.ndarray:
    """Arousal, dominance and valence of a full clip, float32 (3,)."""
    n, d = pool(*network(model, features(student, signal)))
    return head(model, n[-1], d[-1])


def predict_speech(model: Integer, student: Nano, signal: np.ndarray) -> np.ndarray:
    """Share of frames that hold speech, and the estimates of those alone, float32 (4,)."""
    x = features(student, signal)
    probability = speech(model, x)
    n, d = pool(*network(model, x), np.where(probability >= SPOKEN_Q15, ONE, 0))
    return np.array([np.mean(probability >= ONE // 2), *head(model, n[-1], d[-1])], np.float32)


def _windows(x: np.ndarray, taps: int, dilation: int) -> np.ndarray:
    """(frames, channels) -> (frames, taps, channels), oldest tap first, zeros before the start."""
    past = np.zeros(((taps - 1) * dilation, x.shape[1]), x.dtype)
    padded = np.concatenate((past, x))
    return np.stack([padded[k * dilation : k * dilation + len(x)] for k in range(taps)], axis=1)


def _linear(layer: Layer, x: np.ndarray) -> np.ndarray:
    return layer.requantise(x @ layer.weight.T.astype(np.int64))


def _layer(
    module: Causal, scale_in: np.ndarray | float, scale_out: np.ndarray | float, largest_in: int
) -> Layer:
    """Fold BatchNorm, lay taps oldest first, and encode.

    A scale of the input per channel goes into the weights of that channel.
    """
    norm = module.norm
    gain = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    bias = norm.bias.double() - norm.running_mean.double() * gain
    weight = module.conv.weight.double() * gain[:, None, None]
    # (outputs, inputs, taps) -> (outputs, taps x inputs)
    rows = weight.detach().numpy().transpose(0, 2, 1).reshape(len(weight), -1)
    if np.ndim(scale_in):
        common = np.max(scale_in)
        rows = rows * (scale_in / common)
        scale_in = common
    return _encode(rows, bias.detach().numpy(), scale_in / scale_out, largest_in, float(scale_in))


def _encode(
    weight: np.ndarray,
    bias: np.ndarray,
    ratio: np.ndarray | float,
    largest_in: int,
    scale_in: float = 1.0,
) -> Layer:
    levels = quantisation.LEVELS["int8"]
    stored, scales = quantisation.quantise(torch.from_numpy(weight), levels)  # float64
    integers, scale = stored.numpy().astype(np.float64), scales.numpy()[:, 0]
    offset = np.clip(np.round(bias / (scale * scale_in)), -(2**24), 2**24)
    bound = (np.abs(integers).sum(axis=1) * largest_in + np.abs(offset)).max()
    left = min(int(np.floor(30 - np.log2(bound))), 12)
    target = scale * ratio  # result = sum x target
    right = np.clip(np.floor(np.log2(2.0**31 / target)) - 32 + left, 1, 30).astype(int)
    multiplier = np.round(target * 2.0 ** (32 + right - left))
    if multiplier.max() >= 2**31:
        raise Wav2SmallError("a layer of this nano cannot be scaled in 32 bits; train it longer")
    upper = np.minimum(np.round((multiplier - (right - 1)) / 256), 2**23 - 1)
    multiplier = 256 * upper + right - 1
    return Layer(
        weight=stored.numpy(),
        bias=offset.astype(np.int64).astype(np.int32),
        multiplier=multiplier.astype(np.int64).astype(np.int32),
        right=right.astype(np.uint8),
        left=left,
    )


@torch.no_grad()
def _peaks(student: Nano, calibration: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Largest activations over the calibration audio, of the depthwise layers per channel."""
    peaks: dict[str, np.ndarray] = {}

    def see(name: str, tensor: torch.Tensor) -> None:
        # Leaving out the loudest thousandth for a finer grid doubled the error of the output.
        axes = (0, 2) if name.startswith("depthwise") else (0, 1, 2)
        largest = tensor.double().abs().amax(axes).numpy()
        peaks[name] = np.maximum(peaks.get(name, np.array(1e-6)), largest)

    for signal in calibration:
        x, _ = student.features(torch.as_tensor(signal, dtype=torch.float32)[None])
        y = torch.relu(student.stem(x))
        see("stream", y)
        for number, block in enumerate(student.blocks):
            see(f"depthwise.{number}", block.depthwise(y))
            y = block(y)
            see("stream", y)
        see("last", y)
        see("value", torch.relu(student.value(y)))
        if student.voice is not None:
            for number, layer in enumerate((student.voice.reduce, *student.voice.context)):
                y = torch.relu(layer(y))
                see(f"voice.{number}", y)
    return peaks
