"""The command line: `wav2small VERB ...`.

Each verb is a module of `wav2small.cli` with examples in its docstring, `add_arguments(parser)` and
`run(args) -> exit code`; only the one that is called is imported. Exit codes: 0 done, 1 finished
with some inputs rejected (they are listed), 2 wrong usage or input, 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import argparse
import errno
import os
import re
import signal
import sys
import textwrap
from importlib import import_module
from typing import NoReturn

import wav2small
from wav2small.errors import Wav2SmallError, missing_package, one_line
from wav2small.progress import plain_warnings

VERBS = {
    "demo": "every step, offline, on synthetic speech",
    "index": "a published corpus becomes an index with ratings, speakers, splits",
    "label": "a teacher labels audio with arousal, dominance and valence",
    "distill": "a tiny student learns from the labels",
    "export": "a student becomes a quantised, verified ONNX bundle",
    "verify": "check a bundle's files and repeat its verification",
    "predict": "arousal, dominance and valence of audio, as CSV",
    "listen": "live bars of a microphone",
    "evaluate": "a bundle, a teacher or a label table against ratings and categories",
    "benchmark": "latency, memory, size and arithmetic of bundles",
    "audit": "the trust suite: correctness, fairness, robustness, other voices",
    "report": "one page about runs and bundles",
    "finetune": "make a teacher from a speech backbone, or from speech and text encoders",
    "pretrain": "pretrain a multimodal teacher on speech with transcripts",
    "push": "a run, a teacher or a bundle goes to the hub",
    "convert": "weights published as a pickle become safetensors",
    "teachers": "list the teachers",
    "students": "list the students",
}

#: Verbs that take up what an interrupted run left.
RESUMED = {"audit", "demo", "distill", "finetune", "label", "predict", "pretrain"}


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: words of the command line; None = those of this process

    Returns:
        exit code
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    verb = arguments[0] if arguments else ""
    if verb not in VERBS:
        return _overview(verb)
    try:
        command = import_module(f"wav2small.cli.{verb}")
        parser = _Parser(
            prog=f"wav2small {verb}",
            description=VERBS[verb][0].upper() + VERBS[verb][1:] + ".",
            epilog="example:\n"
            + textwrap.indent((command.__doc__ or "").partition("\n\n")[2], "  "),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(parser)
        return command.run(parser.parse_args(arguments[1:]))
    except Wav2SmallError as error:
        return _reject(verb, str(error))
    except KeyboardInterrupt:
        kept = "; what was finished is kept, the same command goes on from there"
        print(f"\nwav2small {verb}: stopped{kept if verb in RESUMED else ''}", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader of the output has gone (`| head`): that is no error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ModuleNotFoundError as error:
        return _reject(verb, str(missing_package(error)))
    except UnicodeEncodeError as error:
        text = ascii(error.object[error.start : error.end])
        problem = f"standard output is {error.encoding} and cannot hold {text}"
        return _reject(verb, f"{problem}; set PYTHONIOENCODING=utf-8, or choose a file with -o")
    except MemoryError:
        return _reject(verb, "out of memory; use smaller batches or a shorter --window")
    except Exception as error:
        number = _system_error(error)
        if number not in (*_FULL, *_NO_PLACE):
            raise
        remedy = "free some space" if number in _FULL else "choose another folder"
        name = getattr(error, "filename", None)
        what = f"cannot write {name}" if name else "cannot write"
        return _reject(verb, f"{what}: {os.strerror(number)}; {remedy}, then run the command again")


class _Parser(argparse.ArgumentParser):
    """A parser that rejects a command line in one line, without the list of all options."""

    def error(self, message: str) -> NoReturn:
        words = message.rpartition(": ")[2].split()
        files = [word for word in words if word.startswith("-") and os.path.exists(word)]
        remedy = f"write ./{files[0]}" if files else f"see {self.prog} --help"
        self.exit(2, f"{self.prog}: {message}; {remedy}\n")


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_PLACE = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOENT,
    errno.ENAMETOOLONG, errno.ELOOP,
)  # fmt: skip


def _system_error(error: Exception) -> int:
    """The operating system's number of an error, 0 if it is none of its own."""
    if isinstance(error, OSError):
        return error.errno or 0
    # safetensors names the number in its message only.
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else 0


def _overview(verb: str) -> int:
    if verb in ("--version", "-V"):
        print(wav2small.__version__)
        return 0
    width = max(map(len, VERBS))
    if verb in ("", "-h", "--help", "help"):
        print("usage: wav2small VERB ...   (wav2small VERB --help for its options)\n")
        print("Tiny on-device models of emotion in speech: arousal, dominance, valence.\n")
        print(*(f"  {name:<{width}}  {help_}" for name, help_ in VERBS.items()), sep="\n")
        return 0 if verb else 2
    import difflib

    near = difflib.get_close_matches(verb, VERBS, n=1)
    hint = f"did you mean {near[0]}?" if near else "see wav2small --help"
    print(f"wav2small: no command {verb!r}; {hint}", file=sys.stderr)
    return 2


def _reject(verb: str, message: str) -> int:
    print(f"wav2small {verb}:", one_line(" ".join(message.splitlines())), file=sys.stderr)
    return 2


def program() -> None:
    """The console script: `main`, whose end Ctrl-C can no longer reach."""
    plain_warnings()
    code = main()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # or libraries that clean up print a traceback
    sys.exit(code)


if __name__ == "__main__":
    program()
