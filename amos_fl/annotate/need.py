"""Estimate how much correction a pre-label needs: disagreement, implausible volumes, broken pieces.

Each is a fraction of the organs between 0 and 1, so that they can be added: organs that the networks draw differently
(one minus their mean pairwise DSC, as in query by committee), organs with an implausible volume or missing altogether,
and organs in several pieces.
"""

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8

from amos_fl.annotate.ledger import Need
from amos_fl.cohort.plausible import pieces_of, volume_concerns
from amos_fl.metrics.overlap import dsc
from amos_fl.wording import counted

_NAMED = 3
"""The most organs that a reason names."""
_AGREE = 0.995
"""Networks whose DSC rounds to 1 count as agreeing."""


def vote(maps: Sequence[UInt8[np.ndarray, "x y z"]]) -> UInt8[np.ndarray, "x y z"]:
    """The label that most maps give to each voxel; of equally many, the one that comes first in the first map
    that has one of them.

    >>> a, b, c = (np.array([[[v]]], np.uint8) for v in (1, 2, 2))
    >>> vote([a, b, c]).item(), vote([a, b]).item()
    (2, 1)
    """
    best, most = maps[0].copy(), np.zeros(maps[0].shape, np.uint8)
    for candidate in maps:
        votes = np.array([candidate == other for other in maps]).sum(axis=0, dtype=np.uint8)
        better = votes > most
        best[better], most[better] = candidate[better], votes[better]
    return best


def disagreement(maps: Sequence[UInt8[np.ndarray, "x y z"]], organs: Sequence[int]) -> dict[int, float]:
    """One minus the mean DSC of all pairs of maps, for each organ that a map has."""
    found: dict[int, float] = {}
    for organ in organs:
        masks = [labels == organ for labels in maps]
        scores = [dsc(a, b) for a, b in itertools.combinations(masks, 2)]
        known = [score for score in scores if not math.isnan(score)]
        if known:
            found[organ] = 1 - math.fsum(known) / len(known)
    return found


def need_of(
    prelabel: UInt8[np.ndarray, "x y z"],
    maps: Sequence[UInt8[np.ndarray, "x y z"]],
    voxel_ml: float,
    organs: Mapping[int, str],
    expected: Sequence[int],
) -> Need:
    """The need of correction of `prelabel`, which was made from the networks' `maps`.

    `expected` are the organs that such a scan normally shows.
    """
    reasons: list[str] = []
    apart = disagreement(maps, tuple(organs)) if len(maps) > 1 else {}
    mean_apart = math.fsum(apart.values()) / len(apart) if apart else 0.0
    if mean_apart > 1 - _AGREE:
        worst = sorted(apart, key=lambda organ: (-apart[organ], organ))[:_NAMED]
        named = ", ".join(f"{organs[organ]} {1 - apart[organ]:.2f}" for organ in worst)
        reasons.append(f"the {len(maps)} predictions disagree: DSC {1 - mean_apart:.2f} between them, least {named}")
    sizes = volume_concerns(prelabel, voxel_ml, dict(organs))
    absent = [organs[organ] for organ in expected if not (prelabel == organ).any()]
    if sizes:
        reasons.append(f"implausible volume: {', '.join(sizes)}")
    if absent:
        reasons.append(f"not drawn at all: {', '.join(absent)}")
    loose = sorted(pieces_of(prelabel, voxel_ml, dict(organs)).loose, key=lambda piece: -piece[2])
    if loose:
        told = [f"{organ} ({counted(count, 'loose piece')}, {ml:.3g} ml)" for organ, count, ml in loose[:_NAMED]]
        more = f" and {counted(len(loose) - _NAMED, 'more organ')}" if len(loose) > _NAMED else ""
        reasons.append(f"broken: {', '.join(told)}{more}")
    return Need(
        disagreement=round(mean_apart, 6),
        implausible=round((len(sizes) + len(absent)) / len(organs), 6),
        broken=round(len(loose) / len(organs), 6),
        reasons=tuple(reasons),
    )
