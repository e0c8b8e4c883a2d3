"""What a header may say of a scan's grid, what it may not, and what is said of it; and that all of a file is read."""

import gzip
import re
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import REAL, needs_real
from headers import ACDC_MM, contradicting, mirrored, rewritten, sheared, wrong_sum
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from amos_fl.errors import AmosError
from amos_fl.volumes.nifti import Volume, read_geometry, read_image, read_label
from amos_fl.volumes.plausible_grid import (
    MISPLACED_MM,
    check_grid,
    check_memory,
    corner_distance_mm,
    forms_tolerance_mm,
    memory_bytes,
)
from amos_fl.warned import heard

SHAPE = (12, 10, 8)
VOXELS = np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16)
NO_PLACE = {"sform_code": 0, "qform_code": 0}


def scan(path: Path, spacing_mm=(2.0, 2.0, 5.0), voxels: np.ndarray = VOXELS) -> Path:
    image = nib.Nifti1Image(voxels, np.diag([-spacing_mm[0], -spacing_mm[1], spacing_mm[2], 1.0]))
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return path


def sentence_about(path: Path) -> str:
    """What both readers and the geometry alone say of the file; it is one sentence."""
    said = set()
    for read in (read_image, read_geometry, lambda p: read_label(p, range(1, 16))):
        with pytest.raises(AmosError) as refused:
            read(path)
        said.add(str(refused.value))
    assert len(said) == 1
    return said.pop()


def warnings_about(path: Path) -> list[str]:
    with heard() as sentences:
        read_image(path)
    return sentences


# --- a header that contradicts itself -------------------------------------------------------------


def test_two_voxel_sizes_in_one_header_are_refused_with_both(tmp_path):
    said = sentence_about(contradicting(scan(tmp_path / "x.nii.gz")))
    assert said.startswith("x.nii.gz: its header states two voxel sizes, 1x1x1 mm (sform) and 1.316x1.316x10 mm (qform")


def test_a_voxel_size_beside_the_sforms_is_refused_without_a_qform_too(tmp_path):
    path = rewritten(scan(tmp_path / "x.nii"), pixdim=[1, *ACDC_MM, 0, 0, 0, 0], qform_code=0)
    assert "2x2x5 mm (sform) and 1.316x1.316x10 mm (pixdim)" in sentence_about(path)


@pytest.mark.parametrize("digits", [2, 3])
def test_a_voxel_size_that_was_rounded_is_the_same(tmp_path, digits):
    spacing = (0.78125, 0.78125, 4.99878)
    path = scan(tmp_path / "x.nii.gz", spacing)
    rewritten(path, pixdim=[1, *(round(mm, digits) for mm in spacing), 0, 0, 0, 0])
    assert warnings_about(path) == []
    assert read_image(path).spacing_mm == pytest.approx(spacing)


def test_sform_and_qform_that_mirror_each_other_warn_and_say_which_was_taken(tmp_path):
    path = mirrored(scan(tmp_path / "x.nii.gz"))
    [said] = warnings_about(path)
    assert said.startswith("x.nii.gz: the sform and the qform in its header orient it differently (LPS and RPS); the s")
    np.testing.assert_array_equal(read_geometry_quietly(path), nib.load(path).get_sform())


def read_geometry_quietly(path: Path) -> np.ndarray:
    with heard():
        return read_geometry(path)[1]


def test_sform_and_qform_of_one_orientation_in_two_places_warn(tmp_path):
    path = scan(tmp_path / "x.nii.gz")
    image = nib.load(path)
    image.set_qform(image.affine, 1)
    nib.save(image, path)
    assert warnings_about(path) == []
    rewritten(path, qoffset_x=MISPLACED_MM - 0.05)
    assert warnings_about(path) == []  # half a voxel is 1 mm here, and rounding is allowed for
    rewritten(path, qoffset_x=37.0)
    [said] = warnings_about(path)
    assert "place it up to 37.0 mm apart; the sform is taken" in said


