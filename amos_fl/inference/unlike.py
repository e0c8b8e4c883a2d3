"""Whether a scan is unlike those that a network was trained on: its modality, spacing, extent and intensities.

Intensities are compared as the network sees them, normalised: the distance of two histograms is the area between their
cumulative distributions (Wasserstein-1, Rubner et al. 2000), in standard deviations of the normalisation.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import numpy as np

from amos_fl.cohort.table import Modality
from amos_fl.planning.histogram import Histogram, added
from amos_fl.prepared.store import PreparedCase
from amos_fl.runs.training_scans import LEAST_DISCLOSED_CASES, Ranges, ScansOfModality, TrainingScans
from amos_fl.wording import listed

BINS_PER_SD, ENDS_SD = 10, 8
"""Normalised intensities are counted in tenths between -8 and 8; the few beyond are counted at the ends."""
_END, _PLANES = BINS_PER_SD * ENDS_SD, 32
_CASE = 1_000_000
"""Every case counts the same: its voxels as parts of a million."""
STEPS_PER_OCTAVE, _ROUNDED = 2, 20
"""Ranges are rounded outwards to powers of 2**(1/2): 0.5, 0.71, 1, 1.41 mm; the furthest distance to 0.05."""
LENGTHS_BEYOND, DISTANCE_BEYOND = 2.0, 1.5
"""A spacing or extent is unlike when it is so many times beyond its range, intensities beyond the furthest distance."""


def intensities(prepared: PreparedCase) -> Histogram:
    """The histogram of a case's normalised intensities in steps of 0.1, of a million voxels."""
    counts = np.zeros(2 * _END + 1, np.int64)
    for low in range(0, prepared.shape[2], _PLANES):
        slab = prepared.image((slice(None), slice(None), slice(low, low + _PLANES)))
        steps = np.clip(np.rint(slab * BINS_PER_SD), -_END, _END).astype(np.int64) + _END
        counts += np.bincount(steps.ravel(), minlength=len(counts))
    parts = (counts * _CASE + counts.sum() // 2) // counts.sum()
    return Histogram(counts={int(step) - _END: int(parts[step]) for step in np.flatnonzero(parts)})


def distance(one: Histogram, other: Histogram) -> float:
    """The area between the cumulative distributions of two histograms of normalised intensities.

    >>> distance(Histogram(counts={0: 10}), Histogram(counts={5: 3}))
    0.5
    """
    steps = sorted({*one.counts, *other.counts})
    below_one = below_other = area = 0.0
    for step, following in pairwise(steps):
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
    if len(members) < LEAST_DISCLOSED_CASES:
        return ScansOfModality(cases=len(members))
    histograms = [histogram for _, histogram in members]
    together = added(histograms)
    return ScansOfModality(
        cases=len(members),
        spacing_mm=_ranges([case.geometry.spacing_mm for case, _ in members]),
        extent_mm=_ranges([_extent_mm(case) for case, _ in members]),
        intensities=together,
        furthest=math.ceil(_ROUNDED * max(distance(own, _without(together, own)) for own in histograms)) / _ROUNDED,
    )


def _without(together: Histogram, own: Histogram) -> Histogram:
    counts = {step: count - own.counts.get(step, 0) for step, count in together.counts.items()}
    return Histogram(counts={step: count for step, count in counts.items() if count})


def unlike(prepared: PreparedCase, scans: TrainingScans) -> str:
    """In what a scan is unlike the training scans, and how far, in words; empty if in nothing."""
    known = scans.modalities.get("CT" if prepared.modality == "CT" else "MR")
    if known is None:
        return f"its modality ({prepared.modality}, and they are {listed(list(scans.modalities))})"
    found = []
    if known.spacing_mm and _is_beyond(prepared.geometry.spacing_mm, known.spacing_mm):
        found.append(f"its voxels ({_shown(prepared.geometry.spacing_mm, known.spacing_mm)})")
    if known.extent_mm and _is_beyond(_extent_mm(prepared), known.extent_mm):
        found.append(f"its extent ({_shown(_extent_mm(prepared), known.extent_mm)})")
    if known.furthest is not None:
        away = distance(intensities(prepared), known.intensities)
        if away > DISTANCE_BEYOND * known.furthest:
            found.append(f"its intensities ({away:.2f} away, and theirs at most {known.furthest:.2f})")
    return listed(found) if found else ""


def _is_beyond(values: Sequence[float], ranges: Ranges) -> bool:
    return any(
        not low / LENGTHS_BEYOND <= mm <= high * LENGTHS_BEYOND for mm, (low, high) in zip(values, ranges, strict=True)
    )


def _shown(values: Sequence[float], ranges: Ranges) -> str:
    own, lows, highs = ("x".join(f"{mm:.3g}" for mm in three) for three in (values, *zip(*ranges, strict=True)))
    return f"{own} mm, and theirs {lows} to {highs} mm"


def _extent_mm(prepared: PreparedCase) -> tuple[float, float, float]:
    """Of the part around the body, which is the same however much air a scan has."""
    x, y, z = (n * mm for n, mm in zip(prepared.geometry.crop_shape, prepared.geometry.spacing_mm, strict=True))
    return (x, y, z)


def _ranges(values: Sequence[tuple[float, float, float]]) -> Ranges:
    x, y, z = ((_rounded(min(axis), math.floor), _rounded(max(axis), math.ceil)) for axis in zip(*values, strict=True))
    return (x, y, z)


def _rounded(mm: float, to: Callable[[float], int]) -> float:
    return round(2.0 ** (to(STEPS_PER_OCTAVE * math.log2(mm)) / STEPS_PER_OCTAVE), 3)
