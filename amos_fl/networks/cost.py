"""Count a network's parameters and multiply-accumulates, beside those that are published."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from amos_fl.networks.catalogue import network_named
from amos_fl.networks.registry import outline, parameter_count
from amos_fl.volumes.plan import AUTO, Plan, Triple, isotropic, plan_named

TABLE_4_INPUT: Triple = (128, 128, 128)
"""Voxels of the one-channel input for which Table 4 counts."""

CORNERS = 8
"""Voxels from which `grid_sample` interpolates a value, each with its own weight."""


@dataclass(frozen=True)
class PublishedCost:
    """What is published of a network: of the paper's six by Table 4, of the others by their authors.

    `flops_giga` are multiply-accumulates under `plan`, "amos-ct" or "isotropic", which halves every axis five times;
    `note` names another source than Table 4, and known errors.
    """

    parameters_millions: float
    flops_giga: float
    plan: str
    note: str


@dataclass(frozen=True)
class NetworkCost:
    """A network's parameters and multiply-accumulates for one input of 1x128x128x128, with the published numbers."""

    name: str
    parameters: int
    macs: int
    published: PublishedCost | None


@cache
def published_costs() -> dict[str, PublishedCost]:
    """Published parameters and FLOPs, by our names of the networks.

    >>> published_costs()["vnet"]
    PublishedCost(parameters_millions=45.65, flops_giga=849.96, plan='amos-ct', note='')
    """
    text = resources.files("amos_fl.networks").joinpath("published.csv").read_text(encoding="utf-8")
    return {
        row["model"]: PublishedCost(
            float(row["parameters_millions"]), float(row["flops_giga"]), row["plan"], row["note"]
        )
        for row in csv.DictReader(text.splitlines())
    }


def plan_for(model: str, patch: Triple) -> Plan:
    """The plan that a network is made for, with another patch; AMOS's for one that is planned on each cohort."""
    name = network_named(model).recipe["plan"]
    return plan_named("amos-ct" if name == AUTO else name).model_copy(update={"patch": patch})


def network_cost(model: str, organ_count: int = 15) -> NetworkCost:
    """Count one network at Table 4's input size, under the plan of the published numbers, without allocating weights.

    Raises:
        AmosError: no model of that name.
    """
    plan, published = plan_for(model, TABLE_4_INPUT), published_costs().get(model)
    if published and published.plan == "isotropic":
        plan = plan.model_copy(update=isotropic(stages=6))
    network = outline(model, plan, organ_count)
    return NetworkCost(model, parameter_count(network), multiply_accumulates(network, TABLE_4_INPUT), published)


def multiply_accumulates(network: nn.Module, size: Sequence[int]) -> int:
    """The multiply-accumulates of one image (1, 1, *size) through a network on the device `meta`, in training mode.

    The count covers convolutions, linear layers, the products of attention, and the eight products of every value that
    `grid_sample` interpolates, including deep-supervision heads, but not normalisation, activations, the softmax, and
    sums.

    >>> with torch.device("meta"):
    ...     layer = nn.Conv3d(1, 2, 3, padding=1)
    >>> multiply_accumulates(layer, (4, 4, 4)) == 2 * 27 * 4**3
    True
    """
    was_training = network.training
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.grid_sampler_3d: _interpolated})
    try:
        with counter, torch.no_grad():
            network.train()(torch.empty(1, 1, *size, device="meta"))
    finally:
        network.train(was_training)
    return counter.get_total_flops() // 2


def _interpolated(*arguments: Any, out_shape: Sequence[int], **options: Any) -> int:
    values = 1
    for side in out_shape:
        values *= side
    return 2 * CORNERS * values  # two operations each, as PyTorch counts the others
