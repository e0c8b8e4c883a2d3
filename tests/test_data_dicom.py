"""`amos-fl data dicom`: an export of an archive becomes a cohort, voxel by voxel, or says in a sentence why not."""

import csv
import gzip
import random
import stat
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("highdicom")

import pydicom
from dicom_series import assert_same_in_space, write_enhanced
from fuzzing import SEED, Budget, flipped, judged
from hypothesis import given, settings
from hypothesis import strategies as st
from pacs import (
    BIRTH,
    ID,
    NAME,
    OBLIQUE,
    SHAPE,
    STRAIGHT,
    Contour,
    box,
    ct_of,
    in_box,
    write_ct,
    write_rtstruct,
    write_seg,
)
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from amos_fl.cli.main import run
from amos_fl.cohort.table import Case, Cohort, read_cohort
from amos_fl.dicom.contours import filled

LIVER, SPLEEN = ((2.3, 3.4), (13.6, 12.2)), ((15.2, 4.4), (21.7, 15.6))


def data_dicom(export: Path, *more: str) -> Cohort:
    """The cohort that an export becomes, in place of one that another test of it has left."""
    out = export.parent / "cohort"
    for name in ("cohort.csv", "organs.csv"):
        (out / name).unlink(missing_ok=True)
    assert run(["data", "dicom", str(export), "--out", str(out), *more]) == 0
    return read_cohort(out)


def only_case(cohort: Cohort) -> Case:
    [case] = cohort.cases
    return case


def label_of(case: Case, affine: np.ndarray = STRAIGHT) -> np.ndarray:
    """The label map as (column, row, slice) of the series as it was written: the program orders slices head to feet."""
    assert case.label is not None
    image = nib.Nifti1Image.from_filename(case.label)
    there = np.linalg.inv(image.affine) @ affine @ [0, 0, SHAPE[2] - 1, 1]
    np.testing.assert_allclose(there, [0, 0, 0, 1], atol=1e-3)
    np.testing.assert_allclose(image.affine[:3, 2], -affine[:3, 2], atol=1e-4)
    return np.asarray(image.dataobj)[..., ::-1]


def on(slices: range, points: np.ndarray) -> list[Contour]:
    return [(z, points) for z in slices]


def solid(plane: np.ndarray, slices: range) -> np.ndarray:
    """The mask (column, row, slice) that is `plane` on these slices."""
    mask = np.zeros(SHAPE, bool)
    mask[:, :, slices.start : slices.stop] = plane[..., None]
    return mask


# --- contours ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("affine", [STRAIGHT, OBLIQUE], ids=["straight", "oblique"])
@pytest.mark.parametrize("technique", ["keyhole", "xor", "nested"])
def test_contours_with_a_hole_are_filled_on_the_grid_of_their_series(
    tmp_path: Path, affine: np.ndarray, technique: str
) -> None:
    slices = write_ct(tmp_path / "export/1", affine=affine)
    outer, inner, island = box((2.3, 2.4), (20.6, 16.0), 14), box((6.2, 5.3), (16.4, 13.3), 14), box((9, 8), (13, 11))
    if technique == "keyhole":
        contours = on(range(3, 9), np.concatenate([outer, outer[:1], inner[::-1], inner[-1:]]))
    else:  # in any order
        contours = [c for z in (7, 3, 8, 4, 6, 5) for c in ((z, inner), (z, island), (z, outer))]
    kind = "CLOSEDPLANAR_XOR" if technique == "xor" else "CLOSED_PLANAR"
    write_rtstruct(tmp_path / "export/2/RS", slices, affine, {"Liver": contours}, kind=kind)
    case = only_case(data_dicom(tmp_path / "export"))
    ring = in_box((2.3, 2.4), (20.6, 16.0), 14) & ~in_box((6.2, 5.3), (16.4, 13.3), 14)
    expected = ring if technique == "keyhole" else ring | in_box((9, 8), (13, 11))
    np.testing.assert_array_equal(label_of(case, affine), 6 * solid(expected, range(3, 9)))
    assert_same_in_space(nib.Nifti1Image.from_filename(case.image), ct_of(0), affine)
    assert (case.modality, case.annotated) == ("CT", (6,))


