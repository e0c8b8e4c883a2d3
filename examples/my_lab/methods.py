"""FedCM (Xu et al., arXiv 2106.10874, Algorithm 2): every site's steps lean towards the direction of the last round.

    amos-fl simulate --strategy my_lab.methods:FedCM --strategy-option alpha=0.5

The paper mixes a site's gradient g with the global direction d, alpha * g + (1 - alpha) * d. Here the common factor
alpha belongs to the learning rate, and d's part is added to the gradient: g + (1 - alpha) / alpha * d. With alpha = 1
it is FedAvg.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from amos_fl.methods.base import Method, check_range
from amos_fl.training.pull import Pull


@dataclass(frozen=True)
class FedCM(Method):
    """Sites add the direction of the previous round to their gradients."""

    paper: ClassVar[str] = "Xu et al., 2021 (arXiv 2106.10874)"
    sends: ClassVar[tuple[str, ...]] = ("direction",)
    server_models: ClassVar[int] = 1
    # Momentum from earlier rounds would move the weights, too, and be taken for this round's direction.
    needs_reset: ClassVar[bool] = True
    alpha: float = 0.5

    def __post_init__(self):
        check_range("alpha", self.alpha, 0.01, 1.001)

    # At a site: before its first step.
    def pull(self, given):
        share = np.float32((1 - self.alpha) / self.alpha)
        return Pull(drift={name: share * direction for name, direction in given.sent["direction"].items()})

    # At the server: what the sites get besides the weights, and what becomes of the mean of their updates.
    def more(self, before, memory):
        return {"direction": {name: memory.array("direction", name, array) for name, array in before.items()}}

    def step(self, given, mean, memory):
        moved = np.float32(given.work.displacement)  # how far the steps move weights for a gradient of 1
        for name, after in mean.items() if moved else ():
            direction = memory.array("direction", name, after)
            direction[...] = np.float32(self.alpha) * (given.before[name] - after) / moved
        return mean
