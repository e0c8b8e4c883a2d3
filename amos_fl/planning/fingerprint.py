"""The fingerprint of training cases: histograms of spacing, shape and CT intensity, which add up over sites.

A plan is computed from it alone (nnU-Net calls it the dataset fingerprint, Isensee et al. 2021). Every value is a whole
number, so that the fingerprints of sites, added up in any order, equal that of their pooled cases exactly.
"""

import math
from collections.abc import Iterable
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from amos_fl.cohort.table import Modality
from amos_fl.planning.histogram import Histogram, added

SPACING_BINS_PER_MM = 100
"""Spacings are counted in hundredths of a millimetre, the precision of plans."""
SHAPE_BIN, EXTENT_BIN_MM = 8, 5
"""Voxels and lengths are counted in steps of these, far finer than a plan needs, but wide enough that a bin holds
several of a site's cases, so that a site that withholds small counts still has something to share."""
HU_RANGE = (-2048, 4095)
"""CT intensities are counted in whole HU between these; the few beyond are counted at the ends."""

Axes = tuple[Histogram, Histogram, Histogram]
"""Along x, y and z of canonical RAS."""


class CaseGroup(BaseModel):
    """The cases of one modality: their number, and per axis the spacing, voxels and length.

    `spacing` is in hundredths of a mm, `shape` in voxels of the scan as it was stored, to the nearest 8, `extent_mm`
    to the nearest 5 mm.
    `intensity` counts the voxels of labelled organs by HU; it is empty for MR, which is normalised scan by scan.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    cases: Annotated[int, Field(ge=0)] = 0
    spacing: Axes = (Histogram(), Histogram(), Histogram())
    shape: Axes = (Histogram(), Histogram(), Histogram())
    extent_mm: Axes = (Histogram(), Histogram(), Histogram())
    intensity: Histogram = Histogram()

    def histograms(self) -> dict[str, Histogram]:
        """All its histograms by name."""
        axes = {"spacing": self.spacing, "shape": self.shape, "extent": self.extent_mm}
        named = {f"{name} {axis}": h for name, three in axes.items() for axis, h in zip("xyz", three, strict=True)}
        return {**named, "intensity": self.intensity}

    def withholding(self, below: int) -> "CaseGroup":
        return CaseGroup(
            cases=self.cases,
            spacing=_each(self.spacing, below),
            shape=_each(self.shape, below),
            extent_mm=_each(self.extent_mm, below),
            intensity=self.intensity.withholding(below),
        )


class Fingerprint(BaseModel):
    """The fingerprint of some training cases, by modality."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    CT: CaseGroup = CaseGroup()
    MR: CaseGroup = CaseGroup()

    @property
    def cases(self) -> int:
        return self.CT.cases + self.MR.cases

    @property
    def modalities(self) -> tuple[Modality, ...]:
        modalities: tuple[Modality, ...] = ("CT", "MR")
        return tuple(modality for modality in modalities if self.group(modality).cases)

    def group(self, modality: Modality) -> CaseGroup:
        return self.CT if modality == "CT" else self.MR

    def pooled(self) -> CaseGroup:
        """The cases of both modalities together; intensities are those of CT."""
        return _sum_of([self.CT, self.MR])

    def withholding(self, below: int) -> "Fingerprint":
        """The fingerprint without bins of fewer than `below` cases or voxels, as a site sends it."""
        return Fingerprint(CT=self.CT.withholding(below), MR=self.MR.withholding(below))

    @property
    def withheld(self) -> bool:
        return any(h.withheld for m in self.modalities for h in self.group(m).histograms().values())


def merged(fingerprints: Iterable[Fingerprint]) -> Fingerprint:
    """The fingerprint of all their cases together; the order does not matter."""
    fingerprints = list(fingerprints)
    return Fingerprint(CT=_sum_of(f.CT for f in fingerprints), MR=_sum_of(f.MR for f in fingerprints))


def fingerprint_of_grid(
    modality: Modality,
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    intensity: Histogram | None = None,
) -> Fingerprint:
    """The fingerprint of one case, whose scan has `shape` voxels (x, y, z) with `spacing_mm` between them."""
    sides = list(zip(shape, spacing_mm, strict=True))
    group = CaseGroup(
        cases=1,
        spacing=_axes(_nearest(mm * SPACING_BINS_PER_MM) for _, mm in sides),
        shape=_axes(max(1, _nearest(n / SHAPE_BIN)) * SHAPE_BIN for n, _ in sides),
        extent_mm=_axes(max(1, _nearest(n * mm / EXTENT_BIN_MM)) * EXTENT_BIN_MM for n, mm in sides),
        intensity=intensity or Histogram(),
    )
    return Fingerprint(CT=group) if modality == "CT" else Fingerprint(MR=group)


def _nearest(value: float) -> int:
    return math.floor(value + 0.5)


def _axes(values: Iterable[int]) -> Axes:
    x, y, z = (Histogram(counts={value: 1}) for value in values)
    return (x, y, z)


def _each(axes: Axes, below: int) -> Axes:
    return (axes[0].withholding(below), axes[1].withholding(below), axes[2].withholding(below))


def _sum_of(groups: Iterable[CaseGroup]) -> CaseGroup:
    groups = list(groups)

    def axes(three: list[Axes]) -> Axes:
        return (added(t[0] for t in three), added(t[1] for t in three), added(t[2] for t in three))

    return CaseGroup(
        cases=sum(group.cases for group in groups),
        spacing=axes([group.spacing for group in groups]),
        shape=axes([group.shape for group in groups]),
        extent_mm=axes([group.extent_mm for group in groups]),
        intensity=added(group.intensity for group in groups),
    )
