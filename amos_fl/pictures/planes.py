"""Planes of a case as pictures: upright, with square pixels, in grey levels of a window.

The three planes of a case are chosen where many organs are cut and where prediction and label differ most.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from amos_fl.volumes.nifti import Volume, to_canonical

AXES = {"axial": 2, "coronal": 1, "sagittal": 0}
"""Per view the axis of a canonical scan that it is a plane of."""
CT_WINDOW_HU = (-135.0, 215.0)
VIEW_MARGIN_MM = 20.0
"""The margin shown around the organs."""
LONGEST_PIXELS = 288
FINEST_PIXEL_MM = 1.2


@dataclass(frozen=True)
class Plane:
    """One plane of a case: rows from top to bottom, the patient's right on the left (sagittal: front on the left).

    `grey`, `label` and `prediction` are (rows, columns) uint8; pixels are square, `pixel_mm` wide. `position` is the
    plane's index along its axis of the scan in canonical order, and `of` how many there are.
    """

    view: str
    grey: UInt8[np.ndarray, "row column"]
    label: UInt8[np.ndarray, "row column"]
    prediction: UInt8[np.ndarray, "row column"]
    pixel_mm: float
    position: int
    of: int


def window_of(image: np.ndarray, modality: str) -> tuple[float, float]:
    """The values shown as black and white: in CT an abdominal window, in MR the 1st and 99th percentile above zero."""
    if modality == "CT":
        return CT_WINDOW_HU
    some = image[:: max(1, image.shape[0] // 64)]
    above = some[some > 0]
    low, high = np.percentile(above, (1, 99)) if above.size else (0.0, 1.0)
    return float(low), float(high)


def grey_levels(image: np.ndarray, window: tuple[float, float]) -> UInt8[np.ndarray, "..."]:
    """Voxels as grey levels between the ends of a window."""
    low, high = window
    return (np.clip((image - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)


def best_planes(label: UInt8[np.ndarray, "x y z"], prediction: UInt8[np.ndarray, "x y z"]) -> tuple[int, int, int]:
    """For each axis the plane that shows most organs and most differences between the two maps.

    Each organ counts by the fraction of its largest cross-section that a plane cuts, the differing voxels by their
    fraction of the largest number in a plane; both sums have equal weight.

    >>> label = np.zeros((4, 4, 4), np.uint8); label[1:3, 1, 2] = 5
    >>> best_planes(label, np.zeros_like(label))
    (1, 1, 2)
    """
    wrong = label != prediction
    sides = (np.moveaxis(label, axis, 0) for axis in range(3)), (np.moveaxis(wrong, axis, 0) for axis in range(3))
    x, y, z = (best_slice(label_side, wrong_side) for label_side, wrong_side in zip(*sides, strict=True))
    return x, y, z


def best_slice(label: UInt8[np.ndarray, "slice row column"], wrong: Bool[np.ndarray, "slice row column"]) -> int:
    """Of parallel slices, the one that shows most organs and most that is `wrong`; the middle one if none does."""
    size = len(label)
    areas = np.stack([np.bincount(plane.ravel(), minlength=256)[1:] for plane in label])  # (slice, organ)
    areas = areas[:, areas.any(axis=0)]
    cut = (areas / areas.max(axis=0, initial=1)).sum(axis=1) if areas.size else np.zeros(size)
    differing = wrong.sum(axis=(1, 2))
    worth = cut / max(cut.max(), 1e-9) + differing / max(differing.max(), 1)
    return int(np.argmax(worth)) if worth.any() else size // 2


def planes_of(
    image: Volume, label: np.ndarray, prediction: np.ndarray, modality: str, *, chosen_by: np.ndarray | None = None
) -> list[Plane]:
    """The axial, coronal and sagittal plane of a case; `label` and `prediction` are (x, y, z) on the image's grid.

    With `chosen_by`, a label map too, the planes and the part shown are those of its organs, whatever the prediction.
    """
    scan = to_canonical(image)
    maps = [to_canonical(Volume(array, image.affine)).array for array in (label, prediction)]
    decisive = maps if chosen_by is None else [to_canonical(Volume(chosen_by, image.affine)).array] * 2
    box = around(np.maximum(*decisive), scan.spacing_mm)
    inside = maps[0][box], maps[1][box]
    at = best_planes(decisive[0][box], decisive[1][box])
    window = window_of(scan.array, modality)
    pixel_mm = pixel_mm_of(inside[0].shape, scan.spacing_mm)
    planes = []
    for view, axis in AXES.items():
        spacing = [mm for a, mm in enumerate(scan.spacing_mm) if a != axis]
        here = tuple(at[axis] if a == axis else slice(None) for a in range(3))
        grey = grey_levels(scan.array[box][here], window)
        planes.append(
            Plane(
                view,
                grey=upright(grey, spacing, pixel_mm, smooth=True),
                label=upright(inside[0][here], spacing, pixel_mm, smooth=False),
                prediction=upright(inside[1][here], spacing, pixel_mm, smooth=False),
                pixel_mm=pixel_mm,
                position=at[axis] + box[axis].start,
                of=scan.shape[axis],
            )
        )
    return planes


def pixel_mm_of(shape: Sequence[int], spacing_mm: Sequence[float]) -> float:
    """The width of a picture's square pixels, so that the longest side of a part of a scan has few enough of them."""
    extent_mm = max(n * mm for n, mm in zip(shape, spacing_mm, strict=True))
    return max(FINEST_PIXEL_MM, min(spacing_mm), extent_mm / LONGEST_PIXELS)


def around(organs: np.ndarray, spacing_mm: Sequence[float]) -> tuple[slice, slice, slice]:
    """The box around all organs, with a margin; the whole scan if there are none."""
    marked = organs > 0
    lines = [np.flatnonzero(marked.any(axis=tuple(b for b in range(3) if b != a))) for a in range(3)]
    sides = [slice(at[0], at[-1] + 1) if len(at) else slice(0, n) for at, n in zip(lines, organs.shape, strict=True)]
    x, y, z = (
        slice(max(0, side.start - round(VIEW_MARGIN_MM / mm)), min(n, side.stop + round(VIEW_MARGIN_MM / mm)))
        for side, n, mm in zip(sides, organs.shape, spacing_mm, strict=True)
    )
    return x, y, z


def upright(plane: np.ndarray, spacing_mm: Sequence[float], pixel_mm: float, *, smooth: bool) -> np.ndarray:
    """A plane of canonical axes with its last axis from top to bottom, right and front on the left."""
    picture = Image.fromarray(np.ascontiguousarray(plane.T[::-1, ::-1]))
    width, height = (max(1, round(n * mm / pixel_mm)) for n, mm in zip(plane.shape, spacing_mm, strict=True))
    how = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    return np.asarray(picture.resize((width, height), how))
