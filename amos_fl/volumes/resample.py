"""Resample a volume (x, y, z) to another spacing.

The grid's extent is kept, not its first voxel's centre: output voxel i of n lies at input coordinate
(i + 0.5) * (n_in / n) - 0.5, clamped at the edges, as in `scipy.ndimage.zoom(grid_mode=True,
mode="nearest")` and `torch.nn.functional.interpolate(align_corners=False)`. Along one axis this is a
sparse matrix, so a volume is resampled by one such product per axis: the same numbers as scipy's
three-dimensional zoom at a fraction of its time, on one thread.

As nnU-Net does (Isensee et al. 2021), a scan whose slices are more than three times as thick as its
pixels is interpolated with splines in the plane only and by nearest neighbour across slices.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from scipy import ndimage, sparse

from amos_fl.volumes.plan import ANISOTROPIC, Spacing, Triple

_SLAB = 32

# scipy's stubs lack the sparse arrays' two-dimensional shape, so the type checker sees them as `Any`.
Matrix = Any


def _csr(matrix: Any) -> Matrix:
    return sparse.csr_array(matrix, dtype=np.float32)


def resampled_shape(shape: Triple, spacing_mm: Spacing, target_mm: Spacing) -> Triple:
    """The shape of the same extent at the spacing `target_mm`.

    >>> resampled_shape((512, 512, 100), (0.7, 0.7, 5.0), (0.7, 0.7, 2.0))
    (512, 512, 250)
    """
    x, y, z = (max(1, round(n * s / t)) for n, s, t in zip(shape, spacing_mm, target_mm, strict=True))
    return (x, y, z)


@lru_cache(maxsize=64)
def axis_weights(size: int, target: int, order: int, smooth: bool = False) -> Matrix:
    """The matrix (target, size) that resamples one axis with splines of `order` 0, 1 or 3.

    With `smooth`, an axis that shrinks is blurred first, by a Gaussian of (shrinkage - 1) / 2 voxels (as
    scikit-image's `resize(anti_aliasing=True)`), so that noise of a fine scan doesn't alias into a coarse grid.
    """
    if size == target:
        return _csr(np.eye(size))
    columns = np.eye(size)
    sigma = max(0.0, (size / target - 1) / 2) if smooth else 0.0
    if sigma > 0.1:
        columns = ndimage.gaussian_filter1d(columns, sigma, axis=1, mode="nearest")
    weights = np.empty((target, size))
    for column, unit in enumerate(columns):
        weights[:, column] = ndimage.zoom(unit, target / size, order=order, grid_mode=True, mode="nearest")
    weights[np.abs(weights) < 1e-7] = 0.0  # a spline's influence falls by 0.27 per voxel but never ends
    weights /= weights.sum(axis=1, keepdims=True)
    return _csr(weights)


def apply_weights(array: np.ndarray, weights: tuple[Matrix, ...]) -> np.ndarray:
    """`array` (x, y, z) with one matrix of `axis_weights` applied per axis, as float32."""
    array = np.ascontiguousarray(array, dtype=np.float32)
    # The axis that shrinks most goes first, so that the others have less to do.
    for axis in sorted(range(3), key=lambda a: weights[a].shape[0] / weights[a].shape[1]):
        matrix = weights[axis]
        if _is_identity(matrix):
            continue
        array = _along(array, axis, matrix)
    return array


def _is_identity(matrix: Matrix) -> bool:
    rows, columns = matrix.shape
    if not rows == columns == matrix.nnz:
        return False
    return bool((matrix.data == 1).all() and (matrix.indices == np.arange(rows)).all())


def _along(array: np.ndarray, axis: int, matrix: Matrix) -> np.ndarray:
    shape = list(array.shape)
    shape[axis] = matrix.shape[0]
    result = np.empty(shape, dtype=np.float32)
    if axis == 0:
        for y in range(shape[1]):
            result[:, y] = matrix @ array[:, y]
    elif axis == 1:
        for x in range(shape[0]):
            result[x] = matrix @ array[x]
    else:
        for x in range(shape[0]):
            result[x] = (matrix @ array[x].T).T
    return result


def coarse_axis(spacing_mm: Spacing, target_mm: Spacing) -> int | None:
    """The axis across thick slices, of the scan or else of the target; None if both are nearly isotropic.

    >>> coarse_axis((0.7, 0.7, 5.0), (0.7, 0.7, 2.0))
    2
    >>> coarse_axis((0.7, 0.7, 1.25), (0.7, 0.7, 2.0)) is None
    True
    """
    for spacing in (spacing_mm, target_mm):
        if max(spacing) / min(spacing) > ANISOTROPIC:  # no splines across slices
            return int(np.argmax(spacing))
    return None


def _weights(shape: Triple, target: Triple, coarse: int | None, order: int, smooth: bool):
    return tuple(
        axis_weights(shape[a], target[a], 0 if a == coarse and target[a] >= shape[a] else order, smooth)
        for a in range(3)
    )


def resample_image(array: np.ndarray, spacing_mm: Spacing, target_mm: Spacing) -> np.ndarray:
    """A scan (x, y, z) at `target_mm`, with cubic splines, as float32 of `resampled_shape`.

    Thick slices that are to become thinner are repeated, not interpolated (see the module).
    """
    x, y, z = array.shape
    target = resampled_shape((x, y, z), spacing_mm, target_mm)
    weights = _weights((x, y, z), target, coarse_axis(spacing_mm, target_mm), 3, smooth=True)
    return apply_weights(array, weights)


def resample_label(array: np.ndarray, spacing_mm: Spacing, target_mm: Spacing) -> np.ndarray:
    """A label map (x, y, z) at `target_mm` as uint8: every voxel takes the label of the largest linear weight.

    That is the argmax of the linearly interpolated masks of all labels, background included (the lowest label wins a
    tie). It works in slabs of slices, so memory doesn't grow with the number of organs.
    """
    x, y, z = array.shape
    shape = (x, y, z)
    target = resampled_shape(shape, spacing_mm, target_mm)
    if target == shape:
        return np.array(array, dtype=np.uint8)
    weights = _weights(shape, target, coarse_axis(spacing_mm, target_mm), 1, smooth=False)
    result = np.zeros(target, dtype=np.uint8)
    for start in range(0, target[2], _SLAB):
        planes = weights[2][start : start + _SLAB]
        low, high = int(planes.indices.min()), int(planes.indices.max()) + 1
        slab = (weights[0], weights[1], _csr(planes[:, low:high]))
        result[:, :, start : start + _SLAB] = _largest(array[:, :, low:high], slab)
    return result


def _largest(labels: np.ndarray, weights: tuple[Matrix, ...]) -> np.ndarray:
    """The label with the largest weight; each organ is processed within the box that it can reach."""
    shape = tuple(matrix.shape[0] for matrix in weights)
    best = np.zeros(shape, dtype=np.float32)
    total = np.zeros(shape, dtype=np.float32)
    result = np.zeros(shape, dtype=np.uint8)
    for value, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        reached, parts = [], []
        for matrix, side in zip(weights, box, strict=True):
            part = _csr(matrix[:, side])
            rows = np.flatnonzero(np.diff(part.indptr))
            side_reached = slice(int(rows[0]), int(rows[-1]) + 1) if rows.size else slice(0, 0)
            reached.append(side_reached)
            parts.append(_csr(part[side_reached]))
        where = tuple(reached)
        if best[where].size == 0:
            continue
        share = apply_weights(labels[box] == value, tuple(parts))
        total[where] += share
        better = share > best[where]
        best[where][better] = share[better]
        result[where][better] = value
    result[best <= (1.0 - total) + 1e-6] = 0
    return result
