"""The arrays of a network by their purpose, which a method needs that leaves some of them at the sites."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase  # batch and instance norms; the class they share has no public name

from amos_fl.networks.head import class_axes
from amos_fl.networks.norms import with_group_norm
from amos_fl.networks.registry import outline
from amos_fl.training.settings import NormStatistics
from amos_fl.volumes.plan import Plan

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


@dataclass(frozen=True)
class Parts:
    """The names of a network's arrays.

    `norms` are the weights, biases and running statistics of its normalisation layers, of any kind. `head` are the
    arrays whose size depends on the number of organs. `everything` are all of them.
    """

    everything: frozenset[str]
    norms: frozenset[str]
    head: frozenset[str]


def parts_of(model: str, plan: Plan, organ_count: int, norm_statistics: NormStatistics = "average") -> Parts:
    """The parts of a network, found from its layers and shapes without building its weights.

    >>> from amos_fl.volumes.plan import plan_named
    >>> len(parts_of("small", plan_named("coarse"), 15).norms)
    24

    Raises:
        AmosError: no model of that name, or a plan that it cannot follow.
    """
    return _parts(model, plan.model_dump_json(), organ_count, norm_statistics)


@lru_cache(maxsize=4)
def _parts(model: str, plan_json: str, organ_count: int, norm_statistics: NormStatistics) -> Parts:
    plan = Plan.model_validate_json(plan_json)
    network = outline(model, plan, organ_count)
    if norm_statistics == "group":
        with torch.device("meta"):
            network = with_group_norm(network)
    state = network.state_dict()
    norms = {
        f"{layer}.{name}" if layer else name
        for layer, module in network.named_modules()
        if isinstance(module, NORMS)
        for name in module.state_dict()
    }
    head = class_axes(model, plan, organ_count).keys() & state.keys()
    return Parts(frozenset(state), frozenset(norms & state.keys()), frozenset(head))
