"""A scan as a network sees it: canonical, cropped to the body, normalised, at the plan's spacing."""

import math
from dataclasses import dataclass

import numpy as np

from amos_fl.prepared.store import Geometry
from amos_fl.volumes.body import body_box, crop
from amos_fl.volumes.nifti import Volume, orientation_of, to_canonical
from amos_fl.volumes.normalise import Normalisation, normalisation_of
from amos_fl.volumes.plan import Plan
from amos_fl.volumes.plausible_grid import check_memory
from amos_fl.volumes.resample import resample_image

BYTES_PER_VOXEL = 5
"""Bytes per voxel of a resampled case, at least: float32 of the scan and uint8 of its label map."""


@dataclass(frozen=True)
class PreparedImage:
    """The image of a prepared case (x, y, z) as float32, the way back to its scan's grid, and how it was normalised."""

    image: np.ndarray
    geometry: Geometry
    normalisation: Normalisation


def prepare_image(original: Volume, modality: str, plan: Plan, name: str) -> PreparedImage:
    """Prepare a scan in its file's own orientation; an error names it `name`.

    Raises:
        AmosError: a resampled scan that memory cannot hold, or an MR scan without contrast.
    """
    scan = to_canonical(original)
    box = body_box(scan.array, scan.spacing_mm, modality)
    extent_mm = [(high - low) * mm for (low, high), mm in zip(box, scan.spacing_mm, strict=True)]
    check_memory(
        math.prod(math.ceil(mm / to) for mm, to in zip(extent_mm, plan.spacing_mm, strict=True)),
        BYTES_PER_VOXEL,
        f"{name}, resampled to {'x'.join(f'{mm:g}' for mm in plan.spacing_mm)} mm,",
    )
    image = crop(scan.array, box)
    normalisation = normalisation_of(image, modality, plan, name)
    image = resample_image(normalisation.apply(image), scan.spacing_mm, plan.spacing_mm)
    x, y, z = ((int(axis), int(flip)) for axis, flip in orientation_of(original.affine))
    return PreparedImage(image, Geometry(scan.shape, scan.spacing_mm, box, (x, y, z)), normalisation)
