"""The median of the updates, number by number (Yin et al., ICML 2018, Algorithm 1, option I)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from amos_fl.methods.base import Arrays, Method, ServerRound
from amos_fl.methods.updates import Updates, median


@dataclass(frozen=True)
class Median(Method):
    """Each weight is the median of the sites' weights, all sites equal; robust if fewer than half of them are bad."""

    paper: ClassVar[str] = "Yin et al., ICML 2018"

    def combine(self, given: ServerRound, updates: Updates) -> tuple[Arrays, Sequence[str]]:
        return updates.each_number(median), updates.sites
