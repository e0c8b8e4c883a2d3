"""The header of one DICOM file: which series it belongs to, where its frames lie, and what their values mean.

A file of one slice and an enhanced file of many hold the same in different places; here both become frames.
"""

import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amos_fl.errors import AmosError
from amos_fl.escape.terminal import one_line

DIRECTORY = "1.2.840.10008.1.3.10"
"""The SOP class of a DICOMDIR."""
_DEFLATED = "1.2.840.10008.1.2.1.99"
_SCANS = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.2.1": "CT",  # enhanced
    "1.2.840.10008.5.1.4.1.1.2.2": "CT",  # enhanced, converted from single slices
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.4.1": "MR",
    "1.2.840.10008.5.1.4.1.1.4.4": "MR",
}
"""The SOP classes of images measured by a scanner. Screenshots, maps and segmentations have others."""
_PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_TAGS = [
    *(
        "SOPClassUID",
        "SOPInstanceUID",
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "SeriesNumber",
        "SeriesDescription",
        "Modality",
    ),
    *("PatientID", "FrameOfReferenceUID", "ImageType", "InstanceNumber", "ImagesInAcquisition", "NumberOfSlices"),
    *("NumberOfFrames", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SpacingBetweenSlices", "SliceThickness"),
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence"),
]
_MOST_SPARE_BYTES = 8
"""Pixel data may end in padding; more than this means that rows, columns or frames differ from the header."""


def pydicom_or_sentence() -> Any:
    """pydicom, which the extra `dicom` installs.

    Raises:
        AmosError: it is not installed.
    """
    try:
        import pydicom
    except ImportError:
        raise AmosError('reading DICOM needs more packages; install them: pip install "amos-fl[dicom]"') from None
    return pydicom


@contextmanager
def without_bare_warnings() -> Iterator[None]:
    """Keep pydicom's warnings off the terminal: they name no file, and those that matter are checked here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def damage_said() -> Iterator[None]:
    """Have whatever pydicom stumbles over in a damaged file said as a sentence, which lacks the file's name.

    Raises:
        AmosError: instead of any other error.
    """
    with without_bare_warnings():
        try:
            yield
        except AmosError:
            raise
        except PermissionError:
            raise AmosError("may not be read; check its permissions") from None
        except MemoryError:  # of a length that a damaged header names
            raise AmosError("needs more memory than there is; is it damaged?") from None
        except Exception as error:
            raise AmosError(f"is damaged ({_first_line(error)})") from None


@dataclass(frozen=True)
class DicomFrame:
    """One slice: frame `index` of a file, with what the header says about it; None if it says nothing.

    `position_mm`, `orientation` (rows' and columns' directions) are in DICOM's patient space (LPS), `pixel_mm` is the
    distance between rows, then between columns. `rescale` is a slope and an intercept.
    """

    path: Path
    index: int
    position_mm: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    pixel_mm: tuple[float, ...] | None
    rescale: tuple[float, float] | None
    rescale_type: str
    spacing_between_slices_mm: float | None
    slice_thickness_mm: float | None


@dataclass(frozen=True)
class DicomFile:
    """A DICOM file's header. `fault` is what makes the file unusable; then `frames` is empty."""

    path: Path
    study_uid: str
    series_uid: str
    instance_uid: str
    modality: str
    number: str
    description: str
    patient: str
    frame_of_reference: str
    is_image: bool
    is_localizer: bool
    instance_number: int | None
    stated_images: tuple[tuple[str, int], ...]
    """What the header says about the number of images, with the names of the attributes."""
    slices: int
    """How many frames the file claims to hold; 0 if it is not a scanner's image."""
    size: tuple[int, int]
    """Rows and columns."""
    colours: bool
    has_lut: bool
    frames: tuple[DicomFrame, ...]
    fault: str | None = None


def read_header(path: Path) -> DicomFile | None:
    """The header of a DICOM file; None for a DICOMDIR.

    Raises:
        AmosError: it is damaged or cut off before it says which series it belongs to; the sentence lacks the name.
    """
    pydicom = pydicom_or_sentence()
    with without_bare_warnings():
        try:
            ds, pixel_bytes, missing_bytes = _read(pydicom, path)
            if str(ds.file_meta.get("MediaStorageSOPClassUID", "")) == DIRECTORY:
                return None
            series = str(ds.get("SeriesInstanceUID") or "")
            general = _general(path, ds)
        except PermissionError:
            raise AmosError("cannot be read; check its permissions") from None
        except Exception as error:  # a damaged file can make pydicom raise anything
            raise AmosError(f"is damaged ({_first_line(error)})") from None
        if not series:
            raise AmosError("names no series; it is cut off or damaged")
        if not general["is_image"]:
            return DicomFile(**general, size=(0, 0), colours=False, has_lut=False, frames=())
        try:
            if pixel_bytes is None:
                raise AmosError("holds no pixels; it is cut off")
            images = _image(path, ds)
            fault = _fault_of_pixels(ds, images["size"], len(images["frames"]), pixel_bytes, missing_bytes)
        except AmosError as error:
            images, fault = None, str(error)
        except Exception as error:
            images, fault = None, f"has a damaged header ({_first_line(error)})"
        nothing = {"size": (0, 0), "colours": False, "has_lut": False, "frames": ()}
        return DicomFile(**general, **(nothing if fault or images is None else images), fault=fault)


def _read(pydicom: Any, path: Path) -> tuple[Any, int | None, int]:
    """The header, the bytes of its pixel data (None: there are none; -1: compressed), and how many are missing."""
    from pydicom.filereader import read_partial
    from pydicom.tag import Tag

    found: list[tuple[int, int]] = []
    with path.open("rb") as file:

        def at_pixels(tag: Any, vr: str | None, length: int) -> bool:
            if int(tag) in _PIXELS:
                found.append((length, file.tell()))
                return True
            return False

        ds = read_partial(file, stop_when=at_pixels, specific_tags=[Tag(tag) for tag in _TAGS])
        end = os.fstat(file.fileno()).st_size
    if not found:
        return ds, None, 0
    length, start = found[0]
    if length == 0xFFFFFFFF:
        return ds, -1, 0
    # In a deflated file the position means nothing; reading its pixels will tell.
    deflated = str(ds.file_meta.get("TransferSyntaxUID", "")) == _DEFLATED
    return ds, length, 0 if deflated else max(0, start + length - end)


def _general(path: Path, ds: Any) -> dict[str, Any]:
    sop_class, modality = str(ds.get("SOPClassUID") or ""), str(ds.get("Modality") or "unknown")
    counts = (("Images in Acquisition", "ImagesInAcquisition"), ("Number of Slices", "NumberOfSlices"))
    numbers = [(name, _integer(ds.get(keyword))) for name, keyword in counts]
    is_image = modality in ("CT", "MR") and _SCANS.get(sop_class, "" if sop_class else modality) == modality
    kinds = [str(kind).upper() for kind in _listed(ds.get("ImageType"))]
    return {
        "path": path,
        "study_uid": one_line(str(ds.get("StudyInstanceUID") or ""), 64),
        "series_uid": one_line(str(ds.get("SeriesInstanceUID") or ""), 64),
        "instance_uid": str(ds.get("SOPInstanceUID") or ""),
        "modality": one_line(modality, 16),
        "number": one_line(str(ds.get("SeriesNumber") or ""), 16),
        "description": one_line(str(ds.get("SeriesDescription") or ""), 64),
        "patient": str(ds.get("PatientID") or "").strip(),
        "frame_of_reference": str(ds.get("FrameOfReferenceUID") or ""),
        "is_image": is_image,
        "slices": max(1, _integer(ds.get("NumberOfFrames")) or 1) if is_image else 0,
        "is_localizer": "LOCALIZER" in kinds or "SCOUT" in kinds,
        "instance_number": _integer(ds.get("InstanceNumber")),
        "stated_images": tuple((name, number) for name, number in numbers if number),
    }


def _integer(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError):
        return None


def _listed(value: Any) -> list[Any]:
    return [] if value is None else [value] if isinstance(value, str | int | float) else list(value)


def _first_line(error: Exception) -> str:
    return one_line((str(error) or type(error).__name__).splitlines()[0], 100)


def _image(path: Path, ds: Any) -> dict[str, Any]:
    if lacking := [keyword for keyword in ("Rows", "Columns", "BitsAllocated") if not ds.get(keyword)]:
        raise AmosError(f"has a damaged header (no {', '.join(lacking)})")
    count = int(ds.get("NumberOfFrames") or 1)
    each = list(ds.get("PerFrameFunctionalGroupsSequence") or [])
    shared = list(ds.get("SharedFunctionalGroupsSequence") or [])[:1]
    if each and len(each) != count:
        raise AmosError(f"says that it holds {count} frames but describes {len(each)}")
    if count > 1 and not each:
        raise AmosError(f"holds {count} frames but does not say where each lies")
    samples, photometric = int(ds.get("SamplesPerPixel") or 1), str(ds.get("PhotometricInterpretation") or "")
    return {
        "size": (int(ds.Rows), int(ds.Columns)),
        "colours": samples != 1 or not photometric.startswith("MONOCHROME"),
        "has_lut": bool(ds.get("ModalityLUTSequence")),
        "frames": tuple(frame_of(path, i, [*each[i : i + 1], *shared], ds) for i in range(count)),
    }


def frame_of(path: Path, index: int, groups: Sequence[Any], ds: Any) -> DicomFrame:
    """Frame `index` of a file: what its functional groups, its own first, or else the file itself say.

    Raises:
        AmosError: a damaged or contradicting header; the sentence lacks the file's name.
    """

    def stated(sequence: str, keyword: str) -> list[Any]:
        """What the frame's own groups, those of all frames, and the file itself say, if anything."""
        items = [group[sequence][0] for group in groups if group.get(sequence)]
        return [item.get(keyword) for item in [*items, ds] if item.get(keyword) not in (None, "")]

    def numbers(sequence: str, keyword: str, count: int) -> list[tuple[float, ...]]:
        values = [tuple(float(number) for number in _listed(value)) for value in stated(sequence, keyword)]
        for found in values:
            if len(found) != count or not all(map(math.isfinite, found)):
                raise AmosError(f"has a damaged header ({keyword}: {one_line(str(list(found)), 60)})")
        return values

    def first(values: list[tuple[float, ...]]) -> tuple[float, ...] | None:
        return values[0] if values else None

    slopes, intercepts = (
        {float(value) for value in stated("PixelValueTransformationSequence", keyword)}
        for keyword in ("RescaleSlope", "RescaleIntercept")
    )
    if len(slopes) > 1 or len(intercepts) > 1:
        raise AmosError("states two slopes or intercepts for the values of one slice")
    if len(slopes) != len(intercepts):
        raise AmosError("states a slope or an intercept for its values, but not both")
    kinds = stated("PixelValueTransformationSequence", "RescaleType")
    rescale = (slopes.pop(), intercepts.pop()) if slopes else None
    if rescale is not None and not (all(map(math.isfinite, rescale)) and rescale[0]):
        raise AmosError(f"scales its values by {rescale[0]:g} and {rescale[1]:g} (slope and intercept)")
    measures = "PixelMeasuresSequence"
    between, thickness = (first(numbers(measures, name, 1)) for name in ("SpacingBetweenSlices", "SliceThickness"))
    sizes_mm = numbers(measures, "PixelSpacing", 2)
    if any(not math.isclose(a, b, rel_tol=1e-3) for size in sizes_mm for a, b in zip(size, sizes_mm[0], strict=True)):
        raise AmosError("states two sizes of one slice's pixels (Pixel Spacing)")
    return DicomFrame(
        path=path,
        index=index,
        position_mm=first(numbers("PlanePositionSequence", "ImagePositionPatient", 3)),
        orientation=first(numbers("PlaneOrientationSequence", "ImageOrientationPatient", 6)),
        pixel_mm=first(sizes_mm),
        rescale=rescale,
        rescale_type=one_line(str(kinds[0]).strip().upper(), 16) if kinds else "",
        spacing_between_slices_mm=abs(between[0]) if between else None,
        slice_thickness_mm=abs(thickness[0]) if thickness else None,
    )


def _fault_of_pixels(ds: Any, size: tuple[int, int], frames: int, pixel_bytes: int, missing_bytes: int) -> str | None:
    if missing_bytes:
        return f"is cut off: {max(0, pixel_bytes - missing_bytes)} of {pixel_bytes} bytes of its pixels are present"
    allocated = int(ds.BitsAllocated)
    if allocated not in (8, 16, 32) or not 1 <= int(ds.get("BitsStored") or allocated) <= allocated:
        return f"has a damaged header (Bits Allocated {allocated}, Bits Stored {ds.get('BitsStored')})"
    stored, high = (int(ds.get(keyword) or 0) for keyword in ("BitsStored", "HighBit"))
    if stored and high and high != stored - 1:  # pydicom reads the lowest bits regardless of the header
        return f"does not store its numbers in the lowest bits (High Bit {high}, Bits Stored {stored})"
    needed = size[0] * size[1] * frames * int(ds.get("SamplesPerPixel") or 1) * allocated // 8
    if pixel_bytes >= 0 and not 0 < needed <= pixel_bytes <= needed + _MOST_SPARE_BYTES:
        shape = "x".join(map(str, (*((frames,) if frames > 1 else ()), *size)))
        return f"holds {pixel_bytes} bytes of pixels, but its header says {needed} ({shape})"
    return None
