"""The studies behind the documentation are programs that explain themselves, and their errors."""

import runpy
from pathlib import Path

import pytest

from wav2small.benchmarks import studies
from wav2small.benchmarks.studies import box

NAMES = sorted(path.stem for path in Path(studies.__path__[0]).glob("[a-z]*.py"))


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("name", NAMES)
def test_help(name, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [name, "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module(f"wav2small.benchmarks.studies.{name}", run_name="__main__")
    assert not stop.value.code
    assert f"usage: python -m wav2small.benchmarks.studies.{name}" in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.parametrize(
    "audio, output, problem",
    [
        ("", "out", "no emodb/labels.csv; give the folder with emodb and cc0_voices"),
        ("speech", "speech/emodb/labels.csv", "labels.csv: no folder (Not a directory); choose"),
        ("speech", "out", "out: made from {0}/other/emodb; choose another -o"),
    ],
)
def test_box_says_what_it_cannot_use(audio, output, problem, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("emodb", "cc0_voices"):
        for root in ("speech", "other"):
            (tmp_path / root / name).mkdir(parents=True)
            (tmp_path / root / name / "labels.csv").write_text("file,speaker,emotion\n")
    (tmp_path / "out" / "audio").mkdir(parents=True)
    (tmp_path / "out" / "audio" / "emodb").symlink_to(tmp_path / "other" / "emodb")
    assert box.main([audio, "-o", output]) == 2
    error = capsys.readouterr().err
    assert problem.format(tmp_path.resolve()) in error and error.count("\n") == 1
