"""DICOM slices are an even, straight stack within half a pixel over the whole scan, or refused with the reason."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("highdicom")

import pydicom
from conftest import NOT_HERE, TEST_DATA
from dicom_series import assert_same_in_space, converted, even_volume, rewrite, turned, write_enhanced, write_series

from amos_fl.errors import AmosError
from amos_fl.inference.scans import find_scans

CASES = TEST_DATA / "cases"


def written(kind: str, folder: Path, array: np.ndarray, affine: np.ndarray, **options: Any) -> Path:
    """The same series in one file per slice, or in one enhanced file."""
    if kind == "enhanced":
        write_enhanced(folder / "all.dcm", array, affine, **options)
    else:
        write_series(folder, array, affine, **options)
    return folder


def tilt(degrees: float, spacing_mm: float) -> np.ndarray:
    return np.array([0.0, math.tan(math.radians(degrees)) * spacing_mm, 0.0])


@pytest.mark.parametrize("kind", ["single", "enhanced"])
@pytest.mark.parametrize("pixel_mm", [0.7, 12.0])
@pytest.mark.parametrize("degrees", [(0, 0, 0), (17, -8, 5)])
def test_a_tilt_is_refused_once_the_last_slice_lies_half_a_pixel_or_a_millimetre_off(
    tmp_path: Path, kind: str, pixel_mm: float, degrees: tuple[float, float, float]
) -> None:
    array, affine = even_volume((14, 11, 40)), turned(degrees, (pixel_mm, pixel_mm, 5.0))
    bound_mm = min(1.0, pixel_mm / 2)
    along = affine[:3, 1] / pixel_mm
    step_mm = bound_mm / 39
    image = converted(written(kind, tmp_path / "below", array, affine, shift_mm=0.95 * step_mm * along))
    np.testing.assert_allclose(np.linalg.norm(image.affine[:3, :3], axis=0), [pixel_mm, pixel_mm, 5.0], atol=1e-3)
    with pytest.raises(AmosError, match=rf"sheared against each other by {1.08 * bound_mm:.1f} mm over the scan"):
        converted(written(kind, tmp_path / "above", array, affine, shift_mm=1.08 * step_mm * along))


@pytest.mark.parametrize("kind", ["single", "enhanced"])
def test_a_tilt_of_two_and_a_half_degrees_is_named_with_its_angle_and_its_length(tmp_path: Path, kind: str) -> None:
    array, affine = even_volume((14, 11, 100)), turned((0, 0, 0), (3.0, 3.0, 5.0))
    with pytest.raises(AmosError, match=r"by 21\.6 mm over the scan \(a tilted gantry of 2\.5 degrees\?\)"):
        converted(written(kind, tmp_path / "series", array, affine, shift_mm=tilt(2.5, 5.0)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"leave_out": (4, 5)}, r"slices are missing in between: 6 are here, but there is room for 8, 2 mm apart"),
        ({"shift_mm": np.array([0.0, 0.5, 0.0])}, r"sheared against each other by 3\.5 mm"),
        ({"twice": range(8)}, r"several slices lie at the same place.*\(16 slices at 8 places\)"),
    ],
)
def test_an_enhanced_file_that_is_no_even_stack_gets_the_words_of_single_slices(tmp_path: Path, options, words) -> None:
    write_enhanced(tmp_path / "series/all.dcm", even_volume(), turned((0, 0, 0), (0.7, 0.7, 2.0)), **options)
    with pytest.raises(AmosError, match=words):
        converted(tmp_path / "series")


def test_a_missing_slice_is_named_by_its_neighbours(tmp_path: Path) -> None:
    array, affine = even_volume((14, 11, 16)), turned((0, 0, 0), (0.7, 0.7, 2.5))
    slices = write_series(tmp_path / "series", array, affine)
    rewrite(tmp_path / "series", slices[:4] + slices[5:])
    words = r"15 are here, but there is room for 16, 2\.5 mm apart \(between IM0004 and IM0003 there are 5 mm\)"
    with pytest.raises(AmosError, match=words):
        converted(tmp_path / "series")


def test_slices_that_drift_from_an_even_spacing_are_refused(tmp_path: Path) -> None:
    """Each distance is within the rounding of 0.05 mm, and the middle of the scan lies 1.6 mm off."""
    array, affine = even_volume((14, 11, 80)), turned((0, 0, 0), (3.0, 3.0, 5.0))
    slices = write_series(tmp_path / "series", array, affine)
    z = float(slices[0].ImagePositionPatient[2])
    for k, ds in enumerate(slices):
        ds.ImagePositionPatient[2] = f"{z:.4f}"
        z += 4.96 if k < 40 else 5.04
    rewrite(tmp_path / "series", slices)
    with pytest.raises(AmosError, match=r"unevenly spaced, 4\.96 to 5\.04 mm apart"):
        converted(tmp_path / "series")


def test_one_slice_turned_by_less_than_a_degree_is_refused_and_named(tmp_path: Path) -> None:
    array, affine = even_volume((60, 50, 8)), turned((0, 0, 0), (3.0, 3.0, 5.0))
    slices = write_series(tmp_path / "series", array, affine)
    cos, sin = math.cos(math.radians(0.7)), math.sin(math.radians(0.7))
    slices[3].ImageOrientationPatient = [f"{v:.9f}" for v in (cos, sin, 0, -sin, cos, 0)]
    rewrite(tmp_path / "series", slices)
    with pytest.raises(AmosError, match=r"rotated against each other \(IM0003\)"):
        converted(tmp_path / "series")


def test_a_slice_moved_to_the_side_is_refused_and_named(tmp_path: Path) -> None:
    slices = write_series(tmp_path / "series", even_volume(), turned((0, 0, 0), (3.0, 3.0, 5.0)))
    slices[5].ImagePositionPatient[0] = f"{float(slices[5].ImagePositionPatient[0]) + 30:.3f}"
    rewrite(tmp_path / "series", slices)
    with pytest.raises(AmosError, match=r"IM0005 lies 2\d\.\d mm beside the line"):
        converted(tmp_path / "series")


@pytest.mark.parametrize(
    ("orientation", "words"),
    [
        ([1, 0, 0, 0.02, 0.9998, 0], "rows and columns are not at right angles, by"),
        ([1, 0, 0, 0, 0, 0], "is not two directions of length 1"),
        ([1, 0, 0, 1, 0, 0], "rows and columns are not at right angles, by"),
    ],
)
def test_directions_that_are_no_right_angle_are_refused(tmp_path: Path, orientation: list[float], words: str) -> None:
    array, affine = even_volume((60, 50, 8)), turned((0, 0, 0), (3.0, 3.0, 5.0))
    write_series(tmp_path / "series", array, affine, ImageOrientationPatient=orientation)
    with pytest.raises(AmosError, match=words):
        converted(tmp_path / "series")


@pytest.mark.parametrize(
    ("tag", "words"),
    [
        ("ImagePositionPatient", "do not say where its slices lie"),
        ("ImageOrientationPatient", "do not say how its slices are oriented"),
        ("PixelSpacing", "do not say how large its pixels are in the patient"),
    ],
)
def test_headers_without_geometry_are_refused_and_say_what_is_lacking(tmp_path: Path, tag: str, words: str) -> None:
    slices = write_series(tmp_path / "series", even_volume(), turned((0, 0, 0), (0.7, 0.7, 2.0)))
    for ds in slices:
        ds.ImagerPixelSpacing = [0.5, 0.5]  # on the detector, not in the patient
        delattr(ds, tag)
    rewrite(tmp_path / "series", slices)
    with pytest.raises(AmosError, match=f"its files {words}"):
        converted(tmp_path / "series")


def test_the_pixels_size_in_the_patient_counts_not_that_on_the_detector(tmp_path: Path) -> None:
    array, affine = even_volume(), turned((0, 0, 0), (0.7, 0.8, 2.0))
    write_series(tmp_path / "series", array, affine, ImagerPixelSpacing=[1.4, 1.6])
    assert_same_in_space(converted(tmp_path / "series"), array, affine)


def test_two_pixel_sizes_in_one_header_are_refused(tmp_path: Path) -> None:
    write_enhanced(tmp_path / "all.dcm", even_volume(), turned((0, 0, 0), (0.7, 0.8, 2.0)), PixelSpacing=[1.4, 1.6])
    with pytest.raises(AmosError, match="states two sizes of one slice's pixels"):
        find_scans([tmp_path / "all.dcm"], None)


def test_slices_of_another_pixel_size_are_refused(tmp_path: Path) -> None:
    slices = write_series(tmp_path / "series", even_volume(), turned((0, 0, 0), (0.7, 0.7, 2.0)))
    slices[2].PixelSpacing = [0.9, 0.9]
    rewrite(tmp_path / "series", slices)
    with pytest.raises(AmosError, match=r"differ in pixel size \(IM0002: 0\.9x0\.9 mm, others: 0\.7x0\.7 mm\)"):
        converted(tmp_path / "series")


def test_positions_count_and_a_spacing_that_contradicts_them_is_a_warning(tmp_path: Path) -> None:
    array, affine = even_volume(), turned((0, 0, 0), (0.7, 0.8, 2.0))
    write_series(tmp_path / "series", array, affine, SpacingBetweenSlices="1.0", SliceThickness="1.0")
    [scan] = find_scans([tmp_path / "series"], None)
    assert scan.notes() == []  # a gap of 1 mm between slices of 1 mm is what some scanners mean
    write_series(tmp_path / "series", array, affine, SpacingBetweenSlices="1.0", SliceThickness="2.0")
    [scan] = find_scans([tmp_path / "series"], None)
    [note] = scan.notes()
    assert "lie 2 mm apart by their positions, which are taken, and 1 mm by Spacing Between Slices" in note
    assert_same_in_space(converted(tmp_path / "series"), array, affine)


def test_the_grid_is_the_one_that_highdicom_finds(tmp_path: Path) -> None:
    import highdicom

    slices = write_series(tmp_path / "series", even_volume(), turned((17, -8, 5), (0.7, 0.8, 2.5)))
    theirs = highdicom.get_volume_from_series(slices).get_affine("RAS")[:, [2, 1, 0, 3]]
    np.testing.assert_allclose(converted(tmp_path / "series").affine, theirs, atol=1e-5)


def test_a_series_in_several_enhanced_files_is_one_stack(tmp_path: Path) -> None:
    array, affine = even_volume(), turned((0, 0, 0), (0.7, 0.8, 2.0))
    uid = pydicom.uid.generate_uid(entropy_srcs=["one"])
    frame = {"SeriesInstanceUID": uid, "FrameOfReferenceUID": uid}
    write_enhanced(tmp_path / "series/b.dcm", array, affine, leave_out=(0, 1, 2), **frame)
    write_enhanced(tmp_path / "series/a.dcm", array, affine, leave_out=(3, 4, 5, 6, 7), **frame)
    assert_same_in_space(converted(tmp_path / "series"), array, affine)


@pytest.mark.skipif(not CASES.is_dir(), reason=NOT_HERE)
@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("io-7/input/ct_tilt_2p5", r"by 21\.6 mm over the scan \(a tilted gantry of 2\.5 degrees"),
        ("io-19/input/enhanced_tilt", "tilted gantry"),
        ("io-19/input/dicom_noiop", "how its slices are oriented"),
        ("io-19/input/dicom_noposition", "where its slices lie"),
        ("io-19/input/dicom_nopreamble", "lacks DICOM's preamble; add it"),
        ("io-19/input/dicom_truncated", r"1 of 16 files cannot be used \(IM0007: is cut off: 877 of 2880 bytes"),
    ],
)
def test_publicly_reported_faults_are_named(folder: str, words: str) -> None:
    with pytest.raises(AmosError, match=words):
        find_scans([CASES / folder], None)
