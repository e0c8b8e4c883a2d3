"""What a federated method adds to the gradients of a site's training, beside the loss."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Pull:
    """Added to each gradient before it is clipped: mu * (w - start), where `start` is where the training found w.

    This is the gradient of mu/2 * ||w - start||^2, the proximal term of FedProx (Li et al., MLSys 2020, equation 2).
    """

    mu: float = 0.0

    def begin(self, network: nn.Module) -> "Pulling":
        """Note where the parameters are now."""
        start = {name: p.detach().clone() for name, p in network.named_parameters()} if self.mu > 0 else {}
        return Pulling(self, start)


@dataclass(frozen=True)
class Pulling:
    """A pull, and where the parameters were when it began."""

    pull: Pull
    start: Mapping[str, Tensor]

    @torch.no_grad()
    def add_to(self, network: nn.Module) -> None:
        """Add to the gradients that are there."""
        for name, parameter in network.named_parameters():
            if name in self.start and parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - self.start[name], alpha=self.pull.mu)
