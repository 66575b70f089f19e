"""What tests of teachers that read share: tiny encoders, passages, a corpus of noise, oracles."""

import json

import numpy as np
import pandas as pd
import torch
from finetuning_cases import finetune
from labelling_cases import label

from wav2small import read_labels
from wav2small.benchmarks.studies import small_encoders
from wav2small.teachers import load_teacher
from wav2small.teachers.multimodal import teacher as multimodal
from wav2small.teachers.multimodal.dialogue import Passage, Turn

SPEECH = {
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "conv_dim": [16, 16, 16],
    "num_conv_pos_embedding_groups": 2,
}
TEXT = {
    "hidden_size": 24,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "max_position_embeddings": 42,
}
WORDS = "the cat sat on a mat and was very good or bad today again"
DIMENSIONS = ("arousal", "dominance", "valence")
#: Of `truth`, the last one not known.
CLASSES = torch.tensor([0, 1, 0, 1, -1])


def encoders(folder):
    """Folders of a speech and a text encoder, as `finetune` wants them."""
    small_encoders.speech(folder / "speech", **SPEECH)
    small_encoders.text(folder / "text", [WORDS], **TEXT)
    return {"speech": str(folder / "speech"), "text": str(folder / "text")}


def build(system, folders, *, categories=("x", "y"), **changes):
    """A network with random weights, ready to judge."""
    torch.manual_seed(0)
    start = multimodal.from_encoders(
        **folders, own_encoder=multimodal.network_class(system).own_encoder
    )
    made = multimodal.build(
        system, start, dimensions=DIMENSIONS, categories=categories, scale=(0.0, 0.1), **changes
    )
    return made.eval()


def turn(seed, seconds=0.5, text="the cat sat"):
    """A turn of noise."""
    signal = np.random.default_rng(seed).normal(0, 0.1, round(16000 * seconds))
    return Turn(f"{seed}.wav", 0, None, text, None, signal.astype(np.float32))


def passages():
    """Alone, first, in the middle and last of a dialogue, with gaps, without text or sound."""
    unheard = turn(6, text="very good")._replace(signal=None)
    return [
        Passage((turn(1), turn(2, 0.9, "on a mat and was")), 1),
        Passage((turn(3, 0.3),), 0),
        Passage((turn(4, 0.7, None), turn(10, 0.4, "bad today")), 0),
        Passage((unheard, Turn(), turn(7, 1.1, "or bad today"), turn(11, 0.6), turn(12, 0.5)), 2),
        Passage((turn(5), turn(8, 0.6, None), turn(13, 0.3, "again")), 1),
    ]


def truth(seed=0):
    """Ratings of `passages`."""
    return torch.tensor(np.random.default_rng(seed).uniform(size=(5, 3)), dtype=torch.float32)


def assert_items_are_rows(network, cases=None, atol=1e-5):
    """A padded batch gives what its passages give one by one, whatever `forward` returns."""
    cases = passages() if cases is None else cases
    with torch.no_grad():
        together = network(network.collate(cases))
        for number, passage in enumerate(cases):
            alone = network(network.collate([passage]))
            for one, all_ in zip(alone, together, strict=True):
                assert (one is None) == (all_ is None)
                if one is not None:
                    torch.testing.assert_close(one[0], all_[number], atol=atol, rtol=0)


def assert_all_learn(module, loss):
    """The gradient of a loss reaches every parameter that wants one."""
    loss.backward()
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def ccc_loss(truth, outputs):
    """Sum of 1 - CCC, numpy float64."""
    truth, outputs = (np.asarray(values, dtype=np.float64) for values in (truth, outputs))
    total = 0.0
    for x, y in zip(truth.T, outputs.T, strict=True):
        covariance = np.mean((x - x.mean()) * (y - y.mean()))
        total += 1 - 2 * covariance / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
    return total


def entropy(logits, classes):
    """Mean cross-entropy of the known classes, numpy float64."""
    known = [
        -log_softmax(row)[number]
        for row, number in zip(np.asarray(logits), np.asarray(classes), strict=True)
        if number >= 0
    ]
    return np.mean(known)


def log_softmax(row):
    row = np.asarray(row, dtype=np.float64)
    return row - row.max() - np.log(np.exp(row - row.max()).sum())


def corpus(folder):
    """Sixteen turns of noise in four dialogues; the louder, the more aroused.

    One has no transcript, one dialogue lacks a turn, one transcript is longer than the encoder.
    """
    import soundfile

    random = np.random.default_rng(0)
    rows = []
    for number in range(16):
        value = random.uniform(0.1, 0.9)
        soundfile.write(folder / f"{number}.wav", random.normal(0, 0.1 * value, 9600), 16000)
        words = WORDS.split()[number % 5 : number % 5 + 3] * (20 if number == 9 else 1)
        rows.append(
            {
                "file": f"{number}.wav",
                "arousal": value,
                "dominance": 1 - value,
                "valence": random.uniform(),
                "text": " ".join(words) if number else None,
                "words": json.dumps(
                    [
                        {"word": w, "start": 0.01 * n, "end": 0.01 * n + 0.01}
                        for n, w in enumerate(words)
                    ]
                )
                if number
                else None,
                "dialogue": number // 4,
                "turn": number % 4 + (number == 7),
                "speaker": f"s{number % 4}",
                "emotion": "high" if value > 0.5 else "low",
            }
        )
    pd.DataFrame(rows).to_csv(folder / "ratings.csv", index=False)
    return folder


OPTIONS = {"batch_size": 6, "micro_batch": 4, "learning_rate": 1e-3, "device": "cpu"}


def finetune_and_label(system, folders, source, output, **options):
    """Fine-tune, load, label; checks what holds for every system, gives back its labels."""
    ratings = source / "ratings.csv"
    result = finetune(
        ratings,
        output / "teacher",
        teacher=system,
        categories="emotion",
        epochs=1,
        **{**folders, **OPTIONS, **options},
    )
    assert not result.rejected
    table = output / "labels.parquet"
    label(ratings, table, teacher=str(output / "teacher"), workers=0, device="cpu")
    labels = read_labels(table)
    assert {"probability_high", "probability_low", "text"} <= set(labels.frame)
    assert labels.frame["arousal"].nunique() > 10
    entries = {entry["name"]: entry for entry in labels.provenance["teachers"]}
    assert entries[system]["reads"] == "text"
    encoders = [entry for name, entry in entries.items() if name.endswith("encoder")]
    assert encoders and all(entry["licence"] == "unknown" for entry in encoders)
    # Loaded once more it predicts the same.
    again = output / "again.parquet"
    label(ratings, again, teacher=str(output / "teacher"), workers=0, device="cpu")
    found = read_labels(again)
    np.testing.assert_array_equal(found.values, labels.values)
    return labels, entries, load_teacher(str(output / "teacher"), device="cpu")
