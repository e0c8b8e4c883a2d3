"""The terms that a federated method adds to the gradients of a site's training."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Pull:
    """Added to each gradient before it is clipped: mu * (w - anchor) + drift.

    `anchor` is w when training began, unless other weights are given; the first term is then the gradient of
    mu/2 * ||w - anchor||^2, the proximal term of FedProx (Li et al., MLSys 2020, equation 2). `anchor` and `drift` are
    constant, by parameter name.
    """

    mu: float = 0.0
    anchor: Mapping[str, np.ndarray] | None = None
    drift: Mapping[str, np.ndarray] = field(default_factory=dict)

    def begin(self, network: nn.Module) -> "Pulling":
        """Record the present parameters as the anchor, if no other is given."""
        parameters = dict(network.named_parameters())
        anchor: dict[str, Tensor] = {}
        if self.mu > 0:
            given = self.anchor
            for name, p in parameters.items():
                anchor[name] = p.detach().clone() if given is None else torch.tensor(given[name]).to(p)
        drift = {name: torch.from_numpy(d).to(parameters[name]) for name, d in self.drift.items()}
        return Pulling(self.mu, anchor, drift)


@dataclass(frozen=True)
class Pulling:
    """A pull with its anchor on the network's device."""

    mu: float
    anchor: Mapping[str, Tensor]
    drift: Mapping[str, Tensor]

    @torch.no_grad()
    def add_to(self, network: nn.Module) -> None:
        """Add the pull to the present gradients, in place."""
        for name, parameter in network.named_parameters():
            if parameter.grad is None:
                continue
            if name in self.anchor:
                parameter.grad.add_(parameter.detach() - self.anchor[name], alpha=self.mu)
            if name in self.drift:
                parameter.grad.add_(self.drift[name])
