"""DICOM series: which lie in a folder, and one of them as a NIfTI file on the same grid.

highdicom, of the extra `dicom`, does the reading: every slice scaled by its own slope and intercept, slices sorted by
position, the affine from position and orientation alone. It refuses what is no even stack, where other readers warn at
most and squeeze or shear the volume: missing slices, a tilted gantry, several time points at one place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.nifti1 import Nifti1Image

from amos_fl.errors import AmosError
from amos_fl.files import whole_file

_TAGS = ["SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "Modality", "NumberOfFrames", "ImagePositionPatient"]
_LEAST_SLICES = 4
_SPACING_MM = 0.05
"""How far slices may lie from an even spacing: headers round positions, a missing slice is far more."""
_TURN = 1e-4
"""How far the cosine between two slices' axes may be from 1."""


@dataclass(frozen=True)
class Series:
    """A DICOM series: its files, and as what they present themselves. `slices` counts the frames of all files."""

    uid: str
    number: str
    description: str
    modality: str
    files: tuple[Path, ...]
    slices: int
    multiframe: bool

    @property
    def volume(self) -> bool:
        """Whether it may be a scan: CT or MR of several slices. Localizers, reports and segmentations are not."""
        return self.modality in ("CT", "MR") and self.slices >= _LEAST_SLICES

    def __str__(self) -> str:
        what = f"{self.modality}, {self.slices} slices" if self.slices else self.modality
        described = f" '{self.description}'" if self.description else ""
        return f"number {self.number or '-'}{described} ({what}, UID {self.uid})"


