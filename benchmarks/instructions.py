"""Which instructions a program on an emulated processor executes, by kernel, and their cycles.

`qemu-system-arm -d in_asm,exec,nochain` names every block of instructions that it translates and
every one that it executes; `addr2line` names the function, inlined ones too, of each address.

The cycles are an estimate, added up from the tables of Arm's "Cortex-M4 Processor Technical
Reference Manual", r0p1 (DDI 0439D): instructions 3-1, DSP instructions 3-2, loads and stores
section 3.3.2, floating-point unit 7-1. Not in it: wait states of the flash, contention on the bus,
and words that are not aligned. Arm publishes no timings of the Cortex-M33; it is estimated with the
same tables (LLVM schedules it with its model of the M4 too), and may be faster: it resolves
branches one stage earlier and issues some pairs of 16-bit instructions together.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

#: Cycles to refill the pipeline after a taken branch: 1 to 3 (table 3-1, P); the middle.
REFILL = 2
#: Functions of the engine that are a kernel: stage and name. Others belong to their stage alone.
KERNELS = {
    "window_and_first_stage": ("spectrum", "window and first butterflies"),
    "stage": ("spectrum", "other butterflies"),
    "powers": ("spectrum", "powers"),
    "mel": ("features", "mel bands"),
    "log2_of": ("features", "logarithm"),
    "depthwise": ("blocks", "depthwise"),
    "energy_of": ("stream", "energy"),
    "sigmoid": ("pooling", "sigmoid"),
    "few": ("pooling", "voice activity"),
    "speech_of": ("pooling", "voice activity"),
}
STAGES = {
    "spectrum": "spectrum",
    "features": "features",
    "stem": "stem",
    "block": "blocks",
    "narrow": "pooling",
    "pool": "pooling",
    "compute": "estimate",
    "nano_read": "estimate",
    "hop": "stream",
    "process": "stream",
    "nano_push": "stream",
    "check": "stream",
}
_LINEAR = {"stem": "linear", "blocks": "pointwise", "pooling": "gate and value"}
_TABLE = {"vdiv": 14, "vsqrt": 14, "vmla": 3, "vmls": 3, "vfma": 3, "vfms": 3, "udiv": 7, "sdiv": 7}
_FLOATS = ("vadd", "vsub", "vmul", "vnmul", "vdiv", "vcvt", "vmla", "vmls", "vfma", "vfms")
_TRANSLATED = re.compile(r"0x([0-9a-f]{8}):  ([0-9a-f]{4})( [0-9a-f]{4})? ")
_LISTED = re.compile(r"\s*([0-9a-f]+):\s+([a-z]\S*)\s*([^@;]*)")


@dataclass(frozen=True)
class Instruction:
    """One instruction of a block: where, what, and with what."""

    address: int
    name: str
    operands: str


@dataclass(frozen=True)
class Count:
    """What a kernel executed.

    Attributes:
        stage: see `microcontroller.STAGES`
        kernel: its name; "" for the rest of the stage
        instructions: in all
        cycles: in all, estimated for a Cortex-M4
    """

    stage: str
    kernel: str
    instructions: float
    cycles: float


def count(command: list[str], program: Path, prefix: str) -> list[Count]:
    """Run a program and count what the engine in it executes, by stage and kernel.

    Args:
        command: qemu-system-arm with machine and program
        program: the .elf file, with debugging information
        prefix: `nano_<name>` of the engine's functions
    """
    listing = _listing(program)
    ranges, executed, pairs = _trace(command)
    blocks = {
        key: [listing[at] for at in range(first, after, 2) if at in listing]
        for key, (first, after) in ranges.items()
    }
    addresses = sorted({one.address for block in blocks.values() for one in block})
    places = dict(zip(addresses, _places(program, addresses, prefix), strict=True))
    totals: dict[tuple[str, str], list[int]] = {}
    for key, block in blocks.items():
        times = executed[key]
        last = block[-1].address
        taken = sum(n for (one, to), n in pairs.items() if one == key and not 0 < to - last <= 4)
        for one, cycles in zip(block, _cycles(block), strict=True):
            place = places[one.address]
            if place is None:
                continue
            total = totals.setdefault(place, [0, 0])
            total[0] += times
            total[1] += times * cycles
            if one is block[-1]:
                total[1] += taken * REFILL
    counts = [Count(*place, *total) for place, total in totals.items()]
    return sorted(counts, key=lambda one: (one.stage, -one.instructions))


def _listing(program: Path) -> dict[int, Instruction]:
    """Every instruction by address; QEMU's own list does not know Armv8.1-M."""
    command = ["arm-none-eabi-objdump", "-d", "--no-show-raw-insn", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = (_LISTED.match(line) for line in done.stdout.splitlines())
    listed = (Instruction(int(m[1], 16), m[2], m[3].strip()) for m in found if m)
    return {one.address: one for one in listed}


def _trace(
    command: list[str],
) -> tuple[dict[str, tuple[int, int]], Counter[str], Counter[tuple[str, int]]]:
    """Addresses of blocks by address and flags, how often each ran, and what ran after it."""
    blocks: dict[str, tuple[int, int]] = {}
    executed: Counter[str] = Counter()
    pairs: Counter[tuple[str, int]] = Counter()
    first = after = 0
    last: str | None = None
    with tempfile.TemporaryDirectory(prefix="wav2small-") as folder:
        pipe = Path(folder) / "log"
        os.mkfifo(pipe)
        options = ["-d", "in_asm,exec,nochain", "-D", str(pipe)]
        with subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL) as process:  # fmt: skip
            with pipe.open(encoding="ascii", errors="replace") as lines:
                for line in lines:
                    if line.startswith("Trace"):
                        key = line[line.index("[") + 1 : line.index("]")]  # flags, address, flags
                        if after:
                            blocks[key], after = (first, after), 0
                        executed[key] += 1
                        if last is not None:
                            pairs[last, int(key.split("/")[1], 16)] += 1
                        last = key
                    elif match := _TRANSLATED.match(line):
                        at = int(match[1], 16)
                        first, after = first if after else at, at + (4 if match[3] else 2)
            process.wait()
    return blocks, executed, pairs


