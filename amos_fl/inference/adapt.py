"""Test-time adaptation: batch normalisation with the statistics of the scan being predicted.

Schneider et al. 2020 (arXiv 2006.16971). It reads nothing but the scan. It is a different way of predicting, which
has to be asked for: scores with and without it are those of two methods.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from amos_fl.errors import AmosError
from amos_fl.inference.windows import window_starts
from amos_fl.networks.anysize import SingleValue
from amos_fl.networks.norms import batch_norms
from amos_fl.prepared.store import PreparedCase
from amos_fl.volumes.plan import Triple


@contextmanager
def adapted(
    network: nn.Module, prepared: PreparedCase, patch: Triple, batch_size: int, device: torch.device | str = "cpu"
) -> Iterator[None]:
    """Within this context, batch normalisation uses the statistics of the case; afterwards its previous ones again.

    Every layer's mean and variance are those of its input over windows that cover the case once; each batch counts by
    its number of windows, and the variance includes the spread of the batches' means. A network without batch
    normalisation is left as it is.

    Raises:
        AmosError: a batch has a single value for a layer.
    """
    layers = batch_norms(network)
    if not layers:
        yield
        return
    before = [{name: value.clone() for name, value in layer.named_buffers()} for layer in layers]
    momenta = [layer.momentum for layer in layers]
    try:
        try:
            found = _statistics(network, layers, prepared, patch, batch_size, torch.device(device))
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
    x, y, z = (max(side, p) for side, p in zip(prepared.shape, patch, strict=True))
    offset = [(whole - side) // 2 for whole, side in zip((x, y, z), prepared.shape, strict=True)]
    starts = [
        (i - offset[0], j - offset[1], k - offset[2])
        for k, corners in window_starts((x, y, z), patch, 0.0).items()
        for i, j in corners
    ]
    for first in range(0, len(starts), batch_size):
        group = [prepared.image_patch(start, patch) for start in starts[first : first + batch_size]]
        yield torch.from_numpy(np.stack(group))[:, None]


def _set(layer: nn.Module, mean: Tensor, variance: Tensor) -> None:
    for name, value in (("running_mean", mean), ("running_var", variance)):
        layer.get_buffer(name).copy_(value)
