"""Check that DICOM slices form an even, straight stack, and compute its affine.

Readers of DICOM accept a tilted gantry, a gap or a rotated slice within tolerances per slice, but what is small from
one slice to the next adds up to centimetres over the scan. Here every bound is a distance in mm over the whole scan.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from amos_fl.dicom.files import names_of
from amos_fl.dicom.header import DicomFrame
from amos_fl.errors import AmosError
from amos_fl.volumes.plausible_grid import MISPLACED_MM
from amos_fl.wording import counted

_UNEVEN_MM = 0.05
"""How far the distance of two slices may deviate from the mean: a missing slice is far more."""
_SAME_PLACE_MM = 0.01
_UNIT = 0.01
"""How far the length of a direction may deviate from 1."""
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From DICOM's patient space to NIfTI's, and back."""


@dataclass(frozen=True)
class Stack:
    """Frames in their order in space, and the affine (4, 4) from (column, row, slice) to RAS mm."""

    frames: tuple[DicomFrame, ...]
    affine: np.ndarray
    notes: tuple[str, ...] = ()


def stack_of(frames: Sequence[DicomFrame], size: tuple[int, int]) -> Stack:
    """The stack formed by frames of `size` rows and columns.

    Raises:
        AmosError: why they form none; the sentence lacks the name of the series.
    """
    _require(frames, "position_mm", "where its slices lie (Image Position (Patient))")
    _require(frames, "orientation", "how its slices are oriented (Image Orientation (Patient))")
    _require(frames, "pixel_mm", "how large its pixels are in the patient (Pixel Spacing)")
    pixel_mm = np.array([frame.pixel_mm for frame in frames])  # between rows, between columns
    if (pixel_mm <= 0).any():
        raise AmosError(f"gives a pixel size of {_mm(pixel_mm.min(axis=0))} (Pixel Spacing); repair its headers")
    extents_mm = np.array([size[1] - 1, size[0] - 1]) * np.median(pixel_mm, axis=0)[::-1]  # along a row, a column
    # Half a pixel if that is less, unlike elsewhere: this affine is made here, so only rounding is to be tolerated.
    allowed_mm = min(MISPLACED_MM, float(pixel_mm.min()) / 2)

    axes = _axes(frames, extents_mm, allowed_mm)
    apart = np.abs(pixel_mm - np.median(pixel_mm, axis=0)) * np.array(size)
    if apart.max() > allowed_mm:
        odd = frames[int(apart.max(axis=1).argmax())]
        raise AmosError(
            f"its slices differ in pixel size ({odd.path.name}: {_mm(odd.pixel_mm or ())}, "
            f"others: {_mm(np.median(pixel_mm, axis=0))}); export one stack of slices"
        )

    normal = np.cross(axes[1], axes[0])  # highdicom's order: axial slices from head to feet
    positions = np.array([frame.position_mm for frame in frames])
    order = np.argsort(positions @ normal, kind="stable")
    frames, positions = [frames[i] for i in order], positions[order]
    heights = positions @ normal
    step = _even_step(frames, heights, allowed_mm)
    _check_straight(frames, positions, heights, normal, allowed_mm)

    affine = np.eye(4)
    row_mm, column_mm = np.median(pixel_mm, axis=0)
    affine[:3, :3] = np.column_stack([axes[0] * column_mm, axes[1] * row_mm, normal * step])
    affine[:3, 3] = positions[0]
    return Stack(tuple(frames), LPS_TO_RAS @ affine, tuple(_contradicted_spacing(frames, step)))


def _require(frames: Sequence[DicomFrame], what: str, words: str) -> None:
    lacking = list(dict.fromkeys(frame.path.name for frame in frames if getattr(frame, what) is None))
    if lacking:
        files = len({frame.path for frame in frames})
        do = "does" if len(lacking) == 1 else "do"
        who = "its files do" if len(lacking) == files else f"{names_of(lacking)} (of {counted(files, 'file')}) {do}"
        raise AmosError(f"{who} not say {words}; export the series again with its geometry")


