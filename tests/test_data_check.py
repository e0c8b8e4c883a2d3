"""What `amos-fl data check` says of a cohort: faults that stop it, and oddities that a person should judge."""

import gzip
import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from conftest import REAL, needs_real
from fake_amos import TABLE, write_metadata

from amos_fl.cohort.check import CaseIssue, check_cohort
from amos_fl.cohort.organs import AMOS_ORGANS
from amos_fl.cohort.table import Case, Cohort, read_cohort

SHAPE = (24, 24, 16)
AFFINE = np.diag([8.0, 8.0, 10.0, 1.0])


def write(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def a_label() -> np.ndarray:
    """A liver of 1.3 l and a spleen of 0.2 l in whole pieces."""
    label = np.zeros(SHAPE, np.uint8)
    label[2:14, 2:18, 4:15] = 6
    label[16:22, 10:17, 5:13] = 1
    return label


def a_scan(number: int) -> np.ndarray:
    """A CT: air around, soft tissue within, and noise of its own."""
    noise = np.random.default_rng(number).normal(0, 15, SHAPE)
    body = np.zeros(SHAPE, bool)
    body[1:23, 1:23] = True
    return np.where(body, 50 + noise, -1000 + noise).astype(np.int16)


class Made:
    """A cohort of a few written cases that a test then spoils."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cases: list[Case] = []
        for number, (site, split) in enumerate([("A", "train"), ("A", "test"), ("B", "train")]):
            self.add(f"amos_{number + 1:04d}", site, split, a_scan(number), a_label())

    def add(self, name: str, site: str, split: str, image: np.ndarray, label: np.ndarray | None) -> Case:
        if label is not None:
            label = label.copy()
            label[5, 5 + len(self.cases), 5] = 0  # no two label maps are the same
        case = Case(
            name,
            site,
            "CT",
            split,  # pyright: ignore[reportArgumentType]
            write(self.folder / "images" / f"{name}.nii.gz", image),
            None if label is None else write(self.folder / "labels" / f"{name}.nii.gz", label),
            tuple(AMOS_ORGANS),
        )
        self.cases.append(case)
        return case

    def check(self, workers: int = 1) -> list[CaseIssue]:
        return check_cohort(Cohort(tuple(self.cases)), workers=workers)

    def only_finding(self) -> CaseIssue:
        (finding,) = self.check()
        return finding


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


def label_of(case: Case) -> Path:
    assert case.label is not None
    return case.label


def test_a_sound_cohort_has_no_findings(made: Made) -> None:
    assert made.check() == []


def test_workers_find_the_same_in_the_same_order(made: Made) -> None:
    made.cases[2].image.unlink()
    write(label_of(made.cases[0]), np.zeros(SHAPE, np.uint8))
    made.add("amos_0009", "B", "test", a_scan(0), a_label())
    assert made.check(workers=2) == made.check(workers=1)
    assert len(made.check()) == 3


def test_progress_is_told_after_every_case(made: Made) -> None:
    told: list[tuple[int, int, str]] = []
    check_cohort(Cohort(tuple(made.cases)), workers=1, on_case=lambda *now: told.append(now))
    assert told == [(1, 3, "amos_0001"), (2, 3, "amos_0002"), (3, 3, "amos_0003")]


def test_an_interruption_leaves_no_worker_behind(made: Made) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check_cohort(Cohort(tuple(made.cases)), workers=2, on_case=interrupt)
    for worker in multiprocessing.active_children():
        worker.join(10)
    assert multiprocessing.active_children() == []


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def truncate_inside(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-100]))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (Path.unlink, "no such file"),
        (truncate, "truncated or damaged"),
        (truncate_inside, "truncated or damaged"),
        (lambda path: path.write_bytes(b""), ""),
        (lambda path: path.write_text("a text"), ""),
        (lambda path: write(path, np.zeros((8, 8, 4, 2), np.int16)), "8x8x4x2; a scan has three dimensions"),
        (lambda path: write(path, np.zeros((8, 8), np.int16)), "8x8; a scan has three dimensions"),
    ],
)
@pytest.mark.parametrize("which", ["image", "label"])
def test_a_file_that_cannot_be_read_is_an_error(
    made: Made, spoil: Callable[[Path], object], sentence: str, which: str
) -> None:
    path = made.cases[1].image if which == "image" else label_of(made.cases[1])
    spoil(path)
    (finding,) = [f for f in made.check() if f.severity == "error"]
    assert finding.case == "amos_0002"
    assert path.name in finding.message
    assert sentence in finding.message
    assert "\n" not in finding.message


def test_a_patient_in_several_splits_is_named(made: Made) -> None:
    first, second, *others = made.cases
    cases = (replace(first, patient="p1", split="train"), replace(second, patient="p1", split="test"), *others)
    messages = [finding.message for finding in check_cohort(Cohort(cases))]
    assert any("one patient by the column patient, in several splits" in message for message in messages)


def test_image_and_label_of_different_size_are_an_error(made: Made) -> None:
    write(label_of(made.cases[0]), a_label()[..., :-1])
    finding = made.only_finding()
    assert finding == CaseIssue(
        "error",
        "amos_0001",
        "amos_0001.nii.gz: label is 24x24x15, image 24x24x16; they must share a grid: take the image that it was drawn "
        "on, or resample it to this one",
    )


def test_a_label_elsewhere_is_an_error_and_a_small_difference_of_the_affine_is_none(made: Made) -> None:
    affine = AFFINE.copy()
    affine[:3, 3] = 1e-3
    write(label_of(made.cases[0]), a_label(), affine)
    assert made.check() == []
    affine[:3, 3] = 100
    write(label_of(made.cases[0]), a_label(), affine)
    assert made.only_finding().severity == "error"
    assert "they must share a grid" in made.only_finding().message


def test_other_orientations_types_and_oblique_grids_are_fine(made: Made) -> None:
    turned = np.array([[0, -8.0, 0, 100], [8.0, 0, 0, -50], [0, 0, -10.0, 20], [0, 0, 0, 1]])
    tilt = np.eye(4)
    tilt[1:3, 1:3] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    for case, affine, dtype in zip(made.cases, (turned, tilt @ AFFINE, AFFINE), ("f8", "i4", "f4"), strict=True):
        image, label = (np.asarray(nibabel.load(p).dataobj) for p in (case.image, label_of(case)))  # pyright: ignore[reportAttributeAccessIssue]
        write(case.image, image.astype(dtype), affine)
        write(label_of(case), label.astype("f8"), affine)
    assert made.check() == []


@pytest.mark.parametrize("value", [16, 255, -1, 0.5])
def test_a_label_value_that_is_no_organ_is_an_error(made: Made, value: float) -> None:
    label = a_label().astype(np.float32)
    label[0, 0, 0] = value
    write(label_of(made.cases[0]), label)
    finding = made.only_finding()
    assert (finding.severity, finding.case) == ("error", "amos_0001")
    assert "is not an organ" in finding.message or "not whole numbers" in finding.message


@pytest.mark.parametrize(("site", "split"), [("B", "train"), ("A", "test"), ("B", "test")])
def test_the_same_scan_in_two_splits_or_two_sites_is_an_error(made: Made, site: str, split: str) -> None:
    made.add("again", site, split, a_scan(0), a_label())
    finding = made.only_finding()
    assert finding.severity == "error"
    assert finding.message == (
        f"again ({split} at {site}) is the same scan as amos_0001 (train at A); keep it in one place only"
    )


def test_the_same_scan_is_known_by_its_voxels_not_by_its_file(made: Made) -> None:
    flipped = np.diag([-8.0, 8.0, 10.0, 1.0])
    case = made.add("again", "B", "test", a_scan(0), None)
    write(case.image, a_scan(0).astype(np.float64)[::-1], flipped)
    assert made.only_finding().severity == "error"
    write(case.image, a_scan(0) + (np.arange(16) == 3).astype(np.int16))
    assert made.check() == []


def test_the_same_scan_twice_in_one_split_of_one_site_is_a_warning(made: Made) -> None:
    made.add("again", "A", "train", a_scan(0), a_label())
    finding = made.only_finding()
    assert (finding.severity, finding.case) == ("warning", "again")


def test_the_same_label_map_on_another_image_is_a_warning(made: Made) -> None:
    made.cases[1] = replace(made.cases[1], label=made.cases[0].label)
    finding = made.only_finding()
    assert (finding.severity, finding.case) == ("warning", "amos_0002")
    assert "has the same label map as amos_0001 (train at A) but another image" in finding.message


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda scan: scan + 1024, "not in HU? 99% of the voxels lie between"),
        (lambda scan: scan / 1000.0, "not in HU? 99% of the voxels lie between"),
        (lambda scan: np.where(scan > -500, -700, scan), "the labelled organs have a median of -700"),
    ],
)
def test_values_that_are_no_hu_are_a_warning_in_ct_only(
    made: Made, change: Callable[[np.ndarray], np.ndarray], sentence: str
) -> None:
    write(made.cases[0].image, change(a_scan(0)))
    finding = made.only_finding()
    assert finding.severity == "warning"
    assert sentence in finding.message
    made.cases[0] = replace(made.cases[0], modality="MR")
    assert made.check() == []


def test_organs_of_implausible_volume_are_a_warning_unless_the_scan_cuts_them_off(made: Made) -> None:
    label = a_label()
    label[16:22, 10:17, 5:13] = 0
    label[18:20, 10:12, 5:7] = 1
    write(label_of(made.cases[0]), label)
    assert made.only_finding() == CaseIssue("warning", "amos_0001", "spleen of 5.12 ml (usual: 20 to 2500 ml)")
    label[18:20, 10:12, 0] = 1
    label[18:20, 10:12, 1:7] = 0
    write(label_of(made.cases[0]), label)
    assert made.check() == []
    label[label == 6] = 0
    label[10:14, 4:22, 3:14] = 12
    write(label_of(made.cases[0]), label)
    assert "left adrenal gland of 507 ml (usual: 0.3 to 25 ml)" in made.only_finding().message


def test_loose_pieces_are_a_warning_and_specks_are_counted(made: Made) -> None:
    label = a_label()
    label[22, 21, 1] = label[22, 2, 1] = 6
    write(label_of(made.cases[0]), label)
    assert made.only_finding() == CaseIssue("warning", "amos_0001", "loose pieces: 2 of liver (1.28 ml)")


def test_specks_below_100_mm3_are_one_warning_for_the_cohort(made: Made) -> None:
    fine = np.diag([2.0, 2.0, 2.0, 1.0])
    for case in made.cases[:2]:
        label = np.zeros((60, 60, 60), np.uint8)
        label[3:57, 3:57, 3:50] = 6
        label[1, 1, 1] = label[58, 58, 55] = 6
        label[20, 30 + len(case.site), 20] = 6
        image = np.random.default_rng(len(case.split)).normal(50, 10, label.shape)
        image[:2] = -1000
        write(case.image, image, fine)
        write(label_of(case), label, fine)
    findings = [f for f in made.check() if f.case == ""]
    assert findings == [CaseIssue("warning", "", "4 stray pieces of organs below 100 mm³, in 2 label maps")]


def test_a_training_case_without_label_an_empty_label_and_an_unlisted_organ_are_warnings(made: Made) -> None:
    made.cases[0] = replace(made.cases[0], label=None)
    write(label_of(made.cases[1]), np.zeros(SHAPE, np.uint8))
    made.cases[2] = replace(made.cases[2], annotated=(6,))
    assert made.check() == [
        CaseIssue("warning", "amos_0001", "has no label, so it cannot be used in train"),
        CaseIssue("warning", "amos_0002", "its label map is empty"),
        CaseIssue("warning", "amos_0003", "spleen: labelled, but 'annotated' does not list it, so it is not used"),
    ]


def test_patients_with_several_scans_are_a_warning_where_a_metadata_table_lies_near(made: Made) -> None:
    rows = [
        [str(i), birth, "F", "", "Aquilion ONE", "", "", "center"]
        for i, birth in ((1, "19500101"), (2, "19500101"), (3, "19500102"))
    ]
    write_metadata(made.folder / TABLE, rows)
    finding = made.only_finding()
    assert finding == CaseIssue(
        "warning",
        "amos_0001",
        "one patient by birth date and sex, in several splits: amos_0001 (train at A), amos_0002 (test at A)",
    )


def test_errors_come_before_warnings(made: Made) -> None:
    write(label_of(made.cases[0]), np.zeros(SHAPE, np.uint8))
    made.cases[2].image.unlink()
    assert [finding.severity for finding in made.check()] == ["error", "warning"]


@needs_real
def test_real_scans_have_no_errors() -> None:
    findings = check_cohort(read_cohort(REAL), workers=1)
    assert [finding for finding in findings if finding.severity == "error"] == []
