"""FedAvg (McMahan et al., AISTATS 2017, Algorithm 1)."""

from dataclasses import dataclass
from typing import ClassVar

from amos_fl.methods.base import Method


@dataclass(frozen=True)
class FedAvg(Method):
    """The next weights are the weighted mean of the sites' weights."""

    paper: ClassVar[str] = "McMahan et al., AISTATS 2017"