def _axes(frames: Sequence[DicomFrame], extents_mm: np.ndarray, allowed_mm: float) -> np.ndarray:
    """The directions (2, 3) of rows and columns, which are at right angles and the same in all frames."""
    directions = np.array([frame.orientation for frame in frames]).reshape(-1, 2, 3)
    lengths = np.linalg.norm(directions, axis=2)
    if np.abs(lengths - 1).max() > _UNIT:
        odd = frames[int(np.abs(lengths - 1).max(axis=1).argmax())]
        raise AmosError(
            f"{odd.path.name} gives its direction by {_listed(odd.orientation or ())} (Image Orientation (Patient)), "
            "which is not two directions of length 1; export the series again with its geometry"
        )
    directions = directions / lengths[..., None]
    axes = np.median(directions, axis=0)
    turned_mm = (np.linalg.norm(directions - axes, axis=2) * extents_mm).max(axis=1)
    if turned_mm.max() > allowed_mm:
        odd = [frame.path.name for frame, mm in zip(frames, turned_mm, strict=True) if mm > allowed_mm]
        which = f" ({names_of(odd)})" if 2 * len(odd) < len(frames) else ""
        raise AmosError(f"its slices are rotated against each other{which}; export one stack of parallel slices")
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    sheared_mm = abs(float(axes[0] @ axes[1])) * extents_mm.max()
    if sheared_mm > allowed_mm:
        raise AmosError(
            f"its rows and columns are not at right angles, by {sheared_mm:.1f} mm over the slice; resample it first"
        )
    # Rounding in the angle is removed from the columns' direction, so that the grid is straight.
    columns = axes[1] - axes[0] * (axes[0] @ axes[1])
    return np.array([axes[0], columns / np.linalg.norm(columns)])


def _even_step(frames: Sequence[DicomFrame], heights: np.ndarray, allowed_mm: float) -> float:
    """The distance in mm between slices that lie at `heights`, in their order."""
    apart = np.diff(heights)
    if apart.min() < _SAME_PLACE_MM:
        places = 1 + int((apart >= _SAME_PLACE_MM).sum())
        raise AmosError(
            f"several slices lie at the same place, as echoes, phases or time points do ({len(frames)} slices at "
            f"{counted(places, 'place')}); export one of them"
        )
    step = float(heights[-1] - heights[0]) / (len(heights) - 1)
    drift = heights - heights[0] - step * np.arange(len(heights))
    if np.abs(apart - step).max() <= _UNEVEN_MM and np.abs(drift).max() <= allowed_mm:
        return step
    least = float(np.median(apart[apart <= apart.min() + _UNEVEN_MM]))
    steps = np.rint(apart / least)
    if np.abs(apart - steps * least).max() <= _UNEVEN_MM * steps.max() and steps.max() > 1:
        i, missing = int(steps.argmax()), int(steps.sum()) - len(apart)
        raise AmosError(
            f"slices are missing in between: {len(frames)} are here, but there is room for {len(frames) + missing}, "
            f"{least:.4g} mm apart (between {_named(frames[i])} and {_named(frames[i + 1])} there are "
            f"{apart[i]:.4g} mm); fetch the whole series again"
        )
    raise AmosError(
        f"its slices are unevenly spaced, {apart.min():.4g} to {apart.max():.4g} mm apart; export one even stack"
    )


def _check_straight(
    frames: Sequence[DicomFrame], positions: np.ndarray, heights: np.ndarray, normal: np.ndarray, allowed_mm: float
) -> None:
    rise = heights - heights[0]
    beside = positions - positions[0] - rise[:, None] * normal  # (slice, 3), in the slices' plane
    if np.linalg.norm(beside, axis=1).max() <= allowed_mm:
        return
    per_mm = rise @ beside / (rise @ rise)
    sheared_mm = float(np.linalg.norm(per_mm) * rise[-1])
    off_line = np.linalg.norm(beside - rise[:, None] * per_mm, axis=1)
    if sheared_mm > allowed_mm and off_line.max() <= max(allowed_mm, 0.1 * sheared_mm):
        degrees = math.degrees(math.atan(float(np.linalg.norm(per_mm))))
        raise AmosError(
            f"its slices are sheared against each other by {sheared_mm:.1f} mm over the scan (a tilted gantry of "
            f"{degrees:.1f} degrees?); resample it to a straight stack first, for example with dcm2niix"
        )
    odd = _named(frames[int(off_line.argmax())])
    raise AmosError(
        f"its slices do not lie on top of each other: {odd} lies {off_line.max():.1f} mm beside the line through them; "
        "export one straight stack"
    )


def _contradicted_spacing(frames: Sequence[DicomFrame], step: float) -> list[str]:
    """Positions count; a header with a smaller spacing than theirs may mean that every other slice is missing."""
    stated = {frame.spacing_between_slices_mm for frame in frames if frame.spacing_between_slices_mm}
    thickness = {frame.slice_thickness_mm for frame in frames if frame.slice_thickness_mm}
    if len(stated) != 1:
        return []
    [between] = stated
    # Some scanners give here the gap between two slices, without their thickness.
    meanings = [between, *(between + one for one in thickness)]
    if any(abs(mm - step) <= max(_UNEVEN_MM, 0.01 * step) for mm in meanings):
        return []
    return [
        f"its slices lie {step:.4g} mm apart by their positions, which are taken, and {between:.4g} mm by Spacing "
        "Between Slices; where slices are missing, fetch them"
    ]


def _named(frame: DicomFrame) -> str:
    return f"frame {frame.index + 1}" if frame.index else frame.path.name


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)


def _mm(values: Sequence[float] | np.ndarray) -> str:
    return f"{'x'.join(f'{value:.3g}' for value in values)} mm"
