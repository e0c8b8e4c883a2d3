"""Check that a scan's voxels are plausible: finite, not all the same, and with more values than a label map."""

import numpy as np

from amos_fl.errors import AmosError

_LABEL_VALUES = 64
"""An array of whole numbers with at most this many values is taken for a label map: the coarsest scans have more."""


def check_voxels(array: np.ndarray, name: str) -> None:
    """Check that the values of an array (x, y, z) can be those of a scan.

    Raises:
        AmosError: values that are not finite, a single value, or as few whole numbers as a label map has.
    """
    if bad := int(array.size - np.isfinite(array).sum()):
        raise AmosError(f"{name}: {bad} voxels are not finite numbers", "repair or leave out this scan")
    if array.min() == array.max():
        raise AmosError(
            f"{name}: every voxel is {array.flat[0]:g}", "the scan is empty: fetch it again or leave it out"
        )
    if _label_like(array):
        raise AmosError(f"{name}: holds {len(np.unique(array))} whole numbers like a label map", "give the scan itself")


def _label_like(array: np.ndarray) -> bool:
    """Whether there are as few values as in a label map; for nearly all scans a sample of the voxels decides it."""
    sample = array.ravel(order="K")[:: max(1, array.size // 100_000)]
    if array.min() < 0 or len(np.unique(sample)) > _LABEL_VALUES:
        return False
    values = np.unique(array)
    return len(values) <= _LABEL_VALUES and bool((values == np.rint(values)).all())
