"""Check that a scan's grid is plausible: a consistent header, a patient's size, right angles.

All code that reads a scan or a label map checks it here first. A fault that would give wrong volumes or distances is an
error; one that only leaves the patient's position open is a warning, which says what was assumed.
"""

import itertools
import math
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.affines import apply_affine, voxel_sizes
from nibabel.nifti1 import Nifti1Header
from nibabel.orientations import aff2axcodes

from amos_fl.errors import AmosError
from amos_fl.warned import warn

MISPLACED_MM = 1.0
"""How far apart two descriptions of one grid may place a voxel and still agree (or half a voxel, if more).

It applies to label maps against their scans, the sform against the qform and pixdim, and the far end of an axis against
its place at a right angle: headers are rounded, and so small a difference affects no computation.
"""
SPACING_MM = (0.02, 50.0)
EXTENT_MM = 4000.0
"""The voxel sizes that a patient's scan may have, and its largest extent along an axis."""
_SAME_SPACING = 0.01
"""The relative difference allowed between two statements of one spacing: headers round to two or three digits."""
_QUATERNION_RADIANS = 2 * math.sqrt(4 * np.finfo(np.float32).eps)
_LEAST_DETERMINANT_MM3 = 1e-9
_UNITS = {1: "metres", 3: "micrometres"}  # nifti1.h, xyzt_units; 2 are millimetres, 0 is unknown


def tolerance_mm(spacing_mm: Sequence[float] | np.ndarray) -> float:
    """How far apart two descriptions of a grid may place a voxel: `MISPLACED_MM`, or half a voxel if that is more."""
    return max(MISPLACED_MM, float(min(spacing_mm)) / 2)


def forms_tolerance_mm(spacing_mm: Sequence[float] | np.ndarray, shape: Sequence[int]) -> float:
    """How far apart sform and qform may place a voxel of a grid: `tolerance_mm`, or what rounding the qform may do.

    Its quaternion is kept without its first part, in single precision (nifti1.h, "method 2"). Near half a turn that
    part, whose double is the angle left, follows from a difference that nibabel takes for 0 up to three roundings, and
    one more is in what it reads.
    """
    extent_mm = float(np.linalg.norm(np.asarray(spacing_mm) * (np.asarray(shape) - 1)))
    return max(tolerance_mm(spacing_mm), _QUATERNION_RADIANS * extent_mm)


def corner_distance_mm(a: np.ndarray, b: np.ndarray, shape: Sequence[int]) -> float:
    """How far apart two affines (4, 4) place the corners of a grid of this shape, at most."""
    corners = np.array(list(itertools.product(*[(0, n - 1) for n in shape])), dtype=float)
    return float(np.linalg.norm(apply_affine(a, corners) - apply_affine(b, corners), axis=1).max())


def skew_mm(affine: np.ndarray, shape: Sequence[int]) -> float:
    """How far the far end of an axis lies from where right angles between the axes would put it, at most.

    >>> tilted = np.diag([1.0, 1.0, 5.0, 1.0])
    >>> tilted[1, 2] = 5 * np.tan(np.radians(10))
    >>> round(skew_mm(tilted, (100, 100, 41)), 1), skew_mm(np.diag([1.0, 1.0, 5.0, 1.0]), (100, 100, 41))
    (35.3, 0.0)
    """
    spacing = voxel_sizes(affine)
    axes = affine[:3, :3] / spacing
    extents = spacing * (np.asarray(shape) - 1)
    cosines = np.abs(axes.T @ axes - np.diag(np.diag(axes.T @ axes)))
    return float((cosines * extents).max())


def check_grid(shape: Sequence[int], affine: np.ndarray, name: str) -> None:
    """Check that a grid (x, y, z) with this affine (4, 4, to mm) can be a scan of a patient.

    Raises:
        AmosError: a singular affine, a single slice, implausible voxels or extent, or axes not at right angles.
    """
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < _LEAST_DETERMINANT_MM3:
        raise AmosError(f"{name}: its header places no voxel in space (singular affine)", "repair the header")
    spacing = voxel_sizes(affine)
    if min(shape) < 2:
        raise AmosError(f"{name}: has the shape {_x(shape)}", "that is a single slice, and a scan has three dimensions")
    low, high = SPACING_MM
    if not all(low <= mm <= high for mm in spacing) or max(np.asarray(shape) * spacing) > EXTENT_MM:
        raise AmosError(
            f"{name}: its header says {_x(shape)} voxels of {_mm(spacing)}, which fits no patient", "repair the header"
        )
    if (skew := skew_mm(affine, shape)) > tolerance_mm(spacing):
        raise AmosError(
            f"{name}: its axes are not at right angles, by {skew:.1f} mm at the far end (a tilted gantry?)",
            "resample it and its label map to a straight grid, for example with nibabel.processing.resample_to_output",
        )