def _places(
    program: Path, addresses: Iterable[int], prefix: str
) -> Iterable[tuple[str, str] | None]:
    """Stage and kernel of each address; None outside the engine."""
    text = "\n".join(f"{address:#x}" for address in addresses)
    done = subprocess.run(
        ["arm-none-eabi-addr2line", "-e", str(program), "-f", "-i", "-a"],
        input=text, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for part in re.split(r"^0x[0-9a-f]{8}\n", done.stdout, flags=re.MULTILINE)[1:]:
        names = [name.replace(f"{prefix}_", "nano_") for name in part.splitlines()[::2]]
        yield _place(names)


def _place(names: list[str]) -> tuple[str, str] | None:
    """Stage and kernel of a chain of inlined functions, innermost first."""
    kernel = next((KERNELS[name] for name in names if name in KERNELS), None)
    if kernel:
        return kernel
    stage = next((STAGES[name] for name in names if name in STAGES), None)
    if stage is None:
        is_engine = any(name.startswith("nano_") or name == "memcpy" for name in names)
        return ("stream", "") if is_engine else None
    if "linear" in names and stage in _LINEAR:
        return stage, _LINEAR[stage]
    return stage, ""


def _cycles(block: list[Instruction]) -> list[int]:
    """Of each instruction of a block, its branch not taken."""
    cycles, before = [], Instruction(0, "", "")
    for one in block:
        name = re.sub(r"(\.w|\.n)$", "", one.name)
        now = _alone(name, one.operands)
        target = before.operands.split(",")[0].strip(" {}!")
        single = re.match(r"(ldr|vldr|str|vstr)(?!d)", name) is not None
        address = one.operands[one.operands.find("[") :] if "[" in one.operands else ""
        depends = bool(target) and re.search(rf"\b{re.escape(target)}\b", address) is not None
        if single and re.match(r"v?ldr(?!d)", before.name) and not depends:
            now = max(1, now - 1)  # pipelined behind the load before it
        elif single and depends and not re.match(r"(v?ldr|v?str|cmp|tst|b|it)", before.name):
            now += 1  # an address that was computed just before
        sources = one.operands.partition(",")[2]
        if before.name.startswith(_FLOATS) and re.search(rf"\b{re.escape(target)}\b", sources):
            now += 1  # a result of the floating-point unit that is used at once
        cycles.append(now)
        before = one
    return cycles


def _alone(name: str, operands: str) -> int:
    """Cycles of an instruction by itself."""
    stem = name.split(".")[0]
    for key, cycles in _TABLE.items():
        if stem.startswith(key):
            return cycles
    registers = _registers(operands)
    if re.match(r"(push|pop|ldm|stm|vldm|vstm|vpush|vpop)", stem):
        return 1 + registers * (2 if re.search(r"\bd\d", operands) else 1)
    if stem.startswith(("ldrd", "strd")) or re.match("v(ldr|str).*d", f"{stem} {operands[:1]}"):
        return 3
    if stem.startswith(("ldr", "vldr", "vstr")):
        return 2
    if stem.startswith("str"):
        return 2 if re.search(r"\[\w+, \w*[a-z]\w*", operands) else 1  # a register as offset
    if stem.startswith("vmov") and re.search(r"\br\d", operands):
        return 2  # from or to a register of the processor
    return 1


def _registers(operands: str) -> int:
    """Of a list such as `{r4, r5, s16-s19}`."""
    match = re.search(r"\{(.*?)\}", operands)
    total = 0
    for part in match[1].split(",") if match else []:
        ends = re.findall(r"\d+", part)
        total += int(ends[1]) - int(ends[0]) + 1 if len(ends) == 2 else 1
    return total
