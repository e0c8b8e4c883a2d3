"""Deep supervision: the resolutions at which a network is compared with the label map, and their weights."""

from collections.abc import Sequence
from dataclasses import dataclass

from amos_fl.volumes.plan import Triple


def deep_supervision_weights(heads: int, *, coarsest: bool = False) -> list[float]:
    """nnU-Net's weights of the heads: each half of the one before, summing to 1; the coarsest 0 unless `coarsest`.

    >>> deep_supervision_weights(3)
    [0.666..., 0.333..., 0.0]
    >>> deep_supervision_weights(2, coarsest=True)
    [0.666..., 0.333...]
    >>> deep_supervision_weights(1)
    [1.0]
    """
    weights = [0.5**head for head in range(heads)]
    if heads > 1 and not coarsest:
        weights[-1] = 0.0
    return [weight / sum(weights) for weight in weights]


@dataclass(frozen=True)
class Supervision:
    """The heads of a network in training, from the patch's resolution to coarser ones.

    A head of stride s has one voxel for every s voxels of the patch, that of the first of them; its shape is the
    patch's divided by s, rounded up. `weights` sum to 1; a head of weight 0 is not compared.
    """

    strides: tuple[Triple, ...]
    weights: tuple[float, ...]

    @classmethod
    def halving(cls, strides: Sequence[Triple], *, coarsest: bool = False) -> "Supervision":
        """Each head has half the weight of the one before; the coarsest has 0, unless `coarsest`."""
        return cls(tuple(strides), tuple(deep_supervision_weights(len(strides), coarsest=coarsest)))


def supervision_of(network: object) -> Supervision | None:
    """The supervision of a network from the registry; None for any other."""
    found = getattr(network, "supervision", None)
    return found if isinstance(found, Supervision) else None
