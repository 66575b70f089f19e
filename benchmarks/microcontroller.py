"""Plain C of a bundle on an emulated microcontroller: flash, memory, instructions.

The program is built with `arm-none-eabi-gcc` and run by `qemu-system-arm`; real speech lies in
its flash. With `-icount shift=5` an instruction takes 32 ns of the machine's time, so its SysTick
counts instructions exactly. Instructions are not cycles, so a duty cycle is an estimate: for the
Cortex-M4 and M33 from published timings (see `instructions`), else from `cycles_per_instruction`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from wav2small import audio, models
from wav2small.benchmarks.instructions import Count, count
from wav2small.errors import Wav2SmallError

#: Where nothing is published: no figure of a vendor; the M4's timings give 1.3 for this code.
CYCLES_PER_INSTRUCTION = 1.3
BOARD = Path(__file__).parents[1] / "export" / "c" / "board"
STAGES = ("stream", "spectrum", "features", "stem", "blocks", "pooling", "estimate")
SECONDS = 4.0
_COMPILER = "arm-none-eabi-gcc"
_EMULATOR = "qemu-system-arm"
# Contraction to fused multiply-add would give other last digits on each processor.
_FLAGS = ["-std=c99", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]


@dataclass(frozen=True)
class Target:
    """A processor as QEMU and gcc know it."""

    machine: str  # of qemu-system-arm
    flags: tuple[str, ...]  # of gcc
    flash: int  # address that the processor starts from
    ram: int  # address of its memory
    ticks: float  # of SysTick per instruction at `-icount shift=5`
    clock_mhz: float  # of a usual part, for the estimate of the duty cycle
    part: str  # which one
    has_timings: bool = True  # the tables of `instructions` hold for it


TARGETS = {
    "cortex-m4": Target(
        "mps2-an386",
        ("-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16", "-O2"),
        0x00000000, 0x20000000, 0.8, 120, "STM32L4R5",
    ),
    "cortex-m33": Target(
        "mps2-an505",
        ("-mcpu=cortex-m33", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv5-sp-d16", "-O2"),
        0x10000000, 0x38000000, 0.64, 160, "STM32U575",
    ),
    "cortex-m55": Target(
        "mps3-an547",
        ("-mcpu=cortex-m55", "-mthumb", "-mfloat-abi=hard", "-O2"),
        0x10000000, 0x30000000, 1.024, 480, "RA8-class", False,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class BoardRun:
    """What one program did."""

    target: str  # key of TARGETS
    #: bytes of the complete program: code, tables, start-up and printing, but not the speech
    flash: int
    engine_flash: int  # bytes of `nano_<name>.c` alone
    state: int  # bytes that the caller gives
    stack: int  # deepest stack in bytes
    instructions: dict[str, float]  # per second of audio, by stage
    #: the same by kernel, with estimated cycles; counted in another way, the sum differs by < 1 %
    kernels: tuple[Count, ...]
    #: per second of audio, by stage, estimated; None where no timings are published
    cycles: dict[str, float] | None
    #: last estimate over the memory, as float32 (arousal, dominance, valence)
    memory: tuple[float, float, float]
    overall: tuple[float, float, float]  # likewise over all of the speech
    checksum: int  # over the bits of all estimates
    seconds: float  # of speech
    clock_mhz: float  # assumed
    cycles_per_instruction: float | None  # assumed

    @property
    def total(self) -> float:
        """Instructions per second of audio."""
        return sum(self.instructions.values())

    @property
    def duty(self) -> float:
        """Estimated share of the processor's time, 0..1."""
        if self.cycles_per_instruction is not None or self.cycles is None:
            cycles = self.total * (self.cycles_per_instruction or CYCLES_PER_INSTRUCTION)
        else:
            cycles = sum(self.cycles.values())
        return cycles / (self.clock_mhz * 1e6)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "instructions_total": self.total, "duty": self.duty}


def missing_tools() -> list[str]:
    """Programs that `microcontroller` needs and this machine lacks."""
    return [tool for tool in (_COMPILER, _EMULATOR) if shutil.which(tool) is None]


