"""The scores of one case: DSC, NSD and volumes per organ, on the scan's own grid.

The presence rule: an organ that neither the prediction nor the reference has is `absent` and does not count
(NaN); one that only the reference has is `missed`, one that only the prediction has is `hallucinated`, and
both score 0.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Integer
from scipy import ndimage

from amos_fl.errors import AmosError
from amos_fl.metrics.overlap import dsc
from amos_fl.metrics.surface import checked_spacing, checked_tolerance, nsd_of_crops

Outcome = Literal["scored", "missed", "hallucinated", "absent"]
BothEmpty = Literal["excluded", "one"]


@dataclass(frozen=True)
class OrganScore:
    """One organ in one case. `dsc` and `nsd` lie between 0 and 1, or are NaN where the organ does not count."""

    dsc: float
    nsd: float
    outcome: Outcome
    reference_ml: float
    predicted_ml: float


def score_case(
    prediction: Integer[np.ndarray, "x y z"],
    reference: Integer[np.ndarray, "x y z"],
    spacing_mm: Sequence[float],
    organs: Iterable[int],
    tolerance_mm: float | Mapping[int, float] = 1.0,
    *,
    both_empty: BothEmpty = "excluded",
) -> dict[int, OrganScore]:
    """Score the label map of a case against its reference, on the scan's own grid.

    Args:
        prediction: label values, in the same axis order as `spacing_mm`.
        reference: label values on the same grid.
        organs: the label values that were annotated in this case; others are not looked at.
        tolerance_mm: of the NSD, one for all organs or one per organ.
        both_empty: what an organ scores that neither map has: nothing (`excluded`), or 1 (`one`, as in FLARE).

    Raises:
        AmosError: maps of different shapes, or a spacing, tolerance or label value that is none.
    """
    if prediction.shape != reference.shape or prediction.ndim != 3:
        raise AmosError(
            f"the prediction is {prediction.shape}, the reference {reference.shape}; they must share one 3D grid"
        )
    organs = sorted(set(organs))
    if organs and organs[0] < 1:
        raise AmosError(f"{organs[0]} is no organ's label value; they are 1 or more, 0 is the background")
    spacing = checked_spacing(spacing_mm)
    voxel_ml = spacing[0] * spacing[1] * spacing[2] / 1000
    absent = 1.0 if both_empty == "one" else float("nan")
    boxes = [ndimage.find_objects(labels, max_label=max(organs, default=1)) for labels in (prediction, reference)]
    scores = {}
    for organ in organs:
        tolerance = tolerance_mm[organ] if isinstance(tolerance_mm, Mapping) else tolerance_mm
        tolerance = checked_tolerance(tolerance)
        box = _around([found[organ - 1] for found in boxes])
        if box is None:
            scores[organ] = OrganScore(absent, absent, "absent", 0.0, 0.0)
            continue
        predicted, real = prediction[box] == organ, reference[box] == organ
        predicted_ml, reference_ml = (int(np.count_nonzero(mask)) * voxel_ml for mask in (predicted, real))
        if predicted_ml == 0 or reference_ml == 0:
            outcome = "missed" if predicted_ml == 0 else "hallucinated"
            scores[organ] = OrganScore(0.0, 0.0, outcome, reference_ml, predicted_ml)
            continue
        scores[organ] = OrganScore(
            dsc(predicted, real),
            nsd_of_crops(predicted, real, spacing, tolerance),
            "scored",
            reference_ml,
            predicted_ml,
        )
    return scores


def _around(boxes: Sequence[tuple[slice, ...] | None]) -> tuple[slice, ...] | None:
    found = [box for box in boxes if box is not None]
    if not found:
        return None
    return tuple(
        slice(min(side.start for side in sides), max(side.stop for side in sides)) for sides in zip(*found, strict=True)
    )
