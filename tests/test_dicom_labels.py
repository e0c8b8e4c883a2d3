"""Labels of an export, drawn as contours or segments, in the cohort voxel by voxel."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("highdicom")

from dicom_cohorts import LIVER, SPLEEN, data_dicom, label_of, on, only_case, refused, solid
from dicom_series import assert_same_in_space
from hypothesis import given, settings
from hypothesis import strategies as st
from pacs import (
    OBLIQUE,
    SHAPE,
    STRAIGHT,
    box,
    ct_of,
    in_box,
    write_ct,
    write_rtstruct,
    write_seg,
)
from pydicom.sr.codedict import codes

from amos_fl.dicom.contours import filled

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
