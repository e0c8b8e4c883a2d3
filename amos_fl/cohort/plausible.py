"""Signs that something is wrong with a scan or its label map: HU, volumes, loose pieces.

Nothing here proves a fault, so each function returns sentences for a person to judge.
"""

from dataclasses import dataclass

import cc3d
import numpy as np

from amos_fl.cohort.table import Modality
from amos_fl.volumes.nifti import voxel_counts

PLAUSIBLE_ML: dict[str, tuple[float, float]] = {
    "spleen": (20, 2500),
    "right kidney": (10, 1000),
    "left kidney": (10, 1500),
    "gall bladder": (0.5, 400),
    "esophagus": (1, 120),
    "liver": (400, 7000),
    "stomach": (10, 2500),
    "aorta": (15, 600),
    "inferior vena cava": (10, 300),
    "pancreas": (8, 350),
    "right adrenal gland": (0.3, 25),
    "left adrenal gland": (0.3, 25),
    "duodenum": (8, 350),
    "bladder": (3, 2500),
    "prostate/uterus": (2, 600),
}
"""Volumes in ml outside which a person should look: the range over AMOS's 200 training CTs plus a margin."""

SPECK_ML = 0.1
"""Pieces below this are counted only: AMOS's own labels hold 8,768 of them."""

_AIR_BELOW_HU = -300.0
_ORGANS_HU = (-30.0, 350.0)
_SAMPLED_VOXELS = 2_000_000


@dataclass(frozen=True)
class Pieces:
    """Loose pieces of at least `SPECK_ML` as (organ, count, total ml), and the number of smaller ones."""

    loose: tuple[tuple[str, int, float], ...]
    specks: int


def intensity_concerns(image: np.ndarray, label: np.ndarray | None, modality: Modality) -> list[str]:
    """Concerns about the voxel values of a scan (x, y, z): a single value, or CT values that are not Hounsfield units.

    >>> intensity_concerns(np.full((4, 4, 4), 7.0), None, "MR")
    ['all voxels of the scan have one value']
    """
    step = max(1, round((image.size / _SAMPLED_VOXELS) ** (1 / 3)))
    sampled = (slice(None, None, step),) * 3
    values = image[sampled]
    low, high = (float(value) for value in np.percentile(values, (0.5, 99.5)))
    if values.min() == values.max() and image.min() == image.max():
        return ["all voxels of the scan have one value"]
    if modality != "CT":
        return []
    if low > _AIR_BELOW_HU:
        return [f"not in HU? 99% of the voxels lie between {low:.4g} and {high:.4g}, and air would be near -1000"]
    if label is not None:
        organs = values[label[sampled] > 0]
        if organs.size and not _ORGANS_HU[0] <= (median := float(np.median(organs))) <= _ORGANS_HU[1]:
            return [f"not in HU, or the label lies elsewhere? the labelled organs have a median of {median:.4g}"]
    return []


def volume_concerns(
    label: np.ndarray, voxel_ml: float, organs: dict[int, str], counts: np.ndarray | None = None
) -> list[str]:
    """Organs of a label map (x, y, z) whose volume is outside `PLAUSIBLE_ML`; `counts` as `voxel_counts` gives them.

    An organ that touches the border of the scan is cut off by it, so it cannot be too small.
    """
    counts = voxel_counts(label) if counts is None else counts
    faces = [label[end] for end in (0, -1)] + [label[:, end] for end in (0, -1)] + [label[..., end] for end in (0, -1)]
    at_border = {int(value) for face in faces for value in np.unique(face)}
    concerns = []
    for value, organ in organs.items():
        volume_ml = float(counts[value]) * voxel_ml
        least, most = PLAUSIBLE_ML.get(organ.casefold(), (0.0, np.inf))
        if volume_ml > most or (0 < volume_ml < least and value not in at_border):
            concerns.append(f"{organ} of {volume_ml:.3g} ml (usual: {least:g} to {most:g} ml)")
    return concerns


def pieces_of(label: np.ndarray, voxel_ml: float, organs: dict[int, str]) -> Pieces:
    """The pieces of each organ besides its largest, in a label map (x, y, z); corner contact connects voxels."""
    found = [np.flatnonzero(label.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    if not found[0].size:
        return Pieces((), 0)
    # In the order that it has in memory: another takes longer to make than the pieces to find.
    order = "F" if abs(label.strides[0]) < abs(label.strides[2]) else "C"
    label = np.array(label[tuple(slice(int(axis[0]), int(axis[-1]) + 1) for axis in found)], order=order)
    pieces, count = cc3d.connected_components(label, connectivity=26, return_N=True)
    organ_of_piece = np.zeros(count + 1, dtype=np.uint8)
    values, pieces = label.ravel(order=order), pieces.ravel(order=order)
    inside = np.flatnonzero(values)
    values, pieces = values[inside], pieces[inside]
    organ_of_piece[pieces] = values
    piece_ml = np.bincount(pieces, minlength=count + 1) * voxel_ml
    loose: list[tuple[str, int, float]] = []
    specks = 0
    for value, organ in organs.items():
        beside_largest = np.sort(piece_ml[1:][organ_of_piece[1:] == value])[:-1]
        large = beside_largest[beside_largest >= SPECK_ML]
        specks += len(beside_largest) - len(large)
        if len(large):
            loose.append((organ, len(large), float(large.sum())))
    return Pieces(tuple(loose), specks)