def microcontroller(
    bundle: str | os.PathLike[str],
    *,
    target: str = "cortex-m4",
    clip: str | os.PathLike[str] | np.ndarray | None = None,
    clock_mhz: float | None = None,
    cycles_per_instruction: float | None = None,
    estimate_every: int = 0,
) -> BoardRun:
    """Run the plain C of a bundle on an emulated microcontroller.

    Args:
        bundle: folder with `c/nano_<name>.c`, made by `wav2small export --c`, that file, or a model
            in the box
        target: one of TARGETS
        clip: speech to run, its first 4 s; None = synthetic speech. A file or 16 kHz samples
        clock_mhz: for the estimate of the duty cycle; None = of a usual part
        cycles_per_instruction: for the estimate of the duty cycle; None = from published timings,
            where there are any
        estimate_every: hops between estimates; 0 = one per hop

    Raises:
        Wav2SmallError: unknown target, no C in the bundle, tools missing, or the program
            failed
    """
    if target not in TARGETS:
        raise Wav2SmallError(f"--target {target}: there is {', '.join(TARGETS)}")
    if missing := missing_tools():
        raise Wav2SmallError(
            f"{' and '.join(missing)} not found; on Debian: apt-get install gcc-arm-none-eabi "
            "libnewlib-arm-none-eabi qemu-system-arm"
        )
    source = _source(bundle)
    samples = _clip(clip)
    board = TARGETS[target]
    with tempfile.TemporaryDirectory(prefix="wav2small-") as name:
        folder = Path(name)
        sizes = _build(source, samples, board, folder, estimate_every)
        command = _emulator(board, folder / "program.elf")
        output = _parse(_call([*command, "-icount", "shift=5"]))
        counts = count(command, folder / "program.elf", source.stem)
    seconds = output["hops"] * output["hop"] / audio.SAMPLING_RATE
    kernels = tuple(
        replace(one, instructions=one.instructions / seconds, cycles=one.cycles / seconds)
        for one in counts
    )
    cycles = {s: sum(one.cycles for one in kernels if one.stage == s) for s in STAGES}
    instructions = {stage: output[f"ticks_{stage}"] / board.ticks / seconds for stage in STAGES}
    return BoardRun(
        target=target,
        flash=sizes["program"],
        engine_flash=sizes["engine"],
        instructions=instructions,
        kernels=kernels,
        cycles=cycles if board.has_timings else None,
        **{name: output[name] for name in ("state", "stack", "memory", "overall", "checksum")},
        seconds=seconds,
        clock_mhz=board.clock_mhz if clock_mhz is None else clock_mhz,
        cycles_per_instruction=cycles_per_instruction,
    )


def table(runs: Sequence[BoardRun]) -> str:
    """Runs side by side, as text."""
    rows = [["", *(run.target for run in runs)]]
    for name, key in (
        ("flash, program", "flash"),
        ("flash, engine and weights", "engine_flash"),
        ("RAM, state and scratch", "state"),
        ("stack, high-water mark", "stack"),
    ):
        rows.append([f"{name} (bytes)", *(f"{getattr(run, key):,}" for run in runs)])
    for stage in STAGES:
        numbers = (f"{run.instructions[stage]:,.0f}" for run in runs)
        rows.append([f"instructions/s, {stage}", *numbers])
        kernels = [
            {one.kernel: f"{one.instructions:,.0f}" for one in run.kernels if one.stage == stage}
            for run in runs
        ]
        for kernel in sorted(set().union(*kernels) - {""}):
            rows.append([f"    {kernel}", *(counts.get(kernel, "0") for counts in kernels)])
    rows.append(["instructions/s of audio", *(f"{run.total:,.0f}" for run in runs)])
    for stage in STAGES:
        numbers = (f"{run.cycles[stage]:,.0f}" if run.cycles else "-" for run in runs)
        rows.append([f"cycles/s, {stage} (estimated)", *numbers])
    numbers = (f"{sum(run.cycles.values()):,.0f}" if run.cycles else "-" for run in runs)
    rows += [
        ["cycles/s of audio (estimated)", *numbers],
        ["clock (MHz, assumed)", *(f"{run.clock_mhz:g}" for run in runs)],
        ["cycles per instruction", *map(_cycles_per_instruction, runs)],
        ["duty cycle (estimated)", *(f"{100 * run.duty:.1f} %" for run in runs)],
        ["overall A/D/V", *(" ".join(f"{v:.4f}" for v in run.overall) for run in runs)],
        ["checksum of all estimates", *(f"{run.checksum:08x}" for run in runs)],
    ]
    label, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join(
        "  ".join([name.ljust(label), *map(str.rjust, cells, widths)]) for name, *cells in rows
    )


def _cycles_per_instruction(run: BoardRun) -> str:
    if run.cycles_per_instruction is not None:
        return f"{run.cycles_per_instruction:g} (given)"
    if run.cycles is None:
        return f"{CYCLES_PER_INSTRUCTION:g} (assumed)"
    return f"{sum(run.cycles.values()) / run.total:.2f} (estimated)"


