"""FedAvg: the next weights are the mean of the sites' (McMahan et al., AISTATS 2017)."""

from dataclasses import dataclass

from amos_fl_server.federation.strategies.base import AveragingStrategy


@dataclass(frozen=True)
class FedAvg(AveragingStrategy):
    """The weighted mean of the updates, and nothing else."""
