"""A label map of a series as a DICOM segmentation (SEG), by highdicom of the extra `dicom`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from amos_fl.dicom.header import without_bare_warnings
from amos_fl.dicom.series import Series
from amos_fl.dicom.sources import NOT_FOR_DIAGNOSIS, CodedOrgan, Maker, present, source_images
from amos_fl.errors import AmosError
from amos_fl.files import whole_file
from amos_fl.wording import first_line

_SIDES = {"left": ("7771000", "Left"), "right": ("24028007", "Right")}
_SERIES_NUMBER = 9001


def highdicom_or_sentence() -> Any:
    """highdicom, which the extra `dicom` installs.

    Raises:
        AmosError: it is not installed.
    """
    try:
        import highdicom
    except ImportError:
        raise AmosError(
            "writing DICOM SEG needs highdicom",
            "install it: pip install highdicom; or write an RTSTRUCT, which does not need it",
        ) from None
    return highdicom


def write_segmentation(
    path: Path,
    label: UInt8[np.ndarray, "slice row column"],
    series: Series,
    regions: Sequence[CodedOrgan],
    maker: Maker,
) -> None:
    """Write a label map on the grid of a series: a binary segment for each region in it, with references to its images.

    Patient and study are those of the series.

    Raises:
        AmosError: nothing is drawn, or the series cannot be referred to.
    """
    highdicom = highdicom_or_sentence()
    drawn = present(label, regions)
    if not drawn:
        raise AmosError(f"{series.name}: no organ was found, and a DICOM SEG holds one or more")
    images, indices = source_images(series)
    files = list(dict.fromkeys(map(id, images)))
    if len(files) == 1 and len(images) > 1:  # one enhanced file, whose frames are in an order of their own
        if len(images) != int(images[0].NumberOfFrames):
            raise AmosError(f"{series.name}: is a part of a file's frames; no DICOM SEG can refer to it")
        label, images = label[np.argsort(indices)], images[:1]
    elif len(files) < len(images):
        raise AmosError(f"{series.name}: is of several files of several frames; no DICOM SEG can refer to it")
    numbers = np.zeros(256, dtype=np.uint8)
    numbers[[region.value for region in drawn]] = np.arange(1, 1 + len(drawn))
    with without_bare_warnings():
        try:
            seg = highdicom.seg.Segmentation(
                source_images=images,
                pixel_array=numbers[label],
                segmentation_type="BINARY",
                segment_descriptions=[_described(highdicom, n, region, maker) for n, region in enumerate(drawn, 1)],
                series_instance_uid=maker.uid(series, label, "SEG series"),
                series_number=_SERIES_NUMBER,
                sop_instance_uid=maker.uid(series, label, "SEG"),
                instance_number=1,
                manufacturer="amos-fl",
                manufacturer_model_name=maker.network,
                software_versions=maker.version,
                device_serial_number=maker.weights_sha256[:16],
                content_label="ORGANS",
                content_description=NOT_FOR_DIAGNOSIS,
                series_description=NOT_FOR_DIAGNOSIS,
            )
        except Exception as error:  # highdicom names whatever a series' headers lack
            raise AmosError(f"{series.name}: no DICOM SEG can be made of it ({first_line(error)})") from None
        with whole_file(path) as beside:
            seg.save_as(beside)


def _described(highdicom: Any, number: int, region: CodedOrgan, maker: Maker) -> Any:
    from pydicom.sr.codedict import codes

    found = highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=region.name[:64],
        segmented_property_category=highdicom.sr.CodedConcept("123037004", "SCT", "Anatomical Structure"),
        segmented_property_type=highdicom.sr.CodedConcept(region.code, "SCT", region.meaning),
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name="amos-fl",
            family=codes.cid7162.ArtificialIntelligence,
            version=maker.version,
            parameters={"network": maker.network, "weights_sha256": maker.weights_sha256},
        ),
        display_color=highdicom.color.CIELabColor.from_rgb(*region.colour),
    )
    if region.side:
        value, meaning = _SIDES[region.side]
        [kind] = found.SegmentedPropertyTypeCodeSequence
        kind.SegmentedPropertyTypeModifierCodeSequence = [highdicom.sr.CodedConcept(value, "SCT", meaning)]
    return found
