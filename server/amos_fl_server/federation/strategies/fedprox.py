"""FedProx: FedAvg whose sites are held near the global weights (Li et al., MLSys 2020)."""

from dataclasses import dataclass

from amos_fl.errors import AmosError
from amos_fl_clients.federation.messages import PROXIMAL_MU
from amos_fl_server.federation.strategies.base import AveragingStrategy


@dataclass(frozen=True)
class FedProx(AveragingStrategy):
    """Each site adds mu/2 times the squared distance to the round's global weights to its loss (equation 2)."""

    mu: float = 0.01

    def __post_init__(self) -> None:
        if not self.mu >= 0:
            raise AmosError(f"strategy_options.mu is {self.mu}; it must be 0 or more")

    def options(self) -> dict[str, float]:
        return {PROXIMAL_MU: float(self.mu)}
