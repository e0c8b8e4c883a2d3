"""A site's state between rounds, which is never sent: the optimizer's momentum, its own batch normalisation
statistics, the state of the run's method, and what the encoding of its updates has left out.

The server says after which round a site last took part (`kept_after`). State that should exist but is missing or
damaged counts as lost and is reported: a site never silently restarts from zero.
"""

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path

import numpy as np

from amos_fl.errors import AmosError
from amos_fl.weights import Arrays, read_arrays, save_arrays

MOMENTUM, PRIVATE, METHOD, RESIDUAL, SECOND_MODEL = "momentum", "private", "method", "residual", "second_model"
RUNS_KEPT = 4
"""The number of runs, including the present one, whose state a site always keeps; the most recently used stay."""
UNUSED_S = 86400.0
"""State used more recently than this also stays, because its run may be in progress beside the present one."""


class Lost(IntFlag):
    """The kinds of a site's state that are lost; the numbers are those in a reply, and add up."""

    MOMENTUM = 1
    PRIVATE = 2
    METHOD = 4
    SECOND_MODEL = 8
    RESIDUAL = 16

    @property
    def sentence(self) -> str:
        """The sentence in a ledger about the site."""
        what = " and ".join(_NAMES[kind] for kind in Lost if kind in self)
        plural = self & (self - 1) or Lost.PRIVATE in self
        return f"began again without its own {what}, which {'were' if plural else 'was'} damaged or not there"


_NAMES = {
    Lost.MOMENTUM: "momentum",
    Lost.PRIVATE: "private arrays",
    Lost.METHOD: "memory of the method",
    Lost.SECOND_MODEL: "second model",
    Lost.RESIDUAL: "residual of earlier updates",
}
ALL_LOST = sum(Lost)


@dataclass(frozen=True)
class Kept:
    """A site's stored arrays; if they should exist but cannot be read, `lost` says why, for the site's own log."""

    value: Arrays
    lost: str = ""


def _folder(state: Path, run_id: str, kind: str) -> Path:
    # A separate folder, because a site's state folder holds other things, and perhaps the store of prepared cases.
    return state / kind / run_id


def _rounds(folder: Path) -> dict[int, Path]:
    named = {file.stem.removeprefix("round_"): file for file in folder.glob("round_*.safetensors")}
    return {int(number): file for number, file in named.items() if number.isdecimal()}


def _newest(folder: Path, up_to: int, kept_after: int | None) -> Kept:
    """The latest state up to a round, not older than round `kept_after`; None: the server does not say."""
    earlier = {number: file for number, file in _rounds(folder).items() if number <= up_to}
    newest = max(earlier, default=0)
    if newest < (kept_after or 0):
        return Kept({}, f"{folder}: what was kept after round {kept_after} is not there")
    if not newest:
        return Kept({})
    try:
        return Kept(read_arrays(earlier[newest]))
    except AmosError as error:
        return Kept({}, str(error))


def load_kept(state: Path, run_id: str, kind: str, up_to: int, kept_after: int | None = None) -> Kept:
    """Load the site's state of this kind from its last round up to `up_to`; empty before its first."""
    return _newest(_folder(state, run_id, kind), up_to, kept_after)


def save_kept(
    state: Path,
    run_id: str,
    kind: str,
    round_number: int,
    arrays: Mapping[str, np.ndarray],
    *,
    best_round: int | None = None,
) -> None:
    """Save arrays of a kind after this round, beside those of the round before, and those that `best_round` had.

    Two rounds are kept because the server may request the last one again after an interruption. Private arrays, which
    are few, are kept for all rounds, because the weights of any round may be chosen and scored.
    """
    folder = _folder(state, run_id, kind)
    save_arrays(dict(arrays), folder / f"round_{round_number:04d}.safetensors")
    if kind != PRIVATE:
        numbers = sorted(_rounds(folder))
        best = [number for number in numbers if number <= (best_round or 0)][-1:]
        kept = [*best, *[number for number in numbers if number <= round_number][-2:]]
        for number, file in _rounds(folder).items():
            if number not in kept:
                file.unlink(missing_ok=True)
    _forget_old_runs(folder)


def _forget_old_runs(folder: Path) -> None:
    """Remove the state of runs other than that of `folder`, except the most recently used."""
    others = [other for other in folder.parent.iterdir() if other.is_dir() and other != folder]
    for other in sorted(others, key=_last_used, reverse=True)[RUNS_KEPT - 1 :]:
        if time.time() - _last_used(other) > UNUSED_S:
            shutil.rmtree(other, ignore_errors=True)


def _last_used(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:  # another run's process has removed it
        return 0.0
