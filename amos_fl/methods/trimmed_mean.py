"""The mean of the updates without the extremes, number by number (Yin et al., ICML 2018, Algorithm 1, option II)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from amos_fl.errors import AmosError
from amos_fl.methods.base import Arrays, Method, ServerRound, check_range
from amos_fl.methods.updates import Updates, mean_of_rows


@dataclass(frozen=True)
class TrimmedMean(Method):
    """The mean of each weight without its `bad` largest and `bad` smallest values; all others count equally.

    If a round has fewer sites than 2 bad + 1, fewer are left out on each side, so that one or two remain. With bad 0 it
    is FedAvg with equal weights, bit for bit.
    """

    paper: ClassVar[str] = "Yin et al., ICML 2018"
    bad: int = 1

    def __post_init__(self) -> None:
        check_range("bad", self.bad, 0)

    def check_sites(self, sites: Sequence[str]) -> None:
        if len(sites) < 2 * self.bad + 1:
            raise AmosError(
                f"strategy trimmed-mean leaves out {self.bad} of the sites on each side, for which "
                f"{2 * self.bad + 1} must train, but {len(sites)} do; lower strategy_options.bad"
            )

    def combine(self, given: ServerRound, updates: Updates) -> tuple[Arrays, Sequence[str]]:
        number = len(updates.sites)
        cut = min(int(self.bad), (number - 1) // 2)

        def trimmed(stack: np.ndarray) -> np.ndarray:
            if cut:
                stack.sort(axis=0)
            return mean_of_rows(stack[cut : number - cut])

        return updates.each_number(trimmed), updates.sites
