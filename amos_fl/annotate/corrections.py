"""Read a corrected label map from a viewer, check it against its scan, and measure it."""

import math
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from amos_fl.annotate.ledger import OrganChange
from amos_fl.cohort.table import Case
from amos_fl.errors import AmosError
from amos_fl.metrics.scores import score_case
from amos_fl.volumes.nifti import Volume, read_image, read_label, reconcile

SAVE_AGAIN = "open it in the viewer together with its scan, and save the segmentation again as NIfTI"

_SAME, _APART = 0.8, 0.1
"""DSC above which a label lies where another one was, and below which it does not lie where it was itself."""


def read_correction(path: Path, case: Case, organs: Collection[int]) -> Volume:
    """Read a correction onto its scan's grid, in the scan's orientation.

    Another orientation of the same grid and an affine that differs by rounding are corrected; anything else is refused.

    Raises:
        AmosError: not a readable label map, values that belong to no organ, or another grid; with the remedy.
    """
    scan = read_image(case.image)
    try:
        label = read_label(path, organs)
    except AmosError as error:
        remedy = SAVE_AGAIN  # the error's own remedy is for files of a cohort
        if error.code == "unknown-label-value":
            remedy = f"use the label values {_ranges(organs)} and 0 only, and save it again"
        raise AmosError(error.what, remedy, code=error.code) from None
    try:
        return reconcile(scan, label, path.name, ("the correction", "scan"))
    except AmosError as error:
        raise AmosError(error.what, f"the two must share a grid: {SAVE_AGAIN}") from None


def _ranges(organs: Collection[int]) -> str:
    """Label values in short form.

    >>> _ranges([1, 2, 3, 7])
    '1 to 3, 7'
    """
    runs: list[list[int]] = []
    for organ in sorted(organs):
        if runs and organ == runs[-1][-1] + 1:
            runs[-1].append(organ)
        else:
            runs.append([organ])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def changes(
    before: UInt8[np.ndarray, "x y z"],
    after: UInt8[np.ndarray, "x y z"],
    spacing_mm: Sequence[float],
    organs: Collection[int],
    tolerance_mm: float,
) -> dict[int, OrganChange]:
    """The change of each organ between two label maps of one scan: DSC, NSD, and volumes in ml."""
    voxel_ml = float(np.prod(np.asarray(spacing_mm))) / 1000
    found = {}
    for organ, score in score_case(before, after, spacing_mm, organs, tolerance_mm).items():
        differing = int(np.count_nonzero((before == organ) != (after == organ)))
        found[organ] = OrganChange(
            dsc=None if math.isnan(score.dsc) else round(score.dsc, 6),
            nsd=None if math.isnan(score.nsd) else round(score.nsd, 6),
            before_ml=round(score.predicted_ml, 3),
            after_ml=round(score.reference_ml, 3),
            changed_ml=round(differing * voxel_ml, 3),
        )
    return found


def changed_organs(before: UInt8[np.ndarray, "x y z"], after: UInt8[np.ndarray, "x y z"]) -> tuple[int, ...]:
    """The organs that gained or lost a voxel.

    >>> changed_organs(np.array([[[1, 2, 3]]], np.uint8), np.array([[[1, 0, 4]]], np.uint8))
    (2, 3, 4)
    """
    apart = before != after
    return tuple(int(o) for o in np.union1d(before[apart], after[apart]) if o)


def renumbered(before: UInt8[np.ndarray, "x y z"], after: UInt8[np.ndarray, "x y z"]) -> dict[int, int]:
    """Labels of `after` that lie where another label was in `before`: left by viewers that renumber segments.

    >>> before = np.repeat(np.array([[[1, 2, 4]]], np.uint8), 4, axis=0)
    >>> renumbered(before, np.repeat(np.array([[[1, 2, 3]]], np.uint8), 4, axis=0))
    {3: 4}
    """
    both = np.bincount(before.ravel().astype(np.intp) * 256 + after.ravel(), minlength=65536).reshape(256, 256)
    was, now = both.sum(axis=1), both.sum(axis=0)
    found = {}
    for label in np.flatnonzero(now):
        scores = 2 * both[:, label] / (was + now[label])
        scores[0] = 0
        other = int(scores.argmax())
        if label and other != label and scores[other] > _SAME and scores[label] < _APART:
            found[int(label)] = other
    return found
