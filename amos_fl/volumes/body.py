"""Find the patient's body in a scan: the box outside which there is only air and table.

The box is found from the image alone, never from the label, so that a new scan is cropped like a training case. It is
generous: where the body is uncertain, nothing is cut.
"""

import numpy as np
from scipy import ndimage

from amos_fl.volumes.plan import Spacing

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]

BODY_HU = -500.0
MARGIN_MM = 15.0
_SEARCH_MM = 4.0
_TABLE_MM = 8.0


def body_threshold(image: np.ndarray, modality: str) -> float:
    """The intensity above which a voxel may belong to the body: -500 HU in CT.

    In MR, Otsu's threshold (1979) of the logarithm of the intensities: next to a surface coil or with a strong
    bias field a few voxels are ten times as bright as the organs, and a threshold on the plain intensities would
    separate these from everything else.
    """
    if modality == "CT":
        return BODY_HU
    values = image[::2, ::2]
    low, high = (float(v) for v in np.percentile(values, [1.0, 99.0]))
    if high <= low:
        return low
    logarithms = np.log(np.clip((values - low) / (high - low), 1e-3, 1.0))
    return low + (high - low) * float(np.exp(_otsu(logarithms)))


def _otsu(values: np.ndarray) -> float:
    """The threshold with the largest variance between the two classes, from a histogram of 256 bins."""
    counts, edges = np.histogram(values, bins=256)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    above = counts.sum() - below
    mass = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (mass[:-1] / below - (mass[-1] - mass[:-1]) / above) ** 2
    return float(centres[int(np.nanargmax(between))])


def body_box(image: np.ndarray, spacing_mm: Spacing, modality: str) -> Box:
    """The box (low, high per axis) around the body of a canonical scan (x, y, z), with a margin of 15 mm.

    The search runs on a grid of about 4 mm: threshold, in-plane opening that separates the table from the back (CT) or
    a blur that closes dark organs (MR), then all pieces of at least a tenth of the largest. If almost nothing is left,
    the whole scan is returned.
    """
    whole: Box = ((0, image.shape[0]), (0, image.shape[1]), (0, image.shape[2]))
    steps = [max(1, int(_SEARCH_MM / s)) for s in spacing_mm]
    coarse = image[:: steps[0], :: steps[1], :: steps[2]]
    threshold = body_threshold(image, modality)
    if modality == "CT":
        mask = coarse > threshold
        reach = [round(_TABLE_MM / (s * step)) for s, step in zip(spacing_mm, steps, strict=True)]
        element = np.ones((2 * reach[0] + 1, 2 * reach[1] + 1, 1), dtype=bool)
        mask = ndimage.binary_opening(np.pad(mask, _pads(reach), mode="edge"), element)
        mask = mask[reach[0] : reach[0] + coarse.shape[0], reach[1] : reach[1] + coarse.shape[1]]
    else:
        sigma = [_SEARCH_MM / (s * step) if step > 1 else 0.0 for s, step in zip(spacing_mm, steps, strict=True)]
        mask = ndimage.gaussian_filter(coarse, sigma) > threshold
    pieces, count = ndimage.label(mask)  # pyright: ignore[reportGeneralTypeIssues] - scipy's overloads
    if count == 0:
        return whole
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    if sizes.max() < 0.02 * mask.size:
        return whole
    body = np.isin(pieces, 1 + np.flatnonzero(sizes >= 0.1 * sizes.max()))
    sides = []
    for axis in range(3):
        found = np.flatnonzero(body.any(axis=tuple(a for a in range(3) if a != axis)))
        margin = int(np.ceil(MARGIN_MM / spacing_mm[axis])) + steps[axis]
        low = int(found[0]) * steps[axis] - margin
        high = (int(found[-1]) + 1) * steps[axis] + margin
        sides.append((max(0, low), min(image.shape[axis], high)))
    return (sides[0], sides[1], sides[2])


def _pads(reach: list[int]) -> list[tuple[int, int]]:
    return [(reach[0], reach[0]), (reach[1], reach[1]), (0, 0)]


def crop(array: np.ndarray, box: Box) -> np.ndarray:
    """The part of `array` (x, y, z) within the box (a view)."""
    return array[tuple(slice(low, high) for low, high in box)]
