"""DICOM segmentations (SEG): frames of one bit or more, brought onto the grid of their series."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from amos_fl.dicom.header import DicomFrame, damage_said, frame_of, pydicom_or_sentence
from amos_fl.dicom.labels import Drawn, DrawnStructure, Label, grid_of
from amos_fl.dicom.series import Series
from amos_fl.dicom.stack import LPS_TO_RAS
from amos_fl.dicom.values import stored_numbers
from amos_fl.errors import AmosError
from amos_fl.escape.terminal import one_line

_SAME_PIXELS = 0.25
"""How far, in pixels or slices, a segmentation's grid may be from that of its series to be taken as the same."""


@dataclass(frozen=True)
class _Frames:
    """The frames of a file: where each lies, which segment it is of (0: of all, as a label map), and their values."""

    places: tuple[DicomFrame, ...]
    segments: tuple[int, ...]
    threshold: int
    """A voxel belongs to its segment from this value on; unused in a label map."""


def read_segmentation(path: Path) -> Label:
    """A segmentation by its header.

    Raises:
        AmosError: it is damaged, or of a kind that is not read; the sentence lacks the file's name.
    """
    with damage_said():
        return _label(path, pydicom_or_sentence().dcmread(path, stop_before_pixels=True))


def _label(path: Path, ds: Any) -> Label:
    frames = _frames(path, ds)
    series, instances = set(), set()
    for one in ds.get("ReferencedSeriesSequence") or []:
        series.add(str(one.get("SeriesInstanceUID") or ""))
        instances |= {str(i.get("ReferencedSOPInstanceUID") or "") for i in one.get("ReferencedInstanceSequence") or []}
    in_frames = set(frames.segments)
    structures = []
    for segment in ds.get("SegmentSequence") or []:
        number = int(segment.SegmentNumber)
        if number == 0:  # the background of a label map
            continue
        absent = "" if number in in_frames or 0 in in_frames else "has no frame"
        name = one_line(str(segment.get("SegmentLabel") or "").strip(), 64)
        structures.append(DrawnStructure(number, name, _meaning(segment), absent))
    numbers = [structure.number for structure in structures]
    if len(set(numbers)) < len(numbers):
        raise AmosError("gives two segments one number; export it again")
    notes = []
    if str(ds.get("SegmentationType") or "") == "FRACTIONAL":
        kind = str(ds.get("SegmentationFractionalType") or "fractions").lower()
        notes.append(f"holds fractions ({one_line(kind, 16)}); voxels of one half or more are taken")
    return Label(
        path=path,
        kind="SEG",
        description=one_line(
            " ".join(str(ds.get(word)) for word in ("ContentLabel", "SeriesDescription") if ds.get(word)), 64
        ),
        patient=str(ds.get("PatientID") or "").strip(),
        frames_of_reference=frozenset({str(ds.get("FrameOfReferenceUID") or "")} - {""}),
        series_uids=frozenset(series - {""}),
        instance_uids=frozenset(instances - {""}),
        structures=tuple(structures),
        read=_drawn,
        notes=tuple(notes),
    )


def _meaning(segment: Any) -> str:
    """A segment's coded name with its side, in words."""
    [kind, *_] = [*(segment.get("SegmentedPropertyTypeCodeSequence") or []), None]
    if kind is None:
        return ""
    sides = kind.get("SegmentedPropertyTypeModifierCodeSequence") or []
    words = [str(code.get("CodeMeaning") or "") for code in [*sides, kind]]
    return one_line(" ".join(word for word in words if word), 64)


