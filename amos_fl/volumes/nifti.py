"""Read and write NIfTI files, and convert to and from the canonical orientation used everywhere else.

A file keeps its own orientation in `Volume`; `to_canonical` turns it to the voxel order closest to
RAS, `from_canonical` turns a label map back. An oblique scan stays oblique: its voxels are only permuted and flipped,
never interpolated.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from jaxtyping import Int, UInt8
from nibabel import orientations
from nibabel.affines import voxel_sizes
from nibabel.nifti1 import Nifti1Image

from amos_fl.errors import AmosError
from amos_fl.files import whole_file
from amos_fl.volumes.nifti_file import open_nifti
from amos_fl.volumes.plausible_grid import corner_distance_mm, tolerance_mm
from amos_fl.volumes.plausible_voxels import check_voxels

_COUNTED_AT_ONCE = 2**20


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

    @property
    def voxel_ml(self) -> float:
        """The volume of a voxel: the determinant, which is right whatever the angles between the axes."""
        return abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000


def read_geometry(path: Path | str, *, header_only: bool = False) -> tuple[tuple[int, int, int], np.ndarray]:
    """Read shape (x, y, z) and affine (4, 4) from the header; a compressed file is read to its end to check it.

    With `header_only` it is not, which is enough for an estimate.

    Raises:
        AmosError: not a readable three-dimensional NIfTI file, damaged, or not a plausible scan.
    """
    file = open_nifti(path)
    if not header_only:
        file.check_whole()
    x, y, z = file.shape
    return (x, y, z), file.affine


def read_image(path: Path | str, name: str = "") -> Volume:
    """Read a scan as float32 in its file's own orientation. Errors name it `name`, by default the file's.

    Raises:
        AmosError: not NIfTI, truncated, not three-dimensional, or not a plausible scan (`plausible_grid`, `_voxels`).
    """
    file = open_nifti(path, name=name)
    voxels = file.voxels(np.float32)
    check_voxels(voxels, file.name)
    return Volume(voxels, file.affine)


def read_label(path: Path | str, organs: Collection[int], label_values: Collection[tuple[int, int]] = ()) -> Volume:
    """Read a label map as uint8 in its file's own orientation; values are 0 or one of `organs`.

    With `label_values`, pairs of a value in the file and the organ that it means (0: background), the file's values
    are replaced by the organs'; then every value but 0 has to be among them.

    Raises:
        AmosError: as `read_image`, or values that are not whole numbers or not organs.
    """
    file = open_nifti(path)
    name = file.name
    voxels = file.voxels()
    if voxels.dtype.kind == "f":
        whole = np.rint(voxels)
        if not np.isfinite(voxels).all() or np.abs(voxels - whole).max(initial=0) > 1e-3:
            raise AmosError(f"{name}: holds values that are not whole numbers", "is it a label map?")
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
        return Volume(lookup[indices], file.affine)
    allowed = {0, *organs}
    if low < 0 or high > max(allowed):
        raise _strangers(name, {int(value) for value in np.unique(voxels)} - allowed)
    labels = voxels.astype(np.uint8, copy=False)
    present = np.flatnonzero(voxel_counts(labels))
    if strangers := {int(value) for value in present} - allowed:
        raise _strangers(name, strangers)
    return Volume(labels, file.affine)


def voxel_counts(label: UInt8[np.ndarray, "x y z"]) -> Int[np.ndarray, "256"]:
    """The number of voxels of each value, 0 to 255, in a label map."""
    values = label.ravel(order="K")
    pairs, last = values[: values.size // 2 * 2].view(np.uint16), values[values.size // 2 * 2 :]
    counts = np.zeros(1 << 16, np.int64)
    for first in range(0, pairs.size, _COUNTED_AT_ONCE):  # NumPy makes eight bytes of each pair
        counts += np.bincount(pairs[first : first + _COUNTED_AT_ONCE], minlength=1 << 16)
    of_pairs = counts.reshape(256, 256)
    return of_pairs.sum(axis=0) + of_pairs.sum(axis=1) + np.bincount(last, minlength=256)


_NO_ORGAN = (
    ("is not an organ of this cohort", "name it in organs.csv, or correct the label map"),
    ("are not organs of this cohort", "name them in organs.csv, or correct the label map"),
)
_NOT_LISTED = (
    ("the column label_values of its case does not list", "add it there, or correct the label map"),
    ("the column label_values of its case does not list", "add them there, or correct the label map"),
)


def _strangers(name: str, labels: set[int], why: tuple[tuple[str, str], tuple[str, str]] = _NO_ORGAN) -> AmosError:
    shown = ", ".join(map(str, sorted(labels)[:8])) + (", ..." if len(labels) > 8 else "")
    what, remedy = why[len(labels) > 1]
    labels_shown = f"labels {shown}" if len(labels) > 1 else f"label {shown}"
    return AmosError(f"{name}: holds the {labels_shown}, which {what}", remedy, code="unknown-label-value")


def reconcile(image: Volume, label: Volume, name: str, sides: tuple[str, str] = ("label", "image")) -> Volume:
    """`label` on the grid of `image`, with the image's affine.

    Releases contain label maps whose affine differs slightly from the scan's, or that are stored in another orientation
    of the same grid; both are corrected. An error names the file `name` and calls the two grids `sides`.

    Raises:
        AmosError: another shape, or corners further apart than `plausible_grid.tolerance_mm`.
    """
    turned = _in_orientation_of(image, label)
    for candidate in (label, turned):
        if candidate.shape == image.shape and corner_distance_mm(
            image.affine, candidate.affine, image.shape
        ) <= tolerance_mm(image.spacing_mm):
            return Volume(candidate.array, image.affine)
    remedy = f"take the {sides[1]} that it was drawn on, or resample it to this one"
    if turned.shape != image.shape:
        sizes = ["x".join(map(str, volume.shape)) for volume in (label, image)]
        raise AmosError(f"{name}: {sides[0]} is {sizes[0]}, {sides[1]} {sizes[1]}", f"they must share a grid: {remedy}")
    apart = corner_distance_mm(image.affine, turned.affine, image.shape)
    raise AmosError(
        f"{name}: {sides[0]} lies {apart:.1f} mm away from its {sides[1]}",
        f"they must share a grid: {remedy}, or give it the affine of the {sides[1]} if only its header is wrong",
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
    scan = open_nifti(like)
    model = scan.image
    if tuple(array.shape) != scan.shape:
        sizes = ["x".join(map(str, shape)) for shape in (array.shape, scan.shape)]
        raise AmosError(f"{Path(path).name}: the label map is {sizes[0]}, its scan {scan.name} {sizes[1]}")
    header = model.header.copy()
    header.set_data_shape(array.shape)
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)
    # Header fields about the scan's intensities or the patient do not belong in a label map.
    header.extensions.clear()
    for text in ("descrip", "aux_file", "intent_name", "db_name"):
        if text in header:
            header[text] = b""
    header["cal_min"], header["cal_max"] = 0, 0
    kind = type(model) if isinstance(model, Nifti1Image) else Nifti1Image
    with whole_file(path) as beside:
        nibabel.save(kind(np.asarray(array, dtype=np.uint8), None, header=header), beside)
