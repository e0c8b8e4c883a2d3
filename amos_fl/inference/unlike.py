"""Whether a scan is unlike those that a network was trained on: its modality, spacing, extent and intensities.

Intensities are compared as the network sees them, normalised: the distance of two histograms is the area between their
cumulative distributions (Wasserstein-1, Rubner et al. 2000), in standard deviations of the normalisation.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Float

from amos_fl.cohort.table import Modality
from amos_fl.planning.histogram import Histogram, added
from amos_fl.prepared.store import PreparedCase
from amos_fl.runs.training_scans import LEAST_CASES, Ranges, ScansOfModality, TrainingScans
from amos_fl.wording import counted

BINS_PER_SD, ENDS_SD = 10, 8
"""Normalised intensities are counted in tenths between -8 and 8; the few beyond are counted at the ends."""
_CASE = 1_000_000
"""Every case counts the same: its voxels as parts of a million."""
STEPS_PER_OCTAVE = 2
"""Ranges are rounded outwards to powers of 2**(1/2): 0.5, 0.71, 1, 1.41 mm."""
BEYOND = 1.5
"""A spacing or extent is unlike when it is so many times beyond its range; a distance, beyond the furthest."""


def intensities(prepared: PreparedCase) -> Histogram:
    """The histogram of a case's normalised intensities in steps of 0.1, of a million voxels."""
    steps = np.clip(np.rint(prepared.image() * BINS_PER_SD), -BINS_PER_SD * ENDS_SD, BINS_PER_SD * ENDS_SD)
    counts = np.bincount(steps.astype(np.int64).ravel() + BINS_PER_SD * ENDS_SD)
    parts = np.rint(counts * (_CASE / counts.sum())).astype(np.int64)
    return Histogram(counts={int(step) - BINS_PER_SD * ENDS_SD: int(parts[step]) for step in np.flatnonzero(parts)})


def distance(one: Histogram, other: Histogram) -> float:
    """The area between the cumulative distributions of two histograms of normalised intensities.

    >>> distance(Histogram(counts={0: 10}), Histogram(counts={5: 3}))
    0.5
    """
    steps = sorted({*one.counts, *other.counts})
    below_one = below_other = area = 0.0
    for step, following in zip(steps, steps[1:], strict=False):
        below_one += one.counts.get(step, 0) / one.told
        below_other += other.counts.get(step, 0) / other.told
        area += abs(below_one - below_other) * (following - step)
    return area / BINS_PER_SD


def training_scans(cases: Iterable[PreparedCase], on_case: Callable[[], None] = lambda: None) -> TrainingScans:
    """What the training cases of a network are like; they have to be at least one."""
    found: dict[Modality, list[tuple[PreparedCase, Histogram]]] = {}
    for prepared in cases:
        modality: Modality = "CT" if prepared.modality == "CT" else "MR"
        found.setdefault(modality, []).append((prepared, intensities(prepared)))
        on_case()
    return TrainingScans(modalities={modality: _summed(members) for modality, members in sorted(found.items())})


def _summed(members: Sequence[tuple[PreparedCase, Histogram]]) -> ScansOfModality:
    if len(members) < LEAST_CASES:
        return ScansOfModality(cases=len(members))
    histograms = [histogram for _, histogram in members]
    return ScansOfModality(
        cases=len(members),
        spacing_mm=_ranges([case.geometry.spacing_mm for case, _ in members]),
        extent_mm=_ranges([_extent_mm(case) for case, _ in members]),
        intensities=added(histograms),
        furthest=max(
            distance(own, added(histograms[:number] + histograms[number + 1 :])) for number, own in enumerate(histograms)
        ),
    )


def _extent_mm(prepared: PreparedCase) -> tuple[float, float, float]:
    """Of the part around the body, which is the same however much air a scan has."""
    x, y, z = (n * mm for n, mm in zip(prepared.geometry.crop_shape, prepared.geometry.spacing_mm, strict=True))
    return (x, y, z)


def _ranges(values: Sequence[tuple[float, float, float]]) -> Ranges:
    x, y, z = ((_rounded(min(axis), math.floor), _rounded(max(axis), math.ceil)) for axis in zip(*values, strict=True))
    return (x, y, z)


def _rounded(mm: float, to: Callable[[float], int]) -> float:
    return round(2.0 ** (to(STEPS_PER_OCTAVE * math.log2(mm)) / STEPS_PER_OCTAVE), 3)
