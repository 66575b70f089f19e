"""LoRA: adapters that learn, and leave no trace but their weights."""

import importlib.util
import sys

import multimodal_cases
import pytest
import torch
from finetuning_cases import finetune
from multimodal_cases import CLASSES, passages, truth

from wav2small.errors import Wav2SmallError
from wav2small.teachers.multimodal import lora, mister_e
from wav2small.teachers.multimodal import teacher as multimodal

SMALL = {"context_size": 16, "cross_size": 16, "cross_inner": 12}
needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="pip install peft")


def test_without_peft_it_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(Wav2SmallError, match="--lora needs peft, .*: pip install peft"):
        lora.adapt(torch.nn.Linear(2, 2), lora.Adapter())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"lora": 8}, "--lora is for --teacher NAME"),
        ({"lora": -1, "teacher": "mister_e"}, "--lora -1: give a rank of at least 1"),
    ],
)
def test_wrong_usage(options, message, encoders, corpus, tmp_path):
    if "teacher" in options:
        options |= encoders
    with pytest.raises(Wav2SmallError, match=message):
        finetune(corpus / "ratings.csv", tmp_path / "out", device="cpu", **options)


@needs_peft
def test_adapters_learn_and_merge(encoders):
    network = multimodal_cases.build("mister_e", encoders, **SMALL)
    plain = {key: value.clone() for key, value in network.state_dict().items()}
    batch = network.collate(passages())
    before = network(batch)[0].detach()
    network.speech.freeze_front()
    network.adapt(4)
    torch.testing.assert_close(network(batch)[0], before)  # adapters begin with nothing
    merged = lora.merged(network)
    assert merged.keys() == plain.keys()
    for key, value in merged.items():
        torch.testing.assert_close(value, plain[key])

    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if ".lora_" in name:
                parameter.normal_(0, 0.1)
    multimodal_cases.assert_all_learn(network, network.loss(truth(), CLASSES, *network(batch)))
    encoding = ("speech.model.", "text.model.")
    learn = [n for n, p in network.named_parameters() if p.requires_grad and n.startswith(encoding)]
    assert learn and all(".lora_" in name for name in learn)

    other = multimodal_cases.build("mister_e", encoders, **SMALL)
    other.load_state_dict(lora.merged(network))
    torch.testing.assert_close(other(batch)[0], network(batch)[0], atol=1e-5, rtol=0)
    assert (other(batch)[0] - before).abs().max() > 1e-5


@needs_peft
def test_without_a_rank_it_is_the_published_one(encoders):
    """Rank 8, alpha 32 in all of the text; 16, 8 in queries and keys of the speech encoder."""
    network = multimodal_cases.build("mister_e", encoders, **SMALL)
    network.adapt(0)
    found = {
        part: {
            (name.rpartition(".")[2], layer.r["default"], layer.scaling["default"])
            for name, layer in getattr(network, part).named_modules()
            if hasattr(layer, "lora_A")
        }
        for part in ("text", "speech")
    }
    assert found["speech"] == {("q_proj", 16, 0.5), ("k_proj", 16, 0.5)}
    assert {(rank, scale) for _, rank, scale in found["text"]} == {(8, 4.0)}
    assert {name for name, *_ in found["text"]} >= {"query", "key", "value", "dense"}


@needs_peft
def test_from_finetuning_to_a_label_table(encoders, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(mister_e.Network, "defaults", mister_e.Network.defaults | SMALL)
    _, _, teacher = multimodal_cases.finetune_and_label(
        "mister_e", encoders, corpus, tmp_path, lora=2
    )
    assert isinstance(teacher.network, multimodal.network_class("mister_e"))
    assert not any(".lora_" in name for name, _ in teacher.network.named_parameters())
