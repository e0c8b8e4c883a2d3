"""DICOM series written from a known volume, as scanners write them: one file per slice, scaled, in LPS."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

from amos_fl.inference.scans import find_scans

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])


def write_series(
    folder: Path,
    array: np.ndarray,
    affine: np.ndarray,
    *,
    modality: str = "CT",
    number: int = 3,
    description: str = "abdomen",
    prefix: str = "IM",
    seed: int = 0,
    leave_out: tuple[int, ...] = (),
    shift_mm: np.ndarray | None = None,
    uids_of: str = "",
    **tags: Any,
) -> list[Dataset]:
    """Write `array` (x, y, z), whose `affine` leads to RAS mm, slice by slice along z under shuffled names.

    x becomes the columns and y the rows of a slice. Each slice has its own slope and intercept. `shift_mm` (in RAS)
    moves every slice against the one before, as a tilted gantry does. UIDs follow from the folder, or from `uids_of`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    series_uid, study_uid, frame_uid = (
        generate_uid(entropy_srcs=[uids_of or str(folder), str(number), w]) for w in "abc"
    )
    steps = RAS_TO_LPS @ affine[:3, :3]
    spacing = np.linalg.norm(steps, axis=0)
    random = np.random.default_rng(seed)
    names = random.permutation(array.shape[2])
    written = []
    for k in range(array.shape[2]):
        if k in leave_out:
            continue
        position = RAS_TO_LPS @ (affine[:3, 3] + affine[:3, 2] * k + (0 if shift_mm is None else shift_mm * k))
        slope, intercept = 1.0 + k % 2, -1024.0 + 10 * (k % 3)
        stored = np.rint((array[:, :, k].T - intercept) / slope).astype(np.uint16)
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[series_uid, prefix, str(k)])
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds = Dataset()
        ds.file_meta = meta
        ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study_uid, series_uid, frame_uid
        ds.Modality, ds.SeriesNumber, ds.SeriesDescription, ds.InstanceNumber = modality, number, description, k + 1
        ds.PatientID, ds.PatientName, ds.PatientBirthDate, ds.PatientSex = "1", "Nobody^", "", ""
        ds.StudyID, ds.StudyDate, ds.StudyTime, ds.AccessionNumber, ds.ReferringPhysicianName = "1", "", "", "", ""
        ds.Manufacturer, ds.ImageType, ds.PositionReferenceIndicator = "none", ["ORIGINAL", "PRIMARY", "AXIAL"], ""
        ds.ImageOrientationPatient = [f"{v:.9f}" for v in (*steps[:, 0] / spacing[0], *steps[:, 1] / spacing[1])]
        ds.ImagePositionPatient = [f"{v:.6f}" for v in position]
        ds.PixelSpacing = [f"{spacing[1]:.6f}", f"{spacing[0]:.6f}"]
        # Wrong on purpose, as in the field: only positions say where slices lie.
        ds.SliceThickness = "9.0"
        ds.Rows, ds.Columns = stored.shape
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
        ds.RescaleSlope, ds.RescaleIntercept = str(slope), str(intercept)
        ds.PixelData = stored.tobytes()
        for tag, value in tags.items():
            setattr(ds, tag, value)
        pydicom.dcmwrite(folder / f"{prefix}{names[k]:04d}", ds, enforce_file_format=True)
        written.append(ds)
    return written


def rewrite(folder: Path, slices: list[Dataset]) -> None:
    """Replace a series by changed slices."""
    for path in folder.iterdir():
        path.unlink()
    for number, ds in enumerate(slices):
        pydicom.dcmwrite(folder / f"IM{number:04d}", ds, enforce_file_format=True)


