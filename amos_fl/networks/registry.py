"""Which networks there are, and how one is built from a plan and a seed."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from amos_fl.errors import AmosError
from amos_fl.networks.cotr import cotr
from amos_fl.networks.nnformer import nnformer
from amos_fl.networks.norms import with_group_norm
from amos_fl.networks.swin_unetr import swin_unetr
from amos_fl.networks.unet import paper_unet, small_unet
from amos_fl.networks.unetr import unetr
from amos_fl.networks.vnet import vnet
from amos_fl.randomness import derived_seed
from amos_fl.training.settings import NormStatistics
from amos_fl.volumes.plan import Plan

MODELS: dict[str, str] = {
    "unet": "3D U-Net of the AMOS paper (Table 4), as nnU-Net builds it",
    "vnet": "V-Net: convolutions of 5x5x5, batch normalisation, dropout",
    "cotr": "CoTr: a residual encoder with deformable attention on its two coarsest levels",
    "nnformer": "nnFormer: attention in shifted windows, and from the decoder to the encoder",
    "unetr": "UNETR: a vision transformer of 16x16x16 tokens with a convolutional decoder",
    "swin-unetr": "Swin UNETR: a Swin transformer with a convolutional decoder",
    "small": "a U-Net of few feature maps, and fewest at the patch's resolution, for CPUs",
}
"""What `--model` accepts, and what each is."""

_BUILDERS: dict[str, Callable[[Plan, int], nn.Module]] = {
    "unet": paper_unet,
    "vnet": vnet,
    "cotr": cotr,
    "nnformer": nnformer,
    "unetr": unetr,
    "swin-unetr": swin_unetr,
    "small": small_unet,
}


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


def build_network(
    model: str, plan: Plan, organ_count: int, *, seed: int, norm_statistics: NormStatistics = "average"
) -> nn.Module:
    """A network with fresh weights, the same for the same seed; PyTorch's global generator is left as it was.

    In training mode it maps an image (B, 1, X, Y, Z) to a list of logits, each (B, 1 + organ_count, ...):
    the patch's own resolution first, then those of the deep-supervision heads. In evaluation mode it
    returns the first alone. X, Y and Z may be any; what the network's strides do not divide is padded inside.

    Weights are drawn as each network's authors draw them, for a U-Net as nnU-Net does (He et al. 2015 for a leaky
    ReLU of slope 0.01). With `norm_statistics` "group", group normalisation stands in place of batch normalisation.

    Raises:
        AmosError: no model of that name, or a plan that it cannot follow.
    """
    build = _builder(model)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(derived_seed(seed, "weights", model))
        network = build(plan, organ_count)
        return with_group_norm(network) if norm_statistics == "group" else network


def outline(model: str, plan: Plan, organ_count: int) -> nn.Module:
    """The network on PyTorch's device `meta`: layers and shapes without values, at no cost of memory.

    Raises:
        AmosError: as `build_network`.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return _builder(model)(plan, organ_count)


def parameter_count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def describe_models(plan: Plan, organ_count: int) -> list[ModelDescription]:
    """Every network with its number of parameters under `plan`; no weights are made for them.

    >>> from amos_fl.volumes.plan import plan_named
    >>> [(m.name, m.parameters) for m in describe_models(plan_named("amos-ct"), 15) if m.name == "unet"]
    [('unet', 31175024)]
    """
    return [
        ModelDescription(name, description, plan.name, parameter_count(outline(name, plan, organ_count)))
        for name, description in MODELS.items()
    ]