def test_a_header_without_any_orientation_warns_and_says_what_was_assumed(tmp_path):
    path = rewritten(scan(tmp_path / "x.nii.gz"), **NO_PLACE)
    [said] = warnings_about(path)
    assert said.startswith("x.nii.gz: its header does not say which way the patient lies")
    assert "from right to left, from back to front and from feet to head" in said
    assert nib.aff2axcodes(read_geometry_quietly(path)) == ("L", "A", "S")


@pytest.mark.parametrize(("code", "unit"), [(1, "metres"), (3, "micrometres")])
def test_another_unit_than_mm_is_refused(tmp_path, code, unit):
    said = sentence_about(rewritten(scan(tmp_path / "x.nii"), xyzt_units=code | 8))
    assert said == (
        f"x.nii: its header gives the voxel size 2x2x5 in {unit}; write it in mm, and set the unit (xyzt_units) to mm"
    )


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"pixdim": [1, 2, 0, 5, 0, 0, 0, 0]}, "a voxel size of 2x0x5 mm"),
        ({"pixdim": [1, 2, np.nan, 5, 0, 0, 0, 0]}, "a voxel size of 2xnanx5 mm"),
        ({"pixdim": [1, 2, np.inf, 5, 0, 0, 0, 0], **NO_PLACE}, "a voxel size of 2xinfx5 mm"),
        ({"pixdim": [1, 8000, 8000, 8000, 0, 0, 0, 0], **NO_PLACE}, "8000x8000x8000 mm, which fits no patient"),
        ({"pixdim": [1, 0.008, 0.008, 0.008, 0, 0, 0, 0], **NO_PLACE}, "0.008x0.008x0.008 mm, which fits no patient"),
        ({"srow_x": [0, 0, 0, 0]}, "states two voxel sizes|no voxel in space"),
        ({"srow_z": [0, 0, np.nan, 0]}, "two voxel sizes|no voxel in space"),
        ({"dim": [3, 12, 0, 8, 1, 1, 1, 1]}, "12x0x8; a scan has three dimensions"),
        ({"dim": [3, 12, -10, 8, 1, 1, 1, 1]}, "12x-10x8; a scan has three dimensions"),
        ({"dim": [3, 20000, 20000, 20000, 1, 1, 1, 1]}, "promises 20000x20000x20000 voxels, more than the file holds"),
        ({"dim": [3, 12, 10, 4, 1, 1, 1, 1]}, "holds 960 bytes more than the 12x10x4 voxels"),
        ({"dim": [3, 11, 10, 8, 1, 1, 1, 1]}, "holds 160 bytes more than the 11x10x8 voxels"),
        ({"dim": [3, 12, 10, 9, 1, 1, 1, 1]}, "promises 12x10x9 voxels, more than the file holds"),
        ({"datatype": 2, "bitpix": 8}, "holds 960 bytes more"),
        ({"dim": [2, 12, 10, 1, 1, 1, 1, 1]}, "12x10; a scan has three dimensions"),
        ({"scl_slope": np.inf}, "its header is damaged \\(scl_slope is infinite\\)"),
        ({"scl_slope": 2, "scl_inter": np.nan}, "its header is damaged \\(scl_inter\\)"),
        ({"scl_slope": 2, "scl_inter": np.inf}, "its header is damaged \\(scl_inter"),
        ({"qform_code": 1, "sform_code": 0, "quatern_b": 3}, "its header is damaged \\(qform\\)"),
        ({"qform_code": 1, "quatern_b": 3}, "its header is damaged \\(qform\\)"),
        ({"vox_offset": np.inf}, "its header is damaged"),
        ({"vox_offset": np.nan}, "its header is damaged"),
        ({"vox_offset": 1e30}, "damaged"),
        ({"vox_offset": 0}, "holds 352 bytes more"),
        ({"datatype": 17}, "its header is damaged"),
        ({"datatype": 128, "bitpix": 24}, "holds colours"),
    ],
)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_field_that_makes_no_sense_is_a_sentence(tmp_path, capfd, fields, says, ending):
    said = sentence_about(rewritten(scan(tmp_path / f"x{ending}"), **fields))
    assert said.startswith(f"x{ending}: ")
    assert re.search(says, said), said
    assert capfd.readouterr() == ("", "")


