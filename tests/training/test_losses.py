"""The loss against numpy in float64, and one process against two."""

import numpy as np
import pytest
import torch
import torch.multiprocessing
from safetensors.torch import load_file, save_file

from wav2small import metrics
from wav2small.training import distributed as parallel
from wav2small.training import losses


def batch(seed=0, clips=24):
    generator = np.random.default_rng(seed)
    truth = generator.uniform(0.1, 0.9, (clips, 3))
    return truth, truth + generator.normal(0.05, 0.15, (clips, 3))


def settings(**changes):
    values = {
        "ccc_weights": torch.ones(3, dtype=torch.float64),
        "regression_weights": torch.full((3,), 5.0, dtype=torch.float64),
    }
    return values | changes


def oracle(truth, prediction, ccc_weights, regression_weights, kind, dropped):
    """The loss from its definition, one clip and one dimension at a time."""
    residuals = [
        sum((truth[i][d] - prediction[i][d]) ** 2 for d in range(3)) for i in range(len(truth))
    ]
    kept = sorted(range(len(truth)), key=lambda i: residuals[i])[: len(truth) - dropped]
    total = 0.0
    for d in range(3):
        t = np.array([truth[i][d] for i in kept])
        p = np.array([prediction[i][d] for i in kept])
        total += ccc_weights[d] * (1 - metrics.ccc(t, p))
        errors = []
        for difference in np.abs(t - p):
            if kind == "mse" or difference < losses.SMOOTH_L1_BETA:
                errors.append(difference**2)
            else:
                beta = losses.SMOOTH_L1_BETA
                errors.append(2 * beta * (difference - beta / 2))
        if kind != "none":
            total += regression_weights[d] * np.mean(errors)
    return total


@pytest.mark.parametrize("kind", ["smooth_l1", "mse", "none"])
@pytest.mark.parametrize("trim, dropped", [(0.0, 0), (0.1, 2), (0.5, 12)])
def test_loss_is_its_definition(kind, trim, dropped):
    truth, prediction = batch()
    weights = np.array([1.0, 0.5, 2.0]), np.array([5.0, 0.0, 1.0])
    expected = oracle(truth, prediction, *weights, kind, dropped)
    loss = losses.distillation_loss(
        torch.tensor(truth),
        torch.tensor(prediction),
        ccc_weights=torch.tensor(weights[0]),
        regression_weights=torch.tensor(weights[1]),
        kind=kind,
        trim=trim,
    )
    assert float(loss) == pytest.approx(expected, abs=1e-5)


def test_gradient_is_that_of_finite_differences():
    truth, prediction = (torch.tensor(values) for values in batch(clips=7))
    prediction.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda p: losses.distillation_loss(truth, p, **settings()), prediction
    )


@pytest.mark.parametrize(
    "truth, prediction",
    [
        (torch.full((8, 3), 0.5), torch.full((8, 3), 0.5)),
        (torch.full((8, 3), 0.5), torch.linspace(0, 1, 24).view(8, 3)),
        (torch.linspace(0, 1, 3)[None], torch.linspace(1, 0, 3)[None]),
    ],
    ids=["both constant and equal", "constant truth", "one clip"],
)
def test_undefined_ccc_keeps_the_gradient_finite(truth, prediction):
    prediction = prediction.clone().requires_grad_()
    losses.distillation_loss(
        truth, prediction, ccc_weights=torch.ones(3), regression_weights=torch.ones(3)
    ).backward()
    assert prediction.grad.isfinite().all()


def _share(rank, size, port, file):
    """One of several processes: its share of the batch through a small network."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size
    )
    result = _train_step(rank, size)
    if rank == 0:
        save_file({k: v.detach().clone() for k, v in result.items()}, file)
    torch.distributed.destroy_process_group()


def _train_step(rank, size):
    """Loss, gradients and BatchNorm statistics of one step on this process's share."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv1d(1, 4, 5), torch.nn.BatchNorm1d(4), torch.nn.ReLU(), torch.nn.Conv1d(4, 3, 5)
    )
    parallel.share_batch_norm(model)
    truth = torch.tensor(batch()[0], dtype=torch.float32)
    signal = torch.randn(len(truth), 1, 50)
    prediction = model(signal[rank::size]).mean(2)
    loss = losses.distillation_loss(
        parallel.gather(truth[rank::size]),
        parallel.gather(prediction),
        ccc_weights=torch.ones(3),
        regression_weights=torch.ones(3),
    )
    loss.backward()
    parallel.sum_gradients(model.parameters())
    return {
        "loss": loss.detach(),
        "gradients": torch.cat([p.grad.flatten() for p in model.parameters()]),
        "mean": model[1].running_mean,
        "variance": model[1].running_var,
    }


def test_two_processes_compute_what_one_does(tmp_path, unused_port):
    torch.multiprocessing.spawn(_share, (2, unused_port, str(tmp_path / "two")), nprocs=2)
    two = load_file(tmp_path / "two")
    one = _train_step(0, 1)
    assert float(two["loss"]) == pytest.approx(float(one["loss"]), abs=1e-6)
    for name in ("gradients", "mean", "variance"):
        np.testing.assert_allclose(two[name].numpy(), one[name].numpy(), atol=1e-5, err_msg=name)


@pytest.fixture
def unused_port():
    import socket

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]
