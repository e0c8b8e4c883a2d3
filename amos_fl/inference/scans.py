"""Scans to predict, as a user names them: NIfTI files, folders of them, and DICOM series."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from amos_fl.cohort.plausible import intensity_concerns
from amos_fl.cohort.table import Cohort, Modality
from amos_fl.errors import AmosError
from amos_fl.files import sha256_of_file, sha256_of_json
from amos_fl.inference.dicom import Series, chosen_series, series_in, write_series
from amos_fl.inference.dicom_files import files_below, lacks_preamble, looks_like_dicom, sorted_out
from amos_fl.volumes.nifti import Volume, read_image

SUFFIXES = (".nii.gz", ".nii")
_LABEL_VALUES = 64
"""A map of whole numbers with no more values than this is taken for a label map: the coarsest scans have more."""
_SPACING_MM = (0.02, 50.0)
_EXTENT_MM = 4000.0


@dataclass(frozen=True)
class Scan:
    """A scan to predict: `name` is that of its outputs, `path` its NIfTI file or the folder of its DICOM series.

    `problem` is a sentence about a file that looks meant as a scan and cannot be used; it fails, and the others go on.
    """

    name: str
    path: Path
    modality: Modality
    series: Series | None = None
    problem: str = ""

    def content_hash(self) -> str:
        """SHA-256 of the file, or of all the series' files in whatever order and under whatever names."""
        if self.series is None:
            return sha256_of_file(self.path)
        return sha256_of_json(sorted(sha256_of_file(path) for path in self.series.files))

    def notes(self) -> list[str]:
        """What is odd about the files of a DICOM series, but no reason to refuse it."""
        return [] if self.series is None else [f"{self.series.name}: {note}" for note in self.series.notes]

    def as_nifti(self, scratch: Path) -> Path:
        """The NIfTI file of the scan; a DICOM series is converted into the folder `scratch`.

        Raises:
            AmosError: a series that is no even stack of slices.
        """
        if self.series is None:
            return self.path
        path = scratch / f"{self.name}.nii"
        write_series(self.series, path)
        return path


def find_scans(
    paths: Sequence[Path], modality: str | None, *, cohort: Cohort | None = None, series: str | None = None
) -> list[Scan]:
    """The scans at `paths`, in their order, those of a folder by name.

    A folder is one of NIfTI files or, where it holds none, of a DICOM series at any depth. What DICOM says of the
    modality holds; for NIfTI it is `modality`, or what `cohort` says of the file, and never guessed. Of several paths
    one that holds no scan is a scan with a `problem`, and the others go on.

    Raises:
        AmosError: nothing there, no or a contradicting modality, no or several series, or two scans of one name.
    """
    found: list[Scan] = []
    listed: dict[Path, str] = {case.image.resolve(): case.modality for case in cohort.cases} if cohort else {}
    for path in paths:
        try:
            niftis, files = _files_at(path)
            scan = None if niftis else _dicom_scan(path, files, modality, series)
        except AmosError as error:
            if len(paths) == 1:
                raise
            found.append(Scan(f"{path} (unusable)", path, "CT", problem=str(error)))
            continue
        if scan is not None:
            found.append(scan)
        found += [Scan(_stem(file), file, _modality_of(file, modality, listed)) for file in niftis]
    by_name: dict[str, Path] = {}
    for scan in found:
        other = by_name.setdefault(scan.name, scan.path)
        if other is not scan.path:
            raise AmosError(f"{scan.path} and {other} would have one name; predict them into two folders")
    return found


def _dicom_scan(path: Path, files: Sequence[Path], modality: str | None, series: str | None) -> Scan:
    chosen = chosen_series(series_in(files), series, str(path))
    if modality is not None and modality != chosen.modality:
        raise AmosError(f"{path}: DICOM says {chosen.modality}, --modality says {modality}; leave it out")
    return Scan(_stem(path.resolve()), path, cast(Modality, chosen.modality), chosen)


def _files_at(path: Path) -> tuple[list[Path], list[Path]]:
    """NIfTI files and, where there is none, all files that a DICOM series may be among."""
    if path.is_file():
        return ([], [path]) if looks_like_dicom(path) or lacks_preamble(path) else ([path], [])
    if not path.is_dir():
        raise AmosError(f"{path}: no such file or folder")
    files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    niftis = [file for file in files if file.name.endswith(SUFFIXES)]
    if niftis:
        return niftis, []
    below = files_below(path)
    if not any(sorted_out(below)):
        raise AmosError(f"{path}: holds no NIfTI file ({', '.join(SUFFIXES)}) and no DICOM file")
    return [], below


def _stem(path: Path) -> str:
    name = path.name
    for suffix in (*SUFFIXES, ".hdr", ".img", ".dcm"):
        name = name.removesuffix(suffix)
    return name


def _modality_of(path: Path, given: str | None, listed: Mapping[Path, str]) -> Modality:
    known = listed.get(path.resolve())
    if given is not None and known is not None and given != known:
        raise AmosError(f"{path.name}: the cohort says {known}, --modality says {given}; leave it out")
    modality = known or given
    if modality is None:
        raise AmosError(
            f"{path.name}: a NIfTI file does not say whether it is CT or MR, and the two are normalised differently; "
            "add --modality CT or --modality MR, or --cohort with a cohort that lists it"
        )
    return cast(Modality, modality)


def read_scan(path: Path, name: str, modality: Modality) -> tuple[Volume, list[str]]:
    """A scan in its file's own orientation, and what is odd about it but no reason to refuse it.

    Raises:
        AmosError: it cannot be read, is no three-dimensional scan, is empty, or looks like a label map.
    """
    scan = read_image(path)
    sides, spacing = "x".join(map(str, scan.shape)), "x".join(f"{mm:.3g}" for mm in scan.spacing_mm)
    if min(scan.shape) < 2:
        raise AmosError(f"{name}: has the shape {sides}; that is a single slice, and a scan has three dimensions")
    extent_mm = max(n * mm for n, mm in zip(scan.shape, scan.spacing_mm, strict=True))
    if not all(_SPACING_MM[0] <= mm <= _SPACING_MM[1] for mm in scan.spacing_mm) or extent_mm > _EXTENT_MM:
        raise AmosError(
            f"{name}: its header says {sides} voxels of {spacing} mm, which is no patient; repair the header"
        )
    if scan.array.min() == scan.array.max():
        raise AmosError(f"{name}: every voxel is {scan.array.flat[0]:g}; there is nothing to predict")
    if _label_like(scan.array):
        raise AmosError(
            f"{name}: holds {len(np.unique(scan.array))} whole numbers like a label map; give the scan itself"
        )
    return scan, [f"{name}: {concern}" for concern in intensity_concerns(scan.array, None, modality)]


def _label_like(array: np.ndarray) -> bool:
    """Whether there are as few values as in a label map; a sample of the voxels settles it for nearly all scans."""
    if array.min() < 0 or len(np.unique(array.reshape(-1)[:: max(1, array.size // 100_000)])) > _LABEL_VALUES:
        return False
    values = np.unique(array)
    return len(values) <= _LABEL_VALUES and bool((values == np.rint(values)).all())
