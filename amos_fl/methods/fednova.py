"""FedNova (Wang et al., NeurIPS 2020, equations 6 and 9): removes the bias of sites that take unequal steps.

A site's update is divided by how far its steps would have moved the parameters against a gradient of 1, W_i (in the
paper the norm of a_i), and the mean of these directions is multiplied by the mean of W_i:
x+ = x + (sum p_i W_i) sum p_i (y_i - x) / W_i.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from amos_fl.methods.base import Arrays, Done, Memory, Method, ServerRound, Work, part_of_the_way


@dataclass(frozen=True)
class FedNova(Method):
    """FedAvg of directions: a site that takes more steps than others does not pull the weights further to its side.

    If all sites take equal steps, it is FedAvg, bit for bit.
    """

    paper: ClassVar[str] = "Wang et al., NeurIPS 2020"
    needs_reset: ClassVar[bool] = True

    def admit(self, before: Mapping[str, np.ndarray], update: Arrays, done: Done, work: Work) -> Arrays:
        return _moved(before, update, work.displacement, done.work.displacement)

    def step(self, given: ServerRound, mean: Arrays, memory: Memory) -> Arrays:
        whole = given.work.displacement
        on_average = sum(share * given.done[site].work.displacement for site, share in given.shares.items())
        same = all(done.work.displacement == whole for done in given.done.values())
        return mean if same else _moved(given.before, mean, on_average, whole)


def _moved(before: Mapping[str, np.ndarray], after: Arrays, to: float, of: float) -> Arrays:
    """The point on the line from `before` to `after` at to / of times their distance."""
    return after if to == of or not of else part_of_the_way(before, after, to / of)
