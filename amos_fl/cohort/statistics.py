"""Statistics of a cohort, as the AMOS paper gives its own (Tables 1, 2, 8 and 9, Figures 3b and 4).

Slices are counted and spaced along the body's axis (canonical z), even in a coronal stack. Intensities are those of the
labelled organs' voxels: HU in CT, each scanner's own unit in MR. Volumes are in ml.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from amos_fl.cohort.reference import label_of
from amos_fl.cohort.table import Case, Cohort, OnCase
from amos_fl.cohort.tried import tried_cases
from amos_fl.errors import AmosError
from amos_fl.volumes.nifti import read_image, reconcile, to_canonical

SIGNIFICANT_DIGITS = 4
"""MR intensities are counted to this many digits, because their scale is arbitrary; CT by whole HU."""


@dataclass(frozen=True)
class Intensities:
    """Sorted values (n,) float64 and how many voxels have each (n,) int64."""

    values: np.ndarray
    counts: np.ndarray

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    def quantile(self, share: float) -> float:
        """The value below which `share` of the voxels lie; NaN if there are none."""
        if not self.total:
            return math.nan
        rank = math.ceil(share * self.total) or 1
        return float(self.values[np.searchsorted(np.cumsum(self.counts), rank)])

    def mean(self) -> float:
        return float(self.values @ self.counts / self.total) if self.total else math.nan

    def sd(self) -> float:
        return math.sqrt(float((self.values - self.mean()) ** 2 @ self.counts) / self.total) if self.total else math.nan


@dataclass(frozen=True)
class CaseStatistics:
    """One case: its scan's grid (x, y, z), the organs' volumes by label (absent ones are not listed), intensities."""

    case: Case
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    voxel_ml: float
    voxels: dict[int, int]
    intensities: Intensities

    @property
    def slices(self) -> int:
        return self.shape[2]

    @property
    def volumes_ml(self) -> dict[int, float]:
        return {organ: count * self.voxel_ml for organ, count in self.voxels.items()}


def statistics_of_case(case: Case, organs: dict[int, str]) -> CaseStatistics:
    """Measure one case. Without a label map only its grid is measured.

    Raises:
        AmosError: the scan or its label map cannot be read.
    """
    image = read_image(case.image)
    scan = to_canonical(image)
    values, voxels = np.zeros(0), {}
    if case.label is not None:
        label = reconcile(image, label_of(case, {*organs, *case.annotated}), case.label.name).array
        counts = np.bincount(label.ravel(order="K"), minlength=256)
        wanted = np.zeros(256, dtype=bool)
        wanted[[organ for organ in case.annotated if organ in organs]] = True
        voxels = {organ: int(counts[organ]) for organ in np.flatnonzero(wanted & (counts > 0)).tolist()}
        values = _rounded(image.array[wanted[label]].astype(np.float64), case.modality)
    found, numbers = np.unique(values, return_counts=True)
    return CaseStatistics(
        case, scan.shape, scan.spacing_mm, scan.voxel_ml, voxels, Intensities(found, numbers.astype(np.int64))
    )


def _rounded(values: np.ndarray, modality: str) -> np.ndarray:
    if modality == "CT" or not values.size:
        return np.rint(values)
    step = 10.0 ** (np.floor(np.log10(np.maximum(np.abs(values), 1e-12))) - SIGNIFICANT_DIGITS + 1)
    return np.rint(values / step) * step


def statistics_of(
    cohort: Cohort, *, workers: int = 1, on_case: OnCase | None = None
) -> tuple[list[CaseStatistics], list[AmosError]]:
    """Statistics of every readable case of a cohort, and the errors of the others.

    `workers` cases are read at a time; `on_case(done, total, case)` is called after each.

    Raises:
        WorkerKilled: a worker died.
    """
    work = partial(statistics_of_case, organs=cohort.organs)
    return tried_cases(work, cohort.cases, workers=workers, on_case=on_case)


@dataclass(frozen=True)
class StatisticsGroup:
    """Cases described together: `kind` is cohort, modality, scanner, split or scanner and split."""

    kind: str
    name: str
    cases: tuple[CaseStatistics, ...]

    @property
    def modality(self) -> str:
        return "+".join(sorted({c.case.modality for c in self.cases}))

    @property
    def labelled(self) -> tuple[CaseStatistics, ...]:
        return tuple(c for c in self.cases if c.case.label is not None)

    @property
    def slices(self) -> list[int]:
        return sorted(c.slices for c in self.cases)

    @property
    def slice_spacing_mm(self) -> list[float]:
        return sorted(round(c.spacing_mm[2], 3) for c in self.cases)

    @property
    def in_plane_mm(self) -> list[float]:
        return sorted(round(c.spacing_mm[0], 3) for c in self.cases)

    @property
    def organ_voxels_per_scan(self) -> float:
        """Labelled voxels of a scan, on average (Table 1's annotations per scan)."""
        labelled = self.labelled
        return sum(sum(c.voxels.values()) for c in labelled) / len(labelled) if labelled else math.nan

    def intensities(self) -> Intensities:
        """The organs' intensities in all its cases; empty if CT and MR are mixed, which have no common unit."""
        if self.modality not in ("CT", "MR"):
            return Intensities(np.zeros(0), np.zeros(0, dtype=np.int64))
        values = np.concatenate([c.intensities.values for c in self.cases])
        found, place = np.unique(values, return_inverse=True)
        numbers = np.concatenate([c.intensities.counts for c in self.cases])
        counts = np.zeros(len(found), dtype=np.int64)
        np.add.at(counts, place, numbers)
        return Intensities(found, counts)

    def volumes_ml(self, organ: int) -> list[float]:
        """An organ's volumes in the cases that have it."""
        return sorted(c.volumes_ml[organ] for c in self.cases if organ in c.voxels)


def groups_of(cases: Sequence[CaseStatistics]) -> list[StatisticsGroup]:
    """The cohort, its modalities, its scanners, its splits by modality, and each scanner's splits."""

    def by(kind: str, key: Callable[[Case], str]) -> Iterable[StatisticsGroup]:
        for name in sorted({key(c.case) for c in cases}):
            yield StatisticsGroup(kind, name, tuple(c for c in cases if key(c.case) == name))

    return [
        StatisticsGroup("cohort", "all", tuple(cases)),
        *by("modality", lambda c: c.modality),
        *by("scanner", lambda c: c.site),
        *by("split", lambda c: f"{c.modality} {c.split}"),
        *by("scanner and split", lambda c: f"{c.site} {c.split}"),
    ]


def median(values: Sequence[float]) -> float:
    return float(np.median(values)) if values else math.nan
