"""The machine that a figure was measured on: without it a latency means nothing."""

from __future__ import annotations

import contextlib
import os
import platform
from typing import Any

#: Instructions that decide how fast small quantised and float convolutions run.
FLAGS = ("avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "asimd", "asimddp", "i8mm")


def describe() -> dict[str, Any]:
    """Processor, its relevant flags, affinity, load and versions.

    Keys: `processor`, `flags` (those of `FLAGS` that it has), `cores` (of the machine),
    `affinity` (cores this process may use), `load` (1 minute average, None where unknown),
    `system`, `python`, `onnxruntime`.
    """
    import onnxruntime

    fields = _cpuinfo()
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    return {
        "processor": fields.get("model name") or platform.processor() or platform.machine(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "cores": os.cpu_count(),
        "affinity": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
    }


def busy(machine: dict[str, Any]) -> str:
    """A warning where other work took the cores; "" on a quiet machine.

    The benchmark itself keeps one core busy, which is no disturbance.
    """
    load, cores = machine["load"], len(machine["affinity"] or ()) or machine["cores"]
    if load is None or load <= max(1.0, 0.75 * cores):
        return ""
    return (
        f"Busy machine (load {load:g} on {cores} cores): medians and ratios are disturbed, the "
        "min column is not; measure again when it is quiet."
    )


def line(machine: dict[str, Any]) -> str:
    """What `describe` returns, in one line."""
    cores = machine["affinity"]
    bound = f"cores {','.join(map(str, cores))} of {machine['cores']}" if cores else ""
    flags = ", ".join(flag.upper() for flag in machine["flags"]) or "no vector flags known"
    return (
        f"{machine['processor']} ({flags}), {bound or machine['cores']}, load {machine['load']}; "
        f"{machine['system']}, Python {machine['python']}, ONNX Runtime {machine['onnxruntime']}"
    )


def _cpuinfo() -> dict[str, str]:
    """First entry of each field of /proc/cpuinfo; empty where there is none."""
    fields: dict[str, str] = {}
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for row in file:
            key, _, value = row.partition(":")
            fields.setdefault(key.strip(), value.strip())
    return fields
