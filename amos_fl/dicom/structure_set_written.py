"""A label map of a series as a structure set of radiotherapy (RTSTRUCT)."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from amos_fl.dicom.header import pydicom_or_sentence, without_bare_warnings
from amos_fl.dicom.labels import grid_of
from amos_fl.dicom.outlines import outlines
from amos_fl.dicom.series import Series
from amos_fl.dicom.sources import NOT_FOR_DIAGNOSIS, TYPE_2, CodedOrgan, Maker, present, source_images
from amos_fl.dicom.stack import LPS_TO_RAS
from amos_fl.errors import AmosError
from amos_fl.files import whole_file

_SERIES_NUMBER = 9002
_DETACHED_STUDY = "1.2.840.10008.3.1.2.3.1"


def write_structure_set(
    path: Path,
    label: UInt8[np.ndarray, "slice row column"],
    series: Series,
    regions: Sequence[CodedOrgan],
    maker: Maker,
) -> None:
    """Write a label map on the grid of a series: a structure for each region in it, with references to its images.

    Contours run halfway between voxels, so filling them at the voxels' centres gives the same label map. Patient and
    study are those of the series.

    Raises:
        AmosError: nothing is drawn, or the series cannot be referred to.
    """
    drawn = present(label, regions)
    if not drawn:
        raise AmosError(f"{series.name}: no organ was found, and an RTSTRUCT holds one or more")
    pydicom = pydicom_or_sentence()
    from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage

    images, indices = source_images(series)
    affine, _ = grid_of(series)
    now = datetime.now()
    meta = pydicom.dataset.FileMetaDataset()
    ds = pydicom.Dataset()
    ds.file_meta = meta
    meta.MediaStorageSOPClassUID = ds.SOPClassUID = RTStructureSetStorage
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = maker.uid(series, label, "RTSTRUCT")
    # Implicit, because a contour's coordinates can be longer than a text with an explicit type may be.
    meta.TransferSyntaxUID = ImplicitVRLittleEndian
    first = images[0]
    for keyword in ("SpecificCharacterSet", "StudyInstanceUID", "StudyDescription", "PatientAge", *TYPE_2):
        if keyword in first:
            ds[keyword] = first[keyword]
    ds.SeriesInstanceUID, ds.Modality = maker.uid(series, label, "RTSTRUCT series"), "RTSTRUCT"
    ds.SeriesNumber, ds.InstanceNumber, ds.OperatorsName = _SERIES_NUMBER, 1, ""
    ds.SeriesDescription = ds.StructureSetDescription = NOT_FOR_DIAGNOSIS
    ds.Manufacturer, ds.ManufacturerModelName, ds.SoftwareVersions = "amos-fl", maker.network, maker.version
    ds.StructureSetLabel, ds.ApprovalStatus = "ORGANS", "UNAPPROVED"
    ds.StructureSetDate, ds.StructureSetTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    ds.InstanceCreationDate, ds.InstanceCreationTime = ds.StructureSetDate, ds.StructureSetTime
    references = [_reference(image, index) for image, index in zip(images, indices, strict=True)]
    one_series = _item(
        SeriesInstanceUID=first.SeriesInstanceUID,
        ContourImageSequence=list({item.ReferencedSOPInstanceUID: item for item in references}.values()),
    )
    study = _item(
        ReferencedSOPClassUID=_DETACHED_STUDY,
        ReferencedSOPInstanceUID=first.StudyInstanceUID,
        RTReferencedSeriesSequence=[one_series],
    )
    frame = series.frame_of_reference
    ds.ReferencedFrameOfReferenceSequence = [_item(FrameOfReferenceUID=frame, RTReferencedStudySequence=[study])]
    ds.StructureSetROISequence, ds.ROIContourSequence, ds.RTROIObservationsSequence = [], [], []
    for number, region in enumerate(drawn, start=1):
        ds.StructureSetROISequence.append(
            _item(
                ROINumber=number,
                ReferencedFrameOfReferenceUID=frame,
                ROIName=region.name[:64],
                ROIGenerationAlgorithm="AUTOMATIC",
                ROIGenerationDescription=f"amos-fl {maker.network}"[:64],
            )
        )
        contours = list(_contours(label == region.value, affine, references))
        colour = list(region.colour)
        ds.ROIContourSequence.append(
            _item(ROIDisplayColor=colour, ReferencedROINumber=number, ContourSequence=contours)
        )
        ds.RTROIObservationsSequence.append(
            _item(
                ObservationNumber=number,
                ReferencedROINumber=number,
                RTROIInterpretedType="ORGAN",
                ROIInterpreter="",
                RTROIIdentificationCodeSequence=[
                    _item(CodeValue=region.code, CodingSchemeDesignator="SCT", CodeMeaning=region.meaning)
                ],
            )
        )
    with whole_file(path) as beside, without_bare_warnings():
        pydicom.dcmwrite(beside, ds, enforce_file_format=True)


def _contours(mask: np.ndarray, affine: np.ndarray, references: Sequence[Any]) -> Iterator[Any]:
    for number in np.flatnonzero(mask.any(axis=(1, 2))).tolist():
        for points in outlines(mask[number]):
            index = np.column_stack([points, np.full(len(points), number)])
            places = (index @ affine[:3, :3].T + affine[:3, 3]) * LPS_TO_RAS.diagonal()[:3]
            yield _item(
                ContourImageSequence=[references[number]],
                ContourGeometricType="CLOSED_PLANAR",
                NumberOfContourPoints=len(points),
                ContourData=[f"{value:.4f}" for value in places.ravel()],
            )


def _reference(image: Any, index: int) -> Any:
    several = {"ReferencedFrameNumber": index + 1} if int(image.get("NumberOfFrames") or 1) > 1 else {}
    return _item(ReferencedSOPClassUID=image.SOPClassUID, ReferencedSOPInstanceUID=image.SOPInstanceUID, **several)


def _item(**values: Any) -> Any:
    ds = pydicom_or_sentence().Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds
