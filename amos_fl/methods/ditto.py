"""Ditto (Li et al., ICML 2021, Algorithm 1)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from amos_fl.methods.base import Method, check_range

if TYPE_CHECKING:
    from amos_fl.training.pull import Pull


@dataclass(frozen=True)
class Ditto(Method):
    """Besides the shared network each site trains a second one of its own, which is pulled towards the shared one.

    In each round a site minimises its loss + lam/2 ||v - x||^2 over its own weights v, starting from those of its last
    round, where x are the shared weights that it received. The shared weights are FedAvg's, whatever `lam` is.
    """

    paper: ClassVar[str] = "Li et al., ICML 2021"
    second_model: ClassVar[bool] = True
    lam: float = 0.1

    def __post_init__(self) -> None:
        check_range("lam", self.lam, 0)

    def personal_pull(self, received: Mapping[str, np.ndarray]) -> "Pull":
        from amos_fl.training.pull import Pull

        return Pull(mu=float(self.lam), anchor=received)
