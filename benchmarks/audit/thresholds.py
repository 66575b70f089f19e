"""Gates for somebody's own CI: tests that must pass, and a former audit not to fall behind."""

from __future__ import annotations

import fnmatch
import json
import os
from collections.abc import Iterable, Sequence
from typing import Any

from wav2small.errors import Wav2SmallError

Result = dict[str, Any]


def read(path: str | os.PathLike[str]) -> Result:
    """A former audit.

    Raises:
        Wav2SmallError: not there, or not an audit
    """
    try:
        with open(path, encoding="utf-8") as file:
            result = json.load(file)
    except OSError as error:
        raise Wav2SmallError(f"{path}: {error.strerror}; name a former `audit -o` file") from error
    except ValueError as error:
        raise Wav2SmallError(f"{path}: not JSON; name a file of `wav2small audit -o`") from error
    if not isinstance(result, dict) or not {"figures", "corpus", "settings"} <= set(result):
        raise Wav2SmallError(f"{path}: not an audit; name a file of `wav2small audit -o`")
    return result


def check(patterns: Iterable[str], tests: Iterable[Any]) -> None:
    """Reject requirements that no test answers to.

    Raises:
        Wav2SmallError: a pattern matches nothing
    """
    known = [test.id for test in tests]
    for pattern in patterns:
        if not any(fnmatch.fnmatch(name, _test(pattern)) for name in known):
            raise Wav2SmallError(
                f"--require {pattern}: no such test among those chosen; it is GROUP:TEST or "
                "GROUP:TEST:DIMENSION, with * allowed; see wav2small audit --list"
            )


def comparable(
    former: Result,
    digest: str,
    seed: int,
    sounds: Sequence[str],
    path: str | os.PathLike[str] | None,
) -> None:
    """Reject a baseline of other clips, other ratings or other disturbances.

    Raises:
        Wav2SmallError: it cannot be compared
    """
    if former["corpus"]["digest"] != digest:
        raise Wav2SmallError(
            f"--baseline {path}: an audit of other clips or other ratings ({former['source']}, "
            f"{former['corpus']['clips']} clips); audit the same source, --truth and --limit again"
        )
    if former["settings"]["seed"] != seed or former["settings"]["sounds"] != list(sounds):
        raise Wav2SmallError(
            f"--baseline {path}: made with another --seed, --noise or --rooms; repeat those options"
        )


def judge(result: Result, *, require: Sequence[str], former: Result | None) -> dict[str, Any]:
    """What a gate found.

    Args:
        result: an audit
        require: patterns GROUP:TEST or GROUP:TEST:DIMENSION of tests that must pass
        former: an audit that this one may not fall behind: each figure must lie within the
            former's interval or on its better side

    Returns:
        `asked` (whether there was anything to judge), `failures`: one line each
    """
    failures = []
    for pattern in require:
        chosen = [figure for figure in result["figures"] if _is(figure, pattern)]
        if not chosen:
            reasons = {
                entry["reason"]
                for entry in result["cannot_run"]
                if fnmatch.fnmatch(entry["test"], _test(pattern))
            }
            failures.append(f"required {pattern} could not run: {'; '.join(sorted(reasons))}")
        failures += [f"required {_line(figure)}" for figure in chosen if not figure["passed"]]
    if former is not None:
        now = {_key(figure): figure for figure in result["figures"]}
        for old in former["figures"]:
            new = now.get(_key(old))
            if new is None:
                failures.append(f"in the baseline only: {_line(old)}")
            elif _worse(new, old):
                failures.append(
                    f"worse than the baseline's {old['value']:.3f} "
                    f"[{old['low']:.3f} {old['high']:.3f}]: {_line(new)}"
                )
    return {"asked": bool(require) or former is not None, "failures": failures}


def _worse(new: dict[str, Any], old: dict[str, Any]) -> bool:
    if None in (old["low"], old["high"]) or old["value"] is None:
        return False
    if new["value"] is None or new["value"] != new["value"]:
        return True
    if old["better"] == "above":
        return new["value"] < old["low"]
    if old["better"] == "below":
        return new["value"] > old["high"]
    return abs(new["value"]) > max(abs(old["low"]), abs(old["high"]))


def _key(figure: dict[str, Any]) -> tuple[str, ...]:
    return tuple(figure[name] for name in ("group", "test", "case", "dimension"))


def _test(pattern: str) -> str:
    return ":".join(pattern.split(":")[:2])


def _is(figure: dict[str, Any], pattern: str) -> bool:
    names = f"{figure['group']}:{figure['test']}:{figure['dimension']}"
    return fnmatch.fnmatch(names, pattern if pattern.count(":") >= 2 else f"{pattern}:*")


def _line(figure: dict[str, Any]) -> str:
    case = f" ({figure['case']})" if figure["case"] else ""
    relation = {"above": ">", "below": "<", "within": "within +-"}[figure["better"]]
    value = "no figure" if figure["value"] is None else f"{figure['value']:.3f}"
    return (
        f"{figure['group']}:{figure['test']}:{figure['dimension']}{case}: {value}, needed "
        f"{relation} {figure['threshold']:g}"
    )
