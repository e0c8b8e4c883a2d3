"""NIfTI files in and out, and the canonical orientation between them and everything else.

A file keeps its own orientation in `Volume`; `to_canonical` turns it to the voxel order closest to
RAS, `from_canonical` turns a label map back. An oblique scan stays oblique: its voxels are only
permuted and flipped, never interpolated, to come into that order.
"""

import gzip
import itertools
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel import orientations
from nibabel.affines import apply_affine, voxel_sizes
from nibabel.filebasedimages import ImageFileError
from nibabel.nifti1 import Nifti1Image, Nifti1Pair
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from amos_fl.errors import AmosError
from amos_fl.files import whole_file

RECONCILED_MM = 1.0
"""How far a label's corner may lie from the image's and still mean the same grid (or half a voxel, if more)."""

_UNREADABLE = (ImageFileError, HeaderDataError, WrapStructError, OSError, EOFError, zlib.error, ValueError)


@dataclass(frozen=True)
class Volume:
    """Voxels (x, y, z) and the affine (4, 4) that takes voxel indices to mm in RAS world space."""

    array: np.ndarray
    affine: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        x, y, z = self.array.shape
        return (x, y, z)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        x, y, z = voxel_sizes(self.affine)
        return (float(x), float(y), float(z))


def _name(path: Path | str) -> str:
    return Path(path).name


def _open(path: Path | str) -> Nifti1Pair:
    """Header and affine of a 3D NIfTI, checked; the voxels are not read yet."""
    name = _name(path)
    if not Path(path).is_file():
        raise AmosError(f"{name}: no such file in {Path(path).parent}; check the paths in the cohort file")
    try:
        image = nibabel.load(path)
    except _UNREADABLE as error:
        if isinstance(error, EOFError | zlib.error | gzip.BadGzipFile):
            raise AmosError(f"{name}: is truncated or damaged; fetch it again") from None
        raise AmosError(f"{name}: is not a NIfTI file") from None
    if not isinstance(image, Nifti1Pair):  # NIfTI-2 and .hdr/.img pairs are Nifti1Pairs as well
        raise AmosError(f"{name}: is not a NIfTI file")
    dtype = np.dtype(image.get_data_dtype())
    if dtype.names or dtype.kind not in "iuf":
        raise AmosError(f"{name}: holds colours or complex numbers; a scan has one number per voxel")
    shape = _shape(image)
    if len(shape) != 3 or min(shape) < 1:
        raise AmosError(f"{name}: has the shape {'x'.join(map(str, image.shape))}; a scan has three dimensions")
    affine = _affine(image)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise AmosError(f"{name}: its header places no voxel in space (singular affine); repair the header")
    return image


def _shape(image: Nifti1Pair) -> tuple[int, ...]:
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _affine(image: Nifti1Pair) -> np.ndarray:
    return np.asarray(image.affine, dtype=np.float64)


def _voxels(image: Nifti1Pair, name: str, dtype: Any) -> np.ndarray:
    """All voxels, scaled as the header says; `dtype` float32, or None for the file's own type."""
    try:
        voxels = np.asanyarray(image.dataobj) if dtype is None else image.get_fdata(dtype=dtype, caching="unchanged")
    except _UNREADABLE:
        raise AmosError(f"{name}: is truncated or damaged; fetch it again") from None
    return voxels.reshape(_shape(image))


def read_geometry(path: Path | str) -> tuple[tuple[int, int, int], np.ndarray]:
    """Shape (x, y, z) and affine (4, 4) from the header alone.

    Raises:
        AmosError: not a readable three-dimensional NIfTI file.
    """
    image = _open(path)
    x, y, z = _shape(image)
    return (x, y, z), _affine(image)


