"""One folder as a library of Arduino and PlatformIO, Zephyr module and ESP-IDF component.

All of them build the same `src/nano_<name>.c`; the rest names it to each build system.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import wav2small

from .emitter import PlainC

TEMPLATES = Path(__file__).parent / "firmware"
#: Template -> place in the library.
FILES = {
    "library.properties": "library.properties",
    "keywords.txt": "keywords.txt",
    "library.json": "library.json",
    "FileDemo.ino": "examples/FileDemo/FileDemo.ino",
    "I2SMicrophone.ino": "examples/I2SMicrophone/I2SMicrophone.ino",
    "nano.hpp": "src/@NAME@.hpp",
    "idf.cmake": "CMakeLists.txt",
    "idf_component.yml": "idf_component.yml",
    "module.yml": "zephyr/module.yml",
    "Kconfig.in": "zephyr/Kconfig",
    "zephyr.cmake": "zephyr/CMakeLists.txt",
}


def write_firmware(plain: PlainC, folder: str | os.PathLike[str], *, licence: str = "") -> Path:
    """Write the library `wav2small_<name>` into a folder of its own in `folder`; returns that.

    Args:
        plain: what `write_c` made
        folder: where to
        licence: a line of the bundle's lineage
    """
    name = plain.source.stem
    library = f"wav2small_{name.removeprefix('nano_')}"
    line = " ".join(licence.split()) or "Licence: see the bundle."
    marks = {
        "NAME": name,
        "UPPER": name.upper(),
        "LIBRARY": library,
        "LIBRARY_UPPER": library.upper(),
        "VERSION": wav2small.__version__,
        "RAM": str(plain.ram),
        "FLASH": str(plain.flash),
        "LICENCE_LINE": line,
        "LICENCE": f"// {line}",
    }

    def filled(text: str) -> str:
        return re.sub("@([A-Z_]+)@", lambda mark: marks[mark[1]], text)

    target = Path(folder) / library
    for template, place in FILES.items():
        path = target / filled(place)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = filled((TEMPLATES / template).read_text())
        path.write_text(text, encoding="ascii", errors="replace")
    for suffix in (".c", ".h"):
        source = plain.source.with_suffix(suffix)
        (target / "src" / source.name).write_bytes(source.read_bytes())
    return target
