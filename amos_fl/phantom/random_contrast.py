"""A scanner that nobody has (`data phantom --contrast random`): random brightness, field, resolution and noise.

The idea is SynthSeg's (Billot et al., Medical Image Analysis 2023), on this phantom's anatomy: a network that never
sees an organ twice with the same brightness cannot learn it by brightness. A case keeps its patient, its field of view
and its kind: CT has no field and shows air, lung and bone as ever, because its scale is fixed; MR has no unit.
"""

from dataclasses import replace

import numpy as np

from amos_fl.phantom.scanners import Grid, PhantomScanner
from amos_fl.phantom.tissues import RANDOM

MOST_MM = 10.0
"""Voxels that are already longer are not made coarser, as small organs vanish in them."""


def random_scanner(scanner: PhantomScanner, random: np.random.Generator) -> PhantomScanner:
    """`scanner` with the ways of forming an image drawn from wider ranges than any of the eight has.

    Voxels are up to a third longer along each axis, and up to twice as long along one, whichever it is.
    """
    longer = random.uniform(1.0, 1.3, 3)
    longer[int(random.integers(3))] *= random.uniform(1.0, 2.0)
    ct = scanner.modality == "CT"
    return replace(
        scanner,
        kinds={RANDOM: 1.0},
        quick=_coarser(scanner.quick, longer),
        full=tuple((share, _coarser(grid, longer)) for share, grid in scanner.full),
        noise=(4.0, 30.0) if ct else (6.0, 50.0),
        kernel_px=float(random.uniform(0.5, 1.1)),
        sharpening=float(random.uniform(0.0, 0.15)),
        blur=float(random.uniform(0.5, 2.0)),
        bias=(0.0, 0.0) if ct else (0.0, 0.6),
    )


def _coarser(grid: Grid, longer: np.ndarray) -> Grid:
    x, y, z = (max(mm, min(mm * factor, MOST_MM)) for mm, factor in zip(grid.spacing_mm, longer.tolist(), strict=True))
    return replace(grid, spacing_mm=(x, y, z))