def read_image(path: Path | str) -> Volume:
    """A scan as float32 in its file's own orientation.

    Raises:
        AmosError: not NIfTI, truncated, not three-dimensional, or voxels that are not finite.
    """
    image = _open(path)
    voxels = _voxels(image, _name(path), np.float32)
    if bad := int(voxels.size - np.isfinite(voxels).sum()):
        raise AmosError(f"{_name(path)}: {bad} voxels are not finite numbers; repair or leave out this scan")
    return Volume(voxels, _affine(image))


def read_label(path: Path | str, organs: Collection[int], label_values: Collection[tuple[int, int]] = ()) -> Volume:
    """A label map as uint8 in its file's own orientation; values are 0 or one of `organs`.

    With `label_values`, pairs of a value in the file and the organ that it means (0: background), the file's values
    are exchanged for the organs'; then every value but 0 has to be among them.

    Raises:
        AmosError: as `read_image`, and values that are no whole number or no organ.
    """
    image = _open(path)
    name = _name(path)
    voxels = _voxels(image, name, None)
    if voxels.dtype.kind == "f":
        whole = np.rint(voxels)
        if not np.isfinite(voxels).all() or np.abs(voxels - whole).max(initial=0) > 1e-3:
            raise AmosError(f"{name}: holds values that are no whole numbers; is it a label map?")
        voxels = whole
    low, high = int(voxels.min()), int(voxels.max())
    if label_values:
        meant = {0: 0, **dict(label_values)}
        if low < 0 or high > max(meant):
            raise _strangers(name, {int(value) for value in np.unique(voxels)} - set(meant), _NOT_LISTED)
        lookup, listed = np.zeros(max(meant) + 1, np.uint8), np.zeros(max(meant) + 1, bool)
        lookup[list(meant)], listed[list(meant)] = list(meant.values()), True
        indices = voxels.astype(np.uint16)
        present = np.flatnonzero(np.bincount(indices.ravel(order="K"), minlength=len(listed)))
        if strangers := {int(value) for value in present if not listed[value]}:
            raise _strangers(name, strangers, _NOT_LISTED)
        return Volume(lookup[indices], _affine(image))
    allowed = {0, *organs}
    if low < 0 or high > max(allowed):
        raise _strangers(name, {int(value) for value in np.unique(voxels)} - allowed)
    labels = voxels.astype(np.uint8)
    present = np.flatnonzero(np.bincount(labels.ravel(order="K"), minlength=256))
    if strangers := {int(value) for value in present} - allowed:
        raise _strangers(name, strangers)
    return Volume(labels, _affine(image))


_NO_ORGAN = (
    "is no organ of this cohort; name it in organs.csv, or correct the label map",
    "are no organs of this cohort; name them in organs.csv, or correct the label map",
)
_NOT_LISTED = (
    "the column label_values of its case does not list; add it there, or correct the label map",
    "the column label_values of its case does not list; add them there, or correct the label map",
)


def _strangers(name: str, labels: set[int], why: tuple[str, str] = _NO_ORGAN) -> AmosError:
    if len(labels) == 1:
        return AmosError(f"{name}: holds the label {labels.pop()}, which {why[0]}")
    shown = ", ".join(map(str, sorted(labels)[:8])) + (", ..." if len(labels) > 8 else "")
    return AmosError(f"{name}: holds the labels {shown}, which {why[1]}")


def _corner_distance_mm(a: np.ndarray, b: np.ndarray, shape: tuple[int, ...]) -> float:
    corners = np.array(list(itertools.product(*[(0, n - 1) for n in shape])), dtype=float)
    return float(np.linalg.norm(apply_affine(a, corners) - apply_affine(b, corners), axis=1).max())


