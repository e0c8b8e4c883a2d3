"""FedAvgM: FedAvg with momentum at the server (Hsu et al., arXiv 1909.06335, section 4.3)."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from amos_fl.methods.base import Arrays, Memory, Method, ServerRound, check_range
from amos_fl.weights import blocks


@dataclass(frozen=True)
class FedAvgM(Method):
    """The server follows the mean's direction with momentum: v <- momentum v + (mean - x), x <- x + learning_rate v.

    Without momentum and with a learning rate of 1 it is FedAvg, bit for bit.
    """

    paper: ClassVar[str] = "Hsu et al., 2019 (arXiv 1909.06335)"
    server_models: ClassVar[int] = 1
    momentum: float = 0.9
    learning_rate: float = 1.0

    def __post_init__(self) -> None:
        check_range("momentum", self.momentum, 0, 1)
        check_range("learning_rate", self.learning_rate, 0)

    def step(self, given: ServerRound, mean: Arrays, memory: Memory) -> Arrays:
        if self.momentum == 0 and self.learning_rate == 1:
            return mean
        momentum, rate = np.float32(self.momentum), np.float32(self.learning_rate)
        for name, after in mean.items():
            kept = memory.array("momentum", name, after)
            for new, old, v in blocks(after, given.before[name], kept):
                v *= momentum
                v += new - old
                new[...] = old + rate * v
        return mean
