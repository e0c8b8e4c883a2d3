"""Prepared cases of a few boxes in noise, made from NIfTI files by the real store."""

from pathlib import Path

import nibabel as nib
import numpy as np

from amos_fl.cohort.table import Case
from amos_fl.prepared.prepare import prepare_case
from amos_fl.prepared.store import PreparedCase
from amos_fl.randomness import generator
from amos_fl.volumes.plan import Plan

TINY = Plan(
    name="tiny",
    spacing_mm=(5.0, 5.0, 6.0),
    patch=(16, 16, 16),
    strides=((1, 1, 1), (2, 2, 2), (2, 2, 2)),
    kernels=((3, 3, 3),) * 3,
)
"""Small enough that a training step takes some twenty milliseconds."""

ORGANS = (1, 2, 6)


def boxes_case(
    folder: Path,
    name: str = "boxes",
    *,
    shape: tuple[int, int, int] = (28, 26, 24),
    annotated: tuple[int, ...] = ORGANS,
    labelled: bool = True,
    plan: Plan = TINY,
    seed: int = 0,
) -> PreparedCase:
    """A CT in which organs 1, 2 and 6 are boxes of 150, 250 and -50 HU in a body of 50 HU."""
    draw = generator(seed, "boxes", name)
    label = np.zeros(shape, np.uint8)
    x, y, z = (side // 2 for side in shape)
    label[2 : x - 1, 2 : y - 1, 3 : z + 4] = 1
    label[x + 1 : -2, 2 : y - 1, 3 : z + 4] = 2
    label[4:-4, y + 1 : -2, 3 : z + 4] = 6
    hu = np.zeros(256)
    hu[[0, 1, 2, 6]] = 50, 150, 250, -50
    image = hu[label] + 10 * draw.standard_normal(shape)
    affine = np.diag([*plan.spacing_mm, 1.0])
    paths = {}
    for kind, array in (("image", image.astype(np.int16)), ("label", label)):
        paths[kind] = folder / f"{name}-{kind}.nii.gz"
        folder.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, affine), paths[kind])
    case = Case(name, "A", "CT", "train", paths["image"], paths["label"] if labelled else None, annotated)
    return prepare_case(case, plan, folder / "store", ORGANS)
