"""The geometric median of the updates (Pillutla et al., IEEE TSP 2022: RFA, Algorithm 2)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from amos_fl.methods.base import Arrays, Method, ServerRound, check_range
from amos_fl.methods.updates import Updates, median, weighted_sum

SMALLEST_DISTANCE = 1e-6
"""A floor on distances, relative to the median distance between two updates: below it an update gains no weight."""


@dataclass(frozen=True)
class GeometricMedian(Method):
    """The weights with the smallest sum of distances to the sites' weights, by Weiszfeld's algorithm.

    It is a weighted mean of the updates in which distant ones count little. All sites begin with the same weight. Of
    running statistics it takes the median, because their distances mean nothing.
    """

    paper: ClassVar[str] = "Pillutla et al., IEEE Transactions on Signal Processing 2022"
    iterations: int = 10

    def __post_init__(self) -> None:
        check_range("iterations", self.iterations, 1)

    def combine(self, given: ServerRound, updates: Updates) -> tuple[Arrays, Sequence[str]]:
        shares = weiszfeld(updates.squared_distances(), int(self.iterations)).tolist()
        return updates.each_number(lambda stack: weighted_sum(stack, shares), median), updates.sites


def weiszfeld(squared: np.ndarray, iterations: int) -> np.ndarray:
    """The shares, (points), for which the mean of points is their geometric median, from their squared distances.

    The points themselves are not needed: the squared distance of a mean with shares s to point i is
    (D s)_i - s D s / 2, where D are the squared distances.
    """
    number = len(squared)
    shares = np.full(number, 1 / number)
    apart = squared[np.triu_indices(number, 1)]
    if not apart.any():
        return shares
    least = SMALLEST_DISTANCE * math.sqrt(float(np.median(apart)) or float(apart.max()))
    for _ in range(iterations):
        to_each = [math.fsum(row * shares) for row in squared]
        spread = math.fsum(to_each * shares) / 2
        distances = np.sqrt(np.maximum(np.array(to_each) - spread, 0))
        shares = 1 / np.maximum(distances, least)
        shares /= math.fsum(shares)
    return shares
