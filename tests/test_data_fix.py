"""`amos-fl data check --fix`: what is repaired, that voxels and originals stay as they are, and what is left alone."""

import gzip
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import write_tiny_cohort

from amos_fl.cli.main import run
from amos_fl.cohort.reference import reference_of
from amos_fl.cohort.table import Cohort, read_cohort
from amos_fl.volumes.nifti import read_image
from amos_fl.volumes.nifti_file import open_nifti


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return write_tiny_cohort(tmp_path / "in")


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def fixed(tmp_path: Path, capsys: pytest.CaptureFixture[str], rc: int = 0) -> tuple[Cohort, str]:
    """The repaired cohort and what was said, after a look that no file of the first was touched."""
    before = files_of(tmp_path / "in")
    assert run(["data", "check", str(tmp_path / "in"), "--workers", "1", "--fix", str(tmp_path / "out")]) == rc
    assert files_of(tmp_path / "in") == before
    return read_cohort(tmp_path / "out"), capsys.readouterr().out


def saved_with(path: Path, qform: np.ndarray) -> None:
    scan = nib.Nifti1Image.from_filename(path)
    changed = nib.Nifti1Image(np.asarray(scan.dataobj), scan.affine)
    changed.set_sform(scan.affine, 1)
    changed.set_qform(qform, 1)
    nib.save(changed, path)


def test_a_sound_cohort_is_listed_and_nothing_is_copied(
    tmp_path: Path, cohort: Cohort, capsys: pytest.CaptureFixture[str]
) -> None:
    after, said = fixed(tmp_path, capsys)
    assert "nothing to repair" in said
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"cohort.csv", "organs.csv"}
    assert [case.image.resolve() for case in after.cases] == [case.image.resolve() for case in cohort.cases]
    assert run(["data", "check", str(tmp_path / "in"), "--fix", str(tmp_path / "out")]) == 2
    assert "already exists" in capsys.readouterr().err


def test_qform_and_sform_agree_afterwards_and_no_voxel_has_changed(
    tmp_path: Path, cohort: Cohort, capsys: pytest.CaptureFixture[str]
) -> None:
    case = cohort.cases[0]
    affine = nib.Nifti1Image.from_filename(case.image).affine
    moved = affine.copy()
    moved[2, 3] += 40
    saved_with(case.image, moved)
    after, said = fixed(tmp_path, capsys)
    assert "its qform set to its sform, from which it placed voxels up to 40.0 mm apart" in said
    repaired = nib.Nifti1Image.from_filename(after.cases[0].image)
    np.testing.assert_allclose(repaired.get_qform(), affine, atol=1e-4)
    np.testing.assert_allclose(repaired.get_sform(), affine, atol=1e-4)
    before = nib.Nifti1Image.from_filename(case.image)
    np.testing.assert_array_equal(np.asarray(repaired.dataobj), np.asarray(before.dataobj))
    assert repaired.get_data_dtype() == before.get_data_dtype()
    assert "the sform and the qform" not in said.partition("its check")[2]
    assert after.cases[1].image.resolve() == cohort.cases[1].image.resolve()


def test_a_label_map_of_fractions_turned_round_becomes_whole_numbers_on_its_scans_grid(
    tmp_path: Path, cohort: Cohort, capsys: pytest.CaptureFixture[str]
) -> None:
    case = cohort.cases[0]
    assert case.label is not None
    wanted = reference_of(case, cohort.organs).array
    label = nib.Nifti1Image.from_filename(case.label)
    array, affine = np.asarray(label.dataobj)[::-1] * np.float32(0.99995), label.affine.copy()
    affine[:3, 3] += affine[:3, 0] * (array.shape[0] - 1)
    affine[:3, 0] *= -1
    nib.save(nib.Nifti1Image(array, affine), case.label)
    after, said = fixed(tmp_path, capsys)
    assert "stored as whole numbers" in said
    assert "turned to its scan's orientation" in said
    repaired = after.cases[0].label
    assert repaired is not None
    assert open_nifti(repaired).holds_whole_numbers
    np.testing.assert_array_equal(np.asarray(nib.Nifti1Image.from_filename(repaired).dataobj), wanted)
    np.testing.assert_allclose(open_nifti(repaired).affine, open_nifti(case.image).affine)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda stored: stored[:-8], "its checksum, which was cut off, written anew"),
        (lambda stored: stored[:-4] + b"\1\0\0\0", "the length at its end corrected; its checksum is right"),
        (lambda stored: stored + b"<html>", "6 bytes after its compressed content removed"),
        (gzip.decompress, "compressed, as its name says"),
        (lambda stored: gzip.compress(gzip.decompress(stored) + b"\1\2\3"), "3 bytes after its last voxel removed"),
    ],
    ids=["no checksum", "wrong length", "bytes behind", "not compressed", "padding"],
)
def test_a_compressed_file_is_whole_afterwards(
    tmp_path: Path, cohort: Cohort, capsys: pytest.CaptureFixture[str], damage, words: str
) -> None:
    case = cohort.cases[0]
    wanted = read_image(case.image).array
    case.image.write_bytes(damage(case.image.read_bytes()))
    after, said = fixed(tmp_path, capsys)
    assert words in said
    np.testing.assert_array_equal(read_image(after.cases[0].image).array, wanted)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda stored: stored[:-8] + b"\1\2\3\4" + stored[-4:], "is not what its checksum says"),
        (lambda stored: stored[: len(stored) // 2], "is cut off before its last voxel"),
    ],
    ids=["another checksum", "half a file"],
)
def test_what_may_be_wrong_inside_is_not_repaired(
    tmp_path: Path, cohort: Cohort, capsys: pytest.CaptureFixture[str], damage, words: str
) -> None:
    case = cohort.cases[0]
    case.image.write_bytes(damage(case.image.read_bytes()))
    after, said = fixed(tmp_path, capsys, rc=2)
    assert f"not repaired: {case.image.name}" in said
    assert words in said
    assert after.cases[0].image.resolve() == case.image.resolve()
    assert not (tmp_path / "out/images").exists() or not os.listdir(tmp_path / "out/images")
