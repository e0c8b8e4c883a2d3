"""One scan of one patient: choose the field of view, paint it slab by slab, and form the image."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from amos_fl.phantom import ct, mr
from amos_fl.phantom.anatomy import Patient, draw_patient
from amos_fl.phantom.random_contrast import random_scanner
from amos_fl.phantom.scanners import PHANTOM_SCANNERS, Grid, PhantomScanner
from amos_fl.phantom.shapes import turned
from amos_fl.randomness import generator

Size = Literal["quick", "full"]
Contrast = Literal["scanners", "random"]
"""How tissues look: as on AMOS's scanners, or with brightness, field, resolution and noise of no scanner."""
SLAB_VOXELS = 800_000  # at once, so that the work stays in the processor's cache
OFF_CENTRE = 0.27
"""Of a voxel, along diagonals: where quick scans look besides the centre, as their voxels hold several tissues."""


@dataclass(frozen=True)
class PhantomScan:
    """Image and label as (x, y, z) voxels, with the affine (4, 4) that both share. `kind`: phase or sequence."""

    image: np.ndarray
    label: np.ndarray
    affine: np.ndarray
    kind: str


def make_scan(
    seed: int, case: int, patient: int, sex: str, domain: str, size: Size, contrast: Contrast = "scanners"
) -> PhantomScan:
    """The scan that AMOS case `case` is on the scanner `domain`; a function of its arguments only."""
    scanner = _scanner(seed, case, domain, contrast)
    person = draw_patient(seed, patient, sex)
    random = generator(seed, "phantom", "scan", case)
    kind, affine, shape = _kind_and_grid(person, scanner, size, random)
    former = (ct.CtScan if scanner.modality == "CT" else mr.MrScan)(
        scanner, kind, random, affine, shape, coarse=size == "quick"
    )
    planes = max(1, SLAB_VOXELS // (shape[1] * shape[2]))
    label = np.zeros(shape, np.uint8)
    image = np.zeros(shape, scanner.dtype)
    for number, start in enumerate(range(0, shape[0], planes)):
        here = slice(start, min(start + planes, shape[0]))
        part = (here.stop - here.start, shape[1], shape[2])
        tissue, label[here] = person.paint(affine, start, part)
        ideal = former.brightness[tissue]
        if size == "quick":
            for corner in ((-1, -1, 1), (1, 1, -1)):
                moved = affine.copy()
                moved[:3, 3] += affine[:3, :3] @ np.array(corner) * OFF_CENTRE
                ideal += former.brightness[person.paint(moved, start, part)[0]]
            ideal *= np.float32(1 / 3)
        image[here] = former.form(ideal, start, generator(seed, "phantom", "noise", case, number))
    return PhantomScan(image.transpose(), label.transpose(), affine, kind)


def scan_grid(
    seed: int, case: int, patient: int, sex: str, domain: str, size: Size, contrast: Contrast = "scanners"
) -> tuple[tuple[int, int, int], np.ndarray]:
    """Shape (x, y, z) and affine (4, 4) of what `make_scan` gives for the same arguments, without its voxels."""
    random = generator(seed, "phantom", "scan", case)
    scanner = _scanner(seed, case, domain, contrast)
    _, affine, (z, y, x) = _kind_and_grid(draw_patient(seed, patient, sex), scanner, size, random)
    return (x, y, z), affine


def _scanner(seed: int, case: int, domain: str, contrast: Contrast) -> PhantomScanner:
    scanner = PHANTOM_SCANNERS[domain]
    return scanner if contrast == "scanners" else random_scanner(scanner, generator(seed, "phantom", "contrast", case))


def _kind_and_grid(
    person: Patient, scanner: PhantomScanner, size: Size, random: np.random.Generator
) -> tuple[str, np.ndarray, tuple[int, int, int]]:
    """Phase or sequence, affine, and shape (z, y, x)."""
    kind = str(random.choice(list(scanner.kinds), p=list(scanner.kinds.values())))
    return kind, *_place(person, scanner, _grid(scanner, size, random), random)


def _grid(scanner: PhantomScanner, size: Size, random: np.random.Generator) -> Grid:
    share = random.random()
    if size == "quick":
        return scanner.quick
    for chance, grid in scanner.full:
        share -= chance
        if share < 0:
            return grid
    return scanner.full[-1][1]


def _place(
    person: Patient, scanner: PhantomScanner, grid: Grid, random: np.random.Generator
) -> tuple[np.ndarray, tuple[int, int, int]]:
    """The affine of the scan's grid in RAS mm, and its shape (z, y, x) in voxels."""
    shift = random.normal(0, 1, 3) * (8, 8, 10)
    if scanner.modality == "CT" or random.random() < 0.05:
        top, bottom = -28.0 - abs(random.normal(0, 10)), 482.0 + random.normal(0, 8)
    else:
        span = grid.fov_mm[2] * random.uniform(0.92, 1.05)
        # A field of view longer than the upper abdomen shows more of the chest, not the pelvis.
        top = -12.0 + random.normal(0, 10) - max(span - 265, 0)
        bottom = top + span
    frame = person.frame
    middle = np.array([0.0, frame.middle_y, (top + bottom) / 2])
    size_of_patient = 1 / np.linalg.norm(person.pose.matrix, axis=1)
    extent = np.array([2 * frame.half_width + 26, 2 * frame.half_depth + 34, bottom - top]) * size_of_patient
    for axis in (0, 1):
        if grid.fov_mm[axis] > 0:
            extent[axis] = grid.fov_mm[axis]
    letters = {"L": (0, -1), "R": (0, 1), "P": (1, -1), "A": (1, 1), "I": (2, -1), "S": (2, 1)}
    matrix = np.zeros((3, 3))
    counts = []
    tilt = turned(x_deg=grid.tilt_deg)
    for voxel_axis, letter in enumerate(grid.axes):
        world_axis, sign = letters[letter]
        matrix[world_axis, voxel_axis] = sign * grid.spacing_mm[voxel_axis]
        counts.append(max(16, round(extent[world_axis] / grid.spacing_mm[voxel_axis])))
    matrix = tilt @ matrix
    centre = person.pose.to_world(middle[None])[0] + shift * (1, 1, 0)
    affine = np.eye(4)
    affine[:3, :3] = matrix
    affine[:3, 3] = centre - matrix @ ((np.array(counts) - 1) / 2)
    return affine, (counts[2], counts[1], counts[0])
