"""The terms that a federated method adds to the gradients of a site's training."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Pull:
    """Added to each gradient before it is clipped: mu * (w - start) + drift.

    `start` is w when training began; the first term is then the gradient of mu/2 * ||w - start||^2, the proximal term
    of FedProx (Li et al., MLSys 2020, equation 2). `drift` is constant, by parameter name.
    """

    mu: float = 0.0
    drift: Mapping[str, np.ndarray] = field(default_factory=dict)

    def begin(self, network: nn.Module) -> "Pulling":
        """Record the present parameters as the start."""
        parameters = dict(network.named_parameters())
        start = {name: p.detach().clone() for name, p in parameters.items()} if self.mu > 0 else {}
        drift = {name: torch.from_numpy(d).to(parameters[name]) for name, d in self.drift.items()}
        return Pulling(self.mu, start, drift)


@dataclass(frozen=True)
class Pulling:
    """A pull with the parameters at its start."""

    mu: float
    start: Mapping[str, Tensor]
    drift: Mapping[str, Tensor]

    @torch.no_grad()
    def add_to(self, network: nn.Module) -> None:
        """Add the pull to the present gradients, in place."""
        for name, parameter in network.named_parameters():
            if parameter.grad is None:
                continue
            if name in self.start:
                parameter.grad.add_(parameter.detach() - self.start[name], alpha=self.mu)
            if name in self.drift:
                parameter.grad.add_(self.drift[name])
