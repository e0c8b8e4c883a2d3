"""Closed contours as a mask, as the standard has them (DICOM PS3.3, C.8.8.6.3).

A voxel belongs to a structure where its centre does. Contours of one slice are combined by exclusive or, whether they
are called CLOSEDPLANAR_XOR or lie in one another as CLOSED_PLANAR; a keyhole's channel goes to and fro on one line.
Both are the even-odd rule, by which 3D Slicer and plastimatch fill contours, too. Points on a contour are part of the
structure, which matters where contours were drawn through the centres of voxels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

_ON_CONTOUR_PIXELS = 0.01
"""How far a centre may be from a contour that it lies on: coordinates are written with few decimals."""
_MOST_COMPARED = 100
"""How many contours of a slice are compared with each other: a person draws a few."""
_SHIFTS = _ON_CONTOUR_PIXELS * np.array([(1, 1), (1, -1), (-1, 1), (-1, -1)], dtype=float)


@dataclass(frozen=True)
class Filled:
    """What contours of one slice enclose: a mask (row, column) whose first pixel is at `row`, `column`.

    `crossing` tells that two contours overlap and neither lies in the other: what both enclose is then outside.
    """

    row: int
    column: int
    mask: Bool[np.ndarray, "row column"]
    crossing: bool = False


def filled(contours: Sequence[Float[np.ndarray, "point 2"]], size: tuple[int, int]) -> Filled | None:
    """Fill the contours of a slice of `size` rows and columns; points are (column, row), pixel centres whole numbers.

    None where they enclose no pixel of the slice.
    """
    once = {contour.tobytes(): contour for contour in contours}  # drawn twice, it would cancel itself out
    polygons = [one for contour in once.values() if (one := _Polygon.of(contour, size)) is not None]
    mask = np.zeros(size, dtype=bool)
    for shift in _SHIFTS:
        odd = np.zeros(size, dtype=bool)
        for polygon in polygons:
            odd[polygon.window] ^= polygon.inside(shift)
        mask |= odd
    if not mask.any():
        return None
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    window = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Filled(int(rows[0]), int(columns[0]), window, _cross(polygons, size))


@dataclass(frozen=True)
class _Polygon:
    """A contour, and the window of the slice that it can have pixels in."""

    points: np.ndarray
    window: tuple[slice, slice]

    @classmethod
    def of(cls, points: np.ndarray, size: tuple[int, int]) -> "_Polygon | None":
        last = np.array([size[1] - 1, size[0] - 1])
        # Bounded first: far away points are no whole numbers that a pixel could have.
        low = np.floor(np.clip(points.min(axis=0), -1, last + 1)).astype(int).clip(0)
        high = np.minimum(np.ceil(np.clip(points.max(axis=0), -1, last + 1)).astype(int), last)
        if (low > high).any():
            return None
        return cls(points, (slice(low[1], high[1] + 1), slice(low[0], high[0] + 1)))

    def inside(self, shift: np.ndarray) -> np.ndarray:
        """Which pixels of the window lie in it, if all are shifted by so much."""
        from matplotlib.path import Path as Polygon

        rows, columns = self.window
        x, y = np.meshgrid(np.arange(columns.start, columns.stop), np.arange(rows.start, rows.stop))
        centres = np.column_stack([x.ravel(), y.ravel()]) + shift
        return Polygon(self.points).contains_points(centres).reshape(x.shape)


def _cross(polygons: Sequence[_Polygon], size: tuple[int, int]) -> bool:
    """Whether two of them overlap, and neither lies in the other."""
    depth = np.zeros(size, dtype=np.int32)
    masks = [polygon.inside(_SHIFTS[0]) for polygon in polygons]
    for polygon, mask in zip(polygons, masks, strict=True):
        depth[polygon.window] += mask
    over = [(p, m) for p, m in zip(polygons, masks, strict=True) if (depth[p.window][m] > 1).any()]
    for i, (polygon, mask) in enumerate(over[:_MOST_COMPARED]):
        whole = np.zeros(size, dtype=bool)
        whole[polygon.window] = mask
        for other, its in over[:i]:
            both = np.count_nonzero(whole[other.window] & its)
            if both and both not in (np.count_nonzero(mask), np.count_nonzero(its)):
                return True
    return False
