"""DICOM series written from a known volume, as scanners write them: one file per slice, scaled, in LPS."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

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
    **tags: Any,
) -> list[Dataset]:
    """Write `array` (x, y, z), whose `affine` leads to RAS mm, slice by slice along z under shuffled names.

    x becomes the columns and y the rows of a slice. Each slice has its own slope and intercept. `shift_mm` (in RAS)
    moves every slice against the one before, as a tilted gantry does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    series_uid, study_uid, frame_uid = (generate_uid(entropy_srcs=[str(folder), str(number), w]) for w in "abc")
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
