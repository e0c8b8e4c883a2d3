"""Faulty scans, label maps and DICOM series, each made from a good one by a small function.

A function gets the path of a good NIfTI file (`NAME.nii.gz`), or of a folder for a DICOM series, and leaves the faulty
input there. Where the input gets another name, the function returns its path.
"""

import gzip
import os
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import dicom_series
import nibabel as nib
import numpy as np
import pydicom
from headers import contradicting, mirrored, rewritten, sheared, wrong_sum

Kind = Literal["scan", "file", "label", "dicom", "table", "settings", "data set"]
Make = Callable[[Path], Path | None]


@dataclass(frozen=True)
class Situation:
    kind: Kind
    words: str
    make: Make


SITUATIONS: list[Situation] = []


def situation(kind: Kind, words: str) -> Callable[[Make], Make]:
    """Enter a function into the list of situations."""

    def entered(make: Make) -> Make:
        SITUATIONS.append(Situation(kind, words, make))
        return make

    return entered


def enter(kind: Kind, words: str, make: Callable[[Path], Any]) -> None:
    """As `situation`, for what one line does."""

    def call(path: Path) -> None:
        make(path)

    SITUATIONS.append(Situation(kind, words, call))


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nib.Nifti1Image.from_filename(path).dataobj)


def saved(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    """Other voxels in the file's grid, or also in another."""
    grid = nib.Nifti1Image.from_filename(path).affine if affine is None else affine
    nib.save(nib.Nifti1Image(array, grid), path)


# --- headers --------------------------------------------------------------------------------------

NO_ORIENTATION = {"sform_code": 0, "qform_code": 0}
enter("scan", "the sform says 1 x 1 x 1 mm, qform and pixdim another voxel size", contradicting)
enter("scan", "sform and qform mirror each other", mirrored)
enter("scan", "the header has neither sform nor qform", lambda path: rewritten(path, **NO_ORIENTATION))
enter("scan", "a grid sheared by 20 degrees", sheared)
enter("scan", "a scaling slope that is infinite", lambda path: rewritten(path, scl_slope=np.inf, scl_inter=0))
enter("scan", "20000 x 20000 x 20000 voxels promised", lambda path: rewritten(path, dim=[3, *[20000] * 3, 1, 1, 1, 1]))
enter("scan", "a negative number of voxels", lambda path: rewritten(path, dim=[3, -24, 22, 20, 1, 1, 1, 1]))
enter("scan", "a voxel size of 0", lambda path: rewritten(path, pixdim=[1, 0, 8, 8, 1, 1, 1, 1], sform_code=0))
enter("scan", "a negative voxel size", lambda path: rewritten(path, pixdim=[1, -8, 8, 8, 1, 1, 1, 1]))
enter("scan", "a quaternion that is no rotation", lambda path: rewritten(path, qform_code=1, quatern_b=3, sform_code=0))
enter("scan", "micrometres as the unit", lambda path: rewritten(path, xyzt_units=3))
enter("scan", "metres as the unit", lambda path: rewritten(path, xyzt_units=1))
enter("scan", "a data type that no program knows", lambda path: rewritten(path, datatype=1234))


@situation("scan", "voxels of 8 m")
def metres(path: Path) -> None:
    saved(path, voxels(path), np.diag([-8000.0, -8000.0, 8000.0, 1.0]))


@situation("scan", "voxels of 8 micrometres")
def micrometres(path: Path) -> None:
    saved(path, voxels(path), np.diag([-0.008, -0.008, 0.008, 1.0]))


# --- files ----------------------------------------------------------------------------------------


@situation("file", "one flipped bit in the compressed stream")
def bit_flipped(path: Path) -> None:
    whole = path.read_bytes()
    for position in range(len(whole) // 2, len(whole) - 8):
        content = bytearray(whole)
        content[position] ^= 1
        path.write_bytes(content)
        try:
            if gzip.decompress(content) == gzip.decompress(whole):
                continue  # a bit that stands for nothing
        except (OSError, EOFError, zlib.error):
            pass
        return
    raise AssertionError("no such bit")


enter("file", "a stored sum that is not that of the content", wrong_sum)
enter(
    "file", "the second half is missing", lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
)
enter("file", "the last byte is missing", lambda path: path.write_bytes(path.read_bytes()[:-1]))
enter("file", "an empty file", lambda path: path.write_bytes(b""))
enter("file", "a text of HTML", lambda path: path.write_text("<html>Please log in</html>"))
enter(
    "file",
    "not compressed, though its name ends in .gz",
    lambda path: path.write_bytes(gzip.decompress(path.read_bytes())),
)


@situation("file", "compressed, though its name ends in .nii")
def gz_without_gz(path: Path) -> Path:
    return path.rename(path.with_suffix(""))


@situation("file", "a link whose target is gone")
def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("elsewhere.nii.gz")


@situation("file", "a name in capitals, .NII.GZ")
def capitals(path: Path) -> Path:
    return path.rename(path.with_name(path.name.upper()))


@situation("file", "a pair of .hdr and .img")
def pair(path: Path) -> Path:
    image = nib.Nifti1Image.from_filename(path)
    stem = path.with_suffix("").with_suffix("")
    nib.save(nib.Nifti1Pair(np.asarray(image.dataobj), image.affine), stem.with_suffix(".hdr"))
    path.unlink()
    return stem.with_suffix(".hdr")


@situation("file", "an .hdr whose .img is missing")
def half_a_pair(path: Path) -> Path:
    found = pair(path)
    found.with_suffix(".img").unlink()
    return found


@situation("file", "twins: NAME.nii beside NAME.nii.gz, with other voxels")
def twins(path: Path) -> None:
    image = nib.Nifti1Image.from_filename(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[::-1].copy(), image.affine), path.with_suffix(""))


@situation("file", "a folder of that name")
def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@situation("file", "missing")
def missing(path: Path) -> None:
    path.unlink()


@situation("file", "a name of 242 characters")
def long_name(path: Path) -> Path:
    return path.rename(path.with_name(f"{'x' * 235}.nii.gz"))


@situation("file", "a name that is not UTF-8")
def not_utf8(path: Path) -> Path:
    return path.rename(path.with_name(os.fsdecode(b"b\xe9d.nii.gz")))


# --- voxels ---------------------------------------------------------------------------------------


enter("scan", "four dimensions, two volumes", lambda path: saved(path, np.stack([voxels(path)] * 2, axis=-1)))
enter("scan", "a single slice", lambda path: saved(path, voxels(path)[:, :, :1]))
enter("scan", "one value everywhere", lambda path: saved(path, np.full_like(voxels(path), 1)))


@situation("scan", "colours (RGB)")
def colours(path: Path) -> None:
    found = voxels(path)
    rgb = np.zeros(found.shape, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    rgb["R"] = found.astype(np.uint8)
    saved(path, rgb)


@situation("scan", "NaN in a block of voxels")
def not_a_number(path: Path) -> None:
    found = voxels(path).astype(np.float32)
    found[:6, :6, :6] = np.nan
    saved(path, found)


@situation("scan", "a label map in the scan's place")
def label_as_scan(path: Path) -> None:
    other = path.parent.parent / "labels" / path.name
    if other.is_file() and path.parent.name == "images":
        shutil.copy(other, path)
    else:
        saved(path, (voxels(path) > 0).astype(np.uint8))


# --- label maps -----------------------------------------------------------------------------------


enter(
    "label",
    "labels of 0.99995 and 1.9999",
    lambda path: saved(path, voxels(path).astype(np.float32) * np.float32(0.99995)),
)
enter("label", "labels of 0.5", lambda path: saved(path, voxels(path).astype(np.float32) * np.float32(0.5)))
enter(
    "label",
    "a label 99 that is no organ",
    lambda path: saved(path, np.where(voxels(path) == 2, 99, voxels(path)).astype(np.uint8)),
)
enter("label", "another affine (identity) than the scan's", lambda path: saved(path, voxels(path), np.eye(4)))
enter("label", "another shape than the scan's", lambda path: saved(path, voxels(path)[:, :, :-2]))
enter("label", "nothing drawn in it", lambda path: saved(path, np.zeros_like(voxels(path))))
enter("label", "truncated", lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]))
enter("label", "a negative label", lambda path: saved(path, -voxels(path).astype(np.int16)))


