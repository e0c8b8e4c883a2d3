"""Structure sets of radiotherapy (RTSTRUCT): contours in the patient's space, filled on the grid of their series."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from amos_fl.dicom.contours import filled
from amos_fl.dicom.header import damage_said, pydicom_or_sentence
from amos_fl.dicom.labels import Drawn, DrawnStructure, Label, grid_of
from amos_fl.dicom.series import Series
from amos_fl.dicom.stack import LPS_TO_RAS
from amos_fl.errors import AmosError
from amos_fl.escape.terminal import one_line
from amos_fl.wording import counted

_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
_OFF_PLANE = 0.25
"""How far a contour may lie from its slice, as a share of the distance of slices."""


def read_structure_set(path: Path) -> Label:
    """A structure set by its header.

    Raises:
        AmosError: it is damaged; the sentence lacks the file's name.
    """
    with damage_said():
        ds = _read(path)
        frames, series, instances = set(), set(), set()
        for frame in ds.get("ReferencedFrameOfReferenceSequence") or []:
            frames.add(str(frame.get("FrameOfReferenceUID") or ""))
            for study in frame.get("RTReferencedStudySequence") or []:
                for one in study.get("RTReferencedSeriesSequence") or []:
                    series.add(str(one.get("SeriesInstanceUID") or ""))
                    instances |= _images(one)
        contours = _contours_of(ds)
        structures = []
        for roi in ds.get("StructureSetROISequence") or []:
            number = int(roi.get("ROINumber", -1))
            frames.add(str(roi.get("ReferencedFrameOfReferenceUID") or ""))
            own = contours.get(number, [])
            instances |= {uid for contour in own for uid in _images(contour)}
            closed = [contour for contour in own if contour.get("ContourGeometricType") in _CLOSED]
            absent = "" if closed else "has points and open lines only" if own else "has no contour"
            structures.append(
                DrawnStructure(number, one_line(str(roi.get("ROIName") or "").strip(), 64), absent=absent)
            )
        numbers = [structure.number for structure in structures]
        if len(set(numbers)) < len(numbers):
            raise AmosError("gives two structures one number; export it again")
        words = (ds.get("StructureSetLabel"), ds.get("SeriesDescription"))
        return Label(
            path=path,
            kind="RTSTRUCT",
            description=one_line(" ".join(str(word) for word in words if word), 64),
            patient=str(ds.get("PatientID") or "").strip(),
            frames_of_reference=frozenset(frames - {""}),
            series_uids=frozenset(series - {""}),
            instance_uids=frozenset(instances - {""}),
            structures=tuple(structures),
            read=_drawn,
        )


class _ToItsEnd:
    """A file that knows whether it ended where something was still expected: pydicom then goes on with what it has."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.cut_off = False
        self._at_end = False

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(size)
        if len(content) < size:
            # At the end of a whole file there is one attempt to read the next element, and it finds nothing.
            self.cut_off = self.cut_off or bool(content) or self._at_end
            self._at_end = True
        return content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _read(path: Path) -> Any:
    pydicom = pydicom_or_sentence()
    with path.open("rb") as opened:
        file = _ToItsEnd(opened)
        try:
            return pydicom.dcmread(file)
        finally:
            if file.cut_off:
                raise AmosError("is cut off; fetch it again") from None


def _images(item: Any) -> set[str]:
    return {str(image.get("ReferencedSOPInstanceUID") or "") for image in item.get("ContourImageSequence") or []}


def _contours_of(ds: Any) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    for roi in ds.get("ROIContourSequence") or []:
        found.setdefault(int(roi.get("ReferencedROINumber", -1)), []).extend(roi.get("ContourSequence") or [])
    return found


def _drawn(label: Label, series: Series) -> Iterator[Drawn]:
    affine, shape = grid_of(series)
    with damage_said():
        contours = _contours_of(_read(label.path))
    for structure in label.structures:
        if structure.absent:
            yield Drawn(structure, None, structure.absent)
            continue
        try:
            with damage_said():
                drawn = _filled(structure, contours.get(structure.number, []), np.linalg.inv(affine), shape)
        except AmosError as error:
            drawn = Drawn(structure, None, str(error))
        yield drawn


def _filled(
    structure: DrawnStructure, contours: Sequence[Any], to_index: np.ndarray, shape: tuple[int, int, int]
) -> Drawn:
    """Raises AmosError where a structure cannot be used; the sentence lacks its name."""
    by_slice: dict[int, list[np.ndarray]] = {}
    beyond = others = 0
    for contour in contours:
        if contour.get("ContourGeometricType") not in _CLOSED:
            others += 1
            continue
        points_mm = _points(contour) * LPS_TO_RAS.diagonal()[:3]
        points = points_mm @ to_index[:3, :3].T + to_index[:3, 3]  # (point, 3) in voxels
        height = float(points[:, 2].mean())
        if not -0.5 <= height <= shape[0] - 0.5:
            beyond += 1
            continue
        number = min(max(round(height), 0), shape[0] - 1)
        if (off := float(np.abs(points[:, 2] - number).max())) > _OFF_PLANE:
            off_mm = off * float(np.linalg.norm(np.linalg.inv(to_index)[:3, 2]))
            raise AmosError(f"has a contour {off_mm:.3g} mm off the scan's slices; export it with the series it was on")
        by_slice.setdefault(number, []).append(np.ascontiguousarray(points[:, :2]))
    if not by_slice:
        raise AmosError("lies beyond the scan")
    mask = np.zeros(shape, dtype=bool)
    crossing = 0
    for number, polygons in by_slice.items():
        found = filled(polygons, shape[1:])
        if found is not None:
            rows, columns = found.mask.shape
            mask[number, found.row : found.row + rows, found.column : found.column + columns] = found.mask
            crossing += found.crossing
    if not mask.any():
        raise AmosError("encloses no voxel's centre")
    notes = [
        f"{counted(beyond, 'contour')} beyond the scan's slices" if beyond else "",
        f"{counted(others, 'point or open line', 'points or open lines')} passed over" if others else "",
        f"contours cross one another on {counted(crossing, 'slice')}: what two enclose is outside" if crossing else "",
        _gaps(sorted(by_slice)),
    ]
    return Drawn(structure, mask, notes=tuple(note for note in notes if note))


def _points(contour: Any) -> np.ndarray:
    data = np.asarray([float(value) for value in contour.get("ContourData") or []])
    if len(data) % 3 or len(data) < 9:
        raise AmosError(f"has a closed contour with {counted(len(data), 'coordinate')}; it needs at least three points")
    if not np.isfinite(data).all() or np.abs(data).max() > 1e6:
        raise AmosError("has a contour whose coordinates are not finite, or far outside any scan")
    return data.reshape(-1, 3)


def _gaps(slices: Sequence[int]) -> str:
    """A note on slices between the first and the last that have no contour.

    Raises:
        AmosError: the structure was drawn on every second slice or fewer.
    """
    between = slices[-1] - slices[0] + 1
    steps = np.diff(slices)
    if len(steps) and (step := math.floor(np.median(steps))) > 1:
        raise AmosError(
            f"was drawn on {len(slices)} of the {between} slices from its first to its last, about every "
            f"{step}{'nd' if step == 2 else 'rd' if step == 3 else 'th'}; interpolate it where it was drawn"
        )
    missing = between - len(slices)
    return f"no contour on {missing} of the {between} slices from its first to its last" if missing else ""
