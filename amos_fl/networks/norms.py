"""Normalisation layers for a federation: batch normalisation replaced, single voxels passed through."""

import math

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase  # what all batch norms share, and they with instance norms

GROUPS = 16
NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


class LenientInstanceNorm3d(nn.InstanceNorm3d):
    """Instance normalisation that passes a single voxel through, where PyTorch's raises an error.

    A network that halves its patch five times has one voxel left of 32, which has no variance.
    """

    def forward(self, input: Tensor) -> Tensor:
        return input if input.shape[2:].numel() == 1 else super().forward(input)


def let_single_voxels_through(network: nn.Module) -> None:
    """Replace every instance normalisation without weights by one that accepts a single voxel."""
    for parent in network.modules():
        for name, child in parent.named_children():
            if type(child) is nn.InstanceNorm3d and not child.affine:
                setattr(parent, name, LenientInstanceNorm3d(child.num_features, eps=child.eps))


def with_group_norm(network: nn.Module) -> nn.Module:
    """Replace every batch normalisation by a group normalisation (Wu and He 2018) with as many weights.

    At most `GROUPS` groups, and as many as divide the channels. It keeps no statistics, so a federation has none to
    reconcile.

    >>> [type(layer).__name__ for layer in with_group_norm(nn.Sequential(nn.BatchNorm3d(24)))]
    ['GroupNorm']
    """
    for parent in network.modules():
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm):
                groups = math.gcd(child.num_features, GROUPS)
                setattr(parent, name, nn.GroupNorm(groups, child.num_features, eps=child.eps))
    return network


def batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """The layers that keep running statistics."""
    return [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]


def norm_weights(network: nn.Module) -> list[nn.Parameter]:
    """The scales and shifts of all normalisation layers, each once."""
    found = {id(p): p for layer in network.modules() if isinstance(layer, NORMS) for p in layer.parameters()}
    return list(found.values())
