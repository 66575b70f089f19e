"""What goes to the hub comes back as a teacher; nothing goes that may not."""

import shutil

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import errors

from wav2small.cli.main import main
from wav2small.errors import Wav2SmallError
from wav2small.export.card import front_matter
from wav2small.export.push import push
from wav2small.teachers import load_teacher

try:  # whichever the hub's client brings
    import httpx2 as httpx
except ImportError:
    import httpx


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub of one repository: what is pushed lies in a folder, and is fetched from it."""
    folder = tmp_path / "hub" / ("a" * 40)
    asked = []

    class Api:
        def create_repo(self, name, **options):
            asked.append((name, options["private"]))

        def create_commit(self, name, operations, **_):
            for operation in operations:
                path = folder / operation.path_in_repo
                path.parent.mkdir(parents=True, exist_ok=True)
                content = operation.path_or_fileobj
                if isinstance(content, bytes):
                    path.write_bytes(content)
                else:
                    shutil.copyfile(content, path)
            return type("Commit", (), {"commit_url": f"https://hub/{name}/commit/1"})

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(folder))
    return folder, asked


@pytest.mark.parametrize("what", ["run", "bundle"])
def test_there_and_back(what, hub, clip, request):
    source = request.getfixturevalue(what)
    folder, asked = hub
    result = push(source, "owner/name")
    assert result.url == "https://hub/owner/name/commit/1" and asked == [("owner/name", True)]
    assert "validation.parquet" not in result.files  # it names files of this machine
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlicense: mit\n") and card.count("# ")
    one = clip[None], np.array([len(clip)])
    there, here = load_teacher("owner/name", device="cpu"), load_teacher(str(source), device="cpu")
    np.testing.assert_array_equal(there.predict(*one), here.predict(*one))
    assert (there.id, there.licence) == ("owner/name", here.licence)


def test_a_dry_run_needs_no_network(run, bundle, monkeypatch, capsys):
    monkeypatch.setattr(huggingface_hub, "HfApi", None)
    for source in (run, bundle):
        assert main(["push", str(source), "owner/name", "--dry-run"]) == 0
        shown = capsys.readouterr().out
        assert "would go to owner/name: " in shown and "provenance.json" in shown


def test_a_bundle_is_pushed_as_it_was_exported(bundle, tmp_path):
    copy = shutil.copytree(bundle, tmp_path / "bundle")
    (copy / "model.yaml").write_text("changed")
    with pytest.raises(Wav2SmallError, match="model.yaml was changed"):
        push(copy, "owner/name", dry_run=True)


def test_a_lineage_that_forbids_the_use_stays_here(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    push(copy, "owner/name", dry_run=True, check_licence="commercial")
    (copy / "provenance.json").unlink()
    with pytest.raises(Wav2SmallError, match="commercial use is not allowed"):
        push(copy, "owner/name", dry_run=True, check_licence="commercial")


@pytest.mark.parametrize(
    ("licences", "line"),
    [
        (["MIT"], "mit"),
        (["MIT", "CC0-1.0"], "mit"),
        (["Apache-2.0"], "apache-2.0"),
        (["CC-BY-NC-SA-4.0", "MIT"], "cc-by-nc-sa-4.0"),
        (["CC-BY-NC-SA-4.0", "unknown"], "other"),
        (["unknown"], "other"),
        ([], "other"),
    ],
)
def test_the_licence_of_a_card_is_the_strictest(licences, line):
    teachers = [{"name": "t", "licence": licence} for licence in licences]
    assert front_matter({"teachers": teachers}).splitlines()[1] == f"license: {line}"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errors.LocalTokenNotFoundError("no token"), "log in to the hub first"),
        (httpx.ConnectError("no route"), "the hub cannot be reached"),
        (OSError("no route"), "the hub cannot be reached"),
    ],
)
def test_a_hub_that_does_not_answer(error, message, run, monkeypatch):
    class Api:
        def create_repo(self, *_, **__):
            raise error

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    with pytest.raises(Wav2SmallError, match=message):
        push(run, "owner/name")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere", "owner/name"], "nowhere: no such folder"),
        ([".", "name"], "name the repository owner/name"),
        ([".", "owner/name"], "neither a bundle"),
    ],
)
def test_one_line_for_what_cannot_be_pushed(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["push", *words, "--dry-run"]) == 2
    shown = capsys.readouterr().err
    assert message in shown and shown.count("\n") == 1