def looks_like_dicom(path: Path) -> bool:
    """Whether a file has DICOM's mark after its first 128 bytes."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _pydicom() -> Any:
    try:
        import highdicom  # noqa: F401 - asked for here, so that its absence is said before any work
        import pydicom
    except ImportError:
        raise AmosError('reading DICOM needs further packages; install them: pip install "amos-fl[dicom]"') from None
    return pydicom


def series_in(files: Sequence[Path]) -> list[Series]:
    """The series among DICOM files, by number and UID; files that belong to none (DICOMDIR) are left out.

    Raises:
        AmosError: the extra `dicom` is not installed, or a file is damaged.
    """
    pydicom = _pydicom()
    found: dict[str, list[tuple[Path, Any]]] = {}
    for path in sorted(files):
        try:
            header = pydicom.dcmread(path, specific_tags=_TAGS, stop_before_pixels=True)
            uid = str(header.get("SeriesInstanceUID", ""))
        except Exception as error:  # pydicom raises whatever a damaged file makes it stumble over
            raise AmosError(f"{path.name}: is a damaged DICOM file ({error}); fetch it again") from None
        if uid:
            found.setdefault(uid, []).append((path, header))
    series = []
    for uid, members in found.items():
        header = members[0][1]
        frames = [int(h.get("NumberOfFrames") or 1) if _is_image(h) else 0 for _, h in members]
        series.append(
            Series(
                uid=uid,
                number=str(header.get("SeriesNumber") or ""),
                description=str(header.get("SeriesDescription") or ""),
                modality=str(header.get("Modality") or "unknown"),
                files=tuple(path for path, _ in members),
                slices=sum(frames),
                multiframe=max(frames) > 1,
            )
        )
    return sorted(series, key=lambda s: (not s.number.isdigit(), int(s.number) if s.number.isdigit() else 0, s.uid))


def _is_image(header: Any) -> bool:
    return "ImagePositionPatient" in header or "NumberOfFrames" in header


def chosen_series(series: Sequence[Series], wanted: str | None, folder: str) -> Series:
    """The one series to read: the one of that number or UID, or the only one that may be a scan.

    Raises:
        AmosError: none fits, or several do; they are listed.
    """
    listed = "; ".join(map(str, series)) or "none"
    if wanted is not None:
        fitting = [s for s in series if wanted in (s.number, s.uid)]
        if len(fitting) != 1:
            what = "several series have" if fitting else "no series has"
            raise AmosError(f"{folder}: {what} the number or UID {wanted}; there are: {listed}")
        if not fitting[0].volume:
            raise AmosError(f"{folder}: the series {fitting[0]} is no CT or MR of {_LEAST_SLICES} or more slices")
        return fitting[0]
    fitting = [s for s in series if s.volume]
    if not fitting:
        raise AmosError(f"{folder}: holds no CT or MR series of {_LEAST_SLICES} or more slices; there are: {listed}")
    if len(fitting) > 1:
        raise AmosError(f"{folder}: holds several series; choose one with --series NUMBER or UID: {listed}")
    return fitting[0]


def write_series(series: Series, path: Path) -> None:
    """Write a series as NIfTI: columns, rows, slices as x, y, z; int16 where every value fits, otherwise float32.

    Raises:
        AmosError: the series is no even stack of slices, or its pixels cannot be decoded.
    """
    array, affine = _volume(series)
    array, affine = array.transpose(2, 1, 0), affine[:, [2, 1, 0, 3]]
    low, high = float(array.min()), float(array.max())
    if np.isfinite([low, high]).all() and low >= -32768 and high <= 32767 and (array == np.rint(array)).all():
        array = array.astype(np.int16)
    image = Nifti1Image(array, affine)
    image.set_sform(affine, code="scanner")
    image.set_qform(affine, code="scanner")
    image.header.set_xyzt_units("mm")
    with whole_file(path) as beside:
        nibabel.save(image, beside)


def _volume(series: Series) -> tuple[np.ndarray, np.ndarray]:
    """Scaled voxels (slice, row, column) as float32 and the affine (4, 4) to RAS mm."""
    pydicom = _pydicom()
    import highdicom

    # Real-world maps are another scale than the one that CT and MR are stored and trained on.
    options: dict[str, Any] = {"dtype": np.float32, "apply_real_world_transform": False, "atol": _SPACING_MM}
    slices: list[Any] = []
    try:
        if series.multiframe:
            if len(series.files) != 1:
                raise AmosError(f"{_name(series)}: its slices lie in several multi-frame files; export them as one")
            volume = highdicom.imread(str(series.files[0])).get_volume(**options)
        else:
            slices = [pydicom.dcmread(path) for path in series.files]
            for one in slices:
                if "FrameOfReferenceUID" not in one:  # as some anonymisers leave them
                    one.FrameOfReferenceUID = series.uid
            volume = highdicom.get_volume_from_series(slices, orientation_tol=_TURN, **options)
    except AmosError:
        raise
    except Exception as error:  # highdicom and pydicom raise ValueError, AttributeError, RuntimeError and others
        why = _why_no_volume(slices) if slices else None
        raise AmosError(f"{_name(series)}: {why or f'cannot be read as a volume ({error})'}") from None
    if volume.array.ndim != 3:
        raise AmosError(f"{_name(series)}: holds colours; a scan has one number per voxel")
    return volume.array, np.asarray(volume.get_affine("RAS"), dtype=np.float64)


def _name(series: Series) -> str:
    return f"DICOM series {series.number or series.uid}"


def _why_no_volume(slices: list[Any]) -> str | None:
    """Why slices are no even stack, or None where they are one."""
    from highdicom.spatial import get_series_volume_positions

    for one in slices:
        one.pop("SpacingBetweenSlices", None)  # often wrong, and here it would be believed

    def even(**allowed: Any) -> bool:
        options = {"atol": _SPACING_MM, "orientation_tol": _TURN, **allowed}
        return get_series_volume_positions(slices, **options)[0] is not None

    try:
        if even():
            return None
        if len({(int(one.Rows), int(one.Columns), *map(float, one.PixelSpacing)) for one in slices}) > 1:
            return "its slices differ in size; export one stack of slices"
        if even(allow_duplicate_positions=True):
            return "several slices lie at one place, as echoes, phases or time points do; export one of them"
        if even(allow_missing_positions=True):
            return "slices are missing between others; fetch the whole series again"
        if even(perpendicular_tol=1.0):
            return "its slices are stacked askew (a tilted gantry); resample it to a straight stack first"
    except Exception:  # what a header lacks makes the question moot
        return None
    return "its slices are no even stack: they are turned against each other, or unevenly spaced"