def write_enhanced(
    path: Path,
    array: np.ndarray,
    affine: np.ndarray,
    *,
    modality: str = "CT",
    rescales: list[tuple[float, float] | None] | None = None,
    shared_rescale: tuple[float, float] | None = None,
    leave_out: tuple[int, ...] = (),
    twice: tuple[int, ...] = (),
    shift_mm: np.ndarray | None = None,
    **tags: Any,
) -> Dataset:
    """Write `array` (x, y, z) as one enhanced multi-frame file; frame k's values are scaled by `rescales[k]`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    steps = RAS_TO_LPS @ affine[:3, :3]
    spacing = np.linalg.norm(steps, axis=0)
    sop_class = EnhancedCTImageStorage if modality == "CT" else EnhancedMRImageStorage
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = sop_class
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid(entropy_srcs=[str(path)])
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = (
        generate_uid(entropy_srcs=[str(path), w]) for w in "abc"
    )
    ds.Modality, ds.SeriesNumber, ds.InstanceNumber, ds.PatientID = modality, 9, 1, "1"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    frames, stored = [], []
    for k in [k for k in (*range(array.shape[2]), *twice) if k not in leave_out]:
        rescale = rescales[k] if rescales else None if shared_rescale else (1.0, -1024.0)
        slope, intercept = rescale or shared_rescale or (1.0, 0.0)
        stored.append(np.rint((array[:, :, k].T - intercept) / slope).astype(np.int32).astype(np.uint16))
        place, position, values = Dataset(), Dataset(), Dataset()
        where = RAS_TO_LPS @ (affine[:3, 3] + affine[:3, 2] * k + (0 if shift_mm is None else shift_mm * k))
        position.ImagePositionPatient = [f"{v:.6f}" for v in where]
        place.PlanePositionSequence = [position]
        if rescale is not None:
            values.RescaleSlope, values.RescaleIntercept = str(rescale[0]), str(rescale[1])
            place.PixelValueTransformationSequence = [values]
        frames.append(place)
    shared, orientation, measures = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = [f"{v:.9f}" for v in (*steps[:, 0] / spacing[0], *steps[:, 1] / spacing[1])]
    measures.PixelSpacing = [f"{spacing[1]:.6f}", f"{spacing[0]:.6f}"]
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    if shared_rescale is not None:
        values = Dataset()
        values.RescaleSlope, values.RescaleIntercept = str(shared_rescale[0]), str(shared_rescale[1])
        shared.PixelValueTransformationSequence = [values]
    ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = [shared], frames
    ds.NumberOfFrames, (ds.Rows, ds.Columns) = len(frames), stored[0].shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    ds.PixelData = np.stack(stored).tobytes()
    for tag, value in tags.items():
        setattr(ds, tag, value)
    pydicom.dcmwrite(path, ds, enforce_file_format=True)
    return ds


def even_volume(shape: tuple[int, int, int] = (14, 11, 8)) -> np.ndarray:
    """Even numbers, so that slices with a slope of 2 hold them exactly."""
    return 2 * np.random.default_rng(0).integers(-400, 400, shape)


def turned(degrees: tuple[float, float, float], spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """An affine to RAS mm whose axes are turned about x, y and z, with columns to the left and rows to the back."""
    rotation = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        rotation = turn @ rotation
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([-1.0, -1.0, 1.0]) @ np.diag(spacing_mm)
    affine[:3, 3] = 31.5, -12.25, 140.0
    return affine


def converted(folder: Path) -> nib.Nifti1Image:
    """The scan that a folder's one series is, written beside the folder."""
    [scan] = find_scans([folder], None)
    return nib.Nifti1Image.from_filename(scan.as_nifti(folder.parent))


def assert_same_in_space(image: nib.Nifti1Image, array: np.ndarray, affine: np.ndarray) -> None:
    """Every voxel of `array` has its value where it lies in the world, whatever the order of the voxels."""
    index = np.stack(np.meshgrid(*map(np.arange, array.shape), indexing="ij"), -1).reshape(-1, 3)
    world = nib.affines.apply_affine(affine, index)
    there = nib.affines.apply_affine(np.linalg.inv(image.affine), world)
    nearest = np.rint(there).astype(int)
    assert np.abs(there - nearest).max() < 1e-3
    np.testing.assert_array_equal(np.asarray(image.dataobj)[tuple(nearest.T)], array.reshape(-1))
    assert image.shape == array.shape
