"""The normalised surface Dice (NSD): how much of two masks' surfaces lies within a tolerance of the other.

Nikolov et al., "Clinically applicable segmentation of head and neck anatomy for radiotherapy", 2021
(arXiv 1809.04430), with the surface elements of DeepMind's `surface-distance` 0.1: one element at every corner
of the voxel grid whose 2x2x2 neighbours are neither all inside nor all outside, its area that of the
marching-cubes triangles of this neighbourhood in mm^2. The values equal that package's; only the computation differs:
instead of computing distances, it checks, where possible, whether the other surface passes through one of the few grid
corners within the tolerance.
"""

import itertools
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from amos_fl.errors import AmosError
from amos_fl.volumes.plan import Spacing

MOST_OFFSETS = 1000  # beyond, a distance transform is about as fast


def nsd(
    prediction: Bool[np.ndarray, "x y z"],
    reference: Bool[np.ndarray, "x y z"],
    spacing_mm: Sequence[float],
    tolerance_mm: float = 1.0,
) -> float:
    """The share of both surfaces' area that lies within `tolerance_mm` of the other surface, between 0 and 1.

    NaN if both masks are empty, 0 if one is.

    Raises:
        AmosError: masks of different shapes, or an invalid spacing or tolerance.

    >>> a, b = np.zeros((2, 8, 8, 8), bool)
    >>> a[2:6, 2:6, 2:6], b[2:6, 2:6, 2:7] = True, True
    >>> nsd(a, b, spacing_mm=(1, 1, 2), tolerance_mm=2.0), nsd(a, a, (1, 1, 2), 0.0)
    (1.0, 1.0)
    >>> round(nsd(a, b, spacing_mm=(1, 1, 2), tolerance_mm=1.0), 4)
    0.9178
    """
    if prediction.shape != reference.shape:
        raise AmosError(
            f"the prediction is {prediction.shape}, the reference {reference.shape}; they must share a grid"
        )
    spacing = checked_spacing(spacing_mm)
    tolerance = checked_tolerance(tolerance_mm)
    box = joint_box(prediction, reference)
    if box is None:
        return float("nan")
    return nsd_of_crops(prediction[box], reference[box], spacing, tolerance)


def nsd_of_crops(
    prediction: Bool[np.ndarray, "x y z"], reference: Bool[np.ndarray, "x y z"], spacing: Spacing, tolerance_mm: float
) -> float:
    """`nsd` of two masks already cropped to their joint box; 0 if one is empty."""
    offsets = _offsets_within(spacing, tolerance_mm)
    margin = (0, 0, 0) if offsets is None else tuple(int(reach) for reach in np.abs(offsets).max(axis=0))
    order = "F" if np.isfortran(reference) else "C"  # the same for both: positions in one are looked up in the other
    codes = [neighbour_codes(mask, margin, order) for mask in (prediction, reference)]
    borders = [border_of(code) for code in codes]
    area = surface_areas(spacing)

    def surface_area(codes_there: np.ndarray) -> float:
        return float(np.bincount(codes_there, minlength=256) @ area)

    total = within = 0.0
    for code, border, other in ((codes[0], borders[0], borders[1]), (codes[1], borders[1], borders[0])):
        if offsets is None:
            there = code[border]
            near = _near_by_distance(border, other, spacing, tolerance_mm)
        else:
            flat_code = code.ravel(order="K")
            places = np.flatnonzero(border.ravel(order="K"))
            there = flat_code[places]
            near = _near_by_offsets(places, other.ravel(order="K"), offsets @ np.array(code.strides))
        total += surface_area(there)
        within += surface_area(there[near])
    return within / total if total else float("nan")


def checked_spacing(spacing_mm: Sequence[float]) -> Spacing:
    """A spacing, checked to be three positive numbers.

    Raises:
        AmosError: not three numbers, or one that is not positive.
    """
    spacing = tuple(float(s) for s in spacing_mm)
    if len(spacing) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing):
        raise AmosError(f"the spacing is {spacing} mm; it must be three positive numbers")
    return spacing[0], spacing[1], spacing[2]


def checked_tolerance(tolerance_mm: float) -> float:
    """A tolerance, checked to be a finite number of mm, 0 or more.

    Raises:
        AmosError: any other number.
    """
    if not (np.isfinite(tolerance_mm) and tolerance_mm >= 0):
        raise AmosError(f"the NSD's tolerance is {tolerance_mm} mm; it must be a number of mm, 0 or more")
    return float(tolerance_mm)


