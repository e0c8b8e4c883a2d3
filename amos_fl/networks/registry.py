"""Which networks there are, and how one is built from a plan and a seed."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from amos_fl.errors import AmosError
from amos_fl.networks.unet import paper_unet, small_unet
from amos_fl.randomness import derived_seed
from amos_fl.volumes.plan import Plan

MODELS: dict[str, str] = {
    "unet": "3D U-Net of the AMOS paper (Table 4), as nnU-Net builds it",
    "small": "a U-Net of few feature maps, and fewest at the patch's resolution, for CPUs",
}
"""What `--model` accepts, and what each is."""

_BUILDERS: dict[str, Callable[[Plan, int], nn.Module]] = {"unet": paper_unet, "small": small_unet}


@dataclass(frozen=True)
class ModelDescription:
    """A network and its cost under one plan."""

    name: str
    description: str
    plan: str
    parameters: int


def _builder(model: str) -> Callable[[Plan, int], nn.Module]:
    try:
        return _BUILDERS[model]
    except KeyError:
        near = difflib.get_close_matches(model, MODELS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(MODELS)}"
        raise AmosError(f"no model {model!r}; {hint}") from None


def build_network(model: str, plan: Plan, organ_count: int, *, seed: int) -> nn.Module:
    """A network with fresh weights, the same for the same seed; PyTorch's global generator is left as it was.

    In training mode it maps an image (B, 1, X, Y, Z) to a list of logits, each (B, 1 + organ_count, ...):
    the patch's own resolution first, then those of the deep-supervision heads. In evaluation mode it
    returns the first alone. X, Y and Z must be multiples of `plan.divisor`.

    Weights are drawn as nnU-Net draws them (He et al. 2015 for a leaky ReLU of slope 0.01).

    Raises:
        AmosError: no model of that name, or a plan that it cannot follow.
    """
    build = _builder(model)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(derived_seed(seed, "weights", model))
        return build(plan, organ_count)


def parameter_count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def describe_models(plan: Plan, organ_count: int) -> list[ModelDescription]:
    """Every network with its number of parameters under `plan`; no weights are made for it.

    >>> from amos_fl.volumes.plan import plan_named
    >>> [(m.name, m.parameters) for m in describe_models(plan_named("amos-ct"), 15) if m.name == "unet"]
    [('unet', 31175024)]
    """
    rows = []
    for name, description in MODELS.items():
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            network = _builder(name)(plan, organ_count)
        rows.append(ModelDescription(name, description, plan.name, parameter_count(network)))
    return rows
