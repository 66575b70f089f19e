"""A nano that was never trained, else as a trained one, and its C on this machine."""

import tempfile
from pathlib import Path

import numpy as np
import torch

from wav2small.benchmarks import microcontroller
from wav2small.students import registry


def random_nano(signals: list[np.ndarray], seed: int = 0, voice: bool = False):
    """Random weights, BatchNorm statistics of real speech, outputs spread around .5."""
    torch.manual_seed(seed)
    student = registry.create("nano", voice=voice)
    size = min(map(len, signals))
    batch = torch.tensor(np.stack([signal[:size] for signal in signals]))
    for module in student.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.momentum = None  # plain mean over what it sees
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.3)
    with torch.no_grad():
        student.train()
        student(batch)
        if voice:
            student.voice(student.frames(batch))
        student.eval()
        if voice:  # probabilities on both sides of .5 and .8
            logits = student.voice(student.frames(batch))
            student.voice.out.weight.mul_(3 / logits.std())
            student.voice.out.bias -= student.voice(student.frames(batch)).quantile(0.3) - 0.7
        embedding = student.embed(batch)
        student.adv.weight.mul_(0.05 / (embedding @ student.adv.weight.T).std())
        student.adv.bias.add_(0.5 - student(batch).mean(0))
    return student


def on_host(bundle, clip=None):
    """What the program of `microcontroller` gives on this machine."""
    source = microcontroller._source(bundle)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        microcontroller._write_clip(microcontroller._clip(clip), folder)
        command = ["cc", *microcontroller._FLAGS, "-O2", "-DW2S_HOST", str(source)]
        command += [*microcontroller._defines(source), str(microcontroller.BOARD / "main.c")]
        command += [str(folder / "clip.c"), "-o", str(folder / "program")]
        microcontroller._call(command)
        return microcontroller._parse(microcontroller._call([str(folder / "program")]))
