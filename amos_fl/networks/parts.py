"""The arrays of a network by their purpose, which a method needs that leaves some of them at the sites."""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import nn

from amos_fl.networks.head import class_axes
from amos_fl.networks.norms import NORMS, with_group_norm
from amos_fl.networks.registry import outline
from amos_fl.training.settings import NormStatistics
from amos_fl.volumes.plan import Plan


@dataclass(frozen=True)
class Parts:
    """The names of a network's arrays, found from its layers and shapes when they are first asked for."""

    model: str
    plan_json: str
    organ_count: int
    norm_statistics: NormStatistics = "average"

    @cached_property
    def _outline(self) -> nn.Module:
        network = outline(self.model, self._plan, self.organ_count)
        with torch.device("meta"):
            return with_group_norm(network) if self.norm_statistics == "group" else network

    @property
    def _plan(self) -> Plan:
        return Plan.model_validate_json(self.plan_json)

    @cached_property
    def everything(self) -> frozenset[str]:
        """All arrays: weights and running statistics."""
        return frozenset(self._outline.state_dict())

    @cached_property
    def norms(self) -> frozenset[str]:
        """The weights, biases and running statistics of normalisation layers, of any kind."""
        names = (
            f"{layer}.{name}" if layer else name
            for layer, module in self._outline.named_modules()
            if isinstance(module, NORMS)
            for name in module.state_dict()
        )
        return frozenset(names) & self.everything

    @cached_property
    def head(self) -> frozenset[str]:
        """The arrays whose size depends on the number of organs."""
        return frozenset(class_axes(self.model, self._plan, self.organ_count)) & self.everything


def parts_of(model: str, plan: Plan, organ_count: int, norm_statistics: NormStatistics = "average") -> Parts:
    """The parts of a network; no model of that name, or a plan that it cannot follow, is an error where they are used.

    >>> from amos_fl.volumes.plan import plan_named
    >>> len(parts_of("small", plan_named("coarse"), 15).norms)
    24
    """
    return _parts(model, plan.model_dump_json(), organ_count, norm_statistics)


_parts = lru_cache(maxsize=4)(Parts)
