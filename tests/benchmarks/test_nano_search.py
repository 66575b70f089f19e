"""The search trains what it claims: its base variant is `nano` itself."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from wav2small import provenance
from wav2small.benchmarks.studies import nano_search
from wav2small.students import costs, registry
from wav2small.tables import Labels, write_labels


@pytest.fixture(scope="module")
def table(speech, tmp_path_factory):
    files = sorted(path.name for path in speech.glob("*.flac"))[:8]
    frame = pd.DataFrame({"file": files, "start": pd.to_timedelta([0] * len(files))})
    frame["end"] = pd.to_timedelta([pd.NaT] * len(files))
    labels = np.random.default_rng(0).uniform(0.2, 0.8, (len(files), 3))
    frame[["arousal", "dominance", "valence"]] = labels
    path = tmp_path_factory.mktemp("tables") / "labels.parquet"
    write_labels(path, Labels(frame, root=str(speech), provenance=provenance.new()))
    return path


def test_base_is_nano():
    torch.manual_seed(0)
    nano = registry.create("nano").eval()
    network = nano_search.Network(nano_search.VARIANTS[NANO], nano.config["mels"]).eval()
    network.load_state_dict(nano.state_dict())
    signal = torch.randn(2, 40000) * torch.tensor([[0.1], [0.01]])
    with torch.no_grad():
        bands = nano.logmel(nano.spectrogram(signal))
        got = network(bands, torch.ones(bands.shape[:2], dtype=torch.bool))
        torch.testing.assert_close(got, nano(signal), atol=1e-5, rtol=0)
    cost = costs.count(nano)
    behind = cost.macs_per_second - cost.macs_frontend
    assert network.macs_per_second(nano.config["mels"], 62.5) == pytest.approx(behind, rel=0.02)


@pytest.mark.parametrize("name", nano_search.VARIANTS)
def test_every_variant_learns_from_gradients(name):
    variant = nano_search.VARIANTS[name]
    bands = dict(variant.frontend).get("mels", 40)
    network = nano_search.Network(variant, bands)
    mask = torch.ones(3, 30, dtype=torch.bool)
    mask[1, 20:] = False
    network(torch.randn(3, 30, bands), mask).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert sum(parameter.numel() for parameter in network.parameters()) <= 25_500


def test_command(table, capsys):
    arguments = [str(table), str(table), "--variant", NANO, "--seconds", "1"]
    assert nano_search.main(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["variant"] == NANO and result["steps"] > 2 and np.isfinite(result["mean"])
    assert list(table.parent.glob("*.npz"))


NANO = "base"  # the variant that became the student
