"""Thresholds for somebody's own CI: tests that must pass, and a former audit to compare with."""

from __future__ import annotations

import fnmatch
import json
import os
from collections.abc import Iterable, Sequence
from typing import Any

from wav2small.errors import Wav2SmallError

Audit = dict[str, Any]


def read(path: str | os.PathLike[str]) -> Audit:
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
    if "models" not in result["settings"]:
        raise Wav2SmallError(f"{path}: an audit of an older version; audit the bundle again")
    return result


def check(patterns: Iterable[str], tests: Iterable[Any]) -> None:
    """Reject requirements that match no test.

    Raises:
        Wav2SmallError: a pattern matches nothing
    """
    known = [test.id for test in tests]
    for pattern in patterns:
        if not fnmatch.filter(known, _test(pattern)):
            raise Wav2SmallError(
                f"--require {pattern}: no such test among those chosen; it is GROUP:TEST or "
                "GROUP:TEST:DIMENSION, with * allowed; see wav2small audit --list"
            )


def comparable(former: Audit, digest: str, seed: int, sounds: Sequence[str], path: Any) -> None:
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


def judge(result: Audit, *, require: Sequence[str], former: Audit | None) -> dict[str, Any]:
    """Compare an audit with what is required of it.

    Args:
        result: an audit
        require: patterns GROUP:TEST or GROUP:TEST:DIMENSION of tests that must pass
        former: an audit that this one may not fall behind: each figure must lie within the
            former's interval or on its better side

    Returns:
        `checked` (whether anything was required), `failures`: one line each
    """
    failures = []
    for pattern in require:
        chosen = [figure for figure in result["figures"] if _matches(figure, pattern)]
        if not chosen:
            names = fnmatch.filter({one["test"] for one in result["cannot_run"]}, _test(pattern))
            reasons = {one["reason"] for one in result["cannot_run"] if one["test"] in names}
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
    return {"checked": bool(require) or former is not None, "failures": failures}


def _worse(new: dict[str, Any], old: dict[str, Any]) -> bool:
    low, high, value = old["low"], old["high"], new["value"]
    if None in (low, high, old["value"]):
        return False
    if value is None:
        return True
    if old["better"] == "within":
        return abs(value) > max(abs(low), abs(high))
    return value < low if old["better"] == "above" else value > high


def _key(figure: dict[str, Any]) -> tuple[str, ...]:
    return tuple(figure[name] for name in ("group", "test", "case", "dimension"))


def _test(pattern: str) -> str:
    return ":".join(pattern.split(":")[:2])


def _matches(figure: dict[str, Any], pattern: str) -> bool:
    parts = [*pattern.split(":"), "*"][:3]
    return fnmatch.fnmatch("{group}:{test}:{dimension}".format(**figure), ":".join(parts))


def _line(figure: dict[str, Any]) -> str:
    case = f" ({figure['case']})" if figure["case"] else ""
    relation = {"above": ">", "below": "<", "within": "within +-"}[figure["better"]]
    value = "no figure" if figure["value"] is None else f"{figure['value']:.3f}"
    return (
        f"{figure['group']}:{figure['test']}:{figure['dimension']}{case}: {value}, needed "
        f"{relation} {figure['threshold']:g}"
    )
