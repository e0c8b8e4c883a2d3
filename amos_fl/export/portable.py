"""Predict a scan with an exported network, as `amos-fl predict` does.

`amos_fl.export.gather` copies this and all that it uses into every export, so it takes plain arrays and numbers.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from nibabel import orientations
from torch import Tensor

from amos_fl.errors import AmosError
from amos_fl.inference.restore import restore
from amos_fl.inference.windows import InMemory, finished_planes, slab_axis
from amos_fl.prepared.image import prepare_image
from amos_fl.prepared.store import Geometry
from amos_fl.volumes.nifti import Volume, orientation_of
from amos_fl.volumes.plan import Triple

MODALITIES = ("CT", "MR")


@dataclass(frozen=True)
class PortableNetwork:
    """What an export says about its network, beside the weights.

    `organs` are the label values of channels 1 and up, `unlearned` the channels that count as background. `plan` has
    the settings of preparation and `inference` those of the windows, by the names that a run's network.json gives them.
    """

    organs: tuple[int, ...]
    unlearned: tuple[int, ...]
    plan: Any
    inference: Any

    @classmethod
    def read(cls, about: Mapping[str, Any]) -> "PortableNetwork":
        """From the JSON of an export."""
        return cls(
            tuple(sorted(int(label) for label in about["organs"])),  # JSON's keys are words, and 10 comes before 2
            tuple(about["unlearned_channels"]),
            SimpleNamespace(**about["preparation"]),
            SimpleNamespace(**about["inference"]),
        )

    @property
    def patch(self) -> Triple:
        """The shape of a window (x, y, z)."""
        x, y, z = self.plan.patch
        return (x, y, z)

    def axis(self, image_shape: Sequence[int]) -> int:
        """The axis along which planes come of a prepared image (x, y, z)."""
        x, y, z = (int(side) for side in image_shape)
        return slab_axis((x, y, z), self.patch)


def prepared(
    scan: Volume, modality: str | None, recipe: PortableNetwork
) -> tuple[Float[np.ndarray, "x y z"], Int[np.ndarray, "3 6"]]:
    """The image that the windows are cut from, and what it takes to come back to the scan's grid.

    The image is padded with air to the shape of a window. The grid has one row per axis: the sides of the scan in
    canonical order, the lower and upper end of the crop, the side of the crop at the network's spacing, and the axis
    and flip of the file's own order.

    Raises:
        AmosError: no modality, too large for this machine's memory, or an MR scan without contrast.
    """
    if modality not in MODALITIES:
        raise AmosError("say whether the scans are CT or MR, which are normalised differently: --modality CT (or MR)")
    found = prepare_image(scan, modality, recipe.plan, "the scan")
    grid = [
        [side, *crop, size, *turned]
        for side, crop, size, turned in zip(
            found.geometry.shape, found.geometry.crop, found.image.shape, found.geometry.orientation, strict=True
        )
    ]
    missing = [max(0, side - size) for side, size in zip(recipe.patch, found.image.shape, strict=True)]
    ends = [(more // 2, more - more // 2) for more in missing]
    return np.pad(found.image, ends, constant_values=found.normalisation.padding), np.array(grid, dtype=np.int64)


def affine_of(image_shape: Sequence[int], grid: np.ndarray, affine: np.ndarray) -> Float[np.ndarray, "4 4"]:
    """The affine, to mm, of what `prepared` returned of a scan with this affine."""
    shape, low, high, size = grid[:, :4].T
    file_shape = [int(shape[axis]) for axis, _ in orientation_of(affine).astype(int)]
    step = (high - low) / size
    into_canonical = np.diag([*step, 1.0])
    into_canonical[:3, 3] = low + (0.5 - (np.asarray(image_shape) - size) // 2) * step - 0.5
    return affine @ orientations.inv_ornt_aff(orientation_of(affine), file_shape) @ into_canonical


def class_planes(
    image: Float[Tensor, "x y z"], network: Callable[[Tensor], Tensor], recipe: PortableNetwork
) -> Iterator[Float[Tensor, "class u v"]]:
    """The class probabilities of a prepared image, plane by plane along its axis; windows go to its device."""
    return finished_planes(
        network,
        InMemory(image.cpu().numpy()),
        recipe.patch,
        1 + len(recipe.organs),
        axis=recipe.axis(image.shape),
        device=image.device,
        inference=recipe.inference,
        check=None,
        unlearned=recipe.unlearned,
    )


def label_map(
    planes: Iterable[Float[Tensor, "class u v"]], image_shape: Sequence[int], grid: np.ndarray, recipe: PortableNetwork
) -> UInt8[np.ndarray, "x y z"]:
    """The label map on the scan's own grid and in its file's orientation, from the planes of a prepared image."""
    sides, lows, highs, (nx, ny, nz), axes, flips = grid.T.tolist()
    axis, shape = recipe.axis(image_shape), (nx, ny, nz)
    inside = [slice(int(n - m) // 2, int(n - m) // 2 + m) for n, m in zip(image_shape, shape, strict=True)]
    along = inside.pop(axis)
    crop_x, crop_y, crop_z = zip(lows, highs, strict=True)
    turned_x, turned_y, turned_z = zip(axes, flips, strict=True)
    geometry = Geometry(
        (sides[0], sides[1], sides[2]),
        (1.0, 1.0, 1.0),  # of no account for the way back
        (crop_x, crop_y, crop_z),
        (turned_x, turned_y, turned_z),
    )
    kept = (plane[:, *inside].contiguous() for plane in itertools.islice(planes, along.start, along.stop))
    with torch.inference_mode():
        return restore(kept, axis, shape, geometry, recipe.organs)


def predict_scan(
    scan: Volume,
    modality: str | None,
    network: Callable[[Tensor], Tensor],
    recipe: PortableNetwork,
    device: str = "cpu",
) -> UInt8[np.ndarray, "x y z"]:
    """The label map of a scan, on its own grid and in its file's orientation.

    Raises:
        AmosError: as `prepared`.
    """
    image, grid = prepared(scan, modality, recipe)
    planes = class_planes(torch.from_numpy(image).to(device), network, recipe)
    return label_map(planes, image.shape, grid, recipe)
