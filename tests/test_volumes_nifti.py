"""Scans and label maps as files: what is read, what is refused, and what comes back."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import REAL, needs_real
from hypothesis import given
from hypothesis import strategies as st

from amos_fl.errors import AmosError
from amos_fl.randomness import generator
from amos_fl.volumes.nifti import (
    Volume,
    from_canonical,
    orientation_of,
    read_geometry,
    read_image,
    read_label,
    reconcile,
    to_canonical,
    voxel_counts,
    write_label,
)


def affine_of(codes: str = "RAS", spacing_mm=(1.0, 2.0, 3.0), tilt_degrees: float = 0.0) -> np.ndarray:
    turn = np.radians(tilt_degrees)
    tilt = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    axes = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(codes), (1, 1, 1))[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = tilt @ axes @ np.diag(spacing_mm)
    affine[:3, 3] = (10, -20, 30)
    return affine


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nib.save(nib.Nifti1Image(array, affine_of() if affine is None else affine), path)
    return path


@given(st.permutations("RAS"), st.tuples(*[st.booleans()] * 3), st.sampled_from([0.0, 7.0, 25.0]))
def test_any_orientation_comes_back_from_the_canonical_one(order, flips, tilt):
    opposite = dict(zip("RAS", "LPI", strict=True))
    codes = "".join(opposite[axis] if flip else axis for axis, flip in zip(order, flips, strict=True))
    volume = Volume(np.arange(24).reshape(2, 3, 4), affine_of(codes, tilt_degrees=tilt))
    canonical = to_canonical(volume)
    assert nib.aff2axcodes(canonical.affine) == ("R", "A", "S")
    expected = nib.as_closest_canonical(nib.Nifti1Image(volume.array.astype(np.int16), volume.affine))
    np.testing.assert_array_equal(canonical.array, np.asarray(expected.dataobj))
    np.testing.assert_allclose(canonical.affine, expected.affine, atol=1e-4)
    np.testing.assert_array_equal(from_canonical(canonical.array, orientation_of(volume.affine)), volume.array)


def test_a_scan_is_read_with_its_scale_and_spacing(tmp_path):
    image = nib.Nifti1Image(
        np.array([[[0, 1], [2, 3]], [[4, 5], [6, 7]]], dtype=np.int16), affine_of("LPS", (0.7, 0.7, 5))
    )
    image.header.set_slope_inter(2, -1024)
    nib.save(image, tmp_path / "a.nii.gz")
    volume = read_image(tmp_path / "a.nii.gz")
    assert volume.array.dtype == np.float32
    assert volume.array.ravel().tolist() == np.asarray(nib.load(tmp_path / "a.nii.gz").dataobj).ravel().tolist()
    assert volume.spacing_mm == pytest.approx((0.7, 0.7, 5))
    assert read_geometry(tmp_path / "a.nii.gz")[0] == (2, 2, 2)


def test_a_fourth_dimension_of_one_is_dropped(tmp_path):
    assert read_image(save(tmp_path / "a.nii", np.arange(60.0).reshape(3, 4, 5, 1) / 7)).shape == (3, 4, 5)


def damaged(path: Path, how: str) -> Path:
    if how == "missing":
        return path
    if how == "text":
        path.write_text("no scan")
        return path
    array = np.random.default_rng(0).integers(0, 1000, (20, 20, 20)).astype(np.float32)
    if how == "four dimensions":
        array = np.stack([array, array], axis=-1)
    if how == "not finite":
        array[1, 2, 3] = np.nan
    if how == "complex":
        array = array.astype(np.complex64)
    save(path, array)
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:5000])
    if how == "truncated header":
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:100]))
    if how == "truncated inside":
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:5000]))
    if how == "damaged":
        content = bytearray(path.read_bytes())
        content[3000:3100] = bytes(100)
        path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("missing", "no such file"),
        ("text", "not a NIfTI"),
        ("truncated", "truncated or damaged"),
        ("truncated header", "a NIfTI|truncated"),
        ("truncated inside", "truncated or damaged"),
        ("damaged", "truncated or damaged"),
        ("four dimensions", "20x20x20x2; a scan has three"),
        ("not finite", "1 voxels are not finite"),
        ("complex", "complex numbers"),
    ],
)
def test_a_file_that_is_no_scan_is_refused_by_name(tmp_path, how, says):
    with pytest.raises(AmosError, match=rf"^x\.nii\.gz: .*{says}"):
        read_image(damaged(tmp_path / "x.nii.gz", how))


def test_an_uncompressed_file_that_ends_early_is_refused(tmp_path):
    path = save(tmp_path / "x.nii", np.ones((9, 9, 9), np.float32))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(AmosError, match=r"^x\.nii: is truncated"):
        read_image(path)


@pytest.mark.parametrize(
    ("value", "dtype", "says"),
    [
        (1.5, np.float32, "not whole numbers"),
        (np.nan, np.float32, "not whole numbers"),
        (4, np.int16, "label 4, which is not an organ"),
        (-1, np.int16, "label -1, which is not an organ"),
        (300, np.int16, "label 300, which is not an organ"),
    ],
)
def test_a_label_value_that_is_no_organ_is_refused(tmp_path, value, dtype, says):
    array = np.zeros((3, 3, 3), dtype)
    array[0, 0, 0] = value
    with pytest.raises(AmosError, match=says):
        read_label(save(tmp_path / "x.nii.gz", array), (1, 2, 5))


def test_labels_stored_as_floats_are_read_as_whole_numbers(tmp_path):
    array = np.zeros((2, 2, 3), np.float64)
    array[0, 0] = 0, 1, 15
    label = read_label(save(tmp_path / "x.nii.gz", array), range(1, 16))
    assert label.array.dtype == np.uint8
    assert label.array[0, 0].tolist() == [0, 1, 15]


def test_a_label_with_a_slightly_different_affine_takes_the_scans():
    image = Volume(np.zeros((50, 60, 9)), affine_of(spacing_mm=(0.7, 0.7, 5)))
    nearly = image.affine + np.array([[1e-4, 0, 0, 0.1], [0, 0, 0, 0], [0, 2e-4, 0, 0], [0, 0, 0, 0]])
    label = reconcile(image, Volume(np.ones((50, 60, 9), np.uint8), nearly), "x.nii.gz")
    np.testing.assert_array_equal(label.affine, image.affine)


def test_a_label_stored_in_another_orientation_of_the_same_grid_is_turned():
    image = Volume(np.random.default_rng(0).integers(0, 5, (4, 5, 6)), affine_of("LPS"))
    turned = to_canonical(image)
    np.testing.assert_array_equal(reconcile(image, turned, "x").array, image.array)


def test_a_label_on_another_grid_is_refused():
    image = Volume(np.zeros((8, 8, 6)), affine_of())
    with pytest.raises(AmosError, match=r"^x\.nii\.gz: label is 8x8x5, image 8x8x6; they must share a grid"):
        reconcile(image, Volume(np.zeros((8, 8, 5)), affine_of()), "x.nii.gz")
    shifted = affine_of()
    shifted[0, 3] += 12.34
    with pytest.raises(AmosError, match=r"^x\.nii\.gz: label lies 12\.3 mm away"):
        reconcile(image, Volume(np.zeros((8, 8, 6)), shifted), "x.nii.gz")


def test_a_written_label_map_overlays_its_scan_and_carries_no_text_of_it(tmp_path):
    scan = nib.Nifti1Image(np.full((3, 4, 5, 1), 1000, np.int16), affine_of("PIR", tilt_degrees=12))
    scan.header.set_slope_inter(2, -1024)
    scan.header["descrip"] = b"somebody"
    scan.header.set_qform(scan.affine, 1)
    scan.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"somebody"))
    nib.save(scan, tmp_path / "scan.nii.gz")
    labels = np.random.default_rng(0).integers(0, 16, (3, 4, 5))
    write_label(tmp_path / "out.nii.gz", labels, tmp_path / "scan.nii.gz")
    out, back = nib.load(tmp_path / "out.nii.gz"), nib.load(tmp_path / "scan.nii.gz")
    np.testing.assert_array_equal(out.affine, back.affine)
    np.testing.assert_array_equal(np.asarray(out.dataobj), labels)
    assert out.get_data_dtype() == np.uint8
    for field in ("sform_code", "qform_code", "xyzt_units", "quatern_b"):
        assert out.header[field] == back.header[field]
    assert b"somebody" not in gzip.decompress((tmp_path / "out.nii.gz").read_bytes())


def test_a_label_map_of_another_shape_is_not_written(tmp_path):
    scan = save(tmp_path / "scan.nii.gz", np.zeros((3, 4, 5), np.float32))
    with pytest.raises(AmosError, match=r"3x4x6, its scan scan\.nii\.gz 3x4x5"):
        write_label(tmp_path / "out.nii.gz", np.zeros((3, 4, 6)), scan)
    assert [path.name for path in tmp_path.iterdir()] == ["scan.nii.gz"]


@needs_real
@pytest.mark.parametrize("case", ["chaos_mr_02", "ts_mr_sm", "ts_ct_3mm"])
def test_real_scans_are_read_and_come_back_from_the_canonical_orientation(case):
    image = read_image(REAL / f"images/{case}.nii.gz")
    label = reconcile(image, read_label(REAL / f"labels/{case}.nii.gz", range(1, 16)), case)
    back = from_canonical(to_canonical(label).array, orientation_of(image.affine))
    np.testing.assert_array_equal(back, np.asarray(nib.load(REAL / f"labels/{case}.nii.gz").dataobj))


@given(st.tuples(*[st.integers(0, 9)] * 3), st.sampled_from(["C", "F", "every other"]), st.integers(0, 2**32))
def test_voxels_are_counted_by_value_in_any_order_of_memory(shape, order, seed):
    label = generator(seed, "labels").integers(0, 256, (2 * shape[0], *shape[1:]), np.uint8)
    label = label[::2] if order == "every other" else np.asarray(label, order=order)
    assert voxel_counts(label).tolist() == [int(np.sum(label == value)) for value in range(256)]
