"""Test-time adaptation: a network's normalisation layers fitted to the very scan that is predicted.

It reads nothing but the scan. It is another way of predicting, which has to be asked for: scores with it and without it
are not of the same method. What it does depends on what the network has to adapt:

- Batch normalisation takes the scan's own statistics (Schneider et al. 2020, arXiv 2006.16971).
- Instance, group and layer normalisation keep none. Their scales and shifts take a few steps by which the network says
  the same of two copies of the scan with different intensities. The loss is DG-TTA's (Weihsbach et al. 2025, Sensors
  25(17):5603, arXiv 2312.06275), which trains all weights; the few that are trained here are Tent's (Wang et al. 2021).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from amos_fl.errors import AmosError
from amos_fl.inference.windows import window_starts
from amos_fl.networks.anysize import SingleValue
from amos_fl.networks.norms import batch_norms, norm_weights
from amos_fl.prepared.store import PreparedCase
from amos_fl.randomness import generator
from amos_fl.training.patches.recipes import change_intensities
from amos_fl.volumes.plan import Triple

STEPS, LEARNING_RATE = 10, 0.002
"""Of the fit of scales and shifts, by Adam."""


@contextmanager
def adapted(
    network: nn.Module, prepared: PreparedCase, patch: Triple, batch_size: int, device: torch.device | str = "cpu"
) -> Iterator[None]:
    """Within this context the network is adapted to the case; afterwards it is what it was before.

    Every batch normalisation's mean and variance are those of its input over windows that cover the case once, each
    batch of windows weighed by its number, the variance including the spread of the batches' means. In a network
    without, the scales and shifts of other normalisation layers are fitted, `STEPS` times to `batch_size` windows. The
    draws depend on the case's name alone.

    Raises:
        AmosError: a layer of which a batch holds a single value, or a network without anything to adapt.
    """
    adapts = _own_statistics if batch_norms(network) else _consistent
    with adapts(network, prepared, patch, batch_size, torch.device(device)):
        yield


@contextmanager
def _consistent(
    network: nn.Module, prepared: PreparedCase, patch: Triple, batch_size: int, device: torch.device
) -> Iterator[None]:
    weights = norm_weights(network)
    if not weights:
        raise AmosError(
            f"{prepared.case}: this network has no normalisation layer with weights or statistics, so nothing can be "
            "adapted to a scan",
            "turn evaluation.test_time_adaptation off",
        )
    before = [weight.detach().clone() for weight in weights]
    trained = {id(p): p.requires_grad for p in network.parameters()}
    try:
        for parameter in network.parameters():
            parameter.requires_grad_(False)
        for weight in weights:
            weight.requires_grad_(True)
        optimizer = torch.optim.Adam(weights, lr=LEARNING_RATE)
        starts = _starts(prepared, patch)
        with torch.enable_grad():
            for step in range(STEPS):
                draw = generator(0, "adaptation", prepared.case, step)
                chosen = [starts[int(number)] for number in draw.integers(len(starts), size=batch_size)]
                windows = _read(prepared, chosen, patch)
                one, other = (network(_copies(windows, prepared.modality, draw).to(device)) for _ in "12")
                optimizer.zero_grad(set_to_none=True)
                _disagreement(one, other).backward()
                optimizer.step()
        for weight in weights:
            weight.requires_grad_(False)
        yield
    finally:
        with torch.no_grad():
            for weight, value in zip(weights, before, strict=True):
                weight.copy_(value)
                weight.grad = None
        for parameter in network.parameters():
            parameter.requires_grad_(trained[id(parameter)])


def _copies(windows: Tensor, modality: str, draw: np.random.Generator) -> Tensor:
    """Windows (window, 1, x, y, z) with other intensities, as `robust` augmentation draws them."""
    nothing = torch.zeros(windows.shape[2:], dtype=torch.int64)
    seeds = draw.integers(2**63, size=len(windows)).tolist()
    return torch.stack(
        [change_intensities(w, nothing, modality, "robust", seed) for w, seed in zip(windows, seeds, strict=True)]
    )


def _disagreement(one: Tensor, other: Tensor) -> Tensor:
    """1 - the mean soft Dice of two predictions (window, class, x, y, z) over the classes but the background."""
    p, q = (logits.float().softmax(dim=1).transpose(0, 1).flatten(1)[1:] for logits in (one, other))
    return 1 - ((2 * (p * q).sum(1) + 1) / (p.square().sum(1) + q.square().sum(1) + 1)).mean()


@contextmanager
def _own_statistics(
    network: nn.Module, prepared: PreparedCase, patch: Triple, batch_size: int, device: torch.device
) -> Iterator[None]:
    layers = batch_norms(network)
    before = [{name: value.clone() for name, value in layer.named_buffers()} for layer in layers]
    momenta = [layer.momentum for layer in layers]
    try:
        try:
            found = _statistics(network, layers, prepared, patch, batch_size, device)
        except (SingleValue, ValueError) as error:  # PyTorch's: "Expected more than 1 value per channel when training"
            raise AmosError(
                f"{prepared.case}: a patch of {'x'.join(map(str, patch))} leaves a layer a single value, "
                "which has no variance; turn evaluation.test_time_adaptation off, or give the plan a larger patch"
            ) from error
        for layer, (mean, variance) in zip(layers, found, strict=True):
            layer.eval()
            _set(layer, mean, variance)
        yield
    finally:
        for layer, buffers, momentum in zip(layers, before, momenta, strict=True):
            layer.momentum = momentum
            layer.eval()
            for name, value in buffers.items():
                layer.get_buffer(name).copy_(value)


@torch.inference_mode()
def _statistics(
    network: nn.Module,
    layers: list[nn.modules.batchnorm._BatchNorm],
    prepared: PreparedCase,
    patch: Triple,
    batch_size: int,
    device: torch.device,
) -> list[tuple[Tensor, Tensor]]:
    """Per layer mean and variance over the windows of a case."""
    sums = [[torch.zeros_like(layer.get_buffer("running_mean"), dtype=torch.float64) for _ in "12"] for layer in layers]
    for layer in layers:
        layer.train()
        layer.momentum = 1.0  # so that the running statistics are those of the last batch
    number = 0
    for windows in _windows(prepared, patch, batch_size):
        network(windows.to(device))
        number += len(windows)
        for layer, (mean, square) in zip(layers, sums, strict=True):
            own = layer.get_buffer("running_mean").double()
            mean += len(windows) * own
            square += len(windows) * (layer.get_buffer("running_var").double() + own.square())
    return [(mean / number, square / number - (mean / number).square()) for mean, square in sums]


def _windows(prepared: PreparedCase, patch: Triple, batch_size: int) -> Iterator[Tensor]:
    """Batches (window, 1, x, y, z) that cover the case with as little overlap as possible."""
    starts = _starts(prepared, patch)
    for first in range(0, len(starts), batch_size):
        yield _read(prepared, starts[first : first + batch_size], patch)


def _starts(prepared: PreparedCase, patch: Triple) -> list[Triple]:
    """The first voxels of windows that cover the case with as little overlap as possible."""
    x, y, z = (max(side, p) for side, p in zip(prepared.shape, patch, strict=True))
    offset = [(whole - side) // 2 for whole, side in zip((x, y, z), prepared.shape, strict=True)]
    return [
        (i - offset[0], j - offset[1], k - offset[2])
        for corners in window_starts((x, y, z), patch, 0.0, 2).values()
        for i, j, k in corners
    ]


def _read(prepared: PreparedCase, starts: list[Triple], patch: Triple) -> Tensor:
    """Windows (window, 1, x, y, z) at these first voxels."""
    return torch.from_numpy(np.stack([prepared.image_patch(start, patch) for start in starts]))[:, None]


def _set(layer: nn.Module, mean: Tensor, variance: Tensor) -> None:
    for name, value in (("running_mean", mean), ("running_var", variance)):
        layer.get_buffer(name).copy_(value)
