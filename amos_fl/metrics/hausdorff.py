"""The Hausdorff distance at 95 % (HD95): how far, in mm, the worst parts of a surface lie from the other one.

The surfaces are those of the NSD (`amos_fl.metrics.surface`) and the definition is that of DeepMind's
`surface-distance` 0.1, `compute_robust_hausdorff(..., percent=95)`: for each surface the smallest distance within
which 95 % of its area lies from the other, and the larger of the two. Only the computation differs: nearest corners
come from a tree of surface corners, not from a distance map of the whole box.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial import KDTree

from amos_fl.errors import AmosError
from amos_fl.metrics.surface import border_of, checked_spacing, joint_box, neighbour_codes, surface_areas
from amos_fl.volumes.plan import Spacing

PERCENT = 95
ROUNDING = 1e-6  # of an area's share: where exactly 95 % lie within a distance, it is that distance


def hd95(
    prediction: Bool[np.ndarray, "x y z"], reference: Bool[np.ndarray, "x y z"], spacing_mm: Sequence[float]
) -> float:
    """The distance in mm within which 95 % of either surface lies from the other; NaN if a mask is empty.

    Raises:
        AmosError: masks of different shapes, or an invalid spacing.

    >>> a, b = np.zeros((2, 8, 8, 8), bool)
    >>> a[2:6, 2:6, 2:4], b[2:6, 2:6, 2:7] = True, True
    >>> hd95(a, b, spacing_mm=(1, 1, 2)), hd95(a, a, (1, 1, 2)), hd95(a, a & ~a, (1, 1, 2))
    (6.0, 0.0, nan)
    """
    if prediction.shape != reference.shape:
        raise AmosError(
            f"the prediction is {prediction.shape}, the reference {reference.shape}; they must share a grid"
        )
    spacing = checked_spacing(spacing_mm)
    box = joint_box(prediction, reference)
    return float("nan") if box is None else hd95_of_crops(prediction[box], reference[box], spacing)


def hd95_of_crops(
    prediction: Bool[np.ndarray, "x y z"], reference: Bool[np.ndarray, "x y z"], spacing: Spacing
) -> float:
    """`hd95` of two masks already cropped to their joint box."""
    order = "F" if np.isfortran(reference) else "C"
    codes = [neighbour_codes(mask, (0, 0, 0), order) for mask in (prediction, reference)]
    borders = [border_of(code) for code in codes]
    if not all(border.any() for border in borders):
        return float("nan")
    area = surface_areas(spacing)
    return max(
        _within(area[codes[one][borders[one]]], _distances_mm(borders[one], borders[other], spacing))
        for one, other in ((0, 1), (1, 0))
    )


def _distances_mm(
    border: Bool[np.ndarray, "X Y Z"], other: Bool[np.ndarray, "X Y Z"], spacing: Spacing
) -> Float[np.ndarray, " n"]:
    """How far each corner of a surface lies from the other surface, in the order of `border`'s corners."""
    distances = np.zeros(int(np.count_nonzero(border)))
    apart = ~other[border]  # elsewhere both surfaces pass through the same corner
    if apart.any():
        corners, others = np.argwhere(border)[apart], np.argwhere(other)
        # A tree that is fast to build: it is queried once.
        tree = KDTree(others * np.array(spacing), balanced_tree=False, compact_nodes=False)
        nearest = others[tree.query(corners * np.array(spacing))[1]]
        # From integer steps, as in a distance transform, so that equal distances are equal numbers.
        along = (corners - nearest) * np.array(spacing)
        distances[apart] = np.sqrt(along[:, 0] ** 2 + along[:, 1] ** 2 + along[:, 2] ** 2)
    return distances


def _within(areas: Float[np.ndarray, " n"], distances_mm: Float[np.ndarray, " n"]) -> float:
    """The smallest distance within which `PERCENT` of the area lies."""
    nearest_first = np.lexsort((areas, distances_mm))
    share = np.cumsum(areas[nearest_first]) / np.sum(areas[nearest_first])
    place = min(int(np.searchsorted(share, PERCENT / 100 - ROUNDING)), len(distances_mm) - 1)
    return float(distances_mm[nearest_first[place]])
