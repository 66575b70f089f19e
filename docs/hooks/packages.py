"""Copies the packages to where they are when installed, for the reference."""

import re
import shutil
from pathlib import Path

ROOT = Path(__file__).parents[2]


def on_startup(**_: object) -> None:
    target = ROOT / "build" / "reference" / "wav2small"
    shutil.rmtree(target, ignore_errors=True)
    for name in ("wav2small", "teachers", "students", "export", "benchmarks"):
        folder = target if name == "wav2small" else target / name
        for path in (ROOT / name).rglob("*.py"):
            copy = folder / path.relative_to(ROOT / name)
            copy.parent.mkdir(parents=True, exist_ok=True)
            # The parser knows a section "Examples" only.
            text = re.sub(r"^( +)Example:$", r"\1Examples:", path.read_text("utf-8"), flags=re.M)
            copy.write_text(text, "utf-8")
