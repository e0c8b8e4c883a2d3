"""Fingerprints add up over sites without loss; plans follow nnU-Net's rules and give AMOS's own back."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amos_fl.cohort.table import Cohort
from amos_fl.errors import AmosError
from amos_fl.phantom.release import header_of, listed_cases
from amos_fl.planning.fingerprint import HU_RANGE, Fingerprint, fingerprint_of_grid, merged
from amos_fl.planning.histogram import Histogram, added, mean_bound
from amos_fl.planning.measure import fingerprint_of_affine, fingerprint_of_cases, measured_cases
from amos_fl.planning.planner import memory_gb, plan_from
from amos_fl.planning.settings import PlanningSettings
from amos_fl.volumes.plan import Plan, plan_named

WHOLE = st.lists(st.integers(-2000, 2000), min_size=1, max_size=60)
SHARES = st.sampled_from([0.0, 0.005, 0.1, 0.25, 0.5, 0.9, 0.995, 1.0])
GRID = st.tuples(
    st.sampled_from(["CT", "MR"]),
    st.tuples(*[st.integers(1, 600)] * 3),
    st.tuples(*[st.floats(0.3, 8)] * 3),
    st.lists(st.integers(*HU_RANGE), min_size=1, max_size=8),
)


def of_grid(grid: tuple) -> Fingerprint:
    modality, shape, spacing_mm, hu = grid
    return fingerprint_of_grid(modality, shape, spacing_mm, Histogram.of(hu) if modality == "CT" else None)


@given(WHOLE, SHARES)
def test_a_histogram_knows_what_numpy_knows_of_the_values(values: list[int], share: float) -> None:
    histogram = Histogram.of(values)
    assert histogram.quantile(share) == pytest.approx(np.percentile(values, 100 * share), abs=1e-9)
    assert histogram.mean() == pytest.approx(np.mean(values), abs=1e-9)
    assert histogram.sd() == pytest.approx(np.std(values), abs=1e-6)
    assert histogram.total == len(values)


@given(st.lists(st.tuples(GRID, st.integers(0, 7)), min_size=1, max_size=20), st.randoms())
def test_the_sites_fingerprints_add_up_to_the_pooled_one_exactly_in_any_order(
    cases: list[tuple[tuple, int]], random: object
) -> None:
    sites = [merged(of_grid(grid) for grid, site in cases if site == wanted) for wanted in range(8)]
    random.shuffle(sites)  # pyright: ignore[reportAttributeAccessIssue] - hypothesis gives a random.Random
    together = merged(sites)
    pooled = merged(of_grid(grid) for grid, _ in cases)
    assert together.model_dump_json() == pooled.model_dump_json()
    # Beside the sum over histograms: the pooled values themselves, counted by numpy.
    voxels = [hu for (modality, _, _, values), _ in cases if modality == "CT" for hu in values]
    assert together.CT.intensity.total == len(voxels)
    if voxels:
        assert together.CT.intensity.quantile(0.005) == pytest.approx(np.percentile(voxels, 0.5), abs=1e-9)
    spacings = [round(spacing[2] * 100) for (_, _, spacing, _), _ in cases]
    assert together.pooled().spacing[2].quantile(0.5) == pytest.approx(np.median(spacings), abs=1.0)
    assert together.cases == len(cases)


@settings(max_examples=200)
@given(st.lists(WHOLE, min_size=1, max_size=5), st.integers(1, 6), SHARES)
def test_what_sites_withhold_moves_nothing_beyond_the_stated_bounds(
    sites: list[list[int]], below: int, share: float
) -> None:
    parts = [Histogram.of(values).withholding(below) for values in sites]
    assert all(count >= below for part in parts for count in part.counts.values())
    told, values = added(parts), [value for site in sites for value in site]
    assert told.total == len(values)
    low, high = told.quantile_bounds(share)
    assert low - 1e-9 <= np.percentile(values, 100 * share) <= high + 1e-9
    if told.counts:
        assert low <= told.quantile(share) <= high
        assert abs(told.mean() - np.mean(values)) <= mean_bound(told, -2000, 2000) + 1e-9
        assert abs(told.sd() ** 2 - np.var(values)) <= 1.25 * 4000**2 * told.withheld / told.total + 1e-6


def test_nothing_withheld_leaves_bounds_of_no_width() -> None:
    histogram = Histogram.of([1, 2, 2, 9, 11])
    assert histogram.withholding(1) == histogram
    assert histogram.quantile_bounds(0.5) == (2, 2)
    assert mean_bound(histogram, 0, 20) == 0


# --- the planner ----------------------------------------------------------------------------------


def cohort_of(
    modality: str, spacings: Sequence[tuple[float, float, float]], shapes: Sequence[tuple[int, int, int]]
) -> Fingerprint:
    hu = Histogram.of(np.arange(-200, 300)) if modality == "CT" else None
    return merged(
        fingerprint_of_grid(modality, shape, spacing, hu)  # pyright: ignore[reportArgumentType]
        for spacing, shape in zip(spacings, shapes, strict=True)
    )


def geometry(plan: Plan) -> tuple:
    return plan.patch, plan.strides, plan.kernels


def test_amos_numbers_give_the_plans_of_the_paper() -> None:
    # Table 8 and 9: CT of 512x512, two thirds with slices of 5 mm, a third finer; MR as the planner was run on it.
    thick, thin, finer = (0.69, 0.69, 5.0), (0.69, 0.69, 2.0), (0.69, 0.69, 1.25)
    ct = cohort_of("CT", [thick] * 66 + [thin] * 26 + [finer] * 8, [(512, 512, 98)] * 66 + [(512, 512, 213)] * 34)
    plan = plan_from(ct, 15)
    assert geometry(plan) == geometry(plan_named("amos-ct"))
    assert plan.spacing_mm == plan_named("amos-ct").spacing_mm
    mr = plan_from(cohort_of("MR", [(1.1875, 1.1875, 3.0)] * 40, [(320, 260, 72)] * 40), 15)
    assert geometry(mr) == geometry(plan_named("amos-mr"))
    assert mr.spacing_mm == plan_named("amos-mr").spacing_mm


def test_six_hundred_full_size_phantom_headers_give_the_plans_of_the_paper() -> None:
    hu = Histogram.of([-991, 50, 362])
    found = []
    for case in listed_cases().values():
        fingerprint = fingerprint_of_affine("CT" if case.modality == "CT" else "MR", *header_of(0, "full", case))
        if fingerprint.CT.cases:
            fingerprint = Fingerprint(CT=fingerprint.CT.model_copy(update={"intensity": hu}))
        found.append(fingerprint)
    for modality, name in (("CT", "amos-ct"), ("MR", "amos-mr")):
        whole = merged(f for f in found if f.group(modality).cases)  # pyright: ignore[reportArgumentType]
        plan = plan_from(whole, 15)
        assert whole.cases == (500 if modality == "CT" else 100)
        assert geometry(plan) == geometry(plan_named(name))
        assert plan.spacing_mm[2] == plan_named(name).spacing_mm[2]


def test_a_phantom_header_is_that_of_the_scan_it_stands_for() -> None:
    from amos_fl.phantom.release import person_of
    from amos_fl.phantom.scan import make_scan

    case = listed_cases()[514]
    scan = make_scan(3, case.amos_id, case.patient, person_of(3, case).sex, case.domain, "quick")
    shape, affine = header_of(3, "quick", case)
    assert shape == scan.image.shape
    assert np.array_equal(affine, scan.affine)


def test_the_plan_turns_with_the_axis_of_the_thick_slices() -> None:
    axial = plan_from(cohort_of("MR", [(1.0, 1.0, 5.0)] * 3, [(320, 320, 60)] * 3), 15)
    coronal = plan_from(cohort_of("MR", [(1.0, 5.0, 1.0)] * 3, [(320, 60, 320)] * 3), 15)
    assert axial.patch != coronal.patch
    assert [axial.patch[i] for i in (0, 2, 1)] == list(coronal.patch)
    assert [axial.spacing_mm[i] for i in (0, 2, 1)] == list(coronal.spacing_mm)
    assert axial.kernels[0] == (3, 3, 1)
    assert coronal.kernels[0] == (3, 1, 3)


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.floats(0.5, 2), st.floats(0.5, 6)), min_size=1, max_size=6),
    st.integers(40, 300),
    st.sampled_from([0.3, 1.0, 4.0, 8.0, 24.0]),
    st.sampled_from(["full", "low"]),
)
def test_every_plan_keeps_to_its_memory_and_fits_its_own_pooling(
    spacings: list[tuple[float, float]], slices: int, gigabytes: float, resolution: str
) -> None:
    spacing_mm = [(plane, plane, z) for plane, z in spacings]
    fingerprint = cohort_of("CT", spacing_mm, [(400, 380, slices)] * len(spacing_mm))
    wanted = PlanningSettings(memory_gb=gigabytes, resolution=resolution)  # pyright: ignore[reportArgumentType]
    plan = plan_from(fingerprint, 15, wanted)  # Plan itself checks that the patch fits the strides
    assert memory_gb(plan, 15) <= gigabytes
    if resolution == "low":
        extent = [h.quantile(0.5) for h in fingerprint.CT.extent_mm]
        scan = math.prod(mm / spacing for mm, spacing in zip(extent, plan.spacing_mm, strict=True))
        assert scan <= 4.05 * math.prod(plan.patch)


def test_less_memory_gives_a_smaller_patch_and_too_little_is_said() -> None:
    fingerprint = cohort_of("CT", [(0.7, 0.7, 2.0)] * 3, [(512, 512, 240)] * 3)
    patches = [math.prod(plan_from(fingerprint, 15, PlanningSettings(memory_gb=gb)).patch) for gb in (16, 8, 4, 1)]
    assert patches == sorted(patches, reverse=True)
    with pytest.raises(AmosError, match=r"no patch of these scans fits into 1e-05 GB; allow more"):
        plan_from(fingerprint, 15, PlanningSettings(memory_gb=1e-5))


def test_a_joint_cohort_has_one_plan_of_all_its_cases_with_the_intensities_of_ct() -> None:
    ct = cohort_of("CT", [(0.7, 0.7, 2.0)] * 5, [(512, 512, 240)] * 5)
    mr = cohort_of("MR", [(1.2, 1.2, 3.0)] * 2, [(320, 260, 72)] * 2)
    joint = plan_from(merged([ct, mr]), 15)
    assert joint.spacing_mm == (0.7, 0.7, 2.0)
    assert joint.ct_clip_hu == plan_from(ct, 15).ct_clip_hu == (-198.0, 297.0)
    assert joint.ct_mean_hu == 49.5


def test_a_fingerprint_that_tells_too_little_is_no_plan() -> None:
    grid = fingerprint_of_grid("CT", (50, 50, 50), (1.0, 1.0, 1.0), Histogram.of([1, 2, 3]))
    with pytest.raises(AmosError, match="does not contain the spacing x of any case"):
        plan_from(grid.withholding(2), 15)
    with pytest.raises(AmosError, match="does not contain the CT intensity of any organ"):
        plan_from(Fingerprint(CT=grid.CT.model_copy(update={"intensity": Histogram()})), 15)


def test_the_intensities_are_those_of_the_labelled_voxels_and_are_measured_once(
    tmp_path: Path, tiny_cohort: Cohort
) -> None:
    import nibabel as nib

    cases = [case for case in measured_cases(tiny_cohort) if case.modality == "CT"]
    found = fingerprint_of_cases(cases, tiny_cohort.organs, store=tmp_path)
    values = []
    for case in cases:
        assert case.label is not None
        image, label = (np.asarray(nib.load(path).dataobj) for path in (case.image, case.label))  # pyright: ignore
        values += image[label > 0].tolist()
    assert found.CT.intensity.total == len(values)
    assert found.CT.intensity.quantile(0.5) == np.median(values)
    assert found.CT.shape[0].counts == {24: 4}
    assert found.CT.extent_mm[1].counts == {175: 4}
    kept = sorted(tmp_path.glob("fingerprints/*/*.json"))
    assert len(kept) == len(cases)
    before = [file.stat().st_mtime_ns for file in kept]
    assert fingerprint_of_cases(cases, tiny_cohort.organs, store=tmp_path) == found
    assert [file.stat().st_mtime_ns for file in kept] == before


def test_a_cohort_without_labelled_training_cases_is_refused(tiny_cohort: Cohort) -> None:
    with pytest.raises(AmosError, match="no labelled case in train"):
        measured_cases(tiny_cohort.only(["D"]))
