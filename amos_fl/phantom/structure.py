"""One thing painted into the trunk: a shape, what it is made of, and what it pushes aside."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from amos_fl.phantom.frame import Region
from amos_fl.phantom.pose import Slab, Slices
from amos_fl.phantom.tissues import Tissue

ABDOMEN: tuple[int, ...] = (Region.ABDOMEN,)
TRUNK: tuple[int, ...] = (Region.ABDOMEN, Region.THORAX)
THORAX: tuple[int, ...] = (Region.THORAX,)


class Shape(Protocol):
    def field(self, slab: Slab, margin_mm: float) -> tuple[Slices, np.ndarray] | None: ...


@dataclass(frozen=True)
class Structure:
    """Painted over whatever was there before, so later structures are the stiffer ones.

    `label` 0 is unlabelled. `layers` are (depth in mm, tissue) from outside to inside. Within the deepest layer
    what lies above (in front of) `gas_front_of_mm` is gas. Around it a rim of `halo_mm` is cleared to fat, so that
    neighbours are parted by a fat plane. `only_in` limits it to voxels that carry that label, and it keeps it
    (vessels of the liver). `texture` says, from the coordinates and field of the shape's own voxels (n,), in which
    of them `texture_tissue` shows.
    """

    shape: Shape
    label: int
    tissue: Tissue
    where: tuple[int, ...] = ABDOMEN
    layers: tuple[tuple[float, Tissue], ...] = ()
    gas_front_of_mm: float | None = None
    halo_mm: float = 0.0
    only_in: int | None = None
    texture: Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray] | None = None
    texture_tissue: Tissue | None = None

    def paint(self, slab: Slab, region: np.ndarray, tissue: np.ndarray, label: np.ndarray) -> None:
        """Paint into `tissue` and `label` (uint8, the slab's shape) where `region` allows."""
        found = self.shape.field(slab, self.halo_mm)
        if found is None:
            return
        box, field_mm = found
        near = field_mm < self.halo_mm if self.halo_mm > 0 else field_mm < 0
        if not near.any():
            return
        space = region[box]
        allowed = space == self.where[0]
        for other in self.where[1:]:
            allowed |= space == other
        if self.only_in is not None:
            allowed &= label[box] == self.only_in
        near &= allowed
        tissues, labels = tissue[box], label[box]
        if self.halo_mm > 0:
            rim = near & (labels > 0)
            np.copyto(tissues, np.uint8(Tissue.FAT), where=rim)
            np.copyto(labels, np.uint8(0), where=rim)
            near &= field_mm < 0
        np.copyto(tissues, np.uint8(self.tissue), where=near)
        if self.only_in is None:
            np.copyto(labels, np.uint8(self.label), where=near)
        for depth_mm, inner in self.layers:
            deep = near & (field_mm < -depth_mm)
            np.copyto(tissues, np.uint8(inner), where=deep)
            if self.gas_front_of_mm is not None and depth_mm == self.layers[-1][0]:
                tissues[deep & (slab.y[box] < self.gas_front_of_mm)] = Tissue.GAS
        if self.texture is not None and self.texture_tissue is not None:
            at = np.nonzero(near)
            shown = self.texture(slab.x[box][at], slab.y[box][at], slab.z[box][at], field_mm[at])
            tissues[tuple(axis[shown] for axis in at)] = self.texture_tissue
