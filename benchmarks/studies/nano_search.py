"""The experiments that `nano` came out of: its variants, each trained for the same time.

    python -m wav2small.benchmarks.studies.nano_search TRAIN.parquet TEST.parquet --variant base bands48

Label tables as `wav2small label` writes them (augmented copies welcome in TRAIN). Features are
computed once and kept next to TRAIN, so that a variant trains in little more than a minute on one
core: full clips, the loss of `distill`, a moving average of the weights. One line of JSON each.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from wav2small.benchmarks import studies
from wav2small.dimensions import DIMENSIONS
from wav2small.metrics import ccc
from wav2small.students import registry
from wav2small.students.masking import masked_batch_norm
from wav2small.students.nano import (
    DEPTH,
    EMPTY,
    LEAST_LEVEL,
    LIMIT,
    LOWEST,
    OFFSET,
    SCALE,
    Block,
    Causal,
    level_bands,
)
from wav2small.tables import read_labels
from wav2small.training.clips import Clips
from wav2small.training.losses import ccc as differentiable_ccc


@dataclass(frozen=True)
class Variant:
    """What differs from `nano`; the defaults are the student's first version."""

    frontend: tuple[tuple[str, int], ...] = ()  # options of `nano` that change its features
    #: "max" of the band mean over the last 4 s; "max_power" of the mean power; "mean", cumulative
    #: since the start; "clip", the loudest frame of the full clip, which is not causal: a bound of
    #: what a level can give
    level: str = "max"
    #: gates are multiplied by 2 ^ (loudness x level), loud passages count more
    loudness: float = 0.0
    deviation: bool = False  # weighted standard deviation next to the weighted mean
    image: bool = False  # two 3 x 3 convolutions of 8 channels on the log-mel image before the body
    residual: bool = True  # blocks are added to their input
    channels: int = 48  # as in `nano`
    stem_kernel: int = 3  # as in `nano`
    dilations: tuple[int, ...] = (1, 2, 4, 8)  # as in `nano`
    pooled: int = 64  # as in `nano`


BANDS48 = (("mels", 48),)
VARIANTS = {
    "base": Variant(),
    "bands48": Variant(BANDS48),
    "bands48_stem1": Variant(BANDS48, stem_kernel=1),
    "bands48_wide": Variant(BANDS48, stem_kernel=1, channels=56, pooled=56),
    "frame256": Variant((("n_fft", 256), ("rows", 16), ("mels", 32)), dilations=(2, 4, 8, 16)),
    "level_mean": Variant(level="mean"),
    "level_max_power": Variant(level="max_power"),
    "level_clip": Variant(level="clip"),
    "loudness": Variant(loudness=0.5),
    "deviation": Variant(deviation=True),
    "image": Variant(image=True),
    "no_residual": Variant(residual=False),
}


class Image(nn.Module):
    """Causal 3 x 3 convolutions, half the bands after each: (B, M, T) -> (B, 8 M / 4, T)."""

    def __init__(self, channels: int = 8):
        super().__init__()
        self.first = nn.Conv2d(1, channels, (3, 5), stride=(1, 2), bias=False)
        self.second = nn.Conv2d(channels, channels, 3, stride=(1, 2), bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(2))

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        x = x.transpose(1, 2)[:, None]  # (B, 1, T, M)
        layers = zip((self.first, self.second), self.norms, (2, 1), strict=True)
        for convolution, norm, side in layers:
            x = convolution(nn.functional.pad(x, (side, side, 2, 0)))
            x = torch.relu(masked_batch_norm(norm, x, mask))  # type: ignore[arg-type]
        return x.transpose(1, 2).flatten(2).transpose(1, 2)


