"""Sliding-window inference in memory that does not grow with the number of slices.

Windows the size of the patch overlap by half and are blended with Gaussian weights, whose sigma is an eighth of the
patch (Isensee et al. 2021). They are taken in the order of one axis, and only a slab as thick as one window is held:
planes that no later window touches are divided by their weights and passed on. The axis is that of the thinnest slab.
The result equals that of MONAI's `sliding_window_inference` on class probabilities, which needs the whole volume times
the classes at once; that is why this is our own.
"""

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float
from monai.data.utils import compute_importance_map, dense_patch_slices
from torch import Tensor

from amos_fl.prepared.store import GridRegion
from amos_fl.runs.inference_settings import InferenceSettings
from amos_fl.volumes.plan import Triple

# Planes along the last axis that leave the slab together: a cache line holds as many floats. Others lie in one piece.
_PLANES = (1, 1, 16)
# Voxels times classes that become probabilities together: they stay in a CPU's cache from one step to the next.
_AT_ONCE = 2**18
# Voxels of a window up to which several share a call on a CPU: larger ones gain nothing by it and take memory.
_SMALL_WINDOW = 2**17
_MIRRORS = [axes for count in range(4) for axes in itertools.combinations((1, 2, 3), count)]


class Readable(Protocol):
    """A prepared image of the shape (x, y, z), in a store or in memory, that is read patch by patch."""

    @property
    def shape(self) -> Triple: ...

    def image_patch(self, start: Sequence[int], size: Sequence[int]) -> np.ndarray:
        """A float32 patch (size) from `start` on; outside the image it is air."""
        ...


@dataclass(frozen=True)
class InMemory:
    """A prepared image (x, y, z), no smaller than a window, that is read as one in a store is."""

    image: np.ndarray

    @property
    def shape(self) -> Triple:
        x, y, z = self.image.shape
        return (x, y, z)

    def image_patch(self, start: Sequence[int], size: Sequence[int]) -> np.ndarray:
        """A float32 patch (size) from `start` on."""
        return self.image[tuple(slice(low, low + side) for low, side in zip(start, size, strict=True))]


def slab_axis(shape: Triple, patch: Triple) -> int:
    """The axis along which a slab as thick as the patch is smallest; the last of several.

    >>> slab_axis((512, 512, 100), (160, 160, 64)), slab_axis((64, 64, 64), (32, 32, 32))
    (1, 2)
    """
    return min((2, 1, 0), key=lambda axis: patch[axis] / max(shape[axis], patch[axis]))


def window_starts(shape: Triple, patch: Triple, overlap: float, axis: int) -> dict[int, list[Triple]]:
    """Where windows begin, by their start along `axis` in ascending order. `shape` is no smaller than `patch`.

    >>> window_starts((6, 4, 8), (4, 4, 4), 0.5, 2)
    {0: [(0, 0, 0), (2, 0, 0)], 2: [(0, 0, 2), (2, 0, 2)], 4: [(0, 0, 4), (2, 0, 4)]}
    """
    steps = [n if size == n else max(1, int(n * (1 - overlap))) for size, n in zip(shape, patch, strict=True)]
    starts: dict[int, list[Triple]] = {}
    for x, y, z in dense_patch_slices(shape, patch, steps):
        corner = (int(x.start), int(y.start), int(z.start))
        starts.setdefault(corner[axis], []).append(corner)
    return {start: starts[start] for start in sorted(starts)}


