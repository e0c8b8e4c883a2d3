"""Scans to predict, as a user names them: NIfTI files, folders of them, and DICOM series."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from amos_fl.cohort.plausible import intensity_concerns
from amos_fl.cohort.table import Cohort, Modality
from amos_fl.errors import AmosError
from amos_fl.files import sha256_of_file, sha256_of_json
from amos_fl.inference.dicom import Series, chosen_series, looks_like_dicom, series_in, write_series
from amos_fl.volumes.nifti import Volume, read_image

SUFFIXES = (".nii.gz", ".nii")


@dataclass(frozen=True)
class Scan:
    """A scan to predict: `name` is that of its outputs, `path` its NIfTI file or the folder of its DICOM series."""

    name: str
    path: Path
    modality: Modality
    series: Series | None = None

    def content_hash(self) -> str:
        """SHA-256 of the file, or of all the series' files in whatever order and under whatever names."""
        if self.series is None:
            return sha256_of_file(self.path)
        return sha256_of_json(sorted(sha256_of_file(path) for path in self.series.files))

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
    modality holds; for NIfTI it is `modality`, or what `cohort` says of the file, and never guessed.

    Raises:
        AmosError: nothing there, no or a contradicting modality, several series, or two scans of one name.
    """
    found: list[Scan] = []
    listed: dict[Path, str] = {case.image.resolve(): case.modality for case in cohort.cases} if cohort else {}
    for path in paths:
        niftis, dicoms = _files_at(path)
        if niftis:
            found += [Scan(_stem(file), file, _modality_of(file, modality, listed)) for file in niftis]
        else:
            chosen = chosen_series(series_in(dicoms), series, str(path))
            if modality is not None and modality != chosen.modality:
                raise AmosError(f"{path}: DICOM says {chosen.modality}, --modality says {modality}; leave it out")
            found.append(Scan(_stem(path.resolve()), path, cast(Modality, chosen.modality), chosen))
    by_name: dict[str, Path] = {}
    for scan in found:
        other = by_name.setdefault(scan.name, scan.path)
        if other is not scan.path:
            raise AmosError(f"{scan.path} and {other} would have one name; predict them into two folders")
    return found


def _files_at(path: Path) -> tuple[list[Path], list[Path]]:
    """NIfTI files and, where there is none, DICOM files."""
    if path.is_file():
        return ([], [path]) if looks_like_dicom(path) else ([path], [])
    if not path.is_dir():
        raise AmosError(f"{path}: no such file or folder")
    files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    niftis = [file for file in files if file.name.endswith(SUFFIXES)]
    if niftis:
        return niftis, []
    dicoms = [file for file in sorted(path.rglob("*")) if file.is_file() and looks_like_dicom(file)]
    if not dicoms:
        raise AmosError(f"{path}: holds no NIfTI file ({', '.join(SUFFIXES)}) and no DICOM file")
    return [], dicoms


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
        AmosError: it cannot be read, or is no plausible scan.
    """
    try:
        scan = read_image(path)
    except AmosError as error:  # of a DICOM series the user does not know the file that it was converted to
        raise AmosError(str(error).replace(f"{path.name}: ", f"{name}: ", 1)) from None
    return scan, [f"{name}: {concern}" for concern in intensity_concerns(scan.array, None, modality)]
