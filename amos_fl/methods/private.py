"""Methods whose sites keep a part of the network as their own: FedBN its normalisation layers, FedPer its head.

A site trains and is scored with its own private arrays and everyone's shared ones. Scanners without a model of their
own use the mean of the sites' private arrays. With `send_private=false` these never leave a site, and such scanners
use the initial ones.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from amos_fl.methods.base import Method

if TYPE_CHECKING:
    from amos_fl.networks.parts import Parts


@dataclass(frozen=True)
class PrivateParts(Method):
    """A method whose sites keep some arrays as their own; if they are sent, the server takes their mean."""

    send_private: bool = True

    def withheld(self, parts: "Parts") -> frozenset[str]:
        return frozenset() if self.send_private else self.private(parts)


@dataclass(frozen=True)
class FedBN(PrivateParts):
    """Each site keeps its own normalisation layers, of any kind, and shares the rest of the network."""

    paper: ClassVar[str] = "Li et al., ICLR 2021"

    def private(self, parts: "Parts") -> frozenset[str]:
        return parts.norms


@dataclass(frozen=True)
class FedPer(PrivateParts):
    """Each site keeps its own head, the layers that tell the organs apart, and shares the rest."""

    paper: ClassVar[str] = "Arivazhagan et al., arXiv 1912.00818"

    def private(self, parts: "Parts") -> frozenset[str]:
        return parts.head
