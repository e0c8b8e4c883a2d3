"""Build a network from a plan and a seed: one from the catalogue, or the user's own."""

import inspect
from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from torch import nn

from amos_fl.errors import AmosError
from amos_fl.networks.catalogue import network_named
from amos_fl.networks.norms import with_group_norm
from amos_fl.own_code import is_path, load, where_in
from amos_fl.randomness import derived_seed, generator
from amos_fl.training.loss import DiceCrossEntropy
from amos_fl.training.own import small_patch
from amos_fl.training.settings import NormStatistics
from amos_fl.training.supervision import supervision_of
from amos_fl.volumes.plan import Plan
from amos_fl.wording import first_line


def _builder(model: str) -> Callable[[Plan, int], nn.Module]:
    build = load(network_named(model).builder, "model")
    if not callable(build):
        raise AmosError(f"model {model}: must be a function (plan, organ_count) that returns a torch.nn.Module")
    return cast(Callable[[Plan, int], nn.Module], build)


def build_network(
    model: str, plan: Plan, organ_count: int, *, seed: int, norm_statistics: NormStatistics = "average"
) -> nn.Module:
    """A network with fresh weights, the same for the same seed; PyTorch's global generator is left as it was.

    In training mode it maps an image (B, 1, X, Y, Z) to a list of logits, each (B, 1 + organ_count, ...):
    the patch's own resolution first, then those of the deep-supervision heads. In evaluation mode it returns only the
    first. X, Y and Z are arbitrary; sizes that the network's strides do not divide are padded inside.

    Weights are drawn as each network's authors draw them, for a U-Net as nnU-Net does (He et al. 2015 for a leaky ReLU
    of slope 0.01). With `norm_statistics` "group", group normalisation replaces batch normalisation.

    Raises:
        AmosError: no model of that name, or a plan that it cannot follow.
    """
    build = _builder(model)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(derived_seed(seed, "weights", model))
        network = build(plan, organ_count)
        return with_group_norm(network) if norm_statistics == "group" else network


def outline(model: str, plan: Plan, organ_count: int) -> nn.Module:
    """The network on PyTorch's device `meta`: layers and shapes without values, using no memory.

    Raises:
        AmosError: as `build_network`.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return _builder(model)(plan, organ_count)


def parameter_count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def check_own_network(model: str, plan: Plan, organ_count: int) -> None:
    """Check a user's own network before anything is trained: built twice, forward twice, and one backward pass.

    Raises:
        AmosError: its function takes other arguments or fails, it is not a function of the seed, its output has another
            shape than the patch, is not finite or differs a second time, or a parameter gets no gradient.
    """
    if not is_path(model):
        return
    builder = _builder(model)
    try:
        inspect.signature(builder).bind(plan, organ_count)
    except TypeError as error:
        raise AmosError(f"model {model}: must take a plan and the number of organs ({error})") from None
    try:
        network, again = (build_network(model, plan, organ_count, seed=0) for _ in range(2))
    except AmosError:
        raise
    except Exception as error:
        why = f"{first_line(error)}{where_in(error, model)}"
        raise AmosError(f"model {model}: fails on the plan {plan.name} ({why})") from None
    if not isinstance(network, nn.Module):
        raise AmosError(f"model {model}: returned {type(network).__name__}; it must return a torch.nn.Module")
    for (name, one), other in zip(network.state_dict().items(), again.state_dict().values(), strict=True):
        if not torch.equal(one, other):
            raise AmosError(
                f"model {model}: {name} differs between two networks with the same seed; "
                "initialise weights with PyTorch only"
            )
    size = small_patch(plan)
    image = torch.from_numpy(generator(0, "own network").standard_normal((1, 1, *size), np.float32))
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.no_grad():
                logits, second = network.eval()(image), network(image)
            trained = []
            for _ in range(2):  # with dropout, too, of which the seed decides
                torch.manual_seed(0)
                trained.append(again.train()(image))
            outputs = network.train()(image)
        except Exception as error:
            raise AmosError(
                f"model {model}: fails on an image of {tuple(image.shape)} ({first_line(error)}"
                f"{where_in(error, model)}); it must take any whose sides are multiples of the plan's {plan.divisor}"
            ) from None
        wanted = (1, 1 + organ_count, *size)
        if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != wanted:
            found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise AmosError(f"model {model}: gives {found} in evaluation mode; it must give logits of {wanted}")
        if not torch.isfinite(logits).all():
            raise AmosError(f"model {model}: gives logits that are not finite")
        first = [one if isinstance(one, torch.Tensor) else one[0] for one in trained]
        if not (torch.equal(logits, second) and torch.equal(*first)):
            raise AmosError(f"model {model}: gives other logits the second time; draw from PyTorch alone, in training")
        label = torch.zeros(1, *size, dtype=torch.long)
        annotated = torch.ones(1, 1 + organ_count, dtype=torch.bool)
        DiceCrossEntropy(supervision=supervision_of(network))(outputs, label, annotated).backward()
    idle = [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]
    if idle:
        raise AmosError(f"model {model}: the loss does not reach {idle[0]}; use it in the output, or freeze it")
