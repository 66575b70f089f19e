"""`predict` on a folder of many short files: processor time beside the model's own, and memory.

    python -m wav2small.benchmarks.studies.many_files AUDIO --bundle nano --count 20000

Makes a folder of COUNT links to the audio files of AUDIO and runs the command in fresh processes, for each number of `--workers`.
Times are of the processor, so other work on the machine changes them little. The model's own time is ONNX Runtime on the same
decoded signals; decoding is what libsndfile takes to read the files.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import soundfile

from wav2small import Predictor, audio
from wav2small.benchmarks import studies
from wav2small.index import list_audio

RUN = """
import resource, sys
from wav2small.cli.main import main
code = main(sys.argv[1:])
own, workers = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
seconds = sum(part.ru_utime + part.ru_stime for part in (own, workers))
print(code, seconds, own.ru_maxrss / 1024, workers.ru_maxrss / 1024)
"""


def spent(work: Callable[[], object]) -> float:
    """Seconds of the processor."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def run(bundle: str, source: Path, *words: str) -> list[float]:
    """Exit code, seconds of the processor, MB of the process and of its largest worker."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["predict", bundle, str(source), "-o", f"{folder}/out.csv", *words]
        shown = subprocess.check_output([sys.executable, "-c", RUN, *command], text=True)
    return [float(word) for word in shown.split()]


def main() -> None:
    parser = studies.parser("many_files", (__doc__ or "").partition("\n")[0])
    parser.add_argument("audio", type=Path)
    parser.add_argument("--bundle", default="nano")
    parser.add_argument("--count", type=int, default=20000)
    parser.add_argument("--workers", nargs="+", default=["0", "2"])
    args = parser.parse_args()
    clips = [args.audio / file for file in list_audio(args.audio)[0]][:200]
    signals = [audio.read(clip) for clip in clips]
    predictor = Predictor(args.bundle)
    works: list[Callable[[], object]] = [
        lambda: [predictor.session.run(["logits"], {"signal": x[None]}) for x in signals],
        lambda: [soundfile.read(clip, dtype="float32") for clip in clips],
    ]
    per_file = [min(spent(work) for _ in range(3)) / len(clips) for work in works]
    print(
        f"{len(clips)} clips of {sum(map(len, signals)) / len(clips) / 16000:.2f} s: model {1e3 * per_file[0]:.2f} ms, decoding {1e3 * per_file[1]:.2f} ms"
    )
    print(
        "\n| files | workers | ms of processor time per file | share of the model | of model and decoding | MB | MB of a worker |\n|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as place:
        for count in (len(clips), args.count):
            folder = Path(place) / str(count)
            folder.mkdir()
            for number in range(count):
                clip = clips[number % len(clips)]
                os.symlink(clip.resolve(), folder / f"{number:07}{clip.suffix}")
            for workers in args.workers:
                _, seconds, own, child = run(args.bundle, folder, "--workers", workers)
                start = run(args.bundle, clips[0], "--workers", workers)[1]
                each = (seconds - start) / (count - 1)
                shares = per_file[0] / each, sum(per_file) / each
                print(
                    f"| {count:,} | {workers} | {1e3 * each:.2f} | {shares[0]:.2f} | {shares[1]:.2f} | {own:.0f} | {child:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
