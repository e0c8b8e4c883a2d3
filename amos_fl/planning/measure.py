"""Measure the fingerprints of a cohort's cases, once per file, and keep them in the store of prepared cases."""

from collections.abc import Collection, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
from nibabel.affines import voxel_sizes
from pydantic import ValidationError

from amos_fl.cohort.reference import check_header_of, label_of
from amos_fl.cohort.table import Case, Cohort, Modality, OnCase, Split
from amos_fl.cohort.tried import tried_cases
from amos_fl.errors import AmosError, all_of
from amos_fl.files import sha256_of_json, write_text
from amos_fl.planning.fingerprint import HU_RANGE, Fingerprint, fingerprint_of_grid, merged
from amos_fl.planning.histogram import Histogram
from amos_fl.prepared.prepare import content_hash
from amos_fl.stopping import at_once
from amos_fl.volumes.nifti import orientation_of, read_geometry, read_image, reconcile

KEPT_FORMAT = 2
"""Version of the stored fingerprints; raised when a number's meaning or the checks of a scan change."""


def foreground_intensity(image: np.ndarray, label: np.ndarray, organs: Collection[int]) -> Histogram:
    """The histogram, by whole HU, of a CT's intensities (any shape) in voxels labelled as one of `organs`."""
    wanted = np.zeros(256, dtype=bool)
    wanted[list(organs)] = True
    low, high = HU_RANGE
    values = np.clip(np.rint(image[wanted[label]]), low, high).astype(np.int64) - low
    counts = np.bincount(values)
    return Histogram(counts={int(bin_) + low: int(counts[bin_]) for bin_ in np.flatnonzero(counts)})


def fingerprint_of_header(case: Case) -> Fingerprint:
    """A case's spacing and shape from the header of its scan alone.

    The shape is that of the whole scan: nnU-Net's crop, too, removes nothing from a CT, whose air is not zero.

    Raises:
        AmosError: the scan cannot be read.
    """
    return fingerprint_of_affine(case.modality, *read_geometry(case.image))


def fingerprint_of_affine(modality: Modality, shape: tuple[int, int, int], affine: np.ndarray) -> Fingerprint:
    """The fingerprint of one scan with this shape and affine (4, 4), along the canonical axes."""
    return fingerprint_of_grid(modality, *_canonical_grid(shape, affine))


def _canonical_grid(
    shape: tuple[int, int, int], affine: np.ndarray
) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    """Voxels and spacing in mm along the canonical axes (x, y, z)."""
    spacing_mm = voxel_sizes(affine)
    sides = {int(axis): i for i, (axis, _) in enumerate(orientation_of(affine))}
    x, y, z = (sides[axis] for axis in range(3))
    return (shape[x], shape[y], shape[z]), (float(spacing_mm[x]), float(spacing_mm[y]), float(spacing_mm[z]))


def median_grids(cases: Sequence[Case]) -> dict[Modality, tuple[list[float], list[float]]]:
    """Per modality the median voxels and median length in mm along x, y and z, from the scans' headers.

    A fingerprint counts both in steps, because sites send it; for local scans that is not needed.

    Raises:
        AmosError: a scan that cannot be read.
    """
    grids: dict[Modality, list[tuple[tuple[int, int, int], tuple[float, float, float]]]] = {}
    for case in cases:
        grids.setdefault(case.modality, []).append(_canonical_grid(*read_geometry(case.image)))
    return {
        modality: (
            np.median([shape for shape, _ in found], axis=0).tolist(),
            np.median([np.multiply(*grid) for grid in found], axis=0).tolist(),
        )
        for modality, found in grids.items()
    }


def fingerprint_of_case(case: Case, organs: Collection[int], store: Path | None = None) -> Fingerprint:
    """A case's fingerprint, with intensities for CT; taken from `store` if it was measured before.

    Raises:
        AmosError: the scan or its label map cannot be read.
    """
    if case.modality != "CT" or case.label is None:
        return fingerprint_of_header(case)
    check_header_of(case)  # even if it was measured before, so that its warnings are shown again
    looked_for = sorted(set(case.annotated) & set(organs))
    kept = None
    if store is not None:
        key = [
            KEPT_FORMAT,
            content_hash(case.image, store),
            content_hash(case.label, store),
            looked_for,
            *case.label_values,
        ]
        name = sha256_of_json(key)
        kept = store / "fingerprints" / name[:2] / f"{name}.json"
        try:
            return Fingerprint.model_validate_json(kept.read_text(encoding="utf-8"))
        except (OSError, ValidationError):
            pass  # not measured before, or not readable: measure it
    image = read_image(case.image)
    label = reconcile(image, label_of(case, {*organs, *case.annotated}), case.label.name)
    group = fingerprint_of_header(case).CT
    found = Fingerprint(
        CT=group.model_copy(update={"intensity": foreground_intensity(image.array, label.array, looked_for)})
    )
    if kept is not None:
        with suppress(OSError):  # kept only to save time
            write_text(kept, found.model_dump_json())
    return found


def fingerprint_of_cases(
    cases: Sequence[Case],
    organs: Collection[int],
    *,
    store: Path | None = None,
    workers: int = 1,
    on_case: OnCase | None = None,
) -> Fingerprint:
    """The fingerprint of cases, `workers` of them read at a time; `on_case(done, total, case)` is called after each.

    Raises:
        AmosError: scans or label maps that cannot be read (raised after all others were), or a worker that died.
    """
    work = partial(fingerprint_of_case, organs=tuple(organs), store=store)
    with at_once():
        found, failed = tried_cases(work, cases, workers=workers, on_case=on_case)
    if failed:
        raise all_of(failed, len(cases), "case")
    return merged(found)


def measured_cases(cohort: Cohort, splits: Collection[Split] = ("train",)) -> tuple[Case, ...]:
    """The cases from which a plan is made: those with a label map in `splits`, by default the training cases.

    Raises:
        AmosError: there is none.
    """
    cases = tuple(case for case in cohort.cases if case.label is not None and case.split in splits)
    if not cases:
        raise AmosError(f"no labelled case in {' or '.join(splits)}: there is nothing to make a plan from")
    return cases
