"""FedDG-GA (Zhang et al., CVPR 2023, "Federated Domain Generalization with Generalization Adjustment").

The generalisation gap of a site is the loss of the sites' mean on its validation cases, minus that of its own trained
model that went into this mean. Its share moves by d (1 - r / R) (gap - mean gap) / max |gap - mean gap| in
round r = 0, 1, .. of R; below 0 it is 0, and all are scaled back to a sum of 1. (The authors' code leaves out the mean
gap, and its step is a third of d.)
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from amos_fl.methods.base import (
    LEAST_SHARE,
    SHARES,
    VAL_AFTER,
    VAL_BEFORE,
    Arrays,
    Memory,
    Method,
    ServerRound,
    check_range,
    kept_shares,
)

LOSSES = "losses"


@dataclass(frozen=True)
class FedDgGa(Method):
    """Sites on whose validation cases the mean does worse than their own model gain influence.

    Each site reports its loss on fixed patches of its validation cases before and after its training. A site without
    validation cases, and one that did not take part in the previous round, keeps its share. Shares start as those of
    the sites' weights (in the paper all equal: weighting `equal`); with step_size 0 they stay, and it is FedAvg, bit
    for bit. The gap of a round's mean is known when the next round's updates arrive, and counts from the round after.
    """

    paper: ClassVar[str] = "Zhang et al., CVPR 2023"
    keeps_values: ClassVar[bool] = True
    reports: ClassVar[tuple[str, ...]] = (VAL_BEFORE, VAL_AFTER)
    step_size: float = 0.2

    def __post_init__(self) -> None:
        check_range("step_size", self.step_size, 0, 1)

    def counts(self, weights: Mapping[str, float], memory: Memory) -> Mapping[str, float]:
        if self.step_size == 0:
            return weights
        return kept_shares(weights, memory)

    def step(self, given: ServerRound, mean: Arrays, memory: Memory) -> Arrays:
        if self.step_size == 0:
            return mean
        shares, own = memory.values[SHARES], memory.values.get(LOSSES, {})
        told = {site: done.reports for site, done in given.done.items() if done.reports}
        gaps = {site: reports[VAL_BEFORE] - own[site] for site, reports in told.items() if site in own}
        work = given.work
        left = 1 - work.first_step / work.total_steps if work.total_steps else 0.0
        shares.update(
            adjusted({site: shares[site] for site in gaps}, gaps, self.step_size * left, LEAST_SHARE / len(shares))
        )
        memory.values[LOSSES] = {site: reports[VAL_AFTER] for site, reports in told.items()}
        return mean


def adjusted(
    shares: Mapping[str, float], gaps: Mapping[str, float], step_size: float, least: float = 0.0
) -> dict[str, float]:
    """Shares adjusted by the sites' gaps, with the same sum; none falls below `least` before they are scaled to it.

    >>> adjusted({"A": 0.5, "B": 0.5}, {"A": 1.0, "B": 3.0}, 0.2)
    {'A': 0.3, 'B': 0.7}
    """
    if len(set(gaps.values())) < 2:  # equal gaps may differ from their mean by its rounding
        return dict(shares)
    mean = math.fsum(gaps.values()) / len(gaps)
    largest = max(abs(gap - mean) for gap in gaps.values())
    moved = {site: max(share + step_size * (gaps[site] - mean) / largest, least) for site, share in shares.items()}
    scale = math.fsum(shares.values()) / math.fsum(moved.values())
    return {site: share * scale for site, share in moved.items()}
