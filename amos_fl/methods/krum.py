"""Krum and Multi-Krum (Blanchard et al., NeurIPS 2017, section 4)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from amos_fl.errors import AmosError
from amos_fl.methods.base import Arrays, Method, ServerRound, check_range
from amos_fl.methods.updates import Updates, mean_of_rows


@dataclass(frozen=True)
class Krum(Method):
    """The update of one site: the one closest to its nearest neighbours, which are all but `bad` + 2 sites."""

    paper: ClassVar[str] = "Blanchard et al., NeurIPS 2017"
    bad: int = 1

    def __post_init__(self) -> None:
        check_range("bad", self.bad, 0)

    def check_sites(self, sites: Sequence[str]) -> None:
        if len(sites) < 2 * self.bad + 3:
            raise AmosError(
                f"Krum withstands {self.bad} bad site(s) if at least {2 * self.bad + 3} train, but {len(sites)} do; "
                "lower strategy_options.bad, or use the strategy median"
            )

    def combine(self, given: ServerRound, updates: Updates) -> tuple[Arrays, Sequence[str]]:
        chosen = [updates.sites[i] for i in nearest_to_others(updates.squared_distances(), int(self.bad))]
        return updates.of_site(chosen[0]), chosen[:1]


@dataclass(frozen=True)
class MultiKrum(Krum):
    """The equally weighted mean of the updates that Krum ranks first, those of all sites but `bad`."""

    def combine(self, given: ServerRound, updates: Updates) -> tuple[Arrays, Sequence[str]]:
        order = nearest_to_others(updates.squared_distances(), int(self.bad))
        rows = sorted(order[: max(len(order) - int(self.bad), 1)])
        return updates.each_number(lambda stack: mean_of_rows(stack[rows])), [updates.sites[i] for i in rows]


def nearest_to_others(squared: np.ndarray, bad: int) -> list[int]:
    """The points sorted by the sum of squared distances to their nearest neighbours, smallest first."""
    number = len(squared)
    near = max(number - bad - 2, 1)
    scores = [math.fsum(sorted(np.delete(row, i))[:near]) for i, row in enumerate(squared)]
    return sorted(range(number), key=lambda i: (scores[i], i))
