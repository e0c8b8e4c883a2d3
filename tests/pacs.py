"""An export as an archive (PACS) gives it: series and structure sets by pydicom alone, segmentations by highdicom.

Nothing here uses the program's own readers.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
from dicom_series import RAS_TO_LPS, turned, write_series
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

SHAPE = (24, 20, 12)
OBLIQUE = turned((12, -8, 25), (1.5, 1.5, 3.0))
STRAIGHT = turned((0, 0, 0), (1.5, 1.5, 3.0))
NAME, BIRTH, ID = "DOE^JANE^Q", "19510203", "PAT-004711"

Contour = tuple[int, np.ndarray]
"""The slice that it is on, and its points (column, row), pixel centres being whole numbers."""


def ct_of(seed: int, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """HU (x, y, z), even numbers, so that slices with a slope of 2 hold them exactly."""
    return 2 * np.random.default_rng(seed).integers(-200, 200, shape)


def write_ct(folder: Path, *, affine: np.ndarray = STRAIGHT, seed: int = 0, **tags: Any) -> list[Dataset]:
    """A series of the patient NAME with what identifies her in many places."""
    identity = {"PatientName": NAME, "PatientBirthDate": BIRTH, "PatientID": ID, "StudyDate": "20240607"}
    return write_series(folder, ct_of(seed), affine, seed=seed, **{**identity, **tags})


def box(low: tuple[float, float], high: tuple[float, float], degrees: float = 0) -> np.ndarray:
    """A rectangle's corners (4, 2), turned about its middle."""
    (a, b), (c, d) = low, high
    corners, middle = np.array([(a, b), (c, b), (c, d), (a, d)], float), np.array([(a + c) / 2, (b + d) / 2])
    angle = np.radians(degrees)
    return (corners - middle) @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) + middle


def in_box(low: tuple[float, float], high: tuple[float, float], degrees: float = 0) -> np.ndarray:
    """Which pixel centres (column, row) of SHAPE lie in it, by the distances from its axes."""
    middle, half = np.add(low, high) / 2, np.subtract(high, low) / 2
    at = np.stack(np.meshgrid(np.arange(SHAPE[0]), np.arange(SHAPE[1]), indexing="ij"), -1) - middle
    angle = np.radians(degrees)
    along = at @ np.array([np.cos(angle), np.sin(angle)])
    across = at @ np.array([-np.sin(angle), np.cos(angle)])
    return (np.abs(along) <= half[0] + 1e-9) & (np.abs(across) <= half[1] + 1e-9)


def write_rtstruct(
    path: Path,
    slices: Sequence[Dataset],
    affine: np.ndarray,
    rois: Mapping[str, Sequence[Contour]],
    *,
    kind: str = "CLOSED_PLANAR",
    label: str = "abdomen",
    off_mm: float = 0,
    **tags: Any,
) -> Dataset:
    """A structure set on a series whose `affine` leads from (column, row, slice) to RAS mm."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = RTStructureSetStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    first = slices[0]
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate"):
        setattr(ds, keyword, first.get(keyword))
    ds.SeriesInstanceUID, ds.Modality, ds.SeriesNumber = generate_uid(), "RTSTRUCT", 77
    ds.StructureSetLabel = label
    images = [_item(ReferencedSOPClassUID=s.SOPClassUID, ReferencedSOPInstanceUID=s.SOPInstanceUID) for s in slices]
    series = _item(SeriesInstanceUID=first.SeriesInstanceUID, ContourImageSequence=images)
    study = _item(ReferencedSOPInstanceUID=first.StudyInstanceUID, RTReferencedSeriesSequence=[series])
    frame = first.FrameOfReferenceUID
    ds.ReferencedFrameOfReferenceSequence = [_item(FrameOfReferenceUID=frame, RTReferencedStudySequence=[study])]
    ds.StructureSetROISequence = [
        _item(ROINumber=number, ROIName=name, ReferencedFrameOfReferenceUID=frame, ROIGenerationAlgorithm="MANUAL")
        for number, name in enumerate(rois, start=1)
    ]
    ds.ROIContourSequence = []
    normal = affine[:3, 2] / np.linalg.norm(affine[:3, 2])
    for number, contours in enumerate(rois.values(), start=1):
        drawn = []
        for z, points in contours:
            index = np.column_stack([points, np.full(len(points), z)])
            world = index @ affine[:3, :3].T + affine[:3, 3] + off_mm * normal
            data = [f"{value:.4f}" for value in (world @ RAS_TO_LPS).ravel()]
            geometry = kind if len(points) > 1 else "POINT"
            drawn.append(_item(ContourGeometricType=geometry, NumberOfContourPoints=len(points), ContourData=data))
        ds.ROIContourSequence.append(_item(ReferencedROINumber=number, **({"ContourSequence": drawn} if drawn else {})))
    for tag, value in tags.items():
        setattr(ds, tag, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, ds, enforce_file_format=True)
    return ds


def _item(**values: Any) -> Dataset:
    ds = Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def write_seg(
    path: Path,
    slices: Sequence[Dataset],
    masks: Mapping[str, np.ndarray],
    *,
    kind: str = "BINARY",
    meanings: Mapping[str, Any] | None = None,
    **given: Any,
) -> Dataset:
    """A segmentation of a series by highdicom; masks (column, row, slice), of fractions for kind FRACTIONAL."""
    about = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=(meanings or {}).get(name, codes.SCT.Organ),
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number, name in enumerate(masks, start=1)
    ]
    stacked = np.stack(list(masks.values()), -1).transpose(2, 1, 0, 3)  # slice, row, column, segment
    if kind == "LABELMAP":
        stacked = (stacked * np.arange(1, 1 + len(masks))).max(axis=-1)
    pixels = stacked.astype(np.float32) if kind == "FRACTIONAL" else stacked.astype(np.uint8)
    seg = hd.seg.Segmentation(
        source_images=list(slices),
        pixel_array=pixels,
        segmentation_type=kind,
        segment_descriptions=about,
        series_instance_uid=generate_uid(),
        series_number=88,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="test",
        manufacturer_model_name="test",
        software_versions="1",
        device_serial_number="1",
        **given,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    seg.save_as(path)
    return seg
