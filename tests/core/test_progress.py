"""Progress where stderr is no terminal: lines now and then, nothing for short work."""

import time

import pytest

from wav2small import progress


@pytest.mark.parametrize(("every_s", "lines"), [(0.1, True), (30.0, False)])
def test_a_pipe_gets_lines(monkeypatch, capsys, every_s, lines):
    monkeypatch.setattr(progress, "LINE_S", every_s)
    monkeypatch.setattr(progress, "DELAY_S", 0.0)
    with progress.bar(8, unit="clip", desc="label") as bar:
        for _ in range(8):
            time.sleep(0.05)
            bar.update()
    shown = capsys.readouterr().err
    assert "\r" not in shown
    assert bool(shown) == lines
    for line in shown.splitlines():
        assert line.startswith("label: ") and "/8 clip" in line


def test_more_than_expected_is_shown(monkeypatch):
    # tqdm drops a total that was too low; a bar of hours must not end in an error.
    monkeypatch.setattr(progress, "DELAY_S", 0.0)
    with progress.bar(0.01, unit="h", desc="label") as bar:
        for _ in range(3):
            bar.update(0.5)
            bar.refresh()
