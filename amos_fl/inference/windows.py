"""Sliding-window inference in memory that does not grow with the number of slices.

Windows the size of the patch overlap by half and are blended with Gaussian weights, whose sigma is an eighth of the
patch (Isensee et al. 2021). They are taken in the order of z, and only a slab as thick as one window is held: planes
that no later window touches are divided by their weights and passed on. The result equals that of MONAI's
`sliding_window_inference` on class probabilities, which needs the whole volume times the classes at once; that is why
this is our own.
"""

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float
from monai.data.utils import compute_importance_map, dense_patch_slices
from torch import Tensor

from amos_fl.runs.inference_settings import InferenceSettings
from amos_fl.volumes.plan import Triple

# Planes that leave the slab together: as many as a cache line holds floats, which a strided read fetches anyway.
_PLANES = 16
_MIRRORS = [axes for count in range(4) for axes in itertools.combinations((2, 3, 4), count)]


class Readable(Protocol):
    """A prepared image of the shape (x, y, z), in a store or in memory, that is read patch by patch."""

    @property
    def shape(self) -> Triple: ...

    def image_patch(self, start: Sequence[int], size: Sequence[int]) -> np.ndarray:
        """A float32 patch (size) from `start` on; outside the image it is air."""
        ...


def window_starts(shape: Triple, patch: Triple, overlap: float) -> dict[int, list[tuple[int, int]]]:
    """Where windows begin: per z, in ascending order, all (x, y). `shape` is no smaller than `patch`.

    >>> window_starts((6, 4, 8), (4, 4, 4), 0.5)
    {0: [(0, 0), (2, 0)], 2: [(0, 0), (2, 0)], 4: [(0, 0), (2, 0)]}
    """
    steps = [n if size == n else max(1, int(n * (1 - overlap))) for size, n in zip(shape, patch, strict=True)]
    starts: dict[int, list[tuple[int, int]]] = {}
    for x, y, z in dense_patch_slices(shape, patch, steps):
        starts.setdefault(int(z.start), []).append((int(x.start), int(y.start)))
    return {z: starts[z] for z in sorted(starts)}


def probabilities(
    network: Callable[[Tensor], Tensor], windows: Float[Tensor, "window 1 x y z"], mirror: bool
) -> Float[Tensor, "window class x y z"]:
    """Softmax of the network's output in float32; with `mirror`, its mean over all eight reflections."""
    total: Tensor | None = None
    for axes in _MIRRORS if mirror else [()]:
        logits = network(windows.flip(axes) if axes else windows)
        share = torch.softmax(logits.float(), dim=1)
        share = share.flip(axes) if axes else share
        total = share if total is None else total.add_(share)
    assert total is not None
    return total / len(_MIRRORS) if mirror else total


@torch.inference_mode()
def finished_planes(
    network: Callable[[Tensor], Tensor],
    prepared: Readable,
    patch: Triple,
    classes: int,
    *,
    device: torch.device,
    inference: InferenceSettings,
    check: Callable[[], None] | None,
    unlearned: Collection[int] = (),
    turns: Sequence[Callable[[], None]] = (),
) -> Iterator[Float[Tensor, "class x y"]]:
    """The class probabilities of a prepared case, plane by plane along z, on `device`.

    Volumes smaller than the patch are padded evenly on both sides with air, and the padding is removed again. The
    probabilities of `unlearned` channels are added to the background's and become 0. Of an ensemble, each of `turns`
    makes `network` another member, for the windows of one z; the probabilities are the mean over members.
    Memory: one slab of (class, x, y, patch z), and one network, however many take turns in it.
    """
    padded = tuple(max(n, p) for n, p in zip(prepared.shape, patch, strict=True))
    x, y, z = padded
    offset = [(m - n) // 2 for m, n in zip(padded, prepared.shape, strict=True)]
    inside = tuple(slice(o, o + n) for o, n in zip(offset, prepared.shape, strict=True))
    weights = compute_importance_map(patch, "gaussian", 0.125, device)
    sums = torch.zeros((classes, x, y, patch[2]), device=device)
    counts = torch.zeros((x, y, patch[2]), device=device)
    starts = window_starts((x, y, z), patch, inference.overlap)
    following = [*list(starts)[1:], z]
    for (low, corners), upcoming in zip(starts.items(), following, strict=True):
        band = prepared.image_patch((-offset[0], -offset[1], low - offset[2]), (x, y, patch[2]))
        for take_turn in turns or (None,):
            if take_turn is not None:
                take_turn()
            for group in _grouped(corners, inference.batch_size):
                if check is not None:
                    check()
                windows = torch.from_numpy(np.stack([band[i : i + patch[0], j : j + patch[1]] for i, j in group]))
                shares = probabilities(network, windows[:, None].to(device), inference.mirror)
                for (i, j), share in zip(group, shares, strict=True):
                    where = (slice(i, i + patch[0]), slice(j, j + patch[1]))
                    sums[:, *where].addcmul_(share, weights)
                    counts[where] += weights
        done = upcoming - low
        first = max(0, inside[2].start - low)
        last = min(done, inside[2].stop - low)
        for start in range(first, last, _PLANES):
            part = slice(start, min(start + _PLANES, last))
            mean = (sums[:, inside[0], inside[1], part] / counts[inside[0], inside[1], part]).permute(3, 0, 1, 2)
            mean = mean.contiguous()
            if unlearned:
                channels = sorted(unlearned)
                mean[:, 0] += mean[:, channels].sum(dim=1)
                mean[:, channels] = 0
            yield from mean
        _shift(sums, done)
        _shift(counts[None], done)


def _shift(slab: Float[Tensor, "class x y z"], by: int) -> None:
    """Shift a slab by some planes, class by class: all at once would need a second slab."""
    kept = slab.shape[3] - by
    for one in slab:
        one[..., :kept] = one[..., by:].clone()
    slab[..., kept:] = 0


def _grouped(items: list[tuple[int, int]], size: int) -> Iterator[list[tuple[int, int]]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]