COORDINATE = st.integers(-400, 2600).map(lambda hundredths: hundredths / 100)


@settings(max_examples=150)
@given(st.lists(st.lists(st.tuples(COORDINATE, COORDINATE), min_size=3, max_size=8), min_size=1, max_size=3))
def test_filling_is_the_even_odd_rule_at_the_centres_of_pixels(polygons: list[list[tuple[float, float]]]) -> None:
    contours = [np.array(polygon) for polygon in polygons]
    size = (20, 22)
    found, mask = filled(contours, size), np.zeros(size, bool)
    if found is not None:
        rows, columns = found.mask.shape
        mask[found.row : found.row + rows, found.column : found.column + columns] = found.mask
    distinct = list({contour.tobytes(): contour for contour in contours}.values())
    centres = np.stack(np.meshgrid(np.arange(size[1]), np.arange(size[0])), -1).astype(float)
    clear = np.min([distances(contour, centres) for contour in distinct], axis=0) > 0.05
    crossed = np.sum([crossings(contour, centres) for contour in distinct], axis=0)
    np.testing.assert_array_equal(mask[clear], crossed[clear] % 2 == 1)


def crossings(polygon: np.ndarray, at: np.ndarray) -> np.ndarray:
    """How often the rays from points (..., 2) to the right cross a polygon."""
    x, y = at[..., 0, None], at[..., 1, None]
    (x0, y0), (x1, y1) = polygon.T, np.roll(polygon, -1, axis=0).T
    climbs = np.where(y1 == y0, 1, y1 - y0)
    return (((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) / climbs * (x1 - x0))).sum(-1)


def distances(polygon: np.ndarray, at: np.ndarray) -> np.ndarray:
    along = np.roll(polygon, -1, axis=0) - polygon
    lengths = (along**2).sum(1)
    to = at[..., None, :] - polygon
    share = np.clip((to * along).sum(-1) / np.where(lengths > 0, lengths, 1), 0, 1)
    return np.linalg.norm(share[..., None] * along - to, axis=-1).min(-1)


def test_points_on_a_contour_are_inside_as_the_standard_says() -> None:
    """So contours through the centres of border voxels, as OpenCV traces them, lose nothing."""
    found = filled([box((3, 2), (9, 7)), box((5, 4), (7, 6))], (12, 12))
    assert found is not None
    expected = np.ones((6, 7), bool)
    expected[3, 3] = False  # the hole's own contour is part of the structure
    np.testing.assert_array_equal(found.mask, expected)


def test_what_contours_leave_open_is_told_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slices = write_ct(tmp_path / "export")
    rois = {
        "liver": [*on(range(2, 5), box(*LIVER)), *on(range(6, 10), box(*LIVER))],
        "spleen": on(range(2, 11, 2), box(*SPLEEN)),  # type: ignore[arg-type]
        "aorta": [*on(range(10, 15), box((3, 13), (6, 16)))],
        "stomach": [(3, box((15, 3), (17, 5))), (3, box((16, 4), (19, 8)))],
        "duodenum": [(3, np.array([[5.0, 5.0]]))],
    }
    write_rtstruct(tmp_path / "export/RS", slices, STRAIGHT, rois)
    case = only_case(data_dicom(tmp_path / "export"))
    said = capsys.readouterr().out
    assert "liver: no contour on 1 of the 8 slices from its first to its last" in said
    assert "spleen: not used, was drawn on 5 of the 9 slices from its first to its last, about every 2nd" in said
    assert "aorta: 3 contours beyond the scan's slices" in said
    assert "stomach: contours cross one another on 1 slice" in said
    assert case.annotated == (6, 7, 8)