def _source(bundle: str | os.PathLike[str]) -> Path:
    path = models.locate(bundle)
    if path.is_file() and path.suffix == ".c":
        return path
    sources = sorted([*path.glob("c/nano_*.c"), *path.glob("nano_*.c")])
    if not sources:
        raise Wav2SmallError(f"{bundle}: no c/nano_*.c in it; export a nano with --c")
    return sources[0]


def _clip(clip: str | os.PathLike[str] | np.ndarray | None) -> np.ndarray:
    if clip is None:
        try:
            from wav2small.demo.speaker import speak_corpus

            with tempfile.TemporaryDirectory(prefix="wav2small-") as folder:
                speak_corpus(Path(folder), clips=2, voices=2, seed=0)
                clip = np.concatenate([audio.read(f) for f in sorted(Path(folder).glob("*.flac"))])
        except ImportError as error:
            raise Wav2SmallError("no speech to run; give --clip FILE") from error
    signal = clip if isinstance(clip, np.ndarray) else audio.read(clip)
    signal = signal[: round(SECONDS * audio.SAMPLING_RATE)]
    if signal.dtype == np.int16:
        return signal
    return np.clip(np.round(signal * 32768), -32768, 32767).astype(np.int16)


def _write_clip(samples: np.ndarray, folder: Path) -> None:
    text = ",".join(map(str, samples))
    (folder / "clip.c").write_text(
        "#include <stdint.h>\n"
        "extern const int16_t clip[];\nextern const uint32_t clip_samples;\n"
        f"const uint32_t clip_samples = {len(samples)};\n"
        f'__attribute__((section(".clip"))) const int16_t clip[] = {{{text}}};\n'
    )


def _defines(source: Path) -> list[str]:
    return [f"-I{source.parent}", f'-DW2S_HEADER="{source.stem}.h"']


def _build(
    source: Path, samples: np.ndarray, board: Target, folder: Path, estimate_every: int = 0
) -> dict[str, int]:
    _write_clip(samples, folder)
    compiler = [_COMPILER, *board.flags, "-ffunction-sections", "-fdata-sections"]
    compiler += [*_FLAGS, *_defines(source)]
    every = [f"-DW2S_ESTIMATE_EVERY={estimate_every}"] if estimate_every else []
    # Measured without the hooks: this is what a product would link.
    _call([*compiler, "-c", str(source), "-o", str(folder / "engine.o")])
    engine = _sections(folder / "engine.o")
    _call(
        [*compiler, "-g", *every, "-include", str(BOARD / "stage.h"), f"-I{BOARD}", str(source)]
        + [str(BOARD / name) for name in ("main.c", "board.c")]
        + [str(folder / "clip.c"), "-nostartfiles", f"-T{BOARD / 'board.ld'}"]
        + ["-Wl,--gc-sections", f"-Wl,--defsym=FLASH={board.flash:#x}"]
        + [f"-Wl,--defsym=RAM={board.ram:#x}", "-o", str(folder / "program.elf")]
    )
    program = _sections(folder / "program.elf")
    kept = (size for name, size in engine.items() if name.startswith((".text", ".rodata")))
    loaded = (program.get(name, 0) for name in (".text", ".ARM.exidx", ".data"))
    return {"engine": sum(kept), "program": sum(loaded)}


def _sections(path: Path) -> dict[str, int]:
    """Bytes of each section."""
    sizes: dict[str, int] = {}
    for line in _call(["arm-none-eabi-size", "-A", str(path)]).splitlines():
        words = line.split()
        if len(words) == 3 and words[0].startswith("."):
            sizes[words[0]] = sizes.get(words[0], 0) + int(words[1])
    return sizes


def _emulator(board: Target, program: Path) -> list[str]:
    command = [_EMULATOR, "-machine", board.machine, "-kernel", str(program)]
    command += ["-display", "none", "-monitor", "none", "-serial", "none"]
    return [*command, "-semihosting-config", "enable=on,target=native"]


def _parse(text: str) -> dict[str, Any]:
    output: dict[str, Any] = {}
    for line in text.splitlines():
        name, _, number = line.partition(" ")
        if not number:
            group, output[name] = name, ()
        elif name in ("arousal", "dominance", "valence"):
            value = np.array([int(number, 16)], np.uint32).view(np.float32)[0]
            output[group] = (*output[group], float(value))
        else:
            output[name] = int(number, 16)
    return output


def _call(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    except subprocess.TimeoutExpired as error:
        raise Wav2SmallError(f"{command[0]}: still running after 300 s") from error
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        reason = " ".join(lines)[:500] or f"exit code {done.returncode}"
        raise Wav2SmallError(f"{command[0]} failed: {reason}")
    # Semihosting writes to standard error or output, by version.
    return done.stdout + done.stderr