def check_header(
    header: Nifti1Header, codes: Nifti1Header, affine: np.ndarray, shape: Sequence[int], name: str
) -> None:
    """Check that a NIfTI header's statements about the grid (x, y, z) agree with each other and with the `affine` used.

    Args:
        header: as it is in the file, not corrected by the reader. codes: the same with codes that NIfTI does not know
        set to 0. affine: (4, 4) to mm: the sform where there is one, otherwise the qform, otherwise made from the voxel
        size.

    Raises:
        AmosError: several voxel sizes, an invalid one, a unit other than mm, or a grid that `check_grid` refuses.
    """
    stated = np.asarray(header["pixdim"], dtype=np.float64)[1:4]
    if not np.isfinite(stated).all() or (stated == 0).any():
        raise AmosError(f"{name}: its header gives a voxel size of {_mm(stated)} (pixdim)", "repair the header")
    if unit := _UNITS.get(int(header["xyzt_units"]) & 7):
        raise AmosError(
            f"{name}: its header gives the voxel size {_x(stated)} in {unit}",
            "write it in mm, and set the unit (xyzt_units) to mm",
        )
    sform, qform = int(codes["sform_code"]) > 0, int(codes["qform_code"]) > 0
    if sform and not _same_spacing(voxel_sizes(affine), np.abs(stated), shape):
        others = "qform and pixdim" if qform else "pixdim"
        raise AmosError(
            f"{name}: its header states two voxel sizes, {_mm(voxel_sizes(affine))} (sform) and {_mm(np.abs(stated))} "
            f"({others})",
            "find out which is true, and write it to all of them",
        )
    check_grid(shape, affine, name)
    if (stated < 0).any():
        warn(f"{name}: its header gives a negative voxel size, {_mm(stated)} (pixdim); the signs are ignored")
    if sform and qform:
        _compare_places(affine, np.asarray(codes.get_qform(), dtype=np.float64), shape, name)
    elif not sform and not qform:
        warn(
            f"{name}: its header does not say which way the patient lies (sform_code and qform_code are 0); its axes "
            "are taken to run from right to left, from back to front and from feet to head"
        )


def _same_spacing(a: np.ndarray, b: np.ndarray, shape: Sequence[int]) -> bool:
    apart = np.abs(a - b)
    misplaced = apart * (np.asarray(shape) - 1)
    return bool(
        (apart <= _SAME_SPACING * np.minimum(a, b)).all() and (misplaced <= tolerance_mm(np.minimum(a, b))).all()
    )


def _compare_places(sform: np.ndarray, qform: np.ndarray, shape: Sequence[int], name: str) -> None:
    apart = corner_distance_mm(sform, qform, shape)
    if not apart > forms_tolerance_mm(voxel_sizes(sform), shape):
        return
    taken, other = ("".join(map(str, aff2axcodes(one))) for one in (sform, qform))
    how = f"orient it differently ({taken} and {other})" if taken != other else f"place it up to {apart:.1f} mm apart"
    warn(f"{name}: the sform and the qform in its header {how}; the sform is taken, and other programs may not agree")


def check_memory(voxels: int, bytes_per_voxel: int, name: str) -> None:
    """Check that arrays of this many voxels fit into this machine's memory, before they are made.

    Raises:
        AmosError: they do not.
    """
    if (need := voxels * bytes_per_voxel) > memory_bytes():
        raise AmosError(
            f"{name}: would take {need / 2**30:,.0f} GiB of memory, and this machine has {memory_bytes() / 2**30:,.0f}",
            "is its header right?",
        )


@cache
def memory_bytes() -> int:
    """The memory of this machine, or the limit of this process's container if that is less."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            found = min(found, int(Path(file).read_text()))
        except (OSError, ValueError):  # no such control group, or one without a limit ("max")
            continue
    return found


def _x(values: Sequence[Any] | np.ndarray) -> str:
    return "x".join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in values)


def _mm(spacing: Sequence[float] | np.ndarray) -> str:
    return f"{_x([float(mm) for mm in spacing])} mm"
