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
    """A processor as QEMU and gcc know it.

    Attributes:
        machine: of qemu-system-arm
        flags: of gcc
        flash: address that the processor starts from
        ram: address of its memory
        ticks: of SysTick per instruction at `-icount shift=5`
        clock_mhz: of a usual part, for the estimate of the duty cycle
        part: which one
        has_timings: the tables of `instructions` hold for it
    """

    machine: str
    flags: tuple[str, ...]
    flash: int
    ram: int
    ticks: float
    clock_mhz: float
    part: str
    has_timings: bool = True


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
    """What one program did.

    Attributes:
        target: key of TARGETS
        flash: bytes of code and tables of the complete program, start-up and printing included, the
            speech not
        engine_flash: bytes of `nano_<name>.c` alone
        state: bytes that the caller gives
        stack: deepest stack in bytes
        instructions: per second of audio, by stage
        kernels: the same by kernel, with estimated cycles; counted in another way, so that the sum
            differs by less than 1 %
        cycles: per second of audio, by stage, estimated; None where no timings are published
        memory: last estimate over the memory, as float32 (arousal, dominance, valence)
        overall: likewise over all of the speech
        checksum: over the bits of all estimates
        seconds: of speech
        clock_mhz: assumed
        cycles_per_instruction: assumed
    """

    target: str
    flash: int
    engine_flash: int
    state: int
    stack: int
    instructions: dict[str, float]
    kernels: tuple[Count, ...]
    cycles: dict[str, float] | None
    memory: tuple[float, float, float]
    overall: tuple[float, float, float]
    checksum: int
    seconds: float
    clock_mhz: float
    cycles_per_instruction: float | None

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
        state=output["state"],
        stack=output["stack"],
        instructions=instructions,
        kernels=kernels,
        cycles=cycles if board.has_timings else None,
        memory=output["memory"],
        overall=output["overall"],
        checksum=output["checksum"],
        seconds=seconds,
        clock_mhz=board.clock_mhz if clock_mhz is None else clock_mhz,
        cycles_per_instruction=cycles_per_instruction,
    )


def table(runs: Sequence[BoardRun]) -> str:
    """Runs side by side, as text."""
    rows = [
        ("", [run.target for run in runs]),
        ("flash, program (bytes)", [f"{run.flash:,}" for run in runs]),
        ("flash, engine and weights (bytes)", [f"{run.engine_flash:,}" for run in runs]),
        ("RAM, state and scratch (bytes)", [f"{run.state:,}" for run in runs]),
        ("stack, high-water mark (bytes)", [f"{run.stack:,}" for run in runs]),
    ]
    for stage in STAGES:
        numbers = [run.instructions[stage] for run in runs]
        rows.append((f"instructions/s, {stage}", [f"{number:,.0f}" for number in numbers]))
        for name in sorted(
            {one.kernel for run in runs for one in run.kernels if one.stage == stage} - {""}
        ):
            rows.append((f"    {name}", [_of_kernel(run, stage, name) for run in runs]))
    rows.append(("instructions/s of audio", [f"{run.total:,.0f}" for run in runs]))
    for stage in STAGES:
        cells = [f"{run.cycles[stage]:,.0f}" if run.cycles else "-" for run in runs]
        rows.append((f"cycles/s, {stage} (estimated)", cells))
    rows += [
        (
            "cycles/s of audio (estimated)",
            [f"{sum(run.cycles.values()):,.0f}" if run.cycles else "-" for run in runs],
        ),
        ("clock (MHz, assumed)", [f"{run.clock_mhz:g}" for run in runs]),
        ("cycles per instruction", [_cycles_per_instruction(run) for run in runs]),
        ("duty cycle (estimated)", [f"{100 * run.duty:.1f} %" for run in runs]),
        ("overall A/D/V", [" ".join(f"{v:.4f}" for v in run.overall) for run in runs]),
        ("checksum of all estimates", [f"{run.checksum:08x}" for run in runs]),
    ]
    widths = [max(len(row[1][i]) for row in rows) for i in range(len(runs))]
    label = max(len(row[0]) for row in rows)
    return "\n".join(
        f"{name:<{label}}  "
        + "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        for name, cells in rows
    )


def _of_kernel(run: BoardRun, stage: str, name: str) -> str:
    numbers = [one.instructions for one in run.kernels if (one.stage, one.kernel) == (stage, name)]
    return f"{sum(numbers):,.0f}"


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
    return {
        "engine": sum(
            size for name, size in engine.items() if name.startswith((".text", ".rodata"))
        ),
        "program": sum(program.get(name, 0) for name in (".text", ".ARM.exidx", ".data")),
    }


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
    group = ""
    for line in text.splitlines():
        name, _, number = line.partition(" ")
        if not number:
            group = name
            output[group] = ()
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
