"""The training loop on a linear model: resuming, stopping early, other runs, divergence."""

import csv
import json
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from wav2small.errors import Wav2SmallError
from wav2small.training import checkpoint, loop, threads
from wav2small.training.interrupt import Stop
from wav2small.training.loop import LoopOptions, Training

INPUTS = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
TARGETS = INPUTS @ torch.tensor([[1.0], [-2.0], [0.5]])


class Linear(Training):
    """Least squares with dropout, in batches of 4, each as `parts` parts."""

    def __init__(self, output, parts=1, scores=None, identity=None, stop_at=None, **options):
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Dropout(0.2), torch.nn.Linear(3, 1))
        super().__init__(
            output,
            network,
            torch.optim.Adam(network.parameters(), lr=0.1),
            identity=identity or {"size": 3},
            options=LoopOptions(**{"epochs": 3, "learning_rate": 0.1, **options}),
            device=torch.device("cpu"),
        )
        self.parts, self.scores, self.stop_at, self.taken = parts, scores, stop_at, 0

    steps = 3

    def batches(self, epoch, first):
        order = np.random.default_rng(epoch).permutation(12).reshape(3, 4)
        for rows in order[first:]:
            yield np.split(rows, self.parts)

    def forward(self, part):
        return (self.network(INPUTS[part]),)

    def loss(self, parts, *outputs):
        return (outputs[0] - TARGETS[np.concatenate(parts)]).square().mean()

    def validate(self):
        self.network.eval()
        epoch = self.state["epoch"]
        with torch.no_grad():
            error = float((self.network(INPUTS) - TARGETS).square().mean())
        return {"error": error}, self.scores[epoch] if self.scores else -error

    def keep_best(self):
        (self.output / "best").write_text(str(self.state["epoch"] + 1))

    def after_step(self, number):
        self.taken += 1
        if self.taken == self.stop_at:
            signal.raise_signal(signal.SIGINT)


def run(training):
    training.output.mkdir(exist_ok=True)
    with Stop() as stop:
        training.fit(stop)
    return training


def weights(folder):
    return load_file(folder / checkpoint.NAME)


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("step", range(1, 9))
def test_a_stop_after_any_step_changes_nothing(step, parts, tmp_path):
    full = run(Linear(tmp_path / "full", parts))
    with pytest.raises(KeyboardInterrupt):
        run(Linear(tmp_path / "parts", parts, stop_at=step))
    rest = run(Linear(tmp_path / "parts", parts))
    assert rest.taken == 9 - step
    one, other = weights(tmp_path / "full"), weights(tmp_path / "parts")
    assert one.keys() == other.keys() and len(one) == 8
    assert all(torch.equal(one[name], other[name]) for name in one)
    for ours, theirs in zip(full.state["rows"], rest.state["rows"], strict=True):
        assert ours | {"seconds": 0} == theirs | {"seconds": 0}


def test_a_finished_run_is_left_alone(tmp_path):
    run(Linear(tmp_path))
    again = run(Linear(tmp_path))
    assert again.taken == 0 and again.state["finished"] and len(again.state["rows"]) == 3


def test_checkpoints_within_an_epoch_depend_on_the_clock(tmp_path, monkeypatch):
    saves = []
    monkeypatch.setattr(checkpoint, "save", lambda folder, tensors, state: saves.append(state))
    run(Linear(tmp_path, checkpoint_s=0.0, epochs=1))
    often = len(saves)
    run(Linear(tmp_path, checkpoint_s=3600.0, epochs=1))
    assert often == 3 + 2 and len(saves) - often == 2  # after the epoch, and at the end


@pytest.mark.parametrize("patience, done", [(0, 6), (1, 2), (2, 5), (3, 6)])
def test_patience_counts_from_the_best_epoch(patience, done, tmp_path):
    scores = [0.5, 0.4, 0.6, 0.3, 0.2, 0.1]
    ended = run(Linear(tmp_path, scores=scores, epochs=6, patience=patience))
    assert ended.state["epoch"] == done == len(ended.state["rows"])
    assert ended.state["best_epoch"] == int((tmp_path / "best").read_text())
    assert ended.state["best"] == max(scores[:done])


def test_last_phase_follows_early_stopping(tmp_path):
    class Phases(Linear):
        final_epochs = 2

    ended = run(Phases(tmp_path, scores=[0.5, 0.4, 0.3, 0.2], epochs=9, patience=1))
    assert ended.state["epochs"] == 2 and ended.state["epoch"] == 4