def test_contours_between_the_slices_are_not_moved_onto_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slices = write_ct(tmp_path / "export")
    write_rtstruct(tmp_path / "export/RS", slices, STRAIGHT, {"liver": on(range(2, 6), box(*LIVER))}, off_mm=1.4)
    refused(tmp_path, "liver: not used, has a contour 1.4 mm off the scan's slices", capsys)


# --- segmentations ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
@pytest.mark.parametrize("affine", [STRAIGHT, OBLIQUE], ids=["straight", "oblique"])
def test_segmentations_of_every_kind_are_read(
    tmp_path: Path, kind: str, affine: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    slices = write_ct(tmp_path / "export/a", affine=affine)
    masks = {"Liver": solid(in_box(*LIVER), range(2, 9)), "Spleen": solid(in_box(*SPLEEN), range(5, 8))}
    given = {name: mask * 0.6 + 0.3 * ~mask for name, mask in masks.items()} if kind == "FRACTIONAL" else masks
    more = {"fractional_type": "PROBABILITY"} if kind == "FRACTIONAL" else {}
    write_seg(tmp_path / "export/b/SEG.dcm", slices, given, kind=kind, **more)
    case = only_case(data_dicom(tmp_path / "export"))
    np.testing.assert_array_equal(label_of(case, affine), 6 * masks["Liver"] + masks["Spleen"])
    assert ("voxels of one half or more are taken" in capsys.readouterr().out) == (kind == "FRACTIONAL")


def test_segments_that_overlap_are_given_to_the_smaller_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slices = write_ct(tmp_path / "export")
    masks = {
        "stomach": solid(in_box((2, 2), (12, 12)), range(2, 9)),
        "duodenum": solid(in_box((10, 10), (15, 15)), range(2, 9)),
    }
    write_seg(tmp_path / "export/SEG.dcm", slices, masks)
    found = label_of(only_case(data_dicom(tmp_path / "export")))
    np.testing.assert_array_equal(found == 13, masks["duodenum"])
    np.testing.assert_array_equal(found == 7, masks["stomach"] & ~masks["duodenum"])
    assert f"share {3 * 3 * 7} voxels, taken as the smaller: duodenum" in capsys.readouterr().out


@pytest.mark.parametrize("grid", ["coarse", "cropped", "corner", "sagittal"])
def test_a_segmentation_on_another_grid_is_brought_over_by_nearest_voxel(
    tmp_path: Path, grid: str, capsys: pytest.CaptureFixture[str]
) -> None:
    slices = write_ct(tmp_path / "export", affine=OBLIQUE)
    random = np.random.default_rng(3)
    if grid == "coarse":  # each of its voxels lies on eight of the scan's
        drawn = random.random((12, 10, 6)) < 0.4
        change = np.array([[2, 0, 0, 0.5], [0, 2, 0, 0.5], [0, 0, 2, 0.5], [0, 0, 0, 1]])
        expected = drawn.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    elif grid in ("cropped", "corner"):
        drawn, change = random.random((9, 8, 5)) < 0.4, np.eye(4)
        x, y, z = change[:3, 3] = (4, 7, 3) if grid == "cropped" else (0, 0, 0)
        expected = np.zeros(SHAPE, bool)
        expected[x : x + 9, y : y + 8, z : z + 5] = drawn
    else:  # its columns go along the scan's slices, its slices along the scan's columns
        drawn, change = random.random(SHAPE[::-1]) < 0.4, np.eye(4)[[2, 1, 0, 3]]
        expected = drawn.transpose(2, 1, 0)
    write_seg(tmp_path / "export/SEG.dcm", slices, {"Liver": drawn}, **placed(OBLIQUE @ change, drawn.shape[2]))
    found = label_of(only_case(data_dicom(tmp_path / "export")), OBLIQUE)
    np.testing.assert_array_equal(found == 6, expected)
    assert "drawn on another grid than the scan's" in capsys.readouterr().out


def placed(affine: np.ndarray, frames: int) -> dict[str, Any]:
    """Where highdicom shall write the frames of a grid whose affine leads to RAS mm."""
    import highdicom as hd

    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    places = [(lps @ [0, 0, z, 1])[:3].tolist() for z in range(frames)]
    directions = [*(lps[:3, 0] / spacing[0]), *(lps[:3, 1] / spacing[1])]
    measures = hd.PixelMeasuresSequence([float(spacing[1]), float(spacing[0])], float(spacing[2]), float(spacing[2]))
    return {
        "plane_positions": [hd.PlanePositionSequence("PATIENT", place) for place in places],
        "plane_orientation": hd.PlaneOrientationSequence("PATIENT", directions),
        "pixel_measures": measures,
    }


def test_segments_named_by_nothing_but_a_code_are_known_by_it(tmp_path: Path) -> None:
    slices = write_ct(tmp_path / "export")
    masks = {"Segment_1": solid(in_box(*LIVER), range(2, 9)), "Segment_2": solid(in_box(*SPLEEN), range(2, 9))}
    meanings = {"Segment_1": codes.SCT.Liver, "Segment_2": codes.SCT.Spleen}
    write_seg(tmp_path / "export/SEG.dcm", slices, masks, meanings=meanings)
    assert only_case(data_dicom(tmp_path / "export")).annotated == (1, 6)


def test_one_name_with_two_meanings_is_two_structures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, meaning in enumerate([codes.SCT.Liver, codes.SCT.Spleen]):
        slices = write_ct(tmp_path / f"export/{number}", seed=number)
        masks = {"Segment_1": solid(in_box(*LIVER), range(2, 9)), "Aorta": solid(in_box(*SPLEEN), range(2, 9))}
        meanings = {"Segment_1": meaning, "Aorta": [codes.SCT.Aorta, codes.SCT.Organ][number]}
        write_seg(tmp_path / f"export/{number}/SEG.dcm", slices, masks, meanings=meanings)
    cohort = data_dicom(tmp_path / "export")
    assert sorted(case.annotated for case in cohort.cases) == [(1, 8), (6, 8)]
    said = capsys.readouterr().out
    assert "Segment_1 (Liver)" in said
    assert "Segment_1 (Spleen)" in said


# --- what belongs to what ---------------------------------------------------------------------------


def refused(tmp_path: Path, words: str, capsys: pytest.CaptureFixture[str], *more: str) -> None:
    """Nothing of the export becomes a case: one sentence, and the reason in the list above it."""
    out = tmp_path / "cohort"
    assert run(["data", "dicom", str(tmp_path / "export"), "--out", str(out), *more]) == 2
    said = capsys.readouterr()
    assert words in said.out + said.err, said.out + said.err
    assert said.err.count("\n") == 1
    assert not (out / "cohort.csv").exists()


def liver_on(path: Path, slices: list[pydicom.Dataset], **tags: object) -> None:
    write_rtstruct(path, slices, STRAIGHT, {"liver": on(range(2, 9), box(*LIVER))}, **tags)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"PatientID": "another"}, "is of another patient than its series"),
        ({"ReferencedFrameOfReferenceSequence": [], "StructureSetROISequence": []}, "names no series"),
    ],
)
def test_a_label_of_something_else_is_left_out_with_the_reason(
    tmp_path: Path, tags: dict[str, object], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    liver_on(tmp_path / "export/RS", write_ct(tmp_path / "export"), **tags)
    refused(tmp_path, words, capsys)


def test_a_label_of_another_frame_of_reference_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slices = write_ct(tmp_path / "export")
    for ds in slices:
        ds.FrameOfReferenceUID = generate_uid()
    liver_on(tmp_path / "export/RS", slices)
    refused(tmp_path, "is of another frame of reference than its series", capsys)


def test_a_bad_series_or_label_takes_no_other_along(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export = tmp_path / "export"
    for number in range(4):
        slices = write_ct(export / f"{number}/CT", seed=number, PatientID=f"P{number}")
        liver_on(export / f"{number}/RS", slices)
    (export / "1/RS").write_bytes((export / "1/RS").read_bytes()[:900])
    some = sorted((export / "2/CT").iterdir())[5]
    some.write_bytes(some.read_bytes()[:-200])
    (export / "stray.dcm").write_bytes(b"")
    liver_on(export / "lonely", write_ct(tmp_path / "elsewhere", seed=9))
    cohort = data_dicom(export)
    said = capsys.readouterr().out
    assert len(cohort.cases) == 2
    for words in (
        "RTSTRUCT in 1/RS: is cut off",
        "2/CT: 1 of 12 files cannot be used",
        "its series is left out (CT series 3 'abdomen')",
        "file in stray.dcm: is empty",
        "in lonely: its series is not in the export",
        "1/CT: no label refers to it",
    ):
        assert words in said, words
    with (tmp_path / "cohort-private/left_out.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 6


def test_an_organ_in_two_labels_of_a_series_waits_for_a_choice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slices = write_ct(tmp_path / "export")
    liver_on(tmp_path / "export/R1", slices, label="first reader")
    liver_on(tmp_path / "export/R2", slices, label="second reader")
    refused(tmp_path, "liver is in two of its labels, R1 and R2; choose one with --labels", capsys)
    assert only_case(data_dicom(tmp_path / "export", "--labels", "second")).annotated == (6,)


def test_labels_of_one_series_with_different_organs_are_joined(tmp_path: Path) -> None:
    slices = write_ct(tmp_path / "export")
    liver_on(tmp_path / "export/RS", slices)
    write_seg(tmp_path / "export/SEG", slices, {"spleen": solid(in_box(*SPLEEN), range(5, 8))})
    case = only_case(data_dicom(tmp_path / "export"))
    assert case.annotated == (1, 6)
    np.testing.assert_array_equal(label_of(case) == 1, solid(in_box(*SPLEEN), range(5, 8)))


def test_series_are_chosen_by_modality_and_description(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export = tmp_path / "export"
    for number, (modality, words) in enumerate([("CT", "Portal venous"), ("CT", "native"), ("MR", "T2 portal")]):
        tags = {"description": words, "modality": modality, "number": number + 1}
        slices = write_ct(export / str(number), seed=number, **tags)
        liver_on(export / f"RS{number}", slices)
    write_ct(export / "unlabelled", seed=8, description="portal late")
    assert only_case(data_dicom(export, "--modality", "CT", "--description", "portal")).modality == "CT"
    assert len(data_dicom(export, "--description", "*portal*").cases) == 2
    assert len(data_dicom(export, "--exclude", "native").cases) == 2
    with_all = data_dicom(export, "--unlabelled", "--site", "north")
    assert [case.split for case in with_all.cases if case.label is None] == ["test"]
    assert with_all.sites == ("north",)
    capsys.readouterr()
    assert run(["data", "dicom", str(export), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "3 series" in said
    assert "CT series 2 'native'" in said
    assert "in unlabelled: no label refers to it" in said


def test_an_enhanced_file_is_a_series_too(tmp_path: Path) -> None:
    ds = write_enhanced(tmp_path / "export/one", ct_of(0), STRAIGHT, PatientName=NAME)
    liver_on(tmp_path / "export/two", [ds])
    case = only_case(data_dicom(tmp_path / "export"))
    np.testing.assert_array_equal(label_of(case), 6 * solid(in_box(*LIVER), range(2, 9)))


# --- organs -----------------------------------------------------------------------------------------


def test_structures_become_organs_by_a_label_map_that_was_suggested(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slices = write_ct(tmp_path / "export")
    shapes = {"Kidney_L": LIVER, "Milz": SPLEEN, "BODY": ((0.5, 0.5), (22, 18))}
    rois = {name: on(range(2, 9), box(*shape)) for name, shape in shapes.items()}
    write_rtstruct(tmp_path / "export/RS", slices, STRAIGHT, rois)
    suggestion = tmp_path / "map.csv"
    assert run(["data", "dicom", str(tmp_path / "export"), "--dry-run", "--suggestion", str(suggestion)]) == 0
    assert suggestion.read_text().splitlines() == ["organ,equals", "BODY,", "Kidney_L,left kidney", "Milz,"]
    assert only_case(data_dicom(tmp_path / "export")).annotated == (3,)
    suggestion.write_text(suggestion.read_text().replace("Milz,", "Milz,spleen"))
    assert only_case(data_dicom(tmp_path / "export", "--label-map", str(suggestion))).annotated == (1, 3)
    bundle = tmp_path / "organs.csv"
    bundle.write_text("label,organ\n1,left kidney\n2,milz\n")
    cohort = data_dicom(tmp_path / "export", "--organs", str(bundle), "--site", "s")
    assert cohort.organs == {1: "left kidney", 2: "milz"}
    assert only_case(cohort).annotated == (1, 2)
    suggestion.write_text("organ,equals\nMilz,splen\nNiere,\n")
    capsys.readouterr()
    refused_twice = ["data", "dicom", str(tmp_path / "export"), "--out", str(tmp_path / "b"), "--label-map"]
    assert run([*refused_twice, str(suggestion)]) == 2
    assert "there is no organ 'splen'; did you mean 'spleen'?" in capsys.readouterr().err


def test_structures_that_become_nothing_are_counted_and_a_dry_run_without_any_writes_no_label_map(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slices = write_ct(tmp_path / "export")
    empty = tmp_path / "private/map.csv"
    assert run(["data", "dicom", str(tmp_path / "export"), "--dry-run", "--suggestion", str(empty)]) == 0
    assert f"no structure was found, so {empty} is not written" in capsys.readouterr().out
    assert not empty.exists()
    rois = {name: on(range(2, 9), box(*shape)) for name, shape in {"Leber": LIVER, "Milz": SPLEEN}.items()}
    write_rtstruct(tmp_path / "export/RS", slices, STRAIGHT, rois)
    assert run(["data", "dicom", str(tmp_path / "export"), "--dry-run", "--suggestion", str(empty)]) == 0
    assert "2 structures are no organ here; to say which one is, write a label map" in capsys.readouterr().out
    assert empty.exists()


# --- patients ---------------------------------------------------------------------------------------


def test_nothing_of_a_patient_is_in_the_cohort_and_its_names_stay(tmp_path: Path) -> None:
    export = tmp_path / "export"
    for number in range(3):
        slices = write_ct(export / f"DOE_JANE/{number}", seed=number, number=number, SeriesDescription=NAME)
        liver_on(export / f"DOE_JANE/{number}/RS", slices, label=NAME)
    first = data_dicom(export)
    files = [path for path in (tmp_path / "cohort").rglob("*") if path.is_file()]
    assert len(files) == 7
    for path in files:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        for word in (NAME, "DOE", BIRTH, ID, "20240607"):
            assert word.encode() not in content, path
            assert word not in path.name
    assert len({case.patient for case in first.cases}) == 1
    (export / "DOE_JANE").rename(export / "other")
    assert {case.case for case in data_dicom(export).cases} == {case.case for case in first.cases}
    elsewhere = data_dicom(export, "--private", str(tmp_path / "new"))
    assert not {case.case for case in elsewhere.cases} & {case.case for case in first.cases}
    private = tmp_path / "cohort-private"
    for folder in (private, tmp_path / "cohort", tmp_path / "cohort/images", tmp_path / "cohort/labels"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in private.iterdir()} == {0o600}
    with (private / "cases.csv").open() as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    assert {row["patient_id"] for row in rows.values()} == {ID}
    assert set(rows) == {case.case for case in first.cases}


def test_a_cohort_that_cannot_be_made_is_said_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_ct(tmp_path / "export")
    (tmp_path / "file").touch()
    out = tmp_path / "file/cohort"
    private = ["--unlabelled", "--private", str(tmp_path / "private")]
    assert run(["data", "dicom", str(tmp_path / "export"), "--out", str(out), *private]) == 2
    said = capsys.readouterr().err
    assert said == f"amos-fl: {out}: the folder cannot be made (Not a directory); choose another place\n"


def test_splits_are_drawn_by_patient_and_a_table_gives_sites(tmp_path: Path) -> None:
    export = tmp_path / "export"
    for number in range(8):
        slices = write_ct(export / str(number), seed=number, PatientID=f"P{number // 2}", number=number)
        liver_on(export / f"{number}/RS", slices)
    cohort = data_dicom(export)
    splits: dict[str, set[str]] = {}
    for case in cohort.cases:
        splits.setdefault(case.patient, set()).add(case.split)
    assert len(splits) == 4
    assert all(len(found) == 1 for found in splits.values())
    assert {case.split for case in cohort.cases} == {"train", "val", "test"}
    table = tmp_path / "table.csv"
    rows = [f"{case.case},{'north' if i % 2 else 'south'}" for i, case in enumerate(cohort.cases)]
    table.write_text("\n".join(["case,site", *rows]))
    assert data_dicom(export, "--table", str(table)).sites == ("north", "south")


# --- refusals ---------------------------------------------------------------------------------------


def test_what_cannot_be_read_is_refused_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "export").mkdir()
    refused(tmp_path, "holds no DICOM file", capsys)
    (tmp_path / "export/notes.txt").write_text("nothing")
    refused(tmp_path, "holds no DICOM file", capsys)
    slices = write_ct(tmp_path / "export")
    refused(tmp_path, "no series could become a case", capsys)
    liver_on(tmp_path / "export/RS", slices)
    refused(tmp_path, "is in the cohort, and would identify patients", capsys, "--private", str(tmp_path / "cohort/x"))
    assert run(["data", "dicom", str(tmp_path / "export")]) == 2
    assert "needs --out" in capsys.readouterr().err
    assert run(["data", "dicom", str(tmp_path / "nowhere"), "--dry-run"]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_dicom_in_a_cohort_is_told_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slices = write_ct(tmp_path / "PAT1/CT")
    write_seg(tmp_path / "PAT1/SEG", slices, {"liver": solid(in_box(*LIVER), range(2, 9))})
    rows = ["case,site,modality,split,image,label,annotated", "a,n,CT,train,PAT1/CT,PAT1/SEG,"]
    (tmp_path / "cohort.csv").write_text("\n".join(rows))
    assert run(["data", "check", str(tmp_path)]) == 2
    said = " ".join(word for word in capsys.readouterr().out.split() if word != "│")
    assert "CT: is a folder of DICOM files, and a NIfTI file is needed; make a cohort" in said
    assert "SEG: is a DICOM file, and a NIfTI file is needed; make a cohort" in said


def test_damaged_files_of_an_export_are_named_or_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export, random_ = tmp_path / "export", random.Random(SEED)
    slices = write_ct(export / "CT")
    rois = {"spleen": on(range(2, 9), box(*SPLEEN)), "aorta": on(range(2, 9), box((2, 13), (4, 15)))}
    write_rtstruct(export / "RS/RS", slices, STRAIGHT, rois)
    write_seg(export / "SEG/SEG", slices, {"liver": solid(in_box(*LIVER), range(2, 9))})
    files = [export / "RS/RS", export / "SEG/SEG", sorted((export / "CT").iterdir())[3]]
    whole = {file: file.read_bytes() for file in files}
    out, budget = tmp_path / "cohort", Budget(60)
    named = 0
    while budget.left:
        for file in files:
            cut = random_.random() < 0.2
            content = whole[file]
            file.write_bytes(content[: random_.randrange(len(content))] if cut else flipped(content, random_))
            code, said = judged(["data", "dicom", str(export), "--out", str(out)], capsys)
            budget.count(code)
            named += "left out:" in said or "not used" in said
            file.write_bytes(whole[file])
    assert named > budget.tried / 4
