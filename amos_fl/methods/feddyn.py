"""FedDyn (Acar et al., ICLR 2021, Algorithm 1)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from amos_fl.errors import AmosError
from amos_fl.methods.base import Arrays, Memory, Method, ServerRound, SiteRound
from amos_fl.weights import blocks

if TYPE_CHECKING:
    from amos_fl.training.pull import Pull


@dataclass(frozen=True)
class FedDyn(Method):
    """FedProx with memory: sites and server remember how far updates moved, so that all sites' optima agree.

    A site minimises its loss - <h_i, w> + alpha/2 ||w - x||^2 and sets h_i <- h_i - alpha (y_i - x); the server sets
    h <- h - alpha P (mean - x), where P is the share of the sites that took part, and goes to mean - h / alpha.
    """

    paper: ClassVar[str] = "Acar et al., ICLR 2021"
    site_models: ClassVar[int] = 1
    server_models: ClassVar[int] = 1
    alpha: float = 0.01

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise AmosError(f"strategy_options.alpha is {self.alpha}; it must be more than 0")

    def pull(self, given: SiteRound) -> "Pull":
        from amos_fl.training.pull import Pull

        return Pull(mu=float(self.alpha), drift={name: -h for name, h in given.kept.items()})

    def keep(self, given: SiteRound, before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> Arrays:
        alpha = np.float32(self.alpha)
        found = {}
        for name in before:
            found[name] = alpha * (before[name] - after[name])
            if given.kept:
                found[name] += given.kept[name]
        return found

    def step(self, given: ServerRound, mean: Arrays, memory: Memory) -> Arrays:
        alpha, share = np.float32(self.alpha), np.float32(self.alpha * given.share)
        for name, after in mean.items():
            kept = memory.array("h", name, after)
            for new, old, h in blocks(after, given.before[name], kept):
                h -= share * (new - old)
                new -= h / alpha
        return mean