@situation("label", "the organs' numbers exchanged")
def exchanged(path: Path) -> None:
    saved(path, np.array([0, 2, 1], np.uint8)[voxels(path)])


@situation("label", "mirrored left and right in its header")
def mirrored_label(path: Path) -> None:
    affine = nib.Nifti1Image.from_filename(path).affine
    saved(path, voxels(path), np.diag([-1.0, 1, 1, 1]) @ affine)


# --- DICOM series ---------------------------------------------------------------------------------

GRID = np.diag([-8.0, -8.0, 8.0, 1.0])
GRID[:3, 3] = 80, 80, -60


def series(path: Path, array: np.ndarray | None = None, **tags: Any) -> list[Path]:
    """A good series of 20 slices, unless its tags say otherwise; its files, in the order of their names."""
    if array is None:
        array = 2 * (np.random.default_rng(0).integers(-500, 500, (24, 22, 20)) // 2)
    dicom_series.write_series(path, array, GRID, **tags)
    return sorted(path.iterdir())


def tilt(degrees: float) -> np.ndarray:
    return np.array([0.0, 8 * np.tan(np.radians(degrees)), 0.0])


def of_files(words: str) -> Callable[[Callable[[list[Path]], Any]], None]:
    """A series of which some files are damaged afterwards."""

    def entered(harm: Callable[[list[Path]], Any]) -> None:
        enter("dicom", words, lambda path: harm(series(path)))

    return entered


enter("dicom", "a gantry tilted by 2.5 degrees", lambda path: series(path, shift_mm=tilt(2.5)))
enter("dicom", "a gantry tilted by 20 degrees", lambda path: series(path, shift_mm=tilt(20)))
enter("dicom", "MONOCHROME1", lambda path: series(path, PhotometricInterpretation="MONOCHROME1"))
enter("dicom", "a presentation LUT of INVERSE", lambda path: series(path, PresentationLUTShape="INVERSE"))
enter("dicom", "two slices missing in the middle", lambda path: series(path, leave_out=(9, 10)))
enter("dicom", "three slices only", lambda path: series(path, leave_out=tuple(range(17))))
enter("dicom", "pixels of colours", lambda path: series(path, PhotometricInterpretation="RGB", SamplesPerPixel=3))
enter("dicom", "another modality (PT)", lambda path: series(path, modality="PT"))


@situation("dicom", "two patients in one folder")
def two_patients(path: Path) -> None:
    series(path, seed=1)
    series(path, seed=2, prefix="XX", number=4, PatientID="2")


@of_files("three empty files")
def empty_slices(files: list[Path]) -> None:
    for file in files[-3:]:
        file.write_bytes(b"")


@of_files("two files cut in half")
def cut_slices(files: list[Path]) -> None:
    for file in files[-2:]:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@of_files("two files as dangling links")
def linked_slices(files: list[Path]) -> None:
    for file in files[-2:]:
        file.unlink()
        file.symlink_to(f"/nowhere/{file.name}")


@of_files("files without the preamble")
def without_preamble(files: list[Path]) -> None:
    for file in files:
        file.write_bytes(file.read_bytes()[132:])


@of_files("one slice twice, as a copy")
def copied_slice(files: list[Path]) -> None:
    shutil.copy(files[3], files[3].with_name(f"{files[3].name} (1)"))


@of_files("files that do not say where slices lie")
def without_positions(files: list[Path]) -> None:
    for file in files:
        found = pydicom.dcmread(file)
        del found.ImagePositionPatient
        pydicom.dcmwrite(file, found, enforce_file_format=True)