def test_a_negative_voxel_size_warns_and_counts_by_its_amount(tmp_path, capfd):
    path = rewritten(scan(tmp_path / "x.nii.gz"), pixdim=[1, -2, 2, 5, 0, 0, 0, 0])
    [said] = warnings_about(path)
    assert said == "x.nii.gz: its header gives a negative voxel size, -2x2x5 mm (pixdim); the signs are ignored"
    assert abs(np.linalg.det(read_geometry_quietly(path))) == pytest.approx(20)
    assert capfd.readouterr() == ("", "")


def test_what_the_library_says_of_a_header_carries_the_files_name(tmp_path, capfd):
    path = rewritten(scan(tmp_path / "x.nii"), sform_code=99, qform_code=1, quatern_d=1)
    [said] = warnings_about(path)
    assert said.startswith("x.nii: its header is odd (sform_code 99 not valid")
    assert capfd.readouterr() == ("", "")


def test_a_single_slice_is_no_scan(tmp_path):
    path = scan(tmp_path / "x.nii", voxels=VOXELS[:, :, :1])
    assert sentence_about(path).startswith("x.nii: has the shape 12x10x1; that is a single slice")


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image, nib.Nifti1Pair, nib.Nifti2Pair])
@pytest.mark.parametrize("codes", ["sform", "qform", "both"])
def test_every_kind_of_nifti_that_says_where_it_is_passes(tmp_path, kind, codes):
    image = kind(VOXELS, np.diag([-2.0, -2.0, 5.0, 1.0]))
    image.set_sform(image.affine, 1 if codes != "qform" else 0)
    image.set_qform(image.affine, 1 if codes != "sform" else 0)
    path = tmp_path / ("x.nii.gz" if kind in (nib.Nifti1Image, nib.Nifti2Image) else "x.hdr")
    nib.save(image, path)
    assert warnings_about(path) == []
    found = read_image(path)
    np.testing.assert_array_equal(found.array, VOXELS)
    np.testing.assert_allclose(found.affine, image.affine)


def test_half_a_pair_names_the_other_half(tmp_path):
    nib.save(nib.Nifti1Pair(VOXELS, np.diag([-2.0, -2.0, 5.0, 1.0])), tmp_path / "x.hdr")
    (tmp_path / "x.img").unlink()
    assert sentence_about(tmp_path / "x.hdr").endswith("the other half of the pair, x.img, is not there; put it beside")


@needs_real
def test_real_scans_are_plausible_without_a_word():
    with heard() as said:
        for path in sorted(REAL.glob("*/*.nii.gz")):
            read_geometry(path)
    assert said == []


# --- right angles ---------------------------------------------------------------------------------


def test_a_sheared_grid_is_refused_with_its_remedy(tmp_path):
    said = sentence_about(sheared(scan(tmp_path / "x.nii.gz")))
    assert "its axes are not at right angles, by 12.7 mm at the far end" in said  # 35 mm * tan(20 degrees)
    assert "resample it and its label map" in said


def test_a_voxels_volume_is_the_determinant_whatever_the_angles():
    affine = np.array([[2.0, 0, 0, 0], [0, 2, 5 * np.tan(np.radians(20)), 0], [0, 0, 5, 0], [0, 0, 0, 1]])
    volume = Volume(np.zeros((4, 4, 4)), affine)
    assert volume.voxel_ml == pytest.approx(2 * 2 * 5 / 1000)
    assert np.prod(volume.spacing_mm) / 1000 > 1.06 * volume.voxel_ml


