"""What can be known of a prediction without a label: how sure the network is, and whether it draws the same again.

Measured on the phantom (docs/expected.md), confidence and agreement say nearly all of it. An organ's volume and place
compared with the training label maps, its pieces, and the distance of the scan's histogram added nothing to them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Integer, UInt8

from amos_fl.inference.copies import copy_of
from amos_fl.inference.restore import Certainty
from amos_fl.prepared.store import PreparedCase
from amos_fl.volumes.plan import Plan

AGREEMENT, CONFIDENCE = "agreement", "confidence"
_VALUES = 256
"""Of a label map's uint8."""


class Predict(Protocol):
    """`predict_case` with everything given but the case, as `drawing` makes it."""

    def __call__(
        self,
        prepared: PreparedCase,
        *,
        certainty: Certainty | None = None,
        probabilities: UInt8[np.ndarray, "x y z class"] | None = None,
    ) -> UInt8[np.ndarray, "x y z"]: ...


@dataclass(frozen=True)
class Judged:
    """A prediction (x, y, z) on its scan's own grid, and the features of each organ in it, by label value."""

    label: UInt8[np.ndarray, "x y z"]
    features: dict[int, dict[str, float]]


def judged(
    draw: Predict,
    prepared: PreparedCase,
    plan: Plan,
    organs: Sequence[int],
    copies: Sequence[str],
    probabilities: UInt8[np.ndarray, "x y z class"] | None = None,
) -> Judged:
    """Predict a case and its altered copies; `organs` are the label values of the network's channels.

    `confidence` is the mean probability of an organ in its voxels, `agreement` the mean DSC of the organ with the same
    organ of each copy, if there are copies. `probabilities` are filled as `predict_case` says.
    """
    certainty = Certainty.of(1 + len(organs))
    label = draw(prepared, certainty=certainty, probabilities=probabilities)
    found = certainty.means()
    features = {organ: {CONFIDENCE: found[i]} for i, organ in enumerate(organs, start=1) if i in found}
    drawn = [dsc_by_value(label, draw(copy_of(prepared, name, plan.spacing_mm))) for name in copies]
    for organ, known in features.items() if drawn else ():
        known[AGREEMENT] = math.fsum(of_copy[organ] for of_copy in drawn) / len(drawn)
    return Judged(label, features)


def dsc_by_value(one: UInt8[np.ndarray, "x y z"], other: UInt8[np.ndarray, "x y z"]) -> Mapping[int, float]:
    """The DSC of two label maps by value, of every value that one of them has.

    >>> dsc_by_value(np.array([[[0, 1, 1]]], np.uint8), np.array([[[1, 1, 2]]], np.uint8))
    {0: 0.0, 1: 0.5, 2: 0.0}
    """
    both = _counts(one[one == other])
    voxels = _counts(one) + _counts(other)
    return {int(value): float(2 * both[value] / voxels[value]) for value in np.flatnonzero(voxels)}


def _counts(values: UInt8[np.ndarray, "..."]) -> Integer[np.ndarray, " value"]:
    return np.bincount(values.ravel(order="K"), minlength=_VALUES)
