"""DICOM series become the volume they were made of, or are refused with the reason."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("highdicom")

from dicom_series import assert_same_in_space, converted, even_volume, rewrite, turned, write_series

from amos_fl.errors import AmosError
from amos_fl.inference.scans import find_scans


@pytest.mark.parametrize("degrees", [(0, 0, 0), (0, 0, 90), (17, -8, 5), (90, 0, 0), (0, 180, 0)])
def test_a_series_under_shuffled_names_keeps_its_place_in_space(tmp_path: Path, degrees) -> None:
    array, affine = even_volume(), turned(degrees, (0.7, 0.8, 2.5))
    write_series(tmp_path / "series", array, affine)
    image = converted(tmp_path / "series")
    assert_same_in_space(image, array, affine)
    assert image.get_data_dtype() == np.int16
    assert sorted(np.round(nib.affines.voxel_sizes(image.affine), 4)) == [0.7, 0.8, 2.5]


def test_positions_that_a_scanner_rounded_are_an_even_stack(tmp_path: Path) -> None:
    array, affine = even_volume(), turned((0, 0, 0), (0.7, 0.7, 1.25))
    slices = write_series(tmp_path / "series", array, affine)
    for k, ds in enumerate(slices):
        x, y, z = (float(v) for v in ds.ImagePositionPatient)
        ds.ImagePositionPatient = [x, y, z + 0.01 * (-1) ** k]
    rewrite(tmp_path / "series", slices)
    image = converted(tmp_path / "series")
    assert nib.affines.voxel_sizes(image.affine)[2] == pytest.approx(1.25, abs=0.01)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"leave_out": (4,)}, "slices are missing"),
        ({"shift_mm": np.array([0.0, 0.5, 0.0])}, "tilted gantry"),
    ],
)
def test_a_stack_that_is_not_even_is_refused_with_the_reason(tmp_path: Path, options, words) -> None:
    write_series(tmp_path / "series", even_volume(), turned((0, 0, 0), (0.7, 0.7, 2.0)), **options)
    with pytest.raises(AmosError, match=words):
        converted(tmp_path / "series")


def test_two_echoes_at_one_place_are_refused(tmp_path: Path) -> None:
    array, affine = even_volume(), turned((0, 0, 0), (0.7, 0.7, 2.0))
    for prefix in ("first", "second"):
        write_series(tmp_path / "series", array, affine, modality="MR", prefix=prefix)
    with pytest.raises(AmosError, match="several slices lie at the same place"):
        converted(tmp_path / "series")


def test_several_series_are_listed_and_one_is_taken_by_its_number(tmp_path: Path) -> None:
    array, affine = even_volume(), turned((0, 0, 0), (0.7, 0.7, 2.0))
    write_series(tmp_path / "study/a", array, affine, number=3, description="portal venous")
    write_series(tmp_path / "study/b", array + 2, affine, number=4, description="arterial")
    with pytest.raises(AmosError, match=r"several series; choose one with --series.*3 'portal venous'.*4 'arterial'"):
        find_scans([tmp_path / "study"], None)
    [scan] = find_scans([tmp_path / "study"], None, series="4")
    assert (scan.name, scan.modality) == ("study", "CT")
    np.testing.assert_array_equal(
        np.sort(np.asarray(nib.Nifti1Image.from_filename(scan.as_nifti(tmp_path)).dataobj).ravel()),
        np.sort(array.ravel() + 2),
    )
    with pytest.raises(AmosError, match="no series has the number or UID 9"):
        find_scans([tmp_path / "study"], None, series="9")


def test_a_localizer_beside_the_scan_is_passed_over(tmp_path: Path) -> None:
    array, affine = even_volume(), turned((0, 0, 0), (0.7, 0.7, 2.0))
    write_series(tmp_path / "study", array, affine, number=3, prefix="scan")
    write_series(tmp_path / "study", array[..., :1], affine, number=1, description="topogram", prefix="localizer")
    [scan] = find_scans([tmp_path / "study"], None)
    assert scan.series is not None
    assert (scan.series.number, scan.series.slices) == ("3", 8)


def test_what_dicom_says_of_the_modality_holds(tmp_path: Path) -> None:
    affine = turned((0, 0, 0), (0.7, 0.7, 2.0))
    write_series(tmp_path / "mr", even_volume(), affine, modality="MR")
    assert find_scans([tmp_path / "mr"], None)[0].modality == "MR"
    with pytest.raises(AmosError, match="DICOM says MR, and the given modality is CT"):
        find_scans([tmp_path / "mr"], "CT")
    write_series(tmp_path / "pet", even_volume(), affine, Modality="PT")
    with pytest.raises(AmosError, match=r"no CT or MR series.*PT"):
        find_scans([tmp_path / "pet"], None)


def test_a_series_without_a_frame_of_reference_is_read(tmp_path: Path) -> None:
    array, affine = even_volume(), turned((0, 0, 0), (0.7, 0.7, 2.0))
    slices = write_series(tmp_path / "series", array, affine)
    for ds in slices:
        del ds.FrameOfReferenceUID
    rewrite(tmp_path / "series", slices)
    assert_same_in_space(converted(tmp_path / "series"), array, affine)


@pytest.mark.parametrize("syntax", ["RLELossless", "JPEGLSLossless"])
def test_compressed_slices_are_decoded(tmp_path: Path, syntax: str) -> None:
    import pydicom.uid

    array, affine = even_volume(), turned((0, 0, 0), (0.7, 0.7, 2.0))
    slices = write_series(tmp_path / "series", array, affine)
    for ds in slices:
        ds.compress(getattr(pydicom.uid, syntax))
    rewrite(tmp_path / "series", slices)
    assert_same_in_space(converted(tmp_path / "series"), array, affine)


def test_an_enhanced_file_with_all_slices_is_read(tmp_path: Path) -> None:
    from highdicom.legacy import LegacyConvertedEnhancedCTImage
    from pydicom.uid import generate_uid

    array, affine = even_volume(), turned((10, 0, 0), (0.7, 0.8, 2.0))
    slices = write_series(tmp_path / "single", array, affine)
    enhanced = LegacyConvertedEnhancedCTImage(slices, generate_uid(), 5, generate_uid(), 1)
    (tmp_path / "enhanced").mkdir()
    enhanced.save_as(tmp_path / "enhanced/all.dcm")
    assert_same_in_space(converted(tmp_path / "enhanced"), array, affine)
    [scan] = find_scans([tmp_path / "enhanced/all.dcm"], None)
    assert scan.name == "all"
