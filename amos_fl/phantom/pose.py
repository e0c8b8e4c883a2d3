"""Where a patient lies in a scanner: from a scan's voxels to the patient's own coordinates.

Patient coordinates, in mm: +x to the patient's left, +y to the back, +z towards the feet, the origin in the
middle of the body at the height of the right dome of the diaphragm. A posture turns and scales them, and a few
long sine waves bend them (scoliosis, and the unevenness of living shapes). The waves are products of
functions of one voxel index each, so that they cost little on any grid, oblique ones included.
"""

from dataclasses import dataclass

import numpy as np

Slices = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Pose:
    """p = matrix @ world + shift + sum of waves, world in RAS mm.

    Wave m moves the patient coordinate `axis[m]` by `height_mm[m] * sin(wave[m] . world + phase[m])`.
    """

    matrix: np.ndarray  # (3, 3)
    shift: np.ndarray  # (3,)
    wave: np.ndarray  # (m, 3), radians per mm
    axis: np.ndarray  # (m,)
    height_mm: np.ndarray  # (m,)
    phase: np.ndarray  # (m,)

    def to_patient(self, world: np.ndarray) -> np.ndarray:
        """Patient coordinates (n, 3) of world points (n, 3)."""
        moved = world @ self.matrix.T + self.shift
        waves = self.height_mm * np.sin(world @ self.wave.T + self.phase)  # (n, m)
        return moved + waves @ (self.axis[:, None] == np.arange(3))

    def to_world(self, patient: np.ndarray) -> np.ndarray:
        """World points (n, 3) of patient coordinates (n, 3), by fixed-point iteration."""
        inverse = np.linalg.inv(self.matrix)
        world = (patient - self.shift) @ inverse.T
        for _ in range(6):
            world = world - (self.to_patient(world) - patient) @ inverse.T
        return world

    def reach_mm(self, half_mm: np.ndarray) -> np.ndarray:
        """How far (n, 3) the waves may move points of patient-space boxes with half sides `half_mm` (n, 3)."""
        height = np.abs(self.height_mm)
        # 1.2: a bound on how much larger than in patient space the box is in the world, scales and tilts included.
        steep = height * (half_mm * 1.2 @ np.abs(self.wave).T)  # (n, m)
        return np.minimum(steep, 2 * height) @ (self.axis[:, None] == np.arange(3))


def voxel_boxes(
    pose: Pose, affine: np.ndarray, start: int, shape: tuple[int, int, int], low: np.ndarray, high: np.ndarray
) -> list[Slices | None]:
    """Per patient-space box from `low` to `high` (n, 3): the voxels that may lie in it (a superset), or None.

    Voxels count from plane `start` of the grid, within `shape` (z, y, x); so do the slices.
    """
    middle, half = (low + high) / 2, (high - low) / 2
    to_voxel = np.linalg.inv(affine)
    centre = pose.to_world(middle) @ to_voxel[:3, :3].T + to_voxel[:3, 3]
    reach = pose.reach_mm(half)
    spread = np.abs(np.linalg.inv(pose.matrix @ affine[:3, :3]))
    extent = (half + reach + pose.reach_mm(reach)) @ spread.T
    first = np.array([0, 0, start])
    begin = np.maximum(np.floor(centre - extent).astype(int) - first, 0)
    end = np.minimum(np.ceil(centre + extent).astype(int) + 1 - first, shape[::-1])
    return [_slices(b, e) for b, e in zip(begin.tolist(), end.tolist(), strict=True)]


class Slab:
    """A block of a scan's voxels with their patient coordinates.

    Arrays are (z, y, x) in voxel axes, C order, so that the transposed volume is what NIfTI stores.
    `x`, `y`, `z` hold patient coordinates in mm, float32.
    """

    def __init__(self, pose: Pose, affine: np.ndarray, start: int, shape: tuple[int, int, int]):
        """`shape` is (planes, rows, columns) = (z, y, x) voxels, beginning at plane `start`."""
        self.pose, self.affine, self.start, self.shape = pose, affine, start, shape
        index = [np.arange(n, dtype=np.float64) for n in shape[::-1]]  # x, y, z
        index[2] = index[2] + start
        linear = pose.matrix @ affine[:3, :3]
        offset = pose.matrix @ affine[:3, 3] + pose.shift
        coordinates = []
        for axis in range(3):
            plane = (linear[axis, 2] * index[2] + offset[axis])[:, None] + linear[axis, 1] * index[1]
            row = linear[axis, 0] * index[0]
            coordinates.append(plane.astype(np.float32)[:, :, None] + row.astype(np.float32))
        work = np.empty(shape, np.float32)
        for k, axis, height, phase in zip(pose.wave, pose.axis, pose.height_mm, pose.phase, strict=True):
            per_voxel = k @ affine[:3, :3]
            start_phase = k @ affine[:3, 3] + phase
            plane = (per_voxel[2] * index[2] + start_phase)[:, None] + per_voxel[1] * index[1]
            row = per_voxel[0] * index[0]
            # sin(a + b) = sin a cos b + cos a sin b
            np.multiply(
                (height * np.sin(plane)).astype(np.float32)[:, :, None], np.cos(row).astype(np.float32), out=work
            )
            coordinates[axis] += work
            np.multiply(
                (height * np.cos(plane)).astype(np.float32)[:, :, None], np.sin(row).astype(np.float32), out=work
            )
            coordinates[axis] += work
        self.x, self.y, self.z = coordinates

    def boxes(self, low: np.ndarray, high: np.ndarray) -> list[Slices | None]:
        """`voxel_boxes` of this slab."""
        return voxel_boxes(self.pose, self.affine, self.start, self.shape, low, high)

    def box(self, low: np.ndarray, high: np.ndarray) -> Slices | None:
        """The voxels that may lie in the patient-space box from `low` to `high` (3,)."""
        return self.boxes(low[None], high[None])[0]


def _slices(begin: list[int], end: list[int]) -> Slices | None:
    if any(b >= e for b, e in zip(begin, end, strict=True)):
        return None
    return (slice(begin[2], end[2]), slice(begin[1], end[1]), slice(begin[0], end[0]))