@given(
    st.integers(0, 2**32 - 1),
    st.tuples(*[st.floats(0.4, 3.0)] * 2, st.floats(0.8, 10.0)),
    st.sampled_from([(512, 512, 100), (320, 260, 72), (64, 64, 900)]),
    st.booleans(),
)
@example(11319, (1.0, 3.0, 1.0), (512, 512, 100), False)  # nearly half a turn, where a quaternion is coarse
@settings(max_examples=200)
def test_an_oblique_scan_is_never_taken_for_a_sheared_one(seed, spacing, shape, by_quaternion):
    """Any rotation, as the single precision of an sform or of a qform's quaternion keeps it."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.random(random_state=seed).as_matrix() @ np.diag(spacing)
    affine[:3, 3] = np.random.default_rng(seed).uniform(-500, 500, 3)
    header = nib.Nifti1Header()
    header.set_data_shape(shape)
    header.set_qform(affine, 1)
    header.set_sform(affine, 1)
    stored = header.get_qform() if by_quaternion else header.get_sform()
    if max(np.asarray(shape) * spacing) < 4000:
        check_grid(shape, stored, "x")
    assert corner_distance_mm(header.get_sform(), header.get_qform(), shape) < forms_tolerance_mm(spacing, shape)


@given(st.floats(0.0, 30.0), st.sampled_from([(100, 100, 40), (512, 512, 20), (64, 64, 200)]))
@settings(max_examples=100)
def test_a_tilt_is_allowed_as_far_as_it_misplaces_nothing_by_more_than_a_millimetre(degrees, shape):
    spacing = (0.8, 0.8, 2.0)
    affine = np.diag([*spacing, 1.0])
    affine[1:3, 2] = 2.0 * np.sin(np.radians(degrees)), 2.0 * np.cos(np.radians(degrees))
    misplaced_mm = np.sin(np.radians(degrees)) * max(2.0 * (shape[2] - 1), 0.8 * (shape[1] - 1))
    if misplaced_mm > MISPLACED_MM:
        with pytest.raises(AmosError, match="right angles"):
            check_grid(shape, affine, "x")
    elif misplaced_mm < 0.999 * MISPLACED_MM:
        check_grid(shape, affine, "x")


# --- all of the file ------------------------------------------------------------------------------


def bit_flipped(path: Path) -> Path:
    """A flipped bit that leaves the stream readable and as long as it was: only the sum tells."""
    whole = path.read_bytes()
    plain = gzip.decompress(whole)
    for position in range(len(whole) // 2, len(whole) - 8):
        for bit in range(8):
            content = bytearray(whole)
            content[position] ^= 1 << bit
            try:
                with gzip.open(_put(path, bytes(content))) as stream:
                    found = stream.read(len(plain))  # as nibabel reads: no further than the last voxel
            except Exception:
                continue
            if len(found) == len(plain) and found != plain:
                return path
    raise AssertionError("no such bit")


def _put(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("harm", [wrong_sum, bit_flipped])
def test_a_compressed_file_is_read_to_its_end_where_its_sum_is(tmp_path, harm):
    path = harm(scan(tmp_path / "x.nii.gz"))
    assert sentence_about(path) == "x.nii.gz: is truncated or damaged; fetch it again"


@pytest.mark.parametrize("missing", [1, 4, 8, 9])
def test_a_compressed_file_without_the_end_of_its_sum_is_truncated(tmp_path, missing):
    path = scan(tmp_path / "x.nii.gz")
    path.write_bytes(path.read_bytes()[:-missing])
    assert sentence_about(path) == "x.nii.gz: is truncated or damaged; fetch it again"


def test_a_file_of_several_gzip_members_is_whole(tmp_path):
    path = scan(tmp_path / "x.nii.gz")
    plain = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(plain[:900]) + gzip.compress(plain[900:]) + bytes(512))
    assert warnings_about(path) == []
    np.testing.assert_array_equal(read_image(path).array, VOXELS)


def test_what_follows_a_whole_gzip_stream_is_ignored_with_a_warning(tmp_path):
    path = scan(tmp_path / "x.nii.gz")
    path.write_bytes(path.read_bytes() + b"<html>")
    for said in (warnings_about(path), warnings_of_geometry(path)):
        assert said == ["x.nii.gz: holds bytes after its compressed content that do not belong to it; they are ignored"]


def warnings_of_geometry(path: Path) -> list[str]:
    with heard() as sentences:
        read_geometry(path)
    return sentences


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_few_bytes_behind_the_last_voxel_are_padding(tmp_path, ending):
    path = scan(tmp_path / f"x{ending}")
    content = path.read_bytes() if ending == ".nii" else gzip.decompress(path.read_bytes())
    content += bytes(16)
    path.write_bytes(content if ending == ".nii" else gzip.compress(content))
    assert warnings_about(path) == [f"x{ending}: holds 16 bytes after its last voxel, which are taken for padding"]


def test_a_small_file_that_promises_a_huge_scan_is_refused_before_memory_is_taken(tmp_path):
    path = rewritten(scan(tmp_path / "x.nii.gz"), dim=[3, 1500, 1500, 700, 1, 1, 1, 1])
    tracemalloc.start()
    said = sentence_about(path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "promises 1500x1500x700 voxels, more than the file holds" in said
    assert most < 10e6


def test_a_scan_larger_than_the_machines_memory_is_said_to_be():
    with pytest.raises(AmosError, match=r"^x: would take [\d,]+ GiB of memory, and this machine has"):
        check_memory(memory_bytes() // 4, 5, "x")
    check_memory(memory_bytes() // 8, 4, "x")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: p.write_bytes(b""), "is an empty file; fetch it again"),
        (lambda p: p.write_bytes(gzip.decompress(p.read_bytes())), "is not compressed, though its name ends in .gz"),
        (lambda p: (p.unlink(), p.mkdir()), "is a folder by the name of a file; give the file that is in it"),
        (lambda p: (p.unlink(), p.symlink_to("gone.nii.gz")), "its link leads to gone.nii.gz, which is not there"),
        (lambda p: p.write_text("no scan"), "is not a NIfTI file"),
    ],
)
def test_a_file_that_is_no_nifti_file_is_told_apart(tmp_path, make, says):
    path = scan(tmp_path / "x.nii.gz")
    make(path)
    assert sentence_about(path).startswith(f"x.nii.gz: {says}")


def test_a_compressed_file_without_gz_in_its_name_is_to_be_renamed(tmp_path):
    path = scan(tmp_path / "x.nii.gz").rename(tmp_path / "x.nii")
    assert sentence_about(path) == "x.nii: is compressed, though its name does not say so; rename it to x.nii.gz"


def refusal_of(path: Path) -> str | None:
    try:
        with heard():
            read_image(path)
    except AmosError as error:
        return str(error)
    return None


@pytest.mark.parametrize("count", [400])
def test_no_damaged_header_gives_anything_but_a_sentence_or_a_scan(tmp_path, capfd, count):
    """Random bytes of the header replaced: an `AmosError` that begins with the file's name, or a plausible scan."""
    random = np.random.default_rng(0)
    path = scan(tmp_path / "x.nii")
    whole = path.read_bytes()
    passed = 0
    for _ in range(count):
        content = bytearray(whole)
        for position in random.integers(0, 352, random.integers(1, 6)):
            content[position] = random.choice([0, 1, 127, 128, 255, random.integers(256)])
        path.write_bytes(content)
        said = refusal_of(path)
        assert said is None or (said.startswith("x.nii: ") and "\n" not in said)
        passed += said is None
    assert 0 < passed < count
    assert capfd.readouterr() == ("", "")
