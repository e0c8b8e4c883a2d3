"""The Dice similarity coefficient (DSC): the overlap of two masks."""

import numpy as np
from jaxtyping import Bool


def dsc(prediction: Bool[np.ndarray, "x y z"], reference: Bool[np.ndarray, "x y z"]) -> float:
    """Twice the shared voxels over the sum of both masks' voxels (Dice, 1945); NaN if both are empty.

    >>> a, b = np.zeros((2, 4, 4, 4), bool)
    >>> a[0], b[:2] = True, True
    >>> round(dsc(a, b), 4)  # 2 * 16 / (16 + 32)
    0.6667
    """
    voxels = int(np.count_nonzero(prediction)) + int(np.count_nonzero(reference))
    if voxels == 0:
        return float("nan")
    return 2 * int(np.count_nonzero(prediction & reference)) / voxels