def joint_box(a: np.ndarray, b: np.ndarray) -> tuple[slice, ...] | None:
    """The smallest box (x, y, z) that holds both masks, None if both are empty."""
    box = []
    for axis in range(3):
        others = tuple(i for i in range(3) if i != axis)
        filled = np.flatnonzero(a.any(axis=others) | b.any(axis=others))
        if not len(filled):
            return None
        box.append(slice(int(filled[0]), int(filled[-1]) + 1))
    return tuple(box)


_known_areas: dict[Spacing, Float[np.ndarray, " 256"]] = {}


def surface_areas(spacing: Spacing) -> Float[np.ndarray, " 256"]:
    """Area in mm^2 of the surface in each of the 256 neighbourhoods of 2x2x2 voxels."""
    if spacing not in _known_areas:
        # Imported here because MONAI's metrics take seconds to import.
        from monai.metrics.utils import create_table_neighbour_code_to_surface_area

        _known_areas[spacing] = create_table_neighbour_code_to_surface_area(spacing)[0].double().numpy()
    return _known_areas[spacing]


def know_surface_areas(areas: Mapping[Spacing, Float[np.ndarray, " 256"]]) -> None:
    """Store a result of `surface_areas` from another process, so that this one need not import MONAI."""
    _known_areas.update(areas)


def border_of(codes: UInt8[np.ndarray, "X Y Z"]) -> Bool[np.ndarray, "X Y Z"]:
    """The surface: corners whose neighbours are neither all outside (0) nor all inside (255)."""
    return np.add(codes, np.uint8(1)) > 1


def neighbour_codes(
    mask: Bool[np.ndarray, "x y z"], margin: Sequence[int], order: Literal["C", "F"]
) -> UInt8[np.ndarray, "X Y Z"]:
    """Which of the 8 voxels around each corner of the grid are inside, one bit each.

    Corner (i, j, k) lies between voxels i-1 and i and so on; the bits are ordered as in the table of areas. The
    array has one corner more than voxels per axis, and `margin` empty ones on each side.
    """
    shape = [size + 1 + 2 * m for size, m in zip(mask.shape, margin, strict=True)]
    codes = np.zeros(shape, np.uint8, order=order)
    codes[tuple(slice(m, m + size) for size, m in zip(mask.shape, margin, strict=True))] = mask
    codes[:, :, 1:] |= codes[:, :, :-1] << 1
    codes[:, 1:] |= codes[:, :-1] << 2
    codes[1:] |= codes[:-1] << 4
    return codes


@lru_cache(maxsize=64)
def _offsets_within(spacing: Spacing, tolerance_mm: float) -> np.ndarray | None:
    """The steps (n, 3) between grid corners that are no longer than the tolerance, shortest first.

    None if there are too many, or if rounding decides: scipy's distance transform may take either of two equally near
    corners, and their computed distances may lie on both sides of the tolerance.
    """
    reach = [int(tolerance_mm / s * (1 + 1e-9)) for s in spacing]
    if np.prod([2.0 * r + 1 for r in reach]) > 2 * MOST_OFFSETS:
        return None
    steps = np.array(list(itertools.product(*(range(-r, r + 1) for r in reach))))
    along = steps * np.array(spacing)
    distance_mm = np.sqrt(along[:, 0] ** 2 + along[:, 1] ** 2 + along[:, 2] ** 2)  # in scipy's order of rounding
    inside = distance_mm <= tolerance_mm
    if np.count_nonzero(inside) > MOST_OFFSETS or np.any(distance_mm[~inside] <= tolerance_mm * (1 + 1e-9)):
        return None
    return steps[inside][np.argsort(distance_mm[inside], kind="stable")]


def _near_by_offsets(places: np.ndarray, other: Bool[np.ndarray, " n"], steps: np.ndarray) -> Bool[np.ndarray, " m"]:
    near = np.zeros(len(places), bool)
    left = np.arange(len(places))
    for step in steps:
        hit = other[places[left] + step]
        near[left[hit]] = True
        left = left[~hit]
    return near


def _near_by_distance(
    border: Bool[np.ndarray, "X Y Z"], other: Bool[np.ndarray, "X Y Z"], spacing: Spacing, tolerance_mm: float
) -> Bool[np.ndarray, " m"]:
    if not other.any():
        return np.zeros(int(np.count_nonzero(border)), bool)
    distance_mm = ndimage.distance_transform_edt(~other, sampling=spacing)
    return np.asarray(distance_mm)[border] <= tolerance_mm
