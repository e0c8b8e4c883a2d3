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
    from matplotlib.path import Path as Polygon

    once = {contour.tobytes(): contour for contour in contours}  # drawn twice, it would cancel itself out
    points = np.concatenate(list(once.values()))
    last = np.array([size[1] - 1, size[0] - 1])
    # Bounded first: far away points are no whole numbers that a pixel could have.
    low = np.floor(np.clip(points.min(axis=0), -1, last + 1)).astype(int).clip(0)
    high = np.minimum(np.ceil(np.clip(points.max(axis=0), -1, last + 1)).astype(int), last)
    if (low > high).any():
        return None
    columns, rows = np.meshgrid(np.arange(low[0], high[0] + 1), np.arange(low[1], high[1] + 1))
    centres = np.column_stack([columns.ravel(), rows.ravel()]).astype(float)
    mask = np.zeros(len(centres), dtype=bool)
    crossing = False
    for shift in _SHIFTS:
        inside = [Polygon(contour).contains_points(centres + shift) for contour in once.values()]
        mask |= np.logical_xor.reduce(inside)
        crossing = crossing or _cross(inside)
    return Filled(int(low[1]), int(low[0]), mask.reshape(rows.shape), crossing) if mask.any() else None


def _cross(inside: Sequence[np.ndarray]) -> bool:
    for i, one in enumerate(inside):
        for other in inside[i + 1 :]:
            both = np.count_nonzero(one & other)
            if both and both not in (np.count_nonzero(one), np.count_nonzero(other)):
                return True
    return False
