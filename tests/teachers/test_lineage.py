"""Whom a bundle binds: every licence on the way, through every verb, named where it forbids."""

import json
import shutil

import finetuning_cases
import numpy as np
import pytest
import soundfile
from finetuning_cases import finetune
from labelling_cases import label
from test_finetune import pretrain as backbone

from wav2small import Wav2SmallError, distill, read_labels
from wav2small.export import licences
from wav2small.export.export import export_bundle
from wav2small.export.push import push
from wav2small.export.verification import VerificationOptions, verify_bundle
from wav2small.teachers.finetuning import pretrain as pretraining
from wav2small.teachers.finetuning.multimodal_recipe import MultimodalRecipe

SHORT = {"epochs": 1, "batch_size": 8, "crop_s": 0.5, "device": "cpu"}


def licensed(folder, licence):
    (folder / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
    return folder


def tuned(corpus, folder, *, backbone_licence="mit", audio_licence="CC0-1.0"):
    """A teacher that `finetune` made."""
    start = licensed(backbone(folder / "backbone", "wav2vec2"), backbone_licence)
    options = {"backbone": str(start), "audio_licence": audio_licence, **SHORT}
    finetune(corpus / "ratings.csv", folder / "tuned", **options)
    return str(folder / "tuned")


def multimodal(corpus, folder, encoders, *, audio_licence):
    """A teacher that `finetune` made of what `pretrain` made, of encoders under MIT."""
    speech, text = (shutil.copytree(encoders[kind], folder / kind) for kind in ("speech", "text"))
    recipe = MultimodalRecipe("spectra", str(licensed(speech, "mit")), str(licensed(text, "mit")))
    training = finetuning_cases.replace(pretraining.DEFAULTS, epochs=1, batch_size=8)
    compute = finetuning_cases.DeviceOptions(device="cpu")
    options = {"audio_licence": audio_licence, "training": training, "compute": compute}
    pretraining.pretrain(corpus / "ratings.csv", folder / "pretrained", recipe, **options)
    options = {"teacher": "spectra", "pretrained": str(folder / "pretrained"), **SHORT}
    finetune(corpus / "ratings.csv", folder / "tuned", audio_licence="CC0-1.0", **options)
    return str(folder / "tuned")


def labelled(corpus, folder, **options):
    options = {"workers": 0, "device": "cpu", "audio_licence": "CC0-1.0", "limit": 8} | options
    label(corpus / "ratings.csv", folder / "labels.parquet", **options)
    return read_labels(folder / "labels.parquet").provenance


def test_acoustic_labels_of_free_audio_bind_nobody(corpus, tmp_path):
    assert licences.forbidding(labelled(corpus, tmp_path)) == []


@pytest.mark.parametrize("licence", ["CC-BY-NC-SA-4.0", "unknown"])
def test_audio_that_is_labelled(licence, corpus, tmp_path):
    found = licences.forbidding(labelled(corpus, tmp_path, audio_licence=licence))
    assert found == [f"audio {corpus / 'ratings.csv'} ({licence})"]


@pytest.mark.parametrize("role", ["noise", "rooms", "mixture"])
@pytest.mark.parametrize("licence", ["CC-BY-NC-4.0", "unknown"])
def test_what_variants_mix_in(role, licence, corpus, tmp_path):
    (tmp_path / "sounds").mkdir()
    sound = 0.1 * np.random.default_rng(0).normal(size=16000)
    soundfile.write(tmp_path / "sounds/a.wav", sound, 16000)
    folder = str(tmp_path / "sounds")
    options = {"variants": 1, role: folder, f"{role}_licence": licence}
    assert licences.forbidding(labelled(corpus, tmp_path, **options)) == [
        f"audio {folder} ({licence})"
    ]


@pytest.mark.parametrize(
    ("options", "licence"),
    [
        ({"audio_licence": "CC-BY-NC-4.0"}, "CC-BY-NC-4.0"),
        ({"audio_licence": "unknown"}, "unknown"),
        ({"backbone_licence": "cc-by-nc-sa-4.0"}, "CC-BY-NC-SA-4.0"),
        ({"backbone_licence": "other"}, "OTHER"),
    ],
)
def test_finetuning(options, licence, corpus, tmp_path):
    teacher = tuned(corpus, tmp_path, **options)
    (named,) = licences.forbidding(labelled(corpus, tmp_path, teacher=teacher))
    assert named.startswith("teacher ") and licence in named


@pytest.mark.parametrize("licence", ["CC-BY-NC-4.0", "unknown"])
def test_pretraining(licence, corpus, encoders, tmp_path):
    teacher = multimodal(corpus, tmp_path, encoders, audio_licence=licence)
    assert any(
        licence in name for name in licences.forbidding(labelled(corpus, tmp_path, teacher=teacher))
    )


def on(speech):
    return VerificationOptions(calibration=speech, clips=8)


@pytest.fixture(scope="module")
def chain(corpus, tmp_path_factory):
    """A run whose labels come of an ensemble with a non-commercial member, and noise unknown."""
    folder = tmp_path_factory.mktemp("chain")
    (folder / "noise").mkdir()
    soundfile.write(folder / "noise/a.wav", 0.1 * np.random.default_rng(0).normal(size=9000), 16000)
    teacher = tuned(corpus, folder, audio_licence="CC-BY-NC-4.0")
    spec = f"ensemble:{teacher}=1,acoustic=1"
    options = {"teacher": spec, "variants": 1, "noise": str(folder / "noise"), "limit": None}
    labelled(corpus, folder, **options)
    distill(folder / "labels.parquet", folder / "run", student="nano", **SHORT)
    return folder


def test_the_end_of_the_chain_names_all_of_it(chain, speech, tmp_path):
    for verb in (
        lambda: export_bundle(chain / "run", tmp_path / "b", check_licence="commercial"),
        lambda: push(chain / "run", "owner/name", dry_run=True, check_licence="commercial"),
    ):
        with pytest.raises(Wav2SmallError, match="commercial use is not allowed by") as caught:
            verb()
        message = str(caught.value)
        assert "CC-BY-NC-4.0" in message and "noise (unknown)" in message
        assert "acoustic" not in message and "\n" not in message
    assert not (tmp_path / "b").exists()
    export_bundle(chain / "run", tmp_path / "bundle", verification=on(speech))
    with pytest.raises(Wav2SmallError, match="CC-BY-NC-4.0"):
        verify_bundle(tmp_path / "bundle", check_licence="commercial")
    assert "**not** allowed" in (tmp_path / "bundle/README.md").read_text()


@pytest.mark.parametrize("form", ["run", "bundle"])
def test_a_student_as_a_teacher_passes_it_on(form, chain, corpus, speech, tmp_path):
    teacher = chain / "run"
    if form == "bundle":
        teacher = tmp_path / "bundle"
        export_bundle(chain / "run", teacher, verification=on(speech))
        (teacher / "provenance.json").unlink()  # the ONNX file knows by itself
    found = licences.forbidding(labelled(corpus, tmp_path, teacher=str(teacher)))
    assert found and any("CC-BY-NC-4.0" in name for name in found)
    assert any("unknown" in name for name in found)
    distill(tmp_path / "labels.parquet", tmp_path / "second", student="nano", **SHORT)
    lineage = json.loads((tmp_path / "second/provenance.json").read_text())
    assert licences.forbidding(lineage) == found