def reconcile(image: Volume, label: Volume, name: str, sides: tuple[str, str] = ("label", "image")) -> Volume:
    """`label` on the grid of `image`, with the image's affine.

    Releases carry label maps whose affine differs slightly from the scan's, or that are stored in another
    orientation of the same grid; both are put right. `name` is the file that an error names, `sides` what it calls
    the two.

    Raises:
        AmosError: another shape, or corners further apart than `RECONCILED_MM` and half a voxel.
    """
    tolerance_mm = max(RECONCILED_MM, min(image.spacing_mm) / 2)
    turned = _in_orientation_of(image, label)
    for candidate in (label, turned):
        if (
            candidate.shape == image.shape
            and _corner_distance_mm(image.affine, candidate.affine, image.shape) <= tolerance_mm
        ):
            return Volume(candidate.array, image.affine)
    remedy = f"take the {sides[1]} that it was drawn on, or resample it to this one"
    if turned.shape != image.shape:
        sizes = ["x".join(map(str, volume.shape)) for volume in (label, image)]
        raise AmosError(f"{name}: {sides[0]} is {sizes[0]}, {sides[1]} {sizes[1]}; they must share a grid: {remedy}")
    apart = _corner_distance_mm(image.affine, turned.affine, image.shape)
    raise AmosError(
        f"{name}: {sides[0]} lies {apart:.1f} mm away from its {sides[1]}; they must share a grid: {remedy}, or give "
        f"it the affine of the {sides[1]} where only its header is wrong"
    )


def _in_orientation_of(image: Volume, label: Volume) -> Volume:
    change = orientations.ornt_transform(
        orientations.io_orientation(label.affine), orientations.io_orientation(image.affine)
    )
    affine = label.affine @ orientations.inv_ornt_aff(change, label.shape)
    return Volume(orientations.apply_orientation(label.array, change), affine)


def orientation_of(affine: np.ndarray) -> np.ndarray:
    """nibabel's orientation (3, 2) of a grid: per voxel axis the canonical axis and the flip (1 or -1)."""
    return orientations.io_orientation(affine)


def to_canonical(volume: Volume) -> Volume:
    """The volume in the voxel order closest to RAS (a view; nothing is interpolated)."""
    orientation = orientation_of(volume.affine)
    affine = volume.affine @ orientations.inv_ornt_aff(orientation, volume.shape)
    return Volume(orientations.apply_orientation(volume.array, orientation), affine)


def from_canonical(array: np.ndarray, orientation: np.ndarray) -> np.ndarray:
    """A canonical array (x, y, z) back in the voxel order whose `orientation_of` is given (a view).

    >>> turned = to_canonical(Volume(np.arange(6).reshape(1, 2, 3), np.diag([-1.0, -2.0, 3.0, 1.0])))
    >>> from_canonical(turned.array, orientation_of(np.diag([-1.0, -2.0, 3.0, 1.0]))).tolist()
    [[[0, 1, 2], [3, 4, 5]]]
    """
    canonical = np.array([[0, 1], [1, 1], [2, 1]], dtype=float)
    return orientations.apply_orientation(array, orientations.ornt_transform(canonical, np.asarray(orientation)))


def write_label(path: Path | str, array: np.ndarray, like: Path | str) -> None:
    """Write a label map (x, y, z) as uint8 on the grid of the NIfTI `like`, so that it overlays that scan.

    Raises:
        AmosError: `like` is unreadable or has another shape.
    """
    model = _open(like)
    if tuple(array.shape) != _shape(model):
        sizes = ["x".join(map(str, shape)) for shape in (array.shape, _shape(model))]
        raise AmosError(f"{_name(path)}: the label map is {sizes[0]}, its scan {_name(like)} {sizes[1]}")
    header = model.header.copy()
    header.set_data_shape(array.shape)
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)
    # What describes the scan's intensities, or the patient, has no place in a label map.
    header.extensions.clear()
    for text in ("descrip", "aux_file", "intent_name", "db_name"):
        if text in header:
            header[text] = b""
    header["cal_min"], header["cal_max"] = 0, 0
    kind = type(model) if isinstance(model, Nifti1Image) else Nifti1Image
    with whole_file(path) as beside:
        nibabel.save(kind(np.asarray(array, dtype=np.uint8), None, header=header), beside)