def _frames(path: Path, ds: Any) -> _Frames:
    kind = str(ds.get("SegmentationType") or "")
    if kind not in ("BINARY", "FRACTIONAL", "LABELMAP"):
        raise AmosError(f"is a segmentation of a kind that is not read ({one_line(kind, 16) or 'none named'})")
    count = int(ds.get("NumberOfFrames") or 1)
    each = list(ds.get("PerFrameFunctionalGroupsSequence") or [])
    shared = list(ds.get("SharedFunctionalGroupsSequence") or [])[:1]
    if len(each) != count:
        raise AmosError(f"says that it holds {count} frames and describes {len(each)}")
    places, segments = [], []
    for index, groups in enumerate(each):
        place = frame_of(path, index, [groups, *shared], ds)
        if place.position_mm is None or place.orientation is None or place.pixel_mm is None:
            raise AmosError("does not say where its frames lie; export it again with its geometry")
        if min(place.pixel_mm) <= 0:
            raise AmosError("gives a pixel size of 0 mm or less; export it again")
        places.append(place)
        named = [one for group in (groups, *shared) for one in group.get("SegmentIdentificationSequence") or []]
        if kind != "LABELMAP" and not named:
            raise AmosError("does not say which frame is of which segment; export it again")
        segments.append(0 if kind == "LABELMAP" else int(named[0].ReferencedSegmentNumber))
    most = int(ds.get("MaximumFractionalValue") or 1) if kind == "FRACTIONAL" else 1
    return _Frames(tuple(places), tuple(segments), (most + 1) // 2)


def _drawn(label: Label, series: Series) -> Iterator[Drawn]:
    affine, shape = grid_of(series)
    with damage_said():
        ds = pydicom_or_sentence().dcmread(label.path)
        frames = _frames(label.path, ds)
        size = int(ds.Rows), int(ds.Columns)
        _check_length(ds, size, len(frames.places))
    numbers = stored_numbers(label.path, size)
    grid = _Grid.of(frames.places, size, affine, shape)
    notes = () if grid.same else ("drawn on another grid than the scan's; each voxel has the value of the nearest",)
    for structure in label.structures:
        own = [i for i, segment in enumerate(frames.segments) if segment in (0, structure.number)]
        if structure.absent or not own:
            yield Drawn(structure, None, structure.absent or "has no frame")
            continue
        members = numbers[own]
        is_map = frames.segments[own[0]] == 0
        mask = grid.brought(own, members == structure.number if is_map else members >= frames.threshold)
        if not mask.any():
            yield Drawn(structure, None, "covers no voxel of the scan")
        else:
            yield Drawn(structure, mask, notes=notes)


def _check_length(ds: Any, size: tuple[int, int], frames: int) -> None:
    """Whether as many bytes of pixels are there as the header says, before a decoder is asked for them."""
    if "PixelData" not in ds:
        raise AmosError("holds no pixels; it is cut off")
    if ds.file_meta.TransferSyntaxUID.is_encapsulated:
        return
    needed = -(-size[0] * size[1] * frames * int(ds.get("BitsAllocated") or 0) // 8)
    if min(size) < 1 or not 0 < needed <= len(ds.PixelData) <= needed + 8:
        raise AmosError(f"holds {len(ds.PixelData)} bytes of pixels where its header says {needed}; fetch it again")


@dataclass(frozen=True)
class _Grid:
    """How the frames of a segmentation lie in a series; `where` is the slice of each where the grids are the same."""

    shape: tuple[int, int, int]
    same: bool
    where: np.ndarray
    heights_mm: np.ndarray
    """Of the frames, along their normal from the first of them."""
    to_frames: np.ndarray
    """(4, 4) from (column, row, slice) of the series to column and row of the frames, and their height in mm."""
    reach_mm: float
    """How far from a frame, along its normal, a voxel may lie to take its value from it."""

    @classmethod
    def of(
        cls, places: Sequence[DicomFrame], size: tuple[int, int], affine: np.ndarray, shape: tuple[int, int, int]
    ) -> "_Grid":
        """Raises AmosError where the frames are not parallel slices above each other."""
        positions = np.array([place.position_mm for place in places])
        axes = np.array([place.orientation for place in places]).reshape(-1, 2, 3)
        pixel_mm = np.array([place.pixel_mm for place in places])
        if np.abs(axes - axes[0]).max() > 1e-3 or np.abs(pixel_mm / pixel_mm[0] - 1).max() > 1e-3:
            raise AmosError("its frames are turned against each other, or differ in their pixels' size")
        right, down = axes[0]
        if abs(float(right @ down)) > 1e-3 or np.abs(np.linalg.norm(axes[0], axis=1) - 1).max() > 1e-2:
            raise AmosError("gives two directions that are not at right angles and of length 1; export it again")
        normal = np.cross(down, right)
        heights_mm = (positions - positions[0]) @ normal
        beside = positions - positions[0] - heights_mm[:, None] * normal
        if np.linalg.norm(beside, axis=1).max() > pixel_mm.min() / 2:
            raise AmosError("its frames do not lie above each other")
        frames = np.eye(4)
        frames[:3, :3] = np.column_stack([right * pixel_mm[0, 1], down * pixel_mm[0, 0], normal])
        frames[:3, 3] = positions[0]
        to_frames = np.linalg.inv(LPS_TO_RAS @ frames) @ affine
        apart = np.diff(np.unique(np.round(heights_mm, 3)))
        stated = [place.spacing_between_slices_mm for place in places]
        reach_mm = (stated[0] or (float(apart.min()) if len(apart) else places[0].slice_thickness_mm or 1.0)) / 2
        # The places of the frames as slices of the series, and whether each corner is where the series has it.
        last = np.array([[c, r, 0, 1] for c in (0, size[1] - 1) for r in (0, size[0] - 1)], dtype=float)
        corners = np.array([last + np.array([0, 0, height, 0]) for height in heights_mm])  # (frame, corner, 4)
        there = corners @ np.linalg.inv(to_frames).T
        where = np.rint(there[:, 0, 2]).astype(int)
        expected = np.broadcast_to(last, there.shape)[..., :2]
        off = np.abs(np.concatenate([there[..., :2] - expected, there[..., 2:3] - where[:, None, None]], axis=2))
        return cls(shape, size == shape[1:] and float(off.max()) < _SAME_PIXELS, where, heights_mm, to_frames, reach_mm)

    def brought(self, own: Sequence[int], members: np.ndarray) -> np.ndarray:
        """The mask (slice, row, column) of a segment, from the masks (frame, row, column) of its frames `own`."""
        mask = np.zeros(self.shape, dtype=bool)
        if self.same:
            for place, member in zip(self.where[own], members, strict=True):
                if 0 <= place < self.shape[0]:
                    mask[place] |= member
            return mask
        order = np.argsort(self.heights_mm[own], kind="stable")
        heights_mm, members = self.heights_mm[own][order], members[order]
        _, rows, columns = self.shape
        column, row = np.meshgrid(np.arange(columns), np.arange(rows))
        for number in range(self.shape[0]):
            at = np.stack([column, row, np.full_like(row, number)], axis=-1) @ self.to_frames[:3, :3].T
            at = at + self.to_frames[:3, 3]
            above = np.searchsorted(heights_mm, at[..., 2]).clip(1, max(1, len(heights_mm) - 1))
            below = above - 1
            above = above.clip(max=len(heights_mm) - 1)
            nearer = np.abs(at[..., 2] - heights_mm[below]) <= np.abs(at[..., 2] - heights_mm[above])
            frame = np.where(nearer, below, above)
            x, y = np.rint(at[..., 0]).astype(int), np.rint(at[..., 1]).astype(int)
            inside = (x >= 0) & (y >= 0) & (x < members.shape[2]) & (y < members.shape[1])
            inside &= np.abs(at[..., 2] - heights_mm[frame]) <= self.reach_mm * 1.001
            mask[number][inside] = members[frame[inside], y[inside], x[inside]]
        return mask
