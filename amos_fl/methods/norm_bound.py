"""A bound on how far one site moves the weights (Sun et al., arXiv 1911.07963, section 3)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from amos_fl.methods.base import Arrays, Done, Method, Work, check_range, part_of_the_way
from amos_fl.weights import relative_distance


@dataclass(frozen=True)
class NormBound(Method):
    """FedAvg of updates that are shortened to `bound` times the norm of the round's weights if they are longer.

    `max_update_norm` refuses an update that is too long; this method keeps its direction. An infinite bound (.inf) is
    FedAvg, bit for bit.
    """

    paper: ClassVar[str] = "Sun et al., 2019 (arXiv 1911.07963)"
    bound: float = 0.1

    def __post_init__(self) -> None:
        if not self.bound > 0:
            check_range("bound", self.bound, 0)
            check_range("bound", -1, 0)

    def admit(self, before: Mapping[str, np.ndarray], update: Arrays, done: Done, work: Work) -> Arrays:
        if math.isinf(self.bound):
            return update
        distance = relative_distance(update, before)
        if distance <= self.bound:
            return update
        return part_of_the_way(before, update, self.bound / distance)
