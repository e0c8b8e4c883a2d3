"""The label map of a case, in the cohort's values: the one place where it is read."""

from collections.abc import Collection

import numpy as np

from amos_fl.cohort.table import Case
from amos_fl.errors import AmosError
from amos_fl.volumes.nifti import Volume, read_geometry, read_label, reconcile


def label_of(case: Case, organs: Collection[int]) -> Volume:
    """The label map of a case (uint8) in its file's own orientation; values are 0 or one of `organs`.

    Raises:
        AmosError: it has none, it cannot be read, or it holds a value that is no organ.
    """
    if case.label is None:
        raise AmosError(f"{case.case}: has no label map")
    return read_label(case.label, organs, case.label_values)


def reference_of(case: Case, organs: Collection[int]) -> Volume:
    """The label map of a case on the grid of its scan, in the file's orientation.

    Raises:
        AmosError: it has none, it cannot be read, or its grid is not the scan's.
    """
    if case.label is None:
        raise AmosError(f"{case.case}: has no label map")
    shape, affine = read_geometry(case.image)
    grid = Volume(np.broadcast_to(np.uint8(0), shape), affine)  # the grid alone; no voxel of the scan is read
    return reconcile(grid, label_of(case, {*organs, *case.annotated}), case.label.name)
