"""What a site remembers between rounds, and never sends: the optimizer's momentum, its own statistics of batch
normalisation, and what the run's method keeps.

The server says after which round a site last took part (`kept_after`). What should be there and is not, or is damaged,
is lost, and that is said: nobody trains on from nothing in silence.
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

MOMENTUM, STATISTICS, METHOD = "momentum", "statistics", "method"
RUNS_KEPT = 4
"""Runs of which a site keeps its state at least, the present one among them; the last used stays longest."""
UNUSED_S = 86400.0
"""State that was used more recently stays, too: its run may go on beside the present one, however many there are."""


class Lost(IntFlag):
    """What of a site's state is lost; the numbers are those in a reply, and add up."""

    MOMENTUM = 1
    STATISTICS = 2
    METHOD = 4

    @property
    def sentence(self) -> str:
        """What a ledger says of the site."""
        what = " and ".join(_NAMES[kind] for kind in Lost if kind in self)
        plural = self & (self - 1) or Lost.STATISTICS in self
        return f"began again without its own {what}, which {'were' if plural else 'was'} damaged or not there"


_NAMES = {
    Lost.MOMENTUM: "momentum",
    Lost.STATISTICS: "normalisation statistics",
    Lost.METHOD: "memory of the method",
}
ALL_LOST = sum(Lost)


@dataclass(frozen=True)
class Kept:
    """What a site has kept; where it should be there and cannot be had, `lost` says why, for the site's own log."""

    value: Arrays
    lost: str = ""


def _folder(state: Path, run_id: str, kind: str) -> Path:
    # A folder of its own, because a site's state folder holds other things, and perhaps the store of prepared cases.
    return state / kind / run_id


def _rounds(folder: Path) -> dict[int, Path]:
    named = {file.stem.removeprefix("round_"): file for file in folder.glob("round_*.safetensors")}
    return {int(number): file for number, file in named.items() if number.isdecimal()}


def _newest(folder: Path, up_to: int, kept_after: int | None) -> Kept:
    """What was kept last up to a round, and at least after round `kept_after`; None: the server does not say."""
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
    """What the site kept of this kind after the last round up to `up_to` in which it took part; nothing before."""
    return _newest(_folder(state, run_id, kind), up_to, kept_after)


def save_kept(state: Path, run_id: str, kind: str, round_number: int, arrays: Mapping[str, np.ndarray]) -> None:
    """Keep arrays of a kind after this round, beside those of the round before.

    Two rounds are kept because the server may ask for the last one again after it was interrupted. Of statistics all
    are, some kilobytes each: any round may be the one whose weights are chosen and scored.
    """
    folder = _folder(state, run_id, kind)
    save_arrays(dict(arrays), folder / f"round_{round_number:04d}.safetensors")
    if kind != STATISTICS:
        kept = sorted(number for number in _rounds(folder) if number <= round_number)[-2:]
        for number, file in _rounds(folder).items():
            if number not in kept:
                file.unlink(missing_ok=True)
    _forget_old_runs(folder)


def _forget_old_runs(folder: Path) -> None:
    """Remove what is kept of other runs than that of `folder`, but for the last used."""
    others = [other for other in folder.parent.iterdir() if other.is_dir() and other != folder]
    for other in sorted(others, key=_last_used, reverse=True)[RUNS_KEPT - 1 :]:
        if time.time() - _last_used(other) > UNUSED_S:
            shutil.rmtree(other, ignore_errors=True)


def _last_used(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:  # another run's process has removed it
        return 0.0