@pytest.mark.parametrize(
    "identity, message",
    [
        ({"size": 4}, r"size = 3 \(now 4\)"),
        ({"size": {"deep": 1}}, "another size"),
        ({"size": "a" * 64}, "another size"),
    ],
)
def test_checkpoint_of_another_run_is_rejected(identity, message, tmp_path):
    run(Linear(tmp_path))
    with pytest.raises(Wav2SmallError, match=message + ".*--overwrite"):
        run(Linear(tmp_path, identity=identity))
    assert run(Linear(tmp_path, identity={"size": 3, "new": 1})).taken == 0


def test_weights_of_another_network_are_named(tmp_path):
    run(Linear(tmp_path))
    other = Linear(tmp_path)
    other.network = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(3, 2))
    with pytest.raises(Wav2SmallError, match=r"1\.weight has shape \(1, 3\) instead of \(2, 3\)"):
        run(other)


@pytest.mark.parametrize(
    "saved, identity",
    [
        (  # fine-tuning
            {"settings": {"epochs": 3}, "state": {"epoch": 1, "best": 0.5, "rows": []}},
            {"epochs": 3},
        ),
        (  # distillation
            {
                "student": {"name": "nano"},
                "config": {"settle": 0.4, "epochs": 3},
                "fingerprint": "f" * 64,
                "train_epochs": 2,
                "epoch": 1,
                "step": 2,
            },
            {
                "architecture": {"name": "nano"},
                "labels or split": "f" * 64,
                "freeze_bn_fraction": 0.4,
                "epochs": 3,
            },
        ),
    ],
)
def test_checkpoints_of_earlier_versions_resume(saved, identity, tmp_path):
    from wav2small.students.distillation import Distiller

    text = json.dumps(saved)
    state = checkpoint.same_run(json.loads(text), identity, tmp_path, Distiller.former)
    assert state["epoch"] == 1 and state["identity"] == identity
    assert state["trained"] == saved.get("step", 0)
    assert state.get("epochs", 2) == 2
    changed = identity | {"epochs": 4}
    with pytest.raises(Wav2SmallError, match=r"epochs = 3 \(now 4\)"):
        checkpoint.same_run(json.loads(text), changed, tmp_path, Distiller.former)


def test_divergence_keeps_the_last_good_checkpoint(tmp_path):
    with pytest.raises(Wav2SmallError, match="diverged: loss (nan|inf) at epoch .*-rate 2.5e"):
        run(Linear(tmp_path, learning_rate=1e30, checkpoint_s=0.0))
    assert all(value.isfinite().all() for value in weights(tmp_path).values())


def test_rows_may_gain_columns(tmp_path):
    checkpoint.write_metrics(tmp_path / "m.csv", [{"epoch": 1}, {"epoch": 2, "loss": 0.5}])
    with open(tmp_path / "m.csv", newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"epoch": "1", "loss": ""},
            {"epoch": "2", "loss": "0.5"},
        ]


def test_an_epoch_without_clips_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(Linear, "batches", lambda self, epoch, first: iter([[], [], []]))
    with pytest.raises(Wav2SmallError, match="fewer than two"):
        run(Linear(tmp_path))
    assert loop.checkpoint.load(tmp_path) is None


def test_timing_threads_leaves_no_trace(tmp_path, monkeypatch):
    """Steps that are timed to choose the number of threads change no weight and no statistic."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "available", lambda: 2)
    monkeypatch.setattr(threads, "_apply", lambda number: None)  # others round in another order

    def normed(folder, **options):
        training = Linear(folder, **options)
        training.network.insert(0, torch.nn.BatchNorm1d(3))
        return training

    fixed = run(normed(tmp_path / "fixed", threads=1))
    chosen = run(normed(tmp_path / "chosen"))
    assert fixed.state["threads"] == 1 and chosen.state["threads"] in (1, 2)
    one, other = weights(tmp_path / "fixed"), weights(tmp_path / "chosen")
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(KeyboardInterrupt):
        run(normed(tmp_path / "parts", threads=2, stop_at=4))
    monkeypatch.setattr(threads, "choose", lambda *words, **options: pytest.fail("chosen again"))
    assert run(normed(tmp_path / "parts")).state["threads"] == 2


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_memory_is_kept():
    """Pages that a step has to ask for again; its 120 MB are 29,000 pages."""
    code = """
import resource, torch
from wav2small.training import loop

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    [torch.ones(5_000_000) for _ in range(6)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

loop.keep_memory()
print(min([pages() for _ in range(6)][3:]))
"""
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(made.stdout) < 500