def windows_over(grid: Triple, patch: Triple, overlap: float) -> int:
    """How many windows cover a grid, padded to the patch: as many as `window_starts` gives, at no cost.

    >>> windows_over((6, 4, 8), (4, 4, 4), 0.5), windows_over((3, 3, 3), (4, 4, 4), 0.5)
    (6, 1)
    """
    steps = [max(1, int(side * (1 - overlap))) for side in patch]
    return math.prod(1 + max(0, -(-(n - p) // step)) for n, p, step in zip(grid, patch, steps, strict=True))


@torch.inference_mode()
def finished_planes(
    network: Callable[[Tensor], Tensor],
    prepared: Readable,
    patch: Triple,
    classes: int,
    *,
    axis: int,
    device: torch.device,
    inference: InferenceSettings,
    check: Callable[[], None] | None,
    unlearned: Collection[int] = (),
    turns: Sequence[Callable[[], None]] = (),
) -> Iterator[Float[Tensor, "class u v"]]:
    """The class probabilities of a prepared case, plane by plane along `axis`, on `device`; u and v are the others.

    Volumes smaller than the patch are padded evenly on both sides with air, and the padding is removed again. The
    probabilities of `unlearned` channels are added to the background's and become 0. Of an ensemble, each of `turns`
    makes `network` another member, for the windows of one slab; the probabilities are the mean over members.
    Memory: one slab of all classes, as thick as the patch along `axis`, and one network, however many take turns in it.
    """
    shape = _triple(max(n, p) for n, p in zip(prepared.shape, patch, strict=True))
    offset = [(m - n) // 2 for m, n in zip(shape, prepared.shape, strict=True)]
    inside = [slice(o, o + n) for o, n in zip(offset, prepared.shape, strict=True)]
    slab = _triple(patch[i] if i == axis else n for i, n in enumerate(shape))
    weights = compute_importance_map(patch, "gaussian", 0.125, device)
    sums, counts = torch.zeros((classes, *slab), device=device), torch.zeros(slab, device=device)
    together = inference.batch_size
    if device.type == "cpu":
        together = min(together, max(1, _SMALL_WINDOW // math.prod(patch)))
    starts = window_starts(shape, patch, inference.overlap, axis)
    following = [*list(starts)[1:], shape[axis]]
    for (low, corners), upcoming in zip(starts.items(), following, strict=True):
        begin = [(low if i == axis else 0) - o for i, o in enumerate(offset)]
        band = prepared.image_patch(begin, slab)
        places = [_region([0 if i == axis else c for i, c in enumerate(corner)], patch) for corner in corners]
        different = _different(band, places)
        for take_turn in turns or (None,):
            if take_turn is not None:
                take_turn()
            for first in range(0, len(different), together):
                group = different[first : first + together]
                if check is not None:
                    for _ in itertools.chain(*group):
                        check()
                into = [[sums[:, *place] for place in same] for same in group]
                _add(network, [band[same[0]] for same in group], into, weights, inference)
            for place in places:
                counts[place] += weights
        done = upcoming - low
        first, last = max(0, inside[axis].start - low), min(done, inside[axis].stop - low)
        for start in range(first, last, _PLANES[axis]):
            part = list(inside)
            part[axis] = slice(start, min(start + _PLANES[axis], last))
            mean = (sums[:, *part] / counts[*part]).movedim(axis + 1, 0).contiguous()
            if unlearned:
                channels = sorted(unlearned)
                mean[:, 0] += mean[:, channels].sum(dim=1)
                mean[:, channels] = 0
            yield from mean
        _shift(sums, done, axis)
        _shift(counts[None], done, axis)


def _different(band: Float[np.ndarray, "x y z"], places: list[GridRegion]) -> list[list[GridRegion]]:
    """Places whose windows are the same throughout, as in the air around a body, together; others by themselves."""
    found: dict[object, list[GridRegion]] = {}
    for number, place in enumerate(places):
        window = band[place]
        value = window[0, 0, 0]
        found.setdefault(("all", float(value)) if (window == value).all() else number, []).append(place)
    return list(found.values())


def _add(
    network: Callable[[Tensor], Tensor],
    windows: list[Float[np.ndarray, "x y z"]],
    sums: list[list[Float[Tensor, "class x y z"]]],
    weights: Float[Tensor, "x y z"],
    inference: InferenceSettings,
) -> None:
    """Add to the sums of each window, all of them, its probabilities, by the network's softmax, times the weights.

    With `mirror` they are the mean over all eight reflections.
    """
    batch = torch.from_numpy(np.stack(windows))[:, None].to(weights.device)
    mirrors = _MIRRORS if inference.mirror else [()]
    weights = weights / len(mirrors) if inference.mirror else weights
    for axes in mirrors:
        flipped = [axis + 1 for axis in axes]
        logits = network(batch.flip(flipped) if axes else batch)
        for one, places in zip(logits, sums, strict=True):
            for into in places:
                _add_shares(one.flip(axes) if axes else one, into, weights)


def _add_shares(
    logits: Float[Tensor, "class x y z"], into: Float[Tensor, "class x y z"], weights: Float[Tensor, "x y z"]
) -> None:
    """Add softmax times weights, some slices at a time on a CPU: each is read from memory and written there once."""
    classes, x, y, z = logits.shape
    slices = x if logits.device.type != "cpu" else min(x, max(1, _AT_ONCE // (classes * y * z)))
    # Two places that are used again for every slice: fresh memory costs more than what is computed in it.
    shares, one = logits.new_empty((classes, slices, y, z), dtype=torch.float32), into.new_empty((slices, y, z))
    for first in range(0, x, slices):
        part = slice(first, min(first + slices, x))
        if part.stop - first < slices:
            shares, one = shares[:, : part.stop - first], one[: part.stop - first]
        shares.copy_(logits[:, part])
        torch.amax(shares, dim=0, out=one)
        shares.sub_(one).exp_()
        torch.sum(shares, dim=0, out=one)
        torch.div(weights[part], one, out=one)
        into[:, part].addcmul_(shares, one)


def _shift(slab: Float[Tensor, "class x y z"], by: int, axis: int) -> None:
    """Shift a slab by some planes, class by class: all at once would need a second slab."""
    kept = slab.shape[axis + 1] - by
    for one in slab:
        one.narrow(axis, 0, kept).copy_(one.narrow(axis, by, kept).clone())
    slab.narrow(axis + 1, kept, by).zero_()


def _region(begin: Sequence[int], size: Triple) -> GridRegion:
    x, y, z = (slice(low, low + side) for low, side in zip(begin, size, strict=True))
    return x, y, z


def _triple(numbers: Iterable[int]) -> Triple:
    x, y, z = numbers
    return x, y, z
