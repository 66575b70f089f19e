"""A nano that was never trained, with everything else as in a trained one."""

import numpy as np
import torch

from wav2small.students import registry


def random_nano(signals: list[np.ndarray], seed: int = 0):
    """Random weights, BatchNorm statistics of real speech, outputs spread around .5."""
    torch.manual_seed(seed)
    student = registry.create("nano")
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
        student.eval()
        embedding = student.embed(batch)
        student.adv.weight.mul_(0.05 / (embedding @ student.adv.weight.T).std())
        student.adv.bias.add_(0.5 - student(batch).mean(0))
    return student
