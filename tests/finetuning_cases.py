"""Fine-tuning and pretraining with options by name, as on the command line."""

import contextlib
import signal
from dataclasses import fields, replace

from wav2small.teachers.finetuning import finetune as finetuning
from wav2small.teachers.finetuning import pretrain as pretraining
from wav2small.teachers.finetuning.multimodal_recipe import MultimodalRecipe
from wav2small.teachers.finetuning.options import DeviceOptions, RatingOptions, TrainingOptions
from wav2small.teachers.finetuning.training import FineTuning


def _taken(options, kind):
    return {f.name: options.pop(f.name) for f in fields(kind) if f.name in options}


def finetune(labels, output, **options):
    groups = {
        "ratings": RatingOptions(**_taken(options, RatingOptions)),
        "training": TrainingOptions(**_taken(options, TrainingOptions)),
        "compute": DeviceOptions(**_taken(options, DeviceOptions)),
        "overwrite": options.pop("overwrite", False),
    }
    return finetuning.finetune(labels, output, finetuning.choose_recipe(**options), **groups)


def pretrain(system, source, output, **options):
    groups = {
        "training": replace(pretraining.DEFAULTS, **_taken(options, TrainingOptions)),
        "compute": DeviceOptions(**_taken(options, DeviceOptions)),
    }
    return pretraining.pretrain(source, output, MultimodalRecipe(system, **options), **groups)


@contextlib.contextmanager
def stop_after(monkeypatch, steps):
    """Ctrl-C during step number `steps` of what is trained within."""
    taken = []

    def counted(self, number):
        taken.append(number)
        if len(taken) == steps:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(FineTuning, "after_step", counted)
        yield
