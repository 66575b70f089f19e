"""The command line as a whole: help, usage errors, and what may not be imported."""

import subprocess
import sys

import pytest

from wav2small.cli import main as cli


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "wav2small", *arguments], capture_output=True, text=True
    )


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_help_with_an_example(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([verb, "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert f"usage: wav2small {verb}" in shown
    assert f"example:\n  wav2small {verb}" in shown


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "usage: wav2small VERB"),
        (["--help"], 0, "predict"),
        (["--version"], 0, "0."),
        (["lable"], 2, "did you mean label?"),
        (["predict"], 2, "bundle"),
        (["predict", "b", "--windw", "3"], 2, "usage"),
        (["predict", "nowhere", "a.wav"], 2, "nowhere: no such bundle"),
        (["evaluate", "nowhere", "a.csv"], 2, "nowhere: no such bundle"),
    ],
)
def test_usage(arguments, code, message):
    done = command(*arguments)
    assert done.returncode == code
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_the_core_never_imports_torch():
    code = (
        "import pkgutil, sys, importlib, wav2small\n"
        "for module in pkgutil.walk_packages(wav2small.__path__, 'wav2small.'):\n"
        "    if not module.name.startswith('wav2small.training'):\n"
        "        importlib.import_module(module.name)\n"
        "heavy = {'torch', 'transformers', 'timm', 'onnx', 'librosa', 'matplotlib'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_predict_on_one_file_needs_no_pandas():
    code = (
        "import sys; from wav2small.cli import predict; import wav2small.prediction\n"
        "assert 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_name_that_is_not_public_is_an_attribute_error():
    import wav2small

    assert "Predictor" in dir(wav2small)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        wav2small.nothing  # noqa: B018
