"""The command line: help, usage errors, and what may not be imported."""

import argparse
import dataclasses
import importlib
import inspect
import subprocess
import sys
import typing

import pytest
import torch

from wav2small.cli import main as cli
from wav2small.cli import options, signatures


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


def test_help_needs_no_package_of_an_extra():
    code = (
        "import contextlib, io, sys\n"
        "for name in ('pandas', 'pyarrow', 'scipy', 'torch', 'transformers', 'onnx', 'fsspec'):\n"
        "    sys.modules[name] = None  # importing it is an error\n"
        "from wav2small.cli import main\n"
        "for verb in main.VERBS:\n"
        "    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "        assert main.main([verb, '--help']) == 0, verb\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


FUNCTIONS = [
    (verb, function)
    for verb in cli.VERBS
    for name, function in vars(importlib.import_module(f"wav2small.cli.{verb}")).items()
    if name.isupper() and isinstance(function, str) and function.startswith("wav2small.")
] + [("label", options.LABEL), ("evaluate", options.LABEL)]


def defaults_of(function) -> dict[str, object]:
    """Defaults of a function and of its groups of options, by inspection of the imported one."""
    hints = typing.get_type_hints(function)
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        kinds = [hints[name], *typing.get_args(hints[name])]
        group = next((kind for kind in kinds[:2] if str(kind).endswith("Options'>")), None)
        if group is None or bool in kinds:
            found[name] = None if parameter.default is parameter.empty else parameter.default
            continue
        prefix = "teacher_" if name == "teacher_options" else ""
        changed = vars(parameter.default) if isinstance(parameter.default, group) else {}
        for field in dataclasses.fields(group):
            found[prefix + field.name] = changed.get(field.name, field.default)
    return found


@pytest.mark.parametrize(("verb", "spec"), FUNCTIONS)
def test_options_have_the_defaults_of_their_function(verb, spec):
    """What is read from the source text is what the imported function has."""
    module, _, name = spec.partition(":")
    expected = defaults_of(getattr(importlib.import_module(module), name))
    assert {key: option.default for key, option in signatures.read(spec).items()} == expected
    parser = argparse.ArgumentParser()
    importlib.import_module(f"wav2small.cli.{verb}").add_arguments(parser)
    shared = [action for action in parser._actions if action.dest in expected]
    assert shared and all(action.help for action in shared)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], {"window_s": 12.0, "scale": None, "overwrite": False, "members": None}),
        (["--window", "3"], {"window_s": 3.0}),
        (["--scale", "1", "7", "--overwrite"], {"scale": [1.0, 7.0], "overwrite": True}),
        (["--members", "a", "b", "--no-gate"], {"members": ["a", "b"], "gate": False}),
    ],
)
def test_arguments_follow_from_a_signature(words, expected, tmp_path, monkeypatch):
    (tmp_path / "signature.py").write_text(
        '"""Options."""\n'
        "from collections.abc import Sequence\n"
        "A, WINDOW_S = 1, 12.0\n"
        "def run(source: str, output: str, *, window_s: float = WINDOW_S, gate: bool = True,\n"
        "        scale: tuple[float, float] | None = None, overwrite: bool = False,\n"
        "        members: Sequence[str] | None = None):\n"
        '    """Run.\n\n    Args:\n        source: what; None = all. More of it\n'
        '        window_s: seconds, 5 % of it\n    """\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    parser = argparse.ArgumentParser()
    options.add(parser, "signature:run", source={"metavar": "SOURCE"})
    found = vars(parser.parse_args(["in", "-o", "out", *words]))
    assert found["source"] == "in" and found["output"] == "out"
    assert {name: found[name] for name in expected} == expected
    text = parser.format_help()
    assert "what (default: all)\n" in text and "5 % of it (default: 12.0)" in text


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "usage: wav2small VERB"),
        (["--help"], 0, "predict"),
        (["--version"], 0, "0."),
        (["lable"], 2, "did you mean label?"),
        (["predict"], 2, "name the audio"),
        (["predict", "b", "--windw", "3"], 2, "--windw 3; see wav2small predict --help\n"),
        (["predict", "-a.wav"], 2, "-a.wav; write ./-a.wav\n"),
        (["predict", "-"], 2, "-: standard input is no source; name a file"),
        (["predict", "nowhere", "a.wav"], 2, "nowhere: no such bundle"),
        (["evaluate", "nowhere", "a.csv"], 2, "nowhere: no such bundle"),
    ],
)
def test_usage(arguments, code, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-a.wav").touch()
    done = command(*arguments)
    assert done.returncode == code
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("place", ["{}/file/below", "{}/" + 300 * "n"])
@pytest.mark.parametrize("words", ["convert {}/weights -o", "demo -o"])
def test_an_output_where_nothing_can_be_is_one_line(words, place, tmp_path, capsys):
    (tmp_path / "file").touch()
    (tmp_path / "weights").mkdir()
    torch.save({"x": torch.zeros(1)}, tmp_path / "weights" / "pytorch_model.bin")
    arguments = [word.format(tmp_path) for word in [*words.split(), place]]
    assert cli.main(arguments) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"wav2small {arguments[0]}: cannot write {tmp_path}")
    assert "choose another folder" in line


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