class Network(nn.Module):
    """`nano` behind its log-mel bands, with the differences of a variant."""

    def __init__(self, variant: Variant, bands: int):
        super().__init__()
        self.variant = variant
        self.image = Image() if variant.image else None
        width = variant.channels
        inputs = 8 * -(-bands // 4) if variant.image else bands
        self.stem = Causal(inputs, width, 1 if variant.image else variant.stem_kernel)
        self.blocks = nn.ModuleList(Block(width, 5, dilation) for dilation in variant.dilations)
        self.gate, self.value = Causal(width, variant.pooled), Causal(width, variant.pooled)
        self.adv = nn.Linear(variant.pooled * (2 if variant.deviation else 1), 3)
        nn.init.constant_(self.adv.bias, 0.5)

    def level(self, b: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, T, bands) -> (B, T)"""
        kind = self.variant.level
        b = b[:, :, level_bands(b.shape[2])]
        e = b.mean(dim=2)
        if kind == "mean":
            return e.cumsum(1) / torch.arange(1, e.shape[1] + 1) + 2
        if kind == "clip":
            return e.masked_fill(~mask, LOWEST).amax(1, keepdim=True).expand_as(e)
        if kind == "max_power":
            e = torch.log2(torch.exp2(b).mean(2)) - 3
        padded = nn.functional.pad(e, (249, 0), value=LOWEST)
        return nn.functional.max_pool1d(padded[:, None], 250, stride=1)[:, 0]

    def forward(self, b: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, T, bands) log2 power and (B, T) -> (B, 3)"""
        m = self.level(b, mask).clamp(min=LEAST_LEVEL)
        x = b - m[:, :, None] + OFFSET
        x = (torch.clamp(x, OFFSET - DEPTH, LIMIT) / SCALE).transpose(1, 2)
        if self.image is not None:
            x = self.image(x, mask)
        x = torch.relu(self.stem(x, mask))
        for block in self.blocks:
            y = block(x, mask)
            x = y if self.variant.residual else y - x
        gate = torch.sigmoid(self.gate(x, mask)) * mask[:, None]
        if self.variant.loudness:
            gate = gate * torch.exp2(self.variant.loudness * (m - m.amax(1, True)))[:, None]
        value, total = torch.relu(self.value(x, mask)), gate.sum(2) + EMPTY
        z = (gate * value).sum(2) / total
        if self.variant.deviation:
            square = (gate * value * value).sum(2) / total
            z = torch.cat((z, torch.sqrt((square - z * z).clamp(min=1e-4))), dim=1)
        return self.adv(z)

    def macs_per_second(self, bands: int, frames: float) -> int:
        """Of everything behind the front end; `frames` per second."""
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            self.eval()(torch.zeros(1, 100, bands), torch.ones(1, 100, dtype=torch.bool))
        return round(counter.get_total_flops() / 2 * frames / 100)


@dataclass
class Features:
    """Log-mel bands of all clips, one after the other, and their labels."""

    bands: np.ndarray  # (frames, bands) float16
    frames: np.ndarray  # (clips,)
    labels: np.ndarray  # (clips, 3) float32

    def batch(self, clips: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Clips padded to the longest, and their mask."""
        stops = np.cumsum(self.frames)
        size = int(self.frames[clips].max())
        x = np.full((len(clips), size, self.bands.shape[1]), -33, dtype=np.float32)
        mask = np.zeros((len(clips), size), dtype=bool)
        for row, clip in enumerate(clips):
            part = self.bands[stops[clip] - self.frames[clip] : stops[clip]]
            x[row, : len(part)], mask[row, : len(part)] = part, True
        return torch.from_numpy(x), torch.from_numpy(mask)


def features(table: str | Path, options: dict[str, int]) -> Features:
    """Features of a label table, from the cache next to it if there."""
    table = Path(table)
    tag = "_".join(f"{key}{value}" for key, value in sorted(options.items())) or "default"
    cache = table.with_name(f"{table.stem}.{tag}.npz")
    if not cache.is_file():
        labels = read_labels(table)
        clips = Clips(labels.frame, labels.root, made_with=labels.provenance.get("variants"))
        nano: Any = registry.create("nano", **options).eval()
        parts = []
        with torch.no_grad():
            for row in range(len(clips)):
                signal = torch.from_numpy(clips.signal(row))[None]
                parts.append(nano.logmel(nano.spectrogram(signal))[0].numpy().astype(np.float16))
        np.savez(
            cache,
            bands=np.concatenate(parts),
            frames=np.array([len(part) for part in parts]),
            labels=labels.frame[list(DIMENSIONS)].to_numpy(np.float32),
        )
    return Features(**np.load(cache))


def train(
    name: str, train_table: str, test_table: str, *, seconds: float = 80.0, seed: int = 0
) -> dict[str, Any]:
    """Train one variant of `VARIANTS`; its CCC on the label table of other speakers.

    It takes so many seconds of processor time, features not included.
    """
    variant = VARIANTS[name]
    options = dict(variant.frontend)
    learn, test = features(train_table, options), features(test_table, options)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network = Network(variant, learn.bands.shape[1])
    average = copy.deepcopy(network)
    optimiser = torch.optim.AdamW(network.parameters(), lr=6e-3, weight_decay=0.01)
    targets, size = torch.from_numpy(learn.labels), 64
    start, step, order = time.process_time(), 0, np.empty(0, dtype=int)
    while (part := (time.process_time() - start) / seconds) < 1:
        for group in optimiser.param_groups:
            falling = 0.5 + 0.5 * np.cos(np.pi * max(0, (part - 0.15) / 0.85))
            group["lr"] = 6e-3 * min(1, part / 0.15) * falling
        if len(order) < 8 * size:
            order = np.resize(rng.permutation(len(targets)), max(len(targets), 8 * size))
        pool, order = order[: 4 * size], order[4 * size :]
        pool = pool[np.argsort(learn.frames[pool], kind="stable")]  # less padding
        for number in rng.permutation(4):
            rows = pool[number * size : (number + 1) * size]
            output, wanted = network(*learn.batch(rows)), targets[rows]
            loss = (1 - differentiable_ccc(output, wanted)).sum()
            loss = loss + 5 * nn.functional.smooth_l1_loss(output, wanted, beta=0.1)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            step += 1
            _follow(average, network, min(0.99, 1 - 1 / (step + 1)))
    average.eval()
    with torch.no_grad():
        parts = np.array_split(np.arange(len(test.labels)), -(-len(test.labels) // 64))
        prediction = torch.cat([average(*test.batch(part)) for part in parts]).numpy()
    figures = {d: ccc(test.labels[:, i], prediction[:, i]) for i, d in enumerate(DIMENSIONS)}
    n_fft = options.get("n_fft", 512)
    return {
        "variant": name,
        "parameters": sum(p.numel() for p in network.parameters()),
        "mmac_per_second": network.macs_per_second(learn.bands.shape[1], 32000 / n_fft) / 1e6,
        "seed": seed,
        "steps": step,
        **figures,
        "mean": float(np.mean(list(figures.values()))),
    }


def _follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    with torch.no_grad():
        for a, b in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
            if a.dtype.is_floating_point:
                a.lerp_(b, 1 - decay)
            else:
                a.copy_(b)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = studies.parser("nano_search", "variants of nano, compared")
    parser.add_argument("train", help="label table to learn from")
    parser.add_argument("test", help="label table of other speakers")
    parser.add_argument("--variant", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seconds", type=float, default=80.0, help="of processor time each")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for name in args.variant:
        result = train(name, args.train, args.test, seconds=args.seconds, seed=args.seed)
        print(json.dumps(result), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
