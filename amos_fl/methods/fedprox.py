"""FedProx (Li et al., MLSys 2020, equation 2)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from amos_fl.methods.base import Method, SiteRound, check_range

if TYPE_CHECKING:
    from amos_fl.training.pull import Pull


@dataclass(frozen=True)
class FedProx(Method):
    """FedAvg with sites kept near the round's weights: mu/2 times the squared distance is added to their loss."""

    paper: ClassVar[str] = "Li et al., MLSys 2020"
    mu: float = 0.01

    def __post_init__(self) -> None:
        check_range("mu", self.mu, 0)

    def pull(self, given: SiteRound) -> "Pull":
        from amos_fl.training.pull import Pull

        return Pull(mu=float(self.mu))
