"""Turn class probabilities on the network's grid into a label map on the scan's own grid."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Integer, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from amos_fl.prepared.store import Geometry
from amos_fl.volumes.nifti import from_canonical
from amos_fl.volumes.plan import Triple


@dataclass
class Certainty:
    """Sums over a scan's voxels by class: the voxels that it won, and its probability in them."""

    voxels: Float[np.ndarray, " class"]
    won: Float[np.ndarray, " class"]

    @classmethod
    def of(cls, classes: int) -> "Certainty":
        """Sums over no voxels yet."""
        return cls(*np.zeros((2, classes)))

    def add(self, winner: Integer[np.ndarray, "u v"], share: Float[np.ndarray, "u v"]) -> None:
        """Add a plane: the class that won in each voxel, and its probability."""
        number = len(self.voxels)
        self.voxels += np.bincount(winner.ravel(), minlength=number)
        self.won += np.bincount(winner.ravel(), weights=share.ravel(), minlength=number)

    def means(self) -> dict[int, float]:
        """The mean probability of every class that won a voxel, in the voxels that it won."""
        return {int(one): float(self.won[one] / self.voxels[one]) for one in np.flatnonzero(self.voxels)}


def restore(
    planes: Iterable[Float[Tensor, "class u v"]],
    axis: int,
    shape: Triple,
    geometry: Geometry,
    organs: Sequence[int],
    probabilities: UInt8[np.ndarray, "x y z class"] | None = None,
    certainty: Certainty | None = None,
) -> UInt8[np.ndarray, "x y z"]:
    """The label map on the scan's own grid and in its file's orientation, from planes along one axis.

    Probabilities are interpolated linearly along the axis and bilinearly in the plane, with the voxel-extent
    convention of `amos_fl.volumes.resample`, and the argmax is taken on the scan's grid; class i >= 1 is
    `organs[i - 1]`. Everything outside the crop is background. Only two planes are held at a time.

    Args:
        planes: as many as `shape[axis]`, each (1 + organs, u, v): the shape along the two other axes.
        shape: of the prepared case, (x, y, z).
        probabilities: if given, filled with the probabilities of which the argmax is taken, in steps of 1/255, on the
            same grid as the result but in canonical voxel order. Everything outside the crop is background.
        certainty: if given, the probabilities are added to it.
    """
    values = np.array([0, *organs], dtype=np.uint8)
    # Planes along z are contiguous: they are written one by one, and NIfTI stores them so.
    whole = np.zeros(geometry.shape, dtype=np.uint8, order="F")
    size = geometry.crop_shape
    in_plane = tuple(side for i, side in enumerate(size) if i != axis)
    where: list[slice | int] = [slice(low, high) for low, high in geometry.crop]
    if probabilities is not None:
        probabilities[..., 0] = 255
    source = iter(planes)
    taken = -1
    lower = upper = torch.empty(0)
    for plane in range(size[axis]):
        position = min(max((plane + 0.5) * shape[axis] / size[axis] - 0.5, 0.0), shape[axis] - 1.0)
        first = int(position)
        while taken < min(first + 1, shape[axis] - 1):
            lower, upper, taken = upper, next(source), taken + 1
        share = position - first
        # At the last plane there is none above, so `upper` is the plane itself.
        mixed = upper if first == taken else lower if share == 0 else torch.lerp(lower, upper, share)
        if mixed.shape[1:] != in_plane:
            mixed = interpolate(mixed[None], size=in_plane, mode="bilinear", align_corners=False)[0]
        highest = mixed.max(dim=0)  # three times as fast as argmax on a CPU
        classes = highest.indices.cpu().numpy()
        where[axis] = geometry.crop[axis][0] + plane
        whole[*where] = values[classes]
        if certainty is not None:
            certainty.add(classes, highest.values.cpu().numpy())
        if probabilities is not None:
            steps = (mixed * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
            probabilities[*where] = steps
    return np.asfortranarray(from_canonical(whole, np.array(geometry.orientation)))
