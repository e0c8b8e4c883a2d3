"""The finding of a check: whether it holds, and if not, what is wrong and what to do."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "wrong", "not checked"]


@dataclass(frozen=True)
class Finding:
    """One row of `amos-fl deploy check`. `found` is what holds or what is wrong, `remedy` what to do about it."""

    check: str
    outcome: Verdict
    found: str
    remedy: str = ""


def holds(check: str, found: str) -> Finding:
    return Finding(check, "ok", found)


def wrong(check: str, found: str, remedy: str) -> Finding:
    return Finding(check, "wrong", found, remedy)


def skipped(check: str, because: str) -> Finding:
    return Finding(check, "not checked", because)
