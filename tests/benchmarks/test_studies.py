"""The studies behind the documentation are programs that explain themselves."""

import runpy
from pathlib import Path

import pytest

from wav2small.benchmarks import studies

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
