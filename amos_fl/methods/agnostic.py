"""Agnostic federated learning (Mohri et al., ICML 2019, Algorithm 1): the sites that do worst count for more."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from amos_fl.methods.base import LEAST_SHARE, SHARES, Arrays, Memory, Method, ServerRound, check_range, kept_shares


@dataclass(frozen=True)
class Agnostic(Method):
    """FedAvg in which sites with a larger training loss gain influence, so that the worst of them improves.

    After each round a site's share grows by `rate` times its mean loss, and all are scaled back to a sum of 1. They
    start as the shares of the sites' weights; with rate 0 they stay, and it is FedAvg, bit for bit.
    """

    paper: ClassVar[str] = "Mohri et al., ICML 2019"
    keeps_values: ClassVar[bool] = True
    rate: float = 0.1

    def __post_init__(self) -> None:
        check_range("rate", self.rate, 0)

    def counts(self, weights: Mapping[str, float], memory: Memory) -> Mapping[str, float]:
        if self.rate == 0:
            return weights
        return kept_shares(weights, memory)

    def step(self, given: ServerRound, mean: Arrays, memory: Memory) -> Arrays:
        shares: dict[str, float] = memory.values.get(SHARES, {})
        for site, done in given.done.items() if shares else ():
            shares[site] += self.rate * (done.loss if math.isfinite(done.loss) else 0.0)
        if shares:
            least = LEAST_SHARE / len(shares)
            above = on_simplex({site: share - least for site, share in shares.items()}, 1 - LEAST_SHARE)
            shares |= {site: least + share for site, share in above.items()}
        return mean


def on_simplex(values: Mapping[str, float], total: float) -> dict[str, float]:
    """The nearest values of 0 or more that add up to `total` (Duchi et al., ICML 2008, Figure 1).

    >>> on_simplex({"A": 1.0, "B": 0.5, "C": -1.0}, 1.0)
    {'A': 0.75, 'B': 0.25, 'C': 0.0}
    """
    ordered = sorted(values.values(), reverse=True)
    beyond = 0.0
    for number, value in enumerate(ordered, 1):
        level = (math.fsum(ordered[:number]) - total) / number
        if value <= level:
            break
        beyond = level
    return {name: max(value - beyond, 0.0) for name, value in values.items()}
